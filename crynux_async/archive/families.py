"""Which family of base models a LoRA belongs to: its widths say so, or the base model's name does.

The attention to the text takes what the text encoder gives: 768 numbers in Stable Diffusion 1.x, 1024 in 2.x, 2048 in
XL. The layers around the attention are convolutions in 1.x and linear in the others. A LoRA of none of these layers
fits both 1.x and 2.x, whose other layers have the same widths.

Source: unet/config.json (cross_attention_dim, use_linear_projection) of stable-diffusion-v1-5, stable-diffusion-2-1 and
stable-diffusion-xl-base-1.0; text_encoder/config.json (hidden_size).
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from crynux_async.archive.lora import LoraModule
from crynux_async.archive.naming import TEXT_ENCODER

Family = Literal["sd1", "sd2", "sdxl"]
"""Stable Diffusion 1.x, 2.x and XL."""

FAMILY_TITLES: Mapping[Family, str] = MappingProxyType(
    {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "Stable Diffusion XL"}
)
"""What people call each family."""

_TEXT_WIDTHS: Mapping[int, Family] = MappingProxyType({768: "sd1", 1024: "sd2", 2048: "sdxl"})
_ENCODER_WIDTHS: Mapping[int, Family] = MappingProxyType({768: "sd1", 1024: "sd2"})
_FROM_TEXT = (".attn2.to_k", ".attn2.to_v")
_FROM_TOKENS = (".self_attn.q_proj", ".self_attn.k_proj", ".self_attn.v_proj", ".self_attn.out_proj", ".mlp.fc1")
_NARROWEST = 320
_WIDTHS = frozenset({_NARROWEST, 640, 1280})
# Names are words of whoever uploaded a model: only those of the original models, and of their mirrors, prove anything.
_NAMED: Mapping[Family, re.Pattern[str]] = MappingProxyType(
    {
        "sd1": re.compile(r"stable-diffusion-(?:v-?)?1(?:[-.][1-5])?$"),
        "sd2": re.compile(r"stable-diffusion-(?:v-?)?2(?:[-.][01])?(?:-base)?$"),
        "sdxl": re.compile(r"stable-diffusion-xl-(?:base|refiner)-[01]\.[0-9]$"),
    }
)


def family_of(modules: Iterable[LoraModule]) -> Family | None:
    """Return the family whose widths a LoRA has.

    Args:
        modules: Its modules.

    Returns:
        The family; None where nothing tells it, or where the modules contradict one another.
    """
    found = {family for family in map(_family_of_module, modules) if family is not None}
    return found.pop() if len(found) == 1 else None


def family_named(model: str) -> Family | None:
    """Return the family of a base model whose name leaves no doubt.

    Args:
        model: Such as ``stabilityai/stable-diffusion-2-1``.

    Returns:
        The family; None for every name that is not one of the original models'.
    """
    name = model.rpartition("/")[2].lower()
    return next((family for family, pattern in _NAMED.items() if pattern.search(name)), None)


def _family_of_module(module: LoraModule) -> Family | None:
    if module.name.startswith(TEXT_ENCODER):
        return _ENCODER_WIDTHS.get(module.in_features) if module.name.endswith(_FROM_TOKENS) else None
    if module.name.endswith(_FROM_TEXT):
        return _TEXT_WIDTHS.get(module.in_features)
    if module.name.endswith((".proj_in", ".proj_out")) and {module.in_features, module.out_features} <= _WIDTHS:
        if module.kernel:
            return "sd1"
        # XL has linear ones too, but none that is so narrow.
        return "sd2" if module.in_features == _NARROWEST else None
    return None
