"""Looks at a SQLite file before anything is written to it: is it a ledger, whole, and can it be used?

Everything here blocks and belongs in a thread. A file that is refused keeps every byte: it is read as a plain file
first, and then by SQLite without permission to write. Source: sqlite.org/fileformat2.html section 1.3 (the header).
"""

import contextlib
import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import attrs

from crynux_async.errors import LedgerError, UsageError
from crynux_async.ledgers.sql.schema import APPLICATION_ID
from crynux_async.ledgers.sql.versions import check_version, parse_version
from crynux_async.ledgers.sqlite.trouble import damaged, explain, foreign
from crynux_async.values import Value

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_LOOKS = 5
BUSY_TIMEOUT = 10.0
"""How many seconds a ledger waits for other processes that use its file."""

CHECKED_BYTES = 64 * 2**20
"""Larger files are not gone through whenever they are opened: it takes a second for 200 MB. What is damaged in them is
noticed when it is read."""

_PREFIXES = ("sqlite+aiosqlite:///", "sqlite:///")
# An address without its colon, or libpq's own words: a file would be called by the password in them.
_ELSEWHERE = re.compile(r"\s*(?:postgres(?:ql)?//|(?:\w+=\S*\s+)*(?:host|dbname|password)\s*=)", re.IGNORECASE)
_ANYONE_WRITES = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def sqlite_path(where: str | os.PathLike[str]) -> Path:
    """Return the file that a path or a URL such as "sqlite:///jobs.db" names.

    Raises:
        UsageError: It names none.
    """
    text = os.fsdecode(where)
    for prefix in _PREFIXES:
        if text.startswith(prefix):
            text = text.removeprefix(prefix)
            if "?" in text:
                raise UsageError(f"options in a ledger's address are not supported: {where}; leave out '?...'")
            break
    # A name such as ":memory:" would be taken by SQLite for a ledger that is gone with its connection.
    is_elsewhere = _ELSEWHERE.match(text) is not None
    if not text or "\0" in text or "://" in text or is_elsewhere or text.startswith((":memory:", "file:")):
        scheme, is_address, _ = text.partition("://")
        # What was meant for another database may hold a password.
        shown = f"{scheme}://..." if is_address else "..." if is_elsewhere else text
        raise UsageError(
            f"{shown!r} is not a place for a ledger: give a path, 'sqlite:///jobs.db', "
            "'postgresql://user@host/database', or None to remember jobs only as long as the process lives"
        )
    return Path(text)


def prepare(path: Path, version: int, busy_timeout: float) -> None:
    """Check that ``path`` is a ledger that can be used, or create an empty file for a new one.

    Args:
        path: The file, links resolved.
        version: The newest version of the schema that this program can read.
        busy_timeout: Seconds to wait for other processes.

    Raises:
        LedgerError: It cannot be used. Nothing has been changed.
    """
    try:
        _require_place(path)
        if _size(path):
            _require_ledger(path, version, busy_timeout)
        _require_writable(path)
        _create_empty(path)
    except OSError as error:
        raise LedgerError(f"{path} cannot be used: {error.strerror or error}", path=str(path)) from error


def companion(path: Path, ending: str) -> Path:
    """Return the file that SQLite keeps beside a database, such as "-wal"."""
    return path.with_name(path.name + ending)


def has_log(path: Path) -> bool:
    """Whether something stands in the log of a database: it is in use, or was when its process was ended."""
    return _size(companion(path, "-wal")) > 0


def uri(path: Path, options: str) -> str:
    """Return the SQLite URI of a file."""
    return f"file:{quote(str(path))}?{options}"


def _require_place(path: Path) -> None:
    if path.is_dir():
        raise LedgerError(f"{path} is a folder; name a file in it, such as {path / 'jobs.db'}", path=str(path))
    if not path.parent.is_dir():
        message = f"{path} cannot be created: its folder does not exist; create that, or choose another place"
        raise LedgerError(message, path=str(path))
    # To open a pipe would wait for ever.
    if path.exists() and not path.is_file():
        raise foreign(path, "a device or a pipe")


def _create_empty(path: Path) -> None:
    with contextlib.suppress(FileExistsError):  # there before, or another process was faster
        # Made here and not by SQLite, so that nobody else may read it: labels and paths are private.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _require_writable(path: Path) -> None:
    for place, what in ((path, "the file"), (path.parent, "its folder, which SQLite writes to as well,")):
        # Root may write everything; a file without any permission to write is meant to be left alone all the same.
        if place.exists() and not (os.access(place, os.W_OK) and place.stat().st_mode & _ANYONE_WRITES):
            message = f"{path} is read-only: {what} cannot be written; change the permissions or choose another place"
            raise LedgerError(message, path=str(path))


@attrs.frozen
class _Stamp(Value):
    """What changes whenever somebody writes to a database."""

    file: tuple[int, int, int]
    log_bytes: int


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return _Stamp((status.st_ino, status.st_size, status.st_mtime_ns), _size(companion(path, "-wal")))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _require_ledger(path: Path, version: int, busy_timeout: float) -> None:
    """Look at a file that is not empty; a bad verdict counts only if nobody wrote to the file meanwhile."""
    for look in range(_LOOKS):
        # Another process may be at work on the file: half a page of its write looks like damage.
        before = _stamp(path)
        try:
            _look(path, version, busy_timeout)
        except LedgerError:
            if look == _LOOKS - 1 or _stamp(path) == before:
                raise
        else:
            break


def _look(path: Path, version: int, busy_timeout: float) -> None:
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if _size(companion(path, "-journal")) and not any(header[: len(_MAGIC)]):
        return  # its creation was cut off before the first page; SQLite undoes that when it is opened
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise foreign(path, "a file that is not of SQLite")
    # Bytes 68 to 71 of every SQLite file. Source: sqlite.org/fileformat2.html, section 1.3.
    application = int.from_bytes(header[68:72])
    if application != APPLICATION_ID:
        raise foreign(path, f"a SQLite file of another program (application id 0x{application:08x})")
    if _size(companion(path, "-journal")):
        return  # as above, after the first page
    is_logged = has_log(path)
    if not is_logged:
        _require_whole(path, header)
    # "immutable" leaves no trace, not even -wal and -shm; with a log only "mode=ro" sees what is in it.
    _inspect(path, "mode=ro" if is_logged else "mode=ro&immutable=1", version, busy_timeout)


def _require_whole(path: Path, header: bytes) -> None:
    # A file that was copied half, or cut by a full disk, opens without complaint and fails at some later row (case S8).
    page_bytes = int.from_bytes(header[16:18])
    expected = (65536 if page_bytes == 1 else page_bytes) * int.from_bytes(header[28:32])
    size = _size(path)
    if size < expected:
        raise damaged(path, f"it ends after {size} of {expected} bytes")


def _inspect(path: Path, options: str, version: int, busy_timeout: float) -> None:
    try:
        with _reading(path, options, busy_timeout) as connection:
            # The check reads everything: a month-old ledger would take seconds to open.
            if _size(path) <= CHECKED_BYTES:
                problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if problem != "ok":
                    raise damaged(path, problem)
            row = connection.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()
            check_version(parse_version(row[0] if row else None, str(path)), version, str(path))
    except sqlite3.DatabaseError as error:
        raise explain(error, path, busy_timeout) from error


@contextlib.contextmanager
def _reading(path: Path, options: str, busy_timeout: float) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(uri(path, options), uri=True, timeout=busy_timeout, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()
