"""What a service wants done once before the first create with a credential, such as making a new key known to it.

The backend knows what; here is when, and how its requests get a token of the rate limit.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from crynux_async.backends.base import Backend, Prepares
from crynux_async.errors import BackendError, ProtocolError, RateLimitedError, SubmissionUnknownError
from crynux_async.pacing.token_bucket import Outcome
from crynux_async.supervision.create import spent_by

Leave = Callable[[int, Outcome, float | None], Awaitable[None]]


class Preparation:
    """Prepares a backend before the first create, and again after its credential was refused.

    Args:
        backend: The service.
        ticket: Waits for a ticket of the gate.
        leave: Tells the gate what became of the request with a ticket.
    """

    def __init__(self, backend: Backend, ticket: Callable[[], Awaitable[int]], leave: Leave) -> None:
        self._backend = backend if isinstance(backend, Prepares) else None
        self._ticket = ticket
        self._leave = leave
        self._is_done = False

    @property
    def is_done(self) -> bool:
        """Whether creates may be sent."""
        return self._is_done or self._backend is None

    def undo(self) -> None:
        """Prepare again before the next create: the credential was refused."""
        self._is_done = False

    async def run(self) -> float | None:
        """Do what must be done, and return the limit in creates a minute that a credential has first, or None.

        Raises:
            AuthError, QuotaError: The credential is not accepted.
            BackendError: Not now.
        """
        limit = None if self._backend is None else await self._backend.prepare(self._turnstile)
        self._is_done = True
        return limit

    @asynccontextmanager
    async def _turnstile(self) -> AsyncIterator[None]:
        """Wait for a ticket for one request; what ends the request without an answer counts as spent, to be safe."""
        ticket = await self._ticket()
        # Whatever ends this without an answer may have cost a token; to think so is safe, the other way breaks the
        # limit.
        spent, wait = Outcome.CHARGED, None
        try:
            yield
        except RateLimitedError as error:
            spent, wait = Outcome.LIMITED, error.wait
            raise
        except (SubmissionUnknownError, ProtocolError):
            raise
        except BackendError as error:
            spent = spent_by(error)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._leave(ticket, spent, wait)
