"""Checks of events: numbered without gaps, replayed from any number, trimmed, and heard of."""

import asyncio
from typing import Any

import attrs

from crynux_async.ledgers.base import AttemptOutcome, JobChange, Ledger
from crynux_async.ledgers.conformance.support import (
    AWKWARD,
    Desk,
    LedgerCheck,
    LedgerFactory,
    at,
    attempt,
    desk,
    desks,
    event,
    happened,
    job,
    opened,
    require,
    require_equal,
    require_error,
    step,
    task,
)
from crynux_async.states import JobState

_HEARD_WITHIN = 10.0
"""Seconds after which a change counts as never heard of: the promise is one, a busy machine may take longer."""


async def events_come_back_in_order_from_any_number(make: LedgerFactory) -> None:
    """Replaying begins behind the number that is given, and gives no more than it is told."""
    first = event("a", 1, seconds=0.000001, text=AWKWARD, values=[1, 0.1, None, {"deep": True}])
    rest = [event("a", number, seconds=number) for number in (2, 3, 4)]
    async with desk(make, "b") as me:
        await me.ledger.add([job("a", last_event=1)], fence=me.fence, events=[first])
        await me.change("a", columns={"last_event": 3, "state": JobState.RUNNING}, events=rest[:2])
        await me.ledger.change(
            me.fence, [happened("b", 1), JobChange(job_id="a", columns={"last_event": 4}, events=rest[2:])]
        )
        require_equal(await me.ledger.events("a"), [first, *rest], "all events of a job")
        require_equal(await me.ledger.events("a", after=2), rest[1:], "the events behind the second")
        require_equal(await me.ledger.events("a", after=1, limit=2), rest[:2], "two events behind the first")
        require_equal(await me.ledger.events("a", after=4), [], "the events behind the last")
        row = await me.ledger.get("a")
        require_equal(row and row.last_event, 4, "the last number, kept on the job")


async def events_never_leave_a_gap(make: LedgerFactory) -> None:
    """A number that is not the next one is refused, with everything beside it."""
    async with desk(make, "a") as me:
        await me.ledger.change(me.fence, [happened("a", 1, 2)])
        for what, change in (
            ("a number that is there already", happened("a", 2)),
            ("a number that is too large", happened("a", 4)),
            ("numbers with a gap", happened("a", 3, 5)),
            ("numbers in a wrong order", happened("a", 4, 3)),
            ("a last number without its event", JobChange(job_id="a", columns={"last_event": 3})),
            ("an event without the last number", JobChange(job_id="a", events=[event("a", 3)])),
        ):
            await require_error(me.ledger.change(me.fence, [change]), what)
        require_equal([row.number for row in await me.ledger.events("a")], [1, 2], "the numbers of events")
        await me.ledger.change(me.fence, [happened("a", 3), happened("a", 4)])
        require_equal([row.number for row in await me.ledger.events("a")], [1, 2, 3, 4], "the numbers of events")


async def event_is_stored_with_what_it_tells_of_or_neither_is(make: LedgerFactory) -> None:
    """State, outcome, task, step and event of one change are all there, or none of them, whichever is refused."""
    async with desk(make, "a", "b") as me:
        await me.ledger.begin(me.fence, attempt("a"))
        await me.ledger.plan_step(me.fence, step("a", "score"))
        whole = attrs.evolve(
            happened("a", 1, 2),
            columns={"last_event": 2, "state": JobState.RUNNING, "task_id": "7"},
            finished=attrs.evolve(attempt("a"), answered_at=at(1), outcome=AttemptOutcome.ACCEPTED, task_id="7"),
            tasks=[task("a", "7")],
            steps=[attrs.evolve(step("a", "score"), done_at=at(2), outcome="done")],
        )
        refused: dict[str, dict[str, Any]] = {
            "an event that is not the next": {"events": happened("a", 2, 3).events},
            "a step that was not planned": {"steps": [attrs.evolve(step("a", "upload"), done_at=at(2))]},
            "an attempt that was not begun": {"finished": attempt("a", 2, outcome=AttemptOutcome.NOT_SENT)},
        }
        for what, bad in refused.items():
            # In one write with the change of another job, which is stored with nothing either.
            await require_error(me.ledger.change(me.fence, [happened("b", 1), attrs.evolve(whole, **bad)]), what)
            require_equal(await _parts_of(me), (JobState.PLANNED, 0, [], [], [None], [None]), f"a job after {what}")
            require_equal(await me.ledger.events("b"), [], f"the events of another job after {what}")
        other = await me.ledger.enter("other", seconds=60)
        require_equal(await me.ledger.change(other, [whole]), ["a"], "the jobs that another does not hold")
        require_equal(
            await _parts_of(me), (JobState.PLANNED, 0, [], [], [None], [None]), "a job of which another wrote"
        )
        require_equal(await me.ledger.change(me.fence, [whole]), [], "jobs that were lost")
        all_of_it = (JobState.RUNNING, 2, [1, 2], ["7"], [AttemptOutcome.ACCEPTED], ["done"])
        require_equal(await _parts_of(me), all_of_it, "a job after a good change")


async def _parts_of(me: Desk) -> tuple[object, ...]:
    """Return what one change of job "a" writes, as it is stored."""
    row = await me.ledger.get("a")
    return (
        row and row.state,
        row and row.last_event,
        [one.number for one in await me.ledger.events("a")],
        [one.task_id for one in await me.ledger.tasks(["a"])],
        [one.outcome for one in await me.ledger.attempts(job_ids=["a"])],
        [one.outcome if one.done_at else None for one in await me.ledger.steps(["a"])],
    )


async def old_events_are_trimmed(make: LedgerFactory) -> None:
    """Of jobs that ended, events before a time go; of every job, all but the newest; the last number stays."""
    async with desk(make, "ended", "live") as me:
        for name in ("ended", "live"):
            for number in range(1, 6):
                await me.ledger.change(me.fence, [happened(name, number, seconds=number)])
        await me.change("ended", columns={"state": JobState.FAILED, "ended_at": at(6)})
        require_equal(await me.ledger.trim_events(before=at(3), keep=9), 2, "how many old events were removed")
        require_equal([row.number for row in await me.ledger.events("ended")], [3, 4, 5], "events of an ended job")
        require_equal(len(await me.ledger.events("live")), 5, "events of a live job")
        require_equal(await me.ledger.trim_events(before=at(0), keep=2), 4, "how many events were too many")
        require_equal([row.number for row in await me.ledger.events("live")], [4, 5], "events that are left")
        require_equal(
            await me.ledger.trim_events(before=at(99), keep=2), 2, "how many events of an ended job were left"
        )
        require_equal(await me.ledger.events("ended"), [], "events of a job that ended long ago")
        row = await me.ledger.get("ended")
        require_equal(row and row.last_event, 5, "the last number of a job without events")
        await me.ledger.change(me.fence, [happened("ended", 6)])
        require_equal([row.number for row in await me.ledger.events("ended")], [6], "events after trimming")


async def many_events_are_trimmed(make: LedgerFactory) -> None:
    """However many events a job had, the newest stay."""
    async with desk(make, "a", "b") as me:
        await me.ledger.change(me.fence, [happened("a", *range(1, 301)), happened("b", *range(1, 151))])
        require_equal(await me.ledger.trim_events(before=at(-1), keep=200), 100, "how many events were removed")
        require_equal((await me.ledger.events("a"))[0].number, 101, "the first event that is left")
        require_equal(len(await me.ledger.events("b")), 150, "events of a job with fewer")


async def change_is_heard_by_every_instance(make: LedgerFactory) -> None:
    """Who waits hears of a write by another instance and by its own; what was written before the wait is not missed."""
    async with desks(make) as (one, two):
        for writer, listener in ((one, two), (two, two)):
            since = await listener.ledger.changed(0)
            waiting = asyncio.create_task(listener.ledger.changed(since))
            await asyncio.sleep(0)
            await writer.ledger.add([job(f"by {writer.fence.owner}")])
            heard = await _heard(waiting, "a write while somebody waits")
            await writer.ledger.put_note("test", writer.fence.owner, 1)
            missed = asyncio.create_task(listener.ledger.changed(heard))
            require(await _heard(missed, "a write before somebody waits") > heard, "the number did not grow")


async def nothing_is_heard_where_nothing_happens(make: LedgerFactory) -> None:
    """A wait without a write goes on, and can be cancelled; reading is no change."""
    async with desks(make) as (one, two):
        since = await _quiet(two.ledger)
        waiting = asyncio.create_task(two.ledger.changed(since))
        await one.ledger.jobs()
        await two.ledger.holders()
        for _ in range(20):
            await asyncio.sleep(0)
        require(not waiting.done(), "a change was heard where nothing was written")
        waiting.cancel()
        await asyncio.wait([waiting])
        require(waiting.cancelled(), "a wait for changes cannot be cancelled")
        again = asyncio.create_task(two.ledger.changed(since))
        await one.ledger.add([job("a")])
        await _heard(again, "a write after a cancelled wait")


async def many_wait_for_one_change(make: LedgerFactory) -> None:
    """Everybody who waits hears."""
    async with opened(make) as ledger:
        since = await ledger.changed(0)
        waiting = [asyncio.create_task(ledger.changed(since)) for _ in range(50)]
        await asyncio.sleep(0)
        await ledger.add([job("a")])
        for one in waiting:
            require(await _heard(one, "a write that many wait for") > since, "the number did not grow")


async def _quiet(ledger: Ledger) -> int:
    """Return the number of the last change, when all that was written before has been heard of."""
    since = await ledger.changed(0)
    while True:
        try:
            async with asyncio.timeout(0.05):
                since = await ledger.changed(since)
        except TimeoutError:
            return since


async def _heard(waiting: "asyncio.Task[int]", what: str) -> int:
    done, _ = await asyncio.wait([waiting], timeout=_HEARD_WITHIN)
    if not done:
        waiting.cancel()
    require(done, f"{what} was not heard of")
    return waiting.result()


EVENT_CHECKS: tuple[LedgerCheck, ...] = (
    events_come_back_in_order_from_any_number,
    events_never_leave_a_gap,
    event_is_stored_with_what_it_tells_of_or_neither_is,
    old_events_are_trimmed,
    many_events_are_trimmed,
    change_is_heard_by_every_instance,
    nothing_is_heard_where_nothing_happens,
    many_wait_for_one_change,
)
