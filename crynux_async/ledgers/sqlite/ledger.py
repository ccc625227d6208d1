"""A ledger in a database: SQLite.

Theory of operation. One ``Writer`` task has the only connection that writes; every method that writes hands it steps
and waits for its future, so a cancelled caller cannot tear a transaction apart. What waits together is committed
together. A second connection reads; it sees what is committed and holds nobody up.

The file is in WAL mode with ``synchronous=FULL``: a commit is one fsync of the log, and readers go on meanwhile.
Several processes may use one file; SQLite lets one of them write at a time, and each waits ``busy_timeout`` seconds for
the others. What all of them have to agree about (whose lease, how many tokens) is decided inside one ``BEGIN
IMMEDIATE`` transaction, which keeps the others out from its first statement on.

A lease is a row with an owner and an end, and a job names it by number. Renewing moves the end of one row; giving back
deletes it, and its number, never used again, then means nobody. The order of events that ``bracket`` needs is that of
the transactions: an attempt's number in the file says when it was begun, and ``last_begun`` what had begun when it was
finished.

Opening looks before it touches (``sqlite_file``), makes or migrates the tables in one transaction, and then reports
what a crash left unfinished in the log (``sqlite_opening``). The tables, the statements and the steps of a write know
nothing of SQLite; ``connection``, ``sqlite_file`` and ``sqlite_opening`` do.
"""

import asyncio
import contextlib
import functools
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.sql.expression import ClauseElement

from crynux_async.errors import LedgerError, UsageError
from crynux_async.ledgers.base import AttemptRow, JobRow
from crynux_async.ledgers.sql import statements, steps
from crynux_async.ledgers.sql.migrations import CURRENT, SchemaPlan
from crynux_async.ledgers.sql.rows import decode_attempt, decode_job, encode_job, to_microseconds
from crynux_async.ledgers.sqlite import leasing
from crynux_async.ledgers.sqlite.file import damaged, explain, sqlite_path
from crynux_async.ledgers.sqlite.gate_visit import GateCell, GateVisit
from crynux_async.ledgers.sqlite.opening import OpenFile, open_file
from crynux_async.ledgers.sqlite.writer import Writer
from crynux_async.states import JobState

_In = TypeVar("_In")
_Out = TypeVar("_Out")

BUSY_TIMEOUT = 10.0
"""How many seconds a ledger waits for other processes that use its file."""

_SLICE = 50  # rows between two turns of the event loop: a config takes about 0.1 ms to check


class SqlLedger:
    """A ledger in a SQLite file, which several processes may share.

    Args:
        where: A path, or a URL such as "sqlite:///jobs.db" (relative) or "sqlite:////var/lib/jobs.db" (absolute).
        busy_timeout: Seconds, >= 0, to wait for other processes that use the file.
        plan: The schema; another one than this version's is for tests of migrations.

    Attributes:
        dropped: What of an unfinished write was dropped when the file was opened after a crash, for people, or "".

    Raises:
        UsageError: ``where`` names no file.
    """

    def __init__(
        self, where: str | os.PathLike[str], *, busy_timeout: float = BUSY_TIMEOUT, plan: SchemaPlan = CURRENT
    ) -> None:
        self.dropped = ""
        # SQLite puts its log beside the file itself, not beside a link to it.
        self._path = Path(os.path.realpath(sqlite_path(where)))
        self._busy_timeout = busy_timeout
        self._plan = plan
        self._file: OpenFile | None = None
        self._writer: Writer | None = None
        self._closing: asyncio.Task[None] | None = None
        self._gate_holder: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        state = "closed" if self._writer is None else "failed" if self.failure else "open"
        return f"<SqlLedger {self._path} {state}>"

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def failure(self) -> LedgerError | None:
        """Why nothing can be stored any more until the ledger is opened again, or None while all is well."""
        return None if self._writer is None else self._writer.failure

    async def open(self) -> None:
        """Open or create the file, and bring an older one up to date.

        Raises:
            LedgerError: It is not a ledger, damaged, locked, not writable, or was written by a newer version. It has
                not been changed.
            UsageError: It is open already.
        """
        if self._closing is not None:
            await asyncio.shield(self._closing)
        if self._writer is not None:
            raise UsageError(f"{self!r} is open already")
        opening = asyncio.create_task(open_file(self._path, self._plan, self._busy_timeout))
        try:
            file = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # Cut off in the middle, SQLAlchemy would leave a connection behind that nobody can close any more.
            self._closing = asyncio.create_task(self._close_opened(opening), name="crynux_async ledger close")
            raise
        self._file, self.dropped = file, file.dropped
        self._writer = Writer(file.writes, self._path, self._busy_timeout)

    async def close(self) -> None:
        """Write what is left and let go of the file; goes on where its caller is cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="crynux_async ledger close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            if self._writer is not None and self._file is not None:
                await self._writer.close()
                await self._file.close()
        finally:
            self._writer = self._file = self._closing = None

    async def _close_opened(self, opening: asyncio.Task[OpenFile]) -> None:
        """Close a file as soon as it is open, because nobody wants it any more."""
        try:
            with contextlib.suppress(LedgerError):
                file = await opening
                await file.close()
        finally:
            self._closing = None

    async def add(self, rows: Sequence[JobRow], *, owner: str | None = None, until: datetime | None = None) -> None:
        """Store new jobs, with their leases where an ``owner`` is given."""
        writer = self._writing()
        if (owner is None) is not (until is None):
            raise UsageError("a lease needs an owner and an end")
        if rows:
            await writer.write(steps.add_steps(await _in_slices(encode_job, rows), owner, until))

    async def update(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Change columns of jobs: job id -> names of ``JobRow`` -> values."""
        writer = self._writing()
        if changes:
            await writer.write(steps.change_steps(changes))

    async def begin(self, attempt: AttemptRow) -> None:
        """Store an attempt before its first byte is sent."""
        await self._writing().write(steps.begin_steps(attempt))

    async def finish(self, attempt: AttemptRow, **changes: Any) -> None:
        """Store what became of an attempt together with the changes of its job, in one step."""
        await self._writing().write(steps.finish_steps(attempt, changes))

    async def get(self, job_id: str) -> JobRow | None:
        """Return a job, or None where there is none."""
        rows = await self._read(statements.select_job(job_id))
        return (await self._decode(decode_job, rows))[0] if rows else None

    async def jobs(
        self,
        *,
        states: Collection[JobState] | None = None,
        backend: str | None = None,
        label: str | None = None,
        limit: int | None = None,
    ) -> list[JobRow]:
        """Return jobs in the order in which they were added."""
        rows = await self._read(statements.select_jobs(states, backend, label, limit))
        return await self._decode(decode_job, rows)

    async def attempts(
        self,
        *,
        backend: str | None = None,
        key_id: str | None = None,
        job_id: str | None = None,
        since: datetime | None = None,
    ) -> list[AttemptRow]:
        """Return attempts in the order in which they were begun."""
        start = None if since is None else to_microseconds(since)
        rows = await self._read(statements.select_attempts(backend, key_id, job_id, start))
        return await self._decode(decode_attempt, rows)

    async def bracket(self, attempt: AttemptRow) -> tuple[int | None, int | None]:
        """Return the task ids between which an attempt of unknown outcome must lie."""
        rows = await self._read(statements.select_bracket(attempt.job_id, attempt.number))
        if not rows:
            raise LedgerError(f"attempt {attempt.number} of job {attempt.job_id!r} was not begun", path=str(self._path))
        after, before = rows[0]
        return after, before

    async def claim(
        self, owner: str, *, backend: str, now: datetime, until: datetime, states: Collection[JobState]
    ) -> list[JobRow]:
        """Take the lease of every job of a backend in ``states`` that nobody holds (any more), and return those."""
        take = functools.partial(
            leasing.take_free, owner=owner, backend=backend, now=now, until=until, states=frozenset(states)
        )
        return await self._decode(decode_job, await self._writing().alone(take))

    async def lease(self, owner: str, job_ids: Sequence[str], *, until: datetime) -> list[str]:
        """Take the lease of certain jobs where no other owner has it, and return whose lease the owner has now."""
        take = functools.partial(leasing.take, owner=owner, job_ids=tuple(job_ids), until=until)
        return await self._writing().alone(take)

    async def renew(self, owner: str, *, until: datetime) -> int:
        """Move the end of every lease of an owner, and return how many it has."""
        return await self._writing().alone(functools.partial(leasing.renew, owner=owner, until=until))

    async def owners(self) -> list[str]:
        """Return everybody who has a lease, ended or not."""
        return [owner for (owner,) in await self._read(statements.SELECT_OWNERS)]

    async def release(self, owner: str) -> None:
        """Give back every lease of an owner."""
        await self._writing().write(steps.release_steps(owner))

    @asynccontextmanager
    async def gate(self, backend: str, key_id: str) -> AsyncIterator[GateCell]:
        """Open the row of a key's gate in an exclusive transaction; keep the block short.

        Raises:
            LedgerError: It could not be stored; what was decided inside must not be carried out.
            UsageError: A gate is open in this task already.
        """
        visit = GateVisit(backend, key_id)
        stored = self._writing().alone(visit.hold)
        try:
            await visit.enter(stored)
            self._gate_holder = asyncio.current_task()
            try:
                yield visit.cell
            finally:
                self._gate_holder = None
            visit.leave(visit.changed_row())
        except BaseException:
            visit.leave(None)
            raise
        await stored

    async def save_hazards(self, backend: str, hazards: Mapping[str, Any]) -> None:
        """Store what was learned of how long each kind of job takes, replacing those kinds."""
        writer = self._writing()
        if hazards:
            await writer.write(steps.hazard_steps(backend, hazards))

    async def load_hazards(self, backend: str) -> dict[str, Any]:
        """Return everything that ``save_hazards`` stored for a backend."""
        rows = await self._read(statements.select_hazards(backend))
        return dict(await self._decode(_decode_hazard, rows))

    def _writing(self) -> Writer:
        """Return the writer, if it can be waited for here."""
        if self._writer is None:
            raise UsageError(f"{self!r} is not open")
        if self._gate_holder is not None and self._gate_holder is asyncio.current_task():
            raise UsageError("a gate is open in this task: close it before writing anything else to the ledger")
        return self._writer

    async def _read(self, statement: ClauseElement) -> list[tuple[Any, ...]]:
        if self._file is None:
            raise UsageError(f"{self!r} is not open")
        try:
            return await self._file.reads.fetch(statement)
        except sqlite3.Error as error:
            raise explain(error, self._path, self._busy_timeout) from error

    async def _decode(self, convert: Callable[[Any], _Out], rows: Sequence[Any]) -> list[_Out]:
        try:
            return await _in_slices(convert, rows)
        except (TypeError, ValueError) as error:
            raise damaged(self._path, error) from error


def _decode_hazard(row: tuple[str, str]) -> tuple[str, Any]:
    kind, text = row
    return kind, json.loads(text)


async def _in_slices(convert: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
    """Convert many items without keeping the event loop from its other work."""
    converted: list[_Out] = []
    for index, item in enumerate(items):
        if index % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        converted.append(convert(item))
    return converted
