"""A page anew whenever something has changed, as server-sent events."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import anyio
from fastapi.sse import ServerSentEvent

from crynux_async.clock import monotonic
from crynux_async.integrations.fastapi.page.sources import Viewer
from crynux_async.integrations.fastapi.streams import RETRY_MILLISECONDS
from crynux_async.report.live import Rendered

_EVERY = 1.0
_MOST_OF_THE_TIME = 0.25
"""The part of the time that rendering may take for one page: a sweep whose archives are read anew takes seconds."""

_LONGEST = 10.0

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
    change = 0
    while True:
        change = await viewer.source.ledger.changed(change)
        began = monotonic()
        page = await get(change)
        if page.version != have:
            have = page.version
            yield page
        await anyio.sleep(min(_LONGEST, max(_EVERY, (monotonic() - began) / _MOST_OF_THE_TIME)))
