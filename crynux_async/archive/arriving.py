"""Archives are verified while they arrive, so that little is left to do when the last byte is here.

Theory of operation
-------------------
Members lie side by side, each behind a header of its own, and the directory that decides what an archive holds comes
last. So the members are read in their order as far as the file has grown, as their own headers describe them, and each
that was read to its end with the right checksum is remembered as it was described. Once the file is whole it is
verified as any other; but a member which the directory describes exactly so, at the same place, is not read again, and
one that was begun is gone on with, by several threads where much is left (``side_by_side``). Nothing is judged before:
whatever looks wrong on the way, or is not understood, is left to that.
"""

import contextlib
import io
import os
import threading
from collections.abc import Collection, Container, Iterator
from functools import partial
from pathlib import Path
from typing import cast

from crynux_async.archive.inflate import INFLATE_ERRORS
from crynux_async.archive.lora_archive import ArchiveSummary, verify_archive
from crynux_async.archive.side_by_side import Helpers, Opened, read_side_by_side
from crynux_async.archive.zip_directory import member_at
from crynux_async.archive.zip_members import ArchiveLimits, Member, MemberStream, open_regular

_DEFAULT_LIMITS = ArchiveLimits()
_FLAWS: tuple[type[Exception], ...] = (OSError, ValueError, MemoryError, *INFLATE_ERRORS)


class ArchiveVerifier:
    """Verifies archives that are whole, or are still arriving; see :func:`verify_archive` for what that means.

    Args:
        limits: What is accepted.
        helpers: Threads that may help to verify what is whole; by default as many as the processors leave room for.
    """

    def __init__(self, *, limits: ArchiveLimits = _DEFAULT_LIMITS, helpers: Helpers | None = None) -> None:
        self._limits = limits
        self._helpers = Helpers() if helpers is None else helpers

    def __call__(self, path: Path) -> ArchiveSummary:
        """Verify a whole archive."""
        return self.begin()(path)

    def begin(self) -> "ArrivingArchive":
        """Return what verifies one archive that is still arriving."""
        return ArrivingArchive(limits=self._limits, helpers=self._helpers)


class ArrivingArchive:
    """Verifies one archive of which there is more and more. Its calls block, and are made one after another.

    Args:
        limits: What is accepted.
        helpers: Threads that may help when it is whole; by default none.

    Attributes:
        checked: Members whose bytes are right, as the headers before them describe them.
    """

    def __init__(self, *, limits: ArchiveLimits = _DEFAULT_LIMITS, helpers: Helpers | None = None) -> None:
        self.checked: set[Member] = set()
        self._limits = limits
        self._helpers = Helpers(0) if helpers is None else helpers
        self._next_header = 0
        self._stream: MemberStream | None = None
        self._goes_on = True
        self._file: tuple[int, int] | None = None
        self._is_stopped = threading.Event()

    def advance(self, path: Path, arrived: int) -> None:
        """Read what has come since the last call.

        Args:
            path: Where the file is; one that has taken its place is not read.
            arrived: How many of its bytes are there, counted from the first.
        """
        try:
            with open_regular(path) as file:
                self._require_same(file)
                # Reading is all that members and headers do with it.
                self._read(cast("io.FileIO", _Beginning(file, arrived)))
        except _NotHereYetError:
            return
        except _FLAWS:
            # Said by ``__call__``, which finds it again and knows what the directory has to say.
            self._goes_on, self._stream = False, None

    def __call__(self, path: Path) -> ArchiveSummary:
        """Verify the archive, now that it is whole.

        Raises:
            ArchiveError: When anything is not as it should be, or there is no LoRA inside.
        """
        return verify_archive(path, limits=self._limits, read_ahead=self._read_rest)

    def _read_rest(self, members: Collection[Member], opened: Opened) -> Container[Member]:
        """Read what was not read while it came, beginning with what was begun."""
        with opened() as file, contextlib.suppress(ValueError):
            self._require_same(file)
        begun, self._stream = self._stream, None
        rest = [MemberStream(member) for member in members if member not in self.checked]
        if begun is not None and begun.member in members:
            rest = [begun, *(stream for stream in rest if stream.member != begun.member)]
        self.checked |= read_side_by_side(rest, partial(self._until_stopped, opened), self._helpers)
        if self._is_stopped.is_set():
            raise _StoppedError
        return self.checked

    @contextlib.contextmanager
    def _until_stopped(self, opened: Opened) -> Iterator[io.FileIO]:
        with opened() as file:
            yield cast("io.FileIO", _UntilStopped(file, self._is_stopped))

    def stop(self) -> None:
        """Have a call that verifies the archive end soon, with an exception that says nothing of it; any thread may."""
        self._is_stopped.set()

    def _require_same(self, file: io.FileIO) -> None:
        """Refuse another file than before, and believe nothing of that one: its members may lie at the same places."""
        status = os.fstat(file.fileno())
        if self._file not in (None, (status.st_dev, status.st_ino)):
            self.checked.clear()
            self._stream = None
            raise ValueError("is not the file that was here before")
        self._file = (status.st_dev, status.st_ino)

    def _read(self, file: io.FileIO) -> None:
        while self._goes_on:
            if self._stream is None:
                member = member_at(file, self._next_header, self._limits)
                unpacked = sum(one.size_bytes for one in self.checked) + (member.size_bytes if member else 0)
                if member is None or unpacked > self._limits.total_bytes or len(self.checked) == self._limits.members:
                    self._goes_on = False
                    return
                self._stream = MemberStream(member)
            self._stream.drain(file)
            member, self._stream = self._stream.member, None
            self.checked.add(member)
            self._next_header = member.offset_bytes + member.packed_bytes


class _StoppedError(Exception):
    """Nobody wants to know any more whether the archive is good."""


class _UntilStopped:
    """A file from which nothing is read any more once that was said."""

    def __init__(self, file: io.FileIO, is_stopped: threading.Event) -> None:
        self._file = file
        self._is_stopped = is_stopped

    def seek(self, position: int) -> None:
        """Go to a byte."""
        self._file.seek(position)

    def read(self, count: int) -> bytes:
        """Return the next bytes."""
        self._require_wanted()
        return self._file.read(count)

    def readinto(self, buffer: memoryview) -> int:
        """Put the next bytes into a buffer and return how many."""
        self._require_wanted()
        return self._file.readinto(buffer)

    def _require_wanted(self) -> None:
        if self._is_stopped.is_set():
            raise _StoppedError


class _NotHereYetError(Exception):
    """Bytes were asked for that have not arrived."""


class _Beginning:
    """The bytes of a file that have arrived; behind them there may be room with nothing in it."""

    def __init__(self, file: io.FileIO, arrived: int) -> None:
        self._file = file
        self._left = arrived
        self._arrived = arrived

    def seek(self, position: int) -> None:
        """Go to a byte, which need not be here yet."""
        self._file.seek(position)
        self._left = self._arrived - position

    def read(self, count: int) -> bytes:
        """Return the next bytes, fewer where not all are here."""
        data = self._file.read(self._available(count))
        self._left -= len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Put the next bytes into a buffer and return how many."""
        count = self._file.readinto(buffer[: self._available(len(buffer))])
        self._left -= count
        return count

    def _available(self, count: int) -> int:
        if self._left <= 0:
            raise _NotHereYetError
        return min(count, self._left)
