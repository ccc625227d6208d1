"""A ledger in memory, method by method.

Nothing here waits between reading and writing, so a method is a transaction by itself; what a later part of it refuses
is taken back by an ``Undo``. A hundred thousand jobs must fit: a config is shared with the caller, and rows are kept as
``packing`` says.
"""

import asyncio
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import anyio
import attrs

from crynux_async.clock import boot_id, monotonic, utc_now
from crynux_async.errors import LedgerError, UsageError
from crynux_async.ledgers.base import LEASE_MEMORY, AttemptRow, Fence, Holder, JobChange, JobFilter, JobRow, TaskRow
from crynux_async.ledgers.bell import Bell
from crynux_async.ledgers.checks import check_change, check_new_rows, exceeded, misnumbered, not_begun, not_held
from crynux_async.ledgers.columns import FINISHED_COLUMNS, check_changes, check_row, to_json
from crynux_async.ledgers.memory.attempts import NONE, AttemptLog
from crynux_async.ledgers.memory.jobs import Entry, JobTable, Lease, ordered_steps, ordered_tasks
from crynux_async.ledgers.memory.packing import Packed, packed
from crynux_async.ledgers.memory.selection import selected
from crynux_async.ledgers.memory.undo import Undo
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig

if TYPE_CHECKING:
    from crynux_async.ledgers.base import (
        BudgetRow,
        EventRow,
        GateRow,
        Neighbours,
        Reservation,
        Settlement,
        StepRow,
        WishRow,
    )

_SLICE = 500  # rows between two turns of the event loop: one takes about 6 µs to check
_EVERY = JobFilter()
_ENDED = (*FINISHED_COLUMNS, "payload")  # a hundred thousand payloads of which nothing can come are 80 MB


class _Cell:
    """A gate's row inside its transaction."""

    __slots__ = ("clock", "now", "row")

    def __init__(self, row: "GateRow | None") -> None:
        self.row = row
        self.clock = boot_id()
        self.now = monotonic()


class MemoryLedger:
    """A ``Ledger`` without a file: it forgets everything when it is gone.

    It needs no opening, and closing it does nothing: its rows stay for the next session that is given it.

    Args:
        clock: What tells the time for leases, aware UTC; the event loop's own date otherwise.
    """

    def __init__(self, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._table = JobTable()
        self._attempts = AttemptLog()
        self._events: dict[str, list[EventRow]] = {}
        self._wishes: dict[int, WishRow] = {}
        self._last_wish = 0
        self._budgets: dict[str, BudgetRow] = {}
        self._gates: dict[tuple[str, str], GateRow] = {}
        self._gate_lock = anyio.Lock()
        self._gate_holder: asyncio.Task[Any] | None = None
        self._hazards: dict[str, dict[str, Any]] = {}
        self._notes: dict[tuple[str, str], str] = {}
        self._bell = Bell()

    def __repr__(self) -> str:
        return f"<MemoryLedger {len(self._table)} jobs, {len(self._attempts)} attempts>"

    @property
    def failure(self) -> LedgerError | None:
        """Always None: memory does not fail."""
        return None

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing: the rows stay for the next session."""

    # Leases

    async def enter(self, owner: str, *, seconds: float) -> Fence:
        """Make a lease for an owner, and forget those that are long over."""
        now = self._clock()
        with self._writing():
            self._table.forget(now, now - timedelta(seconds=LEASE_MEMORY))
            return self._table.enter(owner, now + timedelta(seconds=seconds))

    async def renew(self, fence: Fence, *, seconds: float) -> int | None:
        """Move the end of a lease, and return how many jobs it holds."""
        with self._writing():
            lease = self._table.leases.get(fence.number)
            if lease is None:
                return None
            lease.until = self._clock() + timedelta(seconds=seconds)
            return lease.jobs

    async def held(self, fence: Fence) -> set[str]:
        """Return the names of the jobs that a lease holds."""
        entries = self._table.all()
        return {entry.column("job_id") for entry in entries if self._table.holding(entry).fence.number == fence.number}

    async def leave(self, fence: Fence) -> None:
        """Give back a lease with every job that it holds."""
        with self._writing():
            lease = self._table.leases.get(fence.number)
            if lease is not None:
                self._table.leave(lease)

    async def holders(self) -> list[Holder]:
        """Return everybody who has a lease, ended or not."""
        return [lease.holder() for lease in self._table.leases.values()]

    async def holder(self, job_id: str) -> Holder | None:
        """Return who holds a job, or None where anybody may take it."""
        entry = self._table.find(job_id)
        return None if entry is None or entry.lease.is_over(self._clock()) else entry.lease.holder()

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
        with self._writing():
            lease = self._table.lease(fence)
            free = self._table.free(self._clock(), backend, states, wanted)
            # A lease that is over is free for all, its owner included; what he has is not taken anew.
            others = (entry for entry in free if entry.lease is not lease and entry.column("job_id") not in spared)
            mine = (
                entry
                for entry in others
                if (entry.column("state") in states and _is_of(entry, key_ids))
                or (
                    entry.column("state") in wanted
                    and entry.column("folder") is not None
                    and _is_of(entry, wanted_key_ids)
                )
            )
            taken = list(islice(mine, at_most))
            for entry in taken:
                self._table.give(entry, lease)
            return [entry.row for entry in taken]

    async def take(self, fence: Fence, job_ids: Sequence[str]) -> list[str]:
        """Take certain jobs, and return those that the fence holds now."""
        with self._writing():
            lease, now = self._table.lease(fence), self._clock()
            entries = [self._table.entry(job_id) for job_id in job_ids]
            mine = [entry for entry in entries if entry.lease is lease or entry.lease.is_over(now)]
            for entry in mine:
                self._table.give(entry, lease)
            return [entry.column("job_id") for entry in mine]

    async def drop(self, fence: Fence, job_ids: Sequence[str]) -> None:
        """Give back certain jobs that the fence holds."""
        with self._writing():
            for entry in filter(None, map(self._table.find, job_ids)):
                if self._table.holding(entry).fence.number == fence.number:
                    self._table.give(entry, None)

    # Jobs

    async def add(
        self,
        rows: Sequence[JobRow],
        *,
        fence: Fence | None = None,
        events: "Sequence[EventRow]" = (),
        tasks: Sequence[TaskRow] = (),
    ) -> list[JobRow]:
        """Store new jobs with their first events and tasks, and return what is stored."""
        # Everything that can be refused is refused first, with turns of the loop in between; from ``_writing`` on
        # nothing awaits, so nobody sees half of it.
        self._check_not_in_gate()
        check_new_rows(rows, events, tasks)
        kept: list[Packed] = []
        for index, row in enumerate(rows):
            kept.append(packed(check_row(row)))
            if index % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        for part in (*events, *tasks):
            check_row(part)
        with self._writing() as undo:
            lease = None if fence is None else self._table.lease(fence)
            earlier = [self._add(row, as_kept, lease, undo) for row, as_kept in zip(rows, kept, strict=True)]
            added = {row.job_id for row, known in zip(rows, earlier, strict=True) if known is None}
            for task in tasks:
                if task.job_id in added:
                    self._table.put_task(self._table.entry(task.job_id), task, undo)
            # Last, and it cannot fail: an empty list of events that stayed behind would belong to no job.
            self._add_events([event for event in events if event.job_id in added], undo)
            return [known or row for row, known in zip(rows, earlier, strict=True)]

    async def change(self, fence: Fence, changes: Sequence[JobChange]) -> list[str]:
        """Change jobs that the fence holds, and return the names of those that it does not hold (any more)."""
        self._check_not_in_gate()
        for change in changes:
            check_change(change)
            _check_values(change)
        with self._writing() as undo:
            lost = [change.job_id for change in changes if not self._change(fence, change, undo)]
            return list(dict.fromkeys(lost))

    async def begin(self, fence: Fence, attempt: AttemptRow, *, reservation: "Reservation | None" = None) -> None:
        """Store an attempt before its first byte is sent, and reserve what it may cost."""
        check_row(attempt)
        with self._writing() as undo:
            entry = self._table.held(fence, attempt.job_id)
            if self._attempts.position(entry.last_attempt, attempt.number) != NONE:
                message = f"attempt {attempt.number} of job {attempt.job_id!r} was begun already"
                raise LedgerError(message, job_id=attempt.job_id)
            self._table.begin(entry, self._attempts.add(attempt, entry.last_attempt, undo), undo)
            if reservation is not None:
                self._reserve(reservation, attempt.job_id, undo)

    async def plan_step(self, fence: Fence, step: "StepRow") -> "StepRow":
        """Store a step before it is done, and return it as it is stored."""
        check_row(step)
        with self._writing() as undo:
            return self._table.plan_step(self._table.held(fence, step.job_id), step, undo)

    async def get(self, job_id: str) -> JobRow | None:
        """Return a job, or None where there is none."""
        entry = self._table.find(job_id)
        return entry.row if entry else None

    async def jobs(
        self, where: JobFilter | None = None, *, limit: int | None = None, newest_first: bool = False
    ) -> list[JobRow]:
        """Return jobs in the order in which they were added, or the other way round."""
        found = selected(self._table, where or _EVERY, limit=limit, newest_first=newest_first)
        return [entry.row for entry in found]

    async def count(self, where: JobFilter | None = None) -> dict[JobState, int]:
        """Return how many jobs are in which state."""
        return dict(Counter(entry.column("state") for entry in selected(self._table, where or _EVERY)))

    # What belongs to jobs

    async def attempts(
        self,
        *,
        backend: str | None = None,
        key_id: str | None = None,
        job_ids: Collection[str] | None = None,
        since: datetime | None = None,
        unfinished: bool = False,
    ) -> list[AttemptRow]:
        """Return attempts in the order in which they were begun."""
        chosen = (
            self._attempts
            if job_ids is None
            else self._attempts.of_all(entry.last_attempt for entry in self._entries(job_ids))
        )
        return [
            attempt
            for attempt in chosen
            if (backend is None or attempt.backend == backend)
            and (key_id is None or attempt.key_id == key_id)
            and (since is None or attempt.began_at >= since)
            and not (unfinished and attempt.outcome is not None)
        ]

    async def neighbours(self, attempt: AttemptRow, *, at_most: int = 200) -> "Neighbours":
        """Return the task ids around an attempt."""
        entry = self._table.find(attempt.job_id)
        position = NONE if entry is None else self._attempts.position(entry.last_attempt, attempt.number)
        if position == NONE:
            raise not_begun(attempt)
        return self._attempts.neighbours(position, at_most)

    async def tasks(self, job_ids: Collection[str]) -> list[TaskRow]:
        """Return every task that was ever made for certain jobs, by job, try and member."""
        return ordered_tasks(self._entries(job_ids))

    async def known_tasks(self, backend: str, task_ids: Collection[str]) -> set[str]:
        """Return those of these tasks of a backend that any job has."""
        return {task_id for task_id in task_ids if self._table.by_task(backend, task_id)}

    async def steps(self, job_ids: Collection[str]) -> "list[StepRow]":
        """Return the steps of certain jobs in the order in which they were planned."""
        return ordered_steps(self._entries(job_ids))

    async def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> "list[EventRow]":
        """Return a job's events with larger numbers than ``after``, in order."""
        known = self._events.get(job_id, [])
        # By number, for old events may be trimmed: an event's place in the list is not its number.
        start = bisect_right(known, after, key=lambda event: event.number)
        return known[start : start + limit]

    async def trim_events(self, *, before: datetime, keep: int) -> int:
        """Remove old events of jobs that have ended, and all but the newest of every job."""
        with self._writing():
            removed = 0
            for job_id, events in self._events.items():
                entry = self._table.entry(job_id)
                oldest, ended_at = entry.column("last_event") - keep + 1, entry.column("ended_at")
                kept = [
                    event for event in events if event.number >= oldest and (ended_at is None or event.at >= before)
                ]
                removed += len(events) - len(kept)
                events[:] = kept
            return removed

    async def wish(self, row: "WishRow") -> "WishRow":
        """Store a wish, and return it with its number."""
        check_row(row)
        with self._writing():
            self._table.entry(row.job_id)
            self._last_wish += 1
            self._wishes[self._last_wish] = attrs.evolve(row, number=self._last_wish)
            return self._wishes[self._last_wish]

    async def wishes(self, fence: Fence) -> "list[WishRow]":
        """Return what is wished of the jobs that a lease holds."""
        return [
            wish
            for _, wish in sorted(self._wishes.items())  # one that an undone write has put back stands last
            if self._table.holding(self._table.entry(wish.job_id)).fence.number == fence.number
        ]

    async def spent(self, where: JobFilter) -> tuple[int, int]:
        """Return the wei that tasks of certain jobs hold and have spent."""
        tasks = ordered_tasks(selected(self._table, where))
        held = sum(task.fee or 0 for task in tasks if task.spent is None)
        return held, sum(task.spent for task in tasks if task.spent is not None)

    async def budget(self, name: str) -> "BudgetRow | None":
        """Return a budget, or None where nothing was ever reserved under this name."""
        return self._budgets.get(name)

    # Hearing of changes

    async def changed(self, since: int) -> int:
        """Wait until anything was written since the call that returned ``since``."""
        return await self._bell.heard(since)

    # What is shared

    @asynccontextmanager
    async def gate(self, backend: str, key_id: str) -> AsyncIterator[_Cell]:
        """Open the row of a key's gate; nobody else opens one meanwhile."""
        self._check_not_in_gate()
        async with self._gate_lock:
            # Whoever writes inside the block waits for himself in a ledger with a file; here it would work, and is
            # refused all the same, so that a program may change to another ledger.
            self._gate_holder = asyncio.current_task()
            try:
                cell = _Cell(self._gates.get((backend, key_id)))
                yield cell
                if cell.row is not None:
                    self._gates[backend, key_id] = cell.row
                    self._bell.ring()
            finally:
                self._gate_holder = None

    async def save_hazards(self, backend: str, hazards: Mapping[str, Any]) -> None:
        """Store what was learned of how long each kind of job takes, replacing those kinds."""
        for value in hazards.values():
            to_json(value)
        with self._writing():
            self._hazards.setdefault(backend, {}).update(hazards)

    async def load_hazards(self, backend: str) -> dict[str, Any]:
        """Return everything that ``save_hazards`` stored for a backend."""
        return dict(self._hazards.get(backend, {}))

    async def note(self, scope: str, name: str) -> Any:
        """Return a note that ``put_note`` stored, or None."""
        text = self._notes.get((scope, name))
        return None if text is None else json.loads(text)

    async def put_note(self, scope: str, name: str, value: Any, *, expected: Any = ...) -> bool:
        """Store a small durable note, where what is expected is there."""
        # Kept as text: what the caller changes in his value later must not show, and equal values are equal texts.
        text, known = to_json(value), self._notes.get((scope, name))
        with self._writing():
            if expected is not ... and known != (None if expected is None else to_json(expected)):
                return False
            self._notes.pop((scope, name), None)
            if value is not None:
                self._notes[scope, name] = text
            return True

    # Inside a write

    def _writing(self) -> Undo:
        """Return what takes a block back where it fails, and tells the others where it does not."""
        self._check_not_in_gate()
        return Undo(self._bell.ring)

    def _check_not_in_gate(self) -> None:
        if self._gate_holder is not None and self._gate_holder is asyncio.current_task():
            raise UsageError("a gate is open in this task: close it before writing anything else to the ledger")

    def _entries(self, job_ids: Collection[str]) -> list[Entry]:
        return selected(self._table, JobFilter(job_ids=job_ids))

    def _add(self, row: JobRow, kept: Packed, lease: Lease | None, undo: Undo) -> JobRow | None:
        """Add a job, or return the one that has its idempotency key."""
        earlier = self._table.earlier(row)
        if earlier is not None:
            return earlier.row
        self._table.add(row, kept, lease, undo)
        return None

    def _add_events(self, events: "Sequence[EventRow]", undo: Undo) -> None:
        for event in events:
            undo.append(self._events.setdefault(event.job_id, []), event)

    def _change(self, fence: Fence, change: JobChange, undo: Undo) -> bool:
        """Make the change of one job; return False where the fence does not hold it."""
        entry = self._table.find(change.job_id)
        if entry is None or self._table.holding(entry).fence.number != fence.number:
            return False
        if change.events and change.events[0].number != entry.column("last_event") + 1:
            raise misnumbered(change.job_id)
        if "config" in change.columns and not _trains_the_same(entry.row, change.columns["config"]):
            raise LedgerError("the config of a job cannot change in what it trains", field="config")
        if change.columns:
            self._table.replace(entry, change.columns, undo)
        if change.finished is not None:
            self._finish(entry, change.finished, undo)
        for task in change.tasks:
            self._table.put_task(entry, task, undo)
        for step in change.steps:
            self._table.finish_step(entry, step, undo)
        self._add_events(change.events, undo)
        if change.settlement is not None:
            self._settle(change.settlement, undo)
        for number in change.granted:
            if number in self._wishes and self._wishes[number].job_id == change.job_id:
                undo.remove(self._wishes, number)
        return True

    def _finish(self, entry: Entry, attempt: AttemptRow, undo: Undo) -> None:
        position = self._attempts.position(entry.last_attempt, attempt.number)
        if position == NONE or not self._attempts.may_become(position, attempt.outcome):
            raise not_begun(attempt, or_ended=True)
        self._attempts.finish(position, attempt, undo)

    def _reserve(self, wanted: "Reservation", job_id: str, undo: Undo) -> None:
        from crynux_async.ledgers.base import BudgetRow

        known = self._budgets.get(wanted.budget, BudgetRow(name=wanted.budget, limit=0, held=0, spent=0))
        if known.held + known.spent + wanted.amount > wanted.limit:
            raise exceeded(wanted, known, job_id)
        budget = attrs.evolve(known, limit=wanted.limit, held=known.held + wanted.amount)
        undo.put(self._budgets, wanted.budget, budget)

    def _settle(self, settlement: "Settlement", undo: Undo) -> None:
        known = self._budgets.get(settlement.budget)
        if known is None or known.held < settlement.released:
            raise not_held(settlement)
        budget = attrs.evolve(known, held=known.held - settlement.released, spent=known.spent + settlement.spent)
        undo.put(self._budgets, settlement.budget, budget)


def _is_of(entry: Entry, key_ids: Collection[str] | None) -> bool:
    return key_ids is None or entry.column("key_id") in key_ids


def _check_values(change: JobChange) -> None:
    """Check that everything in a change can be stored.

    Raises:
        LedgerError: A value cannot.
    """
    check_changes(change.columns)
    for part in (*change.tasks, *change.steps, *change.events):
        check_row(part)
    if change.finished is not None:
        check_row(change.finished, _ENDED)


def _trains_the_same(row: JobRow, config: FineTuneConfig | None) -> bool:
    return row.config is not None and config is not None and row.digest == config.digest()
