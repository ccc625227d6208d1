"""The jobs of a ledger in memory: their rows, what must be unique among them, and who holds them."""

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from crynux_async.errors import LeaseLostError, LedgerError
from crynux_async.ledgers.base import Fence, Holder, JobRow, TaskRow
from crynux_async.ledgers.memory.attempts import NONE
from crynux_async.ledgers.memory.packing import Packed, Sort, changed, column, sort_of, unpacked
from crynux_async.ledgers.memory.undo import Undo
from crynux_async.states import JobState

if TYPE_CHECKING:
    from crynux_async.ledgers.base import StepRow

_AS_MADE = (0, None, "", "", None)
"""Member, time and word of the end, reason and cost of a task that was just made."""


class Lease:
    """Who holds jobs, and how many of each sort; ``until`` is None once it was given back."""

    __slots__ = ("counts", "fence", "until")

    def __init__(self, fence: Fence, until: datetime | None) -> None:
        self.fence = fence
        self.until = until
        self.counts: Counter[Sort] = Counter()

    @property
    def jobs(self) -> int:
        """How many jobs it holds."""
        return self.counts.total()

    def is_over(self, now: datetime) -> bool:
        """Whether others may take its jobs."""
        return self.until is None or self.until < now

    def holder(self) -> Holder:
        """Return what others are told of it."""
        assert self.until is not None
        return Holder(fence=self.fence, until=self.until, jobs=self.jobs)


class Entry:
    """A job in a ``JobTable``: its row, its lease, its last attempt, its tasks, and its steps with their place in time.

    It is a place in the lists of the table, made anew by whoever looks at the job.
    """

    __slots__ = ("_table", "number")

    def __init__(self, table: "JobTable", number: int) -> None:
        self._table = table
        self.number = number

    @property
    def packed(self) -> Packed:
        """The job's row as it is kept."""
        return self._table.packed[self.number]

    @property
    def row(self) -> JobRow:
        """The job's row, made anew each time; ``column`` is for those who look at many jobs."""
        return unpacked(self.packed)

    @property
    def lease(self) -> Lease:
        """Who holds it, or held it last."""
        return self._table.holders[self.number]

    @property
    def last_attempt(self) -> int:
        """The position of its last attempt, or ``NONE``."""
        return self._table.last_attempts[self.number]

    @property
    def fee(self) -> int | None:
        """What the task may cost that its row tells of, in wei, or None where no price is known."""
        return self._table.fees[self.number]

    @property
    def tasks(self) -> tuple[TaskRow, ...] | None:
        """Its tasks, or None where its row and ``fee`` tell of the only one."""
        return None if self._table.is_told[self.number] else self._table.tasks.get(self.number, ())

    @property
    def steps(self) -> "tuple[tuple[int, StepRow], ...]":
        """Its steps, each with its place in time."""
        return self._table.steps.get(self.number, ())

    def column(self, name: str) -> Any:
        """Return one column of the job's row."""
        return column(self._table.packed[self.number], name)

    def all_tasks(self) -> tuple[TaskRow, ...]:
        """Return its tasks by try and member."""
        return (_task_of(self.packed, self.fee),) if self.tasks is None else self.tasks or ()

    def sort(self) -> Sort:
        """Return what a claim tells it apart by."""
        return sort_of(self.packed)


class JobTable:
    """Every job, and every lease. Whatever is refused raises before or is taken back by its ``Undo``.

    A hundred thousand must fit, and an object for each takes more than a place in a few lists, by its number. Nearly
    every job has no steps, and one task of which its row and its fee say everything: such a task is not kept, but made
    from both. Rows are kept as ``packing`` says.

    Attributes:
        packed: The row of each job; with the other lists for ``Entry`` alone.
        holders: Who holds it, or held it last.
        last_attempts: The position of its last attempt.
        fees: What the task may cost of which its row tells.
        is_told: Whether its row tells of its only task.
        tasks: The tasks of other jobs that have any.
        steps: The steps of those that have any.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.packed: list[Packed] = []
        self.holders: list[Lease] = []
        self.last_attempts = array("i")
        self.fees: list[int | None] = []
        self.is_told = bytearray()
        self.tasks: dict[int, tuple[TaskRow, ...]] = {}
        self.steps: dict[int, tuple[tuple[int, StepRow], ...]] = {}
        self.leases: dict[int, Lease] = {}
        self._nobody = Lease(Fence(owner="", number=0), None)
        self._last_lease = 0
        self._last_step = 0
        # Apart, as a database has them in two tables with an index each: a job names its newest task itself, also where
        # no task was stored with it. A task that its row tells of is found by the first alone.
        self._newest_tasks: dict[str, dict[str, str]] = {}
        self._kept_tasks: dict[str, dict[str, str]] = {}
        self._keys: dict[tuple[str, str], dict[str, str]] = {}

    # Leases

    def enter(self, owner: str, until: datetime) -> Fence:
        """Make a lease."""
        self._last_lease += 1
        fence = Fence(owner=owner, number=self._last_lease)
        self.leases[fence.number] = Lease(fence, until)
        return fence

    def forget(self, now: datetime, long_ago: datetime) -> None:
        """Remove leases that are over and hold nothing, or were over long ago."""
        for lease in [*self.leases.values()]:
            if lease.is_over(long_ago) or (lease.is_over(now) and not lease.jobs):
                self.leave(lease)

    def leave(self, lease: Lease) -> None:
        """Give a lease back with everything that it holds."""
        self.leases.pop(lease.fence.number, None)
        # Its jobs go on pointing at it, and ``holding`` takes a lease without an end for nobody: giving back many jobs
        # costs no walk over them.
        self._nobody.counts.update(lease.counts)
        lease.until = None

    def lease(self, fence: Fence) -> Lease:
        """Return the lease of a fence.

        Raises:
            LeaseLostError: It is gone.
        """
        lease = self.leases.get(fence.number)
        if lease is None:
            raise LeaseLostError(f"the lease of {fence.owner!r} was given back", job_ids=())
        return lease

    def holding(self, entry: Entry) -> Lease:
        """Return who holds a job: somebody, or the lease that stands for nobody."""
        return self._nobody if entry.lease.until is None else entry.lease

    def give(self, entry: Entry, lease: Lease | None) -> None:
        """Let a lease hold a job, or nobody."""
        sort, lease = entry.sort(), lease or self._nobody
        self.holding(entry).counts[sort] -= 1
        lease.counts[sort] += 1
        self.holders[entry.number] = lease

    def free(
        self, now: datetime, backend: str, states: Collection[JobState], wanted: Collection[JobState]
    ) -> Iterator[Entry]:
        """Yield the jobs that anybody may take, in the order in which they were added."""
        sorts = {(backend, state, is_wanted) for state in states for is_wanted in (True, False)}
        sorts |= {(backend, state, True) for state in wanted}
        over = [self._nobody, *(lease for lease in self.leases.values() if lease.is_over(now))]
        # Sessions ask again and again, nearly always in vain: that must not cost a walk over all jobs.
        if any(lease.counts[sort] > 0 for lease in over for sort in sorts if sort in lease.counts):
            for entry in self.all():
                if entry.sort() in sorts and entry.lease.is_over(now):
                    yield entry

    # Jobs

    def __len__(self) -> int:
        return len(self.packed)

    def all(self, *, newest_first: bool = False) -> Iterator[Entry]:
        """Yield every job in the order in which they were added, or the other way round."""
        numbers = range(len(self))
        return (Entry(self, number) for number in (reversed(numbers) if newest_first else numbers))

    def find(self, job_id: str) -> Entry | None:
        """Return a job, or None where there is none."""
        number = self._numbers.get(job_id)
        return None if number is None else Entry(self, number)

    def entry(self, job_id: str) -> Entry:
        """Return a job.

        Raises:
            LedgerError: There is none.
        """
        found = self.find(job_id)
        if found is None:
            raise LedgerError(f"there is no job {job_id!r}", job_id=job_id)
        return found

    def held(self, fence: Fence, job_id: str) -> Entry:
        """Return a job that a fence holds.

        Raises:
            LeaseLostError: Another has it, or nobody.
            LedgerError: There is none.
        """
        entry = self.entry(job_id)
        if self.holding(entry).fence.number != fence.number:
            raise LeaseLostError(f"job {job_id!r} is not held by {fence.owner!r} any more", job_ids=[job_id])
        return entry

    def earlier(self, row: JobRow) -> Entry | None:
        """Return the job that has the idempotency key of a row already."""
        job_id = self._keys.get((row.backend, row.tenant), {}).get(row.idempotency_key or "")
        return None if job_id is None else self.entry(job_id)

    def by_task(self, backend: str | None, task_id: str) -> list[Entry]:
        """Return the jobs that have a task, newest or earlier."""
        backends = {*self._newest_tasks, *self._kept_tasks} if backend is None else {backend}
        tables = [table.get(name, {}) for name in backends for table in (self._newest_tasks, self._kept_tasks)]
        names = {table[task_id] for table in tables if task_id in table}
        return sorted(map(self.entry, names), key=lambda entry: entry.number)

    def add(self, row: JobRow, kept: Packed, lease: Lease | None, undo: Undo) -> None:
        """Add a job.

        Args:
            row: Its row.
            kept: The row as it is kept.
            lease: Who holds it, or None for nobody.
            undo: Takes it back.

        Raises:
            LedgerError: Its name or its task is there already.
        """
        if row.job_id in self._numbers:
            raise LedgerError(f"a job {row.job_id!r} is there already", job_id=row.job_id)
        holder = lease or self._nobody
        undo.put(self._numbers, row.job_id, len(self))
        self.packed.append(kept)
        self.holders.append(holder)
        self.last_attempts.append(NONE)
        self.fees.append(None)
        self.is_told.append(False)
        undo.by(self._drop_last)
        if row.task_id is not None:
            self._claim_newest(kept, undo)
        if row.idempotency_key is not None:
            undo.put(self._keys.setdefault((row.backend, row.tenant), {}), row.idempotency_key, row.job_id)
        sort = sort_of(kept)
        undo.put(holder.counts, sort, holder.counts[sort] + 1)

    def _drop_last(self) -> None:
        for column_of_all in (self.packed, self.holders, self.last_attempts, self.fees, self.is_told):
            column_of_all.pop()

    def replace(self, entry: Entry, columns: Mapping[str, Any], undo: Undo) -> None:
        """Change columns of a job.

        Raises:
            LedgerError: Another has its task.
        """
        old, new = entry.packed, changed(entry.packed, columns)
        undo.replace(self.packed, entry.number, new)
        if self.is_told[entry.number] and _task_of(old, entry.fee) != _task_of(new, entry.fee):
            # The task was made from the row, which does not tell of it any more: from now on it is kept.
            self._keep_tasks(entry, (_task_of(old, entry.fee),), undo)
        (backend, task_id), newest = _newest_of(old), _newest_of(new)
        if (backend, task_id) != newest:
            if task_id is not None:
                undo.remove(self._newest_tasks[backend], task_id)
            self._claim_newest(new, undo)
        before, after = sort_of(old), sort_of(new)
        if before != after:
            counts = self.holding(entry).counts
            undo.put(counts, before, counts[before] - 1)
            undo.put(counts, after, counts[after] + 1)

    def begin(self, entry: Entry, attempt: int, undo: Undo) -> None:
        """Enter the position of a job's newest attempt."""
        undo.replace(self.last_attempts, entry.number, attempt)

    # What belongs to jobs

    def put_task(self, entry: Entry, task: TaskRow, undo: Undo) -> None:
        """Add or change a task of a job.

        Raises:
            LedgerError: Another job has it, or another try.
        """
        place = _task_place(task)
        known = {_task_place(one): one for one in entry.all_tasks()}
        old = known.get(place)
        if old is None or (old.backend, old.task_id) != (task.backend, task.task_id):
            self._check_is_free(task)
        tasks = {**known, place: task}
        is_plain = len(tasks) == 1 and _tells_of(entry.packed, task)
        undo.replace(self.fees, entry.number, task.fee if is_plain else None)
        self._keep_tasks(entry, None if is_plain else tuple(tasks[one] for one in sorted(tasks)), undo)

    def plan_step(self, entry: Entry, step: "StepRow", undo: Undo) -> "StepRow":
        """Add a step of a job unless it is there, and return it as it is there."""
        known = _known_step(entry, step)
        if known is not None:
            return known
        self._last_step += 1
        undo.put(self.steps, entry.number, (*entry.steps, (self._last_step, step)))
        return step

    def finish_step(self, entry: Entry, step: "StepRow", undo: Undo) -> None:
        """Store what became of a step.

        Raises:
            LedgerError: It was not planned.
        """
        known = _known_step(entry, step)
        if known is None:
            raise LedgerError(f"the step {step.kind!r} of job {step.job_id!r} was not planned", job_id=step.job_id)
        done = attrs.evolve(known, done_at=step.done_at, outcome=step.outcome)
        steps = tuple((number, done if planned is known else planned) for number, planned in entry.steps)
        undo.put(self.steps, entry.number, steps)

    def _claim_newest(self, row: Packed, undo: Undo) -> None:
        backend, task_id = _newest_of(row)
        if task_id is not None:
            newest, job_id = self._newest_tasks.setdefault(backend, {}), column(row, "job_id")
            if task_id in newest:
                raise _taken(backend, task_id, newest[task_id], job_id)
            undo.put(newest, task_id, job_id)

    def _check_is_free(self, task: TaskRow) -> None:
        """Check that no job has a task, whether it is kept or its row tells of it.

        Raises:
            LedgerError: One has.
        """
        owner = self._kept_tasks.get(task.backend, {}).get(task.task_id)
        teller = self._newest_tasks.get(task.backend, {}).get(task.task_id)
        if owner is None and teller is not None and self.entry(teller).tasks is None:
            owner = teller
        if owner is not None:
            raise _taken(task.backend, task.task_id, owner, task.job_id)

    def _keep_tasks(self, entry: Entry, tasks: tuple[TaskRow, ...] | None, undo: Undo) -> None:
        """Keep these tasks of a job, or None where its row tells of the only one."""
        number = entry.number
        if number in self.tasks:
            for task in self.tasks[number]:
                undo.remove(self._kept_tasks[task.backend], task.task_id)
            undo.remove(self.tasks, number)
        for task in tasks or ():
            undo.put(self._kept_tasks.setdefault(task.backend, {}), task.task_id, task.job_id)
        if tasks:
            undo.put(self.tasks, number, tasks)
        undo.replace(self.is_told, number, tasks is None)


def ordered_tasks(entries: Iterable[Entry]) -> list[TaskRow]:
    """Return the tasks of jobs by job, try and member."""
    return [task for entry in entries for task in entry.all_tasks()]


def ordered_steps(entries: Iterable[Entry]) -> "list[StepRow]":
    """Return the steps of jobs in the order in which they were planned."""
    return [step for _, step in sorted((pair for entry in entries for pair in entry.steps), key=lambda pair: pair[0])]


def _newest_of(row: Packed) -> tuple[str, str | None]:
    return column(row, "backend"), column(row, "task_id")


def _task_of(row: Packed, fee: int | None) -> TaskRow:
    """Return the task that a row and a fee tell of, as it was when it was made."""
    return TaskRow(
        job_id=column(row, "job_id"),
        try_number=column(row, "tries"),
        backend=column(row, "backend"),
        task_id=column(row, "task_id") or "",
        made_at=column(row, "submitted_at") or column(row, "planned_at"),
        fee=fee,
    )


def _tells_of(row: Packed, task: TaskRow) -> bool:
    """Whether a row and the task's fee tell everything of a task of it: ``_task_of`` would return its equal."""
    return (
        task.task_id == column(row, "task_id")
        and task.try_number == column(row, "tries")
        and task.made_at == (column(row, "submitted_at") or column(row, "planned_at"))
        and task.backend == column(row, "backend")
        and (task.member, task.ended_at, task.end, task.reason, task.spent) == _AS_MADE
    )


def _taken(backend: str, task_id: str, owner: str, job_id: str) -> LedgerError:
    # A bridge numbers all tasks in one row: the same number twice means that two jobs claim one model.
    message = f"task {task_id} of {backend} belongs to job {owner!r} already"
    return LedgerError(message, job_id=job_id, task_id=task_id)


def _task_place(task: TaskRow) -> tuple[int, int]:
    return task.try_number, task.member


def _known_step(entry: Entry, step: "StepRow") -> "StepRow | None":
    return next((known for _, known in entry.steps if _place(known) == _place(step)), None)


def _place(step: "StepRow") -> tuple[int, int, str]:
    return step.try_number, step.member, step.kind
