"""Brings writes to disk: the one task that writes, and the queue before it.

A commit costs one wait for the disk, whatever is in it. So everything that waits while one commit is under way goes
into the next one together, and each caller hears of its own rows only. A write that the database refuses (a name that
is there already) must not take the others with it: then the same requests are done again, each behind a savepoint.

When the disk fails the writer stops for good: a failed fsync drops the pages that it could not write, so the next one
succeeds without having saved them (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
"""

import asyncio
import contextlib
import copy
import logging
import os
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import attrs

from crynux_async.errors import CrynuxError, LedgerError, UsageError
from crynux_async.ledgers.sql.steps import Step, merged
from crynux_async.ledgers.sqlite.connection import SqliteConnection
from crynux_async.ledgers.sqlite.file import explain, primary_code

_log = logging.getLogger("crynux_async.ledgers")
_T = TypeVar("_T")

CHECKPOINT_CHANGES = 1000
"""After so many changed rows the log is copied into the file, so that it does not grow without end."""

_REQUESTS_FAULT = frozenset(
    {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE}
)
_ANOTHERS_LOCK = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})


@attrs.frozen(eq=False)
class _Write:
    steps: Sequence[Step]
    done: "asyncio.Future[Any]"


Work: TypeAlias = Callable[[SqliteConnection], Awaitable[tuple[_T, bool]]]
"""What is done alone in a transaction; returns its result, and whether there is anything to commit."""


@attrs.frozen(eq=False)
class _Alone:
    work: Work[Any]
    done: "asyncio.Future[Any]"


class _RefusedError(Exception):
    """The database does not take a step; the text says which."""


class Writer:
    """The only one that writes through a connection. Its task runs from the start until ``close``.

    Args:
        connection: To the file; nobody else uses it.
        path: The file, to see that it stays where it is.
        busy_timeout: Seconds that the connection waits for other processes; for messages.

    Attributes:
        failure: Why nothing can be written any more, or None.
    """

    def __init__(self, connection: SqliteConnection, path: Path, busy_timeout: float) -> None:
        self.failure: LedgerError | None = None
        self._connection = connection
        self._path = path
        self._identity = _identity(path)
        self._busy_timeout = busy_timeout
        self._queue: deque[_Write | _Alone] = deque()
        self._under_way: Sequence[_Write | _Alone] = ()
        self._wake = asyncio.Event()
        self._is_closing = False
        self._copied_at = 0
        self._task = asyncio.create_task(self._run(), name="crynux_async ledger writer")

    async def write(self, steps: Sequence[Step]) -> None:
        """Make the rows of all steps durable, all or none; cancelling the caller does not undo it.

        Raises:
            LedgerError: They are not stored.
        """
        done = _future()
        self._put(_Write(steps, done))
        await done

    def alone(self, work: Work[_T]) -> "asyncio.Future[_T]":
        """Do something in a transaction of its own, which is undone where its future is cancelled in time."""
        done: asyncio.Future[_T] = _future()
        self._put(_Alone(work, done))
        return done

    async def close(self) -> None:
        """Write what is left and end the task."""
        self._is_closing = True
        self._wake.set()
        await asyncio.wait([self._task])

    def _put(self, request: _Write | _Alone) -> None:
        if self._is_closing:
            raise UsageError("the ledger is closed")
        self._queue.append(request)
        self._wake.set()

    async def _run(self) -> None:
        try:
            while self._queue or not self._is_closing:
                if self._queue:
                    await self._next()
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:  # where anything is left, the task was cancelled by the end of its event loop
            self._is_closing = True
            reason = f"the event loop ended while {self._path} was written: whether these rows are there is not known"
            _refuse([*self._under_way, *self._queue], LedgerError(reason, path=str(self._path)))

    async def _next(self) -> None:
        """Fill one transaction with what waits."""
        refusal = await self._begin()
        self._under_way = requests = self._take()
        try:
            if refusal is not None:
                _refuse(requests, refusal)
            elif isinstance(requests[0], _Alone):
                await self._do_alone(requests[0])
            else:
                await self._do_together([request for request in requests if isinstance(request, _Write)])
            await self._copy_log()
        except Exception as error:
            await self._fail(error)
            assert self.failure is not None
            _refuse(requests, self.failure)
        self._under_way = ()

    def _take(self) -> list[_Write | _Alone]:
        """Take what goes into one transaction: the first in the queue alone, or every write that waits."""
        if isinstance(self._queue[0], _Alone):
            return [self._queue.popleft()]
        writes = [request for request in self._queue if isinstance(request, _Write)]
        self._queue = deque(request for request in self._queue if isinstance(request, _Alone))
        return [*writes]

    async def _begin(self) -> LedgerError | None:
        """Begin a transaction, or say why that cannot be."""
        if self.failure is None:
            try:
                self._require_same_file()
                await self._connection.command("BEGIN IMMEDIATE")
            except Exception as error:
                if primary_code(error) in _ANOTHERS_LOCK:
                    return explain(error, self._path, self._busy_timeout)
                await self._fail(error)
        return self.failure

    def _require_same_file(self) -> None:
        # A deleted file takes writes like any other; they would vanish with the process.
        if _identity(self._path) != self._identity:
            message = (
                f"{self._path} was deleted or replaced while it was in use, so nothing can be stored in it any more; "
                "put it back, or open a new ledger"
            )
            raise LedgerError(message, path=str(self._path))

    async def _do_alone(self, request: _Alone) -> None:
        try:
            result, is_changed = await request.work(self._connection)
        except CrynuxError as error:
            await self._connection.command("ROLLBACK")
            _refuse([request], error)
            return
        is_wanted = is_changed and not request.done.cancelled()
        await self._connection.command("COMMIT" if is_wanted else "ROLLBACK")
        if not request.done.done():
            request.done.set_result(result)

    async def _do_together(self, writes: list[_Write]) -> None:
        try:
            await self._fill(merged(step for write in writes for step in write.steps))
        except _RefusedError:
            await self._connection.command("ROLLBACK")
            await self._do_apart(writes)
        else:
            await self._connection.command("COMMIT")
            _confirm(writes)

    async def _do_apart(self, writes: list[_Write]) -> None:
        """Do writes of which at least one is refused, without losing the others."""
        refusal = await self._begin()
        if refusal is not None:
            _refuse(writes, refusal)
            return
        refused: list[tuple[_Write, LedgerError]] = []
        for write in writes:
            await self._connection.command("SAVEPOINT request")
            try:
                await self._fill(write.steps)
            except _RefusedError as error:
                refused.append((write, LedgerError(str(error), path=str(self._path))))
                await self._connection.command("ROLLBACK TO request")
            await self._connection.command("RELEASE request")
        await self._connection.command("COMMIT")
        for write, refusal in refused:
            _refuse([write], refusal)
        _confirm(writes)

    async def _fill(self, steps: Iterable[Step]) -> None:
        """Run steps in the transaction that is open.

        Raises:
            _RefusedError: The database does not take one of them.
        """
        for step in steps:
            try:
                changed = await self._connection.run(step.statement, step.rows)
            except (sqlite3.Error, OverflowError, UnicodeError) as error:
                if isinstance(error, sqlite3.Error) and primary_code(error) not in _REQUESTS_FAULT:
                    raise
                raise _RefusedError(f"{step.refusal} ({error})") from error
            if step.is_exact and changed != len(step.rows):
                raise _RefusedError(step.refusal)

    async def _copy_log(self) -> None:
        """Copy the log into the file from time to time.

        SQLite would do it by itself after a commit, and keep it to itself if the disk fails meanwhile.
        """
        changes = self._connection.changes
        if self.failure is None and changes - self._copied_at >= CHECKPOINT_CHANGES:
            self._copied_at = changes
            await self._connection.command("PRAGMA wal_checkpoint(PASSIVE)")

    async def _fail(self, error: Exception) -> None:
        """Stop for good."""
        self.failure = error if isinstance(error, LedgerError) else explain(error, self._path, self._busy_timeout)
        _log.error("nothing is stored any more: %s", self.failure)
        with contextlib.suppress(Exception):
            await self._connection.command("ROLLBACK")


def _future() -> "asyncio.Future[Any]":
    done = asyncio.get_running_loop().create_future()
    done.add_done_callback(_see)
    return done


def _see(done: "asyncio.Future[Any]") -> None:
    """Mark an exception as seen, because nobody else may be left to see it."""
    if not done.cancelled():
        done.exception()


def _confirm(writes: Iterable[_Write]) -> None:
    for write in writes:
        if not write.done.done():
            write.done.set_result(None)


def _refuse(requests: Iterable[_Write | _Alone], reason: CrynuxError) -> None:
    """Tell callers; each gets an exception of its own, because raising one changes it."""
    for request in requests:
        if not request.done.done():
            request.done.set_exception(_copy(reason))
        elif isinstance(request, _Write) and request.done.cancelled():
            _log.error("rows whose caller did not wait for them are not stored: %s", reason)


def _copy(error: CrynuxError) -> CrynuxError:
    twin = copy.copy(error)
    twin.__cause__ = error
    return twin


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
