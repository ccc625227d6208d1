"""Checks of what a ledger remembers of creates: attempts, their outcomes, and where a lost one must lie."""

import asyncio
from typing import Any

import attrs

from crynux_async.ledgers.base import AttemptOutcome
from crynux_async.ledgers.conformance.support import (
    BACKEND,
    KEY_ID,
    LedgerCheck,
    LedgerFactory,
    accept,
    at,
    attempt,
    job,
    opened,
    require_equal,
    require_error,
)
from crynux_async.states import JobState

_OTHER = "https://other.example"
_AWKWARD = "half a page\n<html>ünï \"quotes\" 'single' %s 😀"


async def attempts_come_back_equal(make: LedgerFactory) -> None:
    """Attempts survive in every attribute, in the order in which they were begun."""
    answered = attempt(
        "b",
        2,
        seconds=-5,
        answered_at=at(3.25),
        outcome=AttemptOutcome.REFUSED,
        wait=1 / 3,
        status=400,
        answer=_AWKWARD,
    )
    rows = [attempt("b", seconds=9), answered, attempt("a", 3, task_id=2**53 + 1, outcome=AttemptOutcome.ACCEPTED)]
    async with opened(make) as ledger:
        await ledger.add([job("a"), job("b")])
        for row in rows:
            await ledger.begin(row)
        require_equal(await ledger.attempts(), rows, "attempts")


async def attempts_are_selected_by_every_condition(make: LedgerFactory) -> None:
    """Backend, key, job and time narrow the list, each alone and together."""
    rows = [
        attempt("a", 1, seconds=0),
        attempt("a", 2, seconds=10, key_id="other"),
        attempt("b", 1, seconds=20, backend=_OTHER),
        attempt("b", 2, seconds=30),
    ]
    async with opened(make) as ledger:
        await ledger.add([job("a"), job("b")])
        for row in rows:
            await ledger.begin(row)
        selections: list[tuple[dict[str, Any], list[int]]] = [
            ({"backend": _OTHER}, [2]),
            ({"key_id": KEY_ID}, [0, 2, 3]),
            ({"job_id": "a"}, [0, 1]),
            ({"job_id": "nobody"}, []),
            ({"since": at(10)}, [1, 2, 3]),
            ({"since": at(10.000001)}, [2, 3]),
            ({"backend": BACKEND, "key_id": KEY_ID, "job_id": "b", "since": at(1)}, [3]),
        ]
        for selection, wanted in selections:
            found = await ledger.attempts(**selection)
            require_equal(found, [rows[index] for index in wanted], f"attempts({selection})")


async def attempt_is_begun_once(make: LedgerFactory) -> None:
    """Of many who begin the same attempt exactly one may send; a job that is not there has no attempts."""
    async with opened(make) as ledger:
        await ledger.add([job("a"), job("b")])
        begun = await asyncio.gather(*(ledger.begin(attempt("a")) for _ in range(8)), return_exceptions=True)
        require_equal(sum(result is None for result in begun), 1, "how often one attempt was begun")
        await require_error(ledger.begin(attempt("nobody")), "an attempt of a job that is not there")
        await ledger.begin(attempt("a", 2))
        await ledger.begin(attempt("b"))
        found = [(row.job_id, row.number) for row in await ledger.attempts()]
        require_equal(found, [("a", 1), ("a", 2), ("b", 1)], "attempts")


async def finish_stores_attempt_and_job_in_one_step(make: LedgerFactory) -> None:
    """Either both are stored or none."""
    begun = attempt("a")
    done = attrs.evolve(begun, answered_at=at(1), outcome=AttemptOutcome.ACCEPTED, task_id=5, status=200)
    async with opened(make) as ledger:
        await ledger.add([job("a"), job("b", task_id=5)])
        await ledger.begin(begun)
        await require_error(ledger.finish(done, task_id=5, label="x"), "a task of another job")
        await require_error(ledger.finish(done, colour="red"), "a column that is not there")
        require_equal(await ledger.attempts(), [begun], "the attempt after its finish was refused")
        require_equal(await ledger.get("a"), job("a"), "the job after its finish was refused")
        await ledger.finish(attrs.evolve(done, task_id=6), task_id=6, state=JobState.RUNNING)
        require_equal(await ledger.attempts(), [attrs.evolve(done, task_id=6)], "the finished attempt")
        require_equal(await ledger.get("a"), job("a", task_id=6, state=JobState.RUNNING), "its job")


async def definite_outcome_is_final(make: LedgerFactory) -> None:
    """Who was asleep cannot make an accepted task unknown again; an unknown one can be found."""
    begun = attempt("a")
    unknown = attrs.evolve(begun, answered_at=at(1), outcome=AttemptOutcome.UNKNOWN, answer="half a page")
    found = attrs.evolve(begun, answered_at=at(2), outcome=AttemptOutcome.ACCEPTED, task_id=5)
    async with opened(make) as ledger:
        await ledger.add([job("a")])
        await require_error(ledger.finish(unknown), "an attempt that was not begun was finished")
        await ledger.begin(begun)
        await ledger.finish(unknown)
        await ledger.finish(found, task_id=5)
        await ledger.finish(found, task_id=5)
        await require_error(ledger.finish(unknown, task_id=None), "an accepted attempt became unknown")
        await require_error(
            ledger.finish(attrs.evolve(found, outcome=AttemptOutcome.NOT_SENT)), "an accepted attempt became not sent"
        )
        require_equal(await ledger.attempts(), [found], "the attempt")
        row = await ledger.get("a")
        require_equal(row and row.task_id, 5, "the task of the job")


async def bracket_is_between_what_was_answered_before_and_begun_after(make: LedgerFactory) -> None:
    """Creates that overlap the lost one bound nothing; other backends neither."""
    async with opened(make) as ledger:
        await ledger.add([job(name) for name in "abcdexyz"])
        lost = attempt("x")
        await ledger.begin(attempt("a"))
        await ledger.begin(attempt("b"))
        await accept(ledger, attempt("a"), 10)
        await ledger.begin(attempt("y", backend=_OTHER))
        await accept(ledger, attempt("y", backend=_OTHER), 12)
        await ledger.begin(lost)
        require_equal(await ledger.bracket(lost), (10, None), "the bracket of an open attempt")
        await accept(ledger, attempt("b"), 11)
        await ledger.begin(attempt("c"))
        await accept(ledger, attempt("c"), 13)
        await ledger.finish(attrs.evolve(lost, answered_at=at(1), outcome=AttemptOutcome.UNKNOWN))
        require_equal(await ledger.bracket(lost), (10, None), "the bracket before anything began after it")
        for name, task_id in (("e", 21), ("d", 20)):
            await ledger.begin(attempt(name))
            await accept(ledger, attempt(name), task_id)
        require_equal(await ledger.bracket(lost), (10, 20), "the bracket")
        await require_error(ledger.bracket(attempt("z")), "an attempt that was not begun")


async def bracket_does_not_believe_the_clock(make: LedgerFactory) -> None:
    """A clock that is set back by a day must not put the lost task outside its bracket."""
    day = 86400.0
    async with opened(make) as ledger:
        await ledger.add([job(name) for name in "abx"])
        await ledger.begin(attempt("a"))
        await accept(ledger, attempt("a"), 10, seconds=1)
        lost = attempt("x", seconds=2)
        await ledger.begin(lost)
        unknown = attrs.evolve(lost, answered_at=at(3), outcome=AttemptOutcome.UNKNOWN)
        await ledger.finish(unknown)
        await ledger.begin(attempt("b", seconds=-day))
        await accept(ledger, attempt("b", seconds=-day), 12, seconds=1 - day)
        require_equal(await ledger.bracket(lost), (10, 12), "the bracket after the clock was set back")


ATTEMPT_CHECKS: tuple[LedgerCheck, ...] = (
    attempts_come_back_equal,
    attempts_are_selected_by_every_condition,
    attempt_is_begun_once,
    finish_stores_attempt_and_job_in_one_step,
    definite_outcome_is_final,
    bracket_is_between_what_was_answered_before_and_begun_after,
    bracket_does_not_believe_the_clock,
)
