"""Job rows as a ledger in memory keeps them: a hundred thousand must fit.

A row has more than thirty columns, and nearly every job has the usual value in most of them. So a row is kept as a
tuple: its shape, which says which columns have another value, and these values. There are few shapes, and each is there
once.
"""

import functools
from collections.abc import Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs

from crynux_async.ledgers.base import JobRow

Packed: TypeAlias = tuple[Any, ...]
"""The shape of a row (the name of each unusual column and its place in here), and the values of these columns."""

_FIELDS = attrs.fields(JobRow)
_values_of = attrgetter(*(field.name for field in _FIELDS))
_USUAL: Mapping[str, Any] = MappingProxyType({field.alias or field.name: field.default for field in _FIELDS})


def packed(row: JobRow) -> Packed:
    """Return a row as it is kept."""
    return _packed(dict(zip(_USUAL, _values_of(row), strict=True)))


def changed(kept: Packed, columns: Mapping[str, Any]) -> Packed:
    """Return what is kept of a row when some columns have changed; the digest must not be one of them."""
    return _packed({**_unusual(kept), **columns})


def unpacked(kept: Packed) -> JobRow:
    """Return the row that is kept."""
    return JobRow(**_unusual(kept))


def column(kept: Packed, name: str) -> Any:
    """Return one column of the row that is kept, without making the row."""
    place = kept[0].get(name)
    return _USUAL[name] if place is None else kept[place]


def _unusual(kept: Packed) -> dict[str, Any]:
    return {name: kept[place] for name, place in kept[0].items()}


def _packed(columns: Mapping[str, Any]) -> Packed:
    unusual = {name: value for name, value in columns.items() if value != _USUAL[name]}
    return _shape(tuple(unusual)), *unusual.values()


@functools.lru_cache(maxsize=1024)
def _shape(names: tuple[str, ...]) -> Mapping[str, int]:
    return MappingProxyType({name: place for place, name in enumerate(names, start=1)})
