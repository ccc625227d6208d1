"""What a ledger in memory has of its own."""

import tracemalloc

import attrs

from crynux_async.ledgers.conformance.support import attempt, job
from crynux_async.ledgers.memory import MemoryLedger


async def test_memory_ledger_of_many_jobs_is_compact() -> None:
    size = 4000
    shared = job("shared")
    ledger = MemoryLedger()
    fence = await ledger.enter("me", seconds=60)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await ledger.add(
            [attrs.evolve(shared, job_id=f"{number:08x}", task_id=f"{number:04}") for number in range(size)],
            fence=fence,
        )
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # An entry, a tuple of a few values, two names and their places in two hash tables; a row alone would be 290 more.
    assert (after - before) / size < 490


async def test_memory_ledger_closed_and_opened_on_another_loop_goes_on() -> None:
    ledger = MemoryLedger()
    await ledger.open()
    fence = await ledger.enter("me", seconds=60)
    await ledger.add([job("a")], fence=fence)
    await ledger.close()
    await ledger.begin(fence, attempt("a"))
    assert [row.job_id for row in await ledger.attempts()] == ["a"]
