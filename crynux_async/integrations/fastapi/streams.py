"""Events of a job as server-sent events: numbered, so that a browser that comes back goes on where it was.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import functools
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, TypeVar

import anyio
import attrs
from fastapi import Depends, Header, Query, Request, Response
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from crynux_async.errors import LedgerError
from crynux_async.events import Event
from crynux_async.integrations.fastapi.answers import EventAnswer
from crynux_async.integrations.fastapi.callers import Caller, CallerDep, JobDep
from crynux_async.integrations.fastapi.problems import ProblemError, answer_error
from crynux_async.job import Job, reading_of, record_of
from crynux_async.states import STAGES, Stage

T = TypeVar("T")

_log = logging.getLogger("crynux_async.integrations.fastapi")

_HEARTBEAT = 15.0  # seconds; proxies cut a silent connection after 30 to 60
_BEAT = format_sse_event(comment="heartbeat")
# X-Accel-Buffering is for nginx, which would keep events back until it has a buffer full.
_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

RETRY_MILLISECONDS = 1000
"""After how long a browser comes back when a stream was cut."""

END = "end"
"""The name of the last event of a job: nothing more happens by itself, so close the ``EventSource``."""

RECONNECT = "reconnect"
"""The name of the last event of a stream that ends before its job does: the process stops and another one goes on, or
the ledger cannot be read any more."""

# Larger numbers are not exact in a browser, and much larger ones no database takes.
_MOST = 2**53


class Streams:
    """The open event streams of one process, which end together when it stops."""

    def __init__(self) -> None:
        self._ends: set[Callable[[], None]] = set()
        self.is_ended = False

    def end(self) -> None:
        """End every stream, those that begin later at once. May be called again."""
        self.is_ended = True
        for end in tuple(self._ends):
            end()

    def add(self, end: Callable[[], None]) -> None:
        """Call something when the streams are ended."""
        self._ends.add(end)

    def discard(self, end: Callable[[], None]) -> None:
        """Do not call it any more."""
        self._ends.discard(end)

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
            self.add(scope.cancel)
            try:
                return await anext(events, None)
            finally:
                self.discard(scope.cancel)
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


@attrs.frozen(kw_only=True)
class Events:
    """The events of a job that a caller asks for.

    Attributes:
        job: The job.
        caller: Who asks.
        after: The number of the last event that they know.
    """

    job: Job
    caller: Caller
    after: int

    def response(self) -> Response:
        """Return them as server-sent events, within the caller's limit of open streams."""
        return EventStream(self)


async def events_of(job: JobDep, caller: CallerDep, after: Annotated[int, Depends(resume_after)]) -> Events:
    """Return the events of the job in the path, behind ``Last-Event-ID`` or ``after``."""
    return Events(job=job, caller=caller, after=after)


EventsDep = Annotated[Events, Depends(events_of)]
"""The events of the job in the path: ``return events.response()``."""


class EventStream(Response):
    """Server-sent events of one job, written as they come.

    FastAPI's own stream has a task group, two more tasks and two channels; thousands of these may be open.

    Args:
        events: What to send.
    """

    media_type = "text/event-stream"

    def __init__(self, events: Events) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = list(_HEADERS)
        self._events = events
        self._is_left = False
        self._is_silent = False
        self._wake: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until there are no more, the process stops, or the browser has gone."""
        web, tenant = self._events.caller.web, self._events.caller.tenant
        try:
            web.admission.enter_stream(tenant)
        except ProblemError as error:
            refused = await answer_error(Request(scope), error)
            await refused(scope, receive, send)
            return
        leaving = asyncio.create_task(self._hear_leaving(receive))
        web.streams.add(self._call)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._tell(send, web.streams)
        finally:
            leaving.cancel()
            web.streams.discard(self._call)
            web.admission.leave_stream(tenant)

    async def _tell(self, send: Send, streams: Streams) -> None:
        # At once, so that the browser knows it before anything can be cut.
        await _send(send, format_sse_event(comment="events", retry=RETRY_MILLISECONDS))
        is_cut = True
        # Here and not in a method of its own, whose frame each of thousands of open streams would hold.
        try:
            async with reading_of(self._events.job, self._events.after) as bookmark:
                while not (streams.is_ended or self._is_left or bookmark.is_at_end):
                    for event in await bookmark.more():
                        await _send(send, _encoded(event))
                    if bookmark.is_up_to_date:
                        await self._pause(send, streams)
            is_cut = streams.is_ended
        except LedgerError as error:
            # The answer has begun, and can say no more of it: the one to whoever comes back does.
            _log.info("the events of job %s end: %s", self._events.job.job_id, error)
        if self._is_left:
            return
        # Without an id, so that the number of the last event stays what the browser says when it comes back.
        name = RECONNECT if is_cut else END
        await _send(send, format_sse_event(event=name, data_str="{}", retry=RETRY_MILLISECONDS))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pause(self, send: Send, streams: Streams) -> None:
        """Wait for the job to change, the streams to end, or the browser to leave; send a heartbeat meanwhile."""
        # What came while events were read woke nobody: nothing is waited for where it is over already.
        if streams.is_ended or self._is_left:
            return
        record = record_of(self._events.job)
        loop = asyncio.get_running_loop()
        heartbeat = loop.call_later(_HEARTBEAT, self._beat)
        self._wake = loop.create_future()
        record.call(self._wake)
        try:
            await self._wake
        finally:
            heartbeat.cancel()
            record.do_not_call(self._wake)
            self._wake = None
        if self._is_silent and not streams.is_ended:
            self._is_silent = False
            await _send(send, _BEAT)

    def _call(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _beat(self) -> None:
        self._is_silent = True
        self._call()

    async def _hear_leaving(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._is_left = True
        self._call()


async def _send(send: Send, piece: bytes) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": True})


# Everybody who reads a job is told the same.
@functools.lru_cache(maxsize=256)
def _encoded(event: Event) -> bytes:
    return format_sse_event(data_str=EventAnswer.of(event).model_dump_json(), id=str(event.number))
