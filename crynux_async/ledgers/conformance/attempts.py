"""Checks of what a ledger remembers of creates: attempts, their outcomes, and where a lost one must lie."""

import asyncio
from typing import Any

import attrs

from crynux_async.ledgers.base import AttemptOutcome
from crynux_async.ledgers.conformance.support import (
    AWKWARD,
    BACKEND,
    KEY_ID,
    OTHER_BACKEND,
    LedgerCheck,
    LedgerFactory,
    at,
    attempt,
    desk,
    job,
    require_equal,
    require_error,
    task,
)
from crynux_async.states import JobState


async def attempts_come_back_equal(make: LedgerFactory) -> None:
    """Attempts survive in every attribute, in the order in which they were begun."""
    answered = attempt(
        "b",
        2,
        seconds=-5,
        try_number=2,
        payload='{"nonce":"' + AWKWARD + '"}',
        answered_at=at(3.25),
        outcome=AttemptOutcome.LIMITED,
        wait=1 / 3,
        status=400,
        answer=AWKWARD,
    )
    rows = [attempt("b", seconds=9), answered, attempt("a", 3, task_id="0xff", outcome=AttemptOutcome.ACCEPTED)]
    async with desk(make, "a", "b") as me:
        for row in rows:
            await me.ledger.begin(me.fence, row)
        require_equal(await me.ledger.attempts(), rows, "attempts")


async def attempts_are_selected_by_every_condition(make: LedgerFactory) -> None:
    """Backend, key, jobs, time and whether they ended narrow the list, each alone and together."""
    rows = [
        attempt("a", 1, seconds=0),
        attempt("a", 2, seconds=10, key_id="other"),
        attempt("b", 1, seconds=20, backend=OTHER_BACKEND),
        attempt("b", 2, seconds=30, outcome=AttemptOutcome.UNKNOWN),
    ]
    async with desk(make, "a", "b") as me:
        for row in rows:
            await me.ledger.begin(me.fence, row)
        selections: list[tuple[dict[str, Any], list[int]]] = [
            ({"backend": OTHER_BACKEND}, [2]),
            ({"key_id": KEY_ID}, [0, 2, 3]),
            ({"job_ids": ["a"]}, [0, 1]),
            ({"job_ids": ["b", "nobody", "a", "b"]}, [0, 1, 2, 3]),
            ({"job_ids": ["nobody"]}, []),
            ({"job_ids": []}, []),
            ({"since": at(10)}, [1, 2, 3]),
            ({"since": at(10.000001)}, [2, 3]),
            ({"unfinished": True}, [0, 1, 2]),
            ({"unfinished": True, "backend": BACKEND, "key_id": KEY_ID}, [0]),
            ({"backend": BACKEND, "key_id": KEY_ID, "job_ids": ["b"], "since": at(1)}, [3]),
        ]
        for selection, wanted in selections:
            found = await me.ledger.attempts(**selection)
            require_equal(found, [rows[index] for index in wanted], f"attempts({selection})")


async def attempt_is_begun_once(make: LedgerFactory) -> None:
    """Of many who begin the same attempt exactly one may send."""
    async with desk(make, "a", "b") as me:
        ledger, fence = me.ledger, me.fence
        begun = await asyncio.gather(*(ledger.begin(fence, attempt("a")) for _ in range(8)), return_exceptions=True)
        require_equal(sum(result is None for result in begun), 1, "how often one attempt was begun")
        await ledger.begin(fence, attempt("a", 2))
        await ledger.begin(fence, attempt("b"))
        await require_error(ledger.begin(fence, attempt("b", payload="other")), "an attempt was begun twice")
        found = [(row.job_id, row.number, row.payload) for row in await ledger.attempts()]
        require_equal(found, [("a", 1, ""), ("a", 2, ""), ("b", 1, "")], "attempts")


async def attempt_and_job_are_finished_in_one_step(make: LedgerFactory) -> None:
    """Either both are stored or none."""
    begun = attempt("a", payload="frozen")
    done = attrs.evolve(begun, answered_at=at(1), outcome=AttemptOutcome.ACCEPTED, task_id="5", status=200)
    async with desk(make, "a") as me:
        await me.ledger.add([job("b", task_id="5")])
        await me.ledger.begin(me.fence, begun)
        taken = me.change("a", finished=done, columns={"task_id": "5", "label": "x"})
        await require_error(taken, "a task of another job")
        await require_error(me.change("a", finished=done, columns={"colour": "red"}), "a column that is not there")
        require_equal(await me.ledger.attempts(), [begun], "the attempt after its finish was refused")
        require_equal(await me.ledger.get("a"), job("a"), "the job after its finish was refused")
        other = attrs.evolve(done, task_id="6")
        await me.change("a", finished=other, columns={"task_id": "6", "state": JobState.RUNNING})
        require_equal(await me.ledger.attempts(), [other], "the finished attempt")
        require_equal(await me.ledger.get("a"), job("a", task_id="6", state=JobState.RUNNING), "its job")


async def definite_outcome_is_final(make: LedgerFactory) -> None:
    """Who was asleep cannot make an accepted task unknown again; an unknown one can be found."""
    begun = attempt("a")
    unknown = attrs.evolve(begun, answered_at=at(1), outcome=AttemptOutcome.UNKNOWN, answer="half a page")
    found = attrs.evolve(begun, answered_at=at(2), outcome=AttemptOutcome.ACCEPTED, task_id="5")
    async with desk(make, "a") as me:
        await require_error(me.change("a", finished=unknown), "an attempt that was not begun was finished")
        await me.ledger.begin(me.fence, begun)
        await me.change("a", finished=unknown)
        await me.change("a", finished=found, columns={"task_id": "5"})
        await me.change("a", finished=found, columns={"task_id": "5"})
        late = me.change("a", finished=unknown, columns={"task_id": None})
        await require_error(late, "an accepted attempt became unknown")
        not_sent = attrs.evolve(found, outcome=AttemptOutcome.NOT_SENT)
        await require_error(me.change("a", finished=not_sent), "an accepted attempt became not sent")
        require_equal(await me.ledger.attempts(), [found], "the attempt")
        row = await me.ledger.get("a")
        require_equal(row and row.task_id, "5", "the task of the job")


async def known_tasks_are_those_that_jobs_have_or_had(make: LedgerFactory) -> None:
    """Of the tasks that are asked about, those of the backend that any job has, newest or earlier, however many."""
    rows = [job("a", task_id="1"), job("b", backend=OTHER_BACKEND, task_id="2"), job("c", task_id="3"), job("d")]
    async with desk(make) as me:
        await me.ledger.add(rows, fence=me.fence)
        await me.change("c", tasks=[task("c", "3"), task("c", "4", 2)], columns={"task_id": "4", "tries": 2})
        asked = [str(number) for number in range(2000)]
        require_equal(await me.ledger.known_tasks(BACKEND, asked), {"1", "3", "4"}, "tasks that jobs have or had")
        require_equal(await me.ledger.known_tasks(BACKEND, ["3", "2"]), {"3"}, "tasks of the backend among two")
        require_equal(await me.ledger.known_tasks(OTHER_BACKEND, ["1", "2"]), {"2"}, "tasks of the other backend")
        require_equal(await me.ledger.known_tasks(BACKEND, []), set(), "no tasks among none")


async def neighbours_are_what_was_answered_before_and_begun_after(make: LedgerFactory) -> None:
    """Creates that overlap the lost one bound nothing, and neither do other backends; nearer ones come first."""
    lost = attempt("x")
    async with desk(make, *"abcdefxyz") as me:
        ledger, fence = me.ledger, me.fence
        for name in "ab":
            await ledger.begin(fence, attempt(name))
        await me.accept(attempt("a"), "10")
        await ledger.begin(fence, attempt("y", backend=OTHER_BACKEND))
        await me.accept(attempt("y", backend=OTHER_BACKEND), "12")
        await ledger.begin(fence, attempt("f"))
        await me.accept(attempt("f"), "9")
        await ledger.begin(fence, lost)
        found = await ledger.neighbours(lost)
        require_equal((found.before, found.after), (("9", "10"), ()), "the neighbours of an open attempt")
        require_equal(found.under_way, (attempt("b"),), "what is under way beside an open attempt")
        await me.accept(attempt("b"), "11")
        await ledger.begin(fence, attempt("c"))
        await me.accept(attempt("c"), "13")
        await me.change("x", finished=attrs.evolve(lost, answered_at=at(1), outcome=AttemptOutcome.UNKNOWN))
        require_equal((await ledger.neighbours(lost)).after, (), "the neighbours before anything began after it")
        for name, task_id in (("e", "21"), ("d", "20")):
            await ledger.begin(fence, attempt(name))
            await me.accept(attempt(name), task_id)
        found = await ledger.neighbours(lost)
        require_equal((found.before, found.after), (("9", "10"), ("21", "20")), "the neighbours")
        require_equal(found.under_way, (), "what is under way when all is answered")
        few = await ledger.neighbours(lost, at_most=1)
        require_equal((few.before, few.after), (("9",), ("21",)), "the nearest neighbours")
        await require_error(ledger.neighbours(attempt("z")), "an attempt that was not begun")


async def neighbours_name_what_overlaps_without_an_end(make: LedgerFactory) -> None:
    """Two creates that were lost together share their place, and so does one that is still under way."""
    async with desk(make, *"abcde") as me:
        for name in "abcd":
            await me.ledger.begin(me.fence, attempt(name))
        unknown = [attempt(name, answered_at=at(1), outcome=AttemptOutcome.UNKNOWN) for name in "ab"]
        for row in unknown:
            await me.change(row.job_id, finished=row)
        await me.change("d", finished=attempt("d", answered_at=at(1), outcome=AttemptOutcome.NOT_SENT))
        await me.ledger.begin(me.fence, attempt("e"))
        found = await me.ledger.neighbours(attempt("a"))
        require_equal(found.under_way, (unknown[1], attempt("c")), "what overlaps the first lost create")
        late = await me.ledger.neighbours(attempt("e"))
        require_equal(late.under_way, (attempt("c"),), "what overlaps a create that was begun later")


async def neighbours_do_not_believe_the_clock(make: LedgerFactory) -> None:
    """A clock that is set back by a day must not put the lost task outside its bracket."""
    day = 86400.0
    async with desk(make, *"abx") as me:
        await me.ledger.begin(me.fence, attempt("a"))
        await me.accept(attempt("a"), "10", seconds=1)
        lost = attempt("x", seconds=2)
        await me.ledger.begin(me.fence, lost)
        await me.change("x", finished=attrs.evolve(lost, answered_at=at(3), outcome=AttemptOutcome.UNKNOWN))
        await me.ledger.begin(me.fence, attempt("b", seconds=-day))
        await me.accept(attempt("b", seconds=-day), "12", seconds=1 - day)
        found = await me.ledger.neighbours(lost)
        require_equal((found.before, found.after), (("10",), ("12",)), "the neighbours after the clock was set back")


ATTEMPT_CHECKS: tuple[LedgerCheck, ...] = (
    attempts_come_back_equal,
    attempts_are_selected_by_every_condition,
    attempt_is_begun_once,
    attempt_and_job_are_finished_in_one_step,
    definite_outcome_is_final,
    known_tasks_are_those_that_jobs_have_or_had,
    neighbours_are_what_was_answered_before_and_begun_after,
    neighbours_name_what_overlaps_without_an_end,
    neighbours_do_not_believe_the_clock,
)
