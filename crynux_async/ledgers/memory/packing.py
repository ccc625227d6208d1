"""Job rows as a ledger in memory keeps them: a hundred thousand must fit, configs as ``training.keeping`` keeps them.

A row has more than thirty columns, and nearly every job has the usual value in most of them. Of the others, some are
alike in many jobs, such as service and state, and some are a job's own. So a row is kept as a tuple: its head, which
says which columns have another value than the usual one, with those that many have in common, and its own values. There
are few heads, and each is there once.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import attrs

from crynux_async.ledgers.base import JobRow
from crynux_async.states import JobState
from crynux_async.training.keeping import as_kept, config_of

Packed: TypeAlias = tuple[Any, ...]
"""The head of a row, and the values of its own columns that are unusual."""

Sort: TypeAlias = tuple[str, JobState, bool]
"""What a claim tells jobs apart by: backend, state, and whether an archive is wanted."""

_USUAL: Mapping[str, Any] = {field.alias or field.name: field.default for field in attrs.fields(JobRow)}
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
    """What many rows have in common.

    Attributes:
        places: Where each column that is a row's own stands in ``Packed``.
        common: Unusual values of other columns.
        shared: The values of all columns that are not a row's own, usual ones included.
        sort: What a claim tells the rows apart by.
    """

    __slots__ = ("common", "places", "shared", "sort")

    def __init__(self, own: tuple[str, ...], common: Mapping[str, Any]) -> None:
        self.places = {name: place for place, name in enumerate(own, start=1)}
        self.common = common
        self.shared = {name: value for name, value in {**_USUAL, **common}.items() if name not in self.places}
        self.sort: Sort = (common["backend"], common["state"], "folder" in common)


def packed(columns: Mapping[str, Any]) -> Packed:
    """Return a row as it is kept, by all of its columns that have another value than usual."""
    return _packed(columns.items(), {}, {})


def changed(kept: Packed, columns: Mapping[str, Any]) -> Packed:
    """Return what is kept of a row when some columns have changed; the digest must not be one of them."""
    head: _Head = kept[0]
    return _packed(columns.items(), dict(zip(head.places, kept[1:], strict=True)), dict(head.common))


def unpacked(kept: Packed) -> JobRow:
    """Return the row that is kept."""
    head: _Head = kept[0]
    return JobRow(**head.common, **dict(zip(head.places, kept[1:], strict=True)))


def column(kept: Packed, name: str) -> Any:
    """Return one column of the row that is kept, without making the row."""
    head: _Head = kept[0]
    if name in head.shared:
        return head.shared[name]
    value = kept[head.places[name]]
    return config_of(value) if name == "config" and value is not None else value


def sort_of(kept: Packed) -> Sort:
    """Return what a claim tells the row that is kept apart by."""
    head: _Head = kept[0]
    return head.sort


def _packed(columns: Iterable[tuple[str, Any]], own: dict[str, Any], common: dict[str, Any]) -> Packed:
    """Return what is kept of a row, of which ``own`` and ``common`` are known, with other values of some columns."""
    for name, value in columns:
        unusual = common if name in _COMMON else own
        if name == "config":
            own[name] = as_kept(value)
        elif value != _USUAL[name]:
            unusual[name] = value
        else:
            unusual.pop(name, None)
    values = tuple(common.values())
    return _head(tuple(own), tuple(common), values, tuple(map(type, values))), *own.values()


# Types are told apart by hand: what is equal need not be the same, such as a state and its text.
@functools.lru_cache(maxsize=1024)
def _head(
    own: tuple[str, ...], common: tuple[str, ...], values: tuple[Any, ...], _types: tuple[type[Any], ...]
) -> _Head:
    return _Head(own, dict(zip(common, values, strict=True)))
