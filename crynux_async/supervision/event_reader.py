"""Reading the events of one job: what is stored of it, then what comes, from whichever process."""

from collections.abc import AsyncGenerator, Callable

from crynux_async.clock import utc_now
from crynux_async.events import DownloadFailed, Event, EventsMissed, JobStateChanged
from crynux_async.ledgers.base import Ledger
from crynux_async.states import STAGES, Stage
from crynux_async.supervision.event_log import EventLog
from crynux_async.supervision.event_rows import event_of
from crynux_async.supervision.record import Record


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

    async def read(self, record: Record, after: int | None) -> AsyncGenerator[Event, None]:
        """Yield what happened to a job behind a number, and then what happens, until nothing more can.

        Args:
            record: The job.
            after: The number of the last event that is known; None to begin with where the job is.

        Raises:
            LedgerError: The events cannot be read.
        """
        event: Event | None = None
        if after is None:
            event = _present(record)
            after = event.number
            yield event
        elif after:
            # What was read last, perhaps by an earlier process, may be what nothing follows.
            event = await self._event_at(record, after)
        while True:
            news, last, is_stored = record.news, record.last_event, not self._log.waiting(record.job_id)
            # All of it before the rows are read: an end that is heard of meanwhile has an event that is not among them.
            may_end = is_over(record, event)
            rows = await self._ledger.events(record.job_id, after=after)
            first = rows[0].number if rows else last + 1
            if first > after + 1 and (rows or is_stored):
                yield _missed(record, first - after - 1, first - 1)
                after = first - 1
            for row in rows:
                after, event = row.number, event_of(row)
                yield event
            if not rows and after >= last and may_end:
                return
            if not rows and not await self._has_news(record, news):
                return

    async def _event_at(self, record: Record, number: int) -> Event | None:
        """Return the event of a job with a number, or None where there is none (any more)."""
        rows = await self._ledger.events(record.job_id, after=number - 1, limit=1)
        return event_of(rows[0]) if rows and rows[0].number == number else None

    async def _has_news(self, record: Record, news: int) -> bool:
        """Wait until there may be more events, and return whether the session is open still."""
        await record.until(lambda: record.news != news or self._is_closed(), _nothing)
        return not self._is_closed()


def is_over(record: Record, event: Event | None) -> bool:
    """Whether nothing more happens to a job by itself after its newest event."""
    if STAGES[record.state] is Stage.FETCH:
        return record.wanted is None or isinstance(event, DownloadFailed)
    return record.done and not record.is_cut_off


def _present(record: Record) -> JobStateChanged:
    return JobStateChanged(
        job_id=record.job_id,
        task_id=record.task_id,
        at=utc_now(),
        number=record.last_event,
        previous=None,
        state=record.state,
    )


def _missed(record: Record, count: int, number: int) -> EventsMissed:
    return EventsMissed(job_id=record.job_id, task_id=record.task_id, at=utc_now(), number=number, count=count)


def _nothing() -> None:
    return None
