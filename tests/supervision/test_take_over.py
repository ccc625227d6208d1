"""Jobs that outlive their process: what the next session on the same ledger does with them. On virtual time."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import attrs
import pytest

import crynux_async.session as session_module
from benchmarks.scorecard.severing import Severable
from crynux_async import JobState, LedgerError, RateLimitedError, Session, SubmissionUnknownError, UsageError
from crynux_async.clock import monotonic
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.pacing.age_bins import HazardSnapshot
from crynux_async.supervision.supervisor import LEASE
from crynux_async.testing import VirtualTimeLoop, virtual_time_run
from tests.fake_backend import FakeBackend, make_config

RENEW = LEASE.total_seconds() / 3


def open_session(backend: FakeBackend, ledger: Any, **settings: Any) -> Session:
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, **{"rate_limit": 6000, **settings})


async def test_next_session_follows_every_running_job_without_being_asked() -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    async with open_session(backend, ledger) as first:
        await asyncio.gather(*(first.submit(make_config(seed=seed)) for seed in (1, 2, 3)))
    async with open_session(backend, ledger) as second:
        assert [job.task_id for job in second.jobs(JobState.RUNNING)] == [1, 2, 3]
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
        assert [job.resubmit() for job in planned] == planned
        await asyncio.gather(*(job.submitted() for job in planned))
    assert [config.seed for config in backend.received] == [1, 2, 3]


async def test_create_cut_off_by_the_end_of_its_process_is_unconfirmed_in_the_next() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(asyncio.Event().wait)
    session = open_session(backend, ledger)
    await session.open()
    session.plan(make_config())
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
        assert (await second.unconfirmed())[0].before == 1
    await session.close()


async def test_create_cut_off_after_the_clock_was_set_back_is_unconfirmed_all_the_same() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(asyncio.Event().wait)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    async with open_session(backend, ledger, rate_limit=1, close_timeout=0) as session:
        session.plan(make_config())
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
    session.plan(make_config())
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


async def test_create_cut_off_and_finished_by_its_process_after_all_is_running() -> None:
    backend, ledger = FakeBackend(duration=3600), MemoryLedger()

    class Slow(MemoryLedger):
        """Between claim and finish of the new process, the one that was given up stores its answer."""

        async def finish(self, attempt: AttemptRow, **changes: Any) -> None:
            if attempt.outcome is AttemptOutcome.UNKNOWN:
                done = {"state": JobState.RUNNING, "task_id": 1, "submitted_at": attempt.answered_at}
                await super().finish(attrs.evolve(attempt, outcome=AttemptOutcome.ACCEPTED, task_id=1), **done)
            await super().finish(attempt, **changes)

    backend.answers.append(asyncio.Event().wait)
    way = Severable(ledger)
    session = open_session(backend, way)
    await session.open()
    session.plan(make_config())
    await asyncio.sleep(1)
    await way.sever(session)
    backend.make_task(make_config())
    async with open_session(backend, await copy_of(ledger, Slow())) as second:
        assert [(job.state, job.task_id) for job in second.jobs()] == [(JobState.RUNNING, 1)]
        await second.wait_all()
    assert backend.creates == 1


async def copy_of(ledger: MemoryLedger, copy: MemoryLedger | None = None) -> MemoryLedger:
    """Return what a new process would read: the rows, without leases."""
    copy = copy or MemoryLedger()
    await copy.add(await ledger.jobs())
    for attempt in await ledger.attempts():
        await copy.begin(attempt)
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
        assert (lost.after, lost.before, list(lost.candidates or [])) == (1, 3, [2])
        assert lost.digest == make_config(seed=2).digest()
        await session.wait_all(session.jobs(JobState.RUNNING))
        (found,) = await session.reconcile()
        assert (found.task_id, found.state, found.ended_at) == (2, JobState.RUNNING, None)
        await session.wait_all([found], timeout=3600)
    assert backend.creates == 3
    assert backend.asked == [2]


async def test_reconcile_never_asks_outside_the_bracket() -> None:
    backend = FakeBackend()
    backend.answers.append(SubmissionUnknownError("lost"))
    async with open_session(backend, MemoryLedger()) as session:
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config())
        assert await session.reconcile() == []
    assert backend.asked == []


async def test_resubmit_of_an_unconfirmed_job_replaces_it_by_a_new_one() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(SubmissionUnknownError("lost"))
    async with open_session(backend, ledger) as session:
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config())
        (old,) = session.jobs()
        new = await old.resubmit().submitted()
        assert (old.state, old.resubmitted_as, new.task_id) == (JobState.ABANDONED, new.job_id, 1)
        rows = await session.history()
    assert [(row.state, row.resubmitted_as) for row in rows] == [
        (JobState.ABANDONED, new.job_id),
        (JobState.RUNNING, None),
    ]


async def test_resubmit_of_a_running_job_raises() -> None:
    async with open_session(FakeBackend(), MemoryLedger()) as session:
        job = await session.submit(make_config())
        with pytest.raises(UsageError):
            job.resubmit()


async def test_every_attempt_is_in_the_ledger_with_its_outcome() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.extend([RateLimitedError("slow", wait=1.0, field="rate_limit"), None])
    async with open_session(backend, ledger) as session:
        await session.submit(make_config())
    attempts = await ledger.attempts()
    assert [(a.number, a.outcome, a.wait, a.task_id) for a in attempts] == [
        (1, AttemptOutcome.REFUSED, 1.0, None),
        (2, AttemptOutcome.ACCEPTED, None, 1),
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
    first.plan(make_config())
    await asyncio.sleep(1)
    copies = [await copy_of(ledger), await copy_of(ledger)]
    for copy in copies:
        copy._gates.update(ledger._gates)
    async with open_session(FakeBackend(), copies[0], rate_limit=5) as waiting:
        assert await submit_in(waiting, 1) > 60  # that process may live
    monkeypatch.setattr(session_module, "is_gone", lambda _: True)
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
    """A ledger whose disk fails at a chosen operation."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self._operation = operation

    def _fail(self, operation: str) -> None:
        if operation == self._operation:
            raise LedgerError("disk full", path="jobs.db")

    async def add(self, *args: Any, **kwargs: Any) -> None:
        self._fail("add")
        await super().add(*args, **kwargs)

    async def begin(self, *args: Any, **kwargs: Any) -> None:
        self._fail("begin")
        await super().begin(*args, **kwargs)

    async def finish(self, *args: Any, **kwargs: Any) -> None:
        self._fail("finish")
        await super().finish(*args, **kwargs)


@pytest.mark.parametrize("operation", ["add", "begin"])
async def test_intent_that_cannot_be_stored_is_never_sent(operation: str) -> None:
    backend = FakeBackend()
    async with open_session(backend, BrokenLedger(operation)) as session:
        with pytest.raises(LedgerError):
            await session.submit(make_config())
        with pytest.raises(LedgerError):
            await session.submit(make_config())
    assert backend.creates == 0


async def test_answer_that_cannot_be_stored_is_in_the_exception_and_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend = FakeBackend()
    async with open_session(backend, BrokenLedger("finish")) as session:
        with pytest.raises(LedgerError) as caught:
            await session.submit(make_config())
        assert caught.value.task_id == 1
        assert "task 1" in capsys.readouterr().err
        with pytest.raises(LedgerError):
            await session.submit(make_config())
    assert backend.creates == 1


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


async def test_model_that_is_about_to_be_deleted_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    async with open_session(FakeBackend(), MemoryLedger()) as session:
        await (await session.submit(make_config()))
        with caplog.at_level(logging.WARNING, "crynux_async"):
            await asyncio.sleep(5 * 86_400)
            assert "was not downloaded" not in caplog.text
            await asyncio.sleep(2 * 86_400)
            assert "was not downloaded" in caplog.text


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
    assert [job.task_id for job in second.jobs()] == [1, 2]
    await second.wait_all()
    await second.close()
    assert backend.creates == 2


async def test_jobs_of_an_owner_that_died_are_taken_over_when_its_lease_is_over_and_not_before() -> None:
    backend, ledger = FakeBackend(duration=3600), MemoryLedger()
    way = Severable(ledger)
    gate = {"rate_limit": 1, "rate_burst": 3}
    victim, survivor = open_session(backend, way, **gate), open_session(backend, ledger, **gate)
    await victim.open()
    await survivor.open()
    await asyncio.gather(*(victim.submit(make_config(seed=seed)) for seed in (1, 2)))
    backend.answers.append(asyncio.Event().wait)
    await victim.submit_many([make_config(seed=seed) for seed in (3, 4)])  # one is under way, one waits for the gate
    await asyncio.sleep(RENEW + 0.5)  # its lease was renewed just now
    await way.sever(victim)
    died_at = monotonic()
    while not survivor.jobs():
        await asyncio.sleep(0.5)
    assert LEASE.total_seconds() - 1 < monotonic() - died_at < LEASE.total_seconds() + RENEW + 1
    states = [JobState.RUNNING, JobState.RUNNING, JobState.UNCONFIRMED, JobState.PLANNED]
    assert [job.state for job in survivor.jobs()] == states
    assert backend.creates == 3
    await survivor.jobs()[-1].resubmit().submitted()
    await survivor.wait_all(survivor.jobs(JobState.RUNNING))
    await survivor.close()
    assert [config.seed for config in backend.received] == [1, 2, 3, 4]


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
        assert [job.task_id for job in second.jobs()] == [1]


async def test_what_was_learned_of_failures_is_kept_apart_in_the_ledger() -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    async with open_session(backend, ledger) as session:
        jobs = [await session.submit(make_config(seed=1)), await session.submit(make_config(model_name="a/fail"))]
        await session.wait_all(jobs)
        assert {job.state for job in jobs} == {JobState.SUCCEEDED, JobState.FAILED}
    stored = await ledger.load_hazards(session.settings.base_url)
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
