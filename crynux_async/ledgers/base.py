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
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol

import attrs

from crynux_async.errors import LedgerError
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig

GATE_SECONDS = 5.0
"""How long a gate may be held: other processes that wait for it give up some time after this."""

LEASE_MEMORY = 86_400.0
"""A lease that ended so many seconds ago is given back by the next ``enter``, with every job that it still holds."""


class AttemptOutcome(StrEnum):
    """What became of one create that was begun."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    REJECTED = "rejected"
    NOT_SENT = "not sent"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class Fence:
    """The proof of a lease: every write about a job carries it.

    Attributes:
        owner: Who holds the lease.
        number: The lease's own number, > 0, never used again.
    """

    owner: str
    number: int


@attrs.frozen(kw_only=True)
class Holder:
    """Somebody who has a lease, ended or not.

    Attributes:
        fence: The lease.
        until: When it ends or ended.
        jobs: How many jobs it holds, >= 0.
    """

    fence: Fence
    until: datetime
    jobs: int


@attrs.frozen(kw_only=True)
class JobRow:
    """A job as it is remembered.

    Attributes:
        job_id: This library's name for it, unique in the ledger.
        backend: Which service it belongs to: the backend's ``name``.
        key_id: Fingerprint of the credential that submits it, or "" for a task that was attached without one.
        config: What is trained, as it was asked for, or None for a task that was attached by its id.
        is_seed_drawn: Whether nobody gave the config's seed, so that it was drawn here.
        asked_digest: ``FineTuneConfig.asked_digest()``, or "": what an idempotency key stands for.
        label: The caller's own name for it.
        group: Which set of jobs it belongs to, such as a sweep, or "".
        tags: Free names and values of the caller.
        tenant: On whose behalf it runs, or "" where a program serves nobody else.
        idempotency_key: The caller's name for one intention, unique by backend and tenant; or None.
        budget: The budget that pays for it, or "".
        is_stopped: Whether it is not to be sent by anybody until its user says so.
        is_sent_by_any: Whether a session that stands for it (``send_planned``) sends it after a crash.
        task_id: The service's name of the newest task, or None before it is accepted. Unique for a backend.
        state: What is believed of it.
        tries: How many tries it has had or has, >= 1.
        planned_at: When it was planned (or attached).
        submitted_at: When its newest try was accepted, or None.
        ended_at: When its end was noticed, or None.
        error: Why it ended badly, for people, or "".
        reason: Why it failed as far as the service tells, or "".
        folder: Where its archive is wanted (absolute), or None where no download was asked for.
        file_name: The name (template filled in) that was asked for, or None.
        path: Where its archive is, or None.
        host: The machine on which ``path`` is, or "".
        total_bytes: Size of the archive, or None.
        last_event: The number of its newest event, >= 0, kept when old events are trimmed.
        resubmitted_as: The job that replaces it; only ledgers of version 0.1.0 have any.
    """

    job_id: str
    backend: str
    key_id: str
    config: FineTuneConfig | None
    label: str = ""
    task_id: str | None = None
    state: JobState
    planned_at: datetime
    is_seed_drawn: bool = False
    asked_digest: str = ""
    group: str = ""
    tags: Mapping[str, str] = MappingProxyType({})  # one for all: a hundred thousand empty tables are 6 MB
    tenant: str = ""
    idempotency_key: str | None = None
    budget: str = ""
    is_stopped: bool = False
    is_sent_by_any: bool = False
    tries: int = 1
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    error: str = ""
    reason: str = ""
    folder: str | None = None
    file_name: str | None = None
    path: str | None = None
    host: str = ""
    total_bytes: int | None = None
    last_event: int = 0
    resubmitted_as: str | None = None
    # Only where there is no config to make it from: a hundred thousand digests are 13 MB.
    _kept_digest: str = attrs.field(default="", alias="digest")

    def __attrs_post_init__(self) -> None:
        if self.config is not None:
            object.__setattr__(self, "_kept_digest", "")

    @property
    def digest(self) -> str:
        """``FineTuneConfig.digest()`` of the config, or what was stored with one that cannot be read, or ""."""
        return self._kept_digest if self.config is None else self.config.digest()


@attrs.frozen(kw_only=True)
class AttemptRow:
    """One create that was begun. It is durable, with its payload, before the first byte of the create is sent.

    Attributes:
        job_id: Whose it is.
        number: Counts from 1 for each job.
        try_number: Which try of the job it is for, >= 1.
        backend: Which service it went to.
        key_id: Fingerprint of the credential it was made with.
        payload: What the backend made of the config, opaque text, or "".
        began_at: When it was begun.
        answered_at: When its outcome was known, or None while it is not.
        outcome: What became of it, or None while that is not known (or was never recorded: the process died).
        task_id: The task that it made, or None.
        wait: Seconds that a refusal said to wait, or None.
        status: Status of the answer (HTTP), or None.
        answer: What was answered where the outcome is unknown, at most 64 KiB, the key masked, or "".
    """

    job_id: str
    number: int
    backend: str
    key_id: str
    began_at: datetime
    try_number: int = 1
    payload: str = ""
    answered_at: datetime | None = None
    outcome: AttemptOutcome | None = None
    task_id: str | None = None
    wait: float | None = None
    status: int | None = None
    answer: str = ""


@attrs.frozen(kw_only=True)
class TaskRow:
    """One task that was ever made for a job. A try may have several members, such as the three of a validated group.

    Attributes:
        job_id: Whose it is.
        try_number: Which try, >= 1.
        member: Which task of the try, >= 0; 0 is the one that the job's ``task_id`` names.
        backend: Which service has it.
        task_id: The service's name of it.
        made_at: When it was accepted (or attached).
        ended_at: When its end was noticed, or None.
        end: How it ended: a word of the backend, or "".
        reason: Why, as far as the service tells, or "".
        fee: What it may cost, in wei, >= 0, or None where the backend knows no price.
        spent: What it did cost, in wei, or None while that is not known.
    """

    job_id: str
    try_number: int
    member: int = 0
    backend: str
    task_id: str
    made_at: datetime
    ended_at: datetime | None = None
    end: str = ""
    reason: str = ""
    fee: int | None = None
    spent: int | None = None


@attrs.frozen(kw_only=True)
class StepRow:
    """One action on a task beyond its create (validate, sibling, cancel), durable before it is done.

    Unique by (job, try, member, kind): arguments and fee are frozen when it is first stored.

    Attributes:
        job_id: Whose it is.
        try_number: Which try, >= 1.
        member: Which task of the try, >= 0.
        kind: What is done: a word of the backend.
        arguments: What it is done with, as JSON values.
        fee: What it may cost, in wei, or None.
        planned_at: When it was decided.
        done_at: When it was done, or None.
        outcome: What became of it: a word of the backend, or "".
    """

    job_id: str
    try_number: int
    member: int = 0
    kind: str
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    fee: int | None = None
    planned_at: datetime
    done_at: datetime | None = None
    outcome: str = ""


@attrs.frozen(kw_only=True)
class EventRow:
    """Something that happened to a job. Only the holder of the job's lease writes events; numbers have no gaps.

    Attributes:
        job_id: Whose it is.
        number: Counts from 1 for each job.
        at: When.
        kind: The name of the event's class.
        data: Its own attributes, as JSON values.
    """

    job_id: str
    number: int
    at: datetime
    kind: str
    data: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class WishRow:
    """What somebody who does not hold a job asks of whoever does.

    Attributes:
        number: The ledger's own number of it, > 0; 0 before it is stored.
        job_id: Of which job.
        kind: What is wished: "abandon", "cancel", "retry", "fetch" ...
        arguments: With what, as JSON values.
        at: When it was made.
    """

    number: int = 0
    job_id: str
    kind: str
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    at: datetime


@attrs.frozen(kw_only=True)
class Reservation:
    """What an attempt may cost, taken from a budget in the transaction that begins it.

    Attributes:
        budget: The budget's name.
        amount: Wei, >= 0.
        limit: What the budget may hold and spend together, in wei; the newest limit that was given counts.
    """

    budget: str
    amount: int
    limit: int


@attrs.frozen(kw_only=True)
class BudgetRow:
    """A budget, shared by every process on the ledger.

    Attributes:
        name: Its name.
        limit: Wei, >= 0.
        held: Wei of tasks that have not ended.
        spent: Wei of tasks that have.
    """

    name: str
    limit: int
    held: int
    spent: int


@attrs.frozen(kw_only=True)
class Settlement:
    """What becomes of an amount that was reserved.

    Attributes:
        budget: The budget's name.
        released: Wei that are not held any more, >= 0.
        spent: Wei that were spent of them, 0 <= spent <= released.
    """

    budget: str
    released: int
    spent: int


@attrs.frozen(kw_only=True)
class JobChange:
    """Everything that one transaction says about one job.

    Attributes:
        job_id: Which job.
        columns: Names of ``JobRow`` -> new values. Names, tenant, idempotency key and digest of a job never change; its
            config only to one with the same digest (another ``timeout``).
        finished: The attempt that ended, or None. An attempt without an outcome, or of unknown outcome, takes any; any
            other outcome is final.
        tasks: Tasks that are new or changed, by (try, member); each belongs to one job of its backend.
        steps: Steps that were done: their ``done_at`` and ``outcome``; what was frozen when they were planned stays.
        events: What happened, numbered on from the job's ``last_event``, whose new value must be among ``columns``.
        settlement: What becomes of what was reserved, or None.
        granted: Numbers of wishes of this job that were carried out (or refused): they are removed.
    """

    job_id: str
    columns: Mapping[str, Any] = attrs.field(factory=dict)
    finished: AttemptRow | None = None
    tasks: Sequence[TaskRow] = ()
    steps: Sequence[StepRow] = ()
    events: Sequence[EventRow] = ()
    settlement: Settlement | None = None
    granted: Sequence[int] = ()


@attrs.frozen(kw_only=True)
class JobFilter:
    """Which jobs; every attribute that is given must fit.

    Attributes:
        job_ids: With one of these names.
        job_id_prefix: Whose name begins so.
        states: In one of these states.
        backend: Of this service.
        tenant: On behalf of this one; "" is a tenant of its own, None is any.
        task_id: With this task, newest or earlier.
        idempotency_key: With this key.
        label: With this label.
        label_prefix: Whose label begins so.
        group: Of this set.
        tags: With all of these tags.
        budget: Paid by this budget.
        since: Planned at or after this.
        after: Added after the job with this name: a cursor. None fits where there is no such job.
        before: Added before the job with this name: the cursor where the newest come first.
    """

    job_ids: Collection[str] | None = None
    job_id_prefix: str | None = None
    states: Collection[JobState] | None = None
    backend: str | None = None
    tenant: str | None = None
    task_id: str | None = None
    idempotency_key: str | None = None
    label: str | None = None
    label_prefix: str | None = None
    group: str | None = None
    tags: Mapping[str, str] = attrs.field(factory=dict)
    budget: str | None = None
    since: datetime | None = None
    after: str | None = None
    before: str | None = None


@attrs.frozen(kw_only=True)
class Neighbours:
    """Task ids around an attempt of unknown outcome, in the order in which the ledger was told, whatever clocks said.

    Attributes:
        before: Ids whose create was answered before the attempt began, the newest first.
        after: Ids whose create began after the attempt was answered, the oldest first; () while it is not answered.
        under_way: Other attempts of the same service that overlap it and have no final outcome: their tasks may lie
            beside the lost one.
    """

    before: Sequence[str]
    after: Sequence[str]
    under_way: Sequence[AttemptRow]


@attrs.frozen(kw_only=True)
class GateRow:
    """The state of the gate before one key, shared by every process on the ledger.

    Attributes:
        boot_id: The boot of the machine whose clock ``snapshot`` uses; another boot's clock means nothing here.
        snapshot: ``BucketSnapshot`` as JSON values.
    """

    boot_id: str
    snapshot: dict[str, Any]


class GateCell(Protocol):
    """The gate's row inside an exclusive transaction: nobody else reads or writes it meanwhile."""

    row: GateRow | None
    """As it was found; set it to store another one when the block ends."""


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
        events: Sequence[EventRow] = (),
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

    async def begin(self, fence: Fence, attempt: AttemptRow, *, reservation: Reservation | None = None) -> None:
        """Store an attempt with its payload before its first byte is sent, and reserve what it may cost.

        Raises:
            LeaseLostError: Another has the job; nothing may be sent.
            BudgetExceededError: The budget does not allow it; nothing may be sent.
            LedgerError: There is no such job, this number was begun already, or the disk failed. Nothing may be sent.
        """

    async def plan_step(self, fence: Fence, step: StepRow) -> StepRow:
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

    async def neighbours(self, attempt: AttemptRow, *, at_most: int = 200) -> Neighbours:
        """Return the task ids around an attempt, at most so many on each side.

        Raises:
            LedgerError: The attempt was not begun.
        """

    async def tasks(self, job_ids: Collection[str]) -> list[TaskRow]:
        """Return every task that was ever made for certain jobs, by job, try and member."""

    async def steps(self, job_ids: Collection[str]) -> list[StepRow]:
        """Return the steps of certain jobs in the order in which they were planned."""

    async def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[EventRow]:
        """Return a job's events with larger numbers than ``after``, in order; those that were trimmed are missing."""

    async def trim_events(self, *, before: datetime, keep: int) -> int:
        """Remove events older than ``before`` of jobs that have ended, and all but the newest ``keep`` of every job.

        Returns:
            How many were removed.
        """

    async def wish(self, row: WishRow) -> WishRow:
        """Store a wish, and return it with its number. Needs no lease.

        Raises:
            LedgerError: There is no such job.
        """

    async def wishes(self, fence: Fence) -> list[WishRow]:
        """Return what is wished of the jobs that a lease holds, in the order in which it was wished."""

    async def spent(self, where: JobFilter) -> tuple[int, int]:
        """Return the wei that tasks of certain jobs hold (their cost is not known yet, so their fee) and have spent."""

    async def budget(self, name: str) -> BudgetRow | None:
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
