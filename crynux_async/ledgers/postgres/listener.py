"""How a process hears what others write to a ledger in PostgreSQL.

Every commit is followed by a notification without content. On every new connection LISTEN comes first and then the
bell, so that whoever waits reads what was written before anybody listened. What a notification says is not believed; it
is only a reason to look. As a net, for notifications that got lost with their sender, the bell rings now and then.
"""

import asyncio
import logging
from collections.abc import Callable

import psycopg

from crynux_async.errors import LedgerError
from crynux_async.ledgers.bell import Bell
from crynux_async.ledgers.postgres.server import Raw, Server

_log = logging.getLogger("crynux_async.ledgers")

SLOW_LOOK = 5.0
"""Seconds between two looks where nothing is heard."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 15.0  # seconds between two attempts to connect


class Listener:
    """Rings a bell when anybody has written to the ledger.

    Args:
        server: The way to the database.
        bell: What is rung.
        own_pid: Tells which notifications this process has sent itself; for those the bell has rung already.
    """

    def __init__(self, server: Server, bell: Bell, own_pid: Callable[[], int]) -> None:
        self._server = server
        self._bell = bell
        self._own_pid = own_pid
        self._task: asyncio.Task[None] | None = None

    async def heard(self, since: int) -> int:
        """Wait until the number of the bell is larger than ``since``, and return it."""
        if self._task is None:  # nobody pays for a connection that nobody needs
            self._task = asyncio.create_task(self._run(), name="crynux_async ledger listener")
        return await self._bell.heard(since)

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                raw = await self._server.connect()
            except (psycopg.Error, LedgerError, OSError) as error:
                _log.debug("%s: nothing is heard of others' writes: %s", self._server.address.name, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            try:
                await self._listen(raw)
            except (psycopg.Error, OSError) as error:
                _log.debug("%s: the connection that listens was lost: %s", self._server.address.name, error)
            finally:
                await raw.close()
            await asyncio.sleep(pause)

    async def _listen(self, raw: Raw) -> None:
        await raw.execute(f'LISTEN "{self._server.channel}"')
        self._bell.ring()
        while True:
            async for notice in raw.notifies(timeout=SLOW_LOOK):
                if notice.pid != self._own_pid():
                    self._bell.ring()
            if self._bell.has_waiters:
                self._bell.ring()
