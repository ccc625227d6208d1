"""What a download asks of the file system: one writer at a time, no overwriting, durable names, errors that help.

Everything here blocks and belongs in a thread.
"""

import contextlib
import errno
import io
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from crynux_async.errors import DownloadError

if sys.platform != "win32":
    import fcntl

_LOCK_ATTEMPTS = 20
_MOST_PIECES = 512  # to one writev; Linux and macOS take 1024
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_NO_FOLDER_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}


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


def open_locked(name: str, flags: int = 0, *, wait: bool = False) -> int:
    """Open the file called ``name``, made if it is not there, and lock it (an ``opener`` of ``open``).

    Args:
        name: Path of a regular file; a symbolic link is refused.
        flags: Ignored: it is opened to read and write.
        wait: Whether to wait for the lock.

    Returns:
        The descriptor of the file that has the name once the lock is held.

    Raises:
        DownloadError: Another download holds the lock, it is not a regular file, or it changes with every look.
        OSError: Whatever else the file system says.
    """
    del flags
    for _ in range(_LOCK_ATTEMPTS):
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DownloadError(f"{name} is not a regular file; remove it or choose another name")
            lock(descriptor, name, wait=wait)
            if is_at(descriptor, name):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had the lock has renamed or removed this file meanwhile
    raise DownloadError(f"{name} is another file each time it is opened; choose another name or another disk")


def open_in_place_of(target: Path, draft: str) -> int:
    """Open a new, locked, empty file that takes the name ``target`` from whatever had it.

    Args:
        target: Path that the new file gets.
        draft: Path in the same folder under which it is made; a left-over file there is removed.

    Returns:
        The descriptor, open to read and write.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        lock(descriptor, str(target))
        os.replace(draft, target)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def lock(descriptor: int, name: str, *, wait: bool = False) -> None:
    """Keep other downloads away from an open file until it is closed; does nothing where the system cannot.

    Args:
        descriptor: The open file.
        name: What it is called, for the message.
        wait: Whether to wait for the lock.

    Raises:
        DownloadError: Another download has it.
    """
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DownloadError(f"another download is writing {name}; wait for it or choose another name") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def is_at(descriptor: int, name: str | Path) -> bool:
    """Whether the open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name, follow_symlinks=False))
    except FileNotFoundError:
        return False


def move_without_overwriting(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target`` in the same folder, unless something has that name already.

    A file system without hard links gets a look and a rename instead: there, a foreign program that takes the name in
    between loses its file. Downloads keep each other away by the lock of the part file.

    Raises:
        FileExistsError: ``target`` is taken.
        FileNotFoundError: ``source`` is not there.
        OSError: Whatever else the file system says.
    """
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.rename(source, target)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(source)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system can.

    Raises:
        OSError: The disk failed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FSYNC:
            raise
    finally:
        os.close(descriptor)


def require_space(path: Path, needed: int, margin: int) -> None:
    """Check that a file can grow.

    Args:
        path: The final name of the file.
        needed: Bytes, >= 0, still to come.
        margin: Bytes, >= 0, that must stay free.

    Raises:
        DownloadError: There is not enough space; names both sizes.
    """
    usage = shutil.disk_usage(path.parent)
    if usage.total and needed + margin > usage.free:  # a total of 0: the file system does not tell
        raise DownloadError(_say_full(path, needed, margin, usage.free))


def explain(error: OSError, path: Path, needed: int) -> DownloadError:
    """Return the error that tells a user what to do about a disk error.

    Args:
        error: What the file system said.
        path: The final name of the file.
        needed: Bytes, >= 0, that are still to come.
    """
    if error.errno in _NO_SPACE:
        with contextlib.suppress(OSError):
            return DownloadError(_say_full(path, needed, 0, shutil.disk_usage(path.parent).free))
    where = error.filename or path
    if error.errno in _FORBIDDEN:
        advice = "choose another folder or change its permissions"
    elif error.errno == errno.EFBIG:
        advice = f"files that large are not allowed here, and {path.name} needs {needed} more bytes"
    else:
        advice = "what arrived is kept; check the folder and call again"
    return DownloadError(f"{where}: {error.strerror or error}; {advice}")


def _say_full(path: Path, needed: int, margin: int, free: int) -> str:
    return (
        f"{path.parent} is full: {path.name} needs {needed} more bytes"
        f"{f' and {margin} to spare' if margin else ''}, {free} are free; "
        "what arrived is kept: free some space and call again"
    )
