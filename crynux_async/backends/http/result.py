"""A result that is coming in: where it begins, which version it is, and its body in pieces."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable

import aiohttp
from yarl import URL

from crynux_async.backends.base import Validator
from crynux_async.backends.http.answer import parse_content_range
from crynux_async.errors import ProtocolError, TransportError

# UnicodeError: a host name that no DNS label can hold. HttpProcessingError: a body that is not chunked as it should be.
NETWORK_ERRORS = (aiohttp.ClientError, aiohttp.http.HttpProcessingError, TimeoutError, OSError, UnicodeError)
SAID_CHARS = 500


class Result:
    """A result that is coming in (``ResultStream``).

    Args:
        response: The answer, 200 or 206, whose body has not been read.
        read_timeout: The longest silence, in seconds.
        hide: Takes secrets out of a text.
        task_id: Whose result it is, for errors.

    Raises:
        ProtocolError: The answer contradicts itself or is no result.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, read_timeout: float, hide: Callable[[str], str], task_id: str
    ) -> None:
        self._response = response
        self._url = hide(shown_url(response.url))
        self._task_id = task_id
        self._read_timeout = read_timeout
        self._hide = hide
        self._start, total = _placed(response, self._url, hide)
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
        except NETWORK_ERRORS as error:
            said = describe(error, self._hide)
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


def range_headers(start: int, validator: Validator | None) -> dict[str, str]:
    """Return the headers that ask for a result from byte ``start`` on, provided it is still that version.

    The only conditional header ever sent is ``If-Range``: a Go server answers the others with an empty 200.
    """
    if start <= 0:
        return {}
    condition = {"If-Range": validator.last_modified} if validator is not None and validator.last_modified else {}
    return {"Range": f"bytes={start}-", **condition}


def shown_url(url: URL) -> str:
    """Return an address for people: without its query, where signatures and tokens stand."""
    return str(url.with_query(None))


def media_type(response: aiohttp.ClientResponse) -> str:
    """Return the media type of an answer without parameters, in lower case, or ""."""
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def describe(error: Exception, hide: Callable[[str], str]) -> str:
    """Say what a network error is, without the request that aiohttp's own text and ``repr`` may show."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        text = f"the proxy answered {error.status} {error.message}"
    elif isinstance(error, aiohttp.ClientResponseError):
        text = error.message
    elif type(error) in (aiohttp.ClientConnectorError, aiohttp.ClientConnectorDNSError):
        text = _system_reason(error)
    else:
        text = str(error)
    silent = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return " ".join(hide(text).split())[:SAID_CHARS] or silent


def _system_reason(error: Exception) -> str:
    """Return why nobody could be reached, in the system's words: aiohttp and asyncio repeat the address around them."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None
    if cause is None or not cause.errno:
        return str(error)
    is_asyncios = "onnect call failed" in (cause.strerror or "onnect call failed")
    return os.strerror(cause.errno) if is_asyncios else str(cause.strerror)


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
        # While the disk is behind nobody waits, and the peer may be as silent as it likes.
        until = (now if self._waits_since is None else self._waits_since) + self._seconds
        if now < until:
            self._timer = self._loop.call_at(until, self._look)
        else:
            self._content.set_exception(TimeoutError())


def _placed(response: aiohttp.ClientResponse, url: str, hide: Callable[[str], str]) -> tuple[int, int | None]:
    """Return where in the result the body begins, and the size of the whole result where it is told."""
    length = response.content_length
    kind, coding = media_type(response), response.headers.get("Content-Encoding", "").strip() or "identity"
    # A page or an error may come with 200, too; in a part file it would be damage.
    if coding.lower() != "identity" or kind.startswith(("text/", "multipart/")) or kind == "application/json":
        raise ProtocolError(
            f"a result was asked for and {hide(kind) or 'no content type'} ({hide(coding)}) came",
            url=url,
            status=response.status,
        )
    if response.status == 200:
        return 0, length
    match = parse_content_range(response.headers.get(aiohttp.hdrs.CONTENT_RANGE, ""))
    if match is None:
        raise ProtocolError("a part of a result came without saying which (Content-Range)", url=url, status=206)
    first, last, total = match
    # They contradict each other, so nobody can say which bytes these are (case D3).
    if length is not None and length != last - first + 1:
        raise ProtocolError(f"the result's part {first}-{last} has {length} bytes", url=url, status=206)
    return first, total


def _date(response: aiohttp.ClientResponse, hide: Callable[[str], str]) -> str | None:
    """Return ``Last-Modified`` word for word, or None where it could not be sent back in ``If-Range``."""
    text = hide(response.headers.get("Last-Modified", ""))
    # It is sent back in a header, where a line break begins another one.
    return text if text and text.isascii() and text.isprintable() else None
