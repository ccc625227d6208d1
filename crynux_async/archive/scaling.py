"""How strongly B A counts: the alpha of a LoRA, where its file says one.

A module's weight changes by (alpha / rank) B A. A node's file says no alpha, and means its rank. Files that peft and
diffusers write with adapter metadata say it in the header, and may mean alpha / sqrt(rank) by it. What is said is used;
what is said and not understood here is refused, because taking it for the usual would give wrong numbers in silence.

Source: diffusers src/diffusers/loaders/lora_base.py (LORA_ADAPTER_METADATA_KEY, _pack_dict_with_prefix); peft
src/peft/tuners/lora/layer.py (update_layer) and src/peft/utils/other.py (get_pattern_key).
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import attrs

from crynux_async.archive.safetensors import giving_way

_T = TypeVar("_T")

ADAPTER_METADATA = "lora_adapter_metadata"
"""The header's key under which diffusers keeps the LoraConfig of peft, as JSON."""

_UNET = "unet"
_ENCODER = "text_encoder"  # as the second one of XL begins, too
PLAIN_ALPHAS = ("alpha", "lora_alpha", "network_alpha", "ss_network_alpha")
"""The header's keys under which other programs say one alpha for all modules."""
# Variants of LoRA in which the change is not (alpha / rank) B A. Each is off when it is missing, false or empty.
_VARIANTS = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out", "layer_replication"),
    *("alora_invocation_tokens", "arrow_config"),
)
# peft takes the keys of a pattern for regular expressions that fit the end of a path. An unknown machine's are not run:
# these are ends of paths, or with a "^" whole ones.
_PLAIN_PATH = re.compile(r"\^?[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")


class Pattern:
    """Numbers for modules, by the end of a path or, after a "^", by a whole one; the first that fits counts.

    Args:
        numbers: The numbers, > 0, in their order.
    """

    __slots__ = ("_found",)

    def __init__(self, numbers: Mapping[str, float] = MappingProxyType({})) -> None:
        self._found = {key: (place, number) for place, (key, number) in enumerate(numbers.items())}

    def get(self, module: str) -> float | None:
        """Return the number for a module, or None; takes as long as its path has parts, however many numbers there are.

        Args:
            module: The module's path in the UNet.
        """
        if not self._found:
            return None
        parts = module.split(".")
        ends = [f"^{module}", *(".".join(parts[index:]) for index in range(len(parts)))]
        fits = [self._found[end] for end in ends if end in self._found]
        # peft takes the first key that fits, in the order of the file.
        return min(fits)[1] if fits else None


@attrs.frozen(kw_only=True)
class Scaling:
    """The alphas of a LoRA.

    Attributes:
        alpha: Of every module that ``alpha_pattern`` does not name, > 0; None where it is the module's rank.
        alpha_pattern: Other alphas.
        rank: Rank of every module that ``rank_pattern`` does not name, or None where that is not said.
        rank_pattern: Other ranks.
        by_root: Whether B A counts alpha / sqrt(rank) in place of alpha / rank.
        encoders: Those of text encoders, by what the names of their modules begin with; None where all of this is said
            of them as well.
    """

    alpha: float | None = None
    alpha_pattern: Pattern = attrs.field(factory=Pattern)
    rank: int | None = None
    rank_pattern: Pattern = attrs.field(factory=Pattern)
    by_root: bool = False
    encoders: "Mapping[str, Scaling] | None" = None

    def alpha_of(self, module: str, rank: int) -> float:
        """Return the alpha with which B A counts alpha / rank, > 0.

        Args:
            module: The module's path in the UNet.
            rank: Its rank, >= 1.

        Raises:
            ValueError: The header says another rank, or speaks of other parts of the model alone.
        """
        part, _, path = module.partition(".")
        if self.encoders is not None and part.startswith(_ENCODER):
            if part not in self.encoders:
                raise ValueError(f"the adapter metadata in the header does not say an alpha of the {part}")
            return self.encoders[part].alpha_of(path, rank)
        said = self.rank_pattern.get(module) or self.rank
        if said is not None and said != rank:
            raise ValueError(f"the header says that {module} has rank {said:g}, and it has {rank}")
        alpha = self.alpha_pattern.get(module) or self.alpha
        if alpha is None:
            return float(rank)
        return alpha * math.sqrt(rank) if self.by_root else alpha


def read_scaling(metadata: Mapping[str, str]) -> Scaling:
    """Find out what the texts of a header say about alpha.

    Args:
        metadata: The texts, by key.

    Returns:
        What was found.

    Raises:
        ValueError: They say something that is not understood here.
        RecursionError: The JSON is nested too deeply.
    """
    if ADAPTER_METADATA in metadata:
        return _from_parts(_parts(metadata[ADAPTER_METADATA]))
    plain = {metadata[key] for key in PLAIN_ALPHAS if key in metadata}
    if len(plain) > 1:
        raise ValueError(f"the header says several alphas: {', '.join(sorted(plain))[:200]}")
    return Scaling(alpha=_number("alpha", _parsed(plain.pop())) if plain else None)


def write_scaling(alphas: Mapping[str, float], rank: int) -> str:
    """Return the adapter metadata of a LoRA, as diffusers reads it.

    Args:
        alphas: The alpha of each module, by path; B A counts alpha / rank.
        rank: The rank of all modules.

    Returns:
        JSON; the same arguments always give the same text.
    """
    # Sorted first, so that a tie always ends the same.
    usual = Counter(sorted(alphas.values())).most_common(1)[0][0]
    config = {
        "r": rank,
        "lora_alpha": _tidy(usual),
        "rank_pattern": {},
        "alpha_pattern": {name: _tidy(alpha) for name, alpha in alphas.items() if alpha != usual},
        "target_modules": sorted(alphas),
        "use_rslora": False,
    }
    prefixed = {f"{_UNET}.{key}": value for key, value in config.items()}
    return json.dumps(prefixed, sort_keys=True, separators=(",", ":"))


def _parts(text: str) -> dict[str, dict[str, Any]]:
    """Return the configs of the parts of a pipeline; "" is that of a model alone."""
    try:
        config = _checked("adapter metadata", dict, json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"adapter metadata in the header is not JSON: {error}") from error
    parts: dict[str, dict[str, Any]] = {}
    # A pipeline's file has the part's name in front of each key, that of a model alone does not.
    for key, value in config.items():
        part, _, field = key.rpartition(".")
        parts.setdefault(part, {})[field] = value
    return parts


def _from_parts(parts: Mapping[str, Mapping[str, Any]]) -> Scaling:
    scaling = _from_adapter({**parts.get("", {}), **parts.get(_UNET, {})})
    if parts.keys() <= {""}:
        return scaling
    encoders = {part: _from_adapter(fields) for part, fields in parts.items() if part.startswith(_ENCODER)}
    return attrs.evolve(scaling, encoders=MappingProxyType(encoders))


def _from_adapter(config: Mapping[str, Any]) -> Scaling:
    if on := [key for key in _VARIANTS if config.get(key)]:
        raise ValueError(f"the adapter metadata in the header has {', '.join(on)} on, which is not understood here")
    if config.get("bias", "none") != "none":
        raise ValueError("the adapter metadata in the header has a bias trained, which is not understood here")
    if "lora_alpha" not in config:
        raise ValueError("the adapter metadata in the header does not say an alpha")
    return Scaling(
        alpha=_number("lora_alpha", config["lora_alpha"]),
        alpha_pattern=_pattern("alpha_pattern", config),
        rank=_rank("r", config["r"]) if "r" in config else None,
        rank_pattern=_pattern("rank_pattern", config),
        by_root=_checked("use_rslora", bool, config.get("use_rslora") or False),
    )


def _pattern(what: str, config: Mapping[str, Any]) -> Pattern:
    plain: dict[str, float] = {}
    for key, value in giving_way(_checked(what, dict, config.get(what) or {}).items()):
        if not _PLAIN_PATH.fullmatch(key):
            raise ValueError(f"{what} in the header names modules by {key[:200]!r}, which is not understood here")
        plain[key] = _number(what, value)
    return Pattern(plain)


def _parsed(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _checked(what: str, kind: type[_T], value: object) -> _T:
    if isinstance(value, kind):
        return value
    raise ValueError(f"{what} in the header is {str(value)[:200]}, which is not understood here")


def _number(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{what} in the header is {str(value)[:200]} and must be a number above 0")
    return float(value)


def _rank(what: str, value: object) -> int:
    number = _number(what, value)
    if number != int(number):
        raise ValueError(f"{what} in the header is {number} and must be whole")
    return int(number)


def _tidy(alpha: float) -> float | int:
    return int(alpha) if alpha.is_integer() else alpha
