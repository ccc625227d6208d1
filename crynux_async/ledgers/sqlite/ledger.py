"""A ledger in a SQLite file.

Theory of operation. The file is in WAL mode with ``synchronous=FULL``: a commit is one fsync of the log, and readers go
on meanwhile. Several processes may use one file; SQLite lets one of them write at a time, and each waits
``busy_timeout`` seconds for the others. What all of them have to agree about is decided inside one ``BEGIN IMMEDIATE``
transaction, which keeps the others out from its first statement on.

Opening looks before it touches (``file``), makes or migrates the tables in one transaction, and then reports what a
crash left unfinished in the log (``opening``, ``wal``). Writes of others are noticed by a number that SQLite keeps
(``ticker``). Time is this machine's: every process on the file lives on it.
"""

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from crynux_async.clock import boot_id, monotonic, utc_now
from crynux_async.ledgers.columns import to_microseconds
from crynux_async.ledgers.sql.connection import Connection
from crynux_async.ledgers.sql.ledger import SqlLedger
from crynux_async.ledgers.sql.migrations import CURRENT, SchemaPlan
from crynux_async.ledgers.sql.text import Sql
from crynux_async.ledgers.sqlite.file import BUSY_TIMEOUT, companion, sqlite_path
from crynux_async.ledgers.sqlite.opening import OpenFile, open_file
from crynux_async.ledgers.sqlite.ticker import Ticker


class SqliteLedger(SqlLedger):
    """A ledger in a SQLite file, which several processes may share.

    Args:
        where: A path, or a URL such as "sqlite:///jobs.db" (relative) or "sqlite:////var/lib/jobs.db" (absolute).
        busy_timeout: Seconds, >= 0, to wait for other processes that use the file.
        clock: What tells the time for leases, aware UTC; the event loop's own date otherwise.
        plan: The schema; another one than this version's is for tests of migrations.

    Attributes:
        dropped: What of an unfinished write was dropped when the file was opened after a crash, for people, or "".

    Raises:
        UsageError: ``where`` names no file.
    """

    def __init__(
        self,
        where: str | os.PathLike[str],
        *,
        busy_timeout: float = BUSY_TIMEOUT,
        clock: Callable[[], datetime] = utc_now,
        plan: SchemaPlan = CURRENT,
    ) -> None:
        # SQLite puts its log beside the file itself, not beside a link to it.
        self._path = Path(os.path.realpath(sqlite_path(where)))
        super().__init__(str(self._path))
        self.dropped = ""
        self._busy_timeout = busy_timeout
        self._clock = clock
        self._plan = plan
        self._ticker: Ticker | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def spill(self) -> Path:
        """The file for accepted tasks that could not be stored before a session ended, made when it is needed."""
        return companion(self._path, "-unstored")

    async def changed(self, since: int) -> int:
        """Wait until anything may have been written by anybody since the call that returned ``since``."""
        reads = self._reading()
        assert self._ticker is not None
        try:
            return await self._ticker.heard(since)
        except Exception as error:
            self._reading()  # or it was closed meanwhile
            raise reads.explain(error) from error

    async def _open_database(self) -> OpenFile:
        file = await open_file(self._path, self._plan, self._busy_timeout, to_microseconds(self._clock()))
        self.dropped = file.dropped
        self._ticker = Ticker(file.reads, self._bell, Path(f"{self._path}-wal"))
        return file

    @property
    def _clock_name(self) -> str:
        return boot_id()

    async def _read_clock(self, connection: Connection) -> float:
        return monotonic()

    def now(self) -> Sql:
        """Return this machine's time."""
        return Sql(":now", {"now": to_microseconds(self._clock())})
