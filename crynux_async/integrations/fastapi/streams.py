"""Events of a job as server-sent events: numbered, so that a browser that comes back goes on where it was.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, TypeVar

import anyio
from fastapi import Depends, Header, Query
from fastapi.sse import ServerSentEvent

from crynux_async.integrations.fastapi.answers import EventAnswer
from crynux_async.integrations.fastapi.callers import CallerDep, JobDep
from crynux_async.integrations.fastapi.problems import ProblemError
from crynux_async.job import Job, record_of
from crynux_async.states import STAGES, Stage

T = TypeVar("T")

RETRY_MILLISECONDS = 1000
"""After how long a browser comes back when a stream was cut."""

END = "end"
"""The name of the last event of a job: nothing more happens by itself, so close the ``EventSource``."""

RECONNECT = "reconnect"
"""The name of the last event of a stream that ends before its job does: the process stops, another one goes on."""

# Larger numbers are not exact in a browser, and much larger ones no database takes.
_MOST = 2**53


class Streams:
    """The open event streams of one process, which end together when it stops."""

    def __init__(self) -> None:
        self._waiting: set[anyio.CancelScope] = set()
        self.is_ended = False

    def end(self) -> None:
        """End every stream, those that begin later at once. May be called again."""
        self.is_ended = True
        for scope in self._waiting:
            scope.cancel()

    async def follow(self, events: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Yield events until there are no more, or the streams are ended."""
        async with aclosing(events):
            while not self.is_ended:
                event = await self._next(events)
                if event is None:
                    return
                yield event

    async def _next(self, events: AsyncGenerator[T, None]) -> T | None:
        # The scope is around the waiting alone: one that is left while a generator yields belongs to another task then.
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                return await anext(events, None)
            finally:
                self._waiting.discard(scope)
        return None


async def resume_after(
    job: JobDep,
    last_event_id: Annotated[int | None, Header(ge=0, le=_MOST, description="Where a browser comes back.")] = None,
    after: Annotated[int, Query(ge=0, le=_MOST, description="The number of the last event that is known.")] = 0,
) -> int:
    """Return behind which event to go on.

    Raises:
        ProblemError: Nothing more happens to the job, and everything was told: 204, at which browsers stop asking.
    """
    # The browser's own memory comes first: the address still names where its page began.
    known = after if last_event_id is None else last_event_id
    if last_event_id is not None and is_told(job, known):
        raise ProblemError(204, "end", "Nothing more happens to this job by itself.")
    return known


def is_told(job: Job, known: int) -> bool:
    """Whether nothing more happens to a job by itself behind an event."""
    record = record_of(job)
    return STAGES[record.state] is Stage.OVER and known >= record.last_event and not record.is_cut_off


async def open_events(
    job: JobDep, caller: CallerDep, after: Annotated[int, Depends(resume_after)]
) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    """Hold a place for a stream while it is open, and hand over its events.

    Raises:
        ProblemError: The caller has too many streams open.
    """
    with caller.web.admission.stream(caller.tenant):
        async with aclosing(_server_sent(job, caller.web.streams, after)) as events:
            yield events


async def _server_sent(job: Job, streams: Streams, after: int) -> AsyncGenerator[ServerSentEvent, None]:
    # At once, so that the browser knows it before anything can be cut.
    yield ServerSentEvent(comment="events", retry=RETRY_MILLISECONDS)
    async with aclosing(streams.follow(job.events(after=after))) as events:
        async for event in events:
            yield ServerSentEvent(raw_data=EventAnswer.of(event).model_dump_json(), id=str(event.number))
    # Without an id, so that the number of the last event stays what the browser says when it comes back.
    yield ServerSentEvent(event=RECONNECT if streams.is_ended else END, raw_data="{}", retry=RETRY_MILLISECONDS)


EventsDep = Annotated[AsyncIterator[ServerSentEvent], Depends(open_events)]
"""The events of the job in the path, behind ``Last-Event-ID`` or ``after``, within the caller's limits."""
