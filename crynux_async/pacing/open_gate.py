"""The gate before a service that limits nothing."""

import asyncio
import itertools

from crynux_async.clock import monotonic
from crynux_async.pacing.gate import Entry
from crynux_async.pacing.token_bucket import Outcome


class OpenGate:
    """A ``Gate`` that is never shut."""

    bucket = None

    def __init__(self) -> None:
        self._tickets = itertools.count(1)

    def watch(self, wake: asyncio.Event) -> None:
        """Do nothing: it never opens, because it is never shut."""

    async def enter(self) -> Entry:
        """Return a ticket."""
        return Entry(ticket=next(self._tickets))

    async def leave(self, ticket: int, outcome: Outcome, wait: float | None = None) -> None:
        """Do nothing."""

    async def look(self) -> None:
        """Do nothing."""

    def expected_at(self, position: int) -> float:
        """Return the time: everything is sent at once."""
        return monotonic()

    def limit_changed(self, limit_per_minute: float) -> None:
        """Do nothing: there is no limit."""
