"""Opens a SQLite ledger: checks the file, makes or migrates its tables, and says what a crash has left behind."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from crynux_async.errors import LedgerBusyError, LedgerError
from crynux_async.ledgers.sql.migrations import SchemaPlan, create, migrate, stored_version
from crynux_async.ledgers.sql.schema import APPLICATION_ID
from crynux_async.ledgers.sqlite.backup import back_up
from crynux_async.ledgers.sqlite.connection import SqliteConnection
from crynux_async.ledgers.sqlite.file import companion, prepare
from crynux_async.ledgers.sqlite.trouble import explain, foreign, locked, primary_code
from crynux_async.ledgers.sqlite.wal import WrittenFrames, read_frames
from crynux_async.values import Value

_log = logging.getLogger("crynux_async.ledgers")

_RETRY = 0.02


@attrs.frozen(kw_only=True)
class OpenFile(Value):
    """A ledger's file, ready to use.

    Attributes:
        writes: The connection that writes.
        reads: The connection that reads.
        dropped: What of an unfinished write was dropped, for people, or "".
    """

    writes: SqliteConnection
    reads: SqliteConnection
    dropped: str

    async def close(self) -> None:
        """Let go of the file; the last one out copies the log into it and removes the log."""
        await self.reads.close()
        await self.writes.close()


async def open_file(path: Path, plan: SchemaPlan, busy_timeout: float, now: int) -> OpenFile:
    """Open or create a ledger and bring it up to date.

    Args:
        path: The file, links resolved.
        plan: The schema to bring it to.
        busy_timeout: Seconds to wait for the locks of other processes.
        now: The time in microseconds since 1970.

    Raises:
        LedgerError: It cannot be used; it has not been changed.
    """
    await asyncio.to_thread(prepare, path, plan.version, busy_timeout)
    async with _connecting(path, busy_timeout) as writes:
        # NORMAL does not sync a commit in WAL mode: a power cut would take the newest task ids with it.
        await writes.command("PRAGMA synchronous=FULL")
        await writes.command("PRAGMA foreign_keys=ON")
        await writes.command("PRAGMA wal_autocheckpoint=0")  # the writer does it, and sees whether it worked
        frames = await _bring_up_to_date(writes, path, plan, now)
        await _use_log(writes, path, busy_timeout)
        dropped = await _what_was_dropped(writes, path, frames)
        async with _connecting(path, busy_timeout) as reads:
            # It must not write by accident: what tells of others' writes is that it never does (see ``ticker``).
            await reads.command("PRAGMA query_only=ON")
    if dropped:
        _log.warning("%s", dropped)
    return OpenFile(writes=writes, reads=reads, dropped=dropped)


@asynccontextmanager
async def _connecting(path: Path, busy_timeout: float) -> AsyncIterator[SqliteConnection]:
    """Connect, and close again only if the block fails."""
    connection: SqliteConnection | None = None
    try:
        connection = await SqliteConnection.open(path, busy_timeout)
        yield connection
    except BaseException as error:
        if connection is not None:
            await connection.close()
        if isinstance(error, sqlite3.Error | OSError):
            raise explain(error, path, busy_timeout) from error
        raise


async def _bring_up_to_date(connection: SqliteConnection, path: Path, plan: SchemaPlan, now: int) -> WrittenFrames:
    """Make or migrate the tables, and return what the log held before; nobody else writes meanwhile."""
    await connection.begin()
    frames = await asyncio.to_thread(read_frames, companion(path, "-wal"))
    ((application,),) = await connection.command("PRAGMA application_id")
    ((tables,),) = await connection.command("SELECT count(*) FROM sqlite_master")
    if application == 0 and tables == 0:
        await create(connection, plan)
        await connection.command(f"PRAGMA application_id={APPLICATION_ID}")
        await connection.commit()
    elif application != APPLICATION_ID:
        raise foreign(path, "a SQLite file of another program")
    elif await stored_version(connection, str(path)) == plan.version:
        await connection.rollback()
    else:
        await _migrate(connection, path, plan, now)
    return frames


async def _migrate(connection: SqliteConnection, path: Path, plan: SchemaPlan, now: int) -> None:
    """Bring an older ledger up to date, and keep a copy of it as it was."""
    version = await stored_version(connection, str(path))
    backup: Path | None = None
    try:
        await migrate(connection, plan, str(path), now)
        # Before the commit, while nobody else can write: the copy is the file as the old version left it.
        backup = await asyncio.to_thread(back_up, path, version)
        await connection.commit()
    except Exception as error:
        if backup is not None:
            backup.unlink(missing_ok=True)
        if isinstance(error, LedgerError) or isinstance(connection.explain(error), LedgerBusyError):
            raise
        message = f"{path} cannot be brought to version {plan.version} of the schema: {error}. It has not been changed"
        raise LedgerError(message, path=str(path)) from error
    _log.warning(
        "%s was brought from version %d of its schema to %d; as it was before it is kept in %s",
        path,
        version,
        plan.version,
        backup,
    )


async def _use_log(connection: SqliteConnection, path: Path, busy_timeout: float) -> None:
    """Turn the write-ahead log on. SQLite does not wait by itself where two processes do this at once."""
    deadline = asyncio.get_running_loop().time() + busy_timeout
    while True:
        try:
            ((mode,),) = await connection.command("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY:
                raise
            if asyncio.get_running_loop().time() >= deadline:
                raise locked(path, busy_timeout) from error
            await asyncio.sleep(_RETRY)
        else:
            break
    if mode != "wal":
        message = f"{path} is where SQLite cannot keep a write-ahead log (a network folder?); choose a local folder"
        raise LedgerError(message, path=str(path))


async def _what_was_dropped(connection: SqliteConnection, path: Path, before: WrittenFrames) -> str:
    """Copy what the log holds into the file, and say what of it SQLite did not take."""
    # Compared with what the log held before it was opened: SQLite drops an unfinished write without a word (case S8).
    ((is_busy, taken, _),) = await connection.command("PRAGMA wal_checkpoint(PASSIVE)")
    after = await asyncio.to_thread(read_frames, companion(path, "-wal"))
    pages = max(0, before.whole - taken)
    if is_busy or taken < 0 or after.salts != before.salts or not (pages or before.torn_bytes):
        return ""
    return (
        f"{path}: a crash has left an unfinished write at the end of the log; it was dropped "
        f"({pages} whole pages, {before.torn_bytes} bytes of another). Every write before it is there"
    )
