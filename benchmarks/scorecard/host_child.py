"""One host: ``python -m benchmarks.scorecard.host_child LEDGER FIRST COUNT SESSIONS``.

Its sessions share the ledger with those of all other hosts, and each submits its part of COUNT jobs. It lives until it
is killed.
"""

import argparse
import asyncio
from contextlib import AsyncExitStack

from benchmarks.scorecard.submit_child import say
from benchmarks.scorecard.worlds import config
from crynux_async.session import Session


async def work(ledger: str, first: int, count: int, sessions: int) -> None:
    """Submit for ever."""
    async with AsyncExitStack() as stack:
        every = [await stack.enter_async_context(Session(ledger=ledger)) for _ in range(sessions)]
        for seed in range(first, first + count):
            every[seed % sessions].submit_nowait(config(seed))
        say(ready=True)
        await asyncio.Event().wait()


def main() -> None:
    """Be one host."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorecard.host_child", description=__doc__)
    parser.add_argument("ledger")
    parser.add_argument("first", type=int, help="seed of the first job")
    parser.add_argument("count", type=int, help="how many jobs")
    parser.add_argument("sessions", type=int, help="how many sessions")
    options = parser.parse_args()
    asyncio.run(work(options.ledger, options.first, options.count, options.sessions))


if __name__ == "__main__":
    main()
