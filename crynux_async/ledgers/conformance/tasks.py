"""Checks of the tasks of a job, of the steps on them, and of what they cost."""

import attrs

from crynux_async.ledgers.base import JobChange, JobFilter
from crynux_async.ledgers.conformance.support import (
    AWKWARD,
    LedgerCheck,
    LedgerFactory,
    at,
    desk,
    job,
    require_equal,
    require_error,
    step,
    task,
)
from crynux_async.money import WEI


async def tasks_come_back_by_job_try_and_member(make: LedgerFactory) -> None:
    """Every task ever made for a job is there, in every attribute, whatever the order in which they were told."""
    ended = task(
        "a",
        AWKWARD,
        1,
        2,
        ended_at=at(9.000001),
        end="slashed",
        reason=AWKWARD,
        fee=123_456_789 * WEI + 1,
        spent=2**63 + 7,
    )
    first, second, other = task("a", "9"), task("a", "10", 2, fee=0, spent=0), task("b", "11", fee=WEI - 1)
    async with desk(make, "b", "a", "c") as me:
        await me.change("a", tasks=[second, ended])
        await me.change("b", tasks=[other])
        await me.change("a", tasks=[first])
        require_equal(await me.ledger.tasks(["a"]), [first, ended, second], "the tasks of one job")
        found = await me.ledger.tasks(["a", "nobody", "c", "b", "a"])
        require_equal(found, [other, first, ended, second], "the tasks of several jobs, in the order of the jobs")
        require_equal(await me.ledger.tasks([]), [], "the tasks of no job")


async def task_changes_in_its_place(make: LedgerFactory) -> None:
    """A task is told again with what is new about it; a place that gets another task gives the first one free."""
    made = task("a", "9", fee=5)
    ended = attrs.evolve(made, ended_at=at(1), end="success", spent=4)
    async with desk(make, "a", "b") as me:
        await me.change("a", tasks=[made])
        await me.change("a", tasks=[ended])
        require_equal(await me.ledger.tasks(["a"]), [ended], "a task that ended")
        await me.change("a", tasks=[task("a", "10")])
        require_equal(await me.ledger.tasks(["a"]), [task("a", "10")], "the task in its place")
        await me.change("b", tasks=[task("b", "9")])
        twice = me.change("b", tasks=[task("b", "9", 2)])
        await require_error(twice, "a task in two places of one job")


async def step_is_planned_once(make: LedgerFactory) -> None:
    """The first of its kind wins, with the arguments and the fee that it was planned with."""
    first = step("a", "validate", arguments={"proof": [1, {"é": AWKWARD}], "none": None}, fee=2**70)
    async with desk(make, "a", "b") as me:
        ledger, fence = me.ledger, me.fence
        require_equal(await ledger.plan_step(fence, first), first, "a new step")
        other = step("a", "validate", arguments={"proof": "other"}, planned_at=at(9))
        require_equal(await ledger.plan_step(fence, other), first, "a step that is there already")
        rest = [step("b", "validate"), step("a", "validate", 2), step("a", "validate", member=1), step("a", "cancel")]
        for row in rest:
            require_equal(await ledger.plan_step(fence, row), row, "another step")
        require_equal(await ledger.steps(["a", "b"]), [first, *rest], "steps in the order in which they were planned")
        require_equal(await ledger.steps(["b", "nobody"]), rest[:1], "steps of one job")


async def step_is_done_with_its_job(make: LedgerFactory) -> None:
    """Only when and how it ended is told; the arguments stay."""
    planned = step("a", "validate", arguments={"proof": 1}, fee=7)
    async with desk(make, "a") as me:
        await me.ledger.plan_step(me.fence, planned)
        done = step("a", "validate", arguments={"proof": 2}, done_at=at(5), outcome="accepted")
        await me.change("a", columns={"label": "validated"}, steps=[done])
        wanted = attrs.evolve(planned, done_at=at(5), outcome="accepted")
        require_equal(await me.ledger.steps(["a"]), [wanted], "the step")
        require_equal(await me.ledger.plan_step(me.fence, planned), wanted, "the step, planned again")


async def what_was_spent_is_added_up_exactly(make: LedgerFactory) -> None:
    """A task holds its fee until its cost is known; sums are exact to the wei, whatever their size."""
    large = 2**60 * WEI // 3
    tasks = {
        "a": [task("a", "1", fee=large, spent=large - 1), task("a", "2", 2, fee=WEI - 1)],
        "b": [task("b", "3", fee=large, spent=large + 2), task("b", "4", 2, fee=WEI - 1), task("b", "5", 3)],
        "c": [task("c", "6", fee=999, spent=0)],
    }
    async with desk(make, "a", "b", "c") as me:
        await me.ledger.change(me.fence, [JobChange(job_id=name, tasks=tasks[name]) for name in tasks])
        wanted = (2 * (WEI - 1), 2 * large + 1)
        require_equal(await me.ledger.spent(JobFilter()), wanted, "wei held and spent by all")
        require_equal(await me.ledger.spent(JobFilter(job_ids=["a"])), (WEI - 1, large - 1), "wei held and spent by a")
        require_equal(await me.ledger.spent(JobFilter(label="nobody's")), (0, 0), "wei held and spent by nobody")
        many = [task("c", f"n{number}", 2 + number, fee=WEI - 1) for number in range(40)]
        await me.change("c", tasks=many)
        require_equal(await me.ledger.spent(JobFilter(job_ids=["c"])), (40 * (WEI - 1), 0), "the sum of many fees")


async def money_that_is_none_is_refused(make: LedgerFactory) -> None:
    """An amount is a whole number of wei, 0 or more."""
    async with desk(make) as me:
        await me.ledger.add([job("a")], fence=me.fence)
        for fee in (-1, 0.5, True, "1", 2**60 * WEI):
            await require_error(me.change("a", tasks=[task("a", "7", fee=fee)]), f"a fee of {fee!r}")
            await require_error(me.ledger.plan_step(me.fence, step("a", "x", fee=fee)), f"a fee of {fee!r}")
        require_equal(await me.ledger.tasks(["a"]), [], "tasks with a fee that is none")


TASK_CHECKS: tuple[LedgerCheck, ...] = (
    tasks_come_back_by_job_try_and_member,
    task_changes_in_its_place,
    step_is_planned_once,
    step_is_done_with_its_job,
    what_was_spent_is_added_up_exactly,
    money_that_is_none_is_refused,
)
