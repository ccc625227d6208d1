"""What programs call the tensors of a LoRA, and which modules each of them knows.

Two layouts are in use. In "diffusers" a module keeps its path in the UNet, and its halves are ``lora_A`` and
``lora_B``. In "kohya" the path's dots are underscores after ``lora_unet_``, the halves are ``lora_down`` and
``lora_up``, and each module has an alpha of its own. diffusers reads both; the other programs read the second alone and
pass over a file in the first with no more than a line in their logs.

So one file in the kohya layout serves them all, with one condition: its alphas must be equal. Where they differ,
diffusers takes the first one for all and scales the other modules wrongly, in silence.

Source: run from their sources on LoRAs of all 282 modules: ComfyUI 0.3.64 comfy/lora.py (model_lora_keys_unet);
stable-diffusion-webui 1.10.1 extensions-builtin/Lora/networks.py (convert_diffusers_name_to_compvis); kohya-ss
sd-scripts networks/lora.py (create_network_from_weights); diffusers 0.38 to 0.42 src/diffusers/loaders/peft.py and
lora_conversion_utils.py.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

import attrs

Program = Literal["all", "diffusers", "comfyui", "a1111", "kohya"]
"""Which program an exported file is for; "all" is one file that each of the four reads."""

Layout = Literal["diffusers", "kohya"]
"""Whose names a file has."""

TEXT_ENCODER = "text_encoder."
"""What the name of a module begins with that is no part of the UNet."""

_DIFFUSERS_HALVES = ("lora_A.weight", "lora_B.weight")
_KOHYA_HALVES = ("lora_down.weight", "lora_up.weight")

# Underscores are dots and underscores both, so that a name is only read along the paths that there are.
_KOHYA_UNET = re.compile(
    r"(?:(?P<block>down_blocks|up_blocks)_(?P<level>\d+)_|(?P<middle>mid_block)_)"
    r"(?:(?P<layer>attentions|resnets|downsamplers|upsamplers)_(?P<number>\d+)_)"
    r"(?:transformer_blocks_(?P<depth>\d+)_(?:(?P<attention>attn[12])_)?)?"
    r"(?P<end>to_q|to_k|to_v|to_out_0|proj_in|proj_out|ff_net_0_proj|ff_net_2|conv[12]|conv_shortcut|conv|time_emb_proj)"
)
_KOHYA_TEXT = re.compile(
    r"text_model_encoder_layers_(?P<layer>\d+)_(?P<part>self_attn|mlp)_(?P<end>[qkv]_proj|out_proj|fc[12])"
)
_ENDS = MappingProxyType({"to_out_0": "to_out.0", "ff_net_0_proj": "ff.net.0.proj", "ff_net_2": "ff.net.2"})

_OUTSIDE_BLOCKS = frozenset({"conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"})


@attrs.frozen(kw_only=True)
class ProgramFacts:
    """What is known of a program that loads LoRAs.

    Attributes:
        title: What it calls itself.
        unknown: Modules of Stable Diffusion's UNet that it passes over, whatever they are called.
        remark: Since when, or where, that is so; empty where nothing is passed over.
    """

    title: str
    unknown: frozenset[str] = frozenset()
    remark: str = ""


PROGRAMS: Mapping[Program, ProgramFacts] = MappingProxyType(
    {
        "diffusers": ProgramFacts(title="diffusers"),
        "comfyui": ProgramFacts(title="ComfyUI"),
        "a1111": ProgramFacts(title="AUTOMATIC1111"),
        "kohya": ProgramFacts(
            title="kohya sd-scripts",
            unknown=_OUTSIDE_BLOCKS,
            remark="its networks replace layers inside of transformers, residual blocks and samplers only",
        ),
    }
)
"""The programs that an exported file can be for, with what is known of each."""

DIFFUSERS_SINCE = "0.41"
"""The first diffusers that loads every module from a file in the kohya layout; before, those it lacks are dropped."""


def layout_for(program: Program) -> Layout:
    """Return whose names a program is given.

    Args:
        program: The program. diffusers alone gets its own layout: every version of it reads that whole.
    """
    return "diffusers" if program == "diffusers" else "kohya"


def halves(module: str, layout: Layout) -> tuple[str, str]:
    """Return what the two tensors of a module are called.

    Args:
        module: Its path in the UNet; one of the text encoder begins with ``text_encoder.``.
        layout: Whose names to give.

    Returns:
        The names of A and of B.
    """
    if layout == "kohya":
        down, up = (f"{kohya_name(module)}.{half}" for half in _KOHYA_HALVES)
    else:
        prefix = "" if module.startswith(TEXT_ENCODER) else "unet."
        down, up = (f"{prefix}{module}.{half}" for half in _DIFFUSERS_HALVES)
    return down, up


def alpha_name(module: str) -> str:
    """Return what the alpha of a module is called in the kohya layout."""
    return f"{kohya_name(module)}.alpha"


def kohya_name(module: str) -> str:
    """Return the one name that stands for a module's path in the kohya layout.

    Args:
        module: As for :func:`halves`.
    """
    prefix, path = ("te", module.removeprefix(TEXT_ENCODER)) if module.startswith(TEXT_ENCODER) else ("unet", module)
    return f"lora_{prefix}_{path.replace('.', '_')}"


def path_of(name: str) -> str | None:
    """Return the path of a module whose name in the kohya layout is ``name``, or None for what is no such name.

    Args:
        name: Such as ``lora_unet_mid_block_attentions_0_proj_in``.
    """
    if name.startswith("lora_te_"):
        found = _KOHYA_TEXT.fullmatch(name.removeprefix("lora_te_"))
        return f"{TEXT_ENCODER}text_model.encoder.layers.{'.'.join(found.groups())}" if found else None
    inside = name.removeprefix("lora_unet_")
    if inside == name:
        return None
    outside = {kohya_name(path): path for path in _OUTSIDE_BLOCKS}
    found = _KOHYA_UNET.fullmatch(inside)
    return outside.get(name) if found is None else _unet_path(found)


def _unet_path(found: re.Match[str]) -> str:
    parts = [found["middle"] or f"{found['block']}.{found['level']}", f"{found['layer']}.{found['number']}"]
    if found["depth"] is not None:
        parts.append(f"transformer_blocks.{found['depth']}")
    if found["attention"] is not None:
        parts.append(found["attention"])
    return ".".join([*parts, _ENDS.get(found["end"], found["end"])])


def passed_over(modules: Iterable[str], program: Program) -> tuple[str, ...]:
    """Return which modules a program leaves out when it loads a file made for it.

    Args:
        modules: Paths in the UNet.
        program: The program; with "all" whatever one of them leaves out.

    Returns:
        Paths, in the order in which they came.
    """
    facts = PROGRAMS.values() if program == "all" else (PROGRAMS[program],)
    unknown = frozenset[str]().union(*(each.unknown for each in facts))
    return tuple(module for module in modules if module in unknown)
