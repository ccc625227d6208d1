"""What this library asks of a file system wherever it writes: new files, final names, and errors that help.

Theory of operation
-------------------
A file that somebody will rely on is written under a private name and gets its final one when it is whole: by
:func:`publish`, which downloads, exports and packed data sets share. The order is what makes it hold: the bytes are on
disk before the name is given, the name never replaces a file unless that was asked for, and the folder follows.

Some file systems, and some folders, cannot do all of it: a folder that may be written and not read cannot be opened to
be synced, others answer an fsync with "invalid argument" or refuse hard links. That is no failure: what such a place
can keep is kept. A disk that fails is one.

New files are made where nothing was before and through no symbolic link, so that a link which somebody planted in a
shared folder is never written through. Everything here blocks and belongs in a thread; ``threads`` says what else does.
"""

import contextlib
import errno
import io
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a file system says that has no room left."""

CANNOT_LOCK = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What network and user-space file systems answer to flock(2)."""

_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_LINKS = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
_NAP = 0.01  # seconds between two looks at a lock

if sys.platform != "win32":
    import fcntl


class NotDurableError(OSError):
    """The disk did not keep what was written; the file must not be used, and syncing it again proves nothing.

    After a failed fsync Linux takes the lost pages for clean, and the next fsync reports success.
    Source: Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
    """


def open_new(path: str | os.PathLike[str], mode: int = 0o666) -> int:
    """Make a file that was not there before and open it; a symbolic link of that name is no place to make one.

    Args:
        path: The file.
        mode: Its permissions at most; the umask takes some away.

    Returns:
        A descriptor to read and write.

    Raises:
        FileExistsError: Something has that name.
        OSError: Whatever else the file system says.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINKS, mode)


def open_plain(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Open a regular file: through no symbolic link, and without waiting for a pipe's other end.

    Args:
        path: The file.
        flags: As for ``os.open``; may make the file.

    Returns:
        A descriptor.

    Raises:
        ValueError: It is not a regular file.
        OSError: Whatever the file system says.
    """
    descriptor = os.open(path, flags | _NO_LINKS | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is not a regular file")
    return descriptor


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``; the system may take less at once, and does so just before the disk is full."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def lock_within(descriptor: int, path: Path, seconds: float) -> None:
    """Lock an open file until it is closed; blocks, but never without an end.

    A process that was stopped keeps its locks, and a thread that waits for one in the system cannot be ended.

    Args:
        descriptor: The open file.
        path: What it is called, for the message.
        seconds: How long to wait for another who has the lock, >= 0.

    Raises:
        BlockingIOError: Another still has it.
        OSError: Whatever else the file system says.
    """
    until = time.monotonic() + seconds
    while sys.platform != "win32":  # which has no such locks
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise BlockingIOError(error.errno, "it is locked by another process", str(path)) from error
            time.sleep(_NAP)
        else:
            return


def resolve(folder: Path) -> Path:
    """Return the absolute path of a folder without symbolic links, so that one folder by two paths has one name.

    Some links under ``/proc`` lead elsewhere than they say, into what another process sees of the file system. A path
    through one of these stays as it is. Source: proc(5), ``/proc/[pid]/root``.

    Args:
        folder: The folder; it need not exist.

    Raises:
        ValueError, RuntimeError, OSError: No folder can be called so.
    """
    resolved, absolute = folder.resolve(), folder.absolute()
    there = existing_part(absolute)
    said = there.resolve()
    return resolved if said.exists() and there.samefile(said) else absolute


def existing_part(path: Path) -> Path:
    """Return the longest part of an absolute path at which there is something."""
    return next(each for each in (path, *path.parents) if os.path.exists(each) or each == each.parent)


def is_at(descriptor: int, path: str | os.PathLike[str]) -> bool:
    """Whether the open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def publish(descriptor: int, draft: Path, target: Path, *, replace: bool = False) -> None:
    """Make a finished file durable and give it its final name. The one place where files get theirs.

    Args:
        descriptor: The file, open, everything written.
        draft: The name that it has, in the folder of ``target``.
        target: The name that it is to have.
        replace: Whether a file of that name may be replaced.

    Raises:
        NotDurableError: The disk did not keep the bytes; the name was not given.
        FileExistsError: ``target`` is taken, and is not to be replaced.
        FileNotFoundError: ``draft`` is not there any more.
        OSError: The disk failed. The name may be there and not be durable yet; :func:`sync_folder` may be tried again.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise NotDurableError(error.errno, error.strerror, str(draft)) from error
    if replace:
        os.replace(draft, target)
    else:
        move_without_overwriting(draft, target)
    sync_folder(target.parent)


def move_without_overwriting(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target`` in the same folder, unless something has that name already.

    Where hard links are refused, for whatever reason, a look and a rename stand in for one: there, a foreign program
    that takes the name in between loses its file.

    Raises:
        FileExistsError: ``target`` is taken.
        FileNotFoundError: ``source`` is not there.
        OSError: Whatever else the file system says.
    """
    try:
        # Unlike a rename, a hard link never replaces what another process has put there meanwhile.
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.rename(source, target)
    else:
        with contextlib.suppress(OSError):  # the name is given: a second one that stays is no failure
            os.unlink(source)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system can and the folder may be read.

    Raises:
        OSError: The disk failed.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _FORBIDDEN:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        # EBADF: some systems sync only what is open for writing, which a folder cannot be.
        if error.errno not in _CANNOT_SYNC | {errno.EBADF}:
            raise
    finally:
        os.close(descriptor)


def _is_taken(path: Path) -> bool:
    """Whether something has a name; unlike ``os.path.lexists``, it tells of names that nothing can have."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except ValueError as error:  # a null byte, or what the file system's encoding has no bytes for
        raise OSError(errno.EINVAL, f"no file can be called so: {error}", str(path)) from error
    return True


@contextlib.contextmanager
def new_file(target: Path, *, replace: bool = False, mode: int = 0o666) -> Iterator[io.BufferedRandom]:
    """Write a file whole or not at all: on leaving it is durable and has its name, after an exception nothing is left.

    Args:
        target: The name that it is to have.
        replace: Whether a file of that name may be replaced.
        mode: As for :func:`open_new`.

    Yields:
        The file, empty, to write and to read.

    Raises:
        FileExistsError: ``target`` is taken, and is not to be replaced.
        OSError: No file can be called so, or whatever :func:`publish` raises, or the file system.
    """
    # At once: that no file can be called so would be found out at the end, behind a gigabyte that was written.
    if _is_taken(target) and not replace:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    # Not made of the target's name: that may be as long as names can be. Nobody can guess it and put a link there.
    draft = target.with_name(f".{secrets.token_hex(8)}.part")
    descriptor = open_new(draft, mode)
    try:
        with open(descriptor, "w+b") as file:
            yield file
            # fsync knows nothing of what Python still holds back.
            file.flush()
            publish(descriptor, draft, target, replace=replace)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def replace_private(target: Path, text: str) -> None:
    """Put a small text with secrets in the place of a file: either is whole, and the text's owner alone can read it.

    Args:
        target: The file; it need not exist.
        text: All of its new content.

    Raises:
        OSError: As ``new_file``; the old file is as it was, and nothing else is left.
    """
    with new_file(target, replace=True, mode=0o600) as file:  # of that mode from its first byte on
        file.write(text.encode())


def explain(error: OSError, path: Path, *, needed: int = 0, kept: bool = False) -> str:
    """Say what a user can do about a disk error.

    Args:
        error: What the file system said.
        path: The final name of the file that was being written.
        needed: Bytes, >= 0, that are still to come where that is known.
        kept: Whether what was written so far stays, so that a later call goes on there.
    """
    folder = path.parent
    if error.errno in NO_SPACE:
        again = "what arrived is kept: free some space and call again" if kept else "free some space and call again"
        return f"{_say_full(error, folder, path.name, needed)}; {again}"
    # What stands beside the file under a private name is the file to its user.
    is_elsewhere = isinstance(error.filename, str) and Path(error.filename).parent != folder
    where = error.filename if is_elsewhere else path
    if error.errno in _FORBIDDEN:
        advice = "choose another folder or change its permissions"
    elif error.errno == errno.EFBIG:
        more = f", and {path.name} needs {needed} more bytes" if needed else ""
        advice = f"files that large are not allowed here{more}"
    else:
        advice = "what arrived is kept; check the folder and call again" if kept else "check the folder and call again"
    return f"{where}: {error.strerror or error}; {advice}"


def _say_full(error: OSError, folder: Path, name: str, needed: int) -> str:
    if error.errno == errno.EDQUOT:
        return f"{folder}: the quota is used up, {name} cannot be written"
    needs = f": {name} needs {needed} more bytes" if needed else f", {name} cannot be written"
    with contextlib.suppress(OSError):
        system = os.statvfs(folder)
        # Bytes are free, but no inode: ENOSPC all the same, and freeing bytes would not help.
        if system.f_files and not system.f_favail and system.f_bavail:
            return f"{folder} cannot take another file: all {system.f_files} inodes of its disk are used; remove files"
        return f"{folder} is full{needs}, {shutil.disk_usage(folder).free} are free"
    return f"{folder} is full{needs}"
