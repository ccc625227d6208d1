"""The one module that reads a clock.

The running event loop decides both times, so that a loop with a clock of its own (the virtual-time loop of
``crynux_async.testing``) moves everything: monotonic seconds are the loop's ``time()``, wall-clock time is the loop's
``wall_time()`` where it has one, and the system's otherwise.
"""

import asyncio
import time
from datetime import UTC, datetime


def monotonic() -> float:
    """Return the running loop's clock in seconds: never goes back, unrelated to the date."""
    return asyncio.get_running_loop().time()


def utc_now() -> datetime:
    """Return the current time as an aware UTC datetime."""
    wall_time = getattr(asyncio.get_running_loop(), "wall_time", time.time)
    return datetime.fromtimestamp(wall_time(), UTC)
