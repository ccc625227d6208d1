"""Events of jobs that outlive their readers, their sessions and their processes. On virtual time."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scorecard.severing import Severable
from crynux_async import (
    ArchiveReady,
    DownloadError,
    DownloadFailed,
    DownloadProgressed,
    Event,
    EventsMissed,
    ImagesReady,
    Job,
    JobProgressed,
    JobQueued,
    JobState,
    JobStateChanged,
    JobSubmitted,
    LedgerBusyError,
    NotFoundError,
    Session,
    StepTaken,
)
from crynux_async.clock import utc_now
from crynux_async.ledgers.base import EventRow, JobChange
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.supervision.event_rows import event_of, row_of
from tests.fake_backend import LEASE, FakeBackend, make_config
from tests.supervision.test_onlookers import Office, found, open_session

TIMES = st.datetimes(timezones=st.just(UTC))
EVENTS: st.SearchStrategy[Event] = st.one_of(
    *(
        st.builds(
            cls, job_id=st.just("j"), task_id=st.none() | st.text(), at=st.datetimes(timezones=st.timezones()), **own
        )
        for cls, own in {
            JobQueued: {"position": st.integers(0), "expected_at": st.none() | TIMES},
            JobSubmitted: {},
            JobStateChanged: {"previous": st.none() | st.sampled_from(JobState), "state": st.sampled_from(JobState)},
            JobProgressed: {"stage": st.text()},
            StepTaken: {"step": st.text(), "member": st.integers(0), "outcome": st.text()},
            ImagesReady: {},
            DownloadProgressed: {"received_bytes": st.integers(0), "total_bytes": st.none() | st.integers(0)},
            ArchiveReady: {"path": st.just(Path("/a/b.zip")), "total_bytes": st.integers(0)},
            DownloadFailed: {"message": st.text()},
        }.items()
    )
)


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def office(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Office]:
    async with AsyncExitStack() as stack:
        yield Office(request.param, tmp_path, stack)


@given(event=EVENTS, number=st.integers(1))
def test_event_comes_back_from_its_row_as_it_was(event: Event, number: int) -> None:
    back = event_of(row_of(event, number))
    assert type(back) is type(event)
    assert back.to_dict() == {**event.to_dict(), "number": number}


def test_event_of_a_later_version_is_a_plain_event() -> None:
    row = EventRow(
        job_id="j",
        number=3,
        at=datetime(2026, 1, 2, tzinfo=UTC),
        kind="JobPainted",
        data={"task_id": "7", "colour": "red"},
    )
    assert event_of(row) == Event(job_id="j", task_id="7", at=row.at, number=3)


def test_event_leaves_as_json_values() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    event = JobStateChanged(
        job_id="j", task_id=None, at=at, number=2, previous=JobState.PLANNED, state=JobState.RUNNING
    )
    assert event.to_dict() == {
        "kind": "JobStateChanged",
        "job_id": "j",
        "task_id": None,
        "at": "2026-01-02T03:04:05+00:00",
        "number": 2,
        "previous": "planned",
        "state": "running",
    }


async def read(job: Job, after: int | None = None) -> list[Event]:
    return [event async for event in job.events(after=after)]


def kinds(events: list[Event]) -> list[str]:
    return [str(event.state) if isinstance(event, JobStateChanged) else type(event).__name__ for event in events]


WHOLE_LIFE = ["JobQueued", "JobSubmitted", "running", "succeeded"]


async def test_reader_of_anothers_job_goes_on_to_the_archive_that_its_own_session_waits_for(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()
    async with open_session(backend, ledger) as owner, open_session(backend, ledger, follow=False) as other:
        handle = await other.find((await owner.submit(make_config())).job_id)
        assert handle is not None
        downloading = asyncio.create_task(handle.download(tmp_path))
        await asyncio.sleep(0)
        events = [event async for event in handle.events(after=0)]
        assert await downloading == tmp_path / "1.zip"
    assert ArchiveReady in map(type, events)


async def test_reader_that_begins_late_gets_everything_with_after_0_and_nothing_twice(office: Office) -> None:
    owner = await office.session()
    job = await (await owner.submit(make_config())).wait()
    events = await read(job, after=0)
    assert kinds(events) == WHOLE_LIFE
    assert [event.number for event in events] == [1, 2, 3, 4]
    assert await read(job, after=0) == events
    assert await read(job, after=2) == events[2:]
    assert await read(job, after=4) == []


async def test_reader_without_a_number_begins_with_the_present_state_and_the_newest_number(office: Office) -> None:
    owner = await office.session()
    job = await owner.submit(make_config())
    events = await read(job)
    first = events[0]
    assert isinstance(first, JobStateChanged)
    assert (first.previous, first.state, first.number) == (None, JobState.RUNNING, 3)
    assert [(event.number, kind) for event, kind in zip(events[1:], kinds(events[1:]), strict=True)] == [
        (4, "succeeded")
    ]


async def test_events_of_another_session_come_as_they_happen(office: Office) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    job = await owner.submit(make_config())
    here, there = await asyncio.gather(read(job, after=0), read(await found(other, job), after=0))
    assert kinds(there) == WHOLE_LIFE
    assert here == there


async def test_events_go_on_in_the_next_process_without_a_gap(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    way = Severable(ledger)
    dying = open_session(backend, way)
    await dying.open()
    job = await dying.submit(make_config())
    before: list[Event] = []

    async def listen() -> None:
        async for event in job.events(after=0):
            before.append(event)

    listening = asyncio.create_task(listen())
    await asyncio.sleep(60)
    await way.sever(dying)
    listening.cancel()
    async with open_session(backend, ledger) as following:
        await asyncio.sleep(2 * LEASE)
        after = await read(await found(following, job), after=before[-1].number)
    assert kinds([*before, *after]) == WHOLE_LIFE
    assert [event.number for event in [*before, *after]] == [1, 2, 3, 4]


async def test_another_try_goes_on_with_the_numbers_of_the_first(office: Office) -> None:
    owner = await office.session()
    job = await owner.submit(make_config(model_name="x/fail"))
    await owner.wait_all()
    await (await job.retry()).submitted()
    await owner.wait_all()
    events = await read(job, after=0)
    assert kinds(events) == [*WHOLE_LIFE[:3], "failed", "planned", "JobQueued", "JobSubmitted", "running", "failed"]
    assert [event.number for event in events] == [*range(1, 10)]
    assert [event.task_id for event in events if isinstance(event, JobSubmitted)] == ["1", "2"]


async def test_what_was_trimmed_is_told_as_missed_with_its_last_number(office: Office) -> None:
    owner = await office.session()
    job = await (await owner.submit(make_config())).wait()
    await read(job, after=0)
    ledger = office.ledger()
    await ledger.open()
    await ledger.trim_events(before=utc_now().replace(year=1999), keep=1)
    missed, last = await read(job, after=0)
    assert isinstance(missed, EventsMissed)
    assert (missed.count, missed.number, last.number) == (3, 3, 4)
    assert kinds(await read(job, after=3)) == ["succeeded"]
    await ledger.close()


async def test_reader_of_a_job_whose_events_are_all_gone_is_told_and_ends() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger) as session:
        job = await (await session.submit(make_config())).wait()
        await session.find(job.job_id)
        await ledger.trim_events(before=utc_now().replace(year=2999), keep=1)
        (missed,) = await read(job, after=1)
        assert isinstance(missed, EventsMissed)
        assert (missed.count, missed.number) == (3, 4)


async def test_old_events_are_trimmed_by_the_sessions_that_follow() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger, event_age=7200.0) as session:
        job = await (await session.submit(make_config())).wait()
        await asyncio.sleep(3600)
        assert len(await ledger.events(job.job_id)) == 4
        await asyncio.sleep(2 * 3600)
        assert await ledger.events(job.job_id) == []


async def test_received_bytes_are_stored_every_two_seconds_at_most(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger, max_downloads=1) as session:
        job = await session.submit(make_config())
        await job.download(tmp_path)
        told = [event.at for event in await read(job, after=0) if isinstance(event, DownloadProgressed)]
        assert told
        assert all((later - sooner).total_seconds() >= 2 for sooner, later in itertools.pairwise(told))
        assert kinds(await read(job, after=0))[-2:] == ["ArchiveReady", "downloaded"]


async def test_session_without_a_ledger_stores_the_events_of_a_job_from_its_first_reader_on() -> None:
    async with Session(backend=FakeBackend(), api_key="k" * 44, rate_limit=6000) as session:
        job = await session.submit(make_config())
        first = await read(job)
        assert [(event.number, kind) for event, kind in zip(first, kinds(first), strict=True)] == [
            (0, "running"),
            (1, "succeeded"),
        ]
        assert kinds(await read(job, after=0)) == ["succeeded"]


async def test_events_that_could_not_be_stored_at_once_are_stored_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger) as session:
        real, refused = ledger.change, 0

        async def change(fence: Any, changes: list[JobChange]) -> list[str]:
            nonlocal refused
            if any(one.events for one in changes) and refused < 3:
                refused += 1
                raise LedgerBusyError("locked")
            return await real(fence, changes)

        monkeypatch.setattr(ledger, "change", change)
        job = await (await session.submit(make_config())).wait()
        assert [event.number for event in await read(job, after=0)] == [1, 2, 3, 4]
        assert refused == 3


async def test_reader_ends_with_its_session() -> None:
    backend, ledger = FakeBackend(duration=6000), MemoryLedger()
    async with open_session(backend, ledger) as session:
        job = await session.submit(make_config())
        reading = asyncio.create_task(read(job, after=0))
        await asyncio.sleep(10)
    assert kinds(await reading) == WHOLE_LIFE[:3]


@pytest.mark.parametrize(
    ("error", "message"),
    [(NotFoundError("cut", status=404), "cut"), (RuntimeError("no thread"), "RuntimeError: no thread")],
)
async def test_reader_of_a_failed_download_ends_and_ends_at_once_when_it_had_read_it_before(
    error: Exception, message: str, tmp_path: Path
) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.result_error = error
    async with open_session(backend, ledger) as session:
        job = await (await session.submit(make_config())).wait()
        with pytest.raises((DownloadError, RuntimeError), match=str(error)):
            await job.download(tmp_path)
        events = await asyncio.wait_for(read(job, after=0), 5)
        assert isinstance(events[-1], DownloadFailed)
        assert message in events[-1].message
        assert await asyncio.wait_for(read(job, after=events[-1].number), 5) == []
