"""Which tasks a lost create may be given: never one that another lost create may have made, whatever became of that.

On virtual time.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from crynux_async import FineTuneConfig, JobState, Session, SubmissionUnknownError
from crynux_async.backends.base import Finding, Task, Validator, Verdict
from crynux_async.job import Job
from crynux_async.ledgers.base import JobFilter
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.supervision.upkeep import _HEAR_WISHES_EVERY
from tests.fake_backend import FakeBackend, make_config
from tests.small_results import FakeResult, make_archive


def open_session(backend: FakeBackend, ledger: Any) -> Session:
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, rate_limit=6000)


def loses_the_answer(backend: FakeBackend, seed: int) -> Callable[[], Any]:
    return loses_the_config(backend, make_config(seed=seed))


def loses_the_config(backend: FakeBackend, config: FineTuneConfig) -> Callable[[], Any]:
    async def lose() -> None:
        backend.make_task(config)
        raise SubmissionUnknownError("the answer was lost")

    return lose


async def lost_job(session: Session, seed: int) -> Job:
    with pytest.raises(SubmissionUnknownError):
        await session.submit(make_config(seed=seed), label=f"seed {seed}")
    (job,) = await session.history(label=f"seed {seed}")
    return job


async def test_lost_create_of_another_key_is_not_taken_for_one_that_never_happened() -> None:
    # The service tells no other key whose a task is, so every paid task would look like somebody else's.
    backend, ledger = FakeBackend(duration=1), MemoryLedger()
    async with open_session(backend, ledger) as first:
        await first.submit(make_config(seed=1))
        backend.answers.append(loses_the_answer(backend, 2))
        await lost_job(first, 2)
        await first.submit(make_config(seed=3))
        await asyncio.sleep(60)
    rotated = FakeBackend(duration=1)
    rotated.key_id, rotated.created = "another key", {}
    async with open_session(rotated, ledger) as second:
        assert await second.reconcile_requests() == 0
        (looked_for,) = await second.reconcile()
        assert (looked_for.verdict, looked_for.job.state) == (Verdict.OPEN, JobState.UNCONFIRMED)
        assert "another API key" in looked_for.explanation
    assert rotated.asked == []
    async with open_session(backend, ledger) as third:
        (looked_for,) = await third.reconcile()
        assert (looked_for.verdict, looked_for.job.task_id) == (Verdict.FOUND, "2")


@pytest.mark.parametrize("decision", ["abandon", "retry"])
async def test_task_of_a_lost_create_that_was_decided_is_not_given_to_the_one_beside_it(decision: str) -> None:
    backend = FakeBackend(duration=1)
    async with open_session(backend, MemoryLedger()) as session:
        await session.submit(make_config(seed=1))
        backend.answers.append(loses_the_answer(backend, 2))
        decided = await lost_job(session, 2)
        backend.answers.append(SubmissionUnknownError("it never arrived"))
        never_made = await lost_job(session, 3)
        await session.submit(make_config(seed=4))
        if decision == "abandon":
            decided.abandon()
        else:
            await (await decided.retry()).submitted()
        await asyncio.sleep(60)
        (looked_for,) = await session.reconcile()
        # Task 2 trains seed 2: it is not the model of seed 3, though its key and its bracket fit.
        assert (looked_for.job, looked_for.verdict, looked_for.candidates) == (
            never_made,
            Verdict.AMBIGUOUS,
            ("2",),
        )
        assert decided.job_id in looked_for.explanation
        assert never_made.task_id is None


class Trained(FakeBackend):
    """A service whose archives have the rank, and the steps, that their tasks were made with."""

    announces = True

    @asynccontextmanager
    async def open_result(
        self, task: Task, *, start: int = 0, validator: Validator | None = None
    ) -> AsyncIterator[FakeResult]:
        self.open_results += 1
        result = FakeResult(make_archive(rank=self.created[task.task_id].rank), start)
        if not self.announces:
            result.validator = attrs.evolve(result.validator, total_bytes=None)
        yield result


ONE_MODULE = r".*down_blocks\.0\.attentions\.0\.transformer_blocks\.0\.attn1\.to_k"


async def test_archives_tell_which_of_two_tasks_is_whose_and_the_user_decides() -> None:
    backend = Trained(duration=1)
    async with open_session(backend, MemoryLedger()) as session:
        await session.submit(make_config(seed=1))
        lost = {}
        for rank in (4, 64):
            config = make_config(seed=rank, rank=rank, target_modules=ONE_MODULE)
            backend.answers.append(loses_the_config(backend, config))
            with pytest.raises(SubmissionUnknownError):
                await session.submit(config, force=True)
            lost[rank] = session.jobs()[-1]
        await session.submit(make_config(seed=2))
        await asyncio.sleep(60)
        found = {each.job: each for each in await session.reconcile()}
    for rank, own, other in ((4, "2", "3"), (64, "3", "2")):
        said = found[lost[rank]]
        assert (said.verdict, said.candidates) == (Verdict.AMBIGUOUS, ("2", "3"))
        assert f"task {own} has the rank" in said.explanation
        assert f"task {other} is not what this job has asked for" in said.explanation
        assert f"{own} is its task" in said.explanation
        assert lost[rank].task_id is None


@pytest.mark.parametrize("is_announced", [True, False])
async def test_archives_that_are_too_large_are_not_fetched_and_that_is_said(
    is_announced: bool,
) -> None:
    backend = Trained(duration=1)
    size = len(make_archive(rank=4))
    backend.announces = is_announced
    async with open_session(backend, MemoryLedger()) as session:
        await session.submit(make_config(seed=1))
        for seed in (2, 3):
            config = make_config(seed=seed, rank=4, target_modules=ONE_MODULE)
            backend.answers.append(loses_the_config(backend, config))
            with pytest.raises(SubmissionUnknownError):
                await session.submit(config, force=True)
        await session.submit(make_config(seed=4))
        await asyncio.sleep(60)
        # Room for one of them, which is compared, and not for the other.
        for said in await session.reconcile(evidence_bytes=size + size // 2):
            assert (said.verdict, said.candidates) == (Verdict.AMBIGUOUS, ("2", "3"))
            assert "task 2 has the rank" in said.explanation
            assert f"was not fetched: evidence_bytes={size + size // 2} bounds that" in said.explanation
            assert (f"task 3 of {size:,} bytes was" in said.explanation) is is_announced
            assert "is its task" not in said.explanation
        backend.open_results = 0
        for said in await session.reconcile(evidence_bytes=0):
            assert said.explanation.count("was not fetched: evidence_bytes=0 bounds that") == 2
        assert backend.open_results == 0


async def test_other_jobs_tasks_are_asked_for_by_name_and_no_row_is_read() -> None:
    class Asked(MemoryLedger):
        """Notes which rows and tasks are asked for."""

        async def jobs(self, where: Any = None, **options: Any) -> Any:
            assert where not in (None, JobFilter(backend=backend.name)), "every row is read"
            return await super().jobs(where, **options)

        async def known_tasks(self, backend: str, task_ids: Collection[str]) -> set[str]:
            asked.append(len(task_ids))
            return await super().known_tasks(backend, task_ids)

    asked: list[int] = []
    backend = FakeBackend(duration=1)
    async with open_session(backend, Asked()) as session:
        await session.submit(make_config(seed=1))
        backend.answers.append(SubmissionUnknownError("no answer"))
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config(seed=2))
        for number in range(3000):  # of other users of the bridge
            backend.make_task(make_config(seed=number + 10))
        await session.submit(make_config(seed=3))
        await asyncio.sleep(60)
        (said,) = await session.reconcile(at_most=50)
    assert "3000 numbers lie in its bracket" in said.explanation
    assert asked == [500]  # more than can be looked at is not asked for


async def test_archives_of_equal_trainings_tell_nothing_apart() -> None:
    backend = Trained(duration=1)
    async with open_session(backend, MemoryLedger()) as session:
        await session.submit(make_config(seed=1))
        for seed in (2, 3):
            config = make_config(seed=seed, target_modules=ONE_MODULE)
            backend.answers.append(loses_the_config(backend, config))
            with pytest.raises(SubmissionUnknownError):
                await session.submit(config, force=True)
        await session.submit(make_config(seed=4))
        await asyncio.sleep(60)
        for said in await session.reconcile():
            assert (said.verdict, said.candidates) == (Verdict.AMBIGUOUS, ("2", "3"))
            assert "is its task" not in said.explanation
    assert backend.open_results == 2  # each once


async def test_lost_create_that_another_session_holds_is_no_reason_to_take_its_task() -> None:
    backend, ledger = FakeBackend(duration=1), MemoryLedger()
    async with open_session(backend, ledger) as first, open_session(backend, ledger) as second:
        await first.submit(make_config(seed=1))
        backend.answers.append(loses_the_answer(backend, 2))
        theirs = await lost_job(second, 2)
        backend.answers.append(SubmissionUnknownError("it never arrived"))
        ours = await lost_job(first, 3)
        await first.submit(make_config(seed=4))
        await asyncio.sleep(20)
        (looked_for,) = await first.reconcile()
        assert (looked_for.job, looked_for.verdict) == (ours, Verdict.AMBIGUOUS)
        assert theirs.job_id in looked_for.explanation


async def test_task_that_was_left_to_its_owner_twice_is_no_second_task(caplog: pytest.LogCaptureFixture) -> None:
    async with open_session(FakeBackend(duration=600), MemoryLedger()) as session:
        job = await session.submit(make_config())
        assert session._supervisor is not None
        assert job.task_id is not None
        await session._supervisor._writer.hand_over(job.job_id, 1, job.task_id)
        await session._supervisor._writer.hand_over(job.job_id, 1, "another")
        await asyncio.sleep(2 * _HEAR_WISHES_EVERY)
        assert f"task another was made for job {job.job_id} too" in caplog.text
        assert f"task {job.task_id} was made for job {job.job_id} too" not in caplog.text


async def test_job_that_is_given_up_and_forgotten_while_it_is_looked_for_is_told_as_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = FakeBackend()
    backend.answers.append(SubmissionUnknownError("lost"))
    async with open_session(backend, MemoryLedger()) as session:
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config())
        look, supervisor = backend.find_lost, session._supervisor
        assert supervisor is not None
        supervisor.register._keeps = 0

        async def abandon_first(*args: Any, **kwargs: Any) -> list[Finding]:
            (job,) = session.jobs(JobState.UNCONFIRMED)
            job.abandon()
            del job
            await asyncio.sleep(30)  # the ledger has heard of it
            gc.collect()
            return await look(*args, **kwargs)

        monkeypatch.setattr(backend, "find_lost", abandon_first)
        (found,) = await session.reconcile()
        assert found.job is not None
        assert (found.verdict, found.job.state) == (Verdict.OPEN, JobState.ABANDONED)
