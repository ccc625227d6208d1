"""Checks of what is shared between sessions and processes: leases and gates."""

import asyncio

from crynux_async.errors import UsageError
from crynux_async.ledgers.base import GateRow, Ledger
from crynux_async.ledgers.conformance.support import (
    BACKEND,
    KEY_ID,
    LedgerCheck,
    LedgerFactory,
    at,
    attempt,
    job,
    opened,
    require,
    require_equal,
    require_error,
)
from crynux_async.states import JobState

_OTHER = "https://other.example"
_FOLLOWED = frozenset({JobState.RUNNING, JobState.PLANNED})


async def _claim(ledger: Ledger, owner: str, now: float, until: float, backend: str = BACKEND) -> list[str]:
    rows = await ledger.claim(owner, backend=backend, now=at(now), until=at(until), states=_FOLLOWED)
    return [row.job_id for row in rows]


async def claim_takes_what_is_free_and_asked_for(make: LedgerFactory) -> None:
    """Only jobs of the backend in the states, in the order of adding, as they are."""
    rows = [
        job("d", state=JobState.RUNNING, task_id=3),
        job("c", state=JobState.FAILED),
        job("b", backend=_OTHER),
        job("a"),
    ]
    async with opened(make) as ledger:
        await ledger.add(rows)
        none = await ledger.claim("one", backend=BACKEND, now=at(0), until=at(60), states=[])
        require_equal(none, [], "a claim of no state")
        found = await ledger.claim("one", backend=BACKEND, now=at(0), until=at(60), states=_FOLLOWED)
        require_equal(found, [rows[0], rows[3]], "claimed jobs")
        require_equal(await _claim(ledger, "one", 1, 60, _OTHER), ["b"], "claimed jobs of the other backend")


async def lease_keeps_others_away_until_it_ends(make: LedgerFactory) -> None:
    """Until it has ended a lease is respected by everybody; then the next one takes over."""
    async with opened(make) as ledger:
        await ledger.add([job("a"), job("b")])
        require_equal(await _claim(ledger, "one", 0, 60), ["a", "b"], "the first claim")
        require_equal(await _claim(ledger, "two", 60, 120), [], "a claim at the end of the lease")
        require_equal(await _claim(ledger, "one", 60, 120), [], "a claim of what one has already")
        require_equal(await _claim(ledger, "two", 60.000001, 120), ["a", "b"], "a claim after the end of the lease")
        require_equal(await ledger.renew("one", until=at(999)), 0, "how many leases are left after others took them")
        require_equal(await _claim(ledger, "one", 61, 120), [], "a claim of what others took over")
        require_equal(await ledger.renew("two", until=at(120)), 2, "how many leases the next one has")


async def renewing_moves_the_end(make: LedgerFactory) -> None:
    """All leases of an owner end when the last renewal says, be it later or earlier."""
    async with opened(make) as ledger:
        await ledger.add([job("a"), job("b"), job("c", state=JobState.FAILED)])
        await _claim(ledger, "one", 0, 10)
        require_equal(await ledger.renew("one", until=at(100)), 2, "how many leases an owner has")
        require_equal(await ledger.renew("nobody", until=at(100)), 0, "how many leases a stranger has")
        require_equal(await _claim(ledger, "two", 50, 200), [], "a claim of what was renewed")
        await ledger.renew("one", until=at(20))
        require_equal(await _claim(ledger, "two", 50, 200), ["a", "b"], "a claim of what was renewed for less")


async def released_leases_are_free_at_once(make: LedgerFactory) -> None:
    """Giving back frees every job of that owner, and nothing of others; it does not come back by renewing."""
    async with opened(make) as ledger:
        await ledger.add([job("a")])
        await _claim(ledger, "one", 0, 100)
        await ledger.release("one")
        await ledger.release("nobody")
        await ledger.add([job("b")], owner="two", until=at(100))
        require_equal(await ledger.renew("one", until=at(100)), 0, "how many leases are left after giving back")
        await ledger.add([job("c")], owner="one", until=at(100))
        require_equal(await ledger.renew("one", until=at(100)), 1, "how many leases a new job brings")
        require_equal(await _claim(ledger, "three", 1, 100), ["a"], "a claim after giving back")


async def owners_are_known_until_they_give_back(make: LedgerFactory) -> None:
    """Whoever has a job is listed, whether the lease has ended or not, so that the dead can be told from the living."""
    async with opened(make) as ledger:
        require_equal(await ledger.owners(), [], "the owners of a new ledger")
        await ledger.add([job("a")], owner="one", until=at(-60))
        await ledger.add([job("b")])
        await _claim(ledger, "two", -60, 60)
        require_equal(sorted(await ledger.owners()), ["one", "two"], "owners")
        await ledger.release("one")
        require_equal(await ledger.owners(), ["two"], "owners after one gave back")


async def job_added_with_an_owner_is_never_free(make: LedgerFactory) -> None:
    """Between adding and following nobody else can take a job."""
    async with opened(make) as ledger:
        await asyncio.gather(
            ledger.add([job("c")]), ledger.add([job("a"), job("b")], owner="one", until=at(60)), ledger.add([job("e")])
        )
        require_equal(sorted(await _claim(ledger, "two", 1, 60)), ["c", "e"], "a claim by another")
        require_equal(await ledger.renew("one", until=at(70)), 2, "how many leases came with the jobs")
        await require_error(ledger.add([job("d")], owner="one"), "a lease without an end", UsageError)


async def lease_of_certain_jobs_spares_those_of_others(make: LedgerFactory) -> None:
    """Taking certain jobs gets those that nobody has, and says which; a lease that ended belongs to its owner still."""
    async with opened(make) as ledger:
        await ledger.add([job(name) for name in "ab"])
        await ledger.add([job("c")], owner="other", until=at(-60))
        require_equal(await ledger.lease("one", ["b", "c"], until=at(60)), ["b"], "leases taken")
        require_equal(await ledger.lease("one", ["a", "b"], until=at(60)), ["a", "b"], "leases taken or kept")
        require_equal(await ledger.lease("one", [], until=at(60)), [], "no leases taken")
        await require_error(ledger.lease("one", ["a", "nobody"], until=at(60)), "a lease of a job that is not there")
        await ledger.release("other")
        require_equal(await ledger.lease("one", ["c"], until=at(60)), ["c"], "a lease that was given back")
        require_equal(await ledger.renew("one", until=at(60)), 3, "leases at the end")


async def claims_at_once_never_share_a_job(make: LedgerFactory) -> None:
    """Of many owners who claim at once, each job goes to one."""
    names = [f"job {index}" for index in range(20)]
    async with opened(make) as ledger:
        await ledger.add([job(name) for name in names])
        claims = await asyncio.gather(*(_claim(ledger, f"owner {number}", 0, 60) for number in range(8)))
        require_equal(sorted(name for claim in claims for name in claim), sorted(names), "all claimed jobs")


async def gate_keeps_its_row(make: LedgerFactory) -> None:
    """A row is stored when the block ends, for its backend and key alone."""
    row = GateRow(boot_id="boot", snapshot={"level": 1 / 3, "marks": [1, None, {"é": True}]})
    async with opened(make) as ledger:
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            require_equal(cell.row, None, "the row of a new gate")
            cell.row = row
        for backend, key_id, wanted in ((BACKEND, KEY_ID, row), (_OTHER, KEY_ID, None), (BACKEND, "other", None)):
            async with ledger.gate(backend, key_id) as cell:
                require_equal(cell.row, wanted, f"the row of the gate of {backend} and {key_id}")


async def gate_stores_nothing_after_an_error(make: LedgerFactory) -> None:
    """What a block that raises has put into the row is forgotten, and the next one can enter."""
    kept, lost = GateRow(boot_id="kept", snapshot={}), GateRow(boot_id="lost", snapshot={})
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
    """Nobody sees a row that another is about to change."""

    async def count(ledger: Ledger) -> None:
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            seen = cell.row.snapshot["count"] if cell.row else 0
            await asyncio.sleep(0)
            cell.row = GateRow(boot_id="boot", snapshot={"count": seen + 1})

    async with opened(make) as ledger:
        await asyncio.gather(*(count(ledger) for _ in range(20)))
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            require(cell.row is not None and cell.row.snapshot == {"count": 20}, f"20 visits counted as {cell.row}")


async def gate_survives_cancellation(make: LedgerFactory) -> None:
    """Whether a visitor is cancelled before, inside or while it waits, the next one can enter."""

    async def visit(ledger: Ledger, entered: asyncio.Event, leave: asyncio.Event) -> None:
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            cell.row = GateRow(boot_id="never", snapshot={})
            entered.set()
            await leave.wait()

    async with opened(make) as ledger:
        entered, never = asyncio.Event(), asyncio.Event()
        inside = asyncio.create_task(visit(ledger, entered, never))
        await entered.wait()
        waiting = [asyncio.create_task(visit(ledger, asyncio.Event(), never)) for _ in range(2)]
        await asyncio.sleep(0)
        for task in (waiting[0], inside, waiting[1]):
            task.cancel()
        await asyncio.wait([inside, *waiting])
        require(all(task.cancelled() for task in (inside, *waiting)), "a cancelled visitor was not cancelled")
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            require_equal(cell.row, None, "the row after cancelled visits")


async def gate_refuses_to_wait_for_itself(make: LedgerFactory) -> None:
    """Writing inside a gate's block would wait for ever, so it is refused; reading is allowed."""
    async with opened(make) as ledger:
        await ledger.add([job("a")])
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            await require_error(ledger.begin(attempt("a")), "a write inside a gate", UsageError)
            await require_error(ledger.add([job("b")]), "another write inside a gate", UsageError)
            require_equal(await ledger.jobs(), [job("a")], "jobs, read inside a gate")
            cell.row = GateRow(boot_id="boot", snapshot={})
        await ledger.begin(attempt("a"))
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            require(cell.row is not None, "the row was not stored after a refused write")


SHARING_CHECKS: tuple[LedgerCheck, ...] = (
    claim_takes_what_is_free_and_asked_for,
    lease_keeps_others_away_until_it_ends,
    renewing_moves_the_end,
    released_leases_are_free_at_once,
    owners_are_known_until_they_give_back,
    job_added_with_an_owner_is_never_free,
    lease_of_certain_jobs_spares_those_of_others,
    claims_at_once_never_share_a_job,
    gate_keeps_its_row,
    gate_stores_nothing_after_an_error,
    gate_is_open_to_one_at_a_time,
    gate_survives_cancellation,
    gate_refuses_to_wait_for_itself,
)
