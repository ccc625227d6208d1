"""What is planned for which instant, soonest first; of two for the same instant, the one that was planned first.

What is planned is a place in the lists of whoever plans: a small number, >= 0. Instants are few, because they are
rounded to a tick, and jobs are many: a heap of instants, each with a list of what is planned for it, takes 16 bytes for
a job where a heap of jobs takes 128. What is planned anew, or not any more, stays where it was as garbage until it
comes up, or until half of all is garbage.
"""

import math
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

_GARBAGE_MIN = 64


class _Instant(list[int]):
    """What was planned for an instant, and how much of that was taken already."""

    __slots__ = ("at", "taken")

    def __init__(self, at: float) -> None:
        self.at = at
        self.taken = 0


class Agenda:
    """Places by the instant for which they are planned."""

    def __init__(self) -> None:
        self._heap: list[float] = []
        self._instants: dict[float, _Instant] = {}
        self._planned: list[_Instant | None] = []
        self._garbage = 0
        self.size = 0
        """Entries, garbage included."""

    def __len__(self) -> int:
        return self.size - self._garbage

    def plan(self, place: int, at: float) -> None:
        """Plan a place for an instant, and not for another any more.

        One that was planned for this one before, and has not been taken, comes as early as it did then.
        """
        planned = self._planned
        while place >= len(planned):
            planned.append(None)
        if planned[place] is not None:
            self.cancel(place)
        instant = self._instants.get(at)
        if instant is None:
            instant = self._instants[at] = _Instant(at)
            heappush(self._heap, at)
        instant.append(place)
        planned[place] = instant
        self.size += 1

    def cancel(self, place: int) -> None:
        """Plan a place no more; one that is not planned stays so."""
        if place >= len(self._planned) or self._planned[place] is None:
            return
        self._planned[place] = None
        self._garbage += 1
        if self._garbage >= _GARBAGE_MIN and self._garbage * 2 > self.size:
            self._sweep()

    def next_at(self) -> float:
        """Return the soonest instant for which anything is planned; infinity where nothing is."""
        instant = self._first()
        return math.inf if instant is None else instant.at

    def clear(self) -> None:
        """Plan nothing any more, and keep no room for it."""
        self._heap, self._instants, self._planned = [], {}, []
        self._garbage = self.size = 0

    def take(self, now: float, at_most: int) -> Iterator[tuple[float, int]]:
        """Take out what is planned until now, and yield each place with its instant."""
        for _ in range(at_most):
            instant = self._first()
            if instant is None or instant.at > now:
                return
            place = self._next_of(instant)
            self._planned[place] = None
            yield instant.at, place

    def _first(self) -> _Instant | None:
        """Return the soonest instant, with what is planned for it in front; garbage before it is dropped."""
        while self._heap:
            instant = self._instants[self._heap[0]]
            while instant.taken < len(instant):
                if self._planned[instant[instant.taken]] is instant:
                    return instant
                self._next_of(instant)
                self._garbage -= 1
            del self._instants[heappop(self._heap)]
        return None

    def _next_of(self, instant: _Instant) -> int:
        self.size -= 1
        instant.taken += 1
        return instant[instant.taken - 1]

    def _sweep(self) -> None:
        """Drop all garbage."""
        for instant in self._instants.values():
            # Each once: what was planned for another instant meanwhile, and for this one again, stands here twice.
            live = (place for place in instant[instant.taken :] if self._planned[place] is instant)
            instant[:], instant.taken = dict.fromkeys(live), 0
        self._instants = {at: instant for at, instant in self._instants.items() if instant}
        self._heap = list(self._instants)
        heapify(self._heap)
        self.size, self._garbage = sum(map(len, self._instants.values())), 0
