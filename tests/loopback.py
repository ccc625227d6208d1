"""Servers on loopback that say and do exactly what a test tells them, byte by byte."""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from socket import SO_LINGER, SOL_SOCKET

import attrs

ZIP = "application/zip"
JSON = "application/json; charset=utf-8"


@attrs.frozen(kw_only=True)
class Request:
    """One request as it came over the wire.

    Attributes:
        method, target: From the request line.
        headers: By lower-case name.
        body: As many bytes as were announced.
        raw: All of it.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    raw: bytes


class Peer:
    """The server's end of one connection."""

    def __init__(self, server: "RawServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer

    async def request(self) -> Request | None:
        """Return the next request, or None when the client has closed."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            self.server.loose_bytes += error.partial
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines if line]
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        method, target, _ = first.split(" ")
        request = Request(method=method, target=target, headers=headers, body=body, raw=head + body)
        self.server.requests.append(request)
        return request

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def silence(self) -> None:
        """Say nothing more until the client closes."""
        while await self.reader.read(1 << 16):
            pass

    async def finish(self) -> None:
        """End with a FIN, whatever the client still sends."""
        self.writer.write_eof()
        await self.silence()

    def reset(self) -> None:
        """End with a RST."""
        self.writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class RawServer:
    """A listening server and what it has seen.

    Attributes:
        requests: Every whole request, in order.
        accepted: Connections accepted.
        open: Connections open now.
        loose_bytes: What came and was no whole request.
        failures: What went wrong in a script, other than the client's going away.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.accepted = 0
        self.open = 0
        self.loose_bytes = b""
        self.failures: list[BaseException] = []
        self.host = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Run the script on one connection, then close it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        self.open += 1
        try:
            await self.script(Peer(self, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass  # the client went away, or the test is over
        except Exception as error:
            self.failures.append(error)
        finally:
            self._tasks.discard(task)
            self.open -= 1
            writer.close()

    async def all_closed(self) -> None:
        """Wait until no connection is open."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def stop(self) -> None:
        """Cut what is still open."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def serving(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """Run a server on a free port of 127.0.0.1; ``server.host`` is its "address:port"."""
    server = RawServer(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.host = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await server.stop()
        await listener.wait_closed()
    assert not server.failures, server.failures


def answer(status: int, body: bytes | str = b"", content_type: str = JSON, **headers: str | None) -> bytes:
    """Return an HTTP/1.1 answer; a header whose value is None is left out, ``_`` in names means ``-``."""
    data = body.encode() if isinstance(body, str) else body
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"Content-Type": content_type, "Content-Length": str(len(data)), **given}
    reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"HTTP/1.1 {status} {reason}\r\n{lines}\r\n".encode("latin-1") + data


def always(data: bytes) -> Script:
    """Return a script that gives every request the same answer and keeps the connection."""

    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(data)

    return script


def once(*pieces: bytes, end: Callable[[Peer], Awaitable[None]] = Peer.finish) -> Script:
    """Return a script that sends ``pieces`` after a request, each alone, and then does ``end``."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for piece in pieces:
            await peer.send(piece)
            await asyncio.sleep(0.001)
        await end(peer)

    return script


def in_turn(scripts: Iterator[Script]) -> Script:
    """Return a script that handles every connection with the next of ``scripts``."""

    async def script(peer: Peer) -> None:
        await next(scripts)(peer)

    return script


async def reset(peer: Peer) -> None:
    """Cut the connection with a RST."""
    peer.reset()


async def forward(peer: Peer) -> None:
    """Be an HTTP proxy: pass requests on, and make tunnels for CONNECT."""
    request = await peer.request()
    if request is None:
        return
    tunnel = request.method == "CONNECT"
    authority = request.target if tunnel else request.target.split("/")[2]
    host, _, port = authority.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        if tunnel:
            await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            writer.write(request.raw.replace(f"http://{authority}".encode(), b"", 1))
        await asyncio.gather(_pump(peer.reader, writer), _pump(reader, peer.writer))
    finally:
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()
