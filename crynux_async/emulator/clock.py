"""The clock of an emulated server."""

import asyncio
import time


class ServerClock:
    """The loop's clock, and the date that goes with it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # A loop of virtual time knows the date that goes with it.
        self._wall_time = getattr(self._loop, "wall_time", None)
        self._wall_at_zero = time.time() - self._loop.time()

    def now(self) -> float:
        """Return steady seconds."""
        return self._loop.time()

    def wall(self) -> float:
        """Return seconds since 1970."""
        return float(self._wall_time()) if self._wall_time else self._wall_at_zero + self._loop.time()
