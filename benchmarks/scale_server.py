"""The server that every client of ``benchmarks.scale`` talks to: as little as can be, so that the clients are measured.

``python -m benchmarks.scale_server ARCHIVE`` prints its port and answers until it is killed: a status request with a
word, a request for a result with the archive. Tasks from ``FIRST_SUCCESS`` on have ended, all others run.
"""

import asyncio
import sys
from pathlib import Path

FIRST_SUCCESS = 1_000_000_000
_MODIFIED = b"Thu, 01 Jan 2026 00:00:00 GMT"


class _Connection(asyncio.Protocol):
    """One client's connection; requests have no body."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._received = b""
        self._transport: asyncio.Transport
        self._sending: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        if self._sending is not None:
            self._sending.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            request, _, self._received = self._received.partition(b"\r\n\r\n")
            path = request.split(b" ", 2)[1]
            task_id, what = path.rsplit(b"/", 2)[1:]
            if what == b"result":
                self._sending = asyncio.get_running_loop().create_task(self._send_archive())
            else:
                self._transport.write(_status(task_id))

    async def _send_archive(self) -> None:
        with self._archive.open("rb") as file:
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\nLast-Modified: %b\r\nContent-Length: %d\r\n\r\n"
                % (_MODIFIED, self._archive.stat().st_size)
            )
            try:
                await asyncio.get_running_loop().sendfile(self._transport, file)
            except ConnectionError:
                self._transport.close()


def _status(task_id: bytes) -> bytes:
    word = b"success" if int(task_id) >= FIRST_SUCCESS else b"running"
    body = b'{"message":"success","data":{"id":%b,"status":"%b"}}' % (task_id, word)
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


async def serve(archive: Path) -> None:
    """Listen on a free port of this machine, print it, and answer for ever."""
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(archive), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
