"""Bringing an answer to the client, whole or maimed."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Literal

import attrs
from aiohttp import web

from crynux_async.emulator.http.answers import Answer

End = Literal["fin", "rst", "stall"]

# Often enough that no client's read timeout ever sees silence.
_STEPS_PER_SECOND = 4
# A linger of zero seconds: closing drops what is unsent and sends a reset.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@attrs.frozen(kw_only=True)
class Delivery:
    """How an answer is brought to the client.

    Attributes:
        seconds: How long it waits.
        is_raw: Whether it is written byte by byte and the connection ends with it.
        limit: How many bytes of head and body are sent; None for all.
        with_length: Whether there is a Content-Length.
        bytes_per_second: Speed of the body, or None.
        end: How the connection ends.
    """

    seconds: float = 0.0
    is_raw: bool = False
    limit: int | None = None
    with_length: bool = True
    bytes_per_second: int | None = None
    end: End = "fin"


async def send(
    request: web.BaseRequest, answer: Answer, delivery: Delivery, hang: Callable[[], Awaitable[None]]
) -> web.StreamResponse:
    """Send an answer and close its file.

    Args:
        request: What is answered.
        answer: The answer.
        delivery: How it is to arrive.
        hang: Waits until the connection is gone.

    Returns:
        What aiohttp wants back; when the connection is gone already, it finds out by itself.
    """
    try:
        if delivery.seconds:
            await asyncio.sleep(delivery.seconds)
        if delivery.is_raw:
            return await _send_raw(request, answer, delivery, hang)
        return await _send_exactly(request, answer)
    except ConnectionError:
        return web.Response()
    finally:
        if answer.file is not None:
            answer.file.close()


async def _send_exactly(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    response = _ExactResponse(answer)
    await response.prepare(request)
    return response


class _ExactResponse(web.StreamResponse):
    """An answer with its own headers and no others: aiohttp would add its name, and a type to what has none."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(status=answer.status)
        self._answer = answer
        self._is_sent = False
        self._stays = False

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection stays open."""
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send everything."""
        # aiohttp prepares whatever a handler returns, this one too.
        if self._is_sent:
            return
        self._is_sent = True
        self._stays = request.keep_alive
        answer = self._answer
        self.headers.extend(answer.headers)
        # RFC 9110, section 8.6: a 204 must not have one.
        if answer.status != 204:
            self.headers["Content-Length"] = str(answer.length)
        if not self._stays:
            self.headers["Connection"] = "close"
        await request.writer.write_headers(answer.status_line, self.headers)
        # The client would take a body for the next answer of the connection.
        if request.method != "HEAD":
            for chunk in answer.chunks():
                await request.writer.write(chunk)
        await request.writer.write_eof()

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: everything is sent already."""


async def _send_raw(
    request: web.BaseRequest, answer: Answer, delivery: Delivery, hang: Callable[[], Awaitable[None]]
) -> web.StreamResponse:
    left = delivery.limit
    # No response was prepared, so aiohttp's writer passes bytes on as they are, and the head is ours.
    for chunk in _raw_chunks(answer, delivery):
        part = chunk if left is None else chunk[:left]
        if not part:
            break
        await request.writer.write(part)
        left = None if left is None else left - len(part)
        if delivery.bytes_per_second:
            await asyncio.sleep(len(part) / delivery.bytes_per_second)
    await _end(request, delivery.end, hang)
    return web.Response()


def _raw_chunks(answer: Answer, delivery: Delivery) -> Iterator[bytes]:
    yield answer.head(with_length=delivery.with_length)
    if delivery.bytes_per_second is None:
        yield from answer.chunks()
        return
    step = max(1, delivery.bytes_per_second // _STEPS_PER_SECOND)
    for chunk in answer.chunks():
        for start in range(0, len(chunk), step):
            yield chunk[start : start + step]


async def _end(request: web.BaseRequest, end: End, hang: Callable[[], Awaitable[None]]) -> None:
    transport = request.transport
    if transport is None:
        return
    match end:
        case "fin":
            transport.close()
        case "rst":
            reset(transport)
        case "stall":
            await hang()


def reset(transport: asyncio.Transport) -> None:
    """Close a connection with a TCP reset."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
