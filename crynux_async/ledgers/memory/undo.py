"""What makes a write in memory whole or nothing: a change is made at once, and taken back where a later one fails."""

from collections.abc import Callable, MutableMapping, MutableSequence
from typing import Any, Self, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class Undo:
    """Makes changes in a block, and takes them back, in the opposite order, where the block fails.

    Args:
        committed: Called at the end of a block that did not fail.
    """

    __slots__ = ("_committed", "_steps")

    def __init__(self, committed: Callable[[], object]) -> None:
        self._committed = committed
        self._steps: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._committed()
        # The last change first: one key may have been put twice.
        while kind is not None and self._steps:
            take_back, arguments = self._steps.pop()
            take_back(*arguments)

    def by(self, take_back: Callable[..., object], *arguments: Any) -> None:
        """Have a change that was just made taken back by a call."""
        self._steps.append((take_back, arguments))

    def put(self, table: MutableMapping[_K, _V], key: _K, value: _V) -> None:
        """Give a key of a table a value."""
        if key in table:
            self._steps.append((table.__setitem__, (key, table[key])))
        else:
            self._steps.append((table.__delitem__, (key,)))
        table[key] = value

    def remove(self, table: MutableMapping[_K, _V], key: _K) -> None:
        """Take a key out of a table."""
        if key in table:
            self._steps.append((table.__setitem__, (key, table.pop(key))))

    def append(self, items: MutableSequence[_V], value: _V) -> None:
        """Add to the end of a list."""
        self._steps.append((items.pop, ()))
        items.append(value)

    def replace(self, items: MutableSequence[_V], index: int, value: _V) -> None:
        """Replace one item of a list."""
        self._steps.append((items.__setitem__, (index, items[index])))
        items[index] = value
