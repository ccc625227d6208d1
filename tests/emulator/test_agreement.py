"""Advice and the emulator judge the same config by rules of their own: they must not contradict each other."""

import json
import re
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async import FineTuneConfig
from crynux_async.backends.bridge.wire import encode_args, to_wire
from crynux_async.emulator.bridge.binding import bind
from crynux_async.emulator.nodes.archives import members
from crynux_async.emulator.nodes.hub_names import is_other_kind
from crynux_async.emulator.nodes.node import Network
from crynux_async.emulator.nodes.task_args import TaskArgs, task_args, with_defaults
from crynux_async.emulator.nodes.unet import SIZES
from crynux_async.training.advice import CODES, Advice, check, has_error
from crynux_async.training.advice.training_rules import LEAST_SECONDS, SECONDS_PER_IMAGE
from crynux_async.training.unet_modules import module_sizes
from tests.emulator.nodes.test_failures import OTHER_KINDS, RIGHT_KINDS
from tests.training.test_advice import ALWAYS, TRAPS, WITHOUT_IMAGES

IMAGES = 20
LONG_AFTER = 1e12
# These say "may" in a warning: they depend on what only the node, the relay, a repository or a host knows.
MAY = {"CX101", "CX127", "CX128", "CX403", "CX405"}
PLAIN: dict[str, Any] = {
    "model_name": "crynux-ai/stable-diffusion-v1-5",
    "dataset_url": "https://a.example/cats.zip",
    "max_train_steps": 500,
    "timeout": 3600,
    "seed": 5,
}
HOSTS = [
    *("minio:9000", "2130706433", "134744072", "0x7f.1", "127.1", "010.0.0.1", "192.168.1", "localhost.localdomain"),
    *("[::ffff:10.0.0.1]", "[::ffff:8.8.8.8]", "[64:ff9b::a00:1]", "[2002:a00:1::]", "[2606:4700::1111]", "[fe80::1]"),
    *(
        "10.0.0.1.nip.io",
        "app-10-0-0-1.sslip.io",
        "8.8.8.8.nip.io",
        "a.lvh.me",
        "lvh.me.example",
        "nas.home",
        "fade.cafe",
    ),
    *("7f000001.nip.io", "08080808.nip.io", "app-0a000001.sslip.io", "--1.sslip.io", "2606-4700--1111.sslip.io"),
    *("a-b-c.sslip.io", "224.0.0.1", "[ff02::1]", "a.invalid", "a.onion", "onion.example"),
    *("\uff11\uff12\uff17.0.0.1", "10\u30020\u30020\u30021", "\uff18.8.8.8"),
]
LINKS = [
    "https://drive.google.com/file/d/1AbC-d_9/view?usp=sharing",
    "https://drive.google.com/drive/folders/1AbC",
    "https://drive.google.com/uc?export=download&id=1AbC",
    "https://drive.usercontent.google.com/download?id=1AbC&export=download&confirm=t",
    "https://www.dropbox.com/scl/fi/abc/cats.zip?rlkey=k&dl=0",
    "https://www.dropbox.com/scl/fi/abc/cats.zip?rlkey=k&dl=1",
    "https://huggingface.co/datasets/me/cats/blob/main/cats.zip",
    "https://huggingface.co/datasets/me/cats/resolve/main/cats.zip",
    "https://huggingface.co/datasets/me/cats",
    "https://github.com/me/cats/blob/main/cats.zip",
    "https://github.com/me/cats/raw/main/cats.zip",
    "https://github.com/me/cats/releases/download/v1/cats.zip",
    "https://github.com/user-attachments/files/1/cats.zip",
    "https://gitlab.example/me/cats/-/blob/main/cats.zip",
    "https://archive.org/details/cats",
    "https://archive.org/download/cats/cats.zip",
    "https://mega.nz/file/abc#def",
    "https://b.s3.amazonaws.com/cats.zip?X-Amz-Signature=a&X-Amz-Expires=60",
    "https://b.s3.amazonaws.com/cats.zip?AWSAccessKeyId=a&Signature=b&Expires=1",
    "https://b.s3.amazonaws.com/cats.zip?versionId=a",
    "https://minio.example/cats.zip?X-Amz-Signature=a&X-Amz-Expires=60",
    "https://minio.example/cats.zip?AWSAccessKeyId=a&Signature=b&Expires=1",
    "https://b.a.r2.cloudflarestorage.com/cats.zip?X-Amz-Signature=a",
    "https://b.s3.cn-north-1.amazonaws.com.cn/cats.zip?X-Amz-Signature=a",
    "https://m.dropbox.com/s/abc/cats.zip?dl=0",
    "https://gist.github.com/me/0123456789abcdef",
    "https://gist.github.com/me/0123456789abcdef/raw/cats.zip",
    "https://github.com/me/cats/releases/tag/v1",
    "https://github.com/me/cats/releases/latest",
    "https://github.com/me/cats/releases/latest/download/cats.zip",
    "https://www.kaggle.com/datasets/me/cats",
    "https://www.kaggle.com/api/v1/datasets/download/me/cats",
]
NAMES = [
    *(
        "https://huggingface.co/me/model",
        "civitai.com/models/1",
        "./model",
        "~/model",
        "C:\\model",
        "me/model.safetensors",
    ),
    *(
        "me/model.safetensors",
        "me/model/unet",
        "me/my model",
        "me/model@v1",
        "me/a--b",
        "me/a..b",
        "-me/model",
        "me/model.git",
        "me/",
        "模型",
    ),
    *(f"me/{'m' * 96}", f"me/{'m' * 97}", f"{'m' * 97}/me", "gpt2", "_me/model_", "me/model.v1"),
]
EDGES: list[dict[str, Any]] = [
    {},
    {"timeout": 10, "max_train_steps": 100},
    {"timeout": 9, "max_train_steps": 1},
    {"timeout": 40, "max_train_steps": 100},
    {"timeout": 39, "max_train_steps": 100},
    {"dataset_url": "http://localhost/cats.rar", "dataset_name": "a/cats"},
    {"dataset_url": "https://a.example/my.data-v1.0"},
    {"dataset_url": "https://a.example/"},
    {"dataset_url": "https://nas/cats.zip"},
    {"dataset_url": "https://100.64.0.1/cats.zip"},
    {"dataset_url": "https://a.example/cats%2Ezip"},
    {"lr_scheduler": "polynomial", "learning_rate": 1e-8, "scale_lr": True, "batch_size": 10},
    {"lr_scheduler": "polynomial", "learning_rate": 1e-8, "scale_lr": True, "batch_size": 11},
    {"lr_scheduler": "polynomial", "lr_warmup_steps": 500, "num_train_steps": 50},
    {"lr_scheduler": "polynomial", "lr_warmup_steps": 1, "max_train_steps": 1},
    {"lr_scheduler": "cosine", "max_train_steps": None, "batch_size": 20},
    {"lr_scheduler": "constant_with_warmup", "max_train_steps": 1},
    {"lr_scheduler": "cosine", "max_train_steps": 2, "num_train_steps": 1},
    {"target_modules": ".*attn2.*"},
    {"target_modules": ["to_k", "to_out"]},
    {"target_modules": ["to_k", "nonsense"]},
    {"target_modules": r"(\w+\.?)+\.to_k"},
    {"target_modules": r"(?:.*\.)?to_k"},
    {"target_modules": "ALL-LINEAR"},
    {"model_variant": "fp16"},
    *({"dataset_url": f"http://{host}/cats.zip"} for host in HOSTS),
    *({"dataset_url": address} for address in LINKS),
    *({"model_name": name} for name in (*NAMES, "a/stable-diffusion-v1-5/big-3", "a/sdxl-turbo/big-3")),
    *({"dataset_url": None, "dataset_name": name} for name in NAMES),
]


def make(**changes: Any) -> FineTuneConfig:
    return FineTuneConfig(**{**PLAIN, **changes})


def bound(config: FineTuneConfig) -> TaskArgs:
    """Return what the bridge makes of what a session sends for a config."""
    body = encode_args(to_wire(config.effective().config))
    values = with_defaults(bind(body, "application/json", authorization="Bearer x").values, seed=1)
    modules = values["target_modules"]
    return task_args({**values, "target_modules": tuple(modules) if isinstance(modules, list) else modules})


def gives_a_model(config: FineTuneConfig) -> bool:
    """Return whether nodes as fast as advice reckons with end the job, and with a model that has learned something."""
    per_step = SECONDS_PER_IMAGE * config.batch_size * config.gradient_accumulation_steps
    network = Network(images=IMAGES, round_overhead=LEAST_SECONDS, seconds_per_step=per_step, unet=SIZES["tiny"])
    # The size of the archive does not change what becomes of a job, but for how long this takes.
    args = attrs.evolve(bound(config), rank=1)
    progress = network.course(args).at(LONG_AFTER)
    return progress.status == "success" and has_learned(args, progress.global_step)


def has_learned(args: TaskArgs, global_step: int) -> bool:
    """Return whether a tensor that begins at zero is no longer zero."""
    weights = b"".join(members(args, SIZES["tiny"], global_step=global_step)[0].pieces)
    start = 8 + int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8:start])
    ups = (entry for name, entry in header.items() if name.endswith(("up.weight", "lora_B.weight")))
    return any(any(weights[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]) for entry in ups)


def contradiction(config: FineTuneConfig) -> str | None:
    """Return what the two say where they disagree."""
    found = check(config, IMAGES)
    if any(item.code in MAY and item.severity == "warning" for item in found):
        return None
    is_good = gives_a_model(config)
    return f"{'a' if is_good else 'no'} model, and {_told(found)}" if is_good is has_error(found) else None


def _told(found: list[Advice]) -> list[str]:
    return [str(item) for item in found if item.severity == "error"]


def test_every_code_is_compared() -> None:
    assert {code for code, *_ in TRAPS} | ALWAYS | WITHOUT_IMAGES == set(CODES)


@pytest.mark.parametrize(("trap", "beside"), [pair for _, *pair in TRAPS], ids=[code for code, *_ in TRAPS])
def test_emulator_does_not_contradict_a_code_of_advice(trap: dict[str, Any], beside: dict[str, Any]) -> None:
    assert [contradiction(make(**changes)) for changes in (trap, beside)] == [None, None]


@pytest.mark.parametrize("changes", EDGES, ids=str)
def test_emulator_does_not_contradict_advice_at_the_edges(changes: dict[str, Any]) -> None:
    assert contradiction(make(**changes)) is None


STEPS = st.sampled_from([None, 1, 2, 19, 20, 21, 60, 500])
CHANGES = st.fixed_dictionaries(
    {
        "model_name": st.sampled_from([*OTHER_KINDS, *RIGHT_KINDS]),
        "dataset_url": st.sampled_from(["https://a.example/c", "http://10.1.1.1/c.zip", "https://a.example/c.tgz"]),
        "dataset_name": st.sampled_from([None, None, "a/cats"]),
        "target_modules": st.sampled_from(["all-linear", "to_k", ("to_k",), ("attn1",), ("to_q", "x"), r".*\.to_v"]),
        "init_lora_weights": st.sampled_from([True, False, "gaussian", "loftq"]),
        "lr_scheduler": st.sampled_from(["polynomial", "polynomial", "linear", "cosine", "constant"]),
        "lr_warmup_steps": st.sampled_from([0, 1, 2, 20, 60, 500]),
        "learning_rate": st.sampled_from([1e-8, 1e-7, 2e-7, 1e-4]),
        "scale_lr": st.booleans(),
        "batch_size": st.sampled_from([1, 4, 16, 64]),
        "gradient_accumulation_steps": st.sampled_from([1, 3, 16]),
        "num_train_steps": STEPS,
        "max_train_steps": STEPS,
        "max_train_epochs": st.sampled_from([None, 1, 3]),
        "mixed_precision": st.sampled_from(["no", "fp16", "bf16"]),
        "timeout": st.sampled_from([100_000_000]),
    }
)


@given(CHANGES)
@settings(max_examples=150, deadline=None)
def test_emulator_does_not_contradict_advice_on_any_config(changes: dict[str, Any]) -> None:
    assert contradiction(FineTuneConfig(seed=5, **changes)) is None


WORDS = st.sampled_from(
    [
        *("SDXL", "sdxl", "xl", "XL", "sd", "3", "v", "1", "5", "flux", "pixel", "Real", "Vis", "mix", "anything"),
        *("inpaint", "ing", "2", "pix", "stable", "diffusion", "base", "ssd", "1b", "15", "sana", "depth", "upscaler"),
        *("pony-diffusion-v6", "qwen-image", "unclip"),
    ]
)


@given(st.lists(st.tuples(WORDS, st.sampled_from(["-", "_", "", "."])), min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_kind_of_a_base_model_is_told_alike(parts: list[tuple[str, str]]) -> None:
    joined = "".join(word + separator for word, separator in parts).strip("-_.")
    name = "owner/" + re.sub("[-.]{2,}", "-", joined)
    told = any(item.code == "CX101" for item in check(make(model_name=name), IMAGES))
    assert is_other_kind(name) is told


def test_modules_of_the_unet_are_the_same() -> None:
    sizes = module_sizes()
    assert set(SIZES["sd15"].names) == set(sizes)
    assert SIZES["sd15"].others == {name for name, size in sizes.items() if not size}
