"""Events on their way to one reader, in bounded memory."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from crynux_async.clock import utc_now

if TYPE_CHECKING:
    from crynux_async.events import Event, EventsMissed

MAX_WAITING_EVENTS = 1024


class EventStream:
    """An asynchronous iterator over events that never holds up whoever sends them.

    A reader that is too slow loses the oldest waiting events and is told how many with an ``EventsMissed``.

    Args:
        on_close: Called once, at the first ``close()``.
        max_waiting: Events kept for the reader, >= 1.
    """

    def __init__(self, on_close: Callable[["EventStream"], None], max_waiting: int = MAX_WAITING_EVENTS) -> None:
        self._waiting: deque[Event] = deque()
        self._max_waiting = max_waiting
        self._missed = 0
        self._ended = False
        self._closed = False
        self._wake = asyncio.Event()
        self._on_close = on_close

    def put(self, event: "Event") -> None:
        """Hand an event to the reader; after ``close()`` nobody reads any more."""
        if self._closed:
            return
        # A reader that has stopped reading must cost neither memory without end nor the time of those who send.
        if len(self._waiting) >= self._max_waiting:
            self._waiting.popleft()
            self._missed += 1
        self._waiting.append(event)
        self._wake.set()

    def end(self) -> None:
        """Let the reader finish after the events that wait."""
        self._ended = True
        self._wake.set()

    def close(self) -> None:
        """Stop reading; what waits is dropped. May be called again."""
        if self._closed:
            return
        self._closed = True
        self.end()
        self._waiting.clear()
        self._missed = 0
        self._on_close(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> "Event":
        while not self._waiting and not self._ended:
            self._wake.clear()
            await self._wake.wait()
        if self._missed:
            return self._tell_missed()
        if not self._waiting:
            raise StopAsyncIteration
        return self._waiting.popleft()

    def _tell_missed(self) -> "EventsMissed":
        from crynux_async.events import EventsMissed

        # There is one: events are dropped only to make room for another.
        following = self._waiting[0]
        count, self._missed = self._missed, 0
        return EventsMissed(job_id=following.job_id, task_id=following.task_id, at=utc_now(), count=count)
