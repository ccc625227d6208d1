"""How those who wait for a change of a ledger hear of it, within one process."""

import asyncio


class Bell:
    """Counts changes, and wakes who waits for the next one. Its waiters may be on different event loops."""

    def __init__(self) -> None:
        self.number = 1
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Count a change and wake everybody."""
        self.number += 1
        for waiter in self._waiting:
            # A loop that was closed while somebody waited (``asyncio.run`` that failed, a test's loop) has left its
            # waiter here, and setting its result would raise on behalf of whoever writes.
            if not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(None)

    async def heard(self, since: int) -> int:
        """Wait until the number is larger than ``since``, and return it."""
        while self.number <= since:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)
        return self.number
