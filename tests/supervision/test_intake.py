"""Idempotency keys: the same key is the same job, whoever asks, whatever died in between. On virtual time."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scorecard.severing import Severable
from crynux_async import (
    ConflictError,
    FineTuneConfig,
    Job,
    JobState,
    JobStateChanged,
    LedgerError,
    RejectedError,
    Session,
    SubmissionUnknownError,
    UsageError,
)
from crynux_async.backends.base import Look, Seen
from crynux_async.job import record_of
from crynux_async.ledgers.base import AttemptOutcome, Fence, JobFilter
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.slices import SLICE
from crynux_async.supervision.filing import MAX_KEY_LENGTH
from tests.fake_backend import LEASE, FakeBackend, make_config
from tests.held_ledger import HeldLedger

RENEW = LEASE / 3


def open_session(backend: FakeBackend, ledger: Any = None, *, send_planned: bool = False, **settings: Any) -> Session:
    chosen = {"rate_limit": 6000, **settings}
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, send_planned=send_planned, **chosen)


def config_without_seed() -> FineTuneConfig:
    return FineTuneConfig(model_name="x", dataset_url="https://example.com/pictures.zip", max_train_steps=100)


async def test_same_key_asked_by_many_at_once_is_one_job() -> None:
    backend = FakeBackend()
    async with open_session(backend) as session:
        asks = [session.submit(make_config(seed=1 + n % 10), idempotency_key=f"k{n % 10}") for n in range(100)]
        jobs = await asyncio.gather(*asks)
        assert len(session.jobs()) == 10
    assert backend.creates == 10
    assert [job.config.seed for job in jobs if job.config] == [1 + n % 10 for n in range(100)]


class Snatched(MemoryLedger):
    """A ledger in which another session has a job as soon as it was taken here: a lease of that moment had ended."""

    snatcher: Fence | None = None

    async def take(self, fence: Fence, job_ids: Sequence[str]) -> list[str]:
        taken = await super().take(fence, job_ids)
        if self.snatcher is not None and taken:
            snatcher, self.snatcher = self.snatcher, None
            await self.drop(fence, taken)
            await super().take(snatcher, taken)
        return taken


async def test_job_that_another_session_takes_while_it_is_asked_for_is_returned_all_the_same() -> None:
    backend, ledger = FakeBackend(), Snatched()
    backend.answers.append(RejectedError("not now"))
    async with open_session(backend, ledger) as first:
        with pytest.raises(RejectedError):
            await first.submit(make_config(), idempotency_key="k")
        (left,) = first.jobs()
    async with open_session(backend, ledger) as second, open_session(backend, ledger, follow=False) as third:
        ledger.snatcher = second._supervisor._writer.fence
        await second.find(left.job_id)
        asking = asyncio.create_task(third.enqueue(make_config(), idempotency_key="k"))
        await asyncio.sleep(1)
        assert not asking.done()
        assert ledger.snatcher is None
        # Nobody knows of it there; its next owner hears the wish.
        await ledger.leave(second._supervisor._writer.fence)
        assert await asking == left
        await left_as_sent(third, left)
    assert backend.creates == 2


async def left_as_sent(session: Session, job: Job) -> None:
    handle = await session.find(job.job_id)
    assert handle is not None
    assert (await handle.submitted()).task_id == "1"


async def test_same_key_asked_from_two_sessions_is_one_job_for_both() -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    async with open_session(backend, ledger) as first, open_session(backend, ledger) as second:
        asks = [
            session.submit(make_config(seed=1 + n), idempotency_key=f"k{n}")
            for n in range(5)
            for session in (first, second)
        ]
        jobs = await asyncio.gather(*asks)
        assert [job.job_id for job in jobs[::2]] == [job.job_id for job in jobs[1::2]]
        assert [job.task_id for job in jobs[::2]] == [job.task_id for job in jobs[1::2]]
    assert backend.creates == 5


async def test_key_that_was_stored_and_not_sent_is_sent_when_it_is_asked_for_after_a_crash() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    way = Severable(ledger)
    session = open_session(backend, way, rate_limit=1)
    await session.open()
    await session.submit(make_config(seed=1), idempotency_key="first")
    planned = await session.enqueue(make_config(seed=2), idempotency_key="second")
    assert planned.state is JobState.PLANNED
    await way.sever(session)
    async with open_session(backend, ledger) as following:
        await asyncio.sleep(2 * LEASE)
        assert backend.creates == 1
        job = await following.submit(make_config(seed=2), idempotency_key="second")
        assert (job.job_id, job.task_id) == (planned.job_id, "2")
        assert (await following.submit(make_config(seed=1), idempotency_key="first")).task_id == "1"
    assert [config.seed for config in backend.received] == [1, 2]


async def test_config_without_a_seed_equals_itself_and_the_stored_seed_wins() -> None:
    backend = FakeBackend()
    async with open_session(backend) as session:
        first = await session.submit(config_without_seed(), idempotency_key="k")
        second = await session.submit(config_without_seed(), idempotency_key="k")
        assert (first.job_id, first.config) == (second.job_id, second.config)
        assert second.config is not None
        with pytest.raises(ConflictError) as caught:
            await session.submit(second.config.evolve(seed=second.config.seed), idempotency_key="k")
        assert caught.value.differences == {"seed": (None, second.config.seed)}
    assert backend.creates == 1


async def test_other_config_under_a_key_is_a_conflict_that_names_what_differs() -> None:
    backend = FakeBackend()
    async with open_session(backend) as session:
        job = await session.submit(make_config(), idempotency_key="k")
        with pytest.raises(ConflictError, match="rank was 8 and is 16") as caught:
            await session.enqueue(make_config(rank=16, timeout=3600), idempotency_key="k")
        assert caught.value.differences == {"rank": (8, 16), "timeout": (1800, 3600)}
        assert (caught.value.job_id, caught.value.task_id) == (job.job_id, job.task_id)
    assert backend.creates == 1


async def test_tenants_do_not_share_keys() -> None:
    async with open_session(FakeBackend()) as session:
        ours = await session.submit(make_config(seed=1), idempotency_key="k", tenant="ours")
        theirs = await session.submit(make_config(seed=2), idempotency_key="k", tenant="theirs")
        assert ours != theirs
        assert ours == await session.submit(make_config(seed=1), idempotency_key="k", tenant="ours")


async def test_rejected_job_is_sent_again_when_its_key_is_asked_for() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(RejectedError("no", field="rank"))
    async with open_session(backend, ledger) as session:
        with pytest.raises(RejectedError):
            await session.submit(make_config(), idempotency_key="k")
        assert (await session.submit(make_config(), idempotency_key="k")).task_id == "1"
        (row,) = await session.history()
    assert (row.state, row.tries, backend.creates) == (JobState.RUNNING, 1, 2)


async def test_job_given_up_before_it_was_sent_is_sent_when_its_key_is_asked_for() -> None:
    backend = FakeBackend()
    async with open_session(backend, rate_limit=1) as session:
        await session.submit(make_config(seed=1))
        job = await session.enqueue(make_config(seed=2), idempotency_key="k")
        job.abandon()
        assert (await session.submit(make_config(seed=2), idempotency_key="k")) == job
        assert (job.task_id, job.state) == ("2", JobState.RUNNING)


async def test_job_given_up_after_it_was_sent_comes_back_as_it_is() -> None:
    backend = FakeBackend()
    async with open_session(backend) as session:
        job = await session.submit(make_config(), idempotency_key="k")
        job.abandon()
        assert (await session.submit(make_config(), idempotency_key="k")).state is JobState.ABANDONED
        backend.answers.append(SubmissionUnknownError("lost"))
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config(), idempotency_key="lost")
        session.jobs(JobState.UNCONFIRMED)[0].abandon()
        assert (await session.submit(make_config(), idempotency_key="lost")).state is JobState.ABANDONED
    assert backend.creates == 2


async def test_job_that_failed_comes_back_as_it_is_and_retry_sends_it() -> None:
    backend = FakeBackend(duration=60)
    async with open_session(backend) as session:
        job = await session.submit(make_config(model_name="x/fail"), idempotency_key="k")
        await session.wait_all()
        assert (await session.submit(make_config(model_name="x/fail"), idempotency_key="k")).state is JobState.FAILED
        assert backend.creates == 1
        await (await job.retry()).submitted()
        again = await session.submit(make_config(model_name="x/fail"), idempotency_key="k")
        assert (again, again.task_id, again.state) == (job, "2", JobState.RUNNING)


async def test_key_whose_create_has_an_unknown_outcome_raises_and_sends_nothing() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(SubmissionUnknownError("lost"))
    async with open_session(backend, ledger) as session:
        with pytest.raises(SubmissionUnknownError, match="lost"):
            await session.submit(make_config(), idempotency_key="k")
        for ask in (session.submit, session.enqueue):
            with pytest.raises(SubmissionUnknownError, match=r"reconcile\(\) looks for its task"):
                await ask(make_config(), idempotency_key="k")
        (job,) = await session.submit_many([make_config()], idempotency_key=["k"])
        assert job.state is JobState.UNCONFIRMED
    async with open_session(backend, ledger) as following:
        with pytest.raises(SubmissionUnknownError):
            await following.submit(make_config(), idempotency_key="k")
    assert backend.creates == 1


async def test_cancelled_submit_with_a_key_goes_on_and_one_without_is_withdrawn() -> None:
    backend = FakeBackend()
    async with open_session(backend, rate_limit=1) as session:
        await session.submit(make_config(seed=1))
        with_key = asyncio.create_task(session.submit(make_config(seed=2), idempotency_key="k"))
        without = asyncio.create_task(session.submit(make_config(seed=3)))
        await asyncio.sleep(1)
        for task in (with_key, without):
            task.cancel()
        await asyncio.gather(with_key, without, return_exceptions=True)
        assert {job.config.seed: job.state for job in session.jobs() if job.config} == {
            1: JobState.RUNNING,
            2: JobState.PLANNED,
            3: JobState.ABANDONED,
        }
        await session.jobs(JobState.PLANNED)[0].submitted()
    assert [config.seed for config in backend.received] == [1, 2]


async def test_enqueue_returns_when_the_job_is_durable_and_not_sent() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger, rate_limit=1) as session:
        await session.submit(make_config(seed=1))
        for key in (None, "k"):
            job = await session.enqueue(make_config(seed=2), idempotency_key=key, group="g", tags={"a": "b"})
            row = await ledger.get(job.job_id)
            assert row is not None
            assert (row.state, row.idempotency_key, row.group, dict(row.tags)) == (
                JobState.PLANNED,
                key,
                "g",
                {"a": "b"},
            )
    assert backend.creates == 1


async def leave_planned(backend: FakeBackend, ledger: MemoryLedger) -> None:
    """Leave three planned jobs: one without a key, one with a key, and one with a key whose sending was stopped."""
    async with open_session(backend, ledger, rate_limit=1) as session:
        await session.submit(make_config(seed=1))
        await session.enqueue(make_config(seed=2))
        await session.enqueue(make_config(seed=3), idempotency_key="goes on")
        stopped = await session.enqueue(make_config(seed=4), idempotency_key="stopped")
        await session.stop_sending([stopped])
        with pytest.raises(UsageError, match="stopped"):
            await stopped.submitted()


@pytest.mark.parametrize(("send_planned", "sent"), [(False, [1]), (True, [1, 3])])
async def test_planned_job_with_a_key_goes_on_only_where_a_session_stands_for_it(
    send_planned: bool, sent: list[int]
) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    await leave_planned(backend, ledger)
    async with open_session(backend, ledger, send_planned=send_planned) as session:
        await asyncio.sleep(3600)
        assert [config.seed for config in backend.received] == sent
        assert len(session.jobs()) == 4


async def test_stopped_job_is_sent_when_its_user_asks_for_it_and_is_not_stopped_any_more() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    await leave_planned(backend, ledger)
    async with open_session(backend, ledger) as session:
        await session.submit(make_config(seed=4), idempotency_key="stopped")
        (row,) = await ledger.jobs(JobFilter(idempotency_key="stopped"))
        assert (row.state, row.is_stopped) == (JobState.RUNNING, False)


async def test_planned_job_of_another_credential_is_not_sent_by_a_session_that_stands_for_all() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    await leave_planned(backend, ledger)
    other = FakeBackend()
    other.key_id = "another-key"
    async with open_session(other, ledger, send_planned=True):
        await asyncio.sleep(3600)
    assert other.creates == 0


async def test_submit_many_with_keys_makes_each_job_once() -> None:
    backend = FakeBackend()
    configs = [make_config(seed=seed) for seed in (1, 2, 1)]
    async with open_session(backend) as session:
        first = await session.submit_many(configs, idempotency_key=lambda config: f"seed {config.seed}")
        second = await session.submit_many(configs, idempotency_key=["seed 1", "seed 2", "seed 1"])
        assert first == second
        assert first[0] == first[2] != first[1]
        await asyncio.gather(*(job.submitted() for job in first))
    assert backend.creates == 2


async def test_submit_many_with_a_conflict_sends_none_of_the_new_ones() -> None:
    backend = FakeBackend()
    async with open_session(backend) as session:
        await session.submit(make_config(seed=1), idempotency_key="k")
        with pytest.raises(ConflictError):
            await session.submit_many([make_config(seed=2), make_config(seed=3)], idempotency_key=["new", "k"])
        await asyncio.sleep(60)
        assert backend.creates == 1
        assert (await session.submit(make_config(seed=2), idempotency_key="new")).task_id == "2"


@pytest.mark.parametrize("keys", ["one for all", ["too few"], ["a", "b", "c"]])
async def test_submit_many_with_another_number_of_keys_is_refused(keys: Any) -> None:
    backend = FakeBackend()
    async with open_session(backend) as session:
        with pytest.raises(UsageError) as caught:
            await session.submit_many([make_config(seed=1), make_config(seed=2)], idempotency_key=keys)
        assert caught.value.field == "idempotency_key"
        assert session.jobs() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("idempotency_key", ""),
        ("idempotency_key", "x" * (MAX_KEY_LENGTH + 1)),
        ("idempotency_key", "nul \0"),
        ("label", "half \ud800"),
        ("group", 7),
        ("tenant", None),
        ("tags", {"a": 1}),
        ("tags", ["a"]),
    ],
)
async def test_name_that_no_ledger_can_keep_is_refused_before_anything_is_queued(field: str, value: Any) -> None:
    async with open_session(FakeBackend()) as session:
        with pytest.raises(UsageError) as caught:
            await session.enqueue(make_config(), **{field: value})
        assert caught.value.field == field
        assert session.jobs() == []


async def test_retry_of_a_failed_job_is_another_try_with_another_task_of_the_same_job() -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()
    async with open_session(backend, ledger) as session:
        job = await session.submit(make_config(model_name="x/fail"), label="one")
        await session.wait_all()
        ended_at = job.ended_at
        await (await job.retry()).submitted()
        assert (job.task_id, job.ended_at, job.error, job.label) == ("2", None, None, "one")
        await session.wait_all()
        assert job.state is JobState.FAILED
        (row,) = await session.history()
        assert (row.tries, row.task_id) == (2, "2")
        tasks = await ledger.tasks([job.job_id])
        assert [(task.try_number, task.task_id, task.end) for task in tasks] == [
            (1, "1", "failed"),
            (2, "2", "failed"),
        ]
        assert tasks[0].ended_at == ended_at


async def test_two_callers_that_retry_at_once_make_one_try() -> None:
    backend = FakeBackend(duration=60)
    async with open_session(backend) as session:
        job = await session.submit(make_config(model_name="x/fail"))
        await session.wait_all()
        await asyncio.gather(job.retry(), job.retry())
        await session.wait_all()
    assert backend.creates == 2


async def test_retry_of_a_planned_job_that_is_sent_while_the_retry_waits_does_nothing() -> None:
    backend = FakeBackend(duration=600)
    async with open_session(backend, Severable(MemoryLedger(), 0.1), rate_limit=60_000) as session:
        for moment in range(0, 60, 5):
            job = await session.enqueue(make_config(seed=1 + moment))
            session.submit_nowait(make_config(seed=100 + moment))  # what is stored of it makes the retry wait
            await asyncio.sleep(moment / 100)
            if job.state is JobState.PLANNED:
                await job.retry()
            assert (await job.submitted()).task_id is not None
        await session.wait_all(timeout=None)
    assert backend.creates == 24


async def test_retry_of_a_planned_job_whose_create_is_lost_while_the_retry_waits_pays_for_no_second_one() -> None:
    backend = FakeBackend(duration=600)
    async with open_session(backend, Severable(MemoryLedger(), 0.1), rate_limit=60_000) as session:
        asked = 0
        for moment in range(0, 60, 5):
            job = await session.enqueue(make_config(seed=1 + moment))
            session.submit_nowait(make_config(seed=100 + moment))
            backend.answers.append(SubmissionUnknownError("lost"))
            await asyncio.sleep(moment / 100)
            if job.state is JobState.PLANNED:
                asked += 1
                await job.retry()
            with pytest.raises(SubmissionUnknownError):
                await job.submitted()
            await session.wait_all(timeout=None)
        assert asked > 0
    assert backend.creates == 24


async def test_retry_of_a_job_that_another_session_holds_is_done_by_that_one_and_once() -> None:
    backend, ledger = FakeBackend(duration=30), MemoryLedger()
    async with open_session(backend, ledger) as owner, open_session(backend, ledger) as other:
        await owner.submit(make_config(model_name="x/fail"), idempotency_key="k")
        await owner.wait_all()
        await owner.history()
        seen = await other.submit(make_config(model_name="x/fail"), idempotency_key="k")
        assert seen.state is JobState.FAILED
        await asyncio.gather(seen.retry(), seen.retry())
        await asyncio.sleep(2 * RENEW)
        assert [job.state for job in other.jobs()] == []
        assert backend.creates == 2


async def test_create_cut_off_in_an_earlier_try_is_no_doubt_of_the_next_one() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    way = Severable(ledger)
    session = open_session(backend, way, rate_limit=1)
    await session.open()
    backend.answers.append(SubmissionUnknownError("lost"))
    with pytest.raises(SubmissionUnknownError):
        await session.submit(make_config())
    (job,) = session.jobs()
    await job.retry()  # it waits for the limit
    await way.sever(session)
    async with open_session(backend, ledger) as following:
        await asyncio.sleep(2 * LEASE)
        (left,) = following.jobs()
        assert left.state is JobState.PLANNED
        await (await left.retry()).submitted()
    attempts = await ledger.attempts()
    assert [(one.try_number, one.outcome) for one in attempts] == [
        (1, AttemptOutcome.UNKNOWN),
        (2, AttemptOutcome.ACCEPTED),
    ]


async def test_answer_about_an_earlier_try_says_nothing_of_the_next_one() -> None:
    backend = FakeBackend(duration=600, round_trip=0.1)
    async with open_session(backend) as session:
        job = await session.submit(make_config())
        began, answered = asyncio.Event(), asyncio.Event()
        slow = backend.look

        async def look(task: Any) -> Look:
            if task.task_id == "1":
                began.set()
                await answered.wait()
                return Look(seen=Seen.FAILED)
            return await slow(task)

        backend.look = look  # type: ignore[method-assign]
        await began.wait()
        job.abandon()
        await (await job.retry()).submitted()
        answered.set()
        await asyncio.sleep(1)
        assert (job.task_id, job.state) == ("2", JobState.RUNNING)


async def test_task_that_an_earlier_try_had_is_never_given_to_another_job() -> None:
    backend, ledger = FakeBackend(duration=5), MemoryLedger()

    async def lose_late() -> None:
        await asyncio.sleep(1)
        raise SubmissionUnknownError("lost")

    async with open_session(backend, ledger) as session:
        await session.submit(make_config(seed=1))
        backend.answers.append(lose_late)
        lost = asyncio.create_task(session.submit(make_config(seed=2)))
        await asyncio.sleep(0.3)
        tried = await session.submit(make_config(seed=3))
        assert tried.task_id == "2"
        with pytest.raises(SubmissionUnknownError):
            await lost
        tried.abandon()
        await (await tried.retry()).submitted()
        await asyncio.sleep(60)
        (looked_for,) = await session.reconcile()
        assert (looked_for.job.config, looked_for.candidates) == (make_config(seed=2), ())


async def test_submits_with_shared_keys_from_four_sessions_on_one_file_make_one_task_for_each_key(
    tmp_path: Path,
) -> None:
    backend = FakeBackend(duration=36_000)
    async with AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(
                open_session(backend, SqliteLedger(tmp_path / "jobs.db"), rate_limit=60_000)
            )
            for _ in range(4)
        ]
        asks = [
            sessions[number % 4].submit(make_config(seed=1 + number // 10), idempotency_key=f"key {number // 10}")
            for number in range(200)
        ]
        jobs = await asyncio.gather(*asks)
    assert backend.creates == len(backend.created) == 20
    assert {job.task_id for job in jobs} == set(backend.created)
    assert all(len({job.job_id for job in jobs[first : first + 10]}) == 1 for first in range(0, 200, 10))


class Late(MemoryLedger):
    """A ledger whose answers come late where a test says so: the named method's calls, by their number from 1."""

    def __init__(self, method: str, *late: int) -> None:
        super().__init__()
        self._method = method
        self._late = late
        self._calls = 0

    async def _answer(self, method: str) -> None:
        if method == self._method:
            self._calls += 1
            await asyncio.sleep(1.0 if self._calls in self._late else 0)

    async def add(self, *arguments: Any, **options: Any) -> Any:
        stored = await super().add(*arguments, **options)
        await self._answer("add")
        return stored

    async def get(self, job_id: str) -> Any:
        row = await super().get(job_id)
        await self._answer("get")
        return row


async def states_of(job: Job) -> list[str]:
    return [str(event.state) async for event in job.events(after=0) if isinstance(event, JobStateChanged)]


async def test_planned_job_that_many_ask_for_at_once_in_the_next_session_is_taken_once_and_sent_once() -> None:
    backend, ledger = FakeBackend(round_trip=10), Late("get", 2)
    async with open_session(backend, ledger, rate_limit=1, rate_burst=1) as first:
        await first.submit(make_config(seed=1))
        left = await first.enqueue(make_config(seed=2), idempotency_key="k")
    async with open_session(backend, ledger, follow=False) as second:
        asks = [second.enqueue(make_config(seed=2), idempotency_key="k") for _ in range(5)]
        jobs = await asyncio.gather(*asks)
        assert {job.job_id for job in jobs} == {left.job_id}
        # The second one to read the row does so when the first one's create is under way, which is no lost one.
        assert await states_of(jobs[0]) == ["running", "succeeded"]
    assert backend.creates == 2


async def test_key_whose_row_is_read_by_another_caller_before_its_own_hears_of_it_is_one_job() -> None:
    backend, ledger = FakeBackend(round_trip=10), Late("add", 1)
    async with open_session(backend, ledger) as session:
        asks = [session.enqueue(make_config(), idempotency_key="k") for _ in range(2)]
        one, other = await asyncio.gather(*asks)
        assert record_of(one) is record_of(other)
        assert await states_of(one) == ["running", "succeeded"]
        assert [attempt.number for attempt in await ledger.attempts()] == [1]
    assert backend.creates == 1


async def test_caller_with_a_key_is_told_when_its_job_is_stored_whatever_else_is_being_written() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger, rate_limit=1, rate_burst=1) as session:
        await session.submit(make_config(seed=1))
        change, is_free = ledger.change, asyncio.Event()

        async def held_up(*arguments: Any) -> list[str]:
            await is_free.wait()
            return await change(*arguments)

        ledger.change = held_up  # type: ignore[method-assign]
        for _ in range(2):
            job = await asyncio.wait_for(session.enqueue(make_config(seed=2), idempotency_key="k"), timeout=5)
            assert job.state is JobState.PLANNED
        is_free.set()
        await job.submitted()
    assert backend.creates == 2


async def test_jobs_that_are_asked_for_while_the_ledger_writes_are_stored_by_one_write() -> None:
    ledger = HeldLedger()
    async with open_session(FakeBackend(), ledger) as session:
        asks = [asyncio.create_task(session.enqueue(make_config(seed=1), idempotency_key="first"))]
        await asyncio.sleep(0.1)
        asks += [
            asyncio.create_task(session.enqueue(make_config(seed=2 + n), idempotency_key=f"k{n}")) for n in range(30)
        ]
        await asyncio.sleep(0.1)
        ledger.is_free.set()
        jobs = await asyncio.gather(*asks)
        assert ledger.adds == [1, 30]
        assert [job.config.seed for job in jobs if job.config] == [*range(1, 32)]


async def test_job_that_no_ledger_keeps_is_refused_alone_among_those_that_are_stored_with_it() -> None:
    backend, ledger = FakeBackend(), HeldLedger()
    ledger.is_free.set()
    async with open_session(backend, ledger) as session:
        asks = [
            session.enqueue(make_config(seed=1 + n), idempotency_key=f"k{n}", label="bad" if n == 2 else "")
            for n in range(5)
        ]
        good, bad = asks[:2] + asks[3:], asks[2]
        *jobs, refused = await asyncio.gather(*good, bad, return_exceptions=True)
        assert isinstance(refused, LedgerError)
        assert [type(job) for job in jobs] == [Job] * 4
        assert len(session.jobs()) == 4
        await session.wait_all()
    assert backend.creates == 4


async def test_caller_who_gives_up_while_jobs_are_stored_changes_nothing_for_them() -> None:
    backend, ledger = FakeBackend(), HeldLedger()
    async with open_session(backend, ledger) as session:
        first, second = (
            asyncio.create_task(session.enqueue(make_config(seed=1 + n), idempotency_key=f"k{n}")) for n in range(2)
        )
        await asyncio.sleep(0.1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        ledger.is_free.set()
        await (await second).submitted()
        await (await session.enqueue(make_config(seed=1), idempotency_key="k0")).submitted()
    assert backend.creates == 2


async def test_jobs_that_are_being_stored_when_the_session_closes_are_stored_and_told() -> None:
    ledger = HeldLedger()
    session = open_session(FakeBackend(), ledger)
    await session.open()
    asks = []
    for number in range(2):
        asks.append(asyncio.create_task(session.enqueue(make_config(seed=1 + number), idempotency_key=f"k{number}")))
        await asyncio.sleep(0.1)
    closing = asyncio.create_task(session.close())
    await asyncio.sleep(0.1)
    ledger.is_free.set()
    await closing
    assert [job.state for job in await asyncio.gather(*asks)] == [JobState.PLANNED] * 2
    assert len(await ledger.jobs()) == 2


async def test_session_that_closes_tells_everybody_who_was_to_be_stored_apart_from_a_bad_job() -> None:
    ledger = HeldLedger()
    session = open_session(FakeBackend(), ledger)
    await session.open()
    asks: list[asyncio.Task[Any]] = [asyncio.create_task(session.enqueue(make_config(), idempotency_key="first"))]
    await asyncio.sleep(0.1)
    keys = [f"a{number}" for number in range(SLICE)]  # as many as are stored with others, and not in one turn
    asks.append(asyncio.create_task(session.submit_many([make_config()] * SLICE, idempotency_key=keys)))
    asks += [
        asyncio.create_task(session.enqueue(make_config(), idempotency_key=f"b {label}", label=label))
        for label in ("bad", "good")
    ]
    await asyncio.sleep(0.1)
    ledger.is_free.set()
    ledger.is_free.clear()  # the next write has to wait again
    await asks[0]
    await asyncio.sleep(0.1)
    assert ledger.adds == [1, SLICE + 2]
    closing = asyncio.create_task(session.close())
    await asyncio.sleep(60)  # until creates under way are answered
    ledger.is_free.set()
    await closing
    async with asyncio.timeout(60):
        others = await asyncio.gather(*asks[1:], return_exceptions=True)
    assert [type(other) for other in others] == [UsageError] * 3
    assert len(await ledger.jobs()) == 1


async def test_session_that_closes_tells_whoever_waits_for_the_owner_of_a_job() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(RejectedError("not now"))
    async with open_session(backend, ledger) as owner:
        with pytest.raises(RejectedError):
            await owner.submit(make_config(), idempotency_key="k")
        await owner.history()
        session = open_session(backend, ledger)
        await session.open()
        asking = asyncio.create_task(session.enqueue(make_config(), idempotency_key="k"))
        await asyncio.sleep(0.1)
        assert not asking.done()
        await session.close()
        with pytest.raises(UsageError, match="closed meanwhile"):
            await asking


async def test_job_with_a_key_is_stored_together_with_the_event_that_tells_of_it() -> None:
    ledger = MemoryLedger()
    async with open_session(FakeBackend(), ledger, rate_limit=1, rate_burst=1) as session:
        await session.submit(make_config(seed=1))

        async def held_up(*_: Any) -> list[str]:
            await asyncio.Event().wait()
            raise AssertionError

        change, ledger.change = ledger.change, held_up  # type: ignore[method-assign]
        jobs = await asyncio.gather(
            *(session.enqueue(make_config(seed=2 + n), idempotency_key=f"k{n}") for n in range(3))
        )
        told = [[(event.kind, event.data["position"]) for event in await ledger.events(job.job_id)] for job in jobs]
        assert told == [[("JobQueued", 0)], [("JobQueued", 1)], [("JobQueued", 2)]]
        ledger.change = change  # type: ignore[method-assign]
        await jobs[0].submitted()
        kinds = [event.kind for event in await ledger.events(jobs[0].job_id)]
        assert kinds == ["JobQueued", "JobSubmitted", "JobStateChanged"]
