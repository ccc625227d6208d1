"""The program whose clocks are set while it runs: ``python -m benchmarks.scorecard.clock_child LEDGER COUNT``.

Settings come from the environment. It says one line of JSON when its session is open, and one for what became of all.
"""

import asyncio
import json
import sys
from collections import Counter

from benchmarks.scorecard.worlds import config
from crynux_async.errors import CrynuxError
from crynux_async.events import JobStateChanged
from crynux_async.session import Session


async def work(ledger: str, count: int) -> None:
    """Submit jobs at once, and follow them to their ends."""
    async with Session(ledger=ledger) as session:
        seen = asyncio.create_task(_states(session))
        await asyncio.sleep(0)
        print(json.dumps({"ready": True}), flush=True)
        jobs = [session.submit_nowait(config(seed)) for seed in range(1, count + 1)]
        await session.wait_all(jobs)
        statistics = session.statistics()
        told = [job.task_id for job in jobs]
    facts = {"told": told, "seen": await seen, "refusals": statistics.refusals}
    print(json.dumps(facts), flush=True)


async def _states(session: Session) -> dict[str, int]:
    """Return how often jobs came into which state."""
    counts: Counter[str] = Counter()
    async for event in session.events():
        if isinstance(event, JobStateChanged):
            counts[event.state] += 1
    return counts


def main() -> int:
    """Run, and return the exit code."""
    try:
        asyncio.run(work(sys.argv[1], int(sys.argv[2])))
    except CrynuxError as error:
        print(json.dumps({"failed": type(error).__name__, "message": str(error)}), flush=True)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
