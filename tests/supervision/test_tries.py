"""Trying jobs again: many at once, with more time, from wherever, and what every try has left. On virtual time."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks.scorecard.severing import Severable
from crynux_async import (
    AuthError,
    ConfigError,
    ConflictError,
    CrynuxError,
    Job,
    JobState,
    RejectedError,
    Session,
    SubmissionUnknownError,
    UsageError,
)
from crynux_async.events import ImagesReady
from crynux_async.job_values import JobTask
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.supervision import upkeep
from tests.fake_backend import LEASE, FakeBackend, make_config

HOUR = 3600


def open_session(backend: FakeBackend, ledger: Any = None, **arguments: Any) -> Session:
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, **{"rate_limit": 6000, **arguments})


async def fail(session: Session, count: int, **filing: Any) -> list[Job]:
    """Send jobs that fail, and wait for their ends."""
    jobs = [await session.submit(make_config(model_name="x/fail", seed=1 + n), **filing) for n in range(count)]
    await session.wait_all(jobs)
    return jobs


async def test_retry_of_a_state_sends_each_of_its_jobs_once_and_no_other() -> None:
    backend = FakeBackend(duration=60)
    async with open_session(backend) as session:
        good = await session.submit(make_config(seed=9))
        failed = await fail(session, 3)
        assert await session.retry(JobState.FAILED) == failed
        await session.wait_all()
        assert [job.tries for job in failed] == [2, 2, 2]
        assert (good.tries, good.state) == (1, JobState.SUCCEEDED)
    assert backend.creates == 7


async def test_retry_sends_at_most_so_many_and_the_oldest_first() -> None:
    backend = FakeBackend(duration=60)
    async with open_session(backend) as session:
        failed = await fail(session, 3)
        assert await session.retry([JobState.FAILED, JobState.EXPIRED], at_most=2) == failed[:2]
        await session.wait_all()
    assert backend.creates == 5


@pytest.mark.parametrize("at_most", [0, -1])
async def test_retry_of_fewer_than_one_job_is_refused(at_most: int) -> None:
    async with open_session(FakeBackend()) as session:
        with pytest.raises(UsageError) as caught:
            await session.retry(JobState.FAILED, at_most=at_most)
        assert caught.value.field == "at_most"


async def test_retry_of_states_never_sends_a_job_of_unknown_outcome() -> None:
    backend = FakeBackend()
    async with open_session(backend) as session:
        backend.answers.append(SubmissionUnknownError("lost"))
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config())
        for states in (JobState.UNCONFIRMED, [JobState.FAILED, JobState.UNCONFIRMED]):
            with pytest.raises(UsageError, match="reconcile"):
                await session.retry(states)
        able = [state for state in JobState if state not in NEVER_ALL_TOGETHER]
        assert await session.retry(able) == []
        assert backend.creates == 1
        (job,) = session.jobs()
        assert await session.retry([job]) == [job]
        await job.submitted()
    assert backend.creates == 2


NEVER_ALL_TOGETHER = {
    JobState.UNCONFIRMED,
    JobState.ATTACHED,
    JobState.RUNNING,
    JobState.STALLED,
    JobState.SUCCEEDED,
    JobState.DOWNLOADED,
}


@pytest.mark.parametrize("state", sorted(NEVER_ALL_TOGETHER - {JobState.UNCONFIRMED}))
async def test_retry_of_a_state_whose_jobs_run_or_have_models_is_refused(state: JobState) -> None:
    async with open_session(FakeBackend()) as session:
        with pytest.raises(UsageError) as caught:
            await session.retry([JobState.FAILED, state])
        assert caught.value.field == "states"


async def test_retry_of_jobs_of_which_one_runs_sends_none() -> None:
    backend = FakeBackend(duration=lambda config: 60 if config.model_name == "x/fail" else HOUR)
    async with open_session(backend) as session:
        running = await session.submit(make_config(seed=9))
        (failed,) = await fail(session, 1)
        with pytest.raises(UsageError, match=running.job_id):
            await session.retry([failed, running])
        await asyncio.sleep(60)
        assert failed.state is JobState.FAILED
    assert backend.creates == 2


async def test_retry_of_one_job_named_twice_is_one_try() -> None:
    backend = FakeBackend(duration=60)
    async with open_session(backend) as session:
        (job,) = await fail(session, 1)
        assert await session.retry([job, job]) == [job]
        await session.wait_all()
    assert backend.creates == 2


async def test_key_of_a_job_that_got_more_time_stands_for_what_was_asked_first() -> None:
    backend, ledger, asked = FakeBackend(duration=60), MemoryLedger(), make_config(model_name="x/fail", seed=1)
    async with open_session(backend, ledger) as session:
        job = await session.enqueue(asked, idempotency_key="k")
        await session.wait_all([job])
        for hours in (2, 3):
            await job.retry(timeout=hours * HOUR)
            await session.wait_all([job])
    async with open_session(backend, ledger) as later:
        assert await later.enqueue(asked, idempotency_key="k") == job
        with pytest.raises(ConflictError):
            await later.enqueue(asked.evolve(timeout=4 * HOUR), idempotency_key="k")
    assert backend.creates == 3
    (row,) = await ledger.jobs()
    assert row.to_dict()["asked_digest"] == asked.asked_digest()


async def test_new_try_may_have_more_time_and_trains_the_same() -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()
    async with open_session(backend, ledger) as session:
        (job,) = await fail(session, 1)
        assert job.config is not None
        digest = job.config.digest()
        await (await job.retry(timeout=2 * HOUR)).submitted()
        assert [config.timeout for config in backend.received] == [1800, 2 * HOUR]
        assert (job.config.timeout, job.config.digest()) == (2 * HOUR, digest)
    async with open_session(backend, ledger) as later:
        (found,) = await later.history()
        assert found.config == job.config


async def test_time_may_be_raised_and_not_cut() -> None:
    backend = FakeBackend(duration=60)
    async with open_session(backend) as session:
        failed = await fail(session, 2)
        with pytest.raises(UsageError) as caught:
            await session.retry(failed, timeout=1799)
        assert caught.value.field == "timeout"
        with pytest.raises(ConfigError):
            await session.retry(failed, timeout=0)
        assert {job.state for job in failed} == {JobState.FAILED}
    assert backend.creates == 2


async def test_retry_of_a_state_leaves_longer_times_as_they_are() -> None:
    backend = FakeBackend(duration=60)
    async with open_session(backend) as session:
        for timeout in (1800, 4 * HOUR):
            await session.submit(make_config(model_name="x/fail", timeout=timeout))
        await session.wait_all()
        await session.retry(JobState.FAILED, timeout=2 * HOUR)
        await session.wait_all()
    assert sorted(config.timeout for config in backend.received[2:]) == [2 * HOUR, 4 * HOUR]


async def test_planned_job_may_have_more_time_before_it_is_sent() -> None:
    backend = FakeBackend(duration=60)
    async with open_session(backend, rate_limit=1) as session:
        await session.submit(make_config(seed=1))
        waiting = await session.enqueue(make_config(seed=2))
        await waiting.retry(timeout=HOUR)
        await waiting.submitted()
    assert [config.timeout for config in backend.received] == [1800, HOUR]


async def test_key_stands_for_what_was_asked_after_its_job_was_given_more_time() -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()
    async with open_session(backend, ledger) as session:
        (job,) = await fail(session, 1, idempotency_key="cats")
        await (await job.retry(timeout=HOUR)).submitted()
    async with open_session(backend, ledger) as later:
        for asked in (make_config(model_name="x/fail", seed=1), job.config):
            assert asked is not None
            assert await later.enqueue(asked, idempotency_key="cats") == job
    assert backend.creates == 2


async def test_retry_of_anothers_job_returns_when_its_owner_has_begun_the_new_try() -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()
    async with open_session(backend, ledger) as owner, open_session(backend, ledger, follow=False) as other:
        failed = await fail(owner, 20)
        await owner.history()  # everything is stored
        seen = await other.retry(JobState.FAILED, timeout=HOUR)
        assert seen == failed
        tasks = [(await job.submitted()).task_id for job in seen]
        assert set(tasks) == {str(number) for number in range(21, 41)}
        assert {job.tries for job in seen} == {2}
        assert {job.config.timeout for job in seen if job.config} == {HOUR}
        assert other.jobs() == []
    assert [config.timeout for config in backend.received[20:]] == [HOUR] * 20


async def test_wish_of_an_owner_that_died_is_carried_out_once() -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()
    way = Severable(ledger)
    dying = open_session(backend, way)
    await dying.open()
    (job,) = await fail(dying, 1)
    await dying.history()
    async with open_session(backend, ledger, follow=False) as other:
        handle = await other.find(job.job_id)
        assert handle is not None
        await way.sever(dying)  # what it held is its own until its lease ends
        assert (await (await handle.retry()).submitted()).task_id == "2"
        await asyncio.sleep(LEASE)
        assert handle.tries == 2
    assert backend.creates == 2


async def test_handle_that_is_behind_does_not_send_what_another_has_sent_meanwhile() -> None:
    backend, ledger = FakeBackend(duration=lambda config: HOUR if config.seed == 1 else 60), MemoryLedger()
    async with open_session(backend, ledger, follow=False) as onlooker:
        first = open_session(backend, ledger)
        async with first:
            job = await first.submit(make_config(seed=1))
            job.abandon()
        stale = await onlooker.find(job.job_id)
        assert stale is not None
        async with open_session(backend, ledger) as second:
            found = await second.find(job.job_id)
            assert found is not None
            await (await found.retry()).submitted()
        assert stale.state is JobState.ABANDONED
        await stale.retry()
        assert (stale.state, stale.task_id, stale.tries) == (JobState.RUNNING, "2", 2)
    assert backend.creates == 2


class Told:
    """An error that the first creates get, and the handle of another session that has read the job before that."""

    def __init__(self, error: CrynuxError, count: int = 1) -> None:
        self.backend = FakeBackend(duration=60)
        self.backend.answers.extend([error] * count)

    async def handle(self, owner: Session, other: Session) -> Job:
        job = await owner.enqueue(make_config())
        handle = await other.find(job.job_id)
        assert handle is not None
        with pytest.raises(type(self.backend.answers[0])):
            await job.submitted()
        await owner.history()
        return handle


@pytest.mark.parametrize("error", [RejectedError("no such model"), AuthError("unknown key")], ids=["refused", "aside"])
async def test_retry_through_a_handle_that_is_behind_sends_what_was_not_sent(error: CrynuxError) -> None:
    told, ledger = Told(error), MemoryLedger()
    async with open_session(told.backend, ledger) as owner, open_session(told.backend, ledger, follow=False) as other:
        handle = await told.handle(owner, other)
        assert handle.state is JobState.PLANNED
        assert (await (await handle.retry()).wait()).state is JobState.SUCCEEDED
    assert told.backend.creates == 2


async def test_retry_through_a_handle_that_is_behind_never_sends_what_may_be_paid_for() -> None:
    told, ledger = Told(SubmissionUnknownError("lost")), MemoryLedger()
    async with open_session(told.backend, ledger) as owner, open_session(told.backend, ledger, follow=False) as other:
        handle = await told.handle(owner, other)
        with pytest.raises(SubmissionUnknownError):
            await (await handle.retry()).wait()
        assert told.backend.creates == 1
        await (await handle.retry()).submitted()  # its user knows now
    assert told.backend.creates == 2


async def test_retry_of_a_job_that_is_seen_running_and_has_failed_is_another_try() -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()
    async with open_session(backend, ledger) as owner, open_session(backend, ledger, follow=False) as other:
        job = await owner.submit(make_config(model_name="x/fail"))
        handle = await other.find(job.job_id)
        assert handle is not None
        await owner.wait_all()
        assert (await handle.retry()).tries == 2


async def test_error_after_a_retry_is_that_of_the_new_try_also_where_it_is_the_same_again() -> None:
    told, ledger = Told(AuthError("unknown key"), 2), MemoryLedger()
    async with open_session(told.backend, ledger) as owner, open_session(told.backend, ledger, follow=False) as other:
        handle = await told.handle(owner, other)
        with pytest.raises(CrynuxError, match="unknown key"):
            await (await handle.retry()).submitted()
        assert told.backend.creates == 2
        assert (await (await handle.retry()).submitted()).task_id == "1"


async def test_retry_does_not_return_for_an_event_that_is_no_try(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()
    monkeypatch.setattr(upkeep, "_HEAR_WISHES_EVERY", HOUR)
    async with open_session(backend, ledger) as owner, open_session(backend, ledger, follow=False) as other:
        (job,) = await fail(owner, 1)
        handle = await other.find(job.job_id)
        assert handle is not None
        retried = asyncio.create_task(handle.retry())
        await asyncio.sleep(1)
        owner._supervisor.register.tell(ImagesReady(job_id=job.job_id, task_id="1", at=job.planned_at))
        await owner.history()
        await asyncio.sleep(60)
        assert not retried.done()
        await asyncio.sleep(HOUR)
        assert (await retried).tries == 2


async def test_tasks_are_those_of_every_try_wherever_they_are_asked_for() -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()
    async with open_session(backend, ledger) as owner, open_session(backend, ledger, follow=False) as other:
        (job,) = await fail(owner, 1)
        ended_at = job.ended_at
        await (await job.retry()).submitted()
        handle = await other.find(job.job_id)
        assert handle is not None
        first, second = await handle.tasks()
        assert [first, second] == await job.tasks()
        assert (first.try_number, first.task_id, first.end, first.ended_at) == (1, "1", "failed", ended_at)
        assert (second.try_number, second.task_id, second.end, second.ended_at) == (2, "2", "", None)


def test_task_leaves_as_json_with_wei_as_text() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    task = JobTask(
        try_number=2,
        member=0,
        task_id="7",
        made_at=now,
        ended_at=now + timedelta(seconds=1),
        end="failed",
        reason="no nodes",
        fee=15 * 10**18,
        spent=None,
    )
    assert task.to_dict() == {
        "try_number": 2,
        "member": 0,
        "task_id": "7",
        "made_at": now.isoformat(),
        "ended_at": (now + timedelta(seconds=1)).isoformat(),
        "end": "failed",
        "reason": "no nodes",
        "fee_wei": "15000000000000000000",
        "spent_wei": None,
    }
