"""Whether a result could come to a folder: found out before it is paid for."""

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

from crynux_async import files
from crynux_async.errors import UsageError


def check_folder(folder: Path, *, needed: int = 0) -> None:
    """Refuse a folder to which no result could come; blocks for a few disk accesses, and leaves nothing behind.

    Args:
        folder: Where the result is wanted; need not exist.
        needed: Bytes, >= 0, that it is expected to take.

    Raises:
        UsageError: The folder is none and cannot be made, cannot be written, or has too little room.
    """
    there = _existing(folder)
    if not there.is_dir():
        raise UsageError(f"{folder} cannot be a folder: {there} is something else", field="folder")
    try:
        _write_something(there)
        usage = shutil.disk_usage(there)
    except OSError as error:
        reason = files.explain(error, there / "archive.zip")  # of the folder that is there, whose disk it is
        raise UsageError(f"nothing can be put into {folder}: {reason}", field="folder") from error
    # A total of 0: the file system does not tell.
    if usage.total and usage.free < needed:
        raise UsageError(
            f"{folder} has too little room: the archive takes about {needed} bytes, {usage.free} are free; free some "
            "space or choose another folder",
            field="folder",
        )


def _existing(folder: Path) -> Path:
    try:
        path = files.resolve(folder)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()  # tells of names that are too long, and of links that go round in circles
        return files.existing_part(path)
    except (ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"{str(folder)!r} cannot be a folder: {error}", field="folder") from error


def _write_something(folder: Path) -> None:
    """Make a file and remove it: permissions alone do not tell of a disk that is full or may only be read."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0")
