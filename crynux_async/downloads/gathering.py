"""Writing while reading: pieces gather for the next write while the last one is under way.

A write for every piece that the network gives costs more than the bytes do, and waiting for each write halves the
speed. So one write is under way at most; what comes meanwhile is the next one, and small pieces wait up to two seconds
for more. How much may gather is bounded, so that memory is.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

from aiofiles.threadpool import wrap
from aiofiles.threadpool.binary import AsyncFileIO

from crynux_async.downloads.disk import RawFile
from crynux_async.errors import CrynuxError
from crynux_async.threads import to_the_end

GATHERED_BYTES = 3 << 18
WORTH_A_WRITE = 1 << 16
# Seconds that less than that waits for more: a thousand slow downloads must not write four thousand times.
_LINGER = 2.0


class Gatherer:
    """Appends pieces to a file in the background.

    Args:
        file: Where to; at its end.
        disk_errors: Turns what the file system says into what a user is told.

    Attributes:
        written: Bytes on disk, >= 0, without those that are appended and not flushed.
    """

    __slots__ = (
        "_disk_errors",
        "_file",
        "_lingering",
        "_room",
        "_waiting",
        "_waiting_bytes",
        "_writer",
        "_writing",
        "written",
    )

    def __init__(self, file: RawFile, disk_errors: Callable[[], AbstractContextManager[None]]) -> None:
        self.written = file.end
        self._file = file
        self._disk_errors = disk_errors
        self._writer: AsyncFileIO | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._writing: asyncio.Task[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be written that nothing more should be appended before ``make_room``."""
        return self._waiting_bytes >= GATHERED_BYTES

    def append(self, piece: bytes) -> None:
        """Have ``piece`` written after everything before it, without waiting for that.

        Raises:
            DownloadError: A write failed.
        """
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        # A write that is under way takes what came meanwhile when it ends, so nothing is begun beside it.
        if self._writing is None or self._writing.done():
            self._raise_failure()
            if self._waiting_bytes >= WORTH_A_WRITE:
                self._begin_write()
            elif self._lingering is None:
                self._lingering = asyncio.get_running_loop().call_later(_LINGER, self._begin_write)

    async def make_room(self) -> None:
        """Wait until what has gathered is being written.

        Raises:
            DownloadError: A write failed.
        """
        # Nothing was awaited since ``is_full`` was read, so the write that makes room is still to come.
        self._room.clear()
        await self._room.wait()
        self._raise_failure()

    async def flush(self) -> None:
        """Wait until every appended piece is written.

        Raises:
            DownloadError: A write failed.
        """
        self._begin_write()
        if self._writing is not None:
            await asyncio.wait((self._writing,))
            self._raise_failure()

    async def leave(self) -> None:
        """Write what is there, even for a caller who is cancelled; whether that works is not told."""
        self._begin_write()
        if self._writing is not None:
            try:
                await to_the_end(self._writing)
            except CrynuxError:  # whoever leaves without a flush has an error of his own
                return

    def _begin_write(self) -> None:
        """Start to write what has gathered, unless a write is under way (then it is next) or has failed."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        is_free = self._writing is None or (self._writing.done() and self._writing.exception() is None)
        if self._waiting and is_free:
            self._writing = asyncio.create_task(self._write_waiting())

    def _raise_failure(self) -> None:
        if self._writing is not None and self._writing.done():
            self._writing.result()

    async def _write_waiting(self) -> None:
        try:
            while self._waiting:
                pieces, self._waiting, self._waiting_bytes = self._waiting, [], 0
                self._room.set()
                await self._write(pieces)
        finally:
            self._room.set()

    async def _write(self, pieces: list[bytes]) -> None:
        if self._writer is None:
            # Not in the constructor: that runs in a thread, where there is no loop.
            self._writer = wrap(self._file, loop=asyncio.get_running_loop())
        with self._disk_errors():
            try:
                await self._writer.writelines(pieces)
            finally:
                self.written = self._file.end
