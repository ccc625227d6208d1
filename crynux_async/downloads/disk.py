"""The file under a download: one writer at a time, many pieces to one write.

Everything here blocks and belongs in a thread, and nothing waits for anybody else.
"""

import contextlib
import errno
import functools
import io
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from crynux_async import files
from crynux_async.errors import DownloadError

if sys.platform != "win32":
    import fcntl

_OPEN_ATTEMPTS = 20
_MOST_PIECES = 512  # to one writev; Linux and macOS take 1024
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE. Source: linux/falloc.h


class LockedError(DownloadError):
    """Another download has the file."""


class RawFile(io.FileIO):
    """An unbuffered file that writes many pieces at once without copying them together.

    It is never closed under a write: the number of a closed file is soon that of another one.

    Args:
        path: Which file.
        opener: Returns a descriptor to read and write, as for ``open``.

    Attributes:
        end: Where in the file the last write ended.
    """

    def __init__(self, path: Path, opener: Callable[[str, int], int]) -> None:
        self._busy = threading.Lock()
        self.end = 0
        super().__init__(path, "r+", opener=opener)

    def close(self) -> None:
        """Close the file when nothing is being written."""
        with self._busy:
            super().close()

    def writelines(self, pieces: Iterable[Any]) -> None:
        """Write all of every piece; the system may take less at once, and does so just before the disk is full."""
        rest = [memoryview(piece) for piece in pieces]
        with self._busy:
            while rest:
                count = os.writev(self.fileno(), rest[:_MOST_PIECES])
                self.end += count
                whole = 0
                while whole < len(rest) and count >= len(rest[whole]):
                    count -= len(rest[whole])
                    whole += 1
                del rest[:whole]
                if count:
                    rest[0] = rest[0][count:]


def open_locked(name: str, flags: int = 0) -> int:
    """Open the file called ``name``, made if it is not there, and lock it (an ``opener`` of ``open``).

    Args:
        name: Path of a regular file; a symbolic link is refused.
        flags: Ignored: it is opened to read and write.

    Returns:
        The descriptor of the file that has the name once the lock is held.

    Raises:
        LockedError: Another download holds the lock.
        DownloadError: It is not a regular file, or another one with every look.
        OSError: Whatever else the file system says.
    """
    del flags
    for _ in range(_OPEN_ATTEMPTS):
        try:
            descriptor = files.open_plain(name, os.O_RDWR | os.O_CREAT)
        except ValueError as error:
            raise DownloadError(f"{error}; remove it or choose another name") from error
        try:
            lock(descriptor, name)
            if files.is_at(descriptor, name):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had the lock has renamed or removed this file meanwhile
    raise DownloadError(f"{name} is another file each time it is opened; choose another name or another disk")


def open_in_place_of(target: Path, draft: Path, prepare: Callable[[int], object]) -> int:
    """Open a new file that takes the name ``target`` from whatever had it.

    Args:
        target: Path that the new file gets.
        draft: Path in the same folder under which it is made; a left-over there is removed.
        prepare: Does what must be done before it has the name, with the open file, perhaps twice: nobody finds it there
            without.

    Returns:
        The descriptor, open to read and write.

    Raises:
        DownloadError: Something named as the draft cannot be removed.
        OSError: Whatever else the file system says.
    """
    descriptor = _move_draft(draft, target, prepare)
    if not files.is_at(descriptor, target):
        # Where locks keep nobody away, another download has made or moved the same draft. Nobody guesses this name.
        os.close(descriptor)
        descriptor = _move_draft(target.with_name(f".{secrets.token_hex(8)}.part"), target, prepare)
    return descriptor


def _move_draft(draft: Path, target: Path, prepare: Callable[[int], object]) -> int:
    descriptor = open_draft(draft)
    try:
        prepare(descriptor)
        with contextlib.suppress(FileNotFoundError):  # another download moved or removed it
            os.replace(draft, target)
    except BaseException:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    return descriptor


def open_draft(draft: str | Path) -> int:
    """Make a new file where a draft of a process that was killed may lie, which is removed, and open it.

    The name can be guessed, so that the next process finds what was left. What is there is never written through.

    Raises:
        DownloadError: Another process makes the same draft each time, or something of that name cannot be removed.
        OSError: Whatever else the file system says.
    """
    for _ in range(_OPEN_ATTEMPTS):
        try:
            Path(draft).unlink(missing_ok=True)
        except (IsADirectoryError, PermissionError) as error:
            if not os.path.lexists(draft):
                raise
            raise DownloadError(f"{draft} is in the way; remove it or choose another name") from error
        try:
            return files.open_new(draft)
        except FileExistsError:
            continue
    raise DownloadError(f"another process is writing {draft}; call again")


def lock(descriptor: int, name: str) -> bool:
    """Keep other downloads away from an open file until it is closed; does nothing where the system cannot.

    It never waits: whoever has the lock may have been stopped, and then this process could not be ended either.

    Args:
        descriptor: The open file.
        name: What it is called, for the message.

    Returns:
        Whether they are kept away.

    Raises:
        LockedError: Another download has it.
    """
    if sys.platform == "win32":
        return False
    try:
        # Not lockf: a POSIX lock goes as soon as any descriptor of the file is closed in this process, a reader's too.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LockedError(f"another download is writing {name}; wait for it or choose another name") from error
    except OSError as error:
        if error.errno not in files.CANNOT_LOCK:
            raise
        return False  # a download is right without it (case D9)
    return True


def keep_room(descriptor: int, name: str, total_bytes: int) -> bool:
    """Have the file system keep the room for the whole of a file, whose length stays what it is.

    Nobody else, in this process or another, can take it then; ``give_room_back`` returns what was not needed. Nothing
    happens where the file system cannot (it has to be Linux's), or where locks do not work: two downloads that write to
    one file there would cut off each other's bytes when the room is given back.

    Args:
        descriptor: The open file.
        name: What it is called.
        total_bytes: Its length when it is complete, > 0.

    Returns:
        Whether it says that it does.

    Raises:
        LockedError: Another download has the file.
        OSError: The disk is full, or the quota used up.
    """
    allocate = _fallocate()
    # Locking once more what is locked already changes nothing, and tells whether locks work here at all.
    if allocate is None or not lock(descriptor, name):
        return False
    try:
        allocate(descriptor, _KEEP_SIZE, 0, total_bytes)
    except OSError as error:
        give_room_back(descriptor)  # some file systems keep as much as there was
        if error.errno in files.NO_SPACE:
            raise
        return False
    return True


def give_room_back(descriptor: int) -> None:
    """Return the room that is kept beyond a file's end, where the file system can; only under the file's lock."""
    with contextlib.suppress(OSError):
        # Cut at its own length, a file loses what is kept beyond it.
        os.ftruncate(descriptor, os.fstat(descriptor).st_size)


@functools.cache
def _fallocate() -> Callable[[int, int, int, int], object] | None:
    """Return the system's fallocate(2), or None; Python has posix_fallocate alone, which makes the file longer."""
    if sys.platform != "linux":
        return None
    import ctypes  # here: most programs that import this library never download

    library = ctypes.CDLL(None, use_errno=True)
    # With glibc the plain name takes an offset of 32 bits on some machines; other libraries have the plain one alone.
    found = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if found is None:
        return None
    # Without them ctypes passes C ints, which cuts sizes above 2 GiB.
    found.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

    def allocate(descriptor: int, mode: int, start: int, size: int) -> None:
        while found(descriptor, mode, start, size):
            number = ctypes.get_errno()
            # A signal came before it was done; Python repeats its own calls likewise (PEP 475).
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))

    return allocate
