"""What a backend must be able to do, whoever runs the task.

A backend translates between this library's values and one remote service. It keeps no jobs, retries nothing and knows
no rate limit: every decision to wait or to ask again is the supervisor's.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import attrs

from crynux_async.training.config import FineTuneConfig


class RemoteStatus(StrEnum):
    """The remote service's word for where a task is."""

    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


@attrs.frozen(kw_only=True)
class CreatedTask:
    """A task that the remote service has accepted and will bill.

    Attributes:
        task_id: The service's number of the task, > 0.
        created_at: When the service says it was created, aware UTC, or None where it did not say.
    """

    task_id: int
    created_at: datetime | None = None


@attrs.frozen(kw_only=True)
class Validator:
    """What tells one version of a result from another: the bridge has no ETag.

    Attributes:
        last_modified: The ``Last-Modified`` header word for word, or None where there was none.
        total_bytes: Size of the whole result, or None where it is not known.
    """

    last_modified: str | None
    total_bytes: int | None


class ResultStream(Protocol):
    """An answer with (a part of) a result whose body has not been read yet."""

    @property
    def start(self) -> int:
        """Offset in bytes of the first byte of the body, >= 0: 0 when the whole result is coming."""

    @property
    def validator(self) -> Validator:
        """Which version of the result the body belongs to."""

    def chunks(self, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Yield the body in pieces of at most ``chunk_bytes`` bytes.

        Raises:
            TransportError: The connection broke before the announced end.
        """


class Backend(Protocol):
    """The remote service as the supervisor sees it."""

    async def create(self, config: FineTuneConfig) -> CreatedTask:
        """Send one create, exactly once, and return the task that it made.

        Raises:
            UnreachableError: No connection; nothing was sent.
            RateLimitedError, AuthError, QuotaError, RejectedError: Refused; nothing was created.
            SubmissionUnknownError: Everything else: the task may exist.
        """

    async def status(self, task_id: int) -> RemoteStatus | str:
        """Return the status of a task; a word that is not known comes back as it is.

        Raises:
            NotFoundError: The service has no such task, or not any more.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; ask again later.
        """

    def open_result(
        self, task_id: int, *, start: int = 0, validator: Validator | None = None
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Open the result from byte ``start`` on, provided it is still the version of ``validator``.

        Where the version changed, or the service ignores ranges, the stream begins at 0: look at ``stream.start``.

        Raises:
            RangeError: ``start`` is not inside the result; ``.total_bytes`` says how long it is where known.
            NotFoundError: There is no result (not finished, failed, or deleted).
            OwnershipError, AuthError, QuotaError: The key may not have it.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; ask again later.
        """

    async def owns(self, task_id: int) -> bool | None:
        """Whether a task was made with this key, or None where that cannot be told (yet).

        Raises:
            AuthError, QuotaError: The key is not accepted.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """

    async def key_is_fresh(self) -> bool:
        """Whether this key has never created anything, asked without side effect.

        Raises:
            AuthError, QuotaError: The key is not accepted.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """

    async def prime_key(self) -> None:
        """Make the key known to the service with one create that is bound to be refused: it costs a token, no money.

        Raises:
            RateLimitedError, AuthError, QuotaError: The key could not be primed now.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """

    async def close(self) -> None:
        """Release every connection."""
