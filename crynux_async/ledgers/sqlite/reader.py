"""Reads a SQLite ledger that is ready, without an event loop: to load one takes longer than to read most ledgers.

It only reads: a file that must be made or migrated is left to ``SqliteLedger``. Where the file has a log, it is opened
without permission to write, so that whoever writes to it next finds what a crash has left in that log (case S8).
Without one, nothing was cut off, and what SQLite puts beside the file to read it is removed again when it is closed.
"""

import os
import sqlite3
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from crynux_async.ledgers.checks import VALUE_ERRORS, no_such_value
from crynux_async.ledgers.columns import to_microseconds
from crynux_async.ledgers.sql import queries
from crynux_async.ledgers.sql.reads import SqlReads, require_here
from crynux_async.ledgers.sql.schema import APPLICATION_ID, VERSION
from crynux_async.ledgers.sql.text import Sql
from crynux_async.ledgers.sqlite.file import BUSY_TIMEOUT, has_log, prepare, sqlite_path, uri
from crynux_async.ledgers.sqlite.rendering import render
from crynux_async.ledgers.sqlite.trouble import explain
from crynux_async.wall_clock import wall_now

_T = TypeVar("_T")


class SqliteReader(SqlReads):
    """Jobs in a SQLite ledger; its methods never wait, so that ``at_once`` can run what calls them.

    Args:
        raw: A connection to the file.
        path: The file, for messages.
    """

    def __init__(self, raw: sqlite3.Connection, path: Path) -> None:
        super().__init__(str(path))
        self._raw = raw
        self._path = path

    def now(self) -> Sql:
        """Return this machine's time."""
        return Sql(":now", {"now": to_microseconds(wall_now())})

    def close(self) -> None:
        """Let go of the file."""
        self._raw.close()

    def is_ready(self) -> bool:
        """Whether the file has the tables of this version.

        Raises:
            LedgerError: It cannot be read.
        """
        try:
            ((application,),) = self._raw.execute("PRAGMA application_id")
            if application != APPLICATION_ID:
                return False
            ((version,),) = self._raw.execute("SELECT value FROM meta WHERE name = 'version'")
        except sqlite3.Error as error:
            raise explain(error, self._path, BUSY_TIMEOUT) from error
        return bool(version == str(VERSION))

    async def require_here(self) -> None:
        """Refuse a ledger that was moved.

        Raises:
            LedgerError: It was.
        """
        require_here(await self._read(queries.SELECT_MOVED))

    async def _read(self, statement: Sql, row: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        rendered = render(statement.text)
        try:
            return self._raw.execute(rendered.sql, rendered.fill(statement.values if row is None else row)).fetchall()
        except VALUE_ERRORS as error:
            raise no_such_value(error, self._place) from error
        except sqlite3.Error as error:
            raise explain(error, self._path, BUSY_TIMEOUT) from error

    async def _converted(self, convert: Callable[[Any], _T], rows: Sequence[Any]) -> list[_T]:
        return list(map(convert, rows))


def open_reader(where: str | os.PathLike[str]) -> SqliteReader | None:
    """Return what reads a ledger, or None where it must be made, migrated or mended first.

    Args:
        where: A path, or a URL as for ``SqliteLedger``.

    Raises:
        LedgerError: It cannot be used.
    """
    path = Path(os.path.realpath(sqlite_path(where)))
    prepare(path, VERSION, BUSY_TIMEOUT)
    options = "mode=ro" if has_log(path) else "mode=rw"
    try:
        raw = sqlite3.connect(uri(path, options), uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
    except sqlite3.Error as error:
        raise explain(error, path, BUSY_TIMEOUT) from error
    reader = SqliteReader(raw, path)
    try:
        raw.execute("PRAGMA query_only=ON")
        if reader.is_ready():
            at_once(reader.require_here())
            return reader
    except BaseException:
        reader.close()
        raise
    reader.close()
    return None


def at_once(work: Coroutine[Any, Any, _T]) -> _T:
    """Return what a coroutine returns that waits for nothing but a reader."""
    try:
        work.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    work.close()
    raise RuntimeError("it waits for something")
