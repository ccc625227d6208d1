"""Reading the events of one job: what is stored of it, then what comes, from whichever process."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING

from crynux_async.clock import utc_now
from crynux_async.errors import LedgerBusyError
from crynux_async.ledgers.base import Ledger
from crynux_async.states import STAGES, Stage
from crynux_async.supervision.event_log import EventLog
from crynux_async.supervision.record import Record

if TYPE_CHECKING:
    from crynux_async.events import Event, EventsMissed, JobStateChanged
    from crynux_async.ledgers.base import EventRow

_TRY_AGAIN = 1.0


class EventReader:
    """Yields the events of jobs.

    Args:
        ledger: Has them.
        log: Has those of this session's jobs that are not stored yet.
        is_closed: Whether nothing will come any more.
    """

    def __init__(self, ledger: Ledger, log: EventLog, is_closed: Callable[[], bool]) -> None:
        self._ledger = ledger
        self._log = log
        self._is_closed = is_closed
        self._asked: dict[tuple[str, int, int], asyncio.Future[tuple[Event, ...] | None]] = {}

    def is_stored(self, record: Record) -> bool:
        """Whether the ledger has every event of a job that has happened."""
        return not self._log.waiting(record.job_id)

    def bookmark(self, record: Record, after: int | None) -> "Bookmark":
        """Return a place in the events of a job: behind a number, or where the job is (None)."""
        return Bookmark(self, record, after)

    async def read(self, record: Record, bookmark: "Bookmark") -> "AsyncGenerator[Event, None]":
        """Yield what happened to a job behind a place, and then what happens, until nothing more can.

        Args:
            record: The job.
            bookmark: The place in its events; it moves along.

        Raises:
            LedgerError: The events cannot be read.
        """
        while not bookmark.is_at_end:
            for event in await bookmark.more():
                yield event
            if bookmark.is_up_to_date and not await self._has_news(record, bookmark):
                return

    async def event_at(self, record: Record, number: int) -> "Event | None":
        """Return the event of a job with a number, or None where there is none (any more).

        Raises:
            LedgerError: It cannot be read.
        """
        from crynux_async.supervision.event_rows import event_of

        rows = await self._rows(lambda: self._ledger.events(record.job_id, after=number - 1, limit=1))
        return event_of(rows[0]) if rows and rows[0].number == number else None

    async def _rows(self, read: "Callable[[], Awaitable[list[EventRow]]]") -> "list[EventRow]":
        """Return stored events as soon as they can be read: a server that restarts ends no reader.

        Raises:
            LedgerError: They cannot be read (any more).
        """
        while True:
            try:
                return await read()
            except LedgerBusyError:
                if self._is_closed():
                    raise
            await asyncio.sleep(_TRY_AGAIN)

    async def events(self, record: Record, after: int) -> "tuple[Event, ...]":
        """Return the stored events of a job behind a number. Readers who are called together read them once.

        Raises:
            LedgerError: They cannot be read.
        """
        # The news are in it, or a reader would be handed what was read before it was called.
        key = record.job_id, after, record.news
        while (asked := self._asked.get(key)) is not None:
            found = await asyncio.shield(asked)
            if found is not None:
                return found
        answer = self._asked[key] = asyncio.get_running_loop().create_future()
        found = None
        try:
            from crynux_async.supervision.event_rows import event_of

            rows = await self._rows(lambda: self._ledger.events(record.job_id, after=after))
            found = tuple(map(event_of, rows))
            return found
        finally:
            # Whoever gets none asks for themselves: this reader was cancelled, or could not read.
            del self._asked[key]
            answer.set_result(found)

    async def _has_news(self, record: Record, bookmark: "Bookmark") -> bool:
        """Wait until there may be more events, and return whether the session is open still."""
        await record.until(lambda: not bookmark.is_up_to_date or self._is_closed(), _nothing)
        return not self._is_closed()


class Bookmark:
    """How far one reader has read the events of a job. Thousands of readers wait with no more than this.

    Attributes:
        is_at_end: Whether nothing more happens to the job by itself.
    """

    __slots__ = ("_after", "_event", "_is_behind", "_news", "_reader", "_record", "is_at_end")

    def __init__(self, reader: EventReader, record: Record, after: int | None) -> None:
        self._reader = reader
        self._record = record
        self._after = after
        self._event: Event | None = None
        self._news: int | None = None
        self._is_behind = False
        self.is_at_end = False

    @property
    def is_up_to_date(self) -> bool:
        """Whether everything was read that this session has heard of."""
        return self._news == self._record.news and not self._is_behind and not self.is_at_end

    async def more(self) -> "list[Event]":
        """Return the events behind the place as far as there are any, and move it behind them.

        Raises:
            LedgerError: They cannot be read.
        """
        record, found = self._record, await self._first() if self._news is None else []
        assert self._after is not None
        self._news, last, is_stored = record.news, record.last_event, self._reader.is_stored(record)
        # All of it before the rows are read: an end that is heard of meanwhile has an event that is not among them.
        may_end = is_over(record, self._event)
        events = await self._reader.events(record, self._after)
        first = events[0].number if events else last + 1
        if first > self._after + 1 and (events or is_stored):
            found.append(_missed(record, first - self._after - 1, first - 1))
            self._after = first - 1
        if events:
            self._event, self._after = events[-1], events[-1].number
            # What was read is as new as what is known of the job, or it is looked at once more.
            self._is_behind = self._after != record.last_event
            self.is_at_end = not self._is_behind and is_over(record, self._event)
        else:
            self._is_behind = False
            self.is_at_end = may_end and self._after >= last
        return [*found, *events]

    async def _first(self) -> "list[Event]":
        """Return what is told before anything is read, and learn what was read last."""
        if self._after is None:
            present = _present(self._record)
            self._event, self._after = present, present.number
            return [present]
        if self._after:
            # Perhaps by an earlier process; it may be what nothing follows.
            self._event = await self._reader.event_at(self._record, self._after)
        return []


def is_over(record: Record, event: "Event | None") -> bool:
    """Whether nothing more happens to a job by itself after its newest event."""
    if STAGES[record.state] is Stage.FETCH:
        from crynux_async.events import DownloadFailed

        return record.wanted is None or isinstance(event, DownloadFailed)
    return record.done and not record.is_cut_off


def _present(record: Record) -> "JobStateChanged":
    from crynux_async.events import JobStateChanged

    return JobStateChanged(
        job_id=record.job_id,
        task_id=record.task_id,
        at=utc_now(),
        number=record.last_event,
        previous=None,
        state=record.state,
    )


def _missed(record: Record, count: int, number: int) -> "EventsMissed":
    from crynux_async.events import EventsMissed

    return EventsMissed(job_id=record.job_id, task_id=record.task_id, at=utc_now(), number=number, count=count)


def _nothing() -> None:
    return None
