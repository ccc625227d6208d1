"""The gate of several processes, on a ledger whose transactions take as long as a test likes."""

import asyncio
import gc
import math
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from crynux_async.clock import boot_id
from crynux_async.ledgers.base import GateCell, GateRow
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.pacing.gate import KeyMemory, LedgerGate, LocalGate, shared_gate
from crynux_async.pacing.token_bucket import Outcome, TokenBucket
from crynux_async.testing.virtual_time import virtual_time_run


@attrs.define(eq=False)
class SlowLedger(MemoryLedger):
    """A ledger that stores a gate's row when it is let, and counts the transactions."""

    may_store: asyncio.Event = attrs.field(factory=asyncio.Event)
    decided: asyncio.Event = attrs.field(factory=asyncio.Event)
    visits: int = 0

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __attrs_post_init__(self) -> None:
        self.may_store.set()

    @asynccontextmanager
    async def gate(self, backend: str, key_id: str) -> AsyncIterator[GateCell]:
        self.visits += 1
        async with super().gate(backend, key_id) as cell:
            yield cell
            self.decided.set()
            await self.may_store.wait()


def gate_of(ledger: MemoryLedger, limit: float = 1, *, owner: str = "one", lost_after: float = 75.0) -> LedgerGate:
    def fresh(now: float) -> TokenBucket:
        return TokenBucket(limit_per_minute=limit, now=now)

    return LedgerGate(ledger, "bridge", "key", fresh=fresh, given=(limit, None), lost_after=lost_after, owner=owner)


def gate_without_ledger(key_id: str, limit: float | None = None) -> LocalGate:
    def make() -> TokenBucket:
        return TokenBucket(limit_per_minute=limit, now=asyncio.get_running_loop().time())

    return shared_gate("bridge", key_id, make, given=(limit, None), lost_after=75.0)


async def ticket_of(gate: LedgerGate | LocalGate) -> int:
    entry = await gate.enter()
    assert entry.ticket is not None
    return entry.ticket


async def visits_until_open(ledger: SlowLedger, gate: LedgerGate) -> int:
    """Ask as the submitter does, at the time that was named, until there is a ticket; return how often it cost."""
    before = ledger.visits
    while (entry := await gate.enter()).ticket is None:
        await asyncio.sleep(entry.when - asyncio.get_running_loop().time())
    return ledger.visits - before


# A limit that is named anew ------------------------------------------------------------------------------------------


async def test_limit_changed_while_a_visit_is_stored_is_told_by_the_next_visit() -> None:
    ledger = SlowLedger()
    gate = gate_of(ledger)
    await gate.leave(await ticket_of(gate), Outcome.ACCEPTED)
    ledger.may_store.clear()
    ledger.decided.clear()
    visit = asyncio.create_task(gate.enter())
    await ledger.decided.wait()
    gate.limit_changed(60)
    ledger.may_store.set()
    assert (await visit).ticket is None
    assert (await gate.enter()).when - asyncio.get_running_loop().time() <= 1.1
    assert gate.bucket.limit_per_minute == 60


async def test_limit_changed_is_seen_by_another_process_within_half_a_minute() -> None:
    ledger = SlowLedger()
    told, other = gate_of(ledger, 0.1), gate_of(ledger, 0.1, owner="two")
    await told.leave(await ticket_of(told), Outcome.ACCEPTED)
    waiting = asyncio.create_task(visits_until_open(ledger, other))
    await asyncio.sleep(1.0)
    told.limit_changed(60)
    began = asyncio.get_running_loop().time()
    await told.enter()
    await waiting
    assert asyncio.get_running_loop().time() - began <= 31.0


async def test_row_that_is_gone_is_made_anew_with_the_limit_named_last() -> None:
    ledger = SlowLedger()
    gate = gate_of(ledger)
    await gate.leave(await ticket_of(gate), Outcome.ACCEPTED)
    gate.limit_changed(60)
    await gate.enter()
    async with ledger.gate("bridge", "key") as cell:
        cell.row = GateRow(clock="another", snapshot={})
    await asyncio.sleep(60)
    await gate.enter()
    assert gate.bucket.limit_per_minute == 60


@pytest.mark.parametrize(
    "snapshot",
    [
        {},
        [],
        {"at": "yesterday"},
        {"at": 1.0, "belief": {"limit": 0, "burst": 1}, "learning": False},
        {"at": 1.0, "belief": {"limit": math.nan, "burst": 1}, "learning": False},
        {"at": 1.0, "belief": {"limit": 5, "burst": 0}, "learning": False},
        {"at": math.inf},
        {"at": 1.0, "level": math.nan, "belief": {"limit": 5, "burst": 1}, "learning": False},
        {"at": 1.0, "hold_until": math.inf},
        {"at": 1.0, "learning": False},
        {"at": 1.0, "refused_at": math.inf},
        {"at": 1.0, "in_flight": [{"ticket": 1, "sent_at": math.nan, "early": False}], "max_in_flight": 1},
    ],
    ids=str,
)
async def test_row_that_nothing_can_be_made_of_is_made_anew_with_the_limit_named_last(snapshot: Any) -> None:
    ledger = SlowLedger()
    gate = gate_of(ledger, 20)
    async with ledger.gate("bridge", "key") as cell:
        cell.row = GateRow(clock=boot_id(), snapshot=snapshot)
    await gate.leave(await ticket_of(gate), Outcome.ACCEPTED)
    assert (gate.bucket.limit_per_minute, gate.bucket.burst) == (20, 20)
    assert (await gate.enter()).ticket is not None


# A gate that is shut -------------------------------------------------------------------------------------------------


async def test_shut_gate_is_looked_at_when_the_token_is_there_and_not_every_second() -> None:
    ledger = SlowLedger()
    gate = gate_of(ledger)
    await gate.leave(await ticket_of(gate), Outcome.ACCEPTED)
    # At once, after 30 s, after 60 s, and a hundredth later, because the mirror refills a trifle slower.
    assert await visits_until_open(ledger, gate) <= 4


async def test_shut_gate_asked_again_by_every_job_that_is_queued_costs_one_transaction() -> None:
    ledger = SlowLedger()
    gate = gate_of(ledger)
    await gate.leave(await ticket_of(gate), Outcome.ACCEPTED)
    before = ledger.visits
    for _ in range(100):
        assert (await gate.enter()).ticket is None
    assert ledger.visits == before + 1


async def test_shut_gate_behind_a_create_of_its_own_opens_with_the_answer() -> None:
    ledger = SlowLedger()
    gate = gate_of(ledger, 600)
    ticket = await ticket_of(gate)
    assert (await gate.enter()).ticket is None
    await gate.leave(ticket, Outcome.ACCEPTED)
    assert (await gate.enter()).ticket is not None


async def test_shut_gate_whose_answer_comes_while_it_is_looked_at_is_looked_at_again() -> None:
    ledger = SlowLedger()
    gate = gate_of(ledger, 600)
    ticket = await ticket_of(gate)
    ledger.may_store.clear()
    ledger.decided.clear()
    visit = asyncio.create_task(gate.enter())
    await ledger.decided.wait()
    answer = asyncio.create_task(gate.leave(ticket, Outcome.ACCEPTED))
    ledger.may_store.set()
    await answer
    await visit
    assert (await gate.enter()).ticket is not None


async def test_shut_gate_behind_a_create_that_nobody_answers_is_looked_at_more_and_more_seldom() -> None:
    ledger = SlowLedger()
    await ticket_of(gate_of(ledger, owner="silent"))
    # At 0, 1, 2, 4, 8, 16, 32, 62 and 92 s, when the create is lost; then until its token has been refilled.
    assert await visits_until_open(ledger, gate_of(ledger)) <= 12


async def test_lost_create_of_another_process_is_charged_once_and_the_gate_opens_after_its_token() -> None:
    ledger = SlowLedger()
    await ticket_of(gate_of(ledger, owner="silent"))
    began = asyncio.get_running_loop().time()
    await asyncio.wait_for(visits_until_open(ledger, gate_of(ledger)), 600)
    assert asyncio.get_running_loop().time() - began <= 75 + 30 + 60.1


# A visit that is cut off ---------------------------------------------------------------------------------------------


async def test_ticket_of_whoever_is_cut_off_when_it_is_stored_is_another_s_at_once() -> None:
    class Late(SlowLedger):
        """A ledger that says late that it has stored a gate's row."""

        @asynccontextmanager
        async def gate(self, backend: str, key_id: str) -> AsyncIterator[GateCell]:
            async with MemoryLedger.gate(self, backend, key_id) as cell:
                yield cell
            self.decided.set()
            await self.may_store.wait()

    ledger = Late()
    gate = gate_of(ledger)
    ledger.may_store.clear()
    asking = asyncio.create_task(gate.enter())
    await ledger.decided.wait()
    asking.cancel()
    ledger.may_store.set()  # for those who come later
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await ticket_of(gate_of(ledger, owner="two")) > 0


async def test_ticket_that_was_not_stored_is_not_taken_from_another_who_was_given_its_number() -> None:
    class Undone(SlowLedger):
        """A ledger that stores nothing of whoever is cut off, and lets another in before it says so."""

        @asynccontextmanager
        async def gate(self, backend: str, key_id: str) -> AsyncIterator[GateCell]:
            if self.may_store.is_set():
                async with super().gate(backend, key_id) as cell:
                    yield cell
                return
            async with MemoryLedger().gate(backend, key_id) as cell:
                yield cell
            self.decided.set()
            try:
                await self.may_store.wait()
            finally:
                self.may_store.set()
                tickets.append(await ticket_of(other))

    ledger, tickets = Undone(), list[int]()
    gate, other = gate_of(ledger), gate_of(ledger, owner="two")
    ledger.may_store.clear()
    asking = asyncio.create_task(gate.enter())
    await ledger.decided.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await gate.enter()).ticket is None
    assert gate.bucket.is_in_flight(tickets[0], "two")


# A ticket that was charged -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_leave_with_a_ticket_that_another_process_charged_as_lost_changes_nothing(outcome: Outcome) -> None:
    ledger = SlowLedger()
    patient, hasty = gate_of(ledger, 20), gate_of(ledger, 20, owner="two", lost_after=5.0)
    ticket = await ticket_of(patient)
    await asyncio.sleep(10.0)
    await hasty.leave(await ticket_of(hasty), Outcome.ACCEPTED)
    before = hasty.bucket.snapshot()
    await patient.leave(ticket, outcome, 3.0)
    assert patient.bucket.snapshot() == before


# What outlives a session --------------------------------------------------------------------------------------------


async def refused(key_id: str) -> float:
    """Let a key be refused for a minute through a gate that nobody holds afterwards; return when it may go again."""
    gate = gate_without_ledger(key_id)
    await gate.leave(await ticket_of(gate), Outcome.ACCEPTED)
    await gate.leave(await ticket_of(gate), Outcome.LIMITED, 60.0)
    return (await gate.enter()).when


async def test_refusal_that_a_closed_session_was_told_holds_for_the_next() -> None:
    when = await refused("key")
    gc.collect()
    later = gate_without_ledger("key")
    assert later.bucket.refusals == 1
    assert (await later.enter()).when == pytest.approx(when)


async def test_limit_that_a_later_session_names_replaces_what_the_closed_one_learned() -> None:
    await refused("key")
    gc.collect()
    assert gate_without_ledger("key", 7).bucket.limit_per_minute == 7


async def test_limit_that_a_closed_session_named_holds_for_the_next_that_names_none() -> None:
    gate = gate_without_ledger("key", 7)
    await gate.leave(await ticket_of(gate), Outcome.ACCEPTED)
    del gate
    gc.collect()
    assert gate_without_ledger("key").bucket.limit_per_minute == 7


@pytest.mark.real_time
def test_refusal_is_remembered_by_the_next_event_loop_of_the_process() -> None:
    key_id = f"key-{uuid.uuid4()}"
    asyncio.run(refused(key_id))

    async def refusals() -> int:
        return gate_without_ledger(key_id).bucket.refusals

    assert asyncio.run(refusals()) == 1


def test_refusal_on_a_clock_of_its_own_is_not_remembered_on_another() -> None:
    virtual_time_run(lambda: refused("key"))

    async def refusals() -> int:
        return gate_without_ledger("key").bucket.refusals

    assert virtual_time_run(refusals) == 0


def test_memory_forgets_the_key_that_was_used_longest_ago() -> None:
    memory, snapshot = KeyMemory(most=2), TokenBucket(limit_per_minute=1, now=0.0).snapshot()
    for name in ("a", "b", "a", "c"):
        memory.remember(("bridge", name), snapshot)
    assert [memory.recall(("bridge", name)) is not None for name in ("a", "b", "c")] == [True, False, True]


def test_memory_bears_that_another_thread_forgets_the_same_key_at_the_same_moment() -> None:
    class Told(dict[Any, Any]):
        def __iter__(self) -> Iterator[Any]:
            keys = [*self.keys()]
            self.pop(keys[0], None)  # the other thread's
            return iter(keys)

    memory, snapshot = KeyMemory(most=1), TokenBucket(limit_per_minute=1, now=0.0).snapshot()
    memory._told = Told()
    for name in ("a", "b"):
        memory.remember(("bridge", name), snapshot)
    assert memory.recall(("bridge", "b")) is not None


async def test_create_of_a_session_that_is_gone_is_lost_for_the_next_after_its_time() -> None:
    gate = gate_without_ledger("key", 1)
    await ticket_of(gate)
    del gate
    gc.collect()
    later = gate_without_ledger("key", 1)
    assert (await later.enter()).when <= asyncio.get_running_loop().time() + 75.0
    await asyncio.sleep(76.0)
    assert (await later.enter()).when - asyncio.get_running_loop().time() == pytest.approx(60.0, abs=0.1)
