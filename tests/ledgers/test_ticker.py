"""The ticker of a SQLite file: what one of its callers gives up is heard by the others all the same."""

import asyncio
import os
from pathlib import Path
from typing import Any

from crynux_async.ledgers.bell import Bell
from crynux_async.ledgers.sqlite.ticker import TICK, Ticker


class Reads:
    """A connection that reads, and waits before it answers where it is told to."""

    def __init__(self) -> None:
        self.version = 1
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def command(self, _: str) -> list[tuple[int]]:
        version = self.version
        await self.may_answer.wait()
        return [(version,)]


async def test_write_is_heard_soon_where_another_caller_gave_up_while_the_file_was_asked(tmp_path: Path) -> None:
    log, reads, bell = tmp_path / "jobs.db-wal", Reads(), Bell()
    log.touch()
    os.utime(log, (1, 1))
    connection: Any = reads
    ticker = Ticker(connection, bell, log)
    since = await ticker.heard(0)
    waiting = asyncio.create_task(ticker.heard(since))
    await asyncio.sleep(TICK / 2)
    reads.version = 2
    os.utime(log, (2, 2))
    reads.may_answer.clear()
    other = asyncio.create_task(ticker.heard(since))
    await asyncio.sleep(0)
    other.cancel()
    await asyncio.wait([other])
    reads.may_answer.set()
    assert await asyncio.wait_for(waiting, 1.0) > since
