"""A process that dies, without a process: nothing that its session does from then on reaches the ledger."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from crynux_async.ledgers.base import GateCell, Ledger
from crynux_async.session import Session


class Severable:
    """One session's way to a ledger, which can be cut: what was written stays, and every later call waits for ever.

    Args:
        ledger: What it leads to; other sessions may use it too.
        seconds: How long each call takes before its rows are there, and again until its caller is told.
    """

    def __init__(self, ledger: Ledger, seconds: float = 0.0) -> None:
        self._ledger = ledger
        self._seconds = seconds
        self._is_cut = False
        self._writes: set[asyncio.Task[Any]] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ledger, name)
        return self._guarded(found) if callable(found) else found

    @asynccontextmanager
    async def gate(self, backend: str, key_id: str) -> AsyncIterator[GateCell]:
        """Open the row of a key's gate."""
        await self._pass()
        async with self._ledger.gate(backend, key_id) as cell:
            yield cell

    async def sever(self, session: Session) -> None:
        """Let a session die here, and take its connections down."""
        self._is_cut = True
        assert session._runner is not None
        group: Any = session._supervisor._group if session._supervisor is not None else None
        tasks: set[asyncio.Task[Any]] = {session._runner, *(group._tasks if group is not None else ())}
        # What is shielded from cancellation waits for ever now, as in a dead process; only each task itself ends it.
        while alive := [task for task in tasks | self._writes if not task.done()]:
            for task in alive:
                task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        if session._backend is not None:
            await session._backend.close()

    def _guarded(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def do(*args: Any, **kwargs: Any) -> Any:
            await self._pass()
            result = await method(*args, **kwargs)
            await self._pass()
            return result

        async def call(*args: Any, **kwargs: Any) -> Any:
            task = asyncio.create_task(do(*args, **kwargs))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)
            return await asyncio.shield(task)  # cancelling a caller does not undo its write

        return call

    async def _pass(self) -> None:
        if self._seconds:
            await asyncio.sleep(self._seconds)
        if self._is_cut:
            await asyncio.Event().wait()
