"""A few at a time in each turn of the event loop, so that nobody else on it waits for long."""

import asyncio
from collections import deque


class Turns:
    """Lets a few callers through in each turn of the event loop, in the order in which they came.

    To sign and send a request takes a part of a millisecond. Jobs that were sent together are looked at together, and
    all of their looks in one turn would hold up everything else on the loop for a tenth of a second.

    Args:
        at_once: How many may pass in one turn, >= 1.
    """

    __slots__ = ("_at_once", "_left", "_waiting")

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._left = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for a turn in which not too many have passed."""
        loop = asyncio.get_running_loop()
        if self._left == self._at_once:
            loop.call_soon(self._next)
        if self._left:
            self._left -= 1
            return
        waiter = loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _next(self) -> None:
        """Begin the next turn: let the first of those pass who wait."""
        self._left = self._at_once
        while self._left and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():  # else its caller was cancelled
                waiter.set_result(None)
                self._left -= 1
        if self._left < self._at_once:
            asyncio.get_running_loop().call_soon(self._next)
