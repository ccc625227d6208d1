"""Case S15: several creates are lost between two that were answered, and their tasks are looked for.

The judge is the bridge's own journal: it knows with which seed each task trains, and the ledger knows what each job
asked for.
"""

import asyncio
import random
from collections import Counter

from benchmarks.scorecard.case import Context
from benchmarks.scorecard.worlds import World, accounts, config, creates, on_virtual_time
from crynux_async.errors import SubmissionUnknownError
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.session import Session

LIMIT = 60_000
INSTANT = 1e9
MOST_LOST = 6
HOUR = 3600.0


def swapped_models(context: Context) -> str:
    """S15: two to six lost creates in one bracket; some were carried out and some were not."""
    found: Counter[str] = Counter()
    rounds = [(lost, seed) for lost in range(2, MOST_LOST + 1) for seed in range(1, context.seeds + 1)]
    for lost, seed in rounds:
        found += _run(lost, random.Random(f"{lost}/{seed}"))
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found.items()))
    return f"{len(rounds)} brackets: no model under a wrong name, none paid twice; {said}"


def _run(lost: int, luck: random.Random) -> Counter[str]:
    async def work(world: World) -> Counter[str]:
        ledger = MemoryLedger()
        async with world.session(ledger=ledger, rate_limit=LIMIT, max_creates=luck.choice((1, lost))) as session:
            await session.submit(config(1))
            for _ in range(lost):
                world.bridge.add_fault(luck.choice(("drop_after_accept", "drop_before")), on="create")
            await _lose(session, lost)
            await session.submit(config(lost + 2))
            await asyncio.sleep(HOUR)  # a task that trains still tells nobody whose it is
            looked_for = await session.reconcile()
            again = await session.reconcile()  # and once more: what was found or left must stay so
            assert not any(each.verdict == "found" for each in again), f"only a second look found {again}"
        assert len(creates(world.bridge)) == lost + 2, "something was sent twice"
        await _check_names(world, ledger)
        await accounts(world, ledger, [])
        return Counter(str(each.verdict) for each in looked_for)

    return on_virtual_time(work, rate_limit=LIMIT, speed=INSTANT, durable=False)


async def _lose(session: Session, lost: int) -> None:
    jobs = [session.submit_nowait(config(seed)) for seed in range(2, lost + 2)]
    ends = await asyncio.gather(*(job.submitted() for job in jobs), return_exceptions=True)
    assert all(isinstance(end, SubmissionUnknownError) for end in ends), f"they were not lost: {ends}"


async def _check_names(world: World, ledger: MemoryLedger) -> None:
    """Check that each job has the task that trains what it asked for, or none."""
    trained = {str(entry.task_id): entry.seed for entry in world.bridge.journal}
    for row in await ledger.jobs():
        assert row.config is not None
        if row.task_id is not None:
            assert trained[row.task_id] == row.config.seed, f"{row.job_id} has the model of another job"
