"""Hearing that the process is to stop, before its server waits for open connections.

A server ends the lifespan only when every response is finished, and an event stream never is. The one thing that is
there earlier is the signal itself. Its handler is the server's by the time the lifespan begins, so ours stands before
it and hands on.

Source: uvicorn Server.serve, capture_signals and shutdown; asyncio unix_events add_signal_handler (whose own handler
does nothing: what wakes the loop is the file descriptor, which is written whichever handler is set).
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def calling_at_shutdown(call: Callable[[], None]) -> Iterator[None]:
    """Call something on this loop as soon as the process is told to stop, while the block runs.

    Outside the main thread, and where nobody handles the signals, it is never called.

    Args:
        call: What to call; it may be called more than once.
    """
    # Python sets handlers in the main thread alone; there is no server's signal to hear of anywhere else.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    replaced: list[tuple[signal.Signals, Any, Any]] = []
    for number in _SIGNALS:
        server_handler = signal.getsignal(number)
        # What is ignored, or ends the process at once, has no handler to hand on to.
        if callable(server_handler):
            ours = partial(_hand_on, loop, call, server_handler)
            signal.signal(number, ours)
            replaced.append((number, ours, server_handler))
    try:
        yield
    finally:
        for number, ours, server_handler in replaced:
            if signal.getsignal(number) is ours:  # the server may have put back what was there before it
                signal.signal(number, server_handler)


def _hand_on(
    loop: asyncio.AbstractEventLoop,
    call: Callable[[], None],
    server_handler: Callable[[int, FrameType | None], Any],
    number: int,
    frame: FrameType | None,
) -> None:
    # A second signal may come when the loop is gone already.
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
    server_handler(number, frame)
