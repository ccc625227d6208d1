"""Checks of budgets: what is held and spent under one name never passes its limit, whoever sends."""

import asyncio

import attrs

from crynux_async.errors import BudgetExceededError
from crynux_async.ledgers.base import AttemptOutcome, BudgetRow, JobChange, Reservation, Settlement
from crynux_async.ledgers.conformance.support import (
    Desk,
    LedgerCheck,
    LedgerFactory,
    at,
    attempt,
    desk,
    desks,
    job,
    require,
    require_equal,
    require_error,
)
from crynux_async.money import WEI


def _spring(amount: int, limit: int) -> Reservation:
    return Reservation(budget="spring", amount=amount, limit=limit)


async def _begin(me: Desk, name: str, amount: int, limit: int) -> None:
    await me.ledger.begin(me.fence, attempt(name), reservation=_spring(amount, limit))


async def budget_is_held_with_the_attempt(make: LedgerFactory) -> None:
    """To the last wei, and not one more; what is refused leaves neither an attempt nor anything held."""
    async with desk(make, *"abc") as me:
        limit = 3 * WEI
        await _begin(me, "a", WEI + 1, limit)
        error = await require_error(_begin(me, "b", 2 * WEI, limit), "one wei too much", BudgetExceededError)
        assert isinstance(error, BudgetExceededError)
        facts = (error.budget, error.amount, error.limit, error.held, error.spent, error.job_id)
        require_equal(facts, ("spring", 2 * WEI, limit, WEI + 1, 0, "b"), "what the error says")
        require_equal(await me.ledger.attempts(job_ids=["b"]), [], "attempts that were refused")
        await _begin(me, "b", 2 * WEI - 1, limit)
        wanted = BudgetRow(name="spring", limit=limit, held=limit, spent=0)
        require_equal(await me.ledger.budget("spring"), wanted, "the budget")
        await require_error(_begin(me, "c", 1, limit), "one wei of an empty budget", BudgetExceededError)
        await _begin(me, "c", 0, limit)


async def newest_limit_counts(make: LedgerFactory) -> None:
    """A budget is as large as the last call says; where that was refused, nothing changed."""
    async with desk(make, *"abcd") as me:
        await require_error(_begin(me, "a", 6, 5), "more than a new budget has", BudgetExceededError)
        require_equal(await me.ledger.budget("spring"), None, "a budget whose first use was refused")
        await _begin(me, "a", 5, 5)
        await _begin(me, "b", 5, 10)
        await require_error(_begin(me, "c", 1, 8), "more than a smaller budget has", BudgetExceededError)
        wanted = BudgetRow(name="spring", limit=10, held=10, spent=0)
        require_equal(await me.ledger.budget("spring"), wanted, "the budget after a refusal")


async def money_is_settled_with_the_job(make: LedgerFactory) -> None:
    """What was released is free again, but for what was spent of it."""
    async with desk(make, *"ab") as me:
        amount, limit = 5 * WEI + 3, 2**60 * WEI - 1
        await _begin(me, "a", amount, limit)
        await _begin(me, "b", amount, limit)
        settled = Settlement(budget="spring", released=amount, spent=2 * WEI + 4)
        done = attempt("a", answered_at=at(1), outcome=AttemptOutcome.ACCEPTED, task_id="7")
        await me.change("a", columns={"task_id": "7"}, finished=done, settlement=settled)
        wanted = BudgetRow(name="spring", limit=limit, held=amount, spent=2 * WEI + 4)
        require_equal(await me.ledger.budget("spring"), wanted, "the budget")
        again = [JobChange(job_id=name, settlement=attrs.evolve(settled, spent=0)) for name in "ab"]
        await require_error(me.ledger.change(me.fence, again), "more was released than is held")
        require_equal(await me.ledger.budget("spring"), wanted, "the budget after a refusal")
        await me.ledger.change(me.fence, again[:1])
        require_equal(await me.ledger.budget("spring"), attrs.evolve(wanted, held=0), "the budget at the end")


async def many_who_send_at_once_never_pass_a_budget(make: LedgerFactory) -> None:
    """From several instances, exactly as many creates begin as the budget allows."""
    async with desks(make) as both:
        for number in range(20):
            me = both[number % 2]
            await me.ledger.add([job(f"job {number}")], fence=me.fence)
        sending = [_begin(both[number % 2], f"job {number}", 3, 22) for number in range(20)]
        results = await asyncio.gather(*sending, return_exceptions=True)
        refused = [result for result in results if result is not None]
        require(all(isinstance(result, BudgetExceededError) for result in refused), f"refused with {refused}")
        require_equal(len(results) - len(refused), 7, "how many creates began")
        wanted = BudgetRow(name="spring", limit=22, held=21, spent=0)
        require_equal(await both[0].ledger.budget("spring"), wanted, "the budget")
        require_equal(len(await both[0].ledger.attempts()), 7, "how many attempts are there")


BUDGET_CHECKS: tuple[LedgerCheck, ...] = (
    budget_is_held_with_the_attempt,
    newest_limit_counts,
    money_is_settled_with_the_job,
    many_who_send_at_once_never_pass_a_budget,
)
