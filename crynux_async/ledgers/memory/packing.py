"""Job rows as a ledger in memory keeps them: a hundred thousand must fit, configs as ``training.keeping`` keeps them.

A row has more than thirty columns, and nearly every job has the usual value in most of them. Of the others, some are
alike in many jobs, such as service and state, and some are a job's own. So a row is kept as a tuple: its head, which
says which columns have another value than the usual one, with those that many have in common, and its own values. There
are few heads, and each is there once.
"""

import functools
from collections.abc import Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs

from crynux_async.ledgers.base import JobRow
from crynux_async.training.keeping import as_kept, config_of

Packed: TypeAlias = tuple[Any, ...]
"""The head of a row, and the values of its own columns that are unusual."""

_FIELDS = attrs.fields(JobRow)
_values_of = attrgetter(*(field.name for field in _FIELDS))
_USUAL: Mapping[str, Any] = MappingProxyType({field.alias or field.name: field.default for field in _FIELDS})
_COMMON = frozenset(
    {
        "backend",
        "key_id",
        "state",
        "is_seed_drawn",
        "group",
        "tenant",
        "budget",
        "is_stopped",
        "is_sent_by_any",
        "tries",
        "folder",
        "file_name",
        "host",
    }
)


class _Head:
    """Which columns of a row are unusual: the places of its own in ``Packed``, and the values of the others."""

    __slots__ = ("common", "places")

    def __init__(self, own: tuple[str, ...], common: Mapping[str, Any]) -> None:
        self.places = {name: place for place, name in enumerate(own, start=1)}
        self.common = common


def packed(row: JobRow) -> Packed:
    """Return a row as it is kept."""
    return _packed(dict(zip(_USUAL, _values_of(row), strict=True)))


def changed(kept: Packed, columns: Mapping[str, Any]) -> Packed:
    """Return what is kept of a row when some columns have changed; the digest must not be one of them."""
    return _packed({**_unusual(kept), **columns})


def unpacked(kept: Packed) -> JobRow:
    """Return the row that is kept."""
    columns = _unusual(kept)
    config = columns.get("config")
    return JobRow(**columns if config is None else {**columns, "config": config_of(config)})


def column(kept: Packed, name: str) -> Any:
    """Return one column of the row that is kept, without making the row."""
    head: _Head = kept[0]
    place = head.places.get(name)
    if place is None:
        return head.common.get(name, _USUAL[name])
    return config_of(kept[place]) if name == "config" else kept[place]


def _unusual(kept: Packed) -> dict[str, Any]:
    head: _Head = kept[0]
    return {**head.common, **{name: kept[place] for name, place in head.places.items()}}


def _packed(columns: Mapping[str, Any]) -> Packed:
    own, common = {}, []
    for name, value in columns.items():
        if name == "config":
            own[name] = as_kept(value)
        elif value != _USUAL[name]:
            if name in _COMMON:
                common.append((name, value, type(value)))
            else:
                own[name] = value
    return _head(tuple(own), tuple(common)), *own.values()


# Types are told apart by hand: what is equal need not be the same, such as a state and its text.
@functools.lru_cache(maxsize=1024)
def _head(own: tuple[str, ...], common: tuple[tuple[str, Any, type[Any]], ...]) -> _Head:
    return _Head(own, {name: value for name, value, _ in common})
