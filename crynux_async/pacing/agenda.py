"""What is planned for which instant, soonest first; of two for the same instant, the one that was planned first.

Instants are few, because whoever plans rounds them to a tick, and jobs are many: a heap of instants, each with a list
of what is planned for it, takes 8 bytes for a job where a heap of jobs takes 128. What is planned anew, or not any
more, stays where it was as garbage until it comes up, or until half of all is garbage.
"""

import math
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

_GARBAGE_MIN = 64
_P = TypeVar("_P", bound="Plannable")


class Instant(list[_P]):
    """What was planned for an instant, and how much of that was taken already."""

    __slots__ = ("at", "taken")

    def __init__(self, at: float) -> None:
        self.at = at
        self.taken = 0


class Plannable:
    """Something that can be planned; ``instant`` is for when it is, or None. An agenda alone sets it."""

    __slots__ = ("instant",)

    def __init__(self) -> None:
        self.instant: Instant[Any] | None = None


class Agenda(Generic[_P]):
    """Things by the instant for which they are planned."""

    def __init__(self) -> None:
        self._heap: list[float] = []
        self._instants: dict[float, Instant[_P]] = {}
        self._garbage = 0
        self.size = 0
        """Places that are taken, garbage included."""

    def __len__(self) -> int:
        return self.size - self._garbage

    def plan(self, thing: _P, at: float) -> None:
        """Plan something for an instant, and not for another any more.

        What was planned for this one before, and has not been taken, has its former place there.
        """
        if thing.instant is not None:
            self.cancel(thing)
        instant = self._instants.get(at)
        if instant is None:
            instant = self._instants[at] = Instant(at)
            heappush(self._heap, at)
        instant.append(thing)
        thing.instant = instant
        self.size += 1

    def cancel(self, thing: _P) -> None:
        """Plan something no more; what is not planned stays so."""
        if thing.instant is None:
            return
        thing.instant = None
        self._garbage += 1
        if self._garbage >= _GARBAGE_MIN and self._garbage * 2 > self.size:
            self._sweep()

    def next_at(self) -> float:
        """Return the soonest instant for which anything is planned; infinity where nothing is."""
        instant = self._first()
        return math.inf if instant is None else instant.at

    def take(self, now: float, at_most: int) -> Iterator[tuple[float, _P]]:
        """Take out what is planned until now, and yield each with its instant."""
        for _ in range(at_most):
            instant = self._first()
            if instant is None or instant.at > now:
                return
            thing = self._next_of(instant)
            thing.instant = None
            yield instant.at, thing

    def _first(self) -> Instant[_P] | None:
        """Return the soonest instant, with what is planned for it in front; garbage before it is dropped."""
        while self._heap:
            instant = self._instants[self._heap[0]]
            while instant.taken < len(instant):
                if instant[instant.taken].instant is instant:
                    return instant
                self._next_of(instant)
                self._garbage -= 1
            del self._instants[heappop(self._heap)]
        return None

    def _next_of(self, instant: Instant[_P]) -> _P:
        self.size -= 1
        instant.taken += 1
        return instant[instant.taken - 1]

    def _sweep(self) -> None:
        """Drop all garbage."""
        for instant in self._instants.values():
            # Each once: what was planned for another instant meanwhile, and for this one again, stands here twice.
            live = (thing for thing in instant[instant.taken :] if thing.instant is instant)
            instant[:], instant.taken = dict.fromkeys(live), 0
        self._instants = {at: instant for at, instant in self._instants.items() if instant}
        self._heap = list(self._instants)
        heapify(self._heap)
        self.size, self._garbage = sum(map(len, self._instants.values())), 0
