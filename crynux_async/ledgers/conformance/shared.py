"""Checks of what sessions and processes share beside jobs: gates, what was learned, and notes."""

import asyncio

from crynux_async.errors import UsageError
from crynux_async.ledgers.base import GateRow, Ledger
from crynux_async.ledgers.conformance.support import (
    AWKWARD,
    BACKEND,
    KEY_ID,
    OTHER_BACKEND,
    LedgerCheck,
    LedgerFactory,
    attempt,
    desk,
    desks,
    job,
    opened,
    require,
    require_equal,
    require_error,
)


async def gate_keeps_its_row(make: LedgerFactory) -> None:
    """A row is stored when the block ends, for its backend and key alone, and for every instance."""
    row = GateRow(clock="boot", snapshot={"level": 1 / 3, "marks": [1, None, {"é": True}]})
    async with desks(make) as (one, two):
        async with one.ledger.gate(BACKEND, KEY_ID) as cell:
            require_equal(cell.row, None, "the row of a new gate")
            cell.row = row
        for backend, key_id, wanted in (
            (BACKEND, KEY_ID, row),
            (OTHER_BACKEND, KEY_ID, None),
            (BACKEND, "other", None),
        ):
            async with two.ledger.gate(backend, key_id) as cell:
                require_equal(cell.row, wanted, f"the row of the gate of {backend} and {key_id}")


async def gate_that_was_only_looked_at_is_empty(make: LedgerFactory) -> None:
    """Entering alone stores nothing."""
    async with opened(make) as ledger:
        for _ in range(2):
            async with ledger.gate(BACKEND, KEY_ID) as cell:
                require_equal(cell.row, None, "the row of a gate that was only looked at")


async def gate_stores_nothing_after_an_error(make: LedgerFactory) -> None:
    """What a block that raises has put into the row is forgotten, and the next one can enter."""
    kept, lost = GateRow(clock="kept", snapshot={}), GateRow(clock="lost", snapshot={})
    async with opened(make) as ledger:
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            cell.row = kept
        try:
            async with ledger.gate(BACKEND, KEY_ID) as cell:
                cell.row = lost
                raise KeyError("the caller's own")
        except KeyError as error:
            require_equal(error.args, ("the caller's own",), "the error of the block")
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            require_equal(cell.row, kept, "the row after an error")


async def gate_is_open_to_one_at_a_time(make: LedgerFactory) -> None:
    """Nobody sees a row that another is about to change, in whichever instance."""

    async def count(ledger: Ledger) -> None:
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            seen = cell.row.snapshot["count"] if cell.row else 0
            await asyncio.sleep(0)
            cell.row = GateRow(clock="boot", snapshot={"count": seen + 1})

    async with desks(make) as both:
        await asyncio.gather(*(count(both[number % 2].ledger) for number in range(20)))
        async with both[0].ledger.gate(BACKEND, KEY_ID) as cell:
            require(cell.row is not None and cell.row.snapshot == {"count": 20}, f"20 visits counted as {cell.row}")


async def gate_survives_cancellation(make: LedgerFactory) -> None:
    """Whether a visitor is cancelled before, inside or while it waits, the next one can enter."""

    async def visit(ledger: Ledger, entered: asyncio.Event, leave: asyncio.Event) -> None:
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            cell.row = GateRow(clock="never", snapshot={})
            entered.set()
            await leave.wait()

    async with opened(make) as ledger:
        entered, never = asyncio.Event(), asyncio.Event()
        inside = asyncio.create_task(visit(ledger, entered, never))
        await entered.wait()
        waiting = [asyncio.create_task(visit(ledger, asyncio.Event(), never)) for _ in range(2)]
        await asyncio.sleep(0)
        for one in (waiting[0], inside, waiting[1]):
            one.cancel()
        await asyncio.wait([inside, *waiting])
        require(all(one.cancelled() for one in (inside, *waiting)), "a cancelled visitor was not cancelled")
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            require_equal(cell.row, None, "the row after cancelled visits")


async def gate_refuses_to_wait_for_itself(make: LedgerFactory) -> None:
    """Writing inside a gate's block would wait for ever, so it is refused; reading is allowed."""
    async with desk(make, "a") as me:
        async with me.ledger.gate(BACKEND, KEY_ID) as cell:
            for what, writing in (
                ("an attempt", me.ledger.begin(me.fence, attempt("a"))),
                ("a job", me.ledger.add([job("b")])),
                ("a change", me.change("a", columns={"label": "x"})),
                ("a lease", me.ledger.enter("me", seconds=1)),
                ("a note", me.ledger.put_note("test", "a", 1)),
            ):
                await require_error(writing, f"{what} inside a gate", UsageError)
            require_equal(await me.ledger.jobs(), [job("a")], "jobs, read inside a gate")
            cell.row = GateRow(clock="boot", snapshot={})
        await me.ledger.begin(me.fence, attempt("a"))
        async with me.ledger.gate(BACKEND, KEY_ID) as cell:
            require(cell.row is not None, "the row was not stored after a refused write")


async def hazards_are_replaced_kind_by_kind(make: LedgerFactory) -> None:
    """What is saved for a kind replaces what was there; other kinds and backends stay."""
    async with opened(make) as ledger:
        await ledger.save_hazards(BACKEND, {"one": {"bins": [1, 2.5, None]}, "two": [1]})
        await ledger.save_hazards(OTHER_BACKEND, {"one": "elsewhere"})
        await ledger.save_hazards(BACKEND, {"two": {"deep": [{"é": True}]}, "three": 0.1})
        await ledger.save_hazards(BACKEND, {})
        await require_error(ledger.save_hazards(BACKEND, {"four": object()}), "what is no JSON value")
        wanted = {"one": {"bins": [1, 2.5, None]}, "two": {"deep": [{"é": True}]}, "three": 0.1}
        require_equal(await ledger.load_hazards(BACKEND), wanted, "what was learned")
        require_equal(await ledger.load_hazards(OTHER_BACKEND), {"one": "elsewhere"}, "what was learned elsewhere")


async def note_is_kept_until_it_is_removed(make: LedgerFactory) -> None:
    """Each scope has names of its own."""
    value = {"points": [1, 0.5, None, {AWKWARD: True}]}
    async with desks(make) as (one, two):
        require_equal(await one.ledger.note("sweep", "cats"), None, "a note that is not there")
        require_equal(await one.ledger.put_note("sweep", "cats", value), True, "whether a note was stored")
        require_equal(await two.ledger.note("sweep", "cats"), value, "a note, read by another instance")
        require_equal(await two.ledger.note("other", "cats"), None, "a note of another scope")
        await two.ledger.put_note("sweep", "cats", 0)
        require_equal(await one.ledger.note("sweep", "cats"), 0, "a note that was replaced")
        require_equal(await one.ledger.put_note("sweep", "cats", None), True, "whether a note was removed")
        require_equal(await two.ledger.note("sweep", "cats"), None, "a note that was removed")
        await require_error(one.ledger.put_note("sweep", "cats", object()), "a note that is no JSON value")


async def note_is_stored_only_where_the_expected_one_is(make: LedgerFactory) -> None:
    """Who writes with an expectation never overwrites what somebody else has written meanwhile."""
    async with opened(make) as ledger:
        steps: list[tuple[object, object, bool, object]] = [
            ({"a": 1}, 1, False, 0),
            (None, {"x": 1, "y": 2}, True, {"x": 1, "y": 2}),
            (None, 3, False, {"x": 1, "y": 2}),
            ({"y": 2, "x": 1}, "next", True, "next"),
            ("other", 4, False, "next"),
            ("other", None, False, "next"),
            ("next", None, True, 0),
            ("next", 5, False, 0),
            (None, None, True, 0),
        ]
        for expected, value, is_stored, wanted in steps:
            stored = await ledger.put_note("sweep", "cats", value, expected=expected)
            require_equal(stored, is_stored, f"whether {value!r} was stored where {expected!r} was expected")
            require_equal(await ledger.note("sweep", "cats"), wanted or None, f"the note after {value!r}")


async def note_that_many_expect_to_be_new_is_stored_once(make: LedgerFactory) -> None:
    """Of many who make the same note at once, from several instances, one does."""
    async with desks(make) as both:
        making = [both[number % 2].ledger.put_note("sweep", "cats", number, expected=None) for number in range(10)]
        made = await asyncio.gather(*making)
        require_equal(sum(made), 1, "how often a note was made")
        require_equal(await both[0].ledger.note("sweep", "cats"), made.index(True), "the note")


SHARED_CHECKS: tuple[LedgerCheck, ...] = (
    gate_keeps_its_row,
    gate_that_was_only_looked_at_is_empty,
    gate_stores_nothing_after_an_error,
    gate_is_open_to_one_at_a_time,
    gate_survives_cancellation,
    gate_refuses_to_wait_for_itself,
    hazards_are_replaced_kind_by_kind,
    note_is_kept_until_it_is_removed,
    note_is_stored_only_where_the_expected_one_is,
    note_that_many_expect_to_be_new_is_stored_once,
)
