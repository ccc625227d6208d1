"""What a ledger must be able to do, wherever it keeps its rows.

A ledger is the only memory of what was paid for: the bridge has no list. It stores what the session tells it and
decides nothing. Every method that writes returns when the rows are durable, and writes all of its rows or none. Once
the disk has failed, every later write fails too, until the ledger is opened again: a second try that seems to work
proves nothing about the first.

Cancelling a caller does not undo its write. Times are aware UTC datetimes. Keys never enter a ledger: ``key_id`` is a
fingerprint that cannot be turned back.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

import attrs

from crynux_async.errors import LedgerError
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig

GATE_SECONDS = 5.0
"""How long a gate may be held: other processes that wait for it give up some time after this."""


class AttemptOutcome(StrEnum):
    """What became of one create that was begun."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    REJECTED = "rejected"
    NOT_SENT = "not sent"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class JobRow:
    """A job as it is remembered.

    Attributes:
        job_id: This library's name for it, unique in the ledger.
        backend: Which service it belongs to, such as "https://bridge.crynux.io".
        key_id: Fingerprint of the key that submits it, or "" for a job that was attached without one.
        config: What is trained, as it was asked for, or None for a task that was attached by its number.
        label: The caller's own name for it.
        task_id: The service's number of the task, or None before it is accepted. Unique for a backend.
        state: What is believed of it.
        planned_at: When it was planned (or attached).
        submitted_at: When it was accepted, or None.
        ended_at: When its end was noticed, or None.
        error: Why it ended badly, for people, or "".
        folder: Where its archive is wanted, or None where no download was asked for.
        file_name: The name (template filled in) that was asked for, or None.
        path: Where its archive is, or None.
        total_bytes: Size of the archive, or None.
        resubmitted_as: The job that replaces it, or None.
    """

    job_id: str
    backend: str
    key_id: str
    config: FineTuneConfig | None
    label: str
    task_id: int | None
    state: JobState
    planned_at: datetime
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    error: str = ""
    folder: str | None = None
    file_name: str | None = None
    path: str | None = None
    total_bytes: int | None = None
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
    """One create that was begun. It is durable before the first byte of the create is sent.

    Attributes:
        job_id: Whose it is.
        number: Counts from 1 for each job.
        backend: Which service it went to.
        key_id: Fingerprint of the key it was made with.
        began_at: When it was begun.
        answered_at: When its outcome was known, or None while it is not.
        outcome: What became of it, or None while that is not known (or was never recorded: the process died).
        task_id: The task that it made, or None.
        wait: Seconds that a refusal said to wait, or None.
        status: HTTP status of the answer, or None.
        answer: What was answered where the outcome is unknown, at most 64 KiB, the key masked, or "".
    """

    job_id: str
    number: int
    backend: str
    key_id: str
    began_at: datetime
    answered_at: datetime | None = None
    outcome: AttemptOutcome | None = None
    task_id: int | None = None
    wait: float | None = None
    status: int | None = None
    answer: str = ""


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
            LedgerError: It is not a ledger, damaged, locked, not writable, or was written by a newer version. It has
                not been changed.
        """

    async def close(self) -> None:
        """Write what is left and release everything."""

    async def add(self, rows: Sequence[JobRow], *, owner: str | None = None, until: datetime | None = None) -> None:
        """Store new jobs.

        Args:
            rows: The jobs.
            owner: Who holds their leases from the first moment on, so that no other process can claim them before; or
                None for nobody.
            until: When the leases of ``owner`` end; given exactly where ``owner`` is.

        Raises:
            LedgerError: A job id, or a task id of the same backend, is there already; or the disk failed.
        """

    async def update(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Change columns of jobs: job id -> names of ``JobRow`` -> values.

        Raises:
            LedgerError: There is no such job or column, it cannot change (what a job is called and what it trains), or
                the disk failed.
        """

    async def begin(self, attempt: AttemptRow) -> None:
        """Store an attempt before its first byte is sent.

        Two processes that both believe that a job is theirs begin the same number; only one of them gets past here.

        Raises:
            LedgerError: There is no such job, this number of it was begun already, or the disk failed. Nothing may be
                sent.
        """

    async def finish(self, attempt: AttemptRow, **changes: Any) -> None:
        """Store what became of an attempt together with the changes of its job, in one step.

        An attempt without an outcome, or of unknown outcome, takes any; any other outcome is final.

        Raises:
            LedgerError: The attempt was not begun or has another outcome already, the job cannot be changed so, or the
                disk failed.
        """

    async def get(self, job_id: str) -> JobRow | None:
        """Return a job, or None where there is none."""

    async def jobs(
        self,
        *,
        states: Collection[JobState] | None = None,
        backend: str | None = None,
        label: str | None = None,
        limit: int | None = None,
    ) -> list[JobRow]:
        """Return jobs in the order in which they were added.

        Args:
            states: Only jobs in one of these.
            backend: Only jobs of this service.
            label: Only jobs with this label.
            limit: At most so many, >= 0.

        Returns:
            The jobs. A config that cannot be read (a later version knows more fields) is None, and the row's ``error``
            says so; what is stored stays as it is.
        """

    async def attempts(
        self,
        *,
        backend: str | None = None,
        key_id: str | None = None,
        job_id: str | None = None,
        since: datetime | None = None,
    ) -> list[AttemptRow]:
        """Return attempts in the order in which they were begun.

        Args:
            backend: Only attempts at this service.
            key_id: Only attempts with this key.
            job_id: Only attempts of this job.
            since: Only attempts with ``began_at`` at or after this.
        """

    async def bracket(self, attempt: AttemptRow) -> tuple[int | None, int | None]:
        """Return the task ids between which an attempt of unknown outcome must lie.

        Ids rise with time, so it lies strictly between the largest id whose create was answered before this one began
        and the smallest id whose create began after this one was answered; None where there is none. Before and after
        are the order in which the ledger was told, whatever the clocks said: a clock that is set back would put the
        lost task outside. An attempt that is not finished has no upper bound.

        Raises:
            LedgerError: The attempt was not begun.
        """

    async def claim(
        self, owner: str, *, backend: str, now: datetime, until: datetime, states: Collection[JobState]
    ) -> list[JobRow]:
        """Take the lease of every job of a backend in ``states`` that nobody holds (any more), and return those jobs.

        Args:
            owner: Who takes them.
            backend: Whose jobs.
            now: Leases that ended before this are free.
            until: When the leases of this owner end, the new ones and those that it had.
            states: Which jobs.

        Returns:
            The jobs taken, in the order in which they were added. What a cancelled caller was about to take stays free.
        """

    async def lease(self, owner: str, job_ids: Sequence[str], *, until: datetime) -> list[str]:
        """Take the lease of certain jobs where no other owner has it, be it ended or not.

        Args:
            owner: Who takes them.
            job_ids: Which jobs.
            until: When the leases of this owner end, the new ones and those that it had.

        Returns:
            Those of ``job_ids`` whose lease the owner has now.

        Raises:
            LedgerError: There is no such job, or the disk failed.
        """

    async def renew(self, owner: str, *, until: datetime) -> int:
        """Move the end of every lease of an owner, and return how many it has (fewer: others took them over)."""

    async def owners(self) -> list[str]:
        """Return everybody who has a lease, ended or not."""

    async def release(self, owner: str) -> None:
        """Give back every lease of an owner."""

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
