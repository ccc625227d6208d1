"""Sends requests to one service: each comes to one answer or one typed error, and no secret stands in either.

A request that may not be repeated goes over a connection of its own, never a kept one: on a kept connection that the
server has just closed nobody can tell whether the request arrived. Redirects are never followed (a followed 308 would
post twice), bodies are never decompressed (a small answer must not become a large one), and no aiohttp exception leaves
this module, because their ``repr`` shows the request: not even as the context of another one, so ours are raised after
the ``except`` has ended.
"""

import io
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import aiohttp
import attrs
from yarl import URL

from crynux_async.backends.http.answer import MAX_ANSWER_BYTES, Answer
from crynux_async.backends.http.proxies import environment_proxy
from crynux_async.backends.http.result import NETWORK_ERRORS, SAID_CHARS, Result, describe, media_type, shown_url
from crynux_async.backends.http.shared_timeout import SharedTimeout
from crynux_async.errors import (
    BackendError,
    CrynuxError,
    Problem,
    SettingsError,
    TransportError,
    UnreachableError,
    UsageError,
)
from crynux_async.secret import Secret
from crynux_async.settings import Settings
from crynux_async.values import Value
from crynux_async.version import USER_AGENT

PROXY_LOGIN_WANTED = 407

_Read = TypeVar("_Read")

Lost = Callable[[str, str], CrynuxError]
"""Makes the error of a request whose answer did not arrive, from the address and what is known of the reason."""


@attrs.frozen(kw_only=True)
class Request(Value):
    """What is asked of a service.

    Attributes:
        path: The path behind the service's own, encoded.
        method: The HTTP method.
        query: What goes into the address.
        headers: Headers of its own; what is secret in them belongs into ``secrets``.
        body: The body as it is sent, JSON, or None for none.
        secrets: What must stand in no text, besides the client's own: a signature, a token, a key.
        most_bytes: How much of the answer's body is read.
    """

    path: str
    method: str = "GET"
    query: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = attrs.field(default=None, repr=False)
    body: bytes | None = attrs.field(default=None, repr=False)
    secrets: tuple[Secret, ...] = ()
    most_bytes: int = MAX_ANSWER_BYTES


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


class HttpClient:
    """Sends requests to one service. Must be made inside a running event loop.

    Args:
        settings: Address, timeouts, proxy, certificates and connections; its key is not used.
        secrets: What must stand in no text of any request.
    """

    def __init__(self, settings: Settings, secrets: tuple[Secret, ...] = ()) -> None:
        self._settings = settings
        self._secrets = secrets
        self._base_url = URL(settings.base_url)
        self._base_path = self._base_url.raw_path.rstrip("/")
        self._patience = SharedTimeout(settings.request_timeout)
        # What bounds the rest stands here and in ``Result``; aiohttp's own way sets a timer for each request.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout)
        self._proxy = settings.proxy or (environment_proxy(settings.base_url) if settings.trust_env else None)
        tls = _tls(settings.ca_bundle)
        self._kept = _session(tls, limit=settings.max_connections, force_close=False)
        # No limit: the gate decides how many creates there are, and one that waited here would hold its token.
        self._fresh = _session(tls, limit=0, force_close=True)

    @property
    def sessions(self) -> tuple[aiohttp.ClientSession, ...]:
        """The connections: those that are kept, and those that serve once."""
        return self._kept, self._fresh

    async def send(self, request: Request) -> Answer:
        """Send a request that may be repeated, and return whatever was answered.

        Raises:
            UnreachableError: No connection; nothing was sent.
            TransportError: The connection broke, or the answer took too long.
        """
        return await self._exchange(request, self._kept, self._answer)

    async def send_once(self, request: Request, lost: Lost) -> Answer:
        """Send a request that must not be repeated, over a connection of its own, and return whatever was answered.

        Args:
            request: What is sent.
            lost: Makes the error of a request whose answer did not arrive: whatever went wrong once there was a
                connection leaves the outcome open, errors that nobody thought of included.

        Raises:
            UnreachableError: No connection; nothing was sent.
            CrynuxError: As ``lost`` makes it.
        """
        return await self._exchange(request, self._fresh, self._answer, lost)

    def send_unless(self, request: Request, usual: bytes) -> Coroutine[Any, Any, Answer | None]:
        """Send a request that may be repeated; return None if the answer is a success with exactly the body ``usual``.

        Nearly all status requests are answered so, and to read that answer like any other costs a tenth of them.

        Raises:
            UnreachableError, TransportError: As ``send``.
        """

        def read(request: Request, response: aiohttp.ClientResponse, body: bytes) -> Answer | None:
            return None if body == usual and response.status == 200 else self._answer(request, response, body)

        return self._exchange(request, self._kept, read)

    async def open(self, request: Request, task_id: str) -> Result | Answer:
        """Ask for a result; return it when it has begun to come, within ``request_timeout``, or what came instead.

        Args:
            request: What is asked; ``range_headers`` makes the headers that ask for a part.
            task_id: Whose result it is, for errors.

        Raises:
            ProtocolError: The answer contradicts itself or is no result.
            UnreachableError, TransportError: No answer that counts.
        """
        progress = self._begin()
        try:
            # A result may take hours to come; then its silence is bounded (``_Silence``).
            with self._patience():
                response = await self._ask(request, self._kept)
                return await self._begun(request, response, task_id)
        except BackendError as error:
            error.task_id = task_id
            raise
        except NETWORK_ERRORS as error:
            failure = self._failure(error, request, progress)
            failure.task_id = task_id
        raise failure

    async def close(self) -> None:
        """Release every connection."""
        for session in self.sessions:
            await session.close()
        self._patience.close()

    async def _exchange(
        self,
        request: Request,
        session: aiohttp.ClientSession,
        read: Callable[[Request, aiohttp.ClientResponse, bytes], _Read],
        lost: Lost | None = None,
    ) -> _Read:
        """Send a request and return what ``read`` makes of the answer and its body."""
        progress = self._begin()
        try:
            with self._patience():
                response = await self._ask(request, session)
                try:
                    return read(request, response, await _body(response, request.most_bytes))
                finally:
                    # With the last byte of an answer its connection has gone back.
                    if response.connection is not None:
                        response.close()
        except Exception as error:
            # Once there was a connection the create may have arrived, whatever went wrong then (case S2).
            is_lost = lost is not None and progress.connected
            if not is_lost and not isinstance(error, NETWORK_ERRORS):
                raise
            failure = self._failure(error, request, progress, lost)
        raise failure

    def _ask(self, request: Request, session: aiohttp.ClientSession) -> Awaitable[aiohttp.ClientResponse]:
        headers = request.headers
        if request.body is not None:
            headers = {**(headers or {}), "Content-Type": "application/json"}
        return session.request(
            request.method,
            self._url(request),
            # aiohttp warns of large bytes, because it would send them in one go.
            data=None if request.body is None else io.BytesIO(request.body),
            headers=headers,
            timeout=self._timeout,
            proxy=self._proxy,
            allow_redirects=False,
        )

    async def _begun(self, request: Request, response: aiohttp.ClientResponse, task_id: str) -> Result | Answer:
        """Return the result that an answer brings, or close the answer and return it."""
        try:
            if response.status in (200, 206):
                return Result(response, self._settings.read_timeout, self._hider(request), task_id)
            answer = self._answer(request, response, await _body(response, request.most_bytes))
        except BaseException:
            # Cancelled, too: an answer that nobody closes keeps its connection.
            response.close()
            raise
        response.close()
        return answer

    def _url(self, request: Request) -> URL:
        url = self._base_url.with_path(self._base_path + request.path, encoded=True)
        return url.with_query(request.query) if request.query else url

    def _begin(self) -> _Progress:
        """Return where it will be noted how far the next request of this task came."""
        if self._kept.closed:
            raise UsageError("this backend is closed; open a new session")
        progress = _Progress()
        # In the context: the connector knows nothing of our requests, and runs in the task of each.
        _PROGRESS.set(progress)
        return progress

    def _hider(self, request: Request) -> Callable[[str], str]:
        """Return what takes every secret out of a text; a page that shows the request may hold them."""
        secrets = self._secrets + request.secrets

        def hide(text: str) -> str:
            for secret in secrets:
                text = secret.mask(text)
            return text

        return hide

    def _answer(self, request: Request, response: aiohttp.ClientResponse, body: bytes) -> Answer:
        hide, headers = self._hider(request), response.headers
        kept = body[: request.most_bytes]
        # Texts for people are at the beginning; to look through all of a list of many MiB would hold up the loop.
        shown, rest = kept[:MAX_ANSWER_BYTES], kept[MAX_ANSWER_BYTES:]
        return Answer(
            status=response.status,
            content_type=hide(media_type(response)),
            # Every byte is a character of Latin-1, so any body comes back as it was.
            body=hide(shown.decode("latin-1")).encode("latin-1") + rest,
            url=hide(shown_url(response.url)),
            truncated=len(body) > request.most_bytes,
            content_range=headers.get("Content-Range", ""),
            location=hide(headers.get("Location", ""))[:SAID_CHARS],
            date=headers.get("Date", ""),
        )

    def _failure(
        self, error: Exception, request: Request, progress: _Progress, lost: Lost | None = None
    ) -> CrynuxError:
        hide, url = self._hider(request), self._url(request)
        said, shown = describe(error, hide), hide(shown_url(url))
        # aiohttp repeats a GET by itself when a kept connection turns out to be closed, and then nobody may be there.
        is_away = lost is None and isinstance(error, aiohttp.ClientConnectorError)
        if progress.connected and not is_away:
            if lost is not None:
                return lost(shown, said)
            return TransportError(f"the connection to {shown} broke: {said}", url=shown)
        if isinstance(error, aiohttp.ClientHttpProxyError) and error.status == PROXY_LOGIN_WANTED:
            message = f"{said}; put user and password into proxy= (or HTTPS_PROXY); nothing was sent"
            return UnreachableError(message, url=shown, is_lasting=True)
        return UnreachableError(f"{url.authority} cannot be reached: {said}; nothing was sent", url=shown)


async def _body(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """Read the body of an answer, up to somewhat more than a bound."""
    content = response.content
    if content.is_eof():
        return content.read_nowait()  # it came with the headers, as short ones do
    first = await content.readany()
    if content.at_eof():
        return first
    parts, size = [first], len(first)
    while not content.at_eof() and size <= most_bytes:
        parts.append(await content.readany())
        size += len(parts[-1])
    return b"".join(parts)


def _session(tls: ssl.SSLContext | bool, *, limit: int, force_close: bool) -> aiohttp.ClientSession:
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
