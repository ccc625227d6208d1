"""The bridge's calls, one method each: what is asked, and what its answers mean there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from crynux_async.backends.base import CreatedTask, ResultStream, Validator
from crynux_async.backends.bridge import wire
from crynux_async.backends.http.answer import Answer
from crynux_async.backends.http.client import HttpClient, Request
from crynux_async.backends.http.result import Result, range_headers
from crynux_async.errors import (
    AuthError,
    BackendError,
    NotFoundError,
    OwnershipError,
    ProtocolError,
    RejectedError,
    SubmissionUnknownError,
)
from crynux_async.settings import Settings

_PATH = "/v1/images/models"
_PROBE_ID = 2**62  # no bridge has made so many tasks, so asking for this result can only be refused
_STATUSES = {status.value: status for status in wire.RemoteStatus}
_REACHED_BY_PRIMING = ("task_args", "timeout")  # fields that the bridge looks at after it has filed the key


class BridgeClient:
    """The bridge's calls, one method each. Must be made inside a running event loop.

    Args:
        settings: Address, key, timeouts, proxy and limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._key = settings.api_key
        self._http = HttpClient(settings, (self._key,) if self._key else ())

    async def create(self, body: bytes) -> CreatedTask:
        """Send one create, exactly once, and return the task that it made.

        Args:
            body: The create's JSON, as ``wire.encode_args`` makes it.

        Raises:
            UnreachableError: No connection; nothing was sent.
            RateLimitedError, AuthError, QuotaError, RejectedError, ProtocolError: Refused; nothing was created.
            SubmissionUnknownError: Everything else: the task may exist.
        """
        return wire.read_created(await self._post(body))

    async def prime_key(self) -> None:
        """Make the key known to the bridge with a create that its schema is bound to refuse.

        Source: crynux-bridge api/v1/image/finetune.go (the client row is written before the schema is checked).

        Raises:
            RateLimitedError, AuthError, QuotaError, UnreachableError: The key could not be primed now.
            RejectedError: The bridge refused something that it looks at before the key.
            SubmissionUnknownError, ProtocolError: No answer that counts; nothing can have been created.
        """
        try:
            created = wire.read_created(await self._post(wire.encode_args(wire.priming_args())))
        except RejectedError as error:
            if error.field not in _REACHED_BY_PRIMING:
                raise
            return
        # Then it was paid for, and is named so that its model is not lost.
        raise ProtocolError(
            f"the bridge accepted a create that its schema forbids, as task {created.task_id}", task_id=created.task_id
        )

    async def key_is_fresh(self) -> bool:
        """Whether this key has never created anything, asked without side effect or cost.

        Raises:
            AuthError, QuotaError: The key is not accepted.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        try:
            # The bridge looks at the key before the task, and a result costs no token of the rate limit.
            request = Request(path=f"{_PATH}/{_PROBE_ID}/result", headers=self._authorization())
            wire.raise_for(await self._http.send(request))
        except NotFoundError as error:
            return wire.means_fresh_key(error)

    async def status(self, task_id: str) -> wire.RemoteStatus | str:
        """Return the status of a task; a word that is not known comes back as it is.

        Raises:
            NotFoundError: The bridge has no such task, or not any more.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; ask again later.
        """
        try:
            # Without the key: a status needs none, and what is not sent cannot leak.
            request = Request(path=f"{_PATH}/{task_id}/status")
            answer = await self._http.send_unless(request, wire.running_answer(task_id))
            word = wire.RemoteStatus.RUNNING if answer is None else wire.read_status(answer)
        except BackendError as error:
            error.task_id = task_id
            raise
        return _STATUSES.get(word, word)

    @asynccontextmanager
    async def open_result(
        self, task_id: str, *, start: int = 0, validator: Validator | None = None
    ) -> AsyncIterator[ResultStream]:
        """Open the result from byte ``start`` on, provided it is still the version of ``validator``.

        Raises:
            RangeError, NotFoundError, OwnershipError, AuthError, QuotaError: As the bridge says.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; ask again later.
        """
        result = await self._open(task_id, range_headers(start, validator))
        try:
            yield result
        finally:
            result.close()

    async def owns(self, task_id: str) -> bool | None:
        """Whether a task was made with this key, or None where that cannot be told (yet).

        The bridge hands out a result only to its owner, and says of an unfinished one only that there is none; one byte
        of it is asked for.

        Raises:
            AuthError, QuotaError: The key is not accepted.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        try:
            result = await self._open(task_id, {"Range": "bytes=0-0"})
        except OwnershipError:
            return False
        except NotFoundError:
            return None
        result.close()
        return True

    async def close(self) -> None:
        """Release every connection."""
        await self._http.close()

    async def _post(self, body: bytes) -> Answer:
        """Send one create and return whatever was answered; what happened to it otherwise is in the exception."""
        request = Request(path=_PATH, method="POST", headers=self._authorization(), body=body)
        return await self._http.send_once(request, _lost_create)

    async def _open(self, task_id: str, span: dict[str, str]) -> Result:
        """Ask for a result and return it when it has begun to come."""
        request = Request(path=f"{_PATH}/{task_id}/result", headers={**self._authorization(), **span})
        opened = await self._http.open(request, task_id)
        if isinstance(opened, Result):
            return opened
        try:
            wire.raise_for(opened)
        except BackendError as error:
            error.task_id = task_id
            raise

    def _authorization(self) -> dict[str, str]:
        """Return the header with the key. It is kept in no variable, because some traceback printers show those."""
        if self._key is None:
            raise AuthError("no key is set: give api_key=... or set CRYNUX_API_KEY", field="api_key")
        return {"Authorization": f"Bearer {self._key.reveal()}"}


def _lost_create(url: str, said: str) -> SubmissionUnknownError:
    return SubmissionUnknownError(
        f"the create was sent and its answer did not arrive ({said}); the task may exist and is not sent again by "
        "itself, because that could pay twice",
        url=url,
    )
