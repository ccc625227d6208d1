"""What happens to a job and the event that tells of it are one write: no death comes between them. On virtual time."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scorecard.severing import Severable
from crynux_async import Job, JobState, LedgerError, RejectedError, SubmissionUnknownError
from crynux_async.clock import utc_now
from crynux_async.events import JobProgressed
from crynux_async.job import record_of
from crynux_async.ledgers.base import Fence, JobChange, JobRow
from crynux_async.ledgers.memory import MemoryLedger
from tests.fake_backend import LEASE, FakeBackend, make_config
from tests.second_backend import STEPS, Studio
from tests.supervision.test_onlookers import open_session
from tests.supervision.test_steps import open_session as open_studio


class Watched(MemoryLedger):
    """A ledger that notes every write which says something of a job without the event that tells of it."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[str] = []
        self.untold: list[str] = []

    async def change(self, fence: Fence, changes: Sequence[JobChange]) -> list[str]:
        before = {row.job_id: row for row in await self.jobs()}
        lost = await super().change(fence, changes)
        for change in changes:
            if change.job_id not in lost:
                self._check(before[change.job_id], change)
        return lost

    def _check(self, row: JobRow, change: JobChange) -> None:
        state, task_id = change.columns.get("state", row.state), change.columns.get("task_id", row.task_id)
        told = [event.data["state"] for event in change.events if event.kind == "JobStateChanged"]
        if state is not row.state:
            self.moves.append(str(state))
            if told[-1:] != [state]:
                self.untold.append(f"{row.state} -> {state}")
        elif told[-1:] not in ([], [state]):
            self.untold.append(f"told {told[-1]} of a job that is {state}")
        for what, count, kind in (
            (f"task {task_id}", int(task_id not in (row.task_id, None)), "JobSubmitted"),
            ("steps", len(change.steps), "StepTaken"),
        ):
            if sum(event.kind == kind for event in change.events) != count:
                self.untold.append(f"{what} without {kind}")


async def gapless(ledger: MemoryLedger, job: Job) -> bool:
    """Whether a job has every event up to its last number."""
    row = await ledger.get(job.job_id)
    numbers = [event.number for event in await ledger.events(job.job_id)]
    return row is not None and numbers == [*range(1, row.last_event + 1)]


async def test_every_state_of_a_life_is_stored_with_its_event(tmp_path: Path) -> None:
    ledger = Watched()
    async with open_session(FakeBackend(), ledger) as session:
        job = await session.submit(make_config())
        await job.download(tmp_path)
        await session.find(job.job_id)
        assert await gapless(ledger, job)
    assert (ledger.moves, ledger.untold) == (["running", "succeeded", "downloaded"], [])


async def test_failure_and_the_next_try_are_stored_with_their_events() -> None:
    ledger = Watched()
    async with open_session(FakeBackend(), ledger) as session:
        job = await session.submit(make_config(model_name="x/fail"))
        await session.wait_all()
        await (await job.retry()).submitted()
        await session.wait_all()
        await session.find(job.job_id)
        assert await gapless(ledger, job)
    assert (ledger.moves, ledger.untold) == (["running", "failed", "planned", "running", "failed"], [])


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (RejectedError("no such model", field="model_name"), JobState.REJECTED),
        (SubmissionUnknownError("reset"), JobState.UNCONFIRMED),
    ],
)
async def test_create_that_made_no_known_task_is_stored_with_its_event(answer: Exception, state: JobState) -> None:
    backend, ledger = FakeBackend(), Watched()
    backend.answers.append(answer)
    async with open_session(backend, ledger) as session:
        job = await session.enqueue(make_config())
        with pytest.raises(type(answer)):
            await job.submitted()
        assert await gapless(ledger, job)
    assert (ledger.moves, ledger.untold) == ([state], [])


async def test_lost_create_that_is_found_or_was_none_is_stored_with_its_events() -> None:
    backend, ledger = FakeBackend(duration=6000), Watched()

    async def loses_the_answer() -> None:
        backend.make_task(make_config(seed=2))
        raise SubmissionUnknownError("reset")

    async with open_session(backend, ledger) as session:
        await session.submit(make_config(seed=1))
        backend.answers.append(loses_the_answer)
        jobs = [await session.enqueue(make_config(seed=2))]
        await asyncio.sleep(1)
        await session.submit(make_config(seed=3))
        backend.answers.append(SubmissionUnknownError("it never arrived"))
        jobs.append(await session.enqueue(make_config(seed=4)))
        await asyncio.sleep(1)
        await session.submit(make_config(seed=5))
        backend.duration = 0.0  # only of what has ended the owner can be asked
        await session.reconcile()
        assert [await gapless(ledger, job) for job in jobs] == [True, True]
    assert ledger.moves.count("unconfirmed") == 2
    assert ledger.untold == []


async def test_create_that_was_cut_off_is_stored_with_its_event_by_whoever_goes_on() -> None:
    backend, ledger = FakeBackend(), Watched()
    way = Severable(ledger)
    dying = open_session(backend, way)
    await dying.open()
    backend.answers.append(asyncio.Event().wait)
    job = await dying.enqueue(make_config())
    await asyncio.sleep(1)
    await way.sever(dying)
    async with open_session(backend, ledger) as following:
        await asyncio.sleep(2 * LEASE)
        found = await following.find(job.job_id)
        assert found is not None
        events = [event async for event in found.events(after=0)]
        assert [event.number for event in events] == [1, 2]
        assert await gapless(ledger, found)
    assert (ledger.moves, ledger.untold) == (["unconfirmed"], [])


async def test_wish_is_kept_until_what_was_wished_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, ledger = FakeBackend(duration=6000), MemoryLedger()
    real = ledger.change
    at_grant: list[JobState] = []

    async def change(fence: Fence, changes: Sequence[JobChange]) -> list[str]:
        for one in changes:
            row = await ledger.get(one.job_id)
            if one.granted and row is not None:
                at_grant.append(row.state)
        return await real(fence, changes)

    monkeypatch.setattr(ledger, "change", change)
    async with open_session(backend, ledger) as owner, open_session(backend, ledger, follow=False) as other:
        job = await owner.submit(make_config())
        handle = await other.find(job.job_id)
        assert handle is not None
        handle.abandon()
        await asyncio.sleep(20)
    assert at_grant == [JobState.ABANDONED]


async def test_step_is_stored_with_its_event() -> None:
    ledger = Watched()
    async with open_studio(Studio(), ledger) as session:
        job = await (await session.submit(make_config())).wait()
        await session.find(job.job_id)
        assert await gapless(ledger, job)
        events = await ledger.events(job.job_id)
    assert [event.data["step"] for event in events if event.kind == "StepTaken"] == list(STEPS)
    assert ledger.untold == []


async def test_session_that_dies_right_after_an_answer_was_stored_leaves_its_events() -> None:
    backend, ledger = FakeBackend(duration=6000), MemoryLedger()
    way = Severable(ledger, 1.0)
    dying = open_session(backend, way)
    await dying.open()
    job = await dying.enqueue(make_config())
    while (row := await ledger.get(job.job_id)) is None or row.task_id is None:
        await asyncio.sleep(0.25)
    await way.sever(dying)
    kinds = [event.kind for event in await ledger.events(job.job_id)]
    assert kinds == ["JobQueued", "JobSubmitted", "JobStateChanged"]


async def test_job_that_is_given_up_while_its_answer_is_being_stored_ends_with_that_event() -> None:
    backend, ledger = FakeBackend(duration=6000), Watched()
    way: Any = Severable(ledger, 1.0)
    async with open_session(backend, way) as session:
        job = await session.enqueue(make_config())
        record = record_of(job)
        while record.last_event < 3:  # numbered, and on its way
            await asyncio.sleep(0.25)
        job.abandon()
        await asyncio.sleep(10)
        kinds = [event.data.get("state", event.kind) for event in await ledger.events(job.job_id)]
        assert kinds == ["JobQueued", "JobSubmitted", "running", "abandoned"]
        assert await gapless(ledger, job)
    assert ledger.untold == []


async def test_event_that_happens_while_a_refused_change_is_stored_takes_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, ledger = FakeBackend(duration=6000), MemoryLedger()
    async with open_session(backend, ledger) as session:
        job = await session.submit(make_config())
        await session.find(job.job_id)
        supervisor, real = session._supervisor, ledger.change
        assert supervisor is not None
        progress, late = (
            JobProgressed(job_id=job.job_id, task_id="1", at=utc_now(), stage=stage) for stage in ("told", "late")
        )

        async def refuse(fence: Fence, changes: Sequence[JobChange]) -> list[str]:
            supervisor.register.tell(late)
            await asyncio.sleep(1)
            raise LedgerError("refused")

        monkeypatch.setattr(ledger, "change", refuse)
        with pytest.raises(LedgerError):
            await supervisor._writer.change(JobChange(job_id=job.job_id), news=[progress])
        monkeypatch.setattr(ledger, "change", real)
        await session.find(job.job_id)
        assert [event.data["stage"] for event in await ledger.events(job.job_id, after=3)] == ["late"]
        assert await gapless(ledger, job)


async def test_changes_of_one_job_are_stored_one_after_the_other() -> None:
    backend, ledger = FakeBackend(duration=6000), MemoryLedger()
    way: Any = Severable(ledger, 1.0)
    async with open_session(backend, way) as session:
        job = await session.submit(make_config())
        await session.find(job.job_id)
        supervisor = session._supervisor
        assert supervisor is not None
        news = [JobProgressed(job_id=job.job_id, task_id="1", at=utc_now(), stage=str(n)) for n in range(4)]
        supervisor.register.tell(news[0])
        flushing = asyncio.create_task(supervisor._writer.flush())
        await asyncio.sleep(0.5)
        changes = [supervisor._writer.change(JobChange(job_id=job.job_id), news=[one]) for one in news[1:]]
        assert await asyncio.gather(*changes) == [True] * 3
        await flushing
        events = await ledger.events(job.job_id, after=3)
        assert sorted(event.data["stage"] for event in events) == ["0", "1", "2", "3"]
        assert events[0].data["stage"] == "0"
        assert await gapless(ledger, job)
