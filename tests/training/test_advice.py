"""What to know of a config before it is paid for: every trap, with a config that has it and one that has not."""

import json
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.datasets.problems import CODES as DATASET_CODES
from crynux_async.datasets.problems import problem
from crynux_async.datasets.report import DatasetReport
from crynux_async.errors import ConfigError, UsageError
from crynux_async.training import advice, base_models
from crynux_async.training.advice import CODES, Advice, check, has_error, require_workable
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.service import BRIDGE_FACTS
from tests.strategies import configs

HERE = Path(__file__).parents[1]
HOW_TO = HERE / "data" / "howto.json"
README = (HERE.parent / "README.md").read_text(encoding="utf-8")

PLAIN: dict[str, Any] = {
    "model_name": "crynux-ai/stable-diffusion-v1-5",
    "dataset_url": "https://a.example/cats.zip",
    "max_train_steps": 500,
    "center_crop": True,
    "validation_num_images": 1,
    "seed": 7,
    "timeout": 1800,
}


def make(**changes: Any) -> FineTuneConfig:
    return FineTuneConfig(**{**PLAIN, **changes})


def codes(config: FineTuneConfig, images: int | None = 20) -> list[str]:
    return [item.code for item in check(config, images)]


def find(code: str, config: FineTuneConfig, images: int | None = 20) -> Advice:
    (found,) = (item for item in check(config, images) if item.code == code)
    return found


POLYNOMIAL = {"lr_scheduler": "polynomial"}

# Each code: what has the trap, and what is next to it and has not.
TRAPS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("CX101", {"model_name": "a/stable-diffusion-xl-base-1.0"}, {"model_name": "a/stable-diffusion-2-1"}),
    ("CX102", {"target_modules": "to_k"}, {"target_modules": r".*\.to_k"}),
    ("CX103", {"target_modules": ["to_k", "to_out"]}, {"target_modules": ["to_k", "to_out.0"]}),
    ("CX104", {"target_modules": ["to_k", "to_w"]}, {"target_modules": ["to_k", "to_v"]}),
    ("CX105", {"target_modules": ["to_k", "proj_in"]}, {"target_modules": "all-linear"}),
    ("CX106", {"init_lora_weights": "loftq"}, {"init_lora_weights": True}),
    ("CX107", {"init_lora_weights": False}, {"init_lora_weights": "gaussian"}),
    ("CX108", {"lr_scheduler": "cosine", "lr_warmup_steps": 0}, {"lr_scheduler": "cosine", "lr_warmup_steps": 1}),
    ("CX109", {"lr_scheduler": "constant", "lr_warmup_steps": 9}, {"lr_scheduler": "constant", "lr_warmup_steps": 0}),
    ("CX110", {"scale_lr": True, "batch_size": 4}, {"scale_lr": False, "batch_size": 4}),
    ("CX111", {"model_revision": "v2"}, {"model_revision": "main"}),
    ("CX112", {"model_variant": "fp16"}, {"model_variant": None}),
    ("CX113", {"mixed_precision": "bf16"}, {"mixed_precision": "no"}),
    ("CX114", {"mixed_precision": "no"}, {"mixed_precision": "fp16"}),
    ("CX115", {"resolution": 500}, {"resolution": 504}),
    ("CX116", {"center_crop": False}, {"center_crop": True}),
    ("CX117", {"validation_num_images": 4}, {"validation_num_images": 1}),
    ("CX118", {"dataset_url": "https://a.example/cats.tgz"}, {"dataset_url": "https://a.example/cats.tar.GZ?v=1"}),
    ("CX119", {"dataset_url": "http://192.168.0.7/cats.zip"}, {"dataset_url": "http://93.184.216.34/cats.zip"}),
    ("CX120", {}, {"dataset_url": None, "dataset_name": "d"}),
    ("CX121", {"dataset_url": None, "dataset_name": "d"}, {}),
    ("CX122", {"model_name": "a/b", "prediction_type": "epsilon"}, {"model_name": "a/b", "prediction_type": None}),
    ("CX123", {"target_modules": r"(\w+\.?)+\.to_kk"}, {"target_modules": r"(\w+\.)+to_k"}),
    ("CX124", {"model_name": "./sd15"}, {"model_name": "sd15"}),
    ("CX125", {"dataset_url": None, "dataset_name": "a/cats.zip"}, {"dataset_url": None, "dataset_name": "a/cats"}),
    ("CX126", {"dataset_url": "https://me:x@a.example/cats.zip"}, {"dataset_url": "https://a.example/me:x@cats.zip"}),
    ("CX127", {"dataset_url": "https://a.example/c.zip?sig=x&se=y"}, {"dataset_url": "https://a.example/c.zip?se=y"}),
    ("CX128", {"dataset_url": "https://github.com/a/b/blob/c/d.zip"}, {"dataset_url": "https://github.com/a/b/raw/c/d.zip"}),
    ("CX129", {"prediction_type": "v_prediction"}, {"prediction_type": "epsilon"}),
    ("CX130", {"resolution": 776}, {"resolution": 768}),
    ("CX131", {"noise_offset": -0.21}, {"noise_offset": 0.2}),
    ("CX201", {"num_train_steps": 250}, {"num_train_steps": 500}),
    ("CX202", {"num_train_steps": 450}, {"num_train_steps": 250}),
    ("CX203", {"num_train_steps": 250}, {}),
    ("CX204", {"max_train_steps": 49}, {"max_train_steps": 50}),
    ("CX206", {"lr_scheduler": "linear", "lr_warmup_steps": 500}, {"lr_scheduler": "linear", "lr_warmup_steps": 499}),
    ("CX207", {**POLYNOMIAL, "learning_rate": 1e-7}, {**POLYNOMIAL, "learning_rate": 2e-7}),
    ("CX208", {**POLYNOMIAL, "lr_warmup_steps": 500}, {**POLYNOMIAL, "lr_warmup_steps": 501}),
    ("CX209", {"lr_scheduler": "linear", "max_train_steps": 1}, {"lr_scheduler": "constant", "max_train_steps": 1}),
    ("CX210", {"batch_size": 3, "gradient_accumulation_steps": 7}, {"batch_size": 5, "gradient_accumulation_steps": 4}),
    ("CX211", {"learning_rate": 1.0}, {"learning_rate": 1e-3}),
    ("CX211", {"learning_rate": 1e-7}, {"learning_rate": 1e-5}),
    ("CX212", {"lr_scheduler": "cosine_with_restarts"}, {"lr_scheduler": "cosine"}),
    ("CX403", {"max_train_steps": 5967}, {"max_train_steps": 5966}),
    ("CX404", {"timeout": 7201}, {"timeout": 7200}),
    ("CX405", {"rank": 16}, {"rank": 14}),
]  # fmt: skip
ALWAYS = {"CX401", "CX402", "CX406"}
WITHOUT_IMAGES = {"CX205"}


@pytest.mark.parametrize(("code", "trap", "_"), TRAPS, ids=[code for code, *_ in TRAPS])
def test_config_with_the_trap_gets_its_advice(code: str, trap: dict[str, Any], _: dict[str, Any]) -> None:
    found = find(code, make(**trap))
    assert (found.severity, found.title, found.action) == (
        CODES[code].severity,
        CODES[code].title,
        CODES[code].action,
    )
    assert found.message.endswith(".")


@pytest.mark.parametrize(("code", "_", "good"), TRAPS, ids=[code for code, *_ in TRAPS])
def test_config_next_to_the_trap_does_not_get_its_advice(code: str, _: dict[str, Any], good: dict[str, Any]) -> None:
    assert code not in codes(make(**good))


def test_every_code_has_a_trap() -> None:
    assert {code for code, *_ in TRAPS} | ALWAYS | WITHOUT_IMAGES == set(CODES)


def test_plain_config_gets_plain_facts_only() -> None:
    assert set(codes(make())) == {*ALWAYS, "CX120"}
    assert {item.severity for item in check(make(), 20)} == {"note"}


def test_codes_are_no_data_sets_codes() -> None:
    assert not CODES.keys() & DATASET_CODES.keys()


def test_readme_names_every_kind_of_code_and_where_they_are_explained() -> None:
    # The README has a table of kinds; every code itself is in `crynux-async explain`.
    assert "crynux-async explain" in README
    assert [kind for kind in ("CX1xx", "CX2xx", "CX3xx", "CX4xx") if f"| {kind} |" not in README] == []


@pytest.mark.parametrize("code", sorted(CODES))
def test_code_says_what_to_do_and_where_it_is_from(code: str) -> None:
    kind = CODES[code]
    assert re.fullmatch(r"CX[124]\d\d", code)
    assert kind.action.endswith(".")
    assert kind.title
    assert kind.source


def test_advice_is_sorted_by_severity_and_then_by_code() -> None:
    found = check(
        make(init_lora_weights="loftq", target_modules="to_k", scale_lr=True, batch_size=4, resolution=500), 20
    )
    order = {"error": 0, "warning": 1, "note": 2}
    keys = [(order[item.severity], item.code) for item in found]
    assert keys == sorted(keys)
    assert [item.code for item in found][:3] == ["CX102", "CX106", "CX110"]


def test_advice_as_text_has_everything_to_act_on() -> None:
    text = str(find("CX106", make(init_lora_weights="loftq")))
    assert text.startswith("CX106 error: init_lora_weights: LoftQ")
    assert text.endswith(CODES["CX106"].action)


# The public how-to


def test_how_to_loses_its_first_round_and_does_not_warm_up_for_500_steps() -> None:
    config = FineTuneConfig.from_file(HOW_TO)
    lost = find("CX201", config, 8)
    assert (lost.severity, lost.field) == ("warning", "num_train_steps")
    assert "88 of 200 steps" in lost.message
    assert "0 is sent as 1: the bridge would turn a 0 into 500" in find("CX108", config, 8).message
    assert "2 rounds of 15 CNX: 30 CNX" in find("CX401", config, 8).message
    assert "2 h 06 min" in find("CX402", config, 8).message  # 2 * (180 + 2 * 1800) seconds
    assert "4 h 12 min" in find("CX402", config, 8).message


def test_how_to_without_its_data_set_warns_of_the_rounds_all_the_same() -> None:
    found = check(FineTuneConfig.from_file(HOW_TO))
    assert {"CX108", "CX201", "CX205", "CX401", "CX402"} <= {item.code for item in found}
    assert not has_error(found)


# Models


@given(st.from_regex(r"[\w./~:\\-]{1,12}(?:/(?:fail|nan|big-[0-9]{1,3}|big-|failed))*", fullmatch=True))
def test_name_without_a_fault_can_be_on_the_hub_and_wishes_say_nothing_of_it(name: str) -> None:
    bare = re.sub(r"(?:/(?:fail|stall|nofinish|untrained|nan|big-[0-9]+))+\Z", "", name)
    fault = base_models.name_fault(name, "model")

    assert base_models.name_fault(bare, "model") == fault
    assert (fault == "") <= base_models.is_hub_name(bare)


def test_plain_name_is_told_without_any_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_models, "re", None)  # a first submit waits for each pattern to be compiled

    assert base_models.name_fault.__wrapped__("crynux-ai/stable-diffusion-v1-5", "model") == ""


def test_only_patterns_that_begin_like_the_model_are_compared_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def noting(name: str, pattern: str) -> bool:
        compared.append(pattern)
        return fnmatchcase(name, pattern)

    monkeypatch.setattr(base_models, "fnmatchcase", noting)

    assert base_models.other_kind.__wrapped__("somebody/stable-diffusion-v1-5") is None
    assert base_models.base_model.__wrapped__("somebody/stable-diffusion-v1-5").resolution == 512
    assert compared == ["stable-diffusion-v1-[1-5]"]  # each is a pattern to compile, and a first submit waits for it


@pytest.mark.parametrize(
    "name",
    [
        "stabilityai/sdxl-turbo",
        "stabilityai/stable-diffusion-3-medium-diffusers",
        "stabilityai/sd3.5-large",
        "stabilityai/stable-diffusion-2-depth",
        "stabilityai/stable-diffusion-x4-upscaler",
        "stabilityai/stable-diffusion-2-1-unclip",
        "segmind/Segmind-Vega",
        "Qwen/Qwen-Image",
        "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
        "black-forest-labs/FLUX.1-dev",
        "SG161222/RealVisXL_V4.0",
        "RunDiffusion/Juggernaut-XL-v9",
        "cagliostrolab/animagine-xl-3.1",
        "segmind/SSD-1B",
        "runwayml/stable-diffusion-inpainting",
        "timbrooks/instruct-pix2pix",
        # The words of the second generation are the known name's own.
        "user/stable-diffusion-2-1-unclip-small",
        "user/pony-diffusion-v6-xl",
        "user/Qwen-Image-Edit",
        "Kwai-Kolors/Kolors-diffusers",
        "Tongyi-MAI/Z-Image-Turbo",
        "HiDream-ai/HiDream-I1-Full",
        "Alpha-VLLM/Lumina-Image-2.0",
        "zai-org/CogView4-6B",
        "prs-eth/marigold-depth-v1-0",
        "ali-vilab/text-to-video-ms-1.7b",
        "user/IF-I-XL-v1.0",
    ],
)
def test_model_of_another_kind_is_an_error(name: str) -> None:
    assert find("CX101", make(model_name=name)).severity == "error"


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("user/my-sdxl-merge", "sdxl"),
        ("user/RealVisXL", "xl"),
        ("user/anime-sd3", "sd 3"),
        ("user/cats-v1-5-inpainting", "inpainting"),
        ("user/depth-of-stable-diffusion-2-depth", "diffusion 2 depth"),
        ("user/stable-diffusion-2-1-unclip-sd15", "unclip"),
    ],
)
def test_word_of_another_kind_in_a_name_is_a_warning_that_names_it(name: str, sign: str) -> None:
    found = find("CX101", make(model_name=name))
    assert (found.severity, f"({sign!r})" in found.message) == ("warning", True)


@pytest.mark.parametrize(
    "name",
    [
        "crynux-ai/stable-diffusion-v1-5",
        "stabilityai/stable-diffusion-2-1",
        "stabilityai/sd-turbo",
        "Lykon/dreamshaper-8",
        "SG161222/Realistic_Vision_V5.1_noVAE",
        "flux-labs/influxes-sd15",
        "xl-research/exlibris-sd15",
        "m",
        "user/sd-30k-anime",
        "user/inpainted-monet-style",
        "user/reflux-flux-sd15",
        "user/sana_from_twice-sd15",
        "user/sd15-with-sdxl-look",
        # Somebody's own, called after a model that everybody knows.
        "user/pony-diffusion-v6-sd15",
        "user/Pony-Diffusion-V6-SD15",
        "user/qwen-image-style-sd15",
        "user/realvisxl_v4-sd15",
        "user/stable-diffusion-xl-base-to-sd-1",
        "user/playground-v2-stable-diffusion-2-1",
        "user/hunyuandit-look-v1-5",
        "user/if-i-like-sd15-v1.0",
        "user/if-i-were-v1.0",
        "user/kolors-style",
        "user/z-image-look",
        "user/sana_3-sd15",
        "user/kandinsky-3-sd21",
        "user/flux.1-dev-sd15",
    ],
)
def test_model_that_may_be_trained_is_no_error(name: str) -> None:
    assert "CX101" not in codes(make(model_name=name))


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("https://huggingface.co/runwayml/stable-diffusion-v1-5/tree/main", "'runwayml/stable-diffusion-v1-5'"),
        ("huggingface.co/a/b", "'a/b'"),
        ("https://huggingface.co/spaces/a/b", "by name from Hugging Face"),
        ("https://huggingface.co/datasets/a/b", "of a data set, and what is needed here is a model"),
        ("https://huggingface.co/datasets/cats", "by name from Hugging Face"),
        ("hf.co/datasets/a/b/tree/main", "of a data set, and what is needed here is a model"),
        ("https://civitai.com/models/4201/realistic-vision", "by name from Hugging Face"),
        ("https://a.example/model.safetensors", "by name from Hugging Face"),
        ("realistic.safetensors", "not single files"),
        ("user/model.ckpt", "not single files"),
        ("./model", "path on a disk"),
        ("/models/sd", "path on a disk"),
        ("~/sd", "path on a disk"),
        ("C:\\sd\\model", "path on a disk"),
        ("models\\sd15", "path on a disk"),
        ("user/model/unet", "owner/name"),
        ("user/model@main", "model_revision"),
        ("user/model:fp16", "model_variant"),
        ("user/my model", "letters, digits"),
        (f"user/{'m' * 97}", "at most 96 characters"),
    ],
)
def test_name_that_no_model_can_have_is_an_error_with_its_cure(name: str, cure: str) -> None:
    found = find("CX124", make(model_name=name))
    assert (found.severity, found.field, cure in found.message) == ("error", "model_name", True)


@pytest.mark.parametrize("name", ["gpt2", "a/b", "a_/_b", "A.b-c/D_e.f", f"a/{'m' * 96}", f"{'a' * 97}/m", "a/b/fail"])
def test_name_that_a_model_may_have_is_no_error(name: str) -> None:
    assert "CX124" not in codes(make(model_name=name))


def test_page_of_a_data_set_given_as_its_name_says_the_name() -> None:
    found = find("CX125", make(dataset_url=None, dataset_name="https://huggingface.co/datasets/me/cats/viewer"))
    assert "'me/cats'" in found.message


def test_page_of_the_other_kind_is_not_advised_as_a_name() -> None:
    model = find("CX124", make(model_name="https://huggingface.co/datasets/me/cats"))
    data_set = find("CX125", make(dataset_url=None, dataset_name="https://huggingface.co/me/cats"))
    assert "'me/cats'" not in model.message.replace("'https://huggingface.co/datasets/me/cats'", "")
    assert "of a model, and what is needed here is a data set" in data_set.message
    assert "Its name is" not in data_set.message


def test_archive_that_is_too_large_on_2x_only_says_so() -> None:
    assert "CX405" not in codes(make(rank=15))
    assert "CX405" in codes(make(rank=15, model_name="stabilityai/stable-diffusion-2-1"))
    assert "Stable Diffusion 2.x" in find("CX405", make(rank=15, model_name="user/anime")).message


def test_all_linear_of_2x_is_partly_dropped_because_a_projection_comes_first() -> None:
    assert "CX105" not in codes(make(target_modules="all-linear"))
    message = find("CX105", make(target_modules="all-linear", model_name="stabilityai/stable-diffusion-2-1")).message
    assert "down_blocks.0.attentions.0.proj_in" in message
    assert "216 trained layers" in message  # 184 in 1.x, and two projections of each of 16 transformers


def test_length_that_nobody_gave_is_not_blamed() -> None:
    found = find("CX109", make(max_train_steps=100, num_train_epochs=2))
    assert (found.field, "one round of 100 steps" in found.message) == ("num_train_epochs", True)
    assert "num_train_steps" not in found.message


# What the base model was made for


@pytest.mark.parametrize(
    ("name", "asked", "code"),
    [
        # scheduler_config.json of each: prediction_type
        ("stabilityai/stable-diffusion-2-1", "epsilon", "CX129"),
        ("stabilityai/stable-diffusion-2-1", "v_prediction", None),
        ("stabilityai/stable-diffusion-2", "epsilon", "CX129"),
        ("stabilityai/stable-diffusion-2-1-base", "v_prediction", "CX129"),
        ("stabilityai/stable-diffusion-2-base", "epsilon", None),
        ("stabilityai/sd-turbo", "v_prediction", "CX129"),
        ("CompVis/stable-diffusion-v1-4", "v_prediction", "CX129"),
        ("user/anime-sd15", "v_prediction", "CX122"),
        ("user/anime-sd21", "v_prediction", "CX122"),
        ("user/anime", "epsilon", "CX122"),
    ],
)
def test_prediction_is_held_against_what_is_known_of_the_base_model(name: str, asked: str, code: str | None) -> None:
    told = {"CX122", "CX129"} & set(codes(make(model_name=name, prediction_type=asked)))
    assert told == ({code} if code else set())


@pytest.mark.parametrize(
    ("name", "resolution", "severity"),
    [
        ("crynux-ai/stable-diffusion-v1-5", 256, "note"),
        ("crynux-ai/stable-diffusion-v1-5", 248, "warning"),
        ("crynux-ai/stable-diffusion-v1-5", 344, None),
        ("crynux-ai/stable-diffusion-v1-5", 768, None),
        ("crynux-ai/stable-diffusion-v1-5", 1024, "note"),
        ("crynux-ai/stable-diffusion-v1-5", 1032, "warning"),
        ("stabilityai/stable-diffusion-2-1", 512, None),
        ("stabilityai/stable-diffusion-2-1", 504, "note"),
        ("stabilityai/stable-diffusion-2-1", 376, "warning"),
        ("stabilityai/stable-diffusion-2-1", 1152, None),
        ("user/anime", 1152, None),
        ("user/anime", 1160, "note"),
        ("user/anime", 336, "note"),
        ("user/anime", 344, None),
    ],
)
def test_resolution_is_held_against_the_base_models_own(name: str, resolution: int, severity: str | None) -> None:
    found = check(make(model_name=name, resolution=resolution), 20)
    assert [item.severity for item in found if item.code == "CX130"] == ([severity] if severity else [])


# Rounds and lengths


def test_rounds_of_unknown_number_are_said_to_be_so() -> None:
    assert "up to 3 rounds" in find("CX201", make(num_train_steps=200), None).message
    unknown = make(max_train_steps=None, max_train_epochs=3, num_train_steps=200)
    assert "several rounds" in find("CX201", unknown, None).message
    assert "depends on the data set" in find("CX401", unknown, None).message
    assert "more than 1,000 rounds" in find("CX201", make(num_train_steps=1, max_train_steps=10**6), 10**6).message


def test_rounds_of_epochs_are_about_the_epochs() -> None:
    config = make(max_train_steps=None, num_train_epochs=1, max_train_epochs=10)
    assert find("CX201", config).field == "num_train_epochs"


def test_length_that_the_data_set_decides_is_noted_without_it() -> None:
    config = make(max_train_steps=None, max_train_epochs=30)
    assert "CX205" in codes(config, None)
    assert "CX205" not in codes(config, 20)
    assert "CX205" not in codes(make(), None)


def test_untrained_job_is_not_also_said_to_be_short() -> None:
    assert "CX204" not in codes(make(lr_scheduler="cosine", max_train_steps=1))


def test_bridges_defaults_on_a_small_data_set_train_one_step_only() -> None:
    found = codes(make(max_train_steps=None, batch_size=16), 8)
    assert {"CX204", "CX210"} <= set(found)


def test_chance_of_hanging_becomes_a_warning_with_many_rounds() -> None:
    many = make(num_train_steps=20, max_train_steps=500)
    assert find("CX406", make()).severity == "note"
    assert find("CX406", many, 10**6).severity == "warning"


def test_fee_is_what_the_bridge_takes() -> None:
    (cost,) = (item for item in check(make(), 20, fee_cnx=7.5) if item.code == "CX401")
    assert "1 round of 7.5 CNX: 7.5 CNX" in cost.message


def test_timeout_is_judged_by_the_images_of_a_round() -> None:
    assert "CX403" in codes(make(batch_size=4, max_train_steps=2000))
    assert "CX403" in codes(make(batch_size=4, max_train_steps=2000), None)
    assert "CX403" in codes(make(resolution=1024, max_train_steps=2000))
    assert "CX403" not in codes(make(resolution=1024, max_train_steps=1400))


@pytest.mark.parametrize(
    ("timeout", "steps", "severity"),
    [
        # 10 s and 0.3 s an image on an RTX 2080 Ti; no card takes less than 10 s and a tenth of the rest.
        (10, 100, "error"),
        (12, 100, "error"),
        (13, 100, "warning"),
        (39, 100, "warning"),
        (40, 100, None),
        (9, 1, "error"),
        (11, 1, None),
    ],
)
def test_timeout_that_no_node_can_keep_is_an_error(timeout: int, steps: int, severity: str | None) -> None:
    found = check(make(max_train_steps=steps, timeout=timeout), 20)
    assert [item.severity for item in found if item.code == "CX403"] == ([] if severity is None else [severity])


def test_timeout_that_no_node_can_keep_is_an_error_whatever_the_data_set_is() -> None:
    (found,) = (item for item in check(make(max_train_steps=None, timeout=9)) if item.code == "CX403")
    assert (found.severity, "0 images" in found.message) == ("error", False)


# Values


def test_both_data_sets_given_says_which_is_not_used() -> None:
    found = find("CX109", make(dataset_name="d"))
    assert found.field == "dataset_url"
    assert "not used" in found.message


def test_data_set_without_an_extension_is_left_to_the_server() -> None:
    assert "CX118" not in codes(make(dataset_url="https://gateway.irys.xyz/GivF5FBMdJVr6xHT7hi2"))


@pytest.mark.parametrize(
    "host",
    [
        *("localhost:8000", "127.0.0.1", "10.0.0.5", "[::1]", "nas.local", "NAS.lan.", "nas", "minio:9000"),
        *("2130706433", "0x7f.1", "127.1", "localhost.localdomain", "[::ffff:10.0.0.1]", "10.0.0.1.nip.io", "lvh.me"),
        *("minio.default.svc:9000", "nas.fritz.box"),
        *("7f000001.nip.io", "app-0a000001.nip.io", "app.C0A80001.sslip.io", "--1.sslip.io", "fe80--1.sslip.io"),
        *("224.0.0.1", "239.255.255.250", "[ff02::1]", "[ff0e::1]", "cats.invalid", "abcdef.onion"),
        # Digits and full stops that are plain ones to whoever looks the host up.
        *("\uff11\uff12\uff17.0.0.1", "\u2460\u2461\u2466.0.0.1", "10\u30020\u30020\u30021", "10\uff0e0\uff0e0\uff0e1"),
    ],
)
def test_host_that_only_this_network_knows_is_a_private_address(host: str) -> None:
    assert "CX119" in codes(make(dataset_url=f"http://{host}/cats.zip"))


@pytest.mark.parametrize(
    "host",
    [
        *("134744072", "8.8.8.8", "[::ffff:8.8.8.8]", "8.8.8.8.nip.io", "fade.cafe", "a.example"),
        *("08080808.nip.io", "2606-4700--1111.sslip.io", "a-b-c.sslip.io", "0a000001.example", "onion.example"),
        "\uff18.8.8.8",
    ],
)
def test_host_that_everybody_can_reach_is_no_private_address(host: str) -> None:
    assert "CX119" not in codes(make(dataset_url=f"http://{host}/cats.zip"))


def test_secret_in_an_address_is_not_repeated() -> None:
    for address in ("https://me:hunter2@a.example/cats.zip", "https://a.example/cats.zip?token=hunter2"):
        assert "hunter2" not in str(find("CX126", make(dataset_url=address)))


def test_login_and_secret_parameter_of_one_address_are_both_told() -> None:
    found = check(make(dataset_url="https://me:hunter2@a.example/cats.zip?token=hunter3"), 20)
    told = [item.message for item in found if item.code == "CX126"]
    assert [("password" in message, "token" in message) for message in told] == [(True, False), (False, True)]
    assert "hunter" not in "".join(told)


def test_secret_parameter_beside_a_signature_is_told() -> None:
    assert "token" in find("CX126", make(dataset_url="https://a.example/cats.zip?sig=x&token=y")).message


def test_signed_address_is_not_also_said_to_hold_a_secret() -> None:
    told = codes(make(dataset_url="https://a.example/cats.zip?sig=x"))
    assert {"CX126", "CX127"} & set(told) == {"CX127"}


def test_address_that_is_signed_for_one_method_is_an_error_and_others_a_warning() -> None:
    amazon = make(
        dataset_url="https://b.s3.eu-west-1.amazonaws.com/cats.zip?X-Amz-Expires=3600&X-Amz-Signature=hunter2"
    )
    found = find("CX127", amazon)
    assert (found.severity, "HEAD" in found.message, "hunter2" in str(found)) == ("error", True, False)
    minio = find("CX127", make(dataset_url="https://minio.example/cats.zip?X-Amz-Expires=3600&X-Amz-Signature=x"))
    assert minio.severity == "error"
    other = find("CX127", make(dataset_url="https://google.example/c.zip?X-Goog-Expires=3600&X-Goog-Signature=x"))
    # Three rounds of failure and one more, each 180 s and twice the timeout of 1800 s: longer than an hour.
    assert (other.severity, "3,600 s" in other.message, "4 h 12 min" in other.message) == ("warning", True, True)


def test_page_in_place_of_a_file_is_said_with_the_files_own_address() -> None:
    found = find("CX128", make(dataset_url="https://huggingface.co/datasets/me/cats/blob/main/cats.zip"))
    assert "https://huggingface.co/datasets/me/cats/resolve/main/cats.zip" in found.message
    assert "dataset_name = 'me/cats'" in find("CX128", make(dataset_url="https://hf.co/datasets/me/cats")).message
    assert find("CX128", make(dataset_url="https://www.dropbox.com/s/a/cats.zip?dl=0")).severity == "warning"


def test_expression_that_cannot_be_tried_out_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/app/uwsgi")
    found = find("CX123", make(target_modules=r"(\w+\.?)+\.untried"))
    assert (found.severity, "to try it out" in found.message) == ("warning", True)


def test_expression_that_takes_too_long_gets_no_other_advice_about_its_modules() -> None:
    found = check(make(target_modules=r"(\w+\.?)+\.to_kk"))
    assert [item.code for item in found if item.field == "target_modules"] == ["CX123"]


@pytest.mark.parametrize("entries", [["to_k", *(f"no_{n}" for n in range(200_000))], ["attn1"] * 200_000])
def test_list_of_very_many_modules_is_judged_in_one_go(entries: list[str]) -> None:
    # Each name with each entry, and each entry by itself once more, took minutes.
    found = check(make(target_modules=entries))
    assert [item.code for item in found if item.field == "target_modules"] in (["CX104"], ["CX103"])


def test_unsuitable_module_is_named_as_it_was_asked_for() -> None:
    message = find("CX103", make(target_modules=["to_k", "to_out"])).message
    assert message.startswith("'to_out'")
    assert "attn1.to_out" in message


def test_lora_of_which_diffusers_drops_a_part_says_how_much() -> None:
    message = find("CX105", make(target_modules=["to_k", "proj_in", "conv1", "ff.net.0.proj"])).message
    assert "of 86 trained layers it drops the 32" in message  # 172 tensors saved, 108 loaded


# Data sets


def report(**changes: Any) -> DatasetReport:
    return DatasetReport(**{"path": "cats", "kind": "folder", "split_counts": {"train": 8}, **changes})


def test_problems_of_the_data_set_are_passed_on() -> None:
    found = check(make(), report(problems=(problem("CX327", "Two images have none."), problem("CX344", "8 images."))))
    (error,) = (item for item in found if item.severity == "error")
    assert (error.code, error.title, error.field) == ("CX327", DATASET_CODES["CX327"].title, "dataset_url")
    assert error.message == "Two images have none."
    assert "CX344" in [item.code for item in found]


def test_data_set_tells_the_number_of_images() -> None:
    config = make(max_train_steps=None)
    assert [item.code for item in check(config, report())] == codes(config, 8)


def test_data_set_without_a_known_number_of_images_leaves_it_open() -> None:
    assert [item.code for item in check(make(), report(split_counts={}))] == codes(make(), None)


def test_square_images_are_not_cropped_at_random() -> None:
    config = make(center_crop=False)
    assert "CX116" not in [item.code for item in check(config, report(sizes={(512, 512): 8}))]
    assert "CX116" in [item.code for item in check(config, report(sizes={(512, 512): 7, (640, 512): 1}))]


def test_validation_images_beyond_the_data_set_are_said_to_be_fewer() -> None:
    found = find("CX109", make(validation_num_images=10), 8)
    assert (found.field, "used as 8" in found.message) == ("validation_num_images", True)


def test_number_of_images_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1 image"):
        check(make(), 0)


# Refusing


def test_errors_are_raised_all_at_once_with_their_fields() -> None:
    found = check(make(init_lora_weights="loftq", target_modules="to_k"))
    with pytest.raises(ConfigError, match="force=True") as caught:
        require_workable(found)
    assert [item.field for item in caught.value.problems] == ["target_modules", "init_lora_weights"]
    assert "CX106" in str(caught.value)


def test_config_of_several_rounds_where_a_job_is_one_is_not_said_to_be_sent_with_force() -> None:
    found = check(
        make(max_train_steps=200, num_train_steps=100), service=attrs.evolve(BRIDGE_FACTS, takes_rounds=False)
    )
    with pytest.raises(ConfigError, match="not even with force=True"):
        require_workable(found)


def test_warnings_are_not_raised() -> None:
    require_workable(check(FineTuneConfig.from_file(HOW_TO), 8))


# As a whole


@given(configs(), st.none() | st.integers(1, 2**40))
@settings(max_examples=120, deadline=None)
def test_any_config_can_be_checked(config: FineTuneConfig, images: int | None) -> None:
    found = check(config, images)
    assert all(attrs.asdict(item) for item in found)
    assert json.dumps([attrs.asdict(item) for item in found])
    assert ALWAYS - {"CX406"} <= {item.code for item in found}


@given(configs())
@settings(max_examples=40, deadline=None)
def test_checking_what_is_sent_finds_no_replacement(config: FineTuneConfig) -> None:
    assert "CX108" not in codes(config.effective().config)


def test_sweep_in_any_order_finds_the_same_for_each_config() -> None:
    base = FineTuneConfig.from_file(HOW_TO)
    sweep = [
        base.evolve(rank=4 + number % 60, learning_rate=1e-5 * (1 + number % 97), max_train_steps=200 + number % 400)
        for number in range(0, 10_000, 97)
    ]
    found = [check(config, 20) for config in sweep]
    assert all(len(items) > 5 for items in found)
    assert [check(config, 20) for config in reversed(sweep)] == found[::-1]


def test_rules_are_listed_once() -> None:
    assert len(set(advice.RULES)) == len(advice.RULES)
