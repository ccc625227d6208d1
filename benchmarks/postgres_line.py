"""A line to a PostgreSQL server that can be cut at any message, and at any byte.

It reads what a client sends as the protocol has it (postgresql.org/docs/current/protocol-message-formats.html): a first
message of a length and its content, then messages of a letter, a length and their content.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.postgres_server import PORT, PostgresServer

_PIECE = 65_536
_ASKING = (b"S", b"Q")  # Sync, Query: what the server answers to


class Line:
    """A way to a server through this process.

    Args:
        server: Where it leads.

    Attributes:
        folder: Where its socket is, for clients.
        messages: How many messages clients have sent through it.
        sent: How many bytes clients have sent through it.
        cuts: How often it was cut.
        is_down: Whether it takes no new connections.
        slow: Seconds that each message takes that asks for an answer.
    """

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self._server = server
        self.folder = folder
        self.messages = self.sent = self.cuts = 0
        self.is_down = self._stays_down = False
        self.slow = 0.0
        self._before: Callable[[bytes], bool] | None = None
        self._after: Callable[[bytes], bool] | None = None
        self._cut_at_message = self._cut_at_byte = -1
        self._open: set[asyncio.StreamWriter] = set()

    def url(self, **options: str) -> str:
        """Return the server's address by this line."""
        return self._server.url(**{**options, "host": str(self.folder)})

    def cut_before(self, message: bytes) -> None:
        """Cut the line, once, when a client sends something with these bytes, before the server gets it."""
        self._before = lambda sent: message in sent

    def cut_after(self, message: bytes, *, stays_down: bool = False) -> None:
        """Cut the line, once, when the server has answered something with these bytes, before the client hears it.

        Args:
            message: What a client sends.
            stays_down: Whether it takes no new connections from then on.
        """
        self._after = lambda sent: message in sent
        self._stays_down = stays_down

    def cut_at_message(self, number: int) -> None:
        """Cut the line, once, in place of a client's message with this number from now on."""
        self.messages, self._cut_at_message = 0, number

    def cut_at_byte(self, number: int) -> None:
        """Cut the line, once, after so many more bytes of clients."""
        self.sent, self._cut_at_byte = 0, number

    def cut(self) -> None:
        """Cut every connection."""
        self.cuts += 1
        self.is_down |= self._stays_down
        self._before = self._after = None
        self._cut_at_message = self._cut_at_byte = -1
        for writer in list(self._open):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Lead one client to the server."""
        if self.is_down:
            writer.transport.abort()
            return
        there, back = await asyncio.open_unix_connection(self._server.folder / f".s.PGSQL.{PORT}")
        mine = {writer, back}
        self._open |= mine
        swallowing = asyncio.Event()
        ways = (self._requests(reader, back, swallowing), self._answers(there, writer, swallowing))
        try:
            await asyncio.wait([asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open -= mine
            for end in mine:
                end.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, swallowing: asyncio.Event
    ) -> None:
        is_first = True
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readexactly(4 if is_first else 5)
                length = int.from_bytes(head[-4:])
                message = head + await reader.readexactly(length - 4)
                is_first = False
                self.messages += 1
                if self.messages == self._cut_at_message or (self._before and self._before(message)):
                    self.cut()
                    return
                if self._after and self._after(message):
                    swallowing.set()
                if 0 <= self._cut_at_byte <= self.sent + len(message):
                    server.write(message[: self._cut_at_byte - self.sent])
                    await server.drain()
                    self.cut()
                    return
                self.sent += len(message)
                if self.slow and message[:1] in _ASKING:
                    await asyncio.sleep(self.slow)
                server.write(message)

    async def _answers(
        self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, swallowing: asyncio.Event
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(_PIECE):
                if swallowing.is_set():  # the server has answered, so it is done
                    self.cut()
                    return
                client.write(piece)


@asynccontextmanager
async def line_to(server: PostgresServer) -> AsyncIterator[Line]:
    """Give a line to a server."""
    with tempfile.TemporaryDirectory(prefix="crynux-line-") as place:
        line = Line(server, Path(place))
        listening = await asyncio.start_unix_server(line.serve, line.folder / f".s.PGSQL.{PORT}")
        try:
            yield line
        finally:
            listening.close()
            line.is_down = True
            line.cut()
            await asyncio.sleep(0)
