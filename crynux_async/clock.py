"""The module that reads clocks; ``wall_clock`` has the date for what must not load an event loop.

The running event loop decides both times, so that a loop with a clock of its own (the virtual-time loop of
``crynux_async.testing``) moves everything: monotonic seconds are the loop's ``time()``, wall-clock time is the loop's
``wall_time()`` where it has one, and the system's otherwise.
"""

import asyncio
import functools
import time
from datetime import UTC, datetime
from pathlib import Path


def monotonic() -> float:
    """Return the running loop's clock in seconds: never goes back, unrelated to the date."""
    return asyncio.get_running_loop().time()


def utc_now() -> datetime:
    """Return the current time as an aware UTC datetime."""
    wall_time = getattr(asyncio.get_running_loop(), "wall_time", time.time)
    return datetime.fromtimestamp(wall_time(), UTC)


@functools.cache
def boot_id() -> str:
    """Return a text that is the same exactly for processes whose monotonic clocks agree: the name of this boot."""
    path = Path("/proc/sys/kernel/random/boot_id")
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
