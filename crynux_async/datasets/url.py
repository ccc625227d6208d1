"""check_url(): asking an address what a node asks, in its order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import attrs

from crynux_async.datasets.url_rules import (
    HEAD_BYTES,
    UrlObservation,
    UrlReport,
    extracted_as,
    is_http,
    judge_url,
    stored_name,
)
from crynux_async.errors import UsageError

if TYPE_CHECKING:
    import aiohttp

# What the requests library of a node sends; some hosts answer other clients differently.
_HEADERS: Final = {"User-Agent": "python-requests/2.32.3", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}
_FIRST_BYTES: Final = {**_HEADERS, "Accept-Encoding": "identity", "Range": f"bytes=0-{HEAD_BYTES - 1}"}
# aiohttp gives up at the last redirect of max_redirects, requests after 30.
_FOLLOW: Final[Any] = {"allow_redirects": True, "max_redirects": 31, "raise_for_status": False}


async def check_url(url: str, *, session: "aiohttp.ClientSession | None" = None, timeout: float = 30.0) -> UrlReport:
    """Ask an address what a node would ask, and say whether a node could load a data set from it.

    One HEAD and, if that succeeds, one GET for the first 64 KiB. The content as a whole is not checked: check() does
    that on the file.

    Args:
        url: The address of an archive.
        session: An aiohttp session without credentials, or None for one of its own.
        timeout: Seconds for everything together, > 0.

    Returns:
        What was found; a server that does not answer is a finding too.

    Raises:
        UsageError: The session sends credentials, which no node would.
    """
    observation = UrlObservation(url=url)
    if is_http(url):
        observation = await _observe(url, session=session, timeout=timeout)
    name = stored_name(url, observation.content_disposition)
    return UrlReport(
        observation=observation,
        name=name,
        archive=extracted_as(name, observation.head, observation.content_type) or "",
        problems=judge_url(observation),
    )


async def _observe(url: str, *, session: "aiohttp.ClientSession | None", timeout: float) -> UrlObservation:
    import aiohttp  # not above: whoever checks a folder or a config needs no HTTP client

    seen = UrlObservation(url=url)
    try:
        async with asyncio.timeout(timeout), _session(session) as client:
            seen = await _head(client, seen)
            if seen.head_status is not None and seen.head_status < 400:
                seen = await _first_bytes(client, seen)
    except TimeoutError:
        return attrs.evolve(seen, failure=f"nothing within {timeout:g} seconds")
    # ValueError: what aiohttp raises for addresses that no request can be made of, also after a redirect.
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return attrs.evolve(seen, failure=_failure(error))
    return seen


@asynccontextmanager
async def _session(given: "aiohttp.ClientSession | None") -> AsyncIterator["aiohttp.ClientSession"]:
    import aiohttp

    if given is None:
        async with aiohttp.ClientSession() as own:
            yield own
    elif given.auth is not None or "Authorization" in given.headers:
        raise UsageError("check_url() needs a session without credentials: a node sends none", field="session")
    else:
        yield given


async def _head(client: "aiohttp.ClientSession", seen: UrlObservation) -> UrlObservation:
    async with client.head(seen.url, headers=_HEADERS, **_FOLLOW) as answer:
        return attrs.evolve(
            seen,
            head_status=answer.status,
            redirects=len(answer.history),
            content_disposition=answer.headers.get("Content-Disposition"),
            size=_size(answer.headers.get("Content-Length")),
        )


async def _first_bytes(client: "aiohttp.ClientSession", seen: UrlObservation) -> UrlObservation:
    async with client.get(seen.url, headers=_FIRST_BYTES, **_FOLLOW) as answer:
        head = bytearray()
        # A server may ignore the range and send everything: leaving the block closes the connection then.
        while answer.status < 400 and len(head) < HEAD_BYTES:
            piece = await answer.content.read(HEAD_BYTES - len(head))
            if not piece:
                break
            head += piece
        total = _size(answer.headers.get("Content-Range", "").rpartition("/")[2])
        return attrs.evolve(
            seen,
            get_status=answer.status,
            content_type=answer.headers.get("Content-Type"),
            size=seen.size if total is None else total,
            head=bytes(head),
        )


def _size(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _failure(error: Exception) -> str:
    """What went wrong, in words of its own: the text of an error may hold the address with its secrets."""
    import aiohttp

    kinds: tuple[tuple[type[Exception], str], ...] = (
        (aiohttp.TooManyRedirects, "too many redirects"),
        (aiohttp.ClientSSLError, "its certificate is not accepted, or the connection is not secure"),
        (aiohttp.ClientConnectorDNSError, "its host name is not known"),
        (aiohttp.ClientConnectorError, "no connection"),
        (aiohttp.ServerDisconnectedError, "the server closed the connection"),
        (ValueError, "it is not an address that can be asked"),
    )
    return next((text for kind, text in kinds if isinstance(error, kind)), type(error).__name__)
