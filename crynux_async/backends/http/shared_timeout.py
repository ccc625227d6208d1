"""A timeout for many requests at once: one timer for all of them, where a timer for each costs a tenth of a poll."""

import asyncio
from itertools import takewhile
from types import TracebackType

_LATE = 0.5  # seconds; a loop that nothing holds up looks milliseconds after the time is over
_READING = 1.0  # seconds


class SharedTimeout:
    """Gives each piece of work the same time. Must be made inside a running event loop.

    ``with timeout():`` around what a task awaits does what ``asyncio.timeout`` does: when its time is over the task is
    cancelled there, and ``TimeoutError`` leaves the block; who is cancelled by somebody else stays cancelled.

    A process that was stopped, or whose event loop was held up, looks late: what came meanwhile is not read yet, the
    answer to a create perhaps. So it is read for a second first. However short that was, what came in the same turn of
    the loop is heard in the next one, before any time is over.

    Args:
        seconds: The time, > 0.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        # In the order in which they began, which is that in which their time ends.
        self._waits: dict[_Wait, None] = {}
        self._timer: asyncio.Handle | None = None
        self._is_reading = False

    def __call__(self) -> "_Wait":
        """Return what bounds one block of the task that enters it, from then on."""
        return _Wait(self)

    def __len__(self) -> int:
        return len(self._waits)

    def close(self) -> None:
        """End every bound; what is awaited goes on without one."""
        self._waits.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def begin(self, wait: "_Wait") -> float:
        """Return when the time of a block that begins now is over, and stop it then."""
        until = self._loop.time() + self._seconds
        self._waits[wait] = None
        if self._timer is None:
            self._timer = self._loop.call_at(until, self._look)
        return until

    def end(self, wait: "_Wait") -> None:
        """Leave a block alone from now on."""
        self._waits.pop(wait, None)

    def _look(self) -> None:
        """Let what has come be heard, and then stop whose time is over."""
        now = self._loop.time()
        first = next(iter(self._waits), None)
        # Once at a time: a loop that is held up all the time would else never end anything.
        self._is_reading = not self._is_reading and first is not None and now - first.until > _LATE
        if self._is_reading:
            self._timer = self._loop.call_at(now + _READING, self._look)
        else:
            # A task whose answer was read in this turn is woken in the next one, before this is called.
            self._timer = self._loop.call_soon(self._stop_overdue, now)

    def _stop_overdue(self, now: float) -> None:
        """Stop whose time was over then, and look again when that of the next one will be."""
        for wait in list(takewhile(lambda wait: wait.until <= now, self._waits)):
            self.end(wait)
            wait.stop()
        until = next((wait.until for wait in self._waits), None)
        self._timer = None if until is None else self._loop.call_at(until, self._look)


class _Wait:
    """One block that is bounded: ``until`` is when its time is over."""

    __slots__ = ("_before", "_is_over", "_shared", "_task", "until")

    def __init__(self, shared: SharedTimeout) -> None:
        self._shared = shared

    def stop(self) -> None:
        """Cancel the task, which is in the block."""
        self._is_over = True
        self._task.cancel()

    # Here and not when it is made: of what is never entered nothing is bounded.
    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "there is a running task"
        self._task = task
        self._before = task.cancelling()
        self._is_over = False
        self.until = self._shared.begin(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._shared.end(self)
        # Where somebody else has cancelled the task, too, that is what it is told.
        if self._is_over and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error
