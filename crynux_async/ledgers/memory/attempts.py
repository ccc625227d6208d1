"""Every create of a ledger in memory, as one log.

A hundred thousand must fit: an attempt is one row in one list, and is found again by its position. The attempts of a
job are a chain from the last one back.
"""

from array import array
from collections.abc import Iterable, Iterator

from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, Neighbours
from crynux_async.ledgers.memory.undo import Undo

NONE = -1
"""The position of an attempt that is not there."""

_OPEN = frozenset({None, AttemptOutcome.UNKNOWN})


class AttemptLog:
    """Attempts in the order in which they were begun."""

    def __init__(self) -> None:
        self._rows: list[AttemptRow] = []
        self._previous = array("q")  # for each attempt, the position of the one before it of the same job
        # For each attempt, how many had begun when it was finished: the order of events without any clock.
        self._begun_at_finish = array("q")

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[AttemptRow]:
        return iter(self._rows)

    def add(self, attempt: AttemptRow, previous: int, undo: Undo) -> int:
        """Add an attempt behind the one before it of the same job, and return its position."""
        undo.append(self._rows, attempt)
        undo.append(self._previous, previous)
        undo.append(self._begun_at_finish, NONE)
        return len(self._rows) - 1

    def finish(self, position: int, attempt: AttemptRow, undo: Undo) -> None:
        """Replace an attempt by what became of it."""
        undo.replace(self._rows, position, attempt)
        undo.replace(self._begun_at_finish, position, len(self._rows))

    def may_become(self, position: int, outcome: AttemptOutcome | None) -> bool:
        """Whether an attempt may get this outcome: every one but an unknown one is final."""
        known = self._rows[position].outcome
        return known in _OPEN or known is outcome

    def of_all(self, lasts: Iterable[int]) -> list[AttemptRow]:
        """Return the attempts of jobs, of which the last ones are at these positions."""
        return [self._rows[index] for index in sorted(index for last in lasts for index in self._chain(last))]

    def position(self, last: int, number: int) -> int:
        """Return where an attempt of a job is, by its number, or ``NONE``."""
        return next((index for index in self._chain(last) if self._rows[index].number == number), NONE)

    def neighbours(self, position: int, at_most: int) -> Neighbours:
        """Return what the attempt at a position lies between."""
        backend, ended = self._rows[position].backend, self._begun_at_finish[position]
        before, after, under_way = [], [], []
        for index, other in enumerate(self._rows):
            if other.backend != backend or index == position:
                continue
            # Compared are counts of begun creates, never times: answered before this one began, begun after it was
            # answered, or neither.
            if NONE < self._begun_at_finish[index] <= position:
                before.append(index)
            elif NONE < ended <= index:
                after.append(index)
            elif other.outcome in _OPEN:
                under_way.append(other)
        before.sort(key=lambda index: (self._begun_at_finish[index], index), reverse=True)
        return Neighbours(
            before=self._task_ids(before)[:at_most], after=self._task_ids(after)[:at_most], under_way=tuple(under_way)
        )

    def _chain(self, last: int) -> Iterator[int]:
        while last != NONE:
            yield last
            last = self._previous[last]

    def _task_ids(self, positions: Iterable[int]) -> tuple[str, ...]:
        found = (self._rows[index].task_id for index in positions)
        return tuple(task_id for task_id in found if task_id is not None)
