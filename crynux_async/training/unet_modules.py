"""The modules of the UNet of Stable Diffusion 1.x and 2.x, and which of them ``target_modules`` selects.

The two have the same names. In 2.x the text is wider, and the projections into and out of a transformer are linear
layers, where 1.x has convolutions: "all-linear" means other layers.

A LoRA of rank r adds ``r * (in_features + out_features)`` numbers to a linear layer, and for a convolution each input
channel counts once per cell of its kernel. Layers of any other kind, and whatever holds layers, cannot get a LoRA:
training stops when one of them is selected.

Source: diffusers UNet2DConditionModel with the configurations of stable-diffusion-v1-5 and stable-diffusion-2-1; peft
tuners_utils.check_target_module_exists.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import attrs

from crynux_async.training.base_models import Family
from crynux_async.training.patterns import Matches, matches
from crynux_async.values import Value

ALL_LINEAR = "all-linear"
"""The one text that is no regular expression."""

_WIDTHS = (320, 640, 1280, 1280)
_CONTEXTS: Mapping[Family, int] = MappingProxyType({"1.x": 768, "2.x": 1024})
_TIME = 4 * _WIDTHS[0]
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_DEEPEST = len(_WIDTHS) - 1

_Sized = Iterator[tuple[str, int]]


@attrs.frozen(kw_only=True)
class Selection(Value):
    """What ``target_modules`` selects.

    Attributes:
        trained: Layers that get a LoRA, in the order of their names.
        unsuitable: Modules that are selected and cannot get one, in the order of their names; training stops there.
        unmatched: Entries of ``target_modules`` that select nothing.
        attention_count: How many of ``trained`` are projections of an attention.
        weights_per_rank: Numbers that the LoRA has for each unit of its rank.
        outcome: "known"; "too long" when a regular expression was given up, "untried" when it could not be tried. Of
            either nothing else is known.
    """

    trained: tuple[str, ...]
    unsuitable: tuple[str, ...]
    unmatched: tuple[str, ...]
    attention_count: int
    weights_per_rank: int
    outcome: Literal["known", "too long", "untried"] = "known"


def is_attention(layer: str) -> bool:
    """Whether a layer is one of the four projections of an attention, the only ones saved as ``lora.down/lora.up``."""
    return layer.endswith(_ATTENTION)


# A sweep asks the same thousands of times.
@functools.lru_cache(maxsize=256)
def select(target_modules: Sequence[str] | str, family: Family = "1.x") -> Selection:
    """Return what ``target_modules`` selects, as PEFT does; in bounded time, whatever it is.

    Args:
        target_modules: A tuple of ends of names; or one regular expression for whole names; or "all-linear".
        family: The base model's.
    """
    sizes = module_sizes(family)
    found = _matches(target_modules, sizes, family)
    chosen = found.names
    trained = tuple(sorted(name for name in chosen if sizes[name]))
    return Selection(
        trained=trained,
        unsuitable=tuple(sorted(name for name in chosen if not sizes[name])),
        unmatched=_unmatched(target_modules, chosen),
        attention_count=sum(map(is_attention, trained)),
        weights_per_rank=sum(sizes[name] for name in trained),
        outcome=found.outcome,
    )


@functools.lru_cache(maxsize=256)
def shortest_entries(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Return what lists of entries that select the same modules have in common: the shortest ones that do.

    Args:
        entries: Ends of names.

    Returns:
        The shortest ends of names that select these modules and no other, in order; the entries themselves, in order,
        when they select nothing.
    """
    sizes, wanted = module_sizes(), frozenset(entries)
    chosen = {name for name in sizes if not wanted.isdisjoint(endings(name))}
    # An ending that another module has, too, would select that one as well.
    others = {ending for name in sizes if name not in chosen for ending in endings(name)}
    own = {ending for name in chosen for ending in endings(name)} - others
    shortest = {entry for entry in own if own.isdisjoint(tuple(endings(entry))[1:])}
    return tuple(sorted(shortest or wanted))


def endings(name: str) -> Iterator[str]:
    """Yield a module's name and each part of it that begins after a dot: what an entry of a list may be."""
    while name:
        yield name
        name = name.partition(".")[2]


def _matches(target_modules: Sequence[str] | str, sizes: Mapping[str, int], family: Family) -> Matches:
    if not isinstance(target_modules, str):
        wanted = frozenset(target_modules)
        return Matches(frozenset(name for name in sizes if not wanted.isdisjoint(endings(name))))
    if target_modules.lower() == ALL_LINEAR:
        return Matches(frozenset(name for name, size in sizes.items() if size and not _is_convolution(name, family)))
    return matches(target_modules, tuple(sizes))


def _unmatched(target_modules: Sequence[str] | str, chosen: frozenset[str]) -> tuple[str, ...]:
    if isinstance(target_modules, str):
        return () if chosen else (target_modules,)
    used = {ending for name in chosen for ending in endings(name)}
    return tuple(entry for entry in target_modules if entry not in used)


def _is_convolution(name: str, family: Family) -> bool:
    kinds = ("conv", "proj_in", "proj_out") if family == "1.x" else ("conv",)
    return name.rpartition(".")[2].startswith(kinds)


@functools.cache
def module_sizes(family: Family = "1.x") -> Mapping[str, int]:
    """Return every module's name with the numbers its LoRA has per rank; 0 for what cannot get a LoRA."""
    sizes = dict(_unet(_CONTEXTS[family]))
    for name in tuple(sizes):
        parts = name.split(".")
        sizes.update(dict.fromkeys((".".join(parts[:end]) for end in range(1, len(parts))), 0))
    return MappingProxyType(sizes)


def _layer(name: str, inputs: int, outputs: int, kernel: int = 1) -> tuple[str, int]:
    return name, inputs * kernel**2 + outputs


def _others(name: str, *ends: str) -> _Sized:
    yield from ((f"{name}{end}", 0) for end in ends)


def _unet(context: int) -> _Sized:
    yield _layer("conv_in", 4, _WIDTHS[0], 3)
    yield _layer("time_embedding.linear_1", _WIDTHS[0], _TIME)
    yield _layer("time_embedding.linear_2", _TIME, _TIME)
    yield _layer("conv_out", _WIDTHS[0], 4, 3)
    yield from _others("", "time_proj", "time_embedding.act", "conv_norm_out", "conv_act")
    for level, width in enumerate(_WIDTHS):
        yield from _down(f"down_blocks.{level}", level, width, context)
        yield from _up(f"up_blocks.{_DEEPEST - level}", level, width, context)
    for index in range(2):
        yield from _resnet(f"mid_block.resnets.{index}", _WIDTHS[-1], _WIDTHS[-1])
    yield from _transformer("mid_block.attentions.0", _WIDTHS[-1], context)


def _down(block: str, level: int, width: int, context: int) -> _Sized:
    above = _WIDTHS[max(level - 1, 0)]
    for index, inputs in enumerate((above, width)):
        yield from _resnet(f"{block}.resnets.{index}", inputs, width)
        # The deepest level has neither attention nor a smaller size below it.
        if level < _DEEPEST:
            yield from _transformer(f"{block}.attentions.{index}", width, context)
    if level < _DEEPEST:
        yield _layer(f"{block}.downsamplers.0.conv", width, width, 3)


def _up(block: str, level: int, width: int, context: int) -> _Sized:
    """Yield a block of the way up, whose residual blocks also take what the same level put aside on the way down."""
    below = _WIDTHS[min(level + 1, _DEEPEST)]
    above = _WIDTHS[max(level - 1, 0)]
    for index, inputs in enumerate((below + width, 2 * width, width + above)):
        yield from _resnet(f"{block}.resnets.{index}", inputs, width)
        if level < _DEEPEST:
            yield from _transformer(f"{block}.attentions.{index}", width, context)
    if level > 0:
        yield _layer(f"{block}.upsamplers.0.conv", width, width, 3)


def _resnet(name: str, inputs: int, outputs: int) -> _Sized:
    yield _layer(f"{name}.conv1", inputs, outputs, 3)
    yield _layer(f"{name}.time_emb_proj", _TIME, outputs)
    yield _layer(f"{name}.conv2", outputs, outputs, 3)
    if inputs != outputs:
        yield _layer(f"{name}.conv_shortcut", inputs, outputs)
    yield from _others(name, ".norm1", ".norm2", ".dropout", ".nonlinearity")


def _transformer(name: str, width: int, context: int) -> _Sized:
    block = f"{name}.transformer_blocks.0"
    yield _layer(f"{name}.proj_in", width, width)
    yield _layer(f"{name}.proj_out", width, width)
    for attention, attended in (("attn1", width), ("attn2", context)):
        for part in _ATTENTION:
            inputs = attended if part in ("to_k", "to_v") else width
            yield _layer(f"{block}.{attention}.{part}", inputs, width)
        # ``to_out`` is a list of the projection and a dropout.
        yield from _others(f"{block}.{attention}", ".to_out.1")
    # GEGLU: one half of the doubled width is a gate for the other.
    yield _layer(f"{block}.ff.net.0.proj", width, 8 * width)
    yield _layer(f"{block}.ff.net.2", 4 * width, width)
    yield from _others(f"{name}", ".norm")
    yield from _others(block, ".norm1", ".norm2", ".norm3", ".ff.net.1")
