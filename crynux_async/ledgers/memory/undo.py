"""What makes a write in memory whole or nothing: a change is made at once, and taken back where a later one fails."""

from collections.abc import Callable, Iterator, MutableMapping, MutableSequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class Undo:
    """Makes changes, and can take them back in the opposite order."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def set(self, thing: object, name: str, value: Any) -> None:
        """Give an attribute another value."""
        self._steps.append(partial(setattr, thing, name, getattr(thing, name)))
        setattr(thing, name, value)

    def put(self, table: MutableMapping[_K, _V], key: _K, value: _V) -> None:
        """Give a key of a table a value."""
        if key in table:
            self._steps.append(partial(table.__setitem__, key, table[key]))
        else:
            self._steps.append(partial(table.__delitem__, key))
        table[key] = value

    def remove(self, table: MutableMapping[_K, _V], key: _K) -> None:
        """Take a key out of a table."""
        if key in table:
            self._steps.append(partial(table.__setitem__, key, table.pop(key)))

    def append(self, items: MutableSequence[_V], value: _V) -> None:
        """Add to the end of a list."""
        self._steps.append(items.pop)
        items.append(value)

    def replace(self, items: MutableSequence[_V], index: int, value: _V) -> None:
        """Replace one item of a list."""
        self._steps.append(partial(items.__setitem__, index, items[index]))
        items[index] = value

    def take_back(self) -> None:
        """Undo everything."""
        while self._steps:
            self._steps.pop()()


@contextmanager
def undone_on_error() -> Iterator[Undo]:
    """Give an ``Undo`` whose changes stay if the block ends well."""
    undo = Undo()
    try:
        yield undo
    except BaseException:
        undo.take_back()
        raise
