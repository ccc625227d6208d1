"""What is going to happen at the relay by itself, and when."""

import heapq
import math
from collections.abc import Callable

Act = Callable[[float], None]


class Agenda:
    """Things to do, each at its time; nothing is done before somebody asks for a later time.

    Theory of operation: the relay's own loops look at everything every few seconds. Here each thing is entered with the
    time at which its loop would have come to it, and done in that order when a request arrives that may see it.
    """

    __slots__ = ("_count", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Act]] = []
        self._count = 0

    def add(self, when: float, act: Act) -> None:
        """Enter something to be done at ``when``; it gets that time as its argument."""
        # Things of one time in the order in which they were entered; functions cannot be compared.
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, act))

    def advance(self, now: float) -> None:
        """Do everything that is due by ``now``, things that come up on the way included."""
        while self._heap and self._heap[0][0] <= now:
            when, _, act = heapq.heappop(self._heap)
            act(when)

    @property
    def due(self) -> float | None:
        """When the next thing is due, or None."""
        return self._heap[0][0] if self._heap else None


def next_tick(when: float, *, start: float, interval: float) -> float:
    """Return the first time at or after ``when`` at which a loop with ``interval`` seconds comes round.

    Args:
        when: A time, >= ``start``.
        start: When the loop began; its first round is one interval later.
        interval: Seconds between rounds, > 0.
    """
    # Rounded first: seconds since 1970 have too few digits left to hit a round exactly.
    rounds = max(1, math.ceil(round((when - start) / interval, 6)))
    # What is rounded away must not be lost: whatever is looked at before it is due is not looked at again.
    return max(when, start + rounds * interval)
