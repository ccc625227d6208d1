"""Configs as they are kept of jobs: a hundred thousand must fit.

The configs of a sweep, and of everybody who trains with one recipe, differ in a few of their fields. So what is kept of
one is a tuple: its head, which says in which fields it differs from a pattern that many have in common, and its own
values in these. A pattern is the whole of a config that was kept earlier; which one is taken decides nothing but the
room that it takes.
"""

import functools
from collections.abc import Iterable, Sequence
from itertools import compress
from operator import is_not
from typing import Any, TypeAlias, overload

import attrs

from crynux_async.errors import ConfigError, Problem
from crynux_async.training.config import FineTuneConfig, slot_names, slot_values, unchecked

KeptConfig: TypeAlias = tuple[Any, ...]
"""The head of a config, and the values in which it differs from the pattern of its head."""

_PATTERNS = 4  # of one base model
_SLOT = "_kept"
_HEADS = 256  # of one pattern
_FEW = 12  # values of its own, of 38: a config with more becomes the pattern of those that follow


class Pattern:
    """The values of a config from which others differ a little, and the heads of those.

    There are few, so that what follows from one can be kept, too.

    Attributes:
        values: The value of every field.
        heads: What others have in common with it, by the places in which they differ.
    """

    __slots__ = ("heads", "values")

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values
        self.heads: dict[tuple[int, ...], Head] = {}

    def head(self, places: tuple[int, ...]) -> "Head":
        """Return the one head of the configs that differ in these places."""
        if len(self.heads) > _HEADS:
            self.heads.clear()
        return self.heads.get(places) or self.heads.setdefault(places, Head(self, places))

    def config(self) -> FineTuneConfig:
        """Return the config that has these values."""
        return config_of((Head(self, ()),))


class Head:
    """What a config has in common with a pattern.

    Attributes:
        pattern: The pattern.
        places: Of the fields in which the config has values of its own.
        names: The names of these fields.
    """

    __slots__ = ("names", "pattern", "places")

    def __init__(self, pattern: Pattern, places: tuple[int, ...]) -> None:
        self.pattern = pattern
        self.places = places
        self.names = tuple(slot_names()[place] for place in places)


def kept(config: FineTuneConfig) -> KeptConfig:
    """Return what is kept of a config; the same object for one that ``config_of`` has made.

    Raises:
        ConfigError: It is of a class with fields of its own, which would be lost.
    """
    known: KeptConfig | None = getattr(config, _SLOT, None)
    if known is not None:
        return known
    if type(config) is not FineTuneConfig:
        _refuse_own_fields(config)
    values = slot_values()(config)
    patterns = _patterns(config.model_name)
    best: tuple[Pattern, Sequence[int]] | None = None
    for pattern in patterns:
        places = _differences(values, pattern.values)
        if best is None or len(places) < len(best[1]):
            best = pattern, places
        if len(places) <= _FEW:
            break
    if best is None or len(best[1]) > _FEW:
        new = Pattern(values)
        # Another thread may put a pattern of its own there in the same moment: none is ever found again by its place.
        patterns[:] = [new, *patterns][:_PATTERNS]
        best = best or (new, ())
    pattern, own = best
    result = (pattern.head(tuple(own)), *(values[place] for place in own))
    object.__setattr__(config, _SLOT, result)
    return result


def _refuse_own_fields(config: FineTuneConfig) -> None:
    """Refuse a config with fields that no service is told of; defaults and methods of its class need not be kept."""
    kind = type(config)
    own = [field.name for field in attrs.fields(kind) if field.name not in slot_names()]
    if own:
        message = (
            f"is a field of {kind.__name__} alone, neither sent nor kept; give what is your own as label= or tags="
        )
        raise ConfigError([Problem(field=name, message=message) for name in own])


class KeptConfigs(Sequence[FineTuneConfig]):
    """Configs that come one by one and are needed again: each is made anew when it is looked at.

    Args:
        configs: Any number.

    Attributes:
        kept: What is kept of each.
    """

    __slots__ = ("kept",)

    def __init__(self, configs: Iterable[FineTuneConfig]) -> None:
        self.kept = [kept(config) for config in configs]

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> FineTuneConfig: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FineTuneConfig]: ...
    def __getitem__(self, index: int | slice) -> FineTuneConfig | Sequence[FineTuneConfig]:
        """Return one of them, or some."""
        chosen = self.kept[index]
        return list(map(config_of, chosen)) if isinstance(chosen, list) else config_of(chosen)


def is_kept(value: object) -> bool:
    """Whether this is what is kept of a config."""
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Head)


def as_config(given: FineTuneConfig | KeptConfig) -> FineTuneConfig:
    """Return a config of which this was kept, or that it is itself."""
    return given if isinstance(given, FineTuneConfig) else config_of(given)


def as_kept(given: FineTuneConfig | KeptConfig | None) -> KeptConfig | None:
    """Return what is kept of a config; what is given as kept stays so."""
    return kept(given) if isinstance(given, FineTuneConfig) else given


def field_of(given: KeptConfig, name: str) -> Any:
    """Return one field of a config of which this was kept, without making it."""
    head: Head = given[0]
    if name in head.names:
        return given[1 + head.names.index(name)]
    return head.pattern.values[slot_names().index(name)]


def but_for(given: KeptConfig, name: str) -> tuple[object, ...]:
    """Return what tells a kept config from others, whatever one of its fields is.

    Where it is equal for two of them, they differ in that field at most.
    """
    head: Head = given[0]
    return head.pattern, *((field, value) for field, value in zip(head.names, given[1:], strict=True) if field != name)


def config_of(given: KeptConfig) -> FineTuneConfig:
    """Return the config of which this was kept: equal in every field, ``seed_was_drawn`` included."""
    head: Head = given[0]
    values = [*head.pattern.values]
    for place, value in zip(head.places, given[1:], strict=True):
        values[place] = value
    config = unchecked(FineTuneConfig, values)
    object.__setattr__(config, _SLOT, given)
    return config


def _differences(values: Sequence[Any], others: Sequence[Any]) -> list[int]:
    """Return where the one holds another value than the other; what is one object is one value."""
    places = compress(range(len(values)), map(is_not, values, others))
    return [place for place in places if not _is_alike(values[place], others[place])]


def _is_alike(one: Any, other: Any) -> bool:
    # Of 1 and 1.0, or 0.0 and -0.0, which are equal, each is written otherwise.
    return type(one) is type(other) and one == other and (type(one) is not float or repr(one) == repr(other))


# Of base models that are trained side by side, so that those of one are not measured with another's patterns.
@functools.lru_cache(maxsize=16)
def _patterns(model_name: str) -> list[Pattern]:
    return []
