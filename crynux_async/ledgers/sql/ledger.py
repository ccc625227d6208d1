"""A ledger in a database, method by method; what is its own for one database is in the subclasses.

Theory of operation. One ``Writer`` task has the only connection that writes; every method that writes hands it a
request and waits, so a cancelled caller cannot tear a transaction apart. What waits together is committed together. A
second connection reads; it sees what is committed and holds nobody up.

What all processes on a ledger have to agree about is decided inside one transaction: where a database can lock rows,
by locking those that the decision is about (a lease, a job, a gate), and otherwise by keeping all other writers out.

The order of events that ``neighbours`` needs is that of the transactions: an attempt's number says when it was begun,
and its ``last_begun`` what had begun when it was finished. It holds with row numbers that are not in the order of
commits as well: a create is sent after its attempt is committed, so one that a commit did not see was sent later.
"""

import asyncio
import contextlib
import functools
import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Protocol, TypeVar

import attrs

from crynux_async.clock import monotonic
from crynux_async.errors import LedgerError, UsageError
from crynux_async.ledgers.base import (
    AttemptRow,
    BudgetRow,
    EventRow,
    Fence,
    Holder,
    JobChange,
    JobFilter,
    JobRow,
    Neighbours,
    Reservation,
    StepRow,
    TaskRow,
    WishRow,
)
from crynux_async.ledgers.bell import Bell
from crynux_async.ledgers.checks import VALUE_ERRORS, check_change, check_new_rows, no_such_value, not_begun
from crynux_async.ledgers.columns import decode_job, decode_row, encode_row, to_json, to_microseconds
from crynux_async.ledgers.sql import leasing, money, notes, queries, statements
from crynux_async.ledgers.sql.connection import Connection
from crynux_async.ledgers.sql.gate_visit import GateCell, GateVisit
from crynux_async.ledgers.sql.reads import SqlReads, in_order, parts, require_here
from crynux_async.ledgers.sql.requests import (
    add_request,
    begin_request,
    change_request,
    plain_request,
    plan_request,
)
from crynux_async.ledgers.sql.steps import drop_steps, hazard_steps
from crynux_async.ledgers.sql.text import Sql
from crynux_async.ledgers.sql.writer import Work, Writer
from crynux_async.slices import in_slices
from crynux_async.states import JobState

_T = TypeVar("_T")

_EVERY = JobFilter()
_TRIMMED_AT_ONCE = 2000  # events in one transaction, so that others are not kept out for long


class Database(Protocol):
    """An open database."""

    @property
    def writes(self) -> Connection:
        """The connection that writes."""

    @property
    def reads(self) -> Connection:
        """The connection that reads."""

    async def close(self) -> None:
        """Let go of it."""


class SqlLedger(SqlReads):
    """A ledger in a database. A subclass opens it, tells its time, and hears what others write.

    Args:
        place: The file or database without any secret, for messages.

    Attributes:
        opens_moved: Whether it opens although it was moved, for who moves it.
    """

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._bell = Bell()
        self._database: Database | None = None
        self._writer: Writer | None = None
        self._closing: asyncio.Task[None] | None = None
        self._gate_holder: asyncio.Task[Any] | None = None
        self.opens_moved = False

    def __repr__(self) -> str:
        state = "closed" if self._writer is None else "failed" if self.failure else "open"
        return f"<{type(self).__name__} {self._place} {state}>"

    @property
    def failure(self) -> LedgerError | None:
        """Why nothing can be stored any more until the ledger is opened again, or None while all is well."""
        return None if self._writer is None else self._writer.failure

    @property
    def place(self) -> str:
        """The file or database, for people: nothing in it is secret."""
        return self._place

    @property
    def database(self) -> Database:
        """The open database, for parts that know its tables.

        Raises:
            UsageError: It is not open.
        """
        if self._database is None:
            raise UsageError(f"{self!r} is not open")
        return self._database

    async def moved_to(self) -> str | None:
        """Return where the ledger was moved, or None."""
        rows = await self._read(queries.SELECT_MOVED)
        return rows[0][0] if rows else None

    # What a subclass has to say

    @abstractmethod
    async def _open_database(self) -> Database:
        """Open or create the database, and bring an older one up to date.

        Raises:
            LedgerError: It cannot be used; it has not been changed.
        """

    @property
    @abstractmethod
    def _clock_name(self) -> str:
        """What tells the clock of gates from any other."""

    @abstractmethod
    async def _read_clock(self, connection: Connection) -> float:
        """Return the seconds of the clock that everybody shares who visits a gate of this ledger."""

    # Opening and closing

    async def open(self) -> None:
        """Open or create the ledger, and bring an older one up to date.

        Raises:
            LedgerError: It cannot be used. It has not been changed.
            UsageError: It is open already.
        """
        if self._closing is not None:
            await asyncio.shield(self._closing)
        if self._writer is not None:
            raise UsageError(f"{self!r} is open already")
        opening = asyncio.create_task(self._open_database())
        try:
            database = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # Cut off in the middle it would leave a connection behind that nobody can close any more.
            self._closing = asyncio.create_task(self._close_opened(opening), name="crynux_async ledger close")
            raise
        self._database = database
        self._writer = Writer(database.writes, self._place, self._bell.ring)
        try:
            if not self.opens_moved:
                require_here(await self._read(queries.SELECT_MOVED))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Write what is left and let go of the database; goes on where its caller is cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="crynux_async ledger close")
        await asyncio.shield(self._closing)

    def give_up_after(self, seconds: float) -> None:
        """Ask a database that is away no longer than this, from now on, whether a commit has arrived; for who ends."""
        if self._writer is not None:
            self._writer.give_up_at = monotonic() + seconds

    async def _close(self) -> None:
        try:
            if self._writer is not None and self._database is not None:
                await self._writer.close()
                database, self._database = self._database, None
                self._bell.ring()  # who waits for a change finds the ledger closed
                await database.close()
        finally:
            self._writer = self._database = self._closing = None

    async def _close_opened(self, opening: "asyncio.Task[Database]") -> None:
        """Close a database as soon as it is open, because nobody wants it any more."""
        try:
            with contextlib.suppress(LedgerError):
                database = await opening
                await database.close()
        finally:
            self._closing = None

    # Leases

    async def enter(self, owner: str, *, seconds: float) -> Fence:
        """Make a lease for an owner, and forget those that are long over."""
        work = functools.partial(leasing.enter, owner=owner, now=self.now(), seconds=seconds)
        writer = self._writing()
        fence = await writer.alone(work)
        writer.lease = fence.number
        return fence

    async def renew(self, fence: Fence, *, seconds: float) -> int | None:
        """Move the end of a lease, and return how many jobs it holds."""
        return await self.alone(functools.partial(leasing.renew, fence=fence, now=self.now(), seconds=seconds))

    async def held(self, fence: Fence) -> set[str]:
        """Return the names of the jobs that a lease holds."""
        return {job_id for (job_id,) in await self._read(queries.SELECT_HELD, {"lease_id": fence.number})}

    async def leave(self, fence: Fence) -> None:
        """Give back a lease with every job that it holds."""
        await self.alone(functools.partial(leasing.leave, fence=fence))

    async def holders(self) -> list[Holder]:
        """Return everybody who has a lease, ended or not."""
        return await self._decode(queries.read_holder, await self._read(queries.SELECT_HOLDERS))

    async def claim(
        self,
        fence: Fence,
        *,
        backend: str,
        states: Collection[JobState],
        wanted: Collection[JobState] = (),
        key_ids: Collection[str] | None = None,
        wanted_key_ids: Collection[str] | None = None,
        spared: Collection[str] = (),
        at_most: int | None = None,
    ) -> list[JobRow]:
        """Take jobs of a backend that nobody holds (any more)."""
        work = functools.partial(
            leasing.claim,
            fence=fence,
            now=self.now(),
            backend=backend,
            followed=leasing.Chosen(states=tuple(states), key_ids=key_ids, is_wanted=False),
            wanted=leasing.Chosen(states=tuple(wanted), key_ids=wanted_key_ids, is_wanted=True),
            spared=tuple(spared),
            at_most=at_most,
        )
        return await self._decode(decode_job, await self.alone(work))

    async def take(self, fence: Fence, job_ids: Sequence[str]) -> list[str]:
        """Take certain jobs, and return those that the fence holds now."""
        return await self.alone(functools.partial(leasing.take, fence=fence, job_ids=tuple(job_ids), now=self.now()))

    async def drop(self, fence: Fence, job_ids: Sequence[str]) -> None:
        """Give back certain jobs that the fence holds."""
        writer = self._writing()
        if job_ids:
            await writer.write(plain_request(drop_steps(fence, job_ids)))

    # Jobs

    async def add(
        self,
        rows: Sequence[JobRow],
        *,
        fence: Fence | None = None,
        events: Sequence[EventRow] = (),
        tasks: Sequence[TaskRow] = (),
    ) -> list[JobRow]:
        """Store new jobs with their first events and tasks, and return what is stored."""
        writer = self._writing()
        check_new_rows(rows, events, tasks)
        if not rows:
            return []
        encoded = await in_slices(encode_row, rows)
        return await writer.write(add_request(rows, encoded, fence=fence, events=events, tasks=tasks))

    async def change(self, fence: Fence, changes: Sequence[JobChange]) -> list[str]:
        """Change jobs that the fence holds, and return the names of those that it does not hold (any more)."""
        writer = self._writing()
        for change in changes:
            check_change(change)
        return await writer.write(change_request(fence, changes)) if changes else []

    async def begin(self, fence: Fence, attempt: AttemptRow, *, reservation: Reservation | None = None) -> None:
        """Store an attempt before its first byte is sent, and reserve what it may cost."""
        await self._writing().write(begin_request(fence, attempt, reservation))

    async def plan_step(self, fence: Fence, step: StepRow) -> StepRow:
        """Store a step before it is done, and return it as it is stored."""
        return await self._writing().write(plan_request(fence, step))

    async def get(self, job_id: str) -> JobRow | None:
        """Return a job, or None where there is none."""
        rows = await self._decode(decode_job, await self._read(queries.SELECT_JOB, {"job_id": job_id}))
        return rows[0] if rows else None

    async def count(self, where: JobFilter | None = None) -> dict[JobState, int]:
        """Return how many jobs are in which state."""
        counts: dict[JobState, int] = {}
        for part in parts(where or _EVERY):
            for state, count in await self._read(queries.count_jobs(part)):
                counts[JobState(state)] = counts.get(JobState(state), 0) + count
        return counts

    # What belongs to jobs

    async def neighbours(self, attempt: AttemptRow, *, at_most: int = 200) -> Neighbours:
        """Return the task ids around an attempt."""
        found = await self._read(queries.SELECT_PLACE, {"job_id": attempt.job_id, "number": attempt.number})
        if not found:
            raise not_begun(attempt)
        ((place, end, backend),) = found
        around = {"place": place, "end": end, "backend": backend, "at_most": at_most}
        before = await self._read(queries.SELECT_BEFORE, around)
        after = [] if end is None else await self._read(queries.SELECT_AFTER, around)
        under_way = await self._read(queries.select_under_way(place, end, backend))
        return Neighbours(
            before=tuple(task_id for (task_id,) in before),
            after=tuple(task_id for (task_id,) in after),
            under_way=tuple(await self._decode(queries.read_attempt, under_way)),
        )

    async def known_tasks(self, backend: str, task_ids: Collection[str]) -> set[str]:
        """Return those of these tasks of a backend that any job has."""
        found: set[str] = set()
        for select in (queries.select_newest_tasks, queries.select_all_tasks):
            rows = await self._read_in_chunks(functools.partial(select, backend), task_ids)
            found.update(task_id for (task_id,) in rows)
        return found

    async def steps(self, job_ids: Collection[str]) -> list[StepRow]:
        """Return the steps of certain jobs in the order in which they were planned."""
        numbered = await self._read_in_chunks(queries.select_steps, job_ids)
        return await self._decode(queries.read_step, in_order(numbered))

    async def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[EventRow]:
        """Return a job's events with larger numbers than ``after``, in order."""
        row = {"job_id": job_id, "number": after, "limit": limit}
        return await self._decode(functools.partial(decode_row, EventRow), await self._read(queries.SELECT_EVENTS, row))

    async def trim_events(self, *, before: datetime, keep: int) -> int:
        """Remove old events of jobs that have ended, and all but the newest of every job."""
        old = statements.trim_old_events(to_microseconds(before), _TRIMMED_AT_ONCE)
        many = statements.trim_many_events(keep, _TRIMMED_AT_ONCE)
        removed = 0
        for statement in (old, many):
            while count := await self.alone(functools.partial(_run, statement=statement)):
                removed += count
        return removed

    async def wish(self, row: WishRow) -> WishRow:
        """Store a wish, and return it with its number."""
        encoded = encode_row(row)
        number = await self.alone(functools.partial(notes.add_wish, row=encoded))
        return attrs.evolve(row, number=number)

    async def wishes(self, fence: Fence) -> list[WishRow]:
        """Return what is wished of the jobs that a lease holds."""
        rows = await self._read(queries.SELECT_WISHES, {"lease_id": fence.number})
        return await self._decode(functools.partial(decode_row, WishRow), rows)

    async def spent(self, where: JobFilter) -> tuple[int, int]:
        """Return the wei that tasks of certain jobs hold and have spent."""
        held = spent = 0
        for part in parts(where):
            ((*fees, cnx, high, low),) = await self._read(queries.sum_money(part))
            held += money.totalled(*fees)
            spent += money.totalled(cnx, high, low)
        return held, spent

    async def budget(self, name: str) -> BudgetRow | None:
        """Return a budget, or None where nothing was ever reserved under this name."""
        rows = await self._read(queries.SELECT_BUDGET, {"name": name})
        return queries.read_budget(rows[0]) if rows else None

    # What is shared

    @asynccontextmanager
    async def gate(self, backend: str, key_id: str) -> AsyncIterator[GateCell]:
        """Open the row of a key's gate in an exclusive transaction.

        Raises:
            LedgerError: It could not be stored; what was decided inside must not be carried out.
            UsageError: A gate is open in this task already.
        """
        visit = GateVisit(backend, key_id, clock=self._clock_name, read_clock=self._read_clock)
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
            await writer.write(plain_request(hazard_steps(backend, hazards)))

    async def load_hazards(self, backend: str) -> dict[str, Any]:
        """Return everything that ``save_hazards`` stored for a backend."""
        return dict(await self._decode(_decode_hazard, await self._read(queries.SELECT_HAZARDS, {"backend": backend})))

    async def note(self, scope: str, name: str) -> Any:
        """Return a note that ``put_note`` stored, or None."""
        rows = await self._decode(_decode_note, await self._read(queries.SELECT_NOTE, {"scope": scope, "name": name}))
        return rows[0] if rows else None

    async def put_note(self, scope: str, name: str, value: Any, *, expected: Any = ...) -> bool:
        """Store a small durable note, where what is expected is there."""
        text = None if value is None else to_json(value)
        known = expected if expected is None or expected is ... else to_json(expected)
        return await self.alone(functools.partial(notes.put_note, scope=scope, name=name, value=text, expected=known))

    # How it is done

    def _writing(self) -> Writer:
        """Return the writer, if it can be waited for here."""
        if self._writer is None:
            raise UsageError(f"{self!r} is not open")
        if self._gate_holder is not None and self._gate_holder is asyncio.current_task():
            raise UsageError("a gate is open in this task: close it before writing anything else to the ledger")
        return self._writer

    async def alone(self, work: Work[_T]) -> _T:
        """Do something in a transaction of its own, which is undone where its caller is cancelled in time.

        Raises:
            LedgerError: It is not stored.
        """
        return await self._writing().alone(work)

    def _reading(self) -> Connection:
        if self._database is None:
            raise UsageError(f"{self!r} is not open")
        return self._database.reads

    async def _read(self, statement: Sql, row: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        connection = self._reading()
        try:
            return await connection.fetch(statement, row)
        except VALUE_ERRORS as error:
            raise no_such_value(error, self._place) from error
        except Exception as error:
            raise connection.explain(error) from error

    async def _converted(self, convert: Callable[[Any], _T], rows: Sequence[Any]) -> list[_T]:
        return await in_slices(convert, rows)


async def _run(connection: Connection, statement: Sql) -> tuple[int, bool]:
    changed = await connection.run(statement)
    return changed, changed > 0


def _decode_hazard(row: tuple[str, str]) -> tuple[str, Any]:
    kind, text = row
    return kind, json.loads(text)


def _decode_note(row: tuple[str]) -> Any:
    return json.loads(row[0])
