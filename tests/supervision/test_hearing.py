"""Whoever waits for a job, or reads its events, hears of every change, also of one that comes between two steps."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import pytest_asyncio

from crynux_async import Job, JobProgressed, JobState, Session
from crynux_async.clock import utc_now
from crynux_async.job import record_of
from crynux_async.ledgers.base import EventRow, Fence, JobChange
from crynux_async.ledgers.conformance.support import job as new_row
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.supervision.event_log import EventLog
from crynux_async.supervision.event_reader import EventReader
from crynux_async.supervision.event_rows import row_of
from crynux_async.supervision.record import Record
from crynux_async.supervision.register import JobRegister
from tests.fake_backend import FakeBackend, make_config
from tests.supervision.test_onlookers import open_session

SOON = 2.0  # seconds within which everybody hears, and nothing else is written


class Elsewhere:
    """What another process does with its jobs, write by write."""

    def __init__(self, ledger: MemoryLedger, fence: Fence) -> None:
        self._ledger = ledger
        self._fence = fence
        self._last: dict[str, int] = {}

    async def add(self, *names: str) -> None:
        """Add running jobs."""
        rows = [new_row(name, backend=FakeBackend().name, task_id=name, state=JobState.RUNNING) for name in names]
        await self._ledger.add(rows, fence=self._fence)

    async def move(self, **states: JobState) -> None:
        """Let jobs come to other states, all in one write, each with its event."""
        await self._ledger.change(self._fence, [self._change(name, states[name]) for name in states])

    def _change(self, name: str, state: JobState) -> JobChange:
        number = self._last[name] = self._last.get(name, 0) + 1
        event = progress(name, number)
        return JobChange(job_id=name, columns={"state": state, "last_event": number}, events=[event])


def progress(name: str, number: int) -> EventRow:
    return row_of(JobProgressed(job_id=name, task_id=None, at=utc_now(), stage="on"), number)


@pytest_asyncio.fixture
async def place() -> AsyncIterator[tuple[Elsewhere, Session]]:
    """Another process, and a session that holds no job."""
    ledger = MemoryLedger()
    async with open_session(FakeBackend(), ledger, follow=False) as session:
        yield Elsewhere(ledger, await ledger.enter("another", seconds=9000)), session


async def find(session: Session, name: str) -> Job:
    handle = await session.find(name)
    assert handle is not None
    return handle


async def numbers(job: Job, after: int = 0) -> list[int]:
    return [event.number async for event in job.events(after=after)]


@contextmanager
def heard(record: Record) -> Iterator[None]:
    """A block in which somebody reads a job's events."""
    record.begin_reading()
    try:
        yield
    finally:
        record.end_reading()


async def test_reader_hears_of_an_event_that_another_caller_has_read_first(place: tuple[Elsewhere, Session]) -> None:
    elsewhere, session = place
    await elsewhere.add("a")
    reading = asyncio.create_task(numbers(await find(session, "a")))
    await asyncio.sleep(10)
    await elsewhere.move(a=JobState.RUNNING)
    await asyncio.sleep(0.1)  # the session has just looked, and looks again in a while
    await elsewhere.move(a=JobState.SUCCEEDED)
    await find(session, "a")
    assert await asyncio.wait_for(reading, SOON) == [1, 2]


async def test_waiter_that_comes_between_two_looks_hears_of_what_the_last_has_not_read(
    place: tuple[Elsewhere, Session],
) -> None:
    elsewhere, session = place
    await elsewhere.add("a", "b")
    other = asyncio.create_task((await find(session, "b")).wait())
    handle = await find(session, "a")
    await asyncio.sleep(10)
    await elsewhere.move(a=JobState.SUCCEEDED)
    await asyncio.sleep(0.1)
    assert (await asyncio.wait_for(handle.wait(), SOON)).state is JobState.SUCCEEDED
    other.cancel()


async def test_waiter_that_waits_again_is_listened_for_when_another_has_ended(place: tuple[Elsewhere, Session]) -> None:
    elsewhere, session = place
    await elsewhere.add("a", "b")
    await elsewhere.move(b=JobState.PLANNED)
    ending, going_on = [asyncio.create_task((await find(session, name)).wait()) for name in ("a", "b")]
    await asyncio.sleep(10)
    # Both are woken by one look, and the one whose wait is over lets be what nobody waits for.
    await elsewhere.move(a=JobState.SUCCEEDED, b=JobState.RUNNING)
    await ending
    await elsewhere.move(b=JobState.SUCCEEDED)
    assert (await asyncio.wait_for(going_on, SOON)).state is JobState.SUCCEEDED


async def test_reader_goes_on_to_an_end_that_was_heard_of_while_it_read() -> None:
    ledger = MemoryLedger()
    elsewhere = Elsewhere(ledger, await ledger.enter("another", seconds=9000))
    await elsewhere.add("a")
    record = Record(job_id="a", planned_at=utc_now(), state=JobState.RUNNING, is_ours=False)
    reads = 0

    class Reading:
        async def events(self, job_id: str, *, after: int) -> list[EventRow]:
            nonlocal reads
            reads += 1
            rows = await ledger.events(job_id, after=after)
            if reads == 1:
                await elsewhere.move(a=JobState.SUCCEEDED)
                record.state, record.last_event = JobState.SUCCEEDED, 1
                record.call_readers()
            return rows

    reader = EventReader(Reading(), EventLog(keeps_all=True), lambda: False)  # type: ignore[arg-type]  # all it calls
    with heard(record):
        events = [event async for event in reader.read(record, reader.bookmark(record, 0))]
    assert [event.number for event in events] == [1]


async def test_readers_that_are_called_together_read_what_is_new_once() -> None:
    ledger = MemoryLedger()
    elsewhere = Elsewhere(ledger, await ledger.enter("another", seconds=9000))
    await elsewhere.add("a")
    record = Record(job_id="a", planned_at=utc_now(), state=JobState.RUNNING, is_ours=False)
    reads: list[int] = []

    class Slow:
        async def events(self, job_id: str, *, after: int) -> list[EventRow]:
            reads.append(after)
            await asyncio.sleep(1)
            return await ledger.events(job_id, after=after)

    reader = EventReader(Slow(), EventLog(keeps_all=True), lambda: False)  # type: ignore[arg-type]  # all it calls

    async def numbers() -> list[int]:
        with heard(record):
            return [event.number async for event in reader.read(record, reader.bookmark(record, 0))]

    reading = [asyncio.create_task(numbers()) for _ in range(20)]
    gives_up = asyncio.create_task(numbers())
    await asyncio.sleep(2)
    assert reads == [0]
    await elsewhere.move(a=JobState.SUCCEEDED)
    record.state, record.last_event = JobState.SUCCEEDED, 1
    record.call_readers()
    await asyncio.sleep(0.5)
    # The one that reads for all of them is cancelled: the others read for themselves.
    reading[0].cancel()
    gives_up.cancel()
    assert await asyncio.gather(*reading[1:]) == [[1]] * 19
    assert reads == [0, 0, 0]


@pytest.mark.parametrize(
    "change",
    [
        lambda record: setattr(record, "last_event", 1),
        lambda record: setattr(record, "state", JobState.UNCONFIRMED),
    ],
    ids=["an event", "a state"],
)
async def test_readers_are_called_by_whoever_brings_a_record_up_to_date(change: Callable[[Record], None]) -> None:
    record = Record(job_id="a", planned_at=utc_now(), state=JobState.RUNNING, is_ours=False)
    register = JobRegister()
    with heard(record):
        before = record.news
        register.replace(record, lambda: None)
        assert record.news == before
        register.replace(record, lambda: change(record))
        assert record.news > before


async def test_event_of_a_job_that_is_being_given_back_leaves_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    async with open_session(backend, ledger) as session:
        job = await session.submit(make_config())
        await session.find(job.job_id)
        supervisor, record = session._supervisor, record_of(job)
        assert supervisor is not None
        real = ledger.drop

        async def drop(fence: Fence, job_ids: Sequence[str]) -> None:
            supervisor.register.tell(JobProgressed(job_id=job.job_id, task_id="1", at=utc_now(), stage="late"))
            await real(fence, job_ids)

        monkeypatch.setattr(ledger, "drop", drop)
        await supervisor._writer.let_go([record])
        row = await ledger.get(job.job_id)
        assert row is not None
        assert record.last_event == row.last_event
        assert supervisor._writer.events.waiting(job.job_id) == ()


async def test_event_that_was_refused_because_the_job_was_lost_is_not_counted() -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    async with open_session(backend, ledger) as first, open_session(backend, ledger, follow=False) as second:
        job = await first.submit(make_config())
        await first.find(job.job_id)
        mine, other = first._supervisor, second._supervisor
        assert mine is not None
        assert other is not None
        reading = asyncio.create_task(numbers(job))
        await asyncio.sleep(1)
        await ledger.leave(mine._writer.fence)
        await ledger.take(other._writer.fence, [job.job_id])
        mine.register.tell(JobProgressed(job_id=job.job_id, task_id="1", at=utc_now(), stage="too late"))
        await mine._writer.flush()
        assert not record_of(job).is_ours
        row = await ledger.get(job.job_id)
        assert row is not None
        assert record_of(job).last_event == row.last_event
        end = {"state": JobState.FAILED, "last_event": row.last_event + 1}
        change = JobChange(job_id=job.job_id, columns=end, events=[progress(job.job_id, row.last_event + 1)])
        await ledger.change(other._writer.fence, [change])
        assert await asyncio.wait_for(reading, SOON) == [*range(1, row.last_event + 2)]
