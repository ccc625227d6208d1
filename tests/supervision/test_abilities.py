"""What a service can do besides training, through handles: cancelling, images, money, reasons, progress."""

import asyncio
from pathlib import Path

import attrs
import pytest

from benchmarks.scorecard.severing import Severable
from crynux_async import Cost, Job, JobAbandonedError, JobFailedError, JobProgressed, JobState, Session
from crynux_async.backends.base import CreatedTask, Habits, Look, Seen, Task
from crynux_async.clock import monotonic
from crynux_async.emulator import Emulator
from crynux_async.errors import RejectedError, UnreachableError, UsageError
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.supervision.ledger_writer import ANSWERS
from tests.fake_backend import FakeBackend, make_config
from tests.second_backend import FEE, PICTURE, STAGES, Studio, StudioBackend

CNX = 10**18
PRICE = 2 * FEE


def open_session(backend: StudioBackend | FakeBackend, ledger: MemoryLedger | Path | None = None) -> Session:
    return Session(backend=backend, ledger=ledger, poll_delay=0.01, min_poll_interval=1.0)


async def test_cancelled_job_is_abandoned_and_says_why_in_the_ledger_too() -> None:
    studio, ledger = Studio(), MemoryLedger()
    async with open_session(StudioBackend(studio), ledger) as session:
        job = await session.submit(make_config())
        assert await job.cancel() == "refunded, because nothing was drawn"
        assert (job.state, job.reason) == (JobState.ABANDONED, "cancelled")
        with pytest.raises(JobAbandonedError, match="cancelled"):
            await job
        assert studio.find(str(job.task_id)).end is Seen.CANCELLED
    (row,) = await ledger.jobs()
    assert (row.state, row.reason) == (JobState.ABANDONED, "cancelled")


async def test_cancelled_job_is_looked_at_no_more() -> None:
    studio = Studio()
    async with open_session(StudioBackend(studio)) as session:
        await (await session.submit(make_config())).cancel()
        looks = studio.looks
        await asyncio.sleep(3600)
        assert studio.looks == looks


async def test_job_that_cannot_be_cancelled_any_more_goes_on() -> None:
    studio = Studio()
    async with open_session(StudioBackend(studio)) as session:
        job = await session.submit(make_config())
        while not studio.acts:
            await asyncio.sleep(1)
        with pytest.raises(RejectedError, match="paid for"):
            await job.cancel()
        assert (await job).state is JobState.SUCCEEDED
        with pytest.raises(UsageError, match="nothing to cancel"):
            await job.cancel()


async def test_job_that_waits_to_be_sent_is_cancelled_without_a_request() -> None:
    studio = Studio()
    studio.is_away = True
    async with open_session(StudioBackend(studio)) as session:
        job = session.submit_nowait(make_config())
        await asyncio.sleep(1)
        assert "nothing is paid" in await job.cancel()
        assert (job.state, (job.reason or "").partition(":")[0]) == (JobState.ABANDONED, "cancelled")
        studio.is_away = False
        await asyncio.sleep(600)
    assert studio.tasks == {}


async def test_job_that_is_being_sent_is_cancelled_once_its_task_is_known() -> None:
    studio = Studio()
    async with open_session(StudioBackend(studio)) as session:
        job = session.submit_nowait(make_config())
        while not session.statistics().creating:
            await asyncio.sleep(0)
        await job.cancel()
        assert (job.state, job.reason) == (JobState.ABANDONED, "cancelled")
        assert [task.end for task in studio.tasks.values()] == [Seen.CANCELLED]


async def test_service_that_cannot_cancel_says_so_and_the_job_goes_on() -> None:
    async with open_session(FakeBackend(duration=60.0)) as session:
        job = await session.submit(make_config())
        with pytest.raises(UsageError, match=r"fake cannot cancel tasks; abandon\(\)") as caught:
            await job.cancel()
        assert (caught.value.job_id, caught.value.task_id) == (job.job_id, job.task_id)
        assert (await job).state is JobState.SUCCEEDED


async def test_images_are_those_of_the_service() -> None:
    async with open_session(StudioBackend(Studio())) as session:
        job = await session.submit(make_config())
        assert await job.images() == [PICTURE, PICTURE]


async def test_images_of_a_service_or_job_without_any_are_refused_in_words() -> None:
    async with open_session(FakeBackend()) as session:
        job = await session.submit(make_config())
        with pytest.raises(UsageError, match="fake hands out no validation images"):
            await job.images()
    studio = Studio()
    studio.is_away = True
    async with open_session(StudioBackend(studio)) as session:
        with pytest.raises(UsageError, match="has no task"):
            await session.submit_nowait(make_config()).images()


async def test_price_and_balance_are_those_of_the_service_or_unknown() -> None:
    async with open_session(StudioBackend(Studio())) as session:
        assert (session.price(make_config()), await session.balance()) == (PRICE, 1000 * FEE)
    async with open_session(FakeBackend()) as session:
        assert (session.price(make_config()), await session.balance()) == (None, None)


@pytest.mark.parametrize("is_file", [False, True])
async def test_cost_is_held_while_a_task_runs_and_spent_or_refunded_at_its_end(tmp_path: Path, is_file: bool) -> None:
    studio = Studio()
    async with open_session(StudioBackend(studio), tmp_path / "jobs.db" if is_file else None) as session:
        good, bad = await session.submit(make_config(seed=1)), await session.submit(make_config(seed=2))
        running = Cost(held=PRICE, spent=0, refunded=0, is_complete=True)
        assert [await good.cost(), await bad.cost()] == [running, running]
        studio.find(str(bad.task_id)).end = Seen.FAILED
        await session.wait_all()
        assert await good.cost() == Cost(held=0, spent=PRICE, refunded=0, is_complete=True)
        assert await bad.cost() == Cost(held=0, spent=0, refunded=PRICE, is_complete=True)


async def test_cost_at_a_service_without_prices_is_not_complete() -> None:
    async with open_session(FakeBackend()) as session:
        job = await session.submit(make_config())
        assert await job.cost() == Cost(held=0, spent=0, refunded=0, is_complete=False)


async def test_end_of_a_task_is_stored_with_the_state_of_its_job() -> None:
    studio, ledger = Studio(), MemoryLedger()
    async with open_session(StudioBackend(studio), ledger) as session:
        job = await session.submit(make_config())
        studio.find(str(job.task_id)).end = Seen.FAILED
        with pytest.raises(JobFailedError):
            await job
    (row,) = await ledger.jobs()
    (task,) = await ledger.tasks([job.job_id])
    assert (task.end, task.reason, task.fee, task.spent) == ("failed", "the pencil broke", PRICE, 0)
    assert task.ended_at is not None
    assert row.ended_at is not None
    assert row.reason == "the pencil broke"


class Discreet(StudioBackend):
    """A studio whose looks do not show why; it is asked, or is away then."""

    is_away_for_reasons = False

    async def look(self, task: Task) -> Look:
        look = await super().look(task)
        return Look(seen=look.seen) if look.seen is Seen.FAILED else look

    async def reason(self, task: Task) -> str:
        if self.is_away_for_reasons:
            raise UnreachableError("nobody is at the desk")
        return await super().reason(task)

    async def spent(self, task: Task, look: Look) -> int | None:
        if self.is_away_for_reasons:
            raise RuntimeError("a bug of the backend")
        return await super().spent(task, look)


async def failed(session: Session, studio: Studio) -> Job:
    job = await session.submit(make_config())
    studio.find(str(job.task_id)).end = Seen.FAILED
    with pytest.raises(JobFailedError):
        await job
    return job


async def test_reason_that_a_look_does_not_show_is_asked_for() -> None:
    studio = Studio()
    async with open_session(Discreet(studio)) as session:
        job = await failed(session, studio)
        assert job.reason == "the pencil broke"
        assert "the pencil broke" in str(job.error)


async def test_job_fails_all_the_same_where_reason_and_cost_cannot_be_asked() -> None:
    studio = Studio()
    backend = Discreet(studio)
    backend.is_away_for_reasons = True
    async with open_session(backend) as session:
        job = await failed(session, studio)
        assert job.reason is None
        assert backend.habits.failure in str(job.error)
        assert (await job.cost()).held == PRICE, "what is not known to be spent is held"


class Estimating(StudioBackend):
    """A studio that tells what others pay, not what this user does."""

    @property
    def habits(self) -> Habits:
        return attrs.evolve(super().habits, knows_fee=False)


@pytest.mark.parametrize(("backend", "counts"), [(StudioBackend, PRICE), (Estimating, 7 * CNX)])
async def test_price_that_the_user_gives_counts_where_the_service_does_not_know_the_fee(
    backend: type[StudioBackend], counts: int
) -> None:
    studio = Studio()
    async with Session(backend=backend(studio), price=7) as session:
        assert session.price(make_config()) == counts
        job = await session.submit(make_config())
        studio.find(str(job.task_id)).end = Seen.SUCCEEDED
        await job
        cost = await job.cost()
        assert (cost.held, cost.spent) == (0, counts)


async def test_price_that_the_user_gives_is_not_spent_where_the_service_gave_it_back() -> None:
    studio = Studio()
    async with Session(backend=Estimating(studio), price=7) as session:
        job = await session.submit(make_config())
        before = await job.cost()
        await job.cancel()
        after = await job.cost()
        assert (before.held, after.held, after.spent) == (7 * CNX, 0, 0)


@pytest.mark.parametrize(("given", "cnx"), [(None, 15), (20, 20)])
async def test_price_of_a_round_at_a_bridge_is_the_usual_one_unless_it_is_given(given: int | None, cnx: int) -> None:
    async with Emulator() as bridge, Session(**bridge.settings(), price=given) as session:
        assert session.price(make_config()) == cnx * CNX


async def test_why_a_job_ended_badly_is_in_the_ledger_where_no_reason_is_told() -> None:
    backend, ledger = FakeBackend(duration=1.0), MemoryLedger()
    async with open_session(backend, ledger) as session:
        with pytest.raises(JobFailedError):
            await (await session.submit(make_config(model_name="a/fail")))
    (row,) = await ledger.jobs()
    assert backend.habits.failure in row.error


async def test_progress_is_the_service_s_word_and_is_told_once_for_each() -> None:
    studio = Studio()
    async with open_session(StudioBackend(studio)) as session:
        job = session.submit_nowait(make_config())
        told, seen = [], []
        async for event in job.events():
            if isinstance(event, JobProgressed):
                told.append(event.stage)
                seen.append(job.progress)
        assert told == seen == list(STAGES)
        assert job.progress is None, "a task that has ended is nowhere any more"


async def test_progress_is_known_from_the_create_on_and_is_not_told_again_by_the_first_look(
    tmp_path: Path,
) -> None:
    class Telling(StudioBackend):
        async def create(self, payload: str) -> CreatedTask:
            return CreatedTask(task_id=(await super().create(payload)).task_id, stage=STAGES[0])

    studio = Studio()
    async with open_session(Telling(studio), tmp_path / "jobs.db") as session:
        job = await session.submit(make_config())
        assert (job.progress, studio.looks) == (STAGES[0], 0)
        told = [event.stage async for event in job.events(after=0) if isinstance(event, JobProgressed)]
    assert told == list(STAGES)


@pytest.mark.parametrize("wish", [0.0, 7.0, 30.0])
async def test_first_look_is_when_the_service_wishes_it(wish: float) -> None:
    looked: list[float] = []

    class Wishing(StudioBackend):
        async def create(self, payload: str) -> CreatedTask:
            created = await super().create(payload)
            return CreatedTask(task_id=created.task_id, again_after=wish)

        async def look(self, task: Task) -> Look:
            looked.append(monotonic())
            return await super().look(task)

    async with open_session(Wishing(Studio(seconds_per_stage=1000.0))) as session:
        await session.submit(make_config())
        began = monotonic()
        await asyncio.sleep(60)
        assert looked[0] - began == pytest.approx(wish, abs=1.0)


async def test_job_of_another_session_is_cancelled_by_its_owner_who_says_what_that_means() -> None:
    studio, ledger = Studio(), MemoryLedger()
    async with open_session(StudioBackend(studio), ledger) as owner, onlooker(studio, ledger) as other:
        job = await owner.submit(make_config())
        handle = await other.find(job.job_id)
        assert handle is not None
        assert await handle.cancel() == "refunded, because nothing was drawn"
        for one in (handle, job):
            assert (one.state, one.reason) == (JobState.ABANDONED, "cancelled")
        assert await ledger.note(ANSWERS, "1") is None, "an answer that was heard is not kept"
        assert other.jobs() == []


async def test_owner_who_cannot_cancel_says_why_and_the_job_goes_on() -> None:
    studio, ledger = Studio(seconds_per_stage=1.0), MemoryLedger()
    async with open_session(StudioBackend(studio), ledger) as owner, onlooker(studio, ledger) as other:
        job = await owner.submit(make_config())
        studio.tasks[job.task_id or ""].done.append("confirm")
        handle = await other.find(job.job_id)
        assert handle is not None
        with pytest.raises(RejectedError, match="drawn already") as caught:
            await handle.cancel()
        assert caught.value.job_id == job.job_id
        assert (await handle.wait()).state is JobState.SUCCEEDED
        with pytest.raises(UsageError, match="nothing to cancel"):
            await handle.cancel()


async def test_job_of_another_session_that_waits_to_be_sent_is_cancelled_without_a_request() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with (
        Session(backend=backend, ledger=ledger, api_key="k" * 44, rate_limit=1) as owner,
        Session(backend=backend, ledger=ledger, api_key="k" * 44, follow=False) as other,
    ):
        await owner.submit(make_config(seed=1))
        job = await owner.enqueue(make_config(seed=2))
        handle = await other.find(job.job_id)
        assert handle is not None
        assert "nothing is paid" in await handle.cancel()
        assert (job.state, backend.creates) == (JobState.ABANDONED, 1)
        running = await other.find(task_id="1")
        assert running is not None
        with pytest.raises(UsageError, match="cannot cancel tasks"):
            await running.cancel()


async def test_handle_that_is_behind_cancels_the_task_that_runs_and_no_later_try() -> None:
    studio, ledger = Studio(seconds_per_stage=1000.0), MemoryLedger()
    owner = Session(backend=StudioBackend(studio), ledger=ledger, poll_delay=0.01, min_poll_interval=1.0)
    async with owner, onlooker(studio, ledger) as other:
        job = await owner.enqueue(make_config())
        early = await other.find(job.job_id)
        assert early is not None
        await job.submitted()
        await owner.find(job.job_id)
        assert early.state is JobState.PLANNED
        assert await early.cancel() == "refunded, because nothing was drawn"
        await (await job.retry()).submitted()
        await owner.find(job.job_id)
        with pytest.raises(UsageError, match="another try"):
            await early.cancel()
        assert job.state is JobState.RUNNING


async def test_job_whose_owner_has_died_is_cancelled_by_whoever_wishes_it() -> None:
    studio, ledger = Studio(seconds_per_stage=1000.0), MemoryLedger()
    way = Severable(ledger)
    dying = Session(backend=StudioBackend(studio), ledger=way, poll_delay=0.01, min_poll_interval=1.0)
    await dying.open()
    job = await dying.submit(make_config())
    await way.sever(dying)  # what it held is its own until its lease ends
    async with onlooker(studio, ledger) as other:
        handle = await other.find(job.job_id)
        assert handle is not None
        assert await handle.cancel() == "refunded, because nothing was drawn"
        assert handle.state is JobState.ABANDONED
        assert [wish.number for holder in await ledger.holders() for wish in await ledger.wishes(holder.fence)] == []


def onlooker(studio: Studio, ledger: MemoryLedger) -> Session:
    return Session(backend=StudioBackend(studio), ledger=ledger, follow=False, poll_delay=0.01, min_poll_interval=1.0)
