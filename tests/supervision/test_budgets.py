"""Budgets: what may be spent together, whichever sessions send, and what becomes of what was held. On virtual time."""

import asyncio
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from benchmarks.scorecard.severing import Severable
from crynux_async import (
    BudgetExceededError,
    JobState,
    RateLimitedError,
    RejectedError,
    Session,
    SubmissionUnknownError,
    UnreachableError,
    UsageError,
)
from crynux_async.budgets import Budget
from crynux_async.ledgers.base import BudgetRow
from crynux_async.ledgers.memory import MemoryLedger
from tests.fake_backend import FakeBackend, make_config

CNX = 10**18


def open_session(backend: FakeBackend, ledger: Any = None, *, cnx: Any = 10, price: Any = 2, **more: Any) -> Session:
    budget = None if cnx is None else Budget("cats", cnx=cnx)
    chosen = {"rate_limit": 6000, **more}
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, budget=budget, price=price, **chosen)


async def held_and_spent(ledger: MemoryLedger) -> tuple[float, float]:
    row = await ledger.budget("cats") or BudgetRow(name="cats", limit=0, held=0, spent=0)
    return row.held / CNX, row.spent / CNX


@pytest.mark.parametrize("cnx", [-1, "x", float("nan"), float("inf"), 2**60, True, None])
def test_limit_that_is_no_amount_is_refused(cnx: Any) -> None:
    if cnx is None:
        assert Budget("cats").limit is None
    else:
        with pytest.raises(UsageError):
            Budget("cats", cnx=cnx)


@pytest.mark.parametrize("cnx", [0.1, "0.1", Decimal("0.1")])
def test_limit_is_taken_as_it_is_written(cnx: Any) -> None:
    assert Budget("cats", cnx=cnx).limit == CNX // 10


@pytest.mark.parametrize("name", ["", 7, "\0"])
def test_budget_without_a_name_is_refused(name: Any) -> None:
    with pytest.raises(UsageError):
        Budget(name)


async def test_budget_where_nobody_knows_a_price_is_refused_before_anything_is_queued() -> None:
    async with open_session(FakeBackend(), price=None) as session:
        with pytest.raises(UsageError) as caught:
            session.submit_nowait(make_config())
        assert caught.value.field == "price"
        assert session.jobs() == []


async def test_jobs_beyond_the_budget_are_not_sent_and_say_what_is_left() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger, cnx=5) as session:
        jobs = await session.submit_many([make_config(seed=seed) for seed in (1, 2, 3)])
        results = await asyncio.gather(*(job.submitted() for job in jobs), return_exceptions=True)
        error = results[2]
        assert isinstance(error, BudgetExceededError)
        assert (error.budget, error.amount, error.limit, error.held) == ("cats", 2 * CNX, 5 * CNX, 4 * CNX)
        assert jobs[2].state is JobState.PLANNED
        assert await held_and_spent(ledger) == (4, 0)
    assert backend.creates == 2


async def test_ten_sessions_cannot_pass_a_budget_together() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    sessions = [open_session(backend, ledger, cnx=11) for _ in range(10)]
    for session in sessions:
        await session.open()
    asks = [session.submit(make_config(seed=1 + seed)) for seed, session in enumerate(sessions)]
    results = await asyncio.gather(*asks, return_exceptions=True)
    assert sum(isinstance(result, BudgetExceededError) for result in results) == 5
    assert backend.creates == 5
    for session in sessions:
        await session.close()


async def test_task_that_has_ended_counts_as_spent() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger) as session:
        await (await session.submit(make_config(), group="cats")).wait()
        spending = await session.spent(group="cats")
        assert (spending.held, spending.spent) == (0, 2 * CNX)
        assert (await session.spent(group="dogs")).spent == 0
    assert await held_and_spent(ledger) == (0, 2)


async def test_time_without_a_zone_is_refused_in_words() -> None:
    async with open_session(FakeBackend(), MemoryLedger()) as session:
        for ask in (session.spent, session.history):
            with pytest.raises(UsageError, match="time zone") as caught:
                await ask(since=datetime(2026, 1, 2))  # noqa: DTZ001
            assert caught.value.field == "since"


@pytest.mark.parametrize(
    "answer", [RejectedError("no", field="rank"), RateLimitedError("slow", wait=1.0), UnreachableError("away")]
)
async def test_create_that_certainly_made_no_task_gives_back_what_was_held(answer: Exception) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(answer)
    async with open_session(backend, ledger) as session:
        await asyncio.gather(session.submit(make_config()), return_exceptions=True)
        held, spent = await held_and_spent(ledger)
        assert (held, spent) == (2.0 * len(backend.created), 0)


async def test_create_of_unknown_outcome_holds_what_it_may_cost() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    backend.answers.append(SubmissionUnknownError("lost"))
    async with open_session(backend, ledger) as session:
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config())
        session.jobs()[0].abandon()
        await session.find(session.jobs()[0].job_id)
    assert await held_and_spent(ledger) == (2, 0)


async def test_create_that_is_shown_not_to_have_been_gives_back_what_was_held() -> None:
    backend, ledger = FakeBackend(duration=1.0), MemoryLedger()
    async with open_session(backend, ledger) as session:
        await session.submit(make_config(seed=1))
        backend.answers.append(SubmissionUnknownError("lost"))
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config(seed=2))
        await session.submit(make_config(seed=3))
        await session.wait_all(session.jobs(JobState.RUNNING))
        (looked_for,) = await session.reconcile()
        assert looked_for.verdict == "not created"
        await session.find(looked_for.job.job_id)
    assert await held_and_spent(ledger) == (0, 4)


async def test_running_job_that_is_given_up_counts_as_spent() -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    async with open_session(backend, ledger) as session:
        job = await session.submit(make_config())
        job.abandon()
        await session.find(job.job_id)
    assert await held_and_spent(ledger) == (0, 2)


async def test_another_try_is_paid_by_the_same_budget() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger, cnx=3) as session:
        job = await session.submit(make_config(model_name="x/fail"))
        await session.wait_all()
        with pytest.raises(BudgetExceededError):
            await (await job.retry()).submitted()
    async with open_session(backend, ledger, cnx=4) as session:
        again = await session.find(job.job_id)
        assert again is not None
        await (await again.retry()).submitted()
    assert backend.creates == 2


async def test_session_that_goes_on_after_a_crash_keeps_to_the_budget_of_the_job() -> None:
    backend, ledger = FakeBackend(duration=6000), MemoryLedger()
    way = Severable(ledger)
    session = open_session(backend, way, cnx=5, rate_limit=1)
    await session.open()
    for seed in (1, 2, 3):
        await session.enqueue(make_config(seed=seed), idempotency_key=f"seed {seed}")
    await asyncio.sleep(1)
    await way.sever(session)
    assert backend.creates == 1
    async with open_session(backend, ledger, cnx=None, send_planned=True) as following:
        await asyncio.sleep(3600)
        assert await held_and_spent(ledger) == (4, 0)
        assert following.statistics().jobs == {JobState.RUNNING: 2, JobState.PLANNED: 1}
    assert backend.creates == 2


async def test_budget_of_a_batch_takes_the_place_of_the_sessions() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger, cnx=1) as session:
        (job,) = await session.submit_many([make_config()], budget=Budget("dogs", cnx=2))
        await job.submitted()
        row = await ledger.budget("dogs")
        assert row is not None
        assert (row.limit, row.held) == (2 * CNX, 2 * CNX)


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800"])
def test_budget_whose_name_no_ledger_can_keep_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="a budget has a name"):
        Budget(name, cnx=100)
