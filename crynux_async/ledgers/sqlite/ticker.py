"""How a process hears what others write to a SQLite file.

SQLite notifies nobody, but a connection can ask whether any other one has committed since it asked last
(``PRAGMA data_version``, sqlite.org/pragma.html#pragma_data_version): a look at the log's index in shared memory, about
as cheap as a system call. One ticker asks for everybody in the process, only while somebody waits. The connection that
reads never writes, so it sees the commits of its own process as well; those ring the bell at once, too.
"""

import asyncio

from crynux_async.ledgers.bell import Bell
from crynux_async.ledgers.sqlite.connection import SqliteConnection

TICK = 0.4
"""Seconds between two looks: everybody hears within a second, also where the machine is busy."""


class Ticker:
    """Rings a bell when anybody has written to the file.

    Args:
        reads: A connection that never writes.
        bell: What is rung.
    """

    def __init__(self, reads: SqliteConnection, bell: Bell) -> None:
        self._reads = reads
        self._bell = bell
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
        while True:
            await asyncio.sleep(TICK)
            await self._look()

    async def _look(self) -> None:
        """Ring the bell where the file has changed since the last look."""
        ((version,),) = await self._reads.command("PRAGMA data_version")
        if version != self._version:
            if self._version is not None:
                self._bell.ring()
            self._version = version
