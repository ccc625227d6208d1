"""Every create of a ledger in memory, as one log.

A hundred thousand must fit: an attempt is a place in a few lists, and is found again by its position. What many
attempts have in common, such as service and outcome, is there once. The attempts of a job are a chain from the last one
back.
"""

import functools
from array import array
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from crynux_async.ledgers.base import AttemptOutcome, AttemptRow
from crynux_async.ledgers.columns import from_microseconds, to_microseconds
from crynux_async.ledgers.memory.undo import Undo

if TYPE_CHECKING:
    from crynux_async.ledgers.base import Neighbours

NONE = -1
"""The position of an attempt that is not there."""

_OPEN = frozenset({None, AttemptOutcome.UNKNOWN})
_BEGUN = ("backend", "number", "key_id", "try_number")
_ENDED = ("outcome", "payload", "wait", "status", "answer")
_BACKEND, _NUMBER, _OUTCOME = 0, 1, len(_BEGUN)
_begun_of, _ended_of = attrgetter(*_BEGUN), attrgetter(*_ENDED)

_End: TypeAlias = tuple[str | None, tuple[Any, ...], int, int]
"""What becomes another one when it ends: task, what it has in common with others, when it was answered, and how many
had begun by then."""


class AttemptLog:
    """Attempts in the order in which they were begun."""

    def __init__(self) -> None:
        self._job_ids: list[str] = []
        self._task_ids: list[str | None] = []
        self._common: list[tuple[Any, ...]] = []
        self._began_at = array("q")  # microseconds since 1970
        self._answered_at = array("q")
        self._previous = array("i")  # for each attempt, the position of the one before it of the same job
        # For each attempt, how many had begun when it was finished: the order of events without any clock.
        self._begun_at_finish = array("i")

    def __len__(self) -> int:
        return len(self._job_ids)

    def __iter__(self) -> Iterator[AttemptRow]:
        return map(self._row, range(len(self)))

    def add(self, attempt: AttemptRow, previous: int, undo: Undo) -> int:
        """Add an attempt behind the one before it of the same job, and return its position."""
        began_at, answered_at = to_microseconds(attempt.began_at), _answered_at(attempt)  # first: they may raise
        self._job_ids.append(attempt.job_id)
        self._task_ids.append(attempt.task_id)
        self._common.append(_one_of((*_begun_of(attempt), *_ended_of(attempt))))
        self._began_at.append(began_at)
        self._answered_at.append(answered_at)
        self._previous.append(previous)
        self._begun_at_finish.append(NONE)
        undo.by(self._drop_last)
        return len(self) - 1

    def finish(self, position: int, attempt: AttemptRow, undo: Undo) -> None:
        """Enter what became of an attempt."""
        known = self._common[position]
        common = _one_of((*known[: len(_BEGUN)], *_ended_of(attempt)))
        before = self._task_ids[position], known, self._answered_at[position], self._begun_at_finish[position]
        undo.by(self._put, position, before)
        self._put(position, (attempt.task_id, common, _answered_at(attempt), len(self)))

    def may_become(self, position: int, outcome: AttemptOutcome | None) -> bool:
        """Whether an attempt may get this outcome: every one but an unknown one is final."""
        known = self._common[position][_OUTCOME]
        return known in _OPEN or known is outcome

    def of_all(self, lasts: Iterable[int]) -> list[AttemptRow]:
        """Return the attempts of jobs, of which the last ones are at these positions."""
        return [self._row(index) for index in sorted(index for last in lasts for index in self._chain(last))]

    def position(self, last: int, number: int) -> int:
        """Return where an attempt of a job is, by its number, or ``NONE``."""
        while last != NONE and self._common[last][_NUMBER] != number:
            last = self._previous[last]
        return last

    def neighbours(self, position: int, at_most: int) -> "Neighbours":
        """Return what the attempt at a position lies between."""
        from crynux_async.ledgers.base import Neighbours

        backend, ended = self._common[position][_BACKEND], self._begun_at_finish[position]
        before, after, under_way = [], [], []
        for index, other in enumerate(self._common):
            if other[_BACKEND] != backend or index == position:
                continue
            # Compared are counts of begun creates, never times: answered before this one began, begun after it was
            # answered, or neither.
            if NONE < self._begun_at_finish[index] <= position:
                before.append(index)
            elif NONE < ended <= index:
                after.append(index)
            elif other[_OUTCOME] in _OPEN:
                under_way.append(self._row(index))
        before.sort(key=lambda index: (self._begun_at_finish[index], index), reverse=True)
        return Neighbours(
            before=self._tasks_at(before)[:at_most], after=self._tasks_at(after)[:at_most], under_way=tuple(under_way)
        )

    def _drop_last(self) -> None:
        self._job_ids.pop()
        self._task_ids.pop()
        self._common.pop()
        for column in (self._began_at, self._answered_at, self._previous, self._begun_at_finish):
            column.pop()

    def _put(self, position: int, end: _End) -> None:
        self._task_ids[position], self._common[position] = end[:2]
        self._answered_at[position], self._begun_at_finish[position] = end[2:]

    def _row(self, position: int) -> AttemptRow:
        answered_at = self._answered_at[position]
        return AttemptRow(
            job_id=self._job_ids[position],
            task_id=self._task_ids[position],
            began_at=from_microseconds(self._began_at[position]),
            answered_at=None if answered_at == NONE else from_microseconds(answered_at),
            **dict(zip((*_BEGUN, *_ENDED), self._common[position], strict=True)),
        )

    def _chain(self, last: int) -> Iterator[int]:
        while last != NONE:
            yield last
            last = self._previous[last]

    def _tasks_at(self, positions: Iterable[int]) -> tuple[str, ...]:
        found = (self._task_ids[index] for index in positions)
        return tuple(task_id for task_id in found if task_id is not None)


def _answered_at(attempt: AttemptRow) -> int:
    return NONE if attempt.answered_at is None else to_microseconds(attempt.answered_at)


# Bounded, so that payloads and answers, which each attempt has for itself, push out only what is seldom.
@functools.lru_cache(maxsize=256, typed=True)
def _one_of(common: tuple[Any, ...]) -> tuple[Any, ...]:
    return common
