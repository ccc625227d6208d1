"""``Job``: the handle on one fine-tuning job.

A handle holds nothing: it asks the record that the library keeps of the job. Handles are made on demand, and two
handles on one job are equal.
"""

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from crynux_async.errors import (
    CrynuxError,
    JobAbandonedError,
    JobError,
    JobExpiredError,
    JobFailedError,
    JobStalledError,
    LedgerError,
    UsageError,
    WaitTimeoutError,
)
from crynux_async.states import GOOD, JobState

if TYPE_CHECKING:
    from crynux_async.events import Event
    from crynux_async.job_values import Cost, JobTask
    from crynux_async.supervision.hearing import Reading
    from crynux_async.supervision.record import Record
    from crynux_async.supervision.supervisor import Supervisor
    from crynux_async.training.config import FineTuneConfig


class Job:
    """The handle on one fine-tuning job, whoever follows it. A ``Session`` makes it.

    ``await job`` waits for the model, ``await job.download(folder)`` brings it to disk. As many callers as like
    may wait for one job, and cancelling a waiter never touches the task.

    A handle on a job that another process follows is a full one. What it shows is what was read last: it is read again
    while somebody waits for the job, and by ``session.find()``.
    """

    __slots__ = ("_record", "_supervisor")
    if TYPE_CHECKING:  # annotations that exist would stand in help(Job)
        _record: Record
        _supervisor: Supervisor

    def __init__(self) -> None:
        raise UsageError("jobs are made by a session: session.submit(config), or session.attach(task_id)")

    def __repr__(self) -> str:
        return repr(self._record)

    def __eq__(self, other: object) -> bool:
        return self._record.job_id == other._record.job_id if isinstance(other, Job) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._record.job_id)

    def __await__(self) -> Generator[object, None, "Job"]:
        return self.wait().__await__()

    @property
    def job_id(self) -> str:
        """This library's name for the job, unique."""
        return self._record.job_id

    @property
    def config(self) -> "FineTuneConfig | None":
        """What is trained, as it was asked for; None for a task that was attached by its id.

        Of a config of a class of your own, the values are kept, and not the class: this is a ``FineTuneConfig``.
        """
        return self._record.config

    @property
    def label(self) -> str:
        """The caller's own name for it, or ""."""
        return self._record.label

    @property
    def group(self) -> str:
        """Which set of jobs it belongs to, such as a sweep, or ""."""
        return self._record.filing.group

    @property
    def tags(self) -> Mapping[str, str]:
        """The caller's free names and values; they cannot be changed."""
        return self._record.filing.tags

    @property
    def tenant(self) -> str:
        """On whose behalf it runs, or ""."""
        return self._record.filing.tenant

    @property
    def idempotency_key(self) -> str | None:
        """The caller's name for the intention that it stands for, or None."""
        return self._record.idempotency_key

    @property
    def tries(self) -> int:
        """How many tries it has had or has, >= 1."""
        return self._record.tries

    @property
    def task_id(self) -> str | None:
        """The service's name of the task, or None before it is accepted."""
        return self._record.task_id

    @property
    def state(self) -> JobState:
        """What is believed of it."""
        return self._record.state

    @property
    def done(self) -> bool:
        """Whether nothing more will happen to the remote task that could be seen."""
        return self._record.done

    @property
    def error(self) -> CrynuxError | None:
        """Why it ended badly, or why it was not sent, or None."""
        return self._record.error

    @property
    def reason(self) -> str | None:
        """Why it ended without a model as far as the service tells, or None; "cancelled" where its task was cancelled.

        A bridge tells why a task failed to its owner alone: give the session ``admin_token=``.
        """
        return self._record.reason or None

    @property
    def progress(self) -> str | None:
        """How far the task was when it was made, or at the last look, in the service's own word such as "started".

        None before that, and after its end. A bridge says no more than that a task runs, so it is None there.
        """
        return self._supervisor.follower.stage(self._record) or None

    @property
    def path(self) -> Path | None:
        """Where the archive is, once it is downloaded."""
        archive = self._record.archive
        return archive.path if archive else None

    @property
    def host(self) -> str | None:
        """The host that has the archive at ``path``, by its name or what ``host=`` calls it; None where not known."""
        archive = self._record.archive
        return (archive.host or None) if archive else None

    @property
    def total_bytes(self) -> int | None:
        """Size of the archive in bytes, once it is downloaded."""
        archive = self._record.archive
        return archive.total_bytes if archive else None

    @property
    def folder(self) -> Path | None:
        """Where the archive is wanted, or None where nobody has asked for it."""
        wanted = self._record.wanted
        return wanted.folder if wanted else None

    @property
    def file_name(self) -> str | None:
        """The template of the name that is wanted for the archive, or None where nobody has asked for it."""
        wanted = self._record.wanted
        return wanted.name if wanted else None

    @property
    def planned_at(self) -> datetime:
        """When it was planned or attached, aware UTC."""
        return self._record.planned_at

    @property
    def submitted_at(self) -> datetime | None:
        """When it was accepted, aware UTC, or None."""
        return self._record.submitted_at

    @property
    def ended_at(self) -> datetime | None:
        """When its end was noticed, aware UTC, or None."""
        return self._record.ended_at

    @property
    def eta(self) -> datetime | None:
        """When the job will be sent as far as is known, aware UTC; None once it is sent."""
        return self._supervisor.expected_at(self._record)

    @property
    def resubmitted_as(self) -> str | None:
        """The name of the job that replaces it, or None; only jobs of version 0.1.0 have any."""
        return self._record.resubmitted_as

    def to_dict(self, *, public: bool = False) -> dict[str, object]:
        """Return what the handle shows as JSON values; what presigned links in the config hold is masked.

        Args:
            public: Leave out what concerns nobody outside: where the archive is or goes, and the words of an error, for
                they may name paths and addresses.
        """
        from crynux_async.ledgers.rows import shown_config

        times = {"planned_at": self.planned_at, "submitted_at": self.submitted_at, "ended_at": self.ended_at}
        places = {} if public else {"folder": self.folder, "file_name": self.file_name, "path": self.path}
        return {
            "job_id": self.job_id,
            "task_id": self.task_id,
            "state": self.state.value,
            "label": self.label,
            "group": self.group,
            "tags": dict(self.tags),
            "tenant": self.tenant,
            "idempotency_key": self.idempotency_key,
            "tries": self.tries,
            **{name: when.isoformat() if when is not None else None for name, when in times.items()},
            **({} if public else {"error": str(self.error) if self.error is not None else ""}),
            "error_kind": type(self.error).__name__ if self.error is not None else "",
            "reason": self.reason or "",
            **{name: str(place) if place is not None else None for name, place in places.items()},
            "total_bytes": self.total_bytes,
            "config": shown_config(self.config),
            "digest": self.config.digest() if self.config is not None else "",
        }

    async def submitted(self) -> "Job":
        """Wait until the job is accepted, and return the job.

        Raises:
            AuthError, QuotaError: The credential was refused; nothing is paid, and ``retry()`` sends it again.
            RejectedError: The service refused it; nothing is paid.
            UnreachableError: The service could not be reached for too long; nothing was sent.
            SubmissionUnknownError: It was sent and its outcome is not known.
            JobAbandonedError: It was given up before it was sent.
            LedgerError: It could not be remembered. Where ``task_id`` of the error is set, the task exists.
            UsageError: The session was closed.
        """
        record = self._record
        # Done is not enough: a job that was given up while it was sent has a task, and that is paid for.
        await self._until(lambda: record.task_id is not None or record.error is not None or record.done)
        if record.task_id is None or isinstance(record.error, LedgerError):
            raise _failure(record)
        return self

    async def wait(self, timeout: float | None = None) -> "Job":
        """Wait until the task has a model, and return the job.

        Args:
            timeout: Seconds to wait at most, or None for as long as it takes.

        Raises:
            JobFailedError: The network gave up on the task.
            JobStalledError: The task runs longer than it can; it is still watched, so waiting again raises again until
                it ends.
            JobExpiredError: The service has deleted the task.
            WaitTimeoutError: ``timeout`` is over; the job goes on.
            UsageError: The session was closed; the task goes on.
            LedgerError: The ledger of a job that another process follows cannot be read.
            CrynuxError: It was never accepted: whatever ``submitted()`` raises.
        """
        record = self._record
        try:
            # Only the waiting ends with it; to cancel what runs would need the service, and the user's word.
            async with asyncio.timeout(timeout):
                await self._until(lambda: record.done or record.has_failed)
        except TimeoutError:
            raise WaitTimeoutError(
                f"{self!r} has not ended after {timeout:g} s{self._outlook()}",
                job_id=record.job_id,
                task_id=record.task_id,
            ) from None
        if record.state not in GOOD:
            raise _failure(record)
        return self

    async def download(
        self, folder: str | Path = ".", *, name: str | None = None, timeout: float | None = None
    ) -> Path:
        """Wait for the model, bring its archive to disk, check it, and return its path.

        Several callers share one transfer; a transfer that was cut continues where it stopped. One that another process
        makes is waited for, and the file that it has brought is used. Where the service has validation images, they
        come after the archive and lie beside it; ``store_images()`` waits for them.

        Args:
            folder: Where to put it; made if it does not exist.
            name: File name with ``{task_id}``, ``{job_id}``, ``{label}``, ``{model}`` or ``{digest}`` in it; None for
                the service's usual one, such as "{task_id}.zip".
            timeout: Seconds to wait for the model at most, or None for as long as it takes.

        Raises:
            UsageError: No archive could come to this folder, or be called so; said at once.
            DownloadError: The archive could not be brought to disk; what arrived is kept.
            OwnershipError: The task was made with another key, which this session does not have; said at once where the
                ledger knows that, with the key's fingerprint.
            AuthError, QuotaError: The key may not have it.
            CrynuxError: Whatever ``wait()`` raises.
        """
        # Before anything is asked of whoever holds it: to take the job from the one that may fetch it helps nobody.
        await self._supervisor.check_may_have(self._record, Path(folder), name)
        if self._record.state not in GOOD:  # there may be hours in which to mend it
            await self._supervisor.check_target(self._record, Path(folder), name, has_room=True)
        # Before the wait, so that the next process fetches the model should this one die while it waits.
        wanted = self._supervisor.want(self._record, Path(folder), name)
        await self.wait(timeout)
        return await self._supervisor.fetch(self._record, wanted)

    async def cancel(self) -> str:
        """Cancel the job, and return what that means for the money, in words for people.

        A job that was not sent yet is not sent; one that is being sent is cancelled once its task is known. It is
        ABANDONED then, and ``reason`` says "cancelled". Nothing changes where this raises. A job that another process
        holds is cancelled by that one, which hears of it within seconds.

        Raises:
            UsageError: The service cannot cancel tasks (no bridge can; ``abandon()`` stops following), or the job has
                no task that runs.
            BackendError: The task cannot be cancelled (any more); the message says what happens now.
        """
        return await self._supervisor.cancel(self._record)

    async def images(self) -> list[bytes]:
        """Return the validation images of the task as PNG files, in order.

        Raises:
            UsageError: The service hands out none (no bridge does), or the job has no task.
            NotFoundError: There are none (yet, or any more).
            BackendError: They could not be had.
        """
        self._supervisor.check_open()
        return await self._supervisor.abilities.images(self._record)

    async def store_images(self) -> list[Path]:
        """Return the files of the validation images beside the archive, in order: its name with numbers behind it.

        Every download begins to store them; this waits until they are there, and stores them where that went wrong.

        Raises:
            UsageError: The service hands out none (no bridge does), or the archive is not on disk.
            NotFoundError: There are none (any more).
            BackendError: They could not be had.
            OSError: They cannot be written.
        """
        archive = self._record.archive
        if archive is None:
            raise UsageError(f"{self!r} has no archive on disk: download() first", job_id=self.job_id)
        return await self._supervisor.store_images(self._record, archive.path)

    async def cost(self) -> "Cost":
        """Return what the tasks of the job hold, have cost and gave back, as far as the service tells prices.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        self._supervisor.check_open()
        from crynux_async.job_values import cost_of

        return cost_of(await self._supervisor.tasks(self._record))

    async def tasks(self) -> "list[JobTask]":
        """Return every task that was ever made for the job, whoever made it, by try.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        self._supervisor.check_open()
        from crynux_async.job_values import task_from

        return [task_from(row) for row in await self._supervisor.tasks(self._record)]

    async def retry(self, *, timeout: int | None = None) -> "Job":
        """Send the job (again), because the user says so; returns the job when that is durable, before it is sent.

        One that was planned and never sent is queued. One that ended badly, or whose outcome is unknown, gets another
        try, which is paid for; where an unknown one was created after all, both are. Its names and its idempotency key
        stay. A job that another process holds is sent by that one, which hears of it within seconds. It is sent with
        the API key (at the relay, the wallet) of the session that sends it, whichever an earlier try was made with,
        and its model is handed out to that one.

        Args:
            timeout: Seconds that one round may take on a node from now on, at least as many as before: what is trained
                stays the same. None leaves it.

        Raises:
            UsageError: The job runs or has a model, its config is not known, or the timeout cannot be changed so.
            LedgerError: It could not be stored; nothing is sent.
        """
        await self._supervisor.retry(self._record, timeout=timeout)
        return self

    def abandon(self) -> None:
        """Stop caring about the job: not sent if it waits to be sent, not followed any more otherwise.

        A task that runs goes on: at a bridge it is paid for; at the relay it is refunded at its timeout, unless it is
        validated already. Another process that holds the job does it as soon as it hears of it.

        Raises:
            UsageError: The session is closed, and does not hold the job; or this is not its event loop.
        """
        self._supervisor.abandon(self._record)

    async def events(self, *, after: int | None = None) -> "AsyncGenerator[Event, None]":
        """Yield what happened to the job behind a certain event, and then what happens, whoever follows it.

        Events are numbered from 1 without gaps, and stored: a reader that comes back, in whichever process, goes on
        behind the ``number`` that it has seen last and gets nothing twice. In a session without a ledger they are
        stored from the first reader of the job on. Ends when nothing more can happen by itself: after the download
        where one was asked for (``folder=`` of ``submit``, ``download()`` by whoever holds the job or in this session),
        else at the end of the task; it may be read on behind its last number once more is asked for.

        Args:
            after: The number of the last event that is known, 0 for all; None to begin with where the job is: a
                ``JobStateChanged`` without ``previous``, with the number of the newest event.

        Raises:
            LedgerError: The events cannot be read.
            UsageError: The session is closed.
        """
        self._supervisor.check_open()
        async with aclosing(self._supervisor.hearing.events(self._record, after)) as events:
            async for event in events:
                yield event

    def _outlook(self) -> str:
        """Return what is known of a job that was waited for in vain, and never more than the service has said."""
        again = "; it can be waited for again"
        if self._supervisor.follower.is_missing(self._record):
            return f", and the service did not know the task when it was asked last{again}"
        if self._record.state is JobState.ATTACHED:
            trouble = self._supervisor.reach.trouble
            return f", and nothing was heard of the task{f' ({trouble})' if trouble else ''}{again}"
        return "; it goes on and can be waited for again"

    async def _until(self, condition: Callable[[], bool]) -> None:
        hearing = self._supervisor.hearing
        await hearing.catch_up((self._record,))
        with hearing.watching((self._record,)):
            await self._record.until(condition, self._supervisor.check_open)


def handle_on(record: "Record", supervisor: "Supervisor") -> Job:
    """Return a handle on a job.

    Args:
        record: What the library keeps of it.
        supervisor: Who drives it.
    """
    # Past ``__init__``, which tells users who makes jobs.
    job = object.__new__(Job)
    job._record, job._supervisor = record, supervisor
    return job


def record_of(job: Job) -> "Record":
    """Return what the library keeps of a job."""
    return job._record


def reading_of(job: Job, after: int) -> "Reading":
    """Return a block in which a job's events are read, for who holds thousands of readers open.

    Args:
        job: The job.
        after: The number of the last event that is known, 0 for all.

    Raises:
        UsageError: The session is closed.
    """
    job._supervisor.check_open()
    return job._supervisor.hearing.reading(job._record, after)


def _failure(record: "Record") -> CrynuxError:
    if record.error is not None:
        return copy.copy(record.error)  # one instance raised in several tasks would pile up their tracebacks
    cls, message = _FAILURES.get(record.state, (JobError, f"it is {record.state}"))
    return cls(f"{record!r}: {message}", job_id=record.job_id, task_id=record.task_id)


_FAILURES: dict[JobState, tuple[type[CrynuxError], str]] = {
    JobState.FAILED: (JobFailedError, "the service gave up on it"),
    JobState.STALLED: (
        JobStalledError,
        "it runs longer than any healthy task can, so the network has most probably lost it; it is still watched",
    ),
    JobState.EXPIRED: (JobExpiredError, "the service does not know this task (any more)"),
    JobState.ABANDONED: (JobAbandonedError, "it was given up here"),
}
