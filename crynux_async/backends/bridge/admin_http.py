"""HTTP for the admin calls: a request in, an answer with the server's clock out, and no key or token in any text."""

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import attrs
from yarl import URL

from crynux_async.backends.bridge.proxies import environment_proxy
from crynux_async.backends.bridge.wire import MAX_ANSWER_BYTES, Answer
from crynux_async.errors import TransportError, UnreachableError
from crynux_async.secret import Secret
from crynux_async.settings import Settings
from crynux_async.version import USER_AGENT

_SAID_CHARS = 300
_ERRORS = (aiohttp.ClientError, aiohttp.http.HttpProcessingError, TimeoutError, OSError, UnicodeError)


@attrs.frozen(kw_only=True)
class Reply:
    """An answer, and what the server's clock showed.

    Attributes:
        answer: The answer.
        server_time: The ``Date`` header, whole seconds, or None where there was none.
    """

    answer: Answer
    server_time: datetime | None


class AdminHttp:
    """Sends requests to one bridge. Must be made inside a running event loop.

    Args:
        settings: Address, timeouts, proxy and certificates; its key is not used.
    """

    def __init__(self, settings: Settings) -> None:
        tls: ssl.SSLContext | bool = True
        if settings.ca_bundle is not None:
            tls = ssl.create_default_context(cafile=settings.ca_bundle)
        self._base = URL(settings.base_url)
        self._proxy = settings.proxy or (environment_proxy(settings.base_url) if settings.trust_env else None)
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=4, ssl=tls),
            timeout=aiohttp.ClientTimeout(total=settings.request_timeout, sock_connect=settings.connect_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        )

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json: Mapping[str, Any] | None = None,
        secrets: tuple[Secret, ...] = (),
        most_bytes: int = MAX_ANSWER_BYTES,
    ) -> Reply:
        """Send a request once and return what was answered.

        Args:
            method: The HTTP method.
            path: The path, encoded.
            query: What goes into the address.
            json: What goes into the body.
            secrets: What must stand in no text.
            most_bytes: How much of the answer is read.

        Raises:
            UnreachableError: No connection; nothing was sent.
            TransportError: The connection broke, or the answer took too long.
        """
        url = self._base.with_path(self._base.raw_path.rstrip("/") + path, encoded=True)
        try:
            async with self._http.request(
                method,
                url.with_query(query) if query else url,
                json=json,
                proxy=self._proxy,
                allow_redirects=False,
            ) as response:
                body = await _body(response, most_bytes)
                return _reply(response, body, _masked(str(url), secrets), secrets, most_bytes)
        except aiohttp.ClientConnectorError as error:
            said, was_sent = error.os_error.strerror or str(error.os_error), False
        except _ERRORS as error:
            said, was_sent = str(error) or type(error).__name__, True
        # Raised outside of the except clause: the repr of aiohttp's errors shows the request.
        said = " ".join(_masked(said, secrets).split())[:_SAID_CHARS]
        failure = TransportError if was_sent else UnreachableError
        what = "did not answer" if was_sent else "cannot be reached"
        raise failure(f"{url.authority} {what}: {said}", url=_masked(str(url), secrets))

    async def close(self) -> None:
        """Release every connection."""
        await self._http.close()


async def _body(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > most_bytes:
            break
    return b"".join(parts)


def _reply(
    response: aiohttp.ClientResponse, body: bytes, url: str, secrets: tuple[Secret, ...], most_bytes: int
) -> Reply:
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    kept = body[:most_bytes]
    answer = Answer(
        status=response.status,
        content_type=_masked(kind, secrets),
        body=kept if response.status == 200 else _masked(kept.decode("latin-1"), secrets).encode("latin-1"),
        url=url,
        truncated=len(body) > most_bytes,
    )
    return Reply(answer=answer, server_time=_date(response.headers.get("Date", "")))


def _masked(text: str, secrets: tuple[Secret, ...]) -> str:
    for secret in secrets:
        text = secret.mask(text)
    return text


def _date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None
