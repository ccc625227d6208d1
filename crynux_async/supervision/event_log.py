"""The events of a session's own jobs on their way to the ledger.

Only the holder of a job numbers its events, and numbers have no gaps. An event is numbered when it happens and written
with the next change of its job; readers read rows, so that nobody has seen an event that another process then numbers
anew.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from crynux_async.clock import monotonic
from crynux_async.supervision.record import Record

if TYPE_CHECKING:
    from crynux_async.events import Event
    from crynux_async.ledgers.base import EventRow

PROGRESS_EVERY = 2.0
"""Seconds between two events about the bytes of one download."""


class EventLog:
    """Numbers events and keeps them until they are stored.

    Args:
        keeps_all: Whether every job's events are stored; if not, those of a job are as soon as anybody has read them:
            in a ledger that dies with its session nobody else can, and a hundred thousand jobs must fit.
    """

    def __init__(self, *, keeps_all: bool) -> None:
        self._keeps_all = keeps_all
        self._waiting: dict[str, list[EventRow]] = {}
        self._progressed_at: dict[str, float] = {}

    def enter(self, record: Record, event: "Event") -> bool:
        """Number an event and keep it, unless it is not to be stored; return whether it is."""
        if not (self._keeps_all or record.has_been_heard) or self._is_too_soon(event):
            return False
        from crynux_async.supervision.event_rows import row_of

        record.last_event += 1
        self._waiting.setdefault(record.job_id, []).append(row_of(event, record.last_event))
        return True

    def enter_together(self, record: Record, events: "Iterable[Event]") -> "tuple[EventRow, ...]":
        """Number events that are stored with the next write about their job, and return the rows of those that are."""
        before = record.last_event
        for event in events:
            self.enter(record, event)
        return tuple(row for row in self.waiting(record.job_id) if row.number > before)

    def retract(self, record: Record, rows: "Iterable[EventRow]") -> None:
        """Forget events that have not happened after all; what came after them moves up, for nobody has seen it yet."""
        gone = {id(row) for row in rows}  # the job may have been lost and taken again, and others have the numbers now
        waiting = self._waiting.pop(record.job_id, [])
        left = [row for row in waiting if id(row) not in gone]
        first = record.last_event - len(waiting) + 1
        record.last_event -= len(waiting) - len(left)
        if left:
            moved = [attrs.evolve(row, number=number) for number, row in enumerate(left, first)]
            self._waiting[record.job_id] = moved

    def waiting(self, job_id: str) -> "tuple[EventRow, ...]":
        """Return the events of a job that are not stored yet, in order."""
        return tuple(self._waiting.get(job_id, ()))

    def stored(self, rows: "Iterable[EventRow]") -> None:
        """Forget events that were stored."""
        for row in rows:
            left = self._waiting.get(row.job_id)
            if left is not None and left[0] is row:
                left.pop(0)
                if not left:
                    del self._waiting[row.job_id]

    def drop(self, record: Record) -> None:
        """Forget the events of a job that cannot be stored (any more), as if they had not happened."""
        dropped = self._waiting.pop(record.job_id, ())
        record.last_event -= len(dropped)
        self._progressed_at.pop(record.job_id, None)
        if dropped:
            record.call_readers()  # or they wait for numbers that never come

    def _is_too_soon(self, event: "Event") -> bool:
        from crynux_async.events import DownloadProgressed

        if not isinstance(event, DownloadProgressed):
            self._progressed_at.pop(event.job_id, None)
            return False
        now = monotonic()
        if now - self._progressed_at.get(event.job_id, -PROGRESS_EVERY) < PROGRESS_EVERY:
            return True
        self._progressed_at[event.job_id] = now
        return False
