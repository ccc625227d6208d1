"""How a process hears what others write to a SQLite file.

SQLite notifies nobody, but a connection can ask whether any other one has committed since it asked last
(``PRAGMA data_version``, sqlite.org/pragma.html#pragma_data_version). One ticker asks for everybody in the process,
only while somebody waits. The connection that reads never writes, so it sees commits of its own process as well; those
ring the bell at once, too.

To ask SQLite is an errand for the connection's thread, which for an hour of waiting adds up to half a minute of a
processor. So the ticker asks only where the log file looks otherwise than when it asked last: every commit writes to
it. A file's time is as coarse as the kernel's clock, so that of a log that was written just now nothing is concluded.
"""

import asyncio
import itertools
import os
import time
from pathlib import Path

from crynux_async.ledgers.bell import Bell
from crynux_async.ledgers.sqlite.connection import SqliteConnection

TICK = 0.4
"""Seconds between two looks: everybody hears within a second, also where the machine is busy."""

_ASK_ANYWAY = 25  # ticks: the net below what a file system may do with times, and how a closed file is noticed
_SETTLED_NS = 100_000_000  # the coarsest clock of a kernel ticks every 10 ms

_Mark = tuple[int, int, int]


class Ticker:
    """Rings a bell when anybody has written to the file.

    Args:
        reads: A connection that never writes.
        bell: What is rung.
        log: The file's write-ahead log.
    """

    def __init__(self, reads: SqliteConnection, bell: Bell, log: Path) -> None:
        self._reads = reads
        self._bell = bell
        self._log = log
        self._mark: _Mark | None = None
        self._version: int | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._waiting = 0

    async def heard(self, since: int) -> int:
        """Wait until the number of the bell is larger than ``since``, and return it.

        Raises:
            LedgerError: The file cannot be read.
        """
        # Before anything else: what was written while nobody waited. And again after the bell, so that the number that
        # is returned stands for all that its caller can read now.
        await self._look()
        if self._bell.number <= since:
            await self._wait(since)
            await self._look()
        return self._bell.number

    async def _wait(self, since: int) -> None:
        self._waiting += 1
        ticking = self._ticking = self._ticking or asyncio.create_task(self._tick(), name="crynux_async ledger ticker")
        hearing = asyncio.ensure_future(self._bell.heard(since))
        try:
            await asyncio.wait({ticking, hearing}, return_when=asyncio.FIRST_COMPLETED)
            if ticking.done() and not hearing.done():
                ticking.result()
        finally:
            hearing.cancel()
            self._waiting -= 1
            if not self._waiting and self._ticking is ticking:
                ticking.cancel()
                self._ticking = None

    async def _tick(self) -> None:
        for number in itertools.count(1):
            await asyncio.sleep(TICK)
            if self._mark is None or _mark_of(self._log) != self._mark or number % _ASK_ANYWAY == 0:
                await self._look()

    async def _look(self) -> None:
        """Ring the bell where the file has changed since the last look."""
        # Before SQLite is asked: what is written meanwhile makes the log look otherwise at the next tick. Kept with the
        # answer only: whoever gives up in between would hide from all others what was written.
        mark = _mark_of(self._log)
        ((version,),) = await self._reads.command("PRAGMA data_version")
        self._mark = mark
        if version != self._version:
            if self._version is not None:
                self._bell.ring()
            self._version = version


def _mark_of(log: Path) -> _Mark | None:
    """Return what changes about a log whenever it is written, or None where that cannot be relied upon."""
    try:
        status = os.stat(log)
    except OSError:
        return None
    is_settled = time.time_ns() - status.st_mtime_ns > _SETTLED_NS
    return (status.st_ino, status.st_size, status.st_mtime_ns) if is_settled else None
