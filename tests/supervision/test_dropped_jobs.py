"""Jobs that have ended long ago: a session forgets them, and whoever has a handle or a ledger does not."""

import asyncio
import functools
import gc
from pathlib import Path
from typing import Any

import pytest

from crynux_async import Job, JobState, Session
from crynux_async.errors import JobFailedError, UsageError
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.supervision import supervisor
from tests.fake_backend import FakeBackend, make_config

KEPT = 1000
FEW = 100
MORE = 60


@pytest.fixture
def keeps_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions keep a tenth of what they would."""
    monkeypatch.setattr(supervisor, "JobRegister", functools.partial(supervisor.JobRegister, FEW))


def open_session(backend: FakeBackend, ledger: Any = None) -> Session:
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, rate_limit=6_000_000, max_polls=200)


async def end_many(session: Session, count: int) -> None:
    """Run jobs to their ends, and keep no handle on any of them."""
    await session.submit_many([make_config(seed=seed) for seed in range(1, count + 1)])
    await session.wait_all()
    await asyncio.sleep(60)  # until the ledger was told, and somewhat longer
    gc.collect()


async def test_session_keeps_the_newest_of_the_jobs_that_have_ended_and_the_ledger_has_all() -> None:
    ledger = MemoryLedger()
    async with open_session(FakeBackend(duration=1.0), ledger) as session:
        await end_many(session, KEPT + MORE)
        kept = session.jobs()
        assert len(kept) == KEPT
        rows = await session.history()
        assert len(rows) == KEPT + MORE
        assert {job.job_id for job in kept} < {row.job_id for row in rows}
        assert session.statistics().jobs == {JobState.SUCCEEDED: KEPT + MORE}
        await (await session.submit(make_config()))  # nothing of this is in the way of the next


@pytest.mark.usefixtures("keeps_few")
async def test_job_that_somebody_holds_stays_itself_and_can_still_be_downloaded(tmp_path: Path) -> None:
    backend = FakeBackend(duration=1.0)
    async with open_session(backend) as session:
        first = await session.submit(make_config(seed=5))
        await first
        await end_many(session, FEW + MORE)
        assert first not in session.jobs()
        assert session.job(first.job_id) == first
        path = await first.download(tmp_path)
        assert (first.state, path.read_bytes()) == (JobState.DOWNLOADED, backend.archive)
        (row,) = [row for row in await session.history() if row.job_id == first.job_id]
        assert row.path == path


@pytest.mark.usefixtures("keeps_few")
async def test_events_of_a_job_that_was_forgotten_reach_whoever_holds_it(tmp_path: Path) -> None:
    backend = FakeBackend(duration=1.0)
    async with open_session(backend) as session:
        first = await session.submit(make_config(seed=5))
        await first
        await end_many(session, FEW + MORE)
        backend.may_download.clear()
        downloading = asyncio.create_task(first.download(tmp_path))
        await asyncio.sleep(1)
        told: list[str] = []

        async def listen(job: Job) -> None:
            told.extend([type(event).__name__ async for event in job.events()])

        listening = asyncio.create_task(listen(first))
        await asyncio.sleep(1)
        backend.may_download.set()
        await asyncio.gather(downloading, listening)
        assert "ArchiveReady" in told


@pytest.mark.usefixtures("keeps_few")
async def test_job_that_waits_for_a_decision_or_a_download_is_never_forgotten(tmp_path: Path) -> None:
    backend = FakeBackend(duration=1.0)
    backend.answers.append(RuntimeError("a bug, so nobody knows whether it was created"))
    async with open_session(backend) as session:
        lost = session.submit_nowait(make_config(seed=7)).job_id
        await end_many(session, FEW + MORE)
        assert session.job(lost).state is JobState.UNCONFIRMED
        assert [each.job.job_id for each in await session.unconfirmed()] == [lost]


@pytest.mark.usefixtures("keeps_few")
async def test_job_that_nobody_holds_is_not_the_session_s_any_more() -> None:
    async with open_session(FakeBackend(duration=1.0)) as session:
        first = (await session.submit(make_config(seed=5))).job_id
        await end_many(session, FEW + MORE)
        with pytest.raises(UsageError, match=first):
            session.job(first)


@pytest.mark.usefixtures("keeps_few")
async def test_job_that_its_session_has_forgotten_is_sent_again_for_another() -> None:
    backend, ledger = FakeBackend(duration=1.0), MemoryLedger()
    async with open_session(backend, ledger) as first:
        job_id = (await first.submit(make_config(seed=5, model_name="somebody/fail"))).job_id
        await end_many(first, FEW + MORE)
        assert job_id not in {job.job_id for job in first.jobs()}
        async with open_session(backend, ledger) as second:
            job = await second.find(job_id)
            assert job is not None
            await asyncio.wait_for(job.retry(), 60)
            with pytest.raises(JobFailedError):
                await asyncio.wait_for(job.wait(), 60)
    assert [config.seed for config in backend.received].count(5) == 3  # one of the many others has this seed, too
