"""The relay's calls: each signed with the relay's own time, and its answer as a value or as a typed error.

What is refused because of the clock is signed once more with a time that was asked for anew. Every call may be
repeated: a create is known by its commitment, and of everything else a look tells whether it has happened.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from crynux_async.backends.base import ResultStream, Validator
from crynux_async.backends.http.answer import MAX_ANSWER_BYTES, Answer
from crynux_async.backends.http.client import HttpClient
from crynux_async.backends.http.client import Request as HttpRequest
from crynux_async.backends.http.result import Result, range_headers
from crynux_async.backends.relay import answers, wire
from crynux_async.backends.relay.answers import AnswerError, Refusal, Why, read_refusal
from crynux_async.backends.relay.ids import TaskIds
from crynux_async.backends.relay.refusals import error_of, refusal_in
from crynux_async.backends.relay.relay_clock import RelayClock
from crynux_async.backends.relay.tasks import RelayTask
from crynux_async.backends.relay.turns import Turns
from crynux_async.backends.relay.wire import CreateRequest
from crynux_async.clock import monotonic
from crynux_async.errors import (
    BackendError,
    ProtocolError,
    RangeError,
    ServerError,
    SubmissionUnknownError,
    UnreachableError,
)
from crynux_async.settings import Settings
from crynux_async.signing import Wallet

_T = TypeVar("_T")

_Sign = Callable[[int], wire.Request]
_Send = Callable[[HttpRequest], Awaitable[Answer]]

# With the relay's usual limit of 32 MiB for a request no node can have uploaded a larger image.
_MOST_IMAGE_BYTES = 32 << 20
_UNSATISFIABLE = 416
# Signing is arithmetic on the event loop: so many in one turn of it, and then others have theirs.
_IN_A_TURN = 4


class RefusedError(Exception):
    """The relay has refused a call, which may mean something to the caller. It never leaves this folder.

    Attributes:
        refusal: What it says no with.
        error: What that is for everybody else.
    """

    def __init__(self, refusal: Refusal, error: BackendError) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.error = error


class RelayClient:
    """The relay's calls about tasks, and its balance. Must be made inside a running event loop.

    Args:
        settings: Address of the relay, timeouts, proxy and connections.
        wallet: Signs.
    """

    def __init__(self, settings: Settings, wallet: Wallet) -> None:
        self._http = HttpClient(settings)
        self._wallet = wallet
        self._clock = RelayClock()
        self._turns = Turns(_IN_A_TURN)

    async def now(self) -> float:
        """Return the relay's time in seconds since 1970; it is asked for where it is not known.

        Raises:
            UnreachableError: It was not told, so that nothing can be signed and nothing was sent.
        """
        if not self._clock.is_set:
            asked_at = monotonic()
            try:
                self._clock.set(await self.ask(wire.ask_time(), answers.read_now), asked_at)
            except UnreachableError:
                raise
            except BackendError as error:
                message = f"the relay does not tell its time, so nothing was signed and nothing was sent: {error}"
                raise UnreachableError(message, is_lasting=error.is_lasting, url=error.url) from error
        return self._clock.now()

    async def ask(self, request: wire.Request, read: Callable[[bytes], _T], *, token: str = "") -> _T:
        """Return what is answered to a request that nobody signs, or that a token opens.

        Args:
            request: What is asked.
            read: Reads the answer's body.
            token: The token of a login, or "".

        Raises:
            AuthError: The token has ended.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else None
        answer = await self._http.send(_http(request, headers=headers))
        if answer.status != 200:
            raise error_of(refusal_in(answer), answer)
        return _read(answer, read)

    async def create(self, request: CreateRequest) -> RelayTask:
        """Send a create and return the task that it made.

        Raises:
            RefusedError: The relay refuses it; nothing was made.
            UnreachableError: No connection; nothing was sent.
            SubmissionUnknownError: Everything else: the task may exist.
        """
        answer = await self._signed(partial(wire.create_task, request, self._wallet), self._send_create)
        try:
            return _read(answer, answers.read_shown_task)
        except ProtocolError as error:
            raise _lost(answer.url, str(error)) from error

    async def task(self, commitment: str) -> RelayTask:
        """Return a task as the relay shows it.

        Raises:
            NotFoundError: There is none, or not any more.
            OwnershipError, AuthError: It is not this wallet's.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        answer = await self._asked(partial(wire.look_at_task, commitment, self._wallet), commitment)
        task = _read(answer, answers.read_shown_task)
        # A proxy that mixes answers up would have another task's end taken for this one's.
        if task.commitment != commitment:
            raise ProtocolError(f"another task is shown: {task.commitment}", **{**answer.facts, "task_id": commitment})
        return task

    async def validate(self, ids: Sequence[TaskIds], seed: bytes) -> None:
        """Validate one task, or the three of a group.

        Raises:
            RefusedError: The relay refuses it.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; look what has happened.
        """
        await self._signed(lambda now: wire.validate_tasks(ids, seed, self._wallet, now), self._http.send)

    async def cancel(self, commitment: str) -> None:
        """Cancel a task that waits for a node.

        Raises:
            RefusedError: The relay refuses it.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; look what has happened.
        """
        await self._signed(partial(wire.cancel_task, commitment, self._wallet), self._http.send)

    async def image(self, commitment: str, index: int) -> bytes | None:
        """Return a validation image of a task as a PNG file, or None behind the last one.

        Raises:
            NotFoundError: It has none, or is gone.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        sign = partial(wire.fetch_image, commitment, index, self._wallet)
        try:
            answer = await self._signed(sign, self._http.send, most_bytes=_MOST_IMAGE_BYTES)
        except RefusedError as refused:
            # How many there are is told nowhere: the first number that is refused is behind the last image.
            if refused.refusal.field == "index":
                return None
            raise _about(commitment, refused.error) from None
        if answer.truncated:
            raise ProtocolError(f"image {index} has more than {_MOST_IMAGE_BYTES >> 20} MiB", task_id=commitment)
        return answer.body

    async def balance(self) -> int:
        """Return the wei on the wallet's account.

        Raises:
            AuthError, UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        return _read(await self._asked(partial(wire.ask_balance, self._wallet), None), answers.read_balance)

    @asynccontextmanager
    async def open_result(
        self, commitment: str, *, start: int = 0, validator: Validator | None = None
    ) -> AsyncIterator[ResultStream]:
        """Open the archive of a task from byte ``start`` on, provided it is still the version of ``validator``.

        Raises:
            RangeError, NotFoundError, OwnershipError, AuthError: As the relay says.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        result = await self._archive(commitment, range_headers(start, validator))
        try:
            yield result
        finally:
            result.close()

    async def close(self) -> None:
        """Release every connection."""
        await self._http.close()

    async def _archive(self, commitment: str, headers: dict[str, str]) -> Result:
        came = await self._begun(commitment, headers)
        if isinstance(came, Answer) and _is_about_time(came):
            self._clock.forget()
            came = await self._begun(commitment, headers)
        if isinstance(came, Result):
            return came
        if came.status == _UNSATISFIABLE:
            total = came.whole_bytes
            raise RangeError("the archive ends before that", total_bytes=total, task_id=commitment, **came.facts)
        raise _about(commitment, error_of(refusal_in(came), came))

    async def _begun(self, commitment: str, headers: dict[str, str]) -> Result | Answer:
        # Signed anew for each range: a signature is good for 60 s, and an archive may take longer than that.
        request = wire.fetch_archive(commitment, self._wallet, int(await self.now()))
        return await self._http.open(_http(request, headers=headers), commitment)

    async def _asked(self, sign: _Sign, commitment: str | None) -> Answer:
        try:
            return await self._signed(sign, self._http.send)
        except RefusedError as refused:
            raise _about(commitment, refused.error) from None

    async def _signed(self, sign: _Sign, send: _Send, *, most_bytes: int = MAX_ANSWER_BYTES) -> Answer:
        """Sign and send a request, again where the time was wrong, and return its answer, which is no refusal.

        Raises:
            RefusedError: The relay refuses it.
        """
        answer = await send(await self._request(sign, most_bytes))
        if _is_about_time(answer):
            self._clock.forget()
            answer = await send(await self._request(sign, most_bytes))
        if answer.status != 200:
            refusal = refusal_in(answer)
            raise RefusedError(refusal, error_of(refusal, answer))
        return answer

    async def _request(self, sign: _Sign, most_bytes: int) -> HttpRequest:
        now = await self.now()
        await self._turns.take()
        return _http(sign(int(now)), most_bytes=most_bytes)

    async def _send_create(self, request: HttpRequest) -> Answer:
        """Send a create, and tell a refusal from trouble, which may come after the task was made as well as before."""
        # Once here, and repeated above with the same payload: whether that is safe is the supervisor's to know.
        answer = await self._http.send_once(request, _lost)
        try:
            is_trouble = answer.status != 200 and refusal_in(answer).why is Why.OTHER
        except ServerError as error:
            raise _lost(answer.url, str(error)) from error
        if is_trouble:
            raise _lost(answer.url, answer.summary)
        return answer


def _http(
    request: wire.Request, *, headers: dict[str, str] | None = None, most_bytes: int = MAX_ANSWER_BYTES
) -> HttpRequest:
    return HttpRequest(
        method=request.method,
        path=request.path,
        query=request.query or None,
        headers=headers,
        body=request.body,
        most_bytes=most_bytes,
    )


def _is_about_time(answer: Answer) -> bool:
    refusal = None if answer.status == 200 else read_refusal(answer.status, answer.body)
    return refusal is not None and refusal.why is Why.CLOCK_OR_SIGNATURE


def _read(answer: Answer, read: Callable[[bytes], _T]) -> _T:
    try:
        return read(answer.body)
    except AnswerError as error:
        raise ProtocolError(f"{error}: {answer.summary}", **answer.facts) from error


def _about(commitment: str | None, error: BackendError) -> BackendError:
    error.task_id = commitment
    return error


def _lost(url: str, said: str) -> SubmissionUnknownError:
    return SubmissionUnknownError(
        f"the create was sent and its answer does not tell what became of it ({said}); it is sent again, because the "
        "relay makes one task of one commitment, and takes one fee",
        url=url,
    )
