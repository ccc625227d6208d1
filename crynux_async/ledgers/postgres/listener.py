"""How a process hears what others write to a ledger in PostgreSQL.

Every commit is followed by a notification without content. On every new connection LISTEN comes first and then the
bell, so that whoever waits reads what was written before anybody listened. What a notification says is not believed; it
is only a reason to look. The net, for notifications that got lost and for a listener that cannot connect (a server
without a connection left still answers those that it has), is in whoever waits: it looks now and then by itself.
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

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 15.0  # seconds between two attempts to listen
_EXPECTED = (psycopg.Error, LedgerError, OSError)


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
        self._pause = _FIRST_PAUSE
        self._task: asyncio.Task[None] | None = None

    async def heard(self, since: int) -> int:
        """Wait until the number of the bell is larger than ``since``, and return it; it rings at each slow look."""
        if self._task is None:  # nobody pays for a connection that nobody needs
            self._task = asyncio.create_task(self._run(), name="crynux_async ledger listener")
        try:
            async with asyncio.timeout(SLOW_LOOK):
                return await self._bell.heard(since)
        except TimeoutError:
            self._bell.ring()
            return self._bell.number

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except _EXPECTED as error:
                _log.debug("%s: this process is not told of others' writes: %s", self._server.address.name, error)
            except Exception:  # an error that nobody has thought of must not end the hearing for good
                _log.exception("%s: this process is not told of others' writes", self._server.address.name)
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _listen(self) -> None:
        """Listen on a new connection until it is lost."""
        raw: Raw = await self._server.connect()
        try:
            await raw.execute(f'LISTEN "{self._server.channel}"')
            self._pause = _FIRST_PAUSE  # not before: a standby lets everybody in, and refuses this
            self._bell.ring()
            async for notice in raw.notifies():
                if notice.pid != self._own_pid():
                    self._bell.ring()
        finally:
            await raw.close()
