"""Keeps a copy of a ledger as it was before it is brought to another version. Everything here blocks."""

import contextlib
import os
import sqlite3
from itertools import count
from pathlib import Path

from crynux_async.ledgers.sqlite.file import uri


def back_up(path: Path, version: int) -> Path:
    """Copy what is committed in a file, durably, and return the copy, which no earlier copy gives way to.

    Args:
        path: The file; another connection may hold its lock for writing.
        version: Version of its schema, for the name of the copy: "jobs.db.v1-backup", "jobs.db.v1-backup-2" ...

    Raises:
        OSError: The copy cannot be written.
        sqlite3.Error: The file cannot be read, or the copy not be written.
    """
    copy = _new_file(path, version)
    try:
        with (
            contextlib.closing(sqlite3.connect(uri(path, "mode=ro"), uri=True)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        _sync(copy)
        _sync(copy.parent)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    return copy


def _new_file(path: Path, version: int) -> Path:
    for number in count(1):
        copy = path.with_name(f"{path.name}.v{version}-backup" + (f"-{number}" if number > 1 else ""))
        with contextlib.suppress(FileExistsError):
            os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            return copy
    raise AssertionError("unreachable")


def _sync(place: Path) -> None:
    number = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
