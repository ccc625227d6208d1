"""HTTP to the bridge: one request in, one typed answer or error out.

Creates go over a connection of their own, never a kept one: on a kept connection that the server has just closed nobody
can tell whether the request arrived. Redirects are never followed (a followed 308 would post twice), bodies are never
decompressed (a small answer must not become a large one), and no aiohttp exception leaves this module, because their
``repr`` shows the key: not even as the context of another one, so ours are raised after the ``except`` has ended.
"""

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import aiohttp
import attrs
from yarl import URL

from crynux_async.backends.base import CreatedTask, ResultStream, Validator
from crynux_async.backends.bridge import wire
from crynux_async.backends.bridge.proxies import environment_proxy
from crynux_async.errors import (
    AuthError,
    BackendError,
    NotFoundError,
    OwnershipError,
    Problem,
    ProtocolError,
    RejectedError,
    SettingsError,
    SubmissionUnknownError,
    TransportError,
    UnreachableError,
    UsageError,
)
from crynux_async.settings import Settings
from crynux_async.version import USER_AGENT

_PATH = "/v1/images/models"
_PROBE_ID = 2**62  # no bridge has made so many tasks, so asking for this result can only be refused
_STATUSES = {status.value: status for status in wire.RemoteStatus}
_REACHED_BY_PRIMING = ("task_args", "timeout")  # fields that the bridge looks at after it has filed the key
_SAID_CHARS = 500
# UnicodeError: a host name that no DNS label can hold. HttpProcessingError: a body that is not chunked as it should be.
_NETWORK_ERRORS = (aiohttp.ClientError, aiohttp.http.HttpProcessingError, TimeoutError, OSError, UnicodeError)


@attrs.define(eq=False)
class _Progress:
    """Whether anything of a request can have left this machine."""

    connected: bool = False


_PROGRESS: ContextVar[_Progress] = ContextVar("crynux_async_progress")


class _Connector(aiohttp.TCPConnector):
    """Notes when the request of the running task has a connection.

    aiohttp's own way to tell, a ``TraceConfig``, costs a status request an eighth of its time.
    """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        """Return a connection for a request, kept or new."""
        connection = await super().connect(req, traces, timeout)
        _PROGRESS.get().connected = True  # no byte is sent before this returns
        return connection


class BridgeClient:
    """The bridge's calls, one method each. Must be made inside a running event loop.

    Args:
        settings: Address, key, timeouts, proxy and limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key = settings.api_key
        self._base_url = URL(settings.base_url)
        self._base_path = self._base_url.raw_path.rstrip("/") + _PATH
        self._patience = aiohttp.ClientTimeout(total=settings.request_timeout, sock_connect=settings.connect_timeout)
        self._proxy = settings.proxy or (environment_proxy(settings.base_url) if settings.trust_env else None)
        tls = _tls(settings.ca_bundle)
        self._http = _client(tls, limit=settings.max_connections, force_close=False)
        self._create_http = _client(tls, limit=0, force_close=True)

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
            answer = await self._get(self._url(f"/{_PROBE_ID}/result"), authorized=True)
            assert answer is not None
            wire.raise_for(answer)
        except NotFoundError as error:
            return wire.means_fresh_key(error)

    async def status(self, task_id: str) -> wire.RemoteStatus | str:
        """Return the status of a task; a word that is not known comes back as it is.

        Raises:
            NotFoundError: The bridge has no such task, or not any more.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; ask again later.
        """
        try:
            answer = await self._get(self._url(f"/{task_id}/status"), usual=wire.running_answer(task_id))
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

        The only conditional header ever sent is ``If-Range``: the bridge answers the others with an empty 200.

        Raises:
            RangeError, NotFoundError, OwnershipError, AuthError, QuotaError: As the bridge says.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; ask again later.
        """
        result = await self._open(task_id, _range(start, validator))
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
        await self._create_http.close()

    async def _post(self, body: bytes) -> wire.Answer:
        """Send one create and return whatever was answered; what happened to it otherwise is in the exception."""
        url, progress = self._url(), self._begin()
        try:
            response = await self._create_http.post(
                url,
                data=io.BytesIO(body),  # aiohttp warns of large bytes, because it would send them in one go
                headers={**self._authorization(), "Content-Type": "application/json"},
                timeout=self._patience,
                proxy=self._proxy,
                allow_redirects=False,
            )
            try:
                return self._answer(response, await _body(response))
            finally:
                response.close()
        except Exception as error:
            # Once connected, whatever went wrong leaves the outcome open, errors that nobody thought of included.
            if not progress.connected and not isinstance(error, _NETWORK_ERRORS):
                raise
            failure = self._lost_create(error, url) if progress.connected else self._failure(error, url, progress)
        raise failure

    async def _get(self, url: URL, *, authorized: bool = False, usual: bytes = b"") -> wire.Answer | None:
        """Return what was answered, or None if that is a success with exactly the body ``usual``.

        Nearly all status requests are answered so, and to read that answer like any other costs a tenth of them.
        """
        progress = self._begin()
        try:
            response = await self._http.get(
                url,
                headers=self._authorization() if authorized else None,
                timeout=self._patience,
                proxy=self._proxy,
                allow_redirects=False,
            )
            try:
                body = await _body(response)
                return None if usual and body == usual and response.status == 200 else self._answer(response, body)
            finally:
                response.close()
        except _NETWORK_ERRORS as error:
            failure = self._failure(error, url, progress)
        raise failure

    async def _open(self, task_id: str, span: dict[str, str]) -> "_BridgeResult":
        """Ask for a result and return it when it has begun to come, which must be within ``request_timeout``."""
        url, progress = self._url(f"/{task_id}/result"), self._begin()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout)
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                response = await self._http.get(
                    url,
                    headers={**self._authorization(), **span},
                    timeout=timeout,
                    proxy=self._proxy,
                    allow_redirects=False,
                )
                return await self._begun(response, task_id)
        except BackendError as error:
            error.task_id = task_id
            raise
        except _NETWORK_ERRORS as error:
            failure = self._failure(error, url, progress)
            failure.task_id = task_id
        raise failure

    async def _begun(self, response: aiohttp.ClientResponse, task_id: str) -> "_BridgeResult":
        """Return the result that an answer brings, or close the answer and raise what it says instead."""
        try:
            if response.status not in (200, 206):
                wire.raise_for(self._answer(response, await _body(response)))
            return _BridgeResult(response, task_id, self._settings.read_timeout, self._hide)
        except BaseException:
            response.close()
            raise

    def _url(self, rest: str = "") -> URL:
        return self._base_url.with_path(self._base_path + rest, encoded=True)

    def _begin(self) -> _Progress:
        """Return where it will be noted how far the next request of this task came."""
        if self._http.closed:
            raise UsageError("this backend is closed; open a new session")
        progress = _Progress()
        _PROGRESS.set(progress)
        return progress

    def _authorization(self) -> dict[str, str]:
        """Return the header with the key. It is kept in no variable, because some traceback printers show those."""
        if self._key is None:
            raise AuthError("no key is set: give api_key=... or set CRYNUX_API_KEY", field="api_key")
        return {"Authorization": f"Bearer {self._key.reveal()}"}

    def _answer(self, response: aiohttp.ClientResponse, body: bytes) -> wire.Answer:
        kept = body[: wire.MAX_ANSWER_BYTES]
        return wire.Answer(
            status=response.status,
            content_type=self._hide(_media_type(response)),
            body=self._hide(kept.decode("latin-1")).encode("latin-1"),
            url=str(response.url),
            truncated=len(body) > wire.MAX_ANSWER_BYTES,
            content_range=response.headers.get("Content-Range", ""),
            location=self._hide(response.headers.get("Location", ""))[:_SAID_CHARS],
        )

    def _hide(self, text: str) -> str:
        """Return ``text`` without the key, which a page that shows the request may hold."""
        return self._key.mask(text) if self._key else text

    def _lost_create(self, error: Exception, url: URL) -> SubmissionUnknownError:
        return SubmissionUnknownError(
            f"the create was sent and its answer did not arrive ({_describe(error, self._hide)}); the task may exist "
            "and is not sent again by itself, because that could pay twice",
            url=str(url),
        )

    def _failure(self, error: Exception, url: URL, progress: _Progress) -> TransportError | UnreachableError:
        said = _describe(error, self._hide)
        if progress.connected:
            return TransportError(f"the connection to {url} broke: {said}", url=str(url))
        if isinstance(error, aiohttp.ClientHttpProxyError) and error.status == wire.PROXY_LOGIN_WANTED:
            message = f"{said}; put user and password into proxy= (or HTTPS_PROXY); nothing was sent"
            return UnreachableError(message, url=str(url), is_lasting=True)
        return UnreachableError(f"{url.authority} cannot be reached: {said}; nothing was sent", url=str(url))


class _BridgeResult:
    """A result that is coming in (``ResultStream``)."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        task_id: str,
        read_timeout: float,
        hide: Callable[[str], str],
    ) -> None:
        url = str(response.url)
        self._response = response
        self._url = url
        self._task_id = task_id
        self._read_timeout = read_timeout
        self._hide = hide
        self._start, total = _placed(response, url, hide)
        self._validator = Validator(last_modified=_date(response, hide), total_bytes=total)

    @property
    def start(self) -> int:
        """Offset of the first byte of the body."""
        return self._start

    @property
    def validator(self) -> Validator:
        """Which version of the result the body belongs to."""
        return self._validator

    async def chunks(self, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Yield the body in pieces of at most ``chunk_bytes`` bytes.

        Raises:
            TransportError: The connection broke, or was silent for ``read_timeout`` seconds.
        """
        silence = _Silence(self._response.content, self._read_timeout)
        try:
            while piece := await silence.piece(chunk_bytes):
                yield piece
        except _NETWORK_ERRORS as error:
            said = _describe(error, self._hide)
            failure = TransportError(
                f"the download from {self._url} broke: {said}", url=self._url, task_id=self._task_id
            )
        else:
            return
        finally:
            silence.end()
        while piece := _rescued(self._response.content, chunk_bytes):
            yield piece
        raise failure

    def close(self) -> None:
        """Release the connection, which can serve again only if the body was read to its end."""
        self._response.close()


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """Read the body of an answer, up to somewhat more than a bound."""
    content = response.content
    body = await content.readany()
    while not content.at_eof() and len(body) <= wire.MAX_ANSWER_BYTES:
        body += await content.readany()
    return body


def _rescued(content: aiohttp.StreamReader, at_most: int) -> bytes:
    """Return bytes that came before a body broke and were not read yet, or b"" when there are no more.

    aiohttp raises the error first and would drop them: up to 2 MB each time a connection is cut.
    """
    content.set_exception(None)  # type: ignore[arg-type]  # nothing else lets go of the error
    return content.read_nowait(at_most)


class _Silence:
    """Reads a body, and breaks it when nothing comes for too long while somebody waits.

    There is one timer for all pieces: a thousand slow bodies would do little else than set timers and cancel them.
    aiohttp's ``sock_read`` will not do: it is dropped when a chunked body breaks, and the reader waits for ever.

    Args:
        content: The body.
        seconds: The longest silence.
    """

    def __init__(self, content: aiohttp.StreamReader, seconds: float) -> None:
        self._content = content
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._waits_since: float | None = None
        self._timer = self._loop.call_later(seconds, self._look)

    async def piece(self, at_most: int) -> bytes:
        """Return what is there, or b"" at the end."""
        self._waits_since = self._loop.time()
        try:
            return await self._content.read(at_most)
        finally:
            self._waits_since = None

    def end(self) -> None:
        """Stop looking."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        until = (now if self._waits_since is None else self._waits_since) + self._seconds
        if now < until:
            self._timer = self._loop.call_at(until, self._look)
        else:
            self._content.set_exception(TimeoutError())


def _placed(response: aiohttp.ClientResponse, url: str, hide: Callable[[str], str]) -> tuple[int, int | None]:
    """Return where in the result the body begins, and the size of the whole result where it is told.

    Raises:
        ProtocolError: The answer contradicts itself or is not a result.
    """
    length = response.content_length
    kind, coding = _media_type(response), response.headers.get("Content-Encoding", "").strip() or "identity"
    if coding.lower() != "identity" or kind.startswith(("text/", "multipart/")) or kind == "application/json":
        raise ProtocolError(
            f"a result was asked for and {hide(kind) or 'no content type'} ({hide(coding)}) came",
            url=url,
            status=response.status,
        )
    if response.status == 200:
        return 0, length
    span = aiohttp.hdrs.CONTENT_RANGE
    match = wire.parse_content_range(response.headers.get(span, ""))
    if match is None:
        raise ProtocolError("a part of a result came without saying which (Content-Range)", url=url, status=206)
    first, last, total = match
    if length is not None and length != last - first + 1:
        raise ProtocolError(f"the result's part {first}-{last} has {length} bytes", url=url, status=206)
    return first, total


def _range(start: int, validator: Validator | None) -> dict[str, str]:
    """Return the headers that ask for a result from byte ``start`` on."""
    if start <= 0:
        return {}
    condition = {"If-Range": validator.last_modified} if validator is not None and validator.last_modified else {}
    return {"Range": f"bytes={start}-", **condition}


def _media_type(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _date(response: aiohttp.ClientResponse, hide: Callable[[str], str]) -> str | None:
    """Return ``Last-Modified`` word for word, or None where it could not be sent back in ``If-Range``."""
    text = hide(response.headers.get("Last-Modified", ""))
    return text if text and text.isascii() and text.isprintable() else None


def _describe(error: Exception, hide: Callable[[str], str]) -> str:
    """Say what a network error is, without the request that aiohttp's own text and ``repr`` may show."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        text = f"the proxy answered {error.status} {error.message}"
    elif isinstance(error, aiohttp.ClientResponseError):
        text = error.message
    else:
        text = str(error)
    silent = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return " ".join(hide(text).split())[:_SAID_CHARS] or silent


def _client(tls: ssl.SSLContext | bool, *, limit: int, force_close: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=_Connector(limit=limit, force_close=force_close, ssl=tls),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
    )


def _tls(ca_bundle: str | None) -> ssl.SSLContext | bool:
    if ca_bundle is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError([Problem(field="ca_bundle", message=f"{ca_bundle} is no PEM file: {error}")]) from error
