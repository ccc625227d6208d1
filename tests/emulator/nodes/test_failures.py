"""What keeps an emulated node from training."""

from typing import Any

import pytest

from crynux_async.emulator.nodes.hub_names import is_other_kind
from tests.emulator.nodes.test_node import make_args, network

SILENT: list[dict[str, Any]] = [
    *({"target_modules": modules} for modules in (None, (), ("no_such_module",), "to_k", "(")),
    *({"target_modules": modules} for modules in (("to_out",), ("to_k", "to_out"), ".*attn2.*", ("attn1",))),
    {"target_modules": r"(\w+\.?)+\.to_kk"},
    {"target_modules": r"(\w+\.?)+\.to_k"},
    {"init_lora_weights": "loftq"},
    {"dataset_url": None},
    {"dataset_url": "http://127.0.0.1:8000/cats.zip"},
    {"dataset_url": "http://localhost/cats.zip"},
    {"dataset_url": "http://192.168.1.7/cats.zip"},
    {"dataset_url": "http://10.0.0.1/cats"},
    {"dataset_url": "http://[::1]/cats.zip"},
    {"dataset_url": "http://[fd00::1]/cats.zip"},
    {"dataset_url": "http://nas.local/cats.zip"},
    *({"dataset_url": f"https://host.example/{name}"} for name in ("cats.tgz", "cats.7z", "cats.rar", "my.data-v1.0")),
    *(
        {"dataset_url": f"https://host.example/{name}"}
        for name in ("cats.parquet", "cats.csv", "cats.jsonl", "cat.png")
    ),
    *(
        {"dataset_url": f"http://{host}/cats.zip"}
        for host in ("minio:9000", "2130706433", "localhost.localdomain", "lvh.me")
    ),
    {"dataset_url": "https://github.com/me/cats/blob/main/cats.zip"},
    {"dataset_url": "https://b.s3.amazonaws.com/cats.zip?X-Amz-Signature=a"},
    *(
        {"dataset_url": f"https://{place}"}
        for place in (
            "b.s3.cn-north-1.amazonaws.com.cn/cats.zip?X-Amz-Signature=a",
            "b.a.r2.cloudflarestorage.com/cats.zip?X-Amz-Signature=a",
            "minio.example/cats.zip?X-Amz-Signature=a",
            "gist.github.com/me/0123456789abcdef",
            "github.com/me/cats/releases/tag/v1",
            "www.kaggle.com/datasets/me/cats",
        )
    ),
    *(
        {"dataset_url": f"http://{host}/cats.zip"}
        for host in ("7f000001.nip.io", "--1.sslip.io", "224.0.0.1", "a.invalid", "a.onion", "\uff11\uff10.0.0.1")
    ),
    {"dataset_url": None, "dataset_name": "https://huggingface.co/datasets/me/cats"},
    *(
        {"model_name": name}
        for name in ("./model", "me/model.safetensors", "https://civitai.com/models/1", "me/my model")
    ),
    {"dataset_url": "https://host.example/cats.tar.gz/readme.md?file=x.zip"},
    {"model_name": "stabilityai/stable-diffusion-xl-base-1.0"},
    {"model_name": "runwayml/stable-diffusion-inpainting"},
    {"model_name": "stabilityai/stable-diffusion-xl-base-1.0/untrained"},
    {"model_variant": ""},
    {"seed": 2**32},
    {"resolution": 7},
    {"adam_beta1": 1.0},
    {"adam_beta2": 1.5},
    {"lr_scheduler": "polynomial", "learning_rate": 1e-7},
    {"lr_scheduler": "polynomial", "learning_rate": 1e-9},
    {"lr_scheduler": "polynomial", "learning_rate": 1e-8, "scale_lr": True, "batch_size": 10},
    {"lr_scheduler": "polynomial", "lr_warmup_steps": 50, "num_train_steps": 50, "max_train_steps": 50},
]
TRAINS: list[dict[str, Any]] = [
    {},
    {"dataset_url": None, "dataset_name": "lambdalabs/naruto-blip-captions"},
    # The name wins over an address that would not do.
    {"dataset_url": "http://localhost/cats.rar", "dataset_name": "lambdalabs/naruto-blip-captions"},
    *({"dataset_url": f"https://host.example/{name}"} for name in ("cats.zip", "CATS.ZIP", "cats.tar", "cats.tar.gz")),
    *(
        {"dataset_url": f"https://host.example/{name}"}
        for name in ("cats.tar.bz2", "a.b.tar.xz", "GivF5FBMdJVr6xHT7hi2aE7v", "")
    ),
    {"dataset_url": "https://host.example/cats.zip?token=a.b.c#d.e"},
    {"dataset_url": "https://8.8.8.8/cats.zip"},
    {"dataset_url": "https://mylocal.example/cats.zip"},
    {"model_name": "crynux-ai/stable-diffusion-v1-5"},
    {"model_variant": "fp16"},
    {"seed": 2**32 - 1},
    {"resolution": 8},
    {"lr_scheduler": "polynomial", "learning_rate": 1.1e-7, "max_train_steps": 10},
    {"lr_scheduler": "polynomial", "learning_rate": 1e-8, "scale_lr": True, "batch_size": 11},
    {"lr_scheduler": "cosine", "learning_rate": 1e-9},
    {"target_modules": "ALL-LINEAR"},
    {"target_modules": r".*attn2\.to_(k|v)"},
]


OTHER_KINDS = [
    "stabilityai/stable-diffusion-xl-base-1.0",
    "stabilityai/sdxl-turbo",
    "SG161222/RealVisXL_V4.0",
    "RunDiffusion/Juggernaut-XL-v9",
    "Lykon/dreamshaper-xl-1-0",
    "cagliostrolab/animagine-xl-3.1",
    "segmind/SSD-1B",
    "playgroundai/playground-v2-1024px-aesthetic",
    "stabilityai/stable-diffusion-3-medium-diffusers",
    "stabilityai/stable-diffusion-3.5-large",
    "ckpt/sd3.5_medium",
    "black-forest-labs/FLUX.1-dev",
    "PixArt-alpha/PixArt-XL-2-1024-MS",
    "kandinsky-community/kandinsky-2-2-decoder",
    "warp-ai/wuerstchen",
    "stabilityai/stable-cascade",
    "stabilityai/stable-video-diffusion-img2vid",
    "DeepFloyd/IF-I-XL-v1.0",
    "owner/deepfloyd-if",
    "Tencent-Hunyuan/HunyuanDiT",
    "fal/AuraFlow",
    "runwayml/stable-diffusion-inpainting",
    "timbrooks/instruct-pix2pix",
    "sdxl",
    "stabilityai/stable-diffusion-2-depth",
    "stabilityai/stable-diffusion-x4-upscaler",
    "stabilityai/stable-diffusion-2-1-unclip-small",
    "segmind/Segmind-Vega",
    "Qwen/Qwen-Image",
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
    "me/stable-diffusion-v1-5-inpainting",
    "me/pony-diffusion-v6-xl",
    "me/stable-diffusion-2-1-unclip-sd15",
]
RIGHT_KINDS = [
    "crynux-ai/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-v1-5",
    "CompVis/stable-diffusion-v1-4",
    "stabilityai/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base",
    "Lykon/dreamshaper-8",
    "Lykon/DreamShaper",
    "SG161222/Realistic_Vision_V5.1_noVAE",
    "prompthero/openjourney-v4",
    "nitrosocke/Ghibli-Diffusion",
    "dreamlike-art/dreamlike-photoreal-2.0",
    "emilianJR/epiCRealism",
    "xyn-ai/anything-v4.0",
    "Yntec/AbsoluteReality",
    "hakurei/waifu-diffusion",
    "gsdf/Counterfeit-V2.5",
    "flux-labs/anime-v3",
    "xl/anime-v3",
    "m",
    # A word inside a name proves nothing.
    "user/sd-30k-anime",
    "user/inpainted-monet-style",
    "user/reflux-flux-sd15",
    "user/sdxl-look-for-sd15",
    "user/pony-diffusion-v6-sd15",
    "user/qwen-image-style-sd15",
    "user/kandinsky-3-sd21",
    "user/if-i-like-sd15-v1.0",
]


@pytest.mark.parametrize("fields", SILENT, ids=str)
def test_job_that_a_node_cannot_train_fails_after_four_silent_timeouts(fields: dict[str, Any]) -> None:
    course = network().course(make_args(timeout=600, **fields))
    assert [course.at(age).status for age in (2399.9, 2400)] == ["running", "failed"]
    assert [course.at(age).failed_count for age in (599.9, 600, 1800)] == [0, 1, 3]


@pytest.mark.parametrize("fields", TRAINS, ids=str)
def test_job_that_a_node_can_train_ends_well(fields: dict[str, Any]) -> None:
    assert network().course(make_args(timeout=600, **fields)).at(1e6).status == "success"


@pytest.mark.parametrize("url", ["ftp://host/cats.zip", "file:///cats.zip", "https:///cats.zip", "https://[::1", ""])
@pytest.mark.parametrize("name", [None, "lambdalabs/naruto-blip-captions"])
def test_address_that_the_nodes_model_of_the_arguments_refuses_is_reported_at_once(url: str, name: str | None) -> None:
    course = network().course(make_args(timeout=600, dataset_url=url, dataset_name=name))
    assert [course.at(age).status for age in (79.9, 80)] == ["running", "failed"]


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_base_model_of_another_kind_is_told_by_its_name(name: str) -> None:
    assert is_other_kind(name)


@pytest.mark.parametrize("name", RIGHT_KINDS)
def test_base_model_of_the_right_kind_is_told_by_its_name(name: str) -> None:
    assert not is_other_kind(name)
