"""A service that is no bridge, driven through its steps: rows before deeds, a slot of their own, other processes."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scorecard.severing import Severable
from crynux_async import (
    ImagesReady,
    Job,
    JobAbandonedError,
    JobFailedError,
    JobProgressed,
    JobState,
    Session,
    StepTaken,
    SubmissionUnknownError,
)
from crynux_async.backends.base import Action, Look, Seen, Task
from crynux_async.budgets import Budget
from crynux_async.clock import monotonic
from crynux_async.errors import (
    AuthError,
    BackendError,
    ProtocolError,
    QuotaError,
    RejectedError,
    UnreachableError,
    UsageError,
)
from crynux_async.ledgers.base import AttemptOutcome
from crynux_async.ledgers.memory import MemoryLedger
from tests.fake_backend import make_config
from tests.second_backend import FEE, STAGES, STEPS, Studio, StudioBackend


def open_session(studio: Studio, ledger: MemoryLedger, **options: Any) -> Session:
    return Session(backend=StudioBackend(studio), ledger=ledger, poll_delay=0.01, min_poll_interval=1.0, **options)


async def lose_an_answer(studio: Studio, session: Session) -> Job:
    """Return a job whose create's answer was lost; the studio cannot be asked again for now."""
    studio.loses_answers = 1
    job = session.submit_nowait(make_config())
    while not studio.tasks:
        await asyncio.sleep(0.01)
    studio.is_away = True
    await asyncio.sleep(3)
    return job


async def test_job_with_steps_is_submitted_followed_and_downloaded(tmp_path: Path) -> None:
    studio, ledger = Studio(), MemoryLedger()
    async with open_session(studio, ledger) as session:
        path = await session.run(make_config(), tmp_path)
        (job,) = session.jobs()
        assert job.task_id == f"drawing-{job.job_id}-1"
        assert path.name == f"{job.job_id}.zip"
        assert path.read_bytes() == studio.archive
        assert session.statistics().limit_per_minute is None
    assert [kind for _, kind in studio.acts] == list(STEPS)
    steps = await ledger.steps([job.job_id])
    assert [(row.kind, row.outcome) for row in steps] == [(kind, "done") for kind in STEPS]
    assert all(row.done_at is not None and row.done_at >= row.planned_at for row in steps)
    assert steps[1].fee == 3 * 10**18
    (row,) = await ledger.jobs()
    assert row.backend == "studio"


async def test_step_is_stored_before_it_is_done() -> None:
    studio, ledger = Studio(), MemoryLedger()
    stored: list[list[tuple[str, bool]]] = []

    class Watching(StudioBackend):
        async def act(self, task: object, action: object) -> str:
            (row,) = await ledger.jobs()
            steps = await ledger.steps([row.job_id])
            stored.append([(step.kind, step.done_at is not None) for step in steps])
            return await super().act(task, action)  # type: ignore[arg-type]

    async with Session(backend=Watching(studio), ledger=ledger, poll_delay=0.01, min_poll_interval=1.0) as session:
        await (await session.submit(make_config()))
    assert stored == [
        [("confirm", False)],
        [("confirm", True), ("judge", False)],
        [("confirm", True), ("judge", True), ("collect", False)],
    ]


async def test_long_step_of_one_job_holds_up_no_look_at_another() -> None:
    studio, ledger = Studio(), MemoryLedger()
    studio.act_takes = lambda kind: 600.0
    async with open_session(studio, ledger) as session:
        slow = await session.submit(make_config(seed=1))
        while not await ledger.steps([slow.job_id]):
            await asyncio.sleep(1)
        began, looks = monotonic(), studio.looks
        studio.act_takes = lambda kind: 0.0
        quick = await session.submit(make_config(seed=2))
        await quick.wait(timeout=120)
        assert monotonic() - began < 120
        assert studio.looks - looks > 10, "the slow job was not looked at meanwhile"
        assert (await ledger.steps([slow.job_id]))[0].done_at is None
        await slow.wait()
    assert [kind for name, kind in studio.acts if name == slow.task_id] == list(STEPS)


async def test_step_of_a_session_that_dies_is_done_by_the_next_with_the_arguments_that_were_stored() -> None:
    studio, ledger = Studio(), MemoryLedger()
    studio.act_takes = lambda kind: 1e6 if kind == "judge" else 0.0
    session = open_session(studio, ledger)
    await session.open()
    job = await session.submit(make_config())
    while len(await ledger.steps([job.job_id])) < 2:
        await asyncio.sleep(1)
    before = (await ledger.steps([job.job_id]))[1]
    await session.close()
    studio.act_takes = lambda kind: 0.0
    async with open_session(studio, ledger) as second:
        (resumed,) = second.jobs()
        await resumed.wait(timeout=600)
    after = (await ledger.steps([job.job_id]))[1]
    assert (after.kind, after.arguments, after.fee, after.planned_at) == (
        before.kind,
        before.arguments,
        before.fee,
        before.planned_at,
    )
    assert [kind for _, kind in studio.acts] == list(STEPS)


async def test_lost_answer_of_a_repeatable_create_is_sent_again_and_makes_one_task() -> None:
    studio, ledger = Studio(), MemoryLedger()
    studio.loses_answers = 1
    async with open_session(studio, ledger) as session:
        job = await session.submit(make_config())
        assert job.state is JobState.RUNNING
    first, second = await ledger.attempts()
    assert (first.outcome, second.outcome) == (AttemptOutcome.UNKNOWN, AttemptOutcome.ACCEPTED)
    assert first.payload == second.payload
    assert len(studio.tasks) == 1


async def test_lost_answer_of_a_repeatable_create_stays_unknown_where_the_service_cannot_be_asked_again() -> None:
    studio, ledger = Studio(), MemoryLedger()
    studio.loses_answers = 1
    async with open_session(studio, ledger, budget=Budget("b", cnx=6), unreachable_timeout=120.0) as session:
        job = session.submit_nowait(make_config())
        while not studio.tasks:
            await asyncio.sleep(0.01)
        studio.is_away = True
        with pytest.raises(SubmissionUnknownError, match="nobody is in the studio"):
            await job.submitted()
        assert job.state is JobState.UNCONFIRMED
        with pytest.raises(UsageError, match="has a task is not known"):
            await job.cancel()
    budget = await ledger.budget("b")
    assert budget is not None
    assert budget.held == 2 * FEE  # the task is there


async def test_lost_answer_of_a_repeatable_create_is_asked_for_again_after_creates_that_were_not_sent() -> None:
    studio, ledger = Studio(), MemoryLedger()
    async with open_session(studio, ledger, budget=Budget("b", cnx=6)) as session:
        job = await lose_an_answer(studio, session)
        with pytest.raises(UsageError, match="no known outcome"):
            await job.retry(timeout=3600)
    studio.is_away = False
    async with open_session(studio, ledger, budget=Budget("b", cnx=6)) as session:
        (job,) = session.jobs()
        await job.retry()
        await job.submitted()
    attempts = await ledger.attempts()
    assert {AttemptOutcome.NOT_SENT, AttemptOutcome.UNKNOWN} < {attempt.outcome for attempt in attempts}
    assert len({attempt.payload for attempt in attempts}) == len(studio.tasks) == 1
    budget = await ledger.budget("b")
    assert budget is not None
    assert (budget.held, budget.spent) == (2 * FEE, 0)


async def test_wrong_network_tells_a_job_whose_answer_was_lost_not_that_nothing_was_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: str) -> None:
        raise UnreachableError("the network wants you to log in to it; nothing was sent", is_lasting=True)

    studio = Studio()
    async with open_session(studio, MemoryLedger()) as session:
        job = await lose_an_answer(studio, session)
        other = session.submit_nowait(make_config(seed=2))
        with monkeypatch.context() as patched:
            patched.setattr(studio, "create", refuse)
            with pytest.raises(SubmissionUnknownError, match="may exist"):
                await job.submitted()
            with pytest.raises(UnreachableError, match="nothing was sent"):
                await other.submitted()
        studio.is_away = False
        await job.retry()
        assert (await job.submitted()).task_id in studio.tasks
        assert len(studio.tasks) == 1


@pytest.mark.parametrize("refusal", [AuthError("the pass has ended"), QuotaError("the purse is empty")])
async def test_lost_answer_of_a_repeatable_create_is_asked_for_again_after_the_credential_was_refused(
    monkeypatch: pytest.MonkeyPatch, refusal: BackendError
) -> None:
    def refuse(*_: str) -> None:
        raise refusal

    studio, ledger = Studio(), MemoryLedger()
    async with open_session(studio, ledger, budget=Budget("b", cnx=6)) as session:
        job = await lose_an_answer(studio, session)
        with monkeypatch.context() as patched:
            patched.setattr(studio, "create", refuse)
            with pytest.raises(type(refusal)):
                await job.submitted()
        budget = await ledger.budget("b")
        assert budget is not None
        assert budget.held == 2 * FEE  # the task is there
        with pytest.raises(UsageError, match="has a task is not known"):
            await job.cancel()
    studio.is_away = False
    async with open_session(studio, ledger, budget=Budget("b", cnx=6)) as session:
        (job,) = session.jobs()
        with pytest.raises(UsageError, match="no known outcome"):
            await job.retry(timeout=3600)
        await job.retry()
        assert (await job.submitted()).task_id in studio.tasks
    attempts = await ledger.attempts()
    assert AttemptOutcome.REJECTED in {attempt.outcome for attempt in attempts}
    assert len(studio.tasks) == 1
    budget = await ledger.budget("b")
    assert budget is not None
    assert (budget.held, budget.spent) == (2 * FEE, 0)


@pytest.mark.parametrize("is_lasting", [False, True])
async def test_lost_answer_of_a_repeatable_create_is_asked_for_again_after_something_else_than_the_service_answered(
    monkeypatch: pytest.MonkeyPatch, is_lasting: bool
) -> None:
    def answer_with_a_page(*_: str) -> None:
        raise ProtocolError("a page of a proxy", is_lasting=is_lasting)

    studio, ledger = Studio(), MemoryLedger()
    async with open_session(studio, ledger, budget=Budget("b", cnx=6)) as session:
        job = await lose_an_answer(studio, session)
        with monkeypatch.context() as patched:
            patched.setattr(studio, "create", answer_with_a_page)
            with pytest.raises(SubmissionUnknownError, match="may exist"):
                await job.submitted()
        assert job.state is not JobState.REJECTED
        budget = await ledger.budget("b")
        assert budget is not None
        assert budget.held == 2 * FEE
    studio.is_away = False
    async with open_session(studio, ledger, budget=Budget("b", cnx=6)) as session:
        (job,) = session.jobs()
        await job.retry()
        assert (await job.submitted()).task_id in studio.tasks
    assert len(studio.tasks) == 1
    budget = await ledger.budget("b")
    assert budget is not None
    assert (budget.held, budget.spent) == (2 * FEE, 0)


async def test_repeated_create_whose_task_is_another_one_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_another(*_: str) -> None:
        raise ProtocolError("the task is not what was asked for", task_id="0x1", is_lasting=True)

    studio = Studio()
    async with open_session(studio, MemoryLedger()) as session:
        job = await lose_an_answer(studio, session)
        monkeypatch.setattr(studio, "create", find_another)
        with pytest.raises(ProtocolError):
            await job.submitted()
        assert job.state is JobState.REJECTED


async def test_job_whose_answer_was_lost_is_cancelled_when_its_task_is_known() -> None:
    studio = Studio(seconds_per_stage=1000)
    async with open_session(studio, MemoryLedger()) as session:
        job = await lose_an_answer(studio, session)
        cancelling = asyncio.create_task(job.cancel())
        await asyncio.sleep(10)
        assert not cancelling.done()
        studio.is_away = False
        await cancelling
        assert job.state is JobState.ABANDONED
        assert job.task_id is not None
        assert studio.find(job.task_id).end is Seen.CANCELLED


async def test_caller_who_is_cancelled_leaves_a_job_that_was_sent_to_be_found() -> None:
    studio = Studio()
    async with open_session(studio, MemoryLedger()) as session:
        studio.loses_answers = 1
        submitting = asyncio.create_task(session.submit(make_config()))
        while not studio.tasks:
            await asyncio.sleep(0.01)
        studio.is_away = True
        await asyncio.sleep(3)
        submitting.cancel()
        await asyncio.wait([submitting])
        studio.is_away = False
        (job,) = session.jobs()
        assert (await job.submitted()).task_id in studio.tasks


async def test_reason_of_a_failure_is_told_and_stored() -> None:
    studio, ledger = Studio(), MemoryLedger()
    async with open_session(studio, ledger) as session:
        job = await session.submit(make_config())
        studio.find(str(job.task_id)).end = Seen.FAILED
        with pytest.raises(JobFailedError, match="the pencil broke"):
            await job
    (row,) = await ledger.jobs()
    assert row.state is JobState.FAILED
    assert "the pencil broke" in row.error


async def test_task_that_was_cancelled_elsewhere_is_given_up() -> None:
    studio, ledger = Studio(), MemoryLedger()
    async with open_session(studio, ledger) as session:
        job = await session.submit(make_config())
        await StudioBackend(studio).cancel(Task(task_id=str(job.task_id)))
        with pytest.raises(JobAbandonedError, match="cancelled"):
            await job
        assert job.state is JobState.ABANDONED


async def test_step_that_cannot_succeed_is_told_once_and_done_again_quietly(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(StudioBackend):
        async def act(self, task: Task, action: Action) -> str:
            raise RejectedError("the pencil is locked away", field="kind")

    caplog.set_level(logging.INFO, logger="crynux_async")
    async with Session(backend=Refusing(Studio()), poll_delay=0.01, min_poll_interval=1.0) as session:
        await session.submit(make_config())
        await asyncio.sleep(120)
    told = [record for record in caplog.records if "the pencil is locked away" in record.getMessage()]
    assert len(told) > 3
    assert [record.levelno for record in told[:2]] == [logging.WARNING, logging.INFO]
    assert sum(record.levelno == logging.WARNING for record in told) == 1
    assert "failed 3 times" in told[2].getMessage()


async def test_decision_that_raises_is_told_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    class Undecided(StudioBackend):
        def next_action(self, task: Task, look: Look) -> Action | None:
            raise RuntimeError("a bug of the backend")

    caplog.set_level(logging.INFO, logger="crynux_async")
    async with Session(backend=Undecided(Studio()), poll_delay=0.01, min_poll_interval=1.0) as session:
        job = await session.submit(make_config())
        await asyncio.sleep(120)
        assert job.state is JobState.RUNNING
    told = [record for record in caplog.records if "a bug of the backend" in record.getMessage()]
    assert len(told) > 3
    assert [record.levelno for record in told if record.exc_info] == [logging.WARNING]


async def test_look_that_raises_a_bug_is_told_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    class Blind(StudioBackend):
        async def look(self, task: Task) -> Look:
            raise RuntimeError("a bug of the backend")

    caplog.set_level(logging.INFO, logger="crynux_async")
    async with Session(backend=Blind(Studio()), poll_delay=0.01, min_poll_interval=1.0) as session:
        await session.submit(make_config())
        await asyncio.sleep(3600)
    told = [record for record in caplog.records if "a bug of the backend" in record.getMessage()]
    assert len(told) > 3
    assert [record.levelno for record in told if record.exc_info] == [logging.ERROR]


async def test_advice_on_a_job_is_that_of_its_service(caplog: pytest.LogCaptureFixture) -> None:
    async with open_session(Studio(), MemoryLedger()) as session:
        await session.submit(make_config(lr_warmup_steps=0, adam_weight_decay=0.0))
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "CX108" not in said  # only a bridge cannot be sent a zero


@pytest.mark.parametrize("task_id", ["drawing-\0", "drawing-\ud800"])
async def test_task_id_that_no_ledger_keeps_is_refused(task_id: str) -> None:
    async with open_session(Studio(), MemoryLedger()) as session:
        with pytest.raises(UsageError) as caught:
            session.attach(task_id)
        assert caught.value.field == "task_id"
        assert session.jobs() == []


async def test_steps_and_images_are_events_that_any_session_can_read() -> None:
    studio, ledger = Studio(), MemoryLedger()
    async with open_session(studio, ledger) as session:
        job = await (await session.submit(make_config())).wait()
    async with Session(backend=StudioBackend(studio), ledger=ledger, follow=False) as later:
        found = await later.find(job.job_id)
        assert found is not None
        events = [event async for event in found.events(after=0)]
    steps = [event for event in events if isinstance(event, StepTaken)]
    assert [(event.step, event.member, event.outcome) for event in steps] == [(kind, 0, "done") for kind in STEPS]
    (images,) = [event for event in events if isinstance(event, ImagesReady)]
    assert images.number > steps[0].number, "the studio shows pictures once the order is confirmed"
    assert [event.number for event in events] == [*range(1, len(events) + 1)]


async def test_images_are_told_anew_for_another_try() -> None:
    studio, ledger = Studio(), MemoryLedger()
    async with open_session(studio, ledger) as session:
        job = await (await session.submit(make_config(seed=1))).wait()
        job.abandon()
        await (await job.retry()).wait()
        told = [event.task_id async for event in job.events(after=0) if isinstance(event, ImagesReady)]
    assert told == [f"drawing-{job.job_id}-1", f"drawing-{job.job_id}-2"]


async def test_what_was_told_of_a_task_is_not_told_again_by_whoever_takes_it_over() -> None:
    studio, ledger = Studio(seconds_per_stage=60.0), MemoryLedger()
    way = Severable(ledger)
    dying = Session(backend=StudioBackend(studio), ledger=way, poll_delay=0.01, min_poll_interval=1.0)
    await dying.open()
    job = await dying.submit(make_config())
    while job.progress != STAGES[1]:
        await asyncio.sleep(1)
    await asyncio.sleep(5)  # that is stored
    await way.sever(dying)
    async with open_session(studio, ledger) as other:
        handle = await other.find(job.job_id)
        assert handle is not None
        await handle.wait()
        events = [event async for event in handle.events(after=0)]
    assert [event.stage for event in events if isinstance(event, JobProgressed)] == list(STAGES)
    assert sum(isinstance(event, ImagesReady) for event in events) == 1


async def test_what_one_look_asks_for_is_done_without_another_look() -> None:
    studio, ledger = Studio(), MemoryLedger()
    done: list[tuple[int, int]] = []

    class Pairing(StudioBackend):
        def next_action(self, task: Task, look: Look) -> Action | None:
            stored = {action.member: action for action in task.actions if action.kind == "pair"}
            for member in (1, 2):
                if member not in stored or stored[member].done_at is None:
                    return stored.get(member) or Action(kind="pair", member=member)
            return super().next_action(task, look)

        async def act(self, task: Task, action: Action) -> str:
            if action.kind != "pair":
                return await super().act(task, action)
            done.append((action.member, studio.looks))
            return ""

    async with Session(backend=Pairing(studio), ledger=ledger, poll_delay=0.01, min_poll_interval=1.0) as session:
        assert (await (await session.submit(make_config()))).state is JobState.SUCCEEDED
    (first, looks), second = done
    assert (first, second) == (1, (2, looks))
