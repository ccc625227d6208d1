"""Checks that who has lost a lease changes nothing any more."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from crynux_async.errors import LeaseLostError
from crynux_async.ledgers.base import AttemptOutcome, JobChange, Reservation, Settlement, WishRow
from crynux_async.ledgers.conformance.support import (
    BACKEND,
    Desk,
    LedgerCheck,
    LedgerFactory,
    at,
    attempt,
    desk,
    desks,
    event,
    job,
    require_equal,
    require_error,
    step,
    task,
)
from crynux_async.states import JobState

_BUDGET = Reservation(budget="spring", amount=5, limit=100)


@asynccontextmanager
async def _overtaken(make: LedgerFactory) -> AsyncIterator[tuple[Desk, Desk]]:
    """Give somebody who slept while job "a" was taken over and sent by another, and kept job "b"."""
    async with desks(make) as (loser, winner):
        await loser.ledger.add([job("a"), job("b")], fence=loser.fence)
        await loser.ledger.begin(loser.fence, attempt("a"), reservation=_BUDGET)
        await loser.ledger.plan_step(loser.fence, step("a", "validate"))
        loser.place.move_clock(61)
        await winner.ledger.renew(winner.fence, seconds=60)
        require_equal(await winner.ledger.take(winner.fence, ["a"]), ["a"], "jobs taken over")
        yield loser, winner


async def loser_changes_nothing_of_a_lost_job(make: LedgerFactory) -> None:
    """Every part of a change is left out, and the job is named; what the loser still holds is changed."""
    async with _overtaken(make) as (loser, winner):
        ledger = winner.ledger
        await winner.change("a", columns={"state": JobState.RUNNING, "task_id": "7"}, tasks=[task("a", "7")])
        wish = await ledger.wish(_wish())
        before = await _everything(winner)
        late = JobChange(
            job_id="a",
            columns={"state": JobState.REJECTED, "error": "late", "last_event": 1},
            finished=attempt("a", outcome=AttemptOutcome.REJECTED),
            tasks=[task("a", "8")],
            steps=[step("a", "validate", outcome="done")],
            events=[event("a", 1)],
            settlement=Settlement(budget="spring", released=5, spent=0),
            granted=[wish.number],
        )
        mine = JobChange(job_id="b", columns={"label": "mine"})
        lost = await loser.ledger.change(loser.fence, [late, mine, JobChange(job_id="a")])
        require_equal(lost, ["a"], "lost jobs")
        require_equal(await _everything(winner), before, "everything about a lost job")
        require_equal(await ledger.get("b"), job("b", label="mine"), "a job that was not lost")


def _wish() -> WishRow:
    return WishRow(job_id="a", kind="abandon", at=at(0))


async def _everything(me: Desk) -> tuple[object, ...]:
    ledger = me.ledger
    return (
        await ledger.get("a"),
        await ledger.attempts(job_ids=["a"]),
        await ledger.tasks(["a"]),
        await ledger.steps(["a"]),
        await ledger.events("a"),
        await ledger.budget("spring"),
        await ledger.wishes(me.fence),
    )


async def loser_begins_nothing(make: LedgerFactory) -> None:
    """Neither an attempt nor a step of a lost job is stored, and no money is held for it."""
    async with _overtaken(make) as (loser, winner):
        before = await _everything(winner)
        sending = loser.ledger.begin(loser.fence, attempt("a", 2), reservation=_BUDGET)
        error = await require_error(sending, "an attempt of a lost job", LeaseLostError)
        assert isinstance(error, LeaseLostError)
        require_equal(error.job_ids, ("a",), "which job was lost")
        planning = loser.ledger.plan_step(loser.fence, step("a", "cancel"))
        await require_error(planning, "a step of a lost job", LeaseLostError)
        known = loser.ledger.plan_step(loser.fence, step("a", "validate"))
        await require_error(known, "a step of a lost job that is there already", LeaseLostError)
        require_equal(await _everything(winner), before, "everything about a lost job")
        await winner.ledger.begin(winner.fence, attempt("a", 2))


async def nobody_writes_about_a_job_that_nobody_holds(make: LedgerFactory) -> None:
    """A job that was dropped, or whose lease was given back, takes no writes before somebody takes it."""
    async with desk(make, "a", "b") as me:
        await me.ledger.drop(me.fence, ["a"])
        require_equal(await me.change("a", columns={"label": "x"}), ["a"], "a dropped job")
        await require_error(me.ledger.begin(me.fence, attempt("a")), "an attempt of a dropped job", LeaseLostError)
        await me.ledger.leave(me.fence)
        require_equal(await me.change("b", columns={"label": "x"}), ["b"], "a job of a lease that was given back")
        require_equal(await me.ledger.jobs(), [job("a"), job("b")], "jobs")


async def job_that_is_not_there_is_lost(make: LedgerFactory) -> None:
    """Nobody holds it: it is named among the lost ones, and has no attempts and no steps."""
    async with desk(make, "a") as me:
        changes = [JobChange(job_id="nobody", columns={"label": "x"}), JobChange(job_id="a", columns={"label": "y"})]
        require_equal(await me.ledger.change(me.fence, changes), ["nobody"], "lost jobs")
        require_equal(await me.ledger.get("a"), job("a", label="y"), "a job that is there")
        await require_error(me.ledger.begin(me.fence, attempt("nobody")), "an attempt of a job that is not there")
        await require_error(me.ledger.plan_step(me.fence, step("nobody", "x")), "a step of a job that is not there")


async def lease_of_a_former_life_holds_nothing(make: LedgerFactory) -> None:
    """Who enters again under the same name starts with nothing; the old fence is worth nothing once it was left."""
    async with desk(make, "a") as me:
        await me.ledger.leave(me.fence)
        again = attrs.evolve(me, fence=await me.ledger.enter(me.fence.owner, seconds=60))
        require_equal(await me.ledger.held(again.fence), set(), "what a new lease holds")
        claimed = await me.ledger.claim(again.fence, backend=BACKEND, states=[JobState.PLANNED])
        require_equal([row.job_id for row in claimed], ["a"], "claimed jobs")
        require_equal(await me.change("a", columns={"label": "old"}), ["a"], "jobs lost by the old fence")
        require_equal(await again.change("a", columns={"label": "new"}), [], "jobs lost by the new fence")


FENCE_CHECKS: tuple[LedgerCheck, ...] = (
    loser_changes_nothing_of_a_lost_job,
    loser_begins_nothing,
    nobody_writes_about_a_job_that_nobody_holds,
    job_that_is_not_there_is_lost,
    lease_of_a_former_life_holds_nothing,
)
