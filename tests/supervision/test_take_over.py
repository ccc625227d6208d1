"""Jobs that outlive their process: what the next session on the same ledger does with them. On virtual time."""

import asyncio
import contextlib
import errno
import io
import json
import logging
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

import crynux_async.supervision.gates as gates_module
import crynux_async.supervision.owners as owners_module
import crynux_async.supervision.take_over as take_over_module
from benchmarks.scorecard.severing import Severable
from crynux_async import (
    JobState,
    LedgerBusyError,
    LedgerError,
    RateLimitedError,
    Session,
    SubmissionUnknownError,
    UsageError,
)
from crynux_async.backends.base import Habits
from crynux_async.budgets import Budget
from crynux_async.clock import monotonic
from crynux_async.job import Job, record_of
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, Fence, JobChange, WishRow
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.pacing.age_bins import HazardSnapshot
from crynux_async.supervision.spill import Spill
from crynux_async.testing import VirtualTimeLoop, virtual_time_run
from tests.fake_backend import LEASE, FakeBackend, look_seldom, make_config

RENEW = LEASE / 3


def open_session(backend: FakeBackend, ledger: Any, **settings: Any) -> Session:
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, **{"rate_limit": 6000, **settings})


async def test_next_session_follows_every_running_job_without_being_asked() -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    async with open_session(backend, ledger) as first:
        await asyncio.gather(*(first.submit(make_config(seed=seed)) for seed in (1, 2, 3)))
    async with open_session(backend, ledger) as second:
        assert [job.task_id for job in second.jobs(JobState.RUNNING)] == ["1", "2", "3"]
        await second.wait_all()
        assert second.statistics().jobs == {JobState.SUCCEEDED: 3}
    assert backend.creates == 3


async def test_next_session_finishes_the_download_that_was_asked_for(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    async with open_session(backend, ledger) as first:
        job = await first.submit(make_config(), label="wanted")
        waiting = asyncio.create_task(job.download(tmp_path, name="{label}.zip"))
        await asyncio.sleep(10)
    with pytest.raises(UsageError):
        await waiting
    async with open_session(backend, ledger) as second:
        (job,) = second.jobs()
        while job.state is not JobState.DOWNLOADED:
            await asyncio.sleep(10)
    assert (tmp_path / "wanted.zip").read_bytes() == backend.archive


async def test_next_session_leaves_models_alone_of_which_nothing_is_wanted_and_finds_them(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()
    async with open_session(backend, ledger) as first:
        await (await first.submit(make_config()))
    async with open_session(backend, ledger) as second:
        assert second.jobs() == []
        (job,) = await second.history(states=[JobState.SUCCEEDED])
        path = await job.download(tmp_path)
        assert (job.state, path.read_bytes()) == (JobState.DOWNLOADED, backend.archive)


async def test_next_session_warns_of_models_that_nobody_has_fetched(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()
    look_seldom(backend, monkeypatch)
    async with open_session(backend, ledger) as first:
        await (await first.submit(make_config()))
    async with open_session(backend, ledger):
        await asyncio.sleep(6.5 * 86_400)
        told = [record for record in caplog.records if "was not downloaded" in record.getMessage()]
        assert len(told) == 1


async def test_next_session_sends_nothing_that_was_only_planned_until_it_is_told() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger, rate_limit=1) as first:
        await first.submit_many([make_config(seed=seed) for seed in (1, 2, 3)])
        await asyncio.sleep(5)
    assert backend.creates == 1
    async with open_session(backend, ledger) as second:
        planned = second.jobs(JobState.PLANNED)
        await asyncio.sleep(3600)
        assert backend.creates == 1
        assert [await job.retry() for job in planned] == planned
        await asyncio.gather(*(job.submitted() for job in planned))
    assert [config.seed for config in backend.received] == [1, 2, 3]


async def test_create_cut_off_by_the_end_of_its_process_is_unconfirmed_in_the_next() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(asyncio.Event().wait)
    session = open_session(backend, ledger)
    await session.open()
    session.submit_nowait(make_config())
    await asyncio.sleep(1)
    assert [attempt.outcome for attempt in await ledger.attempts()] == [None]
    # What the process knew dies with it: only the ledger goes on.
    survivor = ledger
    async with open_session(FakeBackend(), await copy_of(survivor)) as second:
        (job,) = second.jobs()
        assert job.state is JobState.UNCONFIRMED
        with pytest.raises(SubmissionUnknownError):
            await job.wait()
        assert (await second.unconfirmed())[0].before is None
        await second.submit(make_config(seed=2))
        assert (await second.unconfirmed())[0].before == "1"
    await session.close()


async def test_create_cut_off_after_the_clock_was_set_back_is_unconfirmed_all_the_same() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(asyncio.Event().wait)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    async with open_session(backend, ledger, rate_limit=1, close_timeout=0) as session:
        session.submit_nowait(make_config())
        loop.set_wall_clock(loop.wall_time() - 86_400)
        await asyncio.sleep(1)
        async with open_session(FakeBackend(), await copy_of(ledger)) as second:
            assert [job.state for job in second.jobs()] == [JobState.UNCONFIRMED]


async def test_create_cut_off_stays_unconfirmed_when_the_next_process_dies_at_once() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(asyncio.Event().wait)
    first = Severable(ledger)
    session = open_session(backend, first)
    await session.open()
    session.submit_nowait(make_config())
    await asyncio.sleep(1)
    await first.sever(session)
    left = await copy_of(ledger)
    second = Severable(left, 0.01)  # a disk that is too slow for what it wants to say after it has begun
    session = open_session(backend, second)
    await session.open()
    await second.sever(session)
    await asyncio.sleep(120)
    async with open_session(backend, left) as third:
        assert [job.state for job in third.jobs()] == [JobState.UNCONFIRMED]
        assert len(await third.unconfirmed()) == 1
    assert backend.creates == 1


async def test_answer_that_comes_after_the_job_was_lost_is_handed_over_to_whoever_has_it() -> None:
    backend, ledger = FakeBackend(duration=3600), MemoryLedger()
    answered = asyncio.Event()
    backend.answers.append(answered.wait)
    first, second = open_session(backend, ledger), open_session(backend, ledger)
    async with second, first:  # of two that look for jobs, the one that was opened first looks first
        waiting = asyncio.create_task(first.submit(make_config()))
        await asyncio.sleep(1)
        (holder,) = [one for one in await ledger.holders() if one.jobs]
        await ledger.leave(holder.fence)  # taken for dead, while its answer is on its way
        await asyncio.sleep(RENEW + 1)
        assert [job.state for job in second.jobs()] == [JobState.UNCONFIRMED]
        answered.set()
        await asyncio.sleep(2 * RENEW + 1)
        assert [(job.state, job.task_id) for job in second.jobs()] == [(JobState.RUNNING, "1")]
        assert (await waiting).task_id == "1"  # the loser goes on as an onlooker
        (row,) = await ledger.jobs()
        assert (row.state, row.task_id) == (JobState.RUNNING, "1")
        (attempt,) = await ledger.attempts()
        assert (attempt.outcome, attempt.task_id) == (AttemptOutcome.ACCEPTED, "1")
    assert backend.creates == 1


async def test_job_that_another_process_has_taken_is_not_sent_and_nothing_about_it_is_written() -> None:
    backend, ledger = FakeBackend(duration=3600), MemoryLedger()
    gate = {"rate_limit": 1, "rate_burst": 1}
    async with open_session(backend, ledger, **gate) as second, open_session(backend, ledger, **gate) as first:
        await first.submit(make_config(seed=1))
        waiting = asyncio.create_task(first.submit(make_config(seed=2)))
        await asyncio.sleep(1)
        (holder,) = [one for one in await ledger.holders() if one.jobs]
        await ledger.leave(holder.fence)
        await asyncio.sleep(RENEW + 1)
        (planned,) = second.jobs(JobState.PLANNED)
        await (await planned.retry()).submitted()
        assert (await waiting).task_id == planned.task_id == "2"
        waiting = asyncio.create_task(first.jobs()[1].wait())
        await second.wait_all()
        await waiting
        assert [row.state for row in await ledger.jobs()] == [JobState.SUCCEEDED] * 2
    assert [config.seed for config in backend.received] == [1, 2]


async def test_job_that_another_process_has_taken_is_lost_with_the_next_renewal_and_the_others_stay() -> None:
    backend, ledger = FakeBackend(duration=86_400), MemoryLedger()
    async with open_session(backend, ledger) as session:
        taken, kept = [await session.submit(make_config(seed=seed)) for seed in (1, 2)]
        (holder,) = [one for one in await ledger.holders() if one.jobs]
        await ledger.drop(holder.fence, [taken.job_id])
        other = await ledger.enter("another", seconds=1e9)
        assert await ledger.take(other, [taken.job_id]) == [taken.job_id]
        await asyncio.sleep(RENEW + 1)
        assert [record_of(job).is_ours for job in (taken, kept)] == [False, True]


async def copy_of(ledger: MemoryLedger) -> MemoryLedger:
    """Return what a new process would read: the rows, without leases."""
    copy = MemoryLedger()
    fence = await copy.enter("a process that is gone", seconds=1.0)
    rows = await ledger.jobs()
    events = [event for row in rows for event in await ledger.events(row.job_id)]
    await copy.add(rows, fence=fence, events=events)
    for attempt in await ledger.attempts():
        await copy.begin(fence, attrs.evolve(attempt, outcome=None, answered_at=None, task_id=None))
        if attempt.outcome is not None:
            await copy.change(fence, [JobChange(job_id=attempt.job_id, finished=attempt)])
    await copy.leave(fence)
    return copy


async def test_unconfirmed_job_has_a_bracket_and_reconcile_finds_its_task() -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()

    async def lose_the_answer() -> None:
        backend.make_task(make_config(seed=2))
        raise SubmissionUnknownError("the answer was lost")

    async with open_session(backend, ledger) as session:
        await session.submit(make_config(seed=1))
        backend.answers.append(lose_the_answer)
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config(seed=2))
        await session.submit(make_config(seed=3))
        (lost,) = await session.unconfirmed()
        assert (lost.after, lost.before) == ("1", "3")
        assert lost.digest == make_config(seed=2).digest()
        await session.wait_all(session.jobs(JobState.RUNNING))
        (found,) = await session.reconcile()
        assert (found.verdict, found.candidates) == ("found", ("2",))
        job = found.job
        assert (job.task_id, job.state, job.ended_at) == ("2", JobState.RUNNING, None)
        await session.wait_all([job], timeout=3600)
    assert backend.creates == 3
    assert backend.asked == ["2"]


async def test_reconcile_never_asks_outside_the_bracket() -> None:
    backend = FakeBackend()
    backend.answers.append(SubmissionUnknownError("lost"))
    async with open_session(backend, MemoryLedger()) as session:
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config())
        (looked_for,) = await session.reconcile()
        assert looked_for.verdict == "open"
        assert looked_for.job.state is JobState.UNCONFIRMED
    assert backend.asked == []


async def test_create_that_never_happened_is_planned_again_and_sent_only_when_the_user_says_so() -> None:
    backend = FakeBackend()
    async with open_session(backend, MemoryLedger()) as session:
        await session.submit(make_config(seed=1))
        backend.answers.append(SubmissionUnknownError("lost"))
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config(seed=2))
        await session.submit(make_config(seed=3))  # as task 2: no number is left for the lost one
        (looked_for,) = await session.reconcile()
        assert looked_for.verdict == "not created"
        job = looked_for.job
        assert (job.state, job.ended_at) == (JobState.PLANNED, None)
        # Who waits for it would wait for ever, as nobody sends it.
        async with asyncio.timeout(1):
            with pytest.raises(UsageError, match=r"certainly never made; job\.retry\(\) sends it"):
                await job
            assert [one.job_id async for one in session.as_completed([job])] == [job.job_id]
        await asyncio.sleep(3600)
        assert backend.creates == 3
        assert (await (await job.retry()).submitted()).task_id == "3"
        assert job.error is None


async def test_lost_create_is_left_alone_while_another_create_is_under_way_around_it() -> None:
    backend, answered = FakeBackend(duration=1), asyncio.Event()

    async def answer_late() -> None:
        await answered.wait()

    async def lose_the_answer() -> None:
        backend.make_task(make_config(seed=3))
        raise SubmissionUnknownError("the answer was lost")

    async with open_session(backend, MemoryLedger()) as session:
        await session.submit(make_config(seed=1))
        backend.answers.extend([answer_late, lose_the_answer])
        slow = asyncio.create_task(session.submit(make_config(seed=2)))
        await asyncio.sleep(1)
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config(seed=3))
        await session.submit(make_config(seed=4))
        await asyncio.sleep(60)
        (looked_for,) = await session.reconcile()
        assert looked_for.verdict == "open"
        answered.set()
        assert (await slow).task_id == "4"
        await session.submit(make_config(seed=5))
        await asyncio.sleep(60)
        (looked_for,) = await session.reconcile()
        assert (looked_for.verdict, looked_for.job.task_id) == ("found", "2")


async def test_retry_of_an_unconfirmed_job_is_another_try_of_the_same_job() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(SubmissionUnknownError("lost"))
    async with open_session(backend, ledger) as session:
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config())
        (old,) = session.jobs()
        new = await (await old.retry()).submitted()
        assert (new, new.state, new.task_id) == (old, JobState.RUNNING, "1")
        (row,) = await session.history()
    assert (row.state, row.tries, row.resubmitted_as) == (JobState.RUNNING, 2, None)
    assert [(attempt.try_number, attempt.outcome) for attempt in await ledger.attempts()] == [
        (1, AttemptOutcome.UNKNOWN),
        (2, AttemptOutcome.ACCEPTED),
    ]


async def test_retry_of_a_running_job_raises() -> None:
    async with open_session(FakeBackend(), MemoryLedger()) as session:
        job = await session.submit(make_config())
        with pytest.raises(UsageError):
            await job.retry()


async def test_every_attempt_is_in_the_ledger_with_its_outcome() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.extend([RateLimitedError("slow", wait=1.0, field="rate_limit"), None])
    async with open_session(backend, ledger) as session:
        await session.submit(make_config())
    attempts = await ledger.attempts()
    assert [(a.number, a.outcome, a.wait, a.task_id) for a in attempts] == [
        (1, AttemptOutcome.LIMITED, 1.0, None),
        (2, AttemptOutcome.ACCEPTED, None, "1"),
    ]
    assert all(a.answered_at is not None and a.answered_at >= a.began_at for a in attempts)


async def submit_in(session: Session, count: int) -> float:
    """Return the seconds until so many jobs were accepted."""
    began = monotonic()
    await asyncio.gather(*(session.submit(make_config(seed=seed)) for seed in range(1, count + 1)))
    return monotonic() - began


async def test_create_of_a_process_that_is_gone_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(asyncio.Event().wait)
    first = open_session(backend, ledger, rate_limit=5, close_timeout=0)
    await first.open()
    first.submit_nowait(make_config())
    await asyncio.sleep(1)
    copies = [await copy_of(ledger), await copy_of(ledger)]
    async with ledger.gate(backend.name, backend.key_id) as left:
        row = left.row
    for copy in copies:
        async with copy.gate(backend.name, backend.key_id) as cell:
            cell.row = row
    async with open_session(FakeBackend(), copies[0], rate_limit=5) as waiting:
        assert 8 < await submit_in(waiting, 1) <= 10  # that process may live, and its create hangs
    monkeypatch.setattr(gates_module, "is_gone", lambda _: True)
    async with open_session(FakeBackend(), copies[1], rate_limit=5) as second:
        assert await submit_in(second, 1) < 5
    await first.close()


async def test_rate_limit_that_is_named_anew_is_followed_by_the_next_session_on_the_ledger() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger, rate_limit=1) as first:
        await submit_in(first, 2)
    async with open_session(backend, ledger, rate_limit=60) as second:
        assert await submit_in(second, 31) == pytest.approx(31, abs=1)  # what the first has used up stays used up
        assert second.statistics().limit_per_minute == 60


async def test_rate_limit_that_is_named_by_a_second_session_of_the_process_is_followed() -> None:
    backend = FakeBackend()
    async with open_session(backend, None, rate_limit=1) as first:
        await submit_in(first, 1)
        async with open_session(backend, None, rate_limit=60) as second:
            assert await submit_in(second, 10) < 11
            assert first.statistics().limit_per_minute == 60
            async with open_session(backend, None, rate_limit=None) as third:
                assert third.statistics().limit_per_minute == 60


async def test_rate_limit_of_the_last_process_binds_the_next() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger, rate_limit=5) as first:
        await asyncio.gather(*(first.submit(make_config(seed=seed)) for seed in range(1, 6)))
    began = monotonic()
    async with open_session(backend, ledger, rate_limit=5) as second:
        await second.submit(make_config())
    assert 11 <= monotonic() - began <= 13


class BrokenLedger(MemoryLedger):
    """A ledger whose disk fails for good at a chosen operation."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self._operation = operation
        self._failed: LedgerError | None = None

    @property
    def failure(self) -> LedgerError | None:
        return self._failed

    def _fail(self, operation: str, *, matters: bool = True) -> None:
        if self._failed is not None or (operation == self._operation and matters):
            self._failed = LedgerError("the disk failed", path="jobs.db")
            raise self._failed

    async def add(self, *args: Any, **kwargs: Any) -> Any:
        self._fail("add")
        return await super().add(*args, **kwargs)

    async def begin(self, *args: Any, **kwargs: Any) -> None:
        self._fail("begin")
        await super().begin(*args, **kwargs)

    async def change(self, fence: Fence, changes: Sequence[JobChange]) -> list[str]:
        self._fail("finish", matters=any(change.finished is not None for change in changes))
        return await super().change(fence, changes)


@pytest.mark.parametrize("operation", ["add", "begin"])
async def test_intent_that_cannot_be_stored_is_never_sent_and_never_rejected(operation: str) -> None:
    backend = FakeBackend()
    async with open_session(backend, BrokenLedger(operation)) as session:
        with pytest.raises(LedgerError):
            await session.submit(make_config())
        with pytest.raises(LedgerError):
            await session.submit(make_config())
        assert [job.state for job in session.jobs()] == [JobState.PLANNED]
    assert backend.creates == 0


async def test_answer_that_cannot_be_stored_is_in_the_exception_and_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend = FakeBackend()
    async with open_session(backend, BrokenLedger("finish")) as session:
        with pytest.raises(LedgerError) as caught:
            await session.submit(make_config())
        assert caught.value.task_id == "1"
        assert "task 1" in capsys.readouterr().err
        with pytest.raises(LedgerError):
            await session.submit(make_config())
    assert backend.creates == 1


class BusyLedger(MemoryLedger):
    """A ledger that another process locks for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.is_locked = False
        self.refused = 0

    def _check(self) -> None:
        if self.is_locked:
            self.refused += 1
            raise LedgerBusyError("another process holds the file", path="jobs.db")

    async def add(self, *args: Any, **kwargs: Any) -> Any:
        self._check()
        return await super().add(*args, **kwargs)

    async def begin(self, *args: Any, **kwargs: Any) -> None:
        self._check()
        await super().begin(*args, **kwargs)

    async def change(self, fence: Fence, changes: Sequence[JobChange]) -> list[str]:
        self._check()
        return await super().change(fence, changes)

    @asynccontextmanager
    async def gate(self, backend: str, key_id: str) -> AsyncIterator[Any]:
        self._check()
        async with super().gate(backend, key_id) as cell:
            yield cell


async def test_lock_that_passes_rejects_nothing_and_sending_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    backend, ledger = FakeBackend(), BusyLedger()
    async with open_session(backend, ledger, rate_limit=60, rate_burst=1) as session:
        jobs = [session.submit_nowait(make_config(seed=seed)) for seed in range(1, 6)]
        await jobs[0].submitted()
        with caplog.at_level(logging.WARNING, "crynux_async"):
            ledger.is_locked = True
            await asyncio.sleep(120)
            assert {job.state for job in jobs[1:]} == {JobState.PLANNED}
            await session.history()  # has nothing to write, and so proves nothing
            await asyncio.sleep(120)
            assert caplog.text.count("another process holds the file") == 1
            assert "can be written again" not in caplog.text
            ledger.is_locked = False
            await asyncio.gather(*(job.submitted() for job in jobs))
        await session.submit(make_config(seed=6))
    assert [config.seed for config in backend.received] == [1, 2, 3, 4, 5, 6]
    assert [row.task_id for row in await ledger.jobs()] == ["1", "2", "3", "4", "5", "6"]


async def test_lock_that_comes_between_the_gate_and_the_attempt_rejects_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    begin, refused = ledger.begin, 0

    async def begin_later(*args: Any, **kwargs: Any) -> None:
        nonlocal refused
        refused += 1
        if refused <= 3:
            raise LedgerBusyError("another process holds the file", path="jobs.db")
        await begin(*args, **kwargs)

    monkeypatch.setattr(ledger, "begin", begin_later)
    async with open_session(backend, ledger) as session:
        job = session.submit_nowait(make_config())
        assert (await job.submitted()).task_id == "1"
    assert (backend.creates, refused) == (1, 4)


async def test_answer_that_comes_during_a_lock_is_stored_when_it_passes_and_never_without_its_task() -> None:
    backend, ledger = FakeBackend(), BusyLedger()

    async def lock() -> None:
        ledger.is_locked = True

    backend.answers.append(lock)
    async with open_session(backend, ledger) as session:
        submitting = asyncio.create_task(session.submit(make_config()))
        await asyncio.sleep(300)
        assert not submitting.done()
        assert [(row.state, row.task_id) for row in await ledger.jobs()] == [(JobState.PLANNED, None)]
        ledger.is_locked = False
        assert (await submitting).task_id == "1"
    assert [(row.state, row.task_id) for row in await ledger.jobs()] == [(JobState.RUNNING, "1")]


async def test_answer_that_comes_during_a_lock_that_outlasts_the_session_is_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend, ledger = FakeBackend(), BusyLedger()

    async def lock() -> None:
        ledger.is_locked = True

    backend.answers.append(lock)
    async with open_session(backend, ledger, close_timeout=20) as session:
        session.submit_nowait(make_config())
        await asyncio.sleep(5)
        began = monotonic()
    assert monotonic() - began < 30
    assert "task 1" in capsys.readouterr().err
    assert [(row.state, row.task_id) for row in await ledger.jobs()] == [(JobState.PLANNED, None)]


async def test_answer_that_no_file_took_before_the_session_ended_is_followed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, backend = tmp_path / "jobs.db", FakeBackend(duration=3600)
    holders: list[sqlite3.Connection] = []

    async def lock() -> None:
        holders.append(sqlite3.connect(path, isolation_level=None))
        holders[-1].execute("BEGIN IMMEDIATE")

    backend.answers.append(lock)
    async with open_session(backend, SqliteLedger(path, busy_timeout=0.0), close_timeout=20) as session:
        session.submit_nowait(make_config())
        await asyncio.sleep(5)
    holders[-1].close()
    monkeypatch.setattr(take_over_module, "is_gone", lambda _: True)  # its process has ended
    async with open_session(backend, path) as second:
        (job,) = second.jobs()
        assert (job.state, job.task_id) == (JobState.RUNNING, "1")
        await job.wait()
    assert backend.creates == 1


async def test_job_is_not_sent_again_whose_answer_another_session_has_left() -> None:
    backend, ledger = FakeBackend(duration=3600), MemoryLedger()
    answered = asyncio.Event()
    backend.answers.append(answered.wait)
    async with open_session(backend, ledger) as slow, open_session(backend, ledger, follow=False) as other:
        waiting = asyncio.create_task(slow.submit(make_config()))
        await asyncio.sleep(1)
        (holder,) = [one for one in await ledger.holders() if one.jobs]
        await ledger.leave(holder.fence)
        answered.set()
        await waiting
        (job,) = await other.history()
        assert job.state is JobState.UNCONFIRMED
        await job.retry()
        assert (job.state, job.task_id) == (JobState.RUNNING, "1")
    assert backend.creates == 1


async def test_answer_that_could_not_be_stored_is_kept_where_nobody_reads_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unread(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    class Refusing(SqliteLedger):
        async def change(self, *_: Any, **__: Any) -> list[str]:
            raise LedgerError("the disk failed")

    backend, path = FakeBackend(duration=3600), tmp_path / "jobs.db"
    async with open_session(backend, Refusing(path)) as session:
        monkeypatch.setattr(sys, "stderr", Unread())
        for seed in (1, 2):  # the ticket of the first was given back, too
            with pytest.raises(LedgerError, match=f"task {seed}"):
                async with asyncio.timeout(600):
                    await session.submit(make_config(seed=seed))
    kept = [json.loads(line)["task_id"] for line in (tmp_path / "jobs.db-unstored").read_text().splitlines()]
    assert kept == ["1", "2"]


@pytest.mark.parametrize("is_begun", [True, False])
async def test_create_that_closing_keeps_from_being_sent_is_no_unknown_outcome(is_begun: bool) -> None:
    class Slow(MemoryLedger):
        async def begin(self, *args: Any, **kwargs: Any) -> None:
            if is_begun:
                await super().begin(*args, **kwargs)
            await asyncio.sleep(100)

    backend, ledger, budget = FakeBackend(), Slow(), Budget("b", cnx=100)
    async with open_session(backend, ledger, close_timeout=1, budget=budget, price=10) as session:
        session.submit_nowait(make_config())
        await asyncio.sleep(1)
    held = await ledger.budget("b")
    assert (0 if held is None else held.held) == 0
    assert [attempt.outcome for attempt in await ledger.attempts()] == [AttemptOutcome.NOT_SENT] * is_begun
    async with open_session(backend, ledger) as second:
        (job,) = second.jobs()
        assert job.state is JobState.PLANNED
    assert backend.creates == 0


async def test_session_is_not_opened_while_tasks_that_were_kept_cannot_be_entered(tmp_path: Path) -> None:
    class Busy(SqliteLedger):
        async def wish(self, row: WishRow) -> WishRow:
            raise LedgerBusyError("another process holds the file")

    path = tmp_path / "jobs.db"
    Spill(path.with_name("jobs.db-unstored"), "fake").keep("a", 1, "71")
    async with asyncio.timeout(600):
        with pytest.raises(LedgerBusyError):
            await open_session(FakeBackend(), Busy(path)).open()
    assert "71" in path.with_name("jobs.db-unstored").read_text()


async def test_answer_for_a_job_that_was_lost_is_on_stderr_where_its_owner_cannot_be_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    answered = asyncio.Event()
    backend.answers.append(answered.wait)

    async def refuse(_: WishRow) -> WishRow:
        raise LedgerError("the disk failed")

    async with open_session(backend, ledger) as session:
        waiting = asyncio.create_task(session.submit(make_config()))
        await asyncio.sleep(1)
        (holder,) = [one for one in await ledger.holders() if one.jobs]
        await ledger.leave(holder.fence)
        monkeypatch.setattr(ledger, "wish", refuse)
        answered.set()
        assert (await waiting).task_id == "1"
        assert "task 1" in capsys.readouterr().err
        assert (await session.submit(make_config(seed=2))).task_id == "2"  # its ticket was given back, too


async def test_row_that_runs_without_a_task_is_unconfirmed_for_whoever_takes_it_over() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger) as first:
        job = await first.submit(make_config())
    (row,) = await ledger.jobs()
    broken = MemoryLedger()
    await broken.add([attrs.evolve(row, task_id=None, last_event=0)], fence=None)
    async with open_session(backend, broken) as second:
        assert [(one.job_id, one.state) for one in second.jobs()] == [(job.job_id, JobState.UNCONFIRMED)]
        with pytest.raises(SubmissionUnknownError, match="reconcile"):
            await second.jobs()[0].wait()


def test_interrupt_in_the_middle_of_a_create_goes_on_when_the_outcome_is_stored() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()

    async def press_ctrl_c() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        async with open_session(backend, ledger) as session:
            await session.submit(make_config())

    backend.answers.append(press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        virtual_time_run(main)
    attempts: list[AttemptRow] = virtual_time_run(ledger.attempts)
    assert [attempt.outcome for attempt in attempts] == [AttemptOutcome.UNKNOWN]


async def test_model_that_is_about_to_be_deleted_is_warned_about(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FakeBackend()
    look_seldom(backend, monkeypatch)
    async with open_session(backend, MemoryLedger()) as session:
        await (await session.submit(make_config()))
        with caplog.at_level(logging.WARNING, "crynux_async"):
            await asyncio.sleep(5 * 86_400)
            assert "was not downloaded" not in caplog.text
            await asyncio.sleep(2 * 86_400)
            assert "was not downloaded" in caplog.text


async def test_session_asks_the_system_whether_others_live_and_never_whether_it_does_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: set[str] = set()
    for name in ("is_gone", "may_follow"):
        monkeypatch.setattr(take_over_module, name, lambda owner: asked.add(owner) or False)
    ledger = MemoryLedger()
    async with open_session(FakeBackend(), ledger):
        await asyncio.sleep(LEASE)
        assert not asked
        await ledger.enter("another", seconds=LEASE)
        await asyncio.sleep(RENEW)
        assert asked == {"another"}


async def test_two_sessions_on_one_ledger_follow_each_job_once_and_the_survivor_takes_over() -> None:
    backend, ledger = FakeBackend(duration=3600), MemoryLedger()
    first, second = open_session(backend, ledger), open_session(backend, ledger)
    await first.open()
    await second.open()
    await asyncio.gather(*(first.submit(make_config(seed=seed)) for seed in (1, 2)))
    await asyncio.sleep(120)
    assert second.jobs() == []
    await first.close()
    await asyncio.sleep(120)
    assert [job.task_id for job in second.jobs()] == ["1", "2"]
    await second.wait_all()
    await second.close()
    assert backend.creates == 2


@pytest.mark.parametrize(("needs_credential", "followed"), [(True, []), (False, ["1"])])
async def test_session_of_another_credential_follows_only_where_none_is_needed(
    needs_credential: bool, followed: list[str]
) -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    backend.habits = Habits(lease=LEASE, needs_credential_to_look=needs_credential)
    async with open_session(backend, ledger) as first:
        await first.submit(make_config())
    backend.key_id = "key-of-somebody-else"
    async with open_session(backend, ledger) as second:
        await asyncio.sleep(2 * LEASE)
        assert [job.task_id for job in second.jobs()] == followed
    backend.key_id = FakeBackend.key_id
    async with open_session(backend, ledger) as third:
        await third.wait_all()
        assert third.statistics().jobs == {JobState.SUCCEEDED: 1}


async def test_jobs_of_an_owner_that_died_are_taken_over_when_its_lease_is_over_and_not_before() -> None:
    backend, ledger = FakeBackend(duration=3600), MemoryLedger()
    way = Severable(ledger)
    gate = {"rate_limit": 1, "rate_burst": 2}
    victim, survivor = open_session(backend, way, **gate), open_session(backend, ledger, **gate)
    await victim.open()
    await survivor.open()
    await victim.submit(make_config(seed=1))
    backend.answers.append(asyncio.Event().wait)
    await victim.submit_many([make_config(seed=seed) for seed in (2, 3)])  # one is under way, one waits for the gate
    await asyncio.sleep(RENEW + 0.5)  # its lease was renewed just now
    await way.sever(victim)
    died_at = monotonic()
    while not survivor.jobs():
        await asyncio.sleep(0.5)
    assert LEASE - 1 < monotonic() - died_at < LEASE + RENEW + 1
    states = [JobState.RUNNING, JobState.UNCONFIRMED, JobState.PLANNED]
    assert [job.state for job in survivor.jobs()] == states
    assert backend.creates == 2
    await (await survivor.jobs()[-1].retry()).submitted()
    await survivor.wait_all(survivor.jobs(JobState.RUNNING))
    await survivor.close()
    assert [config.seed for config in backend.received] == [1, 2, 3]


@pytest.mark.parametrize("hours", [-8, 8])
async def test_jobs_of_a_session_that_lives_stay_its_own_when_the_clock_is_set(hours: int) -> None:
    backend, ledger = FakeBackend(duration=36_000), MemoryLedger()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    async with open_session(backend, ledger) as one, open_session(backend, ledger) as other:
        job = await one.submit(make_config())
        await asyncio.sleep(RENEW / 2)
        async with open_session(backend, ledger) as late:
            await asyncio.sleep(0.6 * RENEW)  # now it is the next of the three that looks
            loop.set_wall_clock(loop.wall_time() + hours * 3600)
            await asyncio.sleep(600)
            assert (one.jobs(), other.jobs(), late.jobs()) == ([job], [], [])


async def test_end_of_a_job_is_never_dated_before_its_beginning() -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    async with open_session(backend, ledger) as session:
        job = await session.submit(make_config())
        loop.set_wall_clock(loop.wall_time() - 86_400)
        await job.wait()
    (row,) = await ledger.jobs()
    assert row.submitted_at is not None
    assert row.ended_at is not None
    assert row.planned_at <= row.submitted_at <= row.ended_at


async def test_attached_task_is_followed_by_the_next_session() -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    backend.make_task(make_config())
    async with open_session(backend, ledger) as first:
        first.attach(1)
        await asyncio.sleep(5)
    async with open_session(backend, ledger) as second:
        assert [job.task_id for job in second.jobs()] == ["1"]


async def test_what_was_learned_of_failures_is_kept_apart_in_the_ledger() -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    async with open_session(backend, ledger) as session:
        jobs = [await session.submit(make_config(seed=1)), await session.submit(make_config(model_name="a/fail"))]
        await session.wait_all(jobs)
        assert {job.state for job in jobs} == {JobState.SUCCEEDED, JobState.FAILED}
    stored = await ledger.load_hazards(backend.name)
    learned = {kind: HazardSnapshot.from_json(value) for kind, value in stored.items()}
    good, bad = (sum_of(learned, part) for part in ("crynux-ai", "a/fail"))
    assert good == pytest.approx((1.0, 0.0))
    assert bad == pytest.approx((0.0, 1.0))


def sum_of(learned: dict[str, HazardSnapshot], part: str) -> tuple[float, float]:
    """Return the completions and failures of the kinds with a text in their name."""
    bins = [one for kind, snapshot in learned.items() if part in kind for one in snapshot.bins]
    return sum(one.completed for one in bins), sum(one.failed for one in bins)


async def test_what_was_learned_about_durations_goes_on_in_the_next_session() -> None:
    backend, ledger = FakeBackend(duration=lambda config: 1000.0 + config.seed), MemoryLedger()
    async with open_session(backend, ledger) as first:
        await first.submit_many([make_config(seed=seed) for seed in range(1, 41)])
        await first.wait_all()
    cold = backend.polls
    async with open_session(backend, ledger) as second:
        jobs = await second.submit_many([make_config(seed=seed) for seed in range(1, 41)])
        await second.wait_all(jobs)
    assert backend.polls - cold < 0.8 * cold


async def test_retry_of_a_job_that_ended_in_an_earlier_session_makes_another_task() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger) as session:
        job = await session.submit(make_config(model_name="x/fail"))
        await session.wait_all([job])
        job_id = job.job_id
    async with open_session(backend, ledger) as session:
        found = await session.find(job_id)
        assert found is not None
        await (await found.retry()).submitted()
        assert (found.task_id, backend.creates) == ("2", 2)


async def test_events_of_a_job_that_was_cut_off_end_when_its_next_owner_has_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    way = Severable(ledger)
    backend.answers.append(asyncio.Event().wait)
    victim = open_session(backend, way)
    await victim.open()
    left = await victim.enqueue(make_config(), idempotency_key="k")
    await asyncio.sleep(1)
    fence = victim._supervisor._writer.fence
    await way.sever(victim)
    for module in (owners_module, take_over_module):
        monkeypatch.setattr(module, "is_gone", lambda owner: owner == fence.owner)
    async with open_session(backend, ledger, follow=False) as onlooker:
        job = await onlooker.find(left.job_id)
        assert job is not None
        assert job.state is JobState.UNCONFIRMED
        events = job.events(after=0)
        told: list[Any] = []

        async def read() -> None:
            told.extend([event async for event in events])

        reading = asyncio.create_task(read())
        await asyncio.sleep(10)
        assert not reading.done()
        async with open_session(backend, ledger):
            await asyncio.wait_for(reading, timeout=5)
    assert [event.number for event in told] == list(range(1, len(told) + 1))
    assert told[-1].state is JobState.UNCONFIRMED


async def test_what_others_do_not_take_of_a_leavers_jobs_is_taken_a_moment_later() -> None:
    backend, ledger = FakeBackend(duration=3600), MemoryLedger()
    leaver = open_session(backend, ledger)
    await leaver.open()
    async with open_session(backend, ledger), open_session(backend, ledger) as attentive:
        await asyncio.gather(*(leaver.submit(make_config(seed=seed)) for seed in range(1, 7)))
        await attentive.take_over()
        await leaver.close()
        await attentive.take_over()
        assert len(attentive.jobs()) == 3
        await attentive.take_over()
        assert len(attentive.jobs()) == 6


async def killed_with_jobs(
    backend: FakeBackend, ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Awaitable[None]]:
    """Open a session that follows six jobs, and return what kills its process."""
    way = Severable(ledger)
    victim = open_session(backend, way)
    await victim.open()
    await asyncio.gather(*(victim.submit(make_config(seed=seed)) for seed in range(1, 7)))
    fence = victim._supervisor._writer.fence

    async def kill() -> None:
        await way.sever(victim)
        for module in (owners_module, take_over_module):
            monkeypatch.setattr(module, "is_gone", lambda owner: owner == fence.owner)

    return kill


async def test_jobs_of_a_process_that_is_killed_before_another_has_looked_are_taken_at_its_first_look(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend, ledger = FakeBackend(duration=3600), MemoryLedger()
    kill = await killed_with_jobs(backend, ledger, monkeypatch)
    caplog.set_level(logging.INFO, logger="crynux_async")
    async with open_session(backend, ledger) as attentive:
        await kill()
        await attentive.take_over()
        assert len(attentive.jobs(JobState.RUNNING)) == 6
    assert "took over 6 unfinished jobs" in caplog.messages


async def test_what_a_session_that_begins_leaves_of_the_dead_is_taken_a_moment_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, ledger = FakeBackend(duration=3600), MemoryLedger()
    kill = await killed_with_jobs(backend, ledger, monkeypatch)
    async with open_session(backend, ledger):
        await kill()
        async with open_session(backend, ledger) as attentive:
            assert len(attentive.jobs(JobState.RUNNING)) == 3
            await attentive.take_over()
            assert len(attentive.jobs(JobState.RUNNING)) == 6


class SlowToAnswer(MemoryLedger):
    """Answers as one does under load: what was stored while it answers is not in the answer."""

    async def renew(self, fence: Fence, *, seconds: float) -> int | None:
        held = await super().renew(fence, seconds=seconds)
        return held - 1 if held else held

    async def held(self, fence: Fence) -> set[str]:
        found = await super().held(fence)
        await asyncio.sleep(5)
        return found


async def test_job_that_is_stored_while_the_ledger_is_asked_what_is_held_is_not_lost() -> None:
    async with open_session(FakeBackend(duration=600), SlowToAnswer()) as session:
        await session.submit(make_config(seed=1))
        await asyncio.sleep(RENEW + 2)
        await session.submit(make_config(seed=2))
        await session.wait_all(timeout=3600)
        assert session.statistics().jobs == {JobState.SUCCEEDED: 2}


class AnswersTogether(MemoryLedger):
    """Says of two renewals at once what it says of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()

    async def renew(self, fence: Fence, *, seconds: float) -> int | None:
        held = await super().renew(fence, seconds=seconds)
        if held is None:
            await self.may_answer.wait()
        return held


async def test_lease_that_is_found_gone_twice_at_once_is_made_anew_once() -> None:
    ledger = AnswersTogether()
    async with open_session(FakeBackend(duration=600), ledger) as session:
        (mine,) = await ledger.holders()
        await ledger.leave(mine.fence)
        submitting = asyncio.create_task(session.submit(make_config()))
        await asyncio.sleep(RENEW + 1)  # the session renews by itself meanwhile
        ledger.may_answer.set()
        await submitting
        assert len(await ledger.holders()) == 1
        await session.wait_all(timeout=3600)
        assert session.statistics().jobs == {JobState.SUCCEEDED: 1}


async def ended_by(place: Path, *edits: str) -> FakeBackend:
    """Leave a ledger with a job that has succeeded, edited by hand or by a later version, and return the service."""
    backend = FakeBackend()
    async with open_session(backend, place) as session:
        await (await session.enqueue(make_config(), idempotency_key="mine"))
    with contextlib.closing(sqlite3.connect(place)) as ledger, ledger:
        for edit in edits:
            ledger.execute(edit)
    return backend


async def test_planned_job_whose_config_cannot_be_read_is_not_sent_and_says_so(tmp_path: Path) -> None:
    backend = await ended_by(
        tmp_path / "jobs.db",
        "UPDATE jobs SET state = 'planned', task_id = NULL",
        "UPDATE configs SET config = '{}'",
        "DELETE FROM attempts",
    )
    async with open_session(backend, tmp_path / "jobs.db", send_planned=True) as session:
        (job,) = session.jobs()
        for asked in (job.retry(), session.enqueue(make_config(), idempotency_key="mine")):
            with pytest.raises(UsageError, match="a later version of crynux_async has written it"):
                await asked
        # However it comes to the queue.
        assert session._supervisor is not None
        session._supervisor.submitter.enqueue(record_of(job))
        with pytest.raises(LedgerError, match="its config is not known"):
            await job.submitted()
        assert job.state is JobState.PLANNED
    assert backend.creates == 1


async def test_job_with_a_model_whose_task_the_ledger_has_lost_says_so(tmp_path: Path) -> None:
    backend = await ended_by(tmp_path / "jobs.db", "UPDATE jobs SET task_id = NULL")
    async with open_session(backend, tmp_path / "jobs.db") as session:
        (job,) = await session.history()
        with pytest.raises(LedgerError, match="the ledger has no task of"):
            await job.download(tmp_path)


class Interrupted(MemoryLedger):
    """A ledger of which a read or a write of one job fails as often as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []

    async def attempts(self, **kwargs: Any) -> list[AttemptRow]:
        if self.errors and kwargs.get("job_ids"):
            raise self.errors.pop()
        return await super().attempts(**kwargs)


@pytest.mark.parametrize("error", [LedgerBusyError("the server restarts"), RuntimeError("a bug")], ids=["busy", "bug"])
async def test_job_that_was_claimed_is_followed_whatever_fails_behind_the_claim(error: Exception) -> None:
    backend, ledger = FakeBackend(), Interrupted()
    async with open_session(backend, ledger) as first:
        await first.submit(make_config(seed=1))
        backend.answers.append(SubmissionUnknownError("lost"))
        with pytest.raises(SubmissionUnknownError):
            await first.submit(make_config(seed=2))
        running, lost = await ledger.jobs()
        async with open_session(backend, ledger) as second:
            ledger.errors.append(error)
            await first.close()
            async with asyncio.timeout(3600):
                await (await found(second, running.job_id)).wait()
            assert (await found(second, lost.job_id)).state is JobState.UNCONFIRMED
            assert {job.job_id for job in second.jobs()} == {running.job_id, lost.job_id}
    assert not ledger.errors


async def found(session: Session, job_id: str) -> Job:
    job = await session.find(job_id)
    assert job is not None
    return job


async def test_job_that_cannot_be_taken_in_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    make, errors = take_over_module.record_from_row, [RuntimeError("a bug")]
    async with open_session(backend, ledger) as first:
        odd, *others = [await first.submit(make_config(seed=seed)) for seed in (1, 2, 3)]

        def fail_once(row: Any, **kwargs: Any) -> Any:
            if row.job_id == odd.job_id and errors:
                raise errors.pop()
            return make(row, **kwargs)

        async with open_session(backend, ledger) as second:
            monkeypatch.setattr(take_over_module, "record_from_row", fail_once)
            await first.close()
            while errors:
                await asyncio.sleep(1)
            assert {job.job_id for job in second.jobs()} == {job.job_id for job in others}
            holder = await ledger.holder(odd.job_id)
            assert holder is None, "what is followed by nobody is anybody's"
            async with asyncio.timeout(3600):
                await (await found(second, odd.job_id)).wait()
                await second.wait_all()


async def test_session_opens_although_a_job_cannot_be_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger) as first:
        odd, other = [await first.submit(make_config(seed=seed)) for seed in (1, 2)]
    make = take_over_module.record_from_row

    def fail(row: Any, **kwargs: Any) -> Any:
        if row.job_id == odd.job_id:
            raise RuntimeError("a bug")
        return make(row, **kwargs)

    monkeypatch.setattr(take_over_module, "record_from_row", fail)
    async with open_session(backend, ledger) as second:
        assert [job.job_id for job in second.jobs()] == [other.job_id]


async def test_job_that_is_taken_for_its_user_and_cannot_be_taken_in_is_given_back() -> None:
    backend, ledger = FakeBackend(), Interrupted()
    backend.answers.append(SubmissionUnknownError("lost"))
    async with open_session(backend, ledger) as first:
        with pytest.raises(SubmissionUnknownError):
            await first.submit(make_config())
    async with open_session(backend, ledger, follow=False) as second:
        (lost,) = await second.history()
        ledger.errors.append(RuntimeError("a bug"))
        with pytest.raises(RuntimeError, match="a bug"):
            await lost.retry()
        assert await ledger.holder(lost.job_id) is None
        await lost.retry()
        assert (await lost.submitted()).task_id == "1"
