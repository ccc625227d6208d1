"""A ledger in memory: as good as a file for as long as the process lives, and as small as it can be.

A hundred thousand jobs must fit, so rows are kept as they come: a row and its config are shared with the caller, and
an attempt is one row in one list, found again by its position.
"""

import asyncio
from array import array
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import islice
from typing import Any

import anyio
import attrs

from crynux_async.errors import LedgerError, UsageError
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, GateRow, JobRow
from crynux_async.ledgers.sql.rows import check_job, encode_attempt, encode_changes
from crynux_async.states import JobState

_UNFINISHED = -1
_NONE = -1
_SLICE = 500  # rows between two turns of the event loop: one takes about 6 µs to check


class _Lease:
    """What an owner holds; ``until`` is None once it was given back, ``jobs`` is how many it covers."""

    __slots__ = ("jobs", "owner", "until")

    def __init__(self, owner: str, until: datetime) -> None:
        self.owner = owner
        self.until: datetime | None = until
        self.jobs = 0

    def is_over(self, now: datetime) -> bool:
        return self.until is None or self.until < now


class _Entry:
    """A job, the position of its last attempt, and its lease."""

    __slots__ = ("last_attempt", "lease", "row")

    def __init__(self, row: JobRow, lease: _Lease | None) -> None:
        self.row = row
        self.last_attempt = _NONE
        self.lease = lease

    def is_free(self, now: datetime) -> bool:
        return self.lease is None or self.lease.is_over(now)


class _Cell:
    """A gate's row inside its transaction."""

    __slots__ = ("row",)

    def __init__(self, row: GateRow | None) -> None:
        self.row = row


class MemoryLedger:
    """A ``Ledger`` without a file: it forgets everything when it is gone.

    It needs no opening, and closing it does nothing: its rows stay for the next session that is given it.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, _Entry] = {}
        self._tasks: dict[str, dict[int, str]] = {}
        self._attempts: list[AttemptRow] = []
        self._previous = array("q")  # for each attempt, the position of the one before it of the same job
        # For each attempt, how many had begun when it was finished: the order of events without any clock.
        self._begun_at_finish = array("q")
        self._leases: dict[str, _Lease] = {}
        self._gates: dict[tuple[str, str], GateRow] = {}
        self._gate_lock = anyio.Lock()
        self._gate_holder: asyncio.Task[Any] | None = None
        self._hazards: dict[str, dict[str, Any]] = {}

    def __repr__(self) -> str:
        return f"<MemoryLedger {len(self._jobs)} jobs, {len(self._attempts)} attempts>"

    @property
    def failure(self) -> LedgerError | None:
        """Always None: memory does not fail."""
        return None

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing: the rows stay for the next session."""

    async def add(self, rows: Sequence[JobRow], *, owner: str | None = None, until: datetime | None = None) -> None:
        """Store new jobs, with their leases where an ``owner`` is given."""
        self._check_not_in_gate()
        for index, row in enumerate(rows):
            check_job(row)
            if index % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        names = [row.job_id for row in rows]
        if len(set(names)) < len(names) or not self._jobs.keys().isdisjoint(names):
            raise LedgerError("a job with this id is there already", job_id=_first_twin(names, self._jobs))
        self._move_tasks((None, row) for row in rows)
        lease = self._lease_of(owner, until) if owner is not None and rows else None
        for row in rows:
            self._jobs[row.job_id] = _Entry(row, lease)
        if lease is not None:
            lease.jobs += len(rows)

    async def update(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Change columns of jobs: job id -> names of ``JobRow`` -> values."""
        self._check_not_in_gate()
        changed = [(self._entry(job_id), changes[job_id]) for job_id in changes]
        for _, columns in changed:
            encode_changes(columns)
        self._replace([(entry, attrs.evolve(entry.row, **columns)) for entry, columns in changed])

    async def begin(self, attempt: AttemptRow) -> None:
        """Store an attempt before its first byte is sent."""
        self._check_not_in_gate()
        encode_attempt(attempt)
        entry = self._jobs.get(attempt.job_id)
        if entry is None or self._position(attempt) is not None:
            raise LedgerError(
                f"there is no job {attempt.job_id!r}, or its attempt {attempt.number} was begun already",
                job_id=attempt.job_id,
            )
        self._previous.append(entry.last_attempt)
        entry.last_attempt = len(self._attempts)
        self._attempts.append(attempt)
        self._begun_at_finish.append(_UNFINISHED)

    async def finish(self, attempt: AttemptRow, **changes: Any) -> None:
        """Store what became of an attempt together with the changes of its job, in one step."""
        self._check_not_in_gate()
        encode_attempt(attempt)
        encode_changes(changes)
        position = self._position(attempt)
        if position is None or not _may_become(self._attempts[position].outcome, attempt.outcome):
            raise LedgerError(
                f"attempt {attempt.number} of job {attempt.job_id!r} was not begun, or has another outcome already",
                job_id=attempt.job_id,
            )
        entry = self._entry(attempt.job_id)
        self._replace([(entry, attrs.evolve(entry.row, **changes))] if changes else [])
        self._attempts[position] = attempt
        self._begun_at_finish[position] = len(self._attempts)

    async def get(self, job_id: str) -> JobRow | None:
        """Return a job, or None where there is none."""
        entry = self._jobs.get(job_id)
        return entry.row if entry else None

    async def jobs(
        self,
        *,
        states: Collection[JobState] | None = None,
        backend: str | None = None,
        label: str | None = None,
        limit: int | None = None,
    ) -> list[JobRow]:
        """Return jobs in the order in which they were added."""
        found = (
            entry.row
            for entry in self._jobs.values()
            if (states is None or entry.row.state in states)
            and (backend is None or entry.row.backend == backend)
            and (label is None or entry.row.label == label)
        )
        return list(islice(found, limit))

    async def attempts(
        self,
        *,
        backend: str | None = None,
        key_id: str | None = None,
        job_id: str | None = None,
        since: datetime | None = None,
    ) -> list[AttemptRow]:
        """Return attempts in the order in which they were begun."""
        return [
            attempt
            for attempt in (self._attempts if job_id is None else self._attempts_of(job_id))
            if (backend is None or attempt.backend == backend)
            and (key_id is None or attempt.key_id == key_id)
            and (since is None or attempt.began_at >= since)
        ]

    async def bracket(self, attempt: AttemptRow) -> tuple[int | None, int | None]:
        """Return the task ids between which an attempt of unknown outcome must lie."""
        position = self._position(attempt)
        if position is None:
            raise LedgerError(f"attempt {attempt.number} of job {attempt.job_id!r} was not begun")
        finished = self._begun_at_finish[position]
        after: int | None = None
        before: int | None = None
        for index, other in enumerate(self._attempts):
            if other.task_id is None or other.backend != self._attempts[position].backend:
                continue
            if _UNFINISHED < self._begun_at_finish[index] <= position:
                after = other.task_id if after is None else max(after, other.task_id)
            elif _UNFINISHED < finished <= index:
                before = other.task_id if before is None else min(before, other.task_id)
        return after, before

    async def claim(
        self, owner: str, *, backend: str, now: datetime, until: datetime, states: Collection[JobState]
    ) -> list[JobRow]:
        """Take the lease of every job of a backend in ``states`` that nobody holds (any more), and return those."""
        self._check_not_in_gate()
        # Sessions ask again and again, nearly always in vain: that must not cost a walk over all jobs.
        if sum(lease.jobs for lease in self._leases.values() if not lease.is_over(now)) == len(self._jobs):
            return []
        free = [
            entry
            for entry in self._jobs.values()
            if entry.row.backend == backend and entry.row.state in states and entry.is_free(now)
        ]
        if free:
            self._give(free, self._lease_of(owner, until))
        return [entry.row for entry in free]

    async def lease(self, owner: str, job_ids: Sequence[str], *, until: datetime) -> list[str]:
        """Take the lease of certain jobs where no other owner has it, and return whose lease the owner has now."""
        self._check_not_in_gate()
        entries = [self._entry(job_id) for job_id in job_ids]
        mine = [
            entry for entry in entries if entry.lease is None or entry.lease.until is None or entry.lease.owner == owner
        ]
        if mine:
            self._give(mine, self._lease_of(owner, until))
        return [entry.row.job_id for entry in mine]

    async def renew(self, owner: str, *, until: datetime) -> int:
        """Move the end of every lease of an owner, and return how many it has."""
        self._check_not_in_gate()
        lease = self._leases.get(owner)
        if lease is None:
            return 0
        lease.until = until
        return lease.jobs

    async def owners(self) -> list[str]:
        """Return everybody who has a lease, ended or not."""
        return list(self._leases)

    async def release(self, owner: str) -> None:
        """Give back every lease of an owner."""
        self._check_not_in_gate()
        lease = self._leases.pop(owner, None)
        if lease is not None:
            lease.until = None

    @asynccontextmanager
    async def gate(self, backend: str, key_id: str) -> AsyncIterator[_Cell]:
        """Open the row of a key's gate; nobody else opens one meanwhile."""
        self._check_not_in_gate()
        async with self._gate_lock:
            self._gate_holder = asyncio.current_task()
            try:
                cell = _Cell(self._gates.get((backend, key_id)))
                yield cell
                if cell.row is not None:
                    self._gates[backend, key_id] = cell.row
            finally:
                self._gate_holder = None

    async def save_hazards(self, backend: str, hazards: Mapping[str, Any]) -> None:
        """Store what was learned of how long each kind of job takes, replacing those kinds."""
        self._check_not_in_gate()
        self._hazards.setdefault(backend, {}).update(hazards)

    async def load_hazards(self, backend: str) -> dict[str, Any]:
        """Return everything that ``save_hazards`` stored for a backend."""
        return dict(self._hazards.get(backend, {}))

    def _check_not_in_gate(self) -> None:
        if self._gate_holder is not None and self._gate_holder is asyncio.current_task():
            raise UsageError("a gate is open in this task: close it before writing anything else to the ledger")

    def _entry(self, job_id: str) -> _Entry:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise LedgerError(f"there is no job {job_id!r}", job_id=job_id) from None

    def _position(self, attempt: AttemptRow) -> int | None:
        positions = self._positions(attempt.job_id)
        return next((index for index in positions if self._attempts[index].number == attempt.number), None)

    def _attempts_of(self, job_id: str) -> list[AttemptRow]:
        return [self._attempts[index] for index in self._positions(job_id)][::-1]

    def _positions(self, job_id: str) -> Iterator[int]:
        """Yield where the attempts of a job are, the last one first."""
        entry = self._jobs.get(job_id)
        index = entry.last_attempt if entry else _NONE
        while index != _NONE:
            yield index
            index = self._previous[index]

    def _replace(self, pairs: list[tuple[_Entry, JobRow]]) -> None:
        self._move_tasks((entry.row, row) for entry, row in pairs)
        for entry, row in pairs:
            entry.row = row

    def _move_tasks(self, pairs: Iterable[tuple[JobRow | None, JobRow]]) -> None:
        """Take note of which job has which task, all of it or, where a task would have two jobs, none."""
        moved: dict[tuple[str, int], str | None] = {}
        for old, new in pairs:
            if old is not None and old.task_id is not None:
                moved[old.backend, old.task_id] = None
            if new.task_id is None:
                continue
            key = new.backend, new.task_id
            holder = moved[key] if key in moved else self._tasks.get(new.backend, {}).get(new.task_id)
            if holder is not None:
                message = f"task {new.task_id} of {new.backend} belongs to job {holder!r} already"
                raise LedgerError(message, job_id=new.job_id, task_id=new.task_id)
            moved[key] = new.job_id
        for (backend, task_id), job_id in moved.items():
            tasks = self._tasks.setdefault(backend, {})
            if job_id is None:
                tasks.pop(task_id, None)
            else:
                tasks[task_id] = job_id

    def _lease_of(self, owner: str | None, until: datetime | None) -> _Lease:
        if owner is None or until is None:
            raise UsageError("a lease needs an owner and an end")
        lease = self._leases.setdefault(owner, _Lease(owner, until))
        lease.until = until
        return lease

    @staticmethod
    def _give(entries: Iterable[_Entry], lease: _Lease) -> None:
        for entry in entries:
            if entry.lease is not None:
                entry.lease.jobs -= 1
            entry.lease = lease
            lease.jobs += 1


def _may_become(known: AttemptOutcome | None, outcome: AttemptOutcome | None) -> bool:
    return known in {None, AttemptOutcome.UNKNOWN, outcome}


def _first_twin(names: Iterable[str], known: Collection[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in known or name in seen:
            return name
        seen.add(name)
    return None
