"""The modules of the UNet, compared with those of diffusers, and what PEFT makes of ``target_modules``."""

import warnings
from typing import Any

import pytest

from crynux_async.training.unet_modules import module_sizes, select

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch: Any = pytest.importorskip("torch")
    peft: Any = pytest.importorskip("peft")
    diffusers: Any = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore")

# The configurations of stable-diffusion-v1-5 and of stable-diffusion-2-1.
COMMON = {
    "sample_size": 64,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (320, 640, 1280, 1280),
}
VERSION_1 = {**COMMON, "cross_attention_dim": 768, "attention_head_dim": 8}
VERSION_2 = {
    **COMMON,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}


def unet(options: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return diffusers.UNet2DConditionModel(**options)


def weights_per_rank(module: Any) -> int:
    if isinstance(module, torch.nn.Conv2d):
        return int(module.in_channels * module.kernel_size[0] ** 2 + module.out_channels)
    return int(module.in_features + module.out_features) if isinstance(module, torch.nn.Linear) else 0


def test_modules_of_version_1_have_the_names_and_sizes_of_the_library() -> None:
    real = {name: weights_per_rank(module) for name, module in unet(VERSION_1).named_modules() if name}
    assert dict(module_sizes()) == real


def test_modules_of_version_2_have_the_same_names_and_kinds() -> None:
    real = {name: weights_per_rank(module) > 0 for name, module in unet(VERSION_2).named_modules() if name}
    assert {name: size > 0 for name, size in module_sizes().items()} == real


@pytest.mark.parametrize(
    "target_modules",
    [
        ["to_k", "to_q", "to_v", "to_out.0"],
        ["to_k", "nope"],
        ["to_k", "proj_in", "conv1", "ff.net.0.proj"],
        ["conv"],
        ["nope"],
        ["to_out"],
        ["to_k", "norm1"],
        ["attn1"],
        ["all-linear"],
        "all-linear",
        "ALL-LINEAR",
        "to_k",
        r".*attn2\.to_k",
        ".*attn1",
        "(",
    ],
    ids=str,
)
def test_selection_is_what_the_library_trains(target_modules: list[str] | str) -> None:
    selection = select(tuple(target_modules) if isinstance(target_modules, list) else target_modules)
    model = unet(VERSION_1)
    try:
        model.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, target_modules=target_modules))
    except Exception:
        assert selection.unsuitable or not selection.trained
        return
    assert not selection.unsuitable
    trained = sorted(name.removesuffix(".lora_A") for name, _ in model.named_modules() if name.endswith(".lora_A"))
    assert trained == list(selection.trained)
