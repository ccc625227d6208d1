"""One connection of a ledger to its SQLite file, and the thread that it lives in.

Every call is one trip to the thread: a whole transaction of known steps is one as well, because its trips would cost
more than its wait for the disk.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from crynux_async.errors import LedgerError
from crynux_async.ledgers.sql.connection import StepRefusedError
from crynux_async.ledgers.sql.steps import Step
from crynux_async.ledgers.sql.text import Row, Sql
from crynux_async.ledgers.sqlite.file import uri
from crynux_async.ledgers.sqlite.rendering import render
from crynux_async.ledgers.sqlite.trouble import explain, is_refusal, replaced

_T = TypeVar("_T")

CHECKPOINT_CHANGES = 1000
"""After so many changed rows the log is copied into the file, so that it does not grow without end."""


class SqliteConnection:
    """A connection on which transactions are begun and ended by hand; a ``Connection``.

    Every method but ``open`` raises ``sqlite3.Error``, or what else Python refuses to hand to SQLite. A caller that is
    cancelled leaves the connection whole: its thread finishes what it has begun.
    """

    def __init__(self, raw: sqlite3.Connection, thread: ThreadPoolExecutor, path: Path, busy_timeout: float) -> None:
        self._raw = raw
        self._thread = thread
        self._path = path
        self._busy_timeout = busy_timeout
        self._identity = _identity(path)
        self._copied_at = 0
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, path: Path, busy_timeout: float) -> Self:
        """Connect to a file that is there.

        Args:
            path: The file.
            busy_timeout: Seconds to wait for the locks of other connections.

        Raises:
            sqlite3.Error: It cannot be opened.
        """
        # One thread for each connection: a lock that lasts must hold up neither the loop nor the other connection.
        thread = ThreadPoolExecutor(1, thread_name_prefix="crynux_async ledger")
        made: list[sqlite3.Connection] = []

        def connect() -> sqlite3.Connection:
            made.append(
                sqlite3.connect(
                    uri(path, "mode=rw"),
                    uri=True,
                    timeout=busy_timeout,
                    isolation_level=None,
                    check_same_thread=False,
                )
            )
            return made[0]

        def close() -> None:
            for one in made:
                one.close()

        try:
            raw = await asyncio.get_running_loop().run_in_executor(thread, connect)
        except BaseException:
            # Who is cancelled does not stop the thread, and nobody else would close what it opens.
            thread.submit(close)
            thread.shutdown(wait=False)
            raise
        return cls(raw, thread, path, busy_timeout)

    @property
    def leaves_marks(self) -> bool:
        """False: where SQLite cannot tell whether a commit has reached the disk, asking it again proves nothing."""
        return False

    async def close(self) -> None:
        """Let go of the file; a transaction that is open is undone. Asked again, it waits for the same end."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().run_in_executor(self._thread, self._raw.close)
            self._thread.shutdown(wait=False)  # after what it was given
        await asyncio.shield(self._closing)

    async def command(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a command without parameters, such as a PRAGMA, and return its rows."""
        return await self._do(self._command, sql)

    async def write(self, steps: Sequence[Step]) -> None:
        """Do all steps in a transaction of their own, and commit it.

        Raises:
            StepRefusedError: One was refused; the transaction was undone.
        """
        await self._do(self._write, steps)

    async def begin(self) -> None:
        """Begin a transaction that keeps all other writers out from its first statement on."""
        await self._do(self._begin)

    async def commit(self) -> None:
        """Make the transaction durable."""
        await self.command("COMMIT")

    async def rollback(self) -> None:
        """Undo the transaction, if one is open (SQLite undoes one by itself after some errors)."""
        await self._do(self._rollback)

    async def savepoint(self) -> None:
        """Mark a place in the transaction."""
        await self.command("SAVEPOINT request")

    async def back_to_savepoint(self) -> None:
        """Undo everything since the place that was marked."""
        await self.command("ROLLBACK TO request")

    async def release_savepoint(self) -> None:
        """Forget the place that was marked."""
        await self.command("RELEASE request")

    async def run(self, statement: Sql, rows: Sequence[Row] | None = None) -> int:
        """Run a statement once for each row, and return how many rows of the database changed."""
        return await self._do(self._run, statement, rows)

    async def insert(self, statement: Sql, row: Row) -> int:
        """Add a row, and return the number that SQLite gave it."""
        return await self._do(self._insert, statement, row)

    async def fetch(self, statement: Sql, row: Row | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT."""
        return await self._do(self._fetch, statement, row)

    async def tend(self) -> None:
        """Copy the log into the file from time to time.

        SQLite would do it by itself after a commit, and keep it to itself if the disk fails meanwhile.
        """
        # By rows and not by time: a quiet session has nothing to copy.
        changes = self._raw.total_changes
        if changes - self._copied_at >= CHECKPOINT_CHANGES:
            self._copied_at = changes
            await self.command("PRAGMA wal_checkpoint(PASSIVE)")

    def explain(self, error: Exception) -> LedgerError:
        """Return what an error means and what to do."""
        return explain(error, self._path, self._busy_timeout)

    def is_lost_answer(self, _: Exception) -> bool:
        """Return False, as ``leaves_marks`` does."""
        return False

    def is_refusal(self, error: Exception) -> bool:
        """Whether an error is the fault of a statement's values alone."""
        return is_refusal(error)

    def is_collision(self, _: Exception) -> bool:
        """Return False: only one writes at a time."""
        return False

    async def _do(self, work: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    # In the thread

    def _command(self, sql: str) -> list[tuple[Any, ...]]:
        return self._raw.execute(sql).fetchall()

    def _begin(self) -> None:
        # A deleted file takes writes like any other; they would vanish with the process.
        if _identity(self._path) != self._identity:
            raise replaced(self._path)
        self._raw.execute("BEGIN IMMEDIATE")

    def _write(self, steps: Sequence[Step]) -> None:
        self._begin()
        for step in steps:
            self._do_step(step)
        self._raw.execute("COMMIT")

    def _do_step(self, step: Step) -> None:
        try:
            changed = self._run(step.statement, step.rows)
        except Exception as error:
            if not is_refusal(error):
                raise
            self._rollback()
            raise StepRefusedError(step, error) from error
        if step.is_exact and changed != len(step.rows):
            self._rollback()
            raise StepRefusedError(step)

    def _rollback(self) -> None:
        if self._raw.in_transaction:
            self._raw.execute("ROLLBACK")

    def _run(self, statement: Sql, rows: Sequence[Row] | None) -> int:
        rendered = render(statement.text)
        if rows is None or len(rows) == 1:
            return self._raw.execute(rendered.sql, rendered.fill(rows[0] if rows else statement.values)).rowcount
        return self._raw.executemany(rendered.sql, map(rendered.fill, rows)).rowcount

    def _insert(self, statement: Sql, row: Row) -> int:
        rendered = render(statement.text)
        number = self._raw.execute(rendered.sql, rendered.fill(row)).lastrowid
        assert number is not None
        return number

    def _fetch(self, statement: Sql, row: Row | None) -> list[tuple[Any, ...]]:
        rendered = render(statement.text)
        return self._raw.execute(rendered.sql, rendered.fill(statement.values if row is None else row)).fetchall()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
