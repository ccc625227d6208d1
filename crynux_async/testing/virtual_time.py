"""An asyncio loop on which time is virtual.

Theory of operation of the loop: asyncio asks its selector to wait until a socket is ready or the next timer is due. The
selector here never waits for a timer. It looks whether anything is ready; if nothing is, no worker thread is busy and
no socket still has bytes to send, then nothing can happen before the next timer, so the clock jumps there. Hours of
polling take milliseconds, in the same order as in real time.
"""

import asyncio
import math
import selectors
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_WALL_START = 1_767_225_600.0  # 2026-01-01T00:00:00Z
_RESOLUTION = 1e-6
_BUSY_WAIT = 10.0
# Real seconds in which a signal or another process may still set something going.
_IDLE_WAIT = 2.0


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that moves the loop's clock instead of waiting for it."""

    def __init__(self, jump: Callable[[float], None], busy_threads: Callable[[], int], grace: float) -> None:
        super().__init__()
        self._jump = jump
        self._busy_threads = busy_threads
        self._grace = grace

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, or move the clock by ``timeout`` seconds."""
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            self._jump(0.0)
            return list(ready)
        if self._busy_threads() or self._is_sending():
            return list(super().select(_BUSY_WAIT))
        if timeout is None:
            return self._wait_for_the_outside()
        if self._grace:
            ready = super().select(self._grace)
        if not ready:
            self._jump(max(timeout, _RESOLUTION))  # or a program that waits for less than a step would wait for ever
        return list(ready)

    def _is_sending(self) -> bool:
        return any(key.events & selectors.EVENT_WRITE for key in self.get_map().values())

    def _wait_for_the_outside(self) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(_IDLE_WAIT)
        if not ready:
            raise RuntimeError("virtual time: no timer is set and nothing is ready, so nothing can ever happen")
        return list(ready)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose clock jumps to the next timer whenever nothing else can happen.

    Sockets, servers and worker threads started through the loop (``run_in_executor``, so aiofiles and
    ``asyncio.to_thread`` too) are real; only waiting is not. Threads that the loop does not know of need a ``grace``.

    Args:
        grace: Real seconds, >= 0, to give to other processes and unknown threads before each jump.
        wall_start: What ``wall_time()`` says at the start, in seconds since 1970.
    """

    def __init__(self, *, grace: float = 0.0, wall_start: float = _WALL_START) -> None:
        self._virtual_now = 0.0
        self._wall_start = wall_start
        self._threads = 0
        super().__init__(_JumpingSelector(self.advance, lambda: self._threads, grace))
        # After a hundred days a step of the float is more than asyncio's nanosecond: a due timer would never be due.
        self._clock_resolution = _RESOLUTION

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._virtual_now

    def wall_time(self) -> float:
        """Return virtual seconds since 1970."""
        return self._wall_start + self._virtual_now

    def advance(self, seconds: float) -> None:
        """Move the clock by ``seconds``, >= 0, and at least by the smallest step: no program can stop it."""
        self._virtual_now = max(self._virtual_now + max(seconds, 1e-9), math.nextafter(self._virtual_now, math.inf))

    def set_wall_clock(self, wall: float) -> None:
        """Set the wall clock to ``wall`` seconds since 1970, as an administrator might; timers are not affected."""
        self._wall_start = wall - self._virtual_now

    def run_in_executor(self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts) -> asyncio.Future[_T]:
        """Run ``func`` in a thread; the clock stands still until it is done."""
        future: asyncio.Future[_T] = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_is_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the worker threads, for ever if need be: the clock stands still, so no ``timeout`` can pass."""
        self._threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._threads -= 1

    def _thread_is_done(self, _: asyncio.Future[Any]) -> None:
        self._threads -= 1


def virtual_time_run(main: Callable[[], Any], **loop_options: Any) -> Any:
    """Run ``await main()`` on a fresh virtual-time loop and return its result.

    Args:
        main: An async function without arguments.
        **loop_options: For ``VirtualTimeLoop``.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(**loop_options)) as runner:
        return runner.run(main())


def loop_factories(*, real_time: bool = False) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return what pytest-asyncio's ``pytest_asyncio_loop_factories`` hook wants.

    Args:
        real_time: Whether the test needs the system's clock.
    """
    return {"real": asyncio.new_event_loop} if real_time else {"virtual": VirtualTimeLoop}
