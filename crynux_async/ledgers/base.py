"""What a ledger must be able to do, wherever it keeps its rows.

A ledger is the only memory of what was paid for: a service may have no list. It stores what sessions tell it and
decides nothing. Every method that writes returns when the rows are durable, and writes all of its rows or none.

Theory of operation. A job is a row, following it is a lease. A session enters with an owner's name and gets a
``Fence``: the number of its lease row, which is never used again. A job names the fence that holds it, and every write
about a job carries the writer's fence: where the job names another one, the lease was lost, and nothing of that job is
written (``LeaseLostError``, or the job's name among those that ``change`` returns). So a process that slept through the
end of its leases can do no harm when it wakes. Clocks decide only when a lease may be taken over, and only the
ledger's own clock is asked: lengths are given in seconds.

Trouble comes in two kinds. What passes (another's lock, a full disk, a server that is away) raises ``LedgerBusyError``:
nothing was written, and the same call may work later. What stays (a failed fsync, a replaced file) raises
``LedgerError``, sets ``failure``, and fails every later write until the ledger is opened again: a second try that seems
to work proves nothing about the first.

Cancelling a caller does not undo its write. Times are aware UTC datetimes. Task ids are text. Money is whole wei
(10**-18 CNX), less than 2**60 CNX at a time. Keys never enter a ledger: ``key_id`` is a fingerprint that cannot be
turned back.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from crynux_async.errors import LedgerError
from crynux_async.lazy import loader_of
from crynux_async.ledgers.rows import (
    MOST_TAGS,
    AttemptOutcome,
    AttemptRow,
    Fence,
    Holder,
    JobChange,
    JobFilter,
    JobRow,
    TaskRow,
)
from crynux_async.states import JobState

if TYPE_CHECKING:
    from crynux_async.ledgers.seldom_rows import (
        BudgetRow,
        EventRow,
        GateRow,
        Neighbours,
        Reservation,
        Settlement,
        StepRow,
        WishRow,
    )

__all__ = [
    "GATE_SECONDS",
    "LEASE_MEMORY",
    "MOST_TAGS",
    "AttemptOutcome",
    "AttemptRow",
    "BudgetRow",
    "EventRow",
    "Fence",
    "GateCell",
    "GateRow",
    "Holder",
    "JobChange",
    "JobFilter",
    "JobRow",
    "Ledger",
    "Neighbours",
    "Reservation",
    "Settlement",
    "StepRow",
    "TaskRow",
    "WishRow",
]

_SELDOM = ("BudgetRow", "EventRow", "GateRow", "Neighbours", "Reservation", "Settlement", "StepRow", "WishRow")

__getattr__ = loader_of(__name__, dict.fromkeys(_SELDOM, "seldom_rows"), folder="crynux_async.ledgers")

GATE_SECONDS = 5.0
"""How long a gate may be held: other processes that wait for it give up some time after this."""

LEASE_MEMORY = 86_400.0
"""A lease that ended so many seconds ago is given back by the next ``enter``, with every job that it still holds."""


class GateCell(Protocol):
    """The gate's row inside an exclusive transaction: nobody else reads or writes it meanwhile."""

    row: "GateRow | None"
    """As it was found; set it to store another one when the block ends."""

    @property
    def clock(self) -> str:
        """Which clock ``now`` is read from; two visits with the same one can compare their times."""

    @property
    def now(self) -> float:
        """Seconds by the clock that all visitors of this gate share, read after everybody else was kept out."""


class Ledger(Protocol):
    """Where jobs are remembered. One instance serves one session; several processes may open the same file."""

    @property
    def failure(self) -> LedgerError | None:
        """Why nothing can be stored any more until the ledger is opened again, or None while all is well."""

    async def open(self) -> None:
        """Open or create it, and bring an older version up to date.

        Raises:
            LedgerError: It is not a ledger, damaged, locked, not writable, was written by a newer version, or is of an
                older version and in use by it. It has not been changed.
        """

    async def close(self) -> None:
        """Write what is left and release everything."""

    # Leases

    async def enter(self, owner: str, *, seconds: float) -> Fence:
        """Make a lease of ``seconds`` for an owner, which holds no jobs yet, and return its fence.

        Leases that ended and hold nothing are forgotten, and so are those that ended ``LEASE_MEMORY`` seconds ago.
        """

    async def renew(self, fence: Fence, *, seconds: float) -> int | None:
        """Move the end of a lease, and return how many jobs it holds; None where the lease is gone: ``enter`` again."""

    async def held(self, fence: Fence) -> set[str]:
        """Return the names of the jobs that a lease holds."""

    async def leave(self, fence: Fence) -> None:
        """Give back a lease with every job that it holds; also another's whose process is known to have ended."""

    async def holders(self) -> list[Holder]:
        """Return everybody who has a lease, ended or not."""

    async def holder(self, job_id: str) -> Holder | None:
        """Return who holds a job, or None where nobody does or the lease has ended: anybody may take it."""

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
        """Take jobs of a backend that nobody holds (any more), and return them in the order in which they were added.

        What a cancelled caller was about to take stays free.

        Args:
            fence: Who takes them.
            backend: Whose jobs.
            states: Jobs in one of these.
            wanted: Jobs in one of these as well, where an archive is wanted (``folder``): a month-old ledger is full of
                jobs that succeeded and of which nothing more is wanted.
            key_ids: Of those in ``states`` only jobs of these credentials; "" stands for tasks that were attached. None
                for those of all.
            wanted_key_ids: Likewise of those in ``wanted``.
            spared: Names of jobs that are left alone, some hundreds at most.
            at_most: How many, > 0; None for all.

        Raises:
            LeaseLostError: The lease is gone; nothing was taken.
        """

    async def take(self, fence: Fence, job_ids: Sequence[str]) -> list[str]:
        """Take certain jobs, and return those that the fence holds now: those of a lease that has not ended stay there.

        Raises:
            LeaseLostError: The lease is gone; nothing was taken.
            LedgerError: There is no such job.
        """

    async def drop(self, fence: Fence, job_ids: Sequence[str]) -> None:
        """Give back certain jobs that the fence holds; those that it does not hold are left alone."""

    # Jobs

    async def add(
        self,
        rows: Sequence[JobRow],
        *,
        fence: Fence | None = None,
        events: "Sequence[EventRow]" = (),
        tasks: Sequence[TaskRow] = (),
    ) -> list[JobRow]:
        """Store new jobs with their first events and tasks, and return what is stored, in the order of ``rows``.

        A row whose idempotency key is there already (same backend and tenant) is not added: the earlier job comes back
        in its place, and its events and tasks are left out.

        Args:
            rows: The jobs.
            fence: Who holds them from the first moment on, or None for nobody.
            events: Their events, of each job from 1 to its ``last_event``.
            tasks: Their tasks, where they were attached.

        Raises:
            LeaseLostError: The lease is gone; nothing was stored.
            LedgerError: A job id, or a task id of the same backend, is there already; or the disk failed.
        """

    async def change(self, fence: Fence, changes: Sequence[JobChange]) -> list[str]:
        """Change jobs that the fence holds, and return the names of those that it does not hold (any more).

        Of a lost job nothing is written; the changes of all others are written whole.

        Raises:
            LedgerError: There is no such column, it cannot change so, an attempt has another outcome already, events
                are not numbered on, a step was not planned, a task belongs to another job, more is released than a
                budget holds, or the disk failed. Nothing was written.
        """

    async def begin(self, fence: Fence, attempt: AttemptRow, *, reservation: "Reservation | None" = None) -> None:
        """Store an attempt with its payload before its first byte is sent, and reserve what it may cost.

        Raises:
            LeaseLostError: Another has the job; nothing may be sent.
            BudgetExceededError: The budget does not allow it; nothing may be sent.
            LedgerError: There is no such job, this number was begun already, or the disk failed. Nothing may be sent.
        """

    async def plan_step(self, fence: Fence, step: "StepRow") -> "StepRow":
        """Store a step before it is done, and return it as it is stored: the first one of its kind wins.

        Raises:
            LeaseLostError: Another has the job; it must not be done.
            LedgerError: There is no such job, or the disk failed. It must not be done.
        """

    async def get(self, job_id: str) -> JobRow | None:
        """Return a job, or None where there is none."""

    async def jobs(
        self, where: JobFilter | None = None, *, limit: int | None = None, newest_first: bool = False
    ) -> list[JobRow]:
        """Return jobs in the order in which they were added.

        A config that cannot be read (a later version knows more fields) is None, and the row's ``error`` says so; what
        is stored stays as it is.

        Args:
            where: Which; None for all.
            limit: At most so many, >= 0.
            newest_first: The other way round.
        """

    async def count(self, where: JobFilter | None = None) -> dict[JobState, int]:
        """Return how many jobs are in which state; states without jobs are left out."""

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
        """Return attempts in the order in which they were begun.

        Args:
            backend: Only attempts at this service.
            key_id: Only attempts with this credential.
            job_ids: Only attempts of these jobs.
            since: Only attempts with ``began_at`` at or after this.
            unfinished: Only attempts without an outcome: they are under way, or their process died.
        """

    async def neighbours(self, attempt: AttemptRow, *, at_most: int = 200) -> "Neighbours":
        """Return the task ids around an attempt, at most so many on each side.

        Raises:
            LedgerError: The attempt was not begun.
        """

    async def tasks(self, job_ids: Collection[str]) -> list[TaskRow]:
        """Return every task that was ever made for certain jobs, by job, try and member."""

    async def known_tasks(self, backend: str, task_ids: Collection[str]) -> set[str]:
        """Return those of these tasks of a backend that any job has, newest or earlier."""

    async def steps(self, job_ids: Collection[str]) -> "list[StepRow]":
        """Return the steps of certain jobs in the order in which they were planned."""

    async def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> "list[EventRow]":
        """Return a job's events with larger numbers than ``after``, in order; those that were trimmed are missing."""

    async def trim_events(self, *, before: datetime, keep: int) -> int:
        """Remove events older than ``before`` of jobs that have ended, and all but the newest ``keep`` of every job.

        Returns:
            How many were removed.
        """

    async def wish(self, row: "WishRow") -> "WishRow":
        """Store a wish, and return it with its number. Needs no lease.

        Raises:
            LedgerError: There is no such job.
        """

    async def wishes(self, fence: Fence) -> "list[WishRow]":
        """Return what is wished of the jobs that a lease holds, in the order in which it was wished."""

    async def spent(self, where: JobFilter) -> tuple[int, int]:
        """Return the wei that tasks of certain jobs hold (their cost is not known yet, so their fee) and have spent."""

    async def budget(self, name: str) -> "BudgetRow | None":
        """Return a budget, or None where nothing was ever reserved under this name."""

    # Hearing of changes

    async def changed(self, since: int) -> int:
        """Wait until anything may have been written by anybody since the call that returned ``since``.

        Args:
            since: What the last call returned; 0 returns at once.

        Returns:
            What to give to the next call. Costs nothing while nobody waits. Heard within a second of the write.
        """

    # What is shared

    def gate(self, backend: str, key_id: str) -> AbstractAsyncContextManager[GateCell]:
        """Open the row of a key's gate in an exclusive transaction; keep the block short.

        Nobody can write to the ledger meanwhile, the block itself included. What an exception leaves is not stored.

        Raises:
            LedgerError: It could not be stored, or the block took longer than ``GATE_SECONDS``; what was decided inside
                must not be carried out.
            UsageError: The block itself called a method that writes, which would wait for ever.
        """

    async def save_hazards(self, backend: str, hazards: Mapping[str, Any]) -> None:
        """Store what was learned of how long each kind of job takes (kind -> JSON value), replacing those kinds."""

    async def load_hazards(self, backend: str) -> dict[str, Any]:
        """Return everything that ``save_hazards`` stored for a backend."""

    async def note(self, scope: str, name: str) -> Any:
        """Return a note (a JSON value) that ``put_note`` stored, or None."""

    async def put_note(self, scope: str, name: str, value: Any, *, expected: Any = ...) -> bool:
        """Store a small durable note, such as a sweep's definition.

        Args:
            scope: What kind of note.
            name: Its name in this scope.
            value: A JSON value; None removes it.
            expected: Store it only where this is there now (None: nothing is there); ``...`` stores it in any case.

        Returns:
            Whether it was stored.
        """
