"""The date for what runs without an event loop as well: ``clock``, which reads that of a loop, loads asyncio."""

import contextlib
import sys
import time
from datetime import UTC, datetime


def wall_now() -> datetime:
    """Return the current time as an aware UTC datetime: the running loop's, or where none runs the system's."""
    if "asyncio" in sys.modules:
        from crynux_async.clock import utc_now  # here, as is said above

        with contextlib.suppress(RuntimeError):  # no loop is running
            return utc_now()
    return datetime.fromtimestamp(time.time(), UTC)
