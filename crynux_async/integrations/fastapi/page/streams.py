"""A page anew whenever something has changed, as server-sent events."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import anyio
from fastapi.sse import ServerSentEvent

from crynux_async.clock import monotonic
from crynux_async.errors import LedgerBusyError, LedgerError
from crynux_async.integrations.fastapi.page.sources import Viewer
from crynux_async.integrations.fastapi.problems import ProblemError
from crynux_async.integrations.fastapi.streams import RETRY_MILLISECONDS
from crynux_async.report.live import Rendered

_log = logging.getLogger("crynux_async.integrations.fastapi")

_EVERY = 1.0
_MOST_OF_THE_TIME = 0.25
"""The part of the time that rendering may take for one page: a sweep whose archives are read anew takes seconds."""

_LONGEST = 10.0
_TRY_AGAIN = 2.0

Get = Callable[[int], Awaitable[Rendered]]
"""Renders a page that shows a change of the ledger."""


async def stream(viewer: Viewer, get: Get, have: str) -> AsyncGenerator[ServerSentEvent, None]:
    """Send a page whenever it shows something else.

    Args:
        viewer: Who looks.
        get: Renders the page.
        have: The version that the browser has.
    """
    yield ServerSentEvent(comment="pages", retry=RETRY_MILLISECONDS)
    async with aclosing(viewer.streams.follow(_pages(viewer, get, have))) as pages:
        async for page in pages:
            yield ServerSentEvent(event="page", raw_data=page.message, id=page.version)


async def _pages(viewer: Viewer, get: Get, have: str) -> AsyncGenerator[Rendered, None]:
    """Yield the page that is there, and each that shows something else; wait while the ledger is away.

    It ends where there is no page any more: the browser comes back, and is told why in an answer of its own.
    """
    seen = 0
    while True:
        try:
            change = await viewer.source.ledger.changed(seen)
            began = monotonic()
            page = await get(change)
        except LedgerBusyError as error:
            _log.info("a page waits for the ledger: %s", error)
            await anyio.sleep(_TRY_AGAIN)
            continue
        except (LedgerError, ProblemError) as error:
            _log.info("the stream of a page ends: %s", error)
            return
        seen = change
        if page.version != have:
            have = page.version
            yield page
        await anyio.sleep(min(_LONGEST, max(_EVERY, (monotonic() - began) / _MOST_OF_THE_TIME)))
