"""Asks one's own bridge why jobs failed, with its admin token, and never troubles anybody about it.

The bridge keeps the traces of its newest jobs in memory only, so they are asked for when a job ends. Many jobs may end
at once: one list serves all that were asked for while it was under way, and for a moment after.
"""

import asyncio
import logging
import math
from collections.abc import Mapping

from crynux_async.backends.bridge.traces import Course, read_courses
from crynux_async.backends.http.client import HttpClient, Request
from crynux_async.clock import monotonic
from crynux_async.errors import BackendError
from crynux_async.secret import Secret
from crynux_async.settings import Settings

_PATH = "/v1/admin/tasks"
# What a bridge set up by this library keeps (``task_trace_max_tasks``); the example config has 100.
_LIMIT = "1000"
_FRESH = 2.0
# A trace holds requests and events: a thousand of them are far above the bound for other answers.
_MOST_BYTES = 64 * 1024 * 1024

_log = logging.getLogger("crynux_async.backends.bridge")


class ReasonDesk:
    """Knows why jobs of one bridge failed. Must be made inside a running event loop.

    Args:
        settings: Address, timeouts and proxy of the bridge.
        token: Its admin token.
    """

    def __init__(self, settings: Settings, token: Secret) -> None:
        self._http = HttpClient(settings, (token,))
        self._token = token
        self._courses: Mapping[str, Course] = {}
        self._asked_at = -math.inf
        self._asking = asyncio.Lock()
        self._complaint = ""

    async def course(self, task_id: str) -> Course | None:
        """Return the course of a job, or None where the bridge cannot be asked or does not remember it.

        Args:
            task_id: The bridge's number of the job, as text.
        """
        asked_for = monotonic()
        async with self._asking:
            known = self._courses.get(task_id)
            # A list that was asked for before the job ended may not have its end.
            if self._asked_at < asked_for and not (known and known.reason and asked_for - self._asked_at < _FRESH):
                await self._ask()
        return self._courses.get(task_id)

    async def reason(self, task_id: str) -> str:
        """Return why a job failed, for people, or "" where that is not known."""
        course = await self.course(task_id)
        return "" if course is None else course.reason

    async def close(self) -> None:
        """Release every connection."""
        await self._http.close()

    async def _ask(self) -> None:
        self._asked_at = monotonic()
        query = {"auth": self._token.reveal(), "limit": _LIMIT}
        try:
            answer = await self._http.send(Request(path=_PATH, query=query, most_bytes=_MOST_BYTES))
            self._courses = read_courses(answer)
        except BackendError as error:
            self._complain(str(error))
        else:
            self._complaint = ""

    def _complain(self, message: str) -> None:
        """Say once what keeps reasons from being known."""
        # Each job that fails would say it again, and one line says all there is to do.
        if message != self._complaint:
            _log.warning("why jobs failed cannot be asked (is admin_token right?): %s", message)
        self._complaint = message
