"""``Job``: the handle on one remote task."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Generator
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import attrs

from crynux_async.clock import utc_now
from crynux_async.errors import (
    CrynuxError,
    JobAbandonedError,
    JobExpiredError,
    JobFailedError,
    JobStalledError,
    LedgerError,
    WaitTimeoutError,
)
from crynux_async.event_stream import EventStream
from crynux_async.events import DownloadFailed, Event, JobStateChanged
from crynux_async.states import ENDED, GOOD, JobState, Signal, may
from crynux_async.training.config import FineTuneConfig


class JobKeeper(Protocol):
    """What a job asks of whoever keeps it."""

    async def fetch(self, job: "Job", folder: Path, name: str) -> Path:
        """Bring the archive to disk."""

    def learn(self, job: "Job", signal: Signal) -> None:
        """Take note of something that happened to the job."""

    def note(self, job: "Job") -> None:
        """Remember what changed about the job."""

    def resubmit(self, job: "Job") -> "Job":
        """Send the job's config again."""

    def expected_at(self, job: "Job") -> datetime | None:
        """When a queued job will be sent."""

    def check_open(self) -> None:
        """Raise UsageError when nothing follows jobs any more."""


@attrs.define(eq=False, kw_only=True)
class Job:
    """The handle on one fine-tuning task. Made by a ``Session``, never directly.

    ``await job`` waits for the model, ``await job.download(folder)`` brings it to disk. Any number of callers may wait
    for one job, and cancelling a waiter never touches the task: the bridge cannot cancel anything.

    Attributes:
        job_id: This library's name for it, unique.
        config: What is trained, or None for a task that was attached by its number.
        label: The caller's own name for it, or "".
        task_id: The bridge's number of the task, or None before it is accepted.
        state: What is believed of it.
        error: Why it ended badly, or why it was not sent, or None.
        path: Where the archive is, once it is downloaded.
        total_bytes: Size of the archive, once it is downloaded.
        planned_at: When it was planned or attached, aware UTC.
        submitted_at: When the bridge accepted it, aware UTC, or None.
        ended_at: When its end was noticed, aware UTC, or None.
    """

    job_id: str
    config: FineTuneConfig | None = None
    label: str = ""
    task_id: int | None = None
    state: JobState = JobState.PLANNED
    error: CrynuxError | None = attrs.field(default=None, repr=False)
    path: Path | None = None
    total_bytes: int | None = attrs.field(default=None, repr=False)
    planned_at: datetime = attrs.field(factory=utc_now, repr=False)
    submitted_at: datetime | None = attrs.field(default=None, repr=False)
    ended_at: datetime | None = attrs.field(default=None, repr=False)
    wanted: tuple[Path, str] | None = attrs.field(default=None, repr=False)
    resubmitted_as: str | None = attrs.field(default=None, repr=False)
    attempts: int = attrs.field(default=0, repr=False)
    is_resumed: bool = attrs.field(default=False, repr=False)
    is_saved: bool = attrs.field(default=False, repr=False)
    queue_number: int = attrs.field(default=0, repr=False)
    unreachable_at: float | None = attrs.field(default=None, repr=False)
    unreachable_for: float = attrs.field(default=0.0, repr=False)
    _keeper: JobKeeper = attrs.field(repr=False)
    _waiters: list["asyncio.Future[None]"] | None = attrs.field(default=None, repr=False, init=False)
    _streams: list[EventStream] | None = attrs.field(default=None, repr=False, init=False)

    def __repr__(self) -> str:
        task = f"task {self.task_id}" if self.task_id is not None else "no task yet"
        label = f" {self.label!r}" if self.label else ""
        return f"<Job {self.job_id}{label} {self.state}, {task}>"

    @property
    def done(self) -> bool:
        """Whether nothing more will happen to the remote task that could be seen."""
        return self.state in ENDED

    @property
    def eta(self) -> datetime | None:
        """When the job will be sent as far as is known, aware UTC; None once it is sent."""
        return self._keeper.expected_at(self)

    def __await__(self) -> Generator[Any, None, "Job"]:
        return self.wait().__await__()

    async def submitted(self) -> "Job":
        """Wait until the bridge has accepted the job, and return the job.

        Raises:
            AuthError, QuotaError, RejectedError: The bridge refused it; nothing is paid.
            UnreachableError: The bridge could not be reached for too long; nothing was sent.
            SubmissionUnknownError: It was sent and its outcome is not known.
            JobAbandonedError: It was given up before it was sent.
            LedgerError: It could not be remembered. Where ``task_id`` of the error is set, the task exists.
            UsageError: The session was closed.
        """
        await self._until(lambda: self.task_id is not None or self.error is not None or self.done)
        if self.task_id is None or isinstance(self.error, LedgerError):
            raise self._failure()
        return self

    async def wait(self, timeout: float | None = None) -> "Job":
        """Wait until the task has a model, and return the job.

        Args:
            timeout: Seconds to wait at most, or None for as long as it takes.

        Raises:
            JobFailedError: The network gave up on the task.
            JobStalledError: The task runs longer than it can; it is still watched, so waiting again raises again until
                it ends.
            JobExpiredError: The bridge has deleted the task.
            WaitTimeoutError: ``timeout`` is over; the job goes on.
            UsageError: The session was closed; the task goes on.
            CrynuxError: It was never accepted: whatever ``submitted()`` raises.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._until(lambda: self.done or self.state is JobState.STALLED or self.error is not None)
        except TimeoutError:
            raise WaitTimeoutError(
                f"{self!r} has not ended after {timeout:g} s; it goes on and can be waited for again",
                job_id=self.job_id,
                task_id=self.task_id,
            ) from None
        if self.state not in GOOD:
            raise self._failure()
        return self

    async def download(
        self, folder: str | Path = ".", *, name: str = "{task_id}.zip", timeout: float | None = None
    ) -> Path:
        """Wait for the model, bring its archive to disk, check it, and return its path.

        Several callers share one transfer; a transfer that was cut continues where it stopped.

        Args:
            folder: Where to put it; made if it does not exist.
            name: File name with ``{task_id}``, ``{job_id}``, ``{label}``, ``{model}`` or ``{digest}`` in it.
            timeout: Seconds to wait for the model at most, or None for as long as it takes.

        Raises:
            DownloadError: The archive could not be brought to disk; what arrived is kept.
            OwnershipError, AuthError, QuotaError: The key may not have it.
            CrynuxError: Whatever ``wait()`` raises.
        """
        self.wanted = (Path(folder), name)
        self._keeper.note(self)
        await self.wait(timeout)
        return await self._keeper.fetch(self, Path(folder), name)

    def resubmit(self) -> "Job":
        """Send the job's config again, because the user says so, and return the job that stands for it.

        A job that was planned and never sent is queued itself. One that ended badly, or whose outcome is unknown, is
        given up and replaced by a new job; where it was created after all, both are paid for.

        Raises:
            UsageError: The job runs or has a model, or its config is not known.
        """
        return self._keeper.resubmit(self)

    def abandon(self) -> None:
        """Stop caring about the job: not sent if it waits to be sent, not followed any more otherwise.

        A task that runs goes on and is paid for: the bridge has no way to cancel it.
        """
        if may(self.state, Signal.ABANDON):
            self._keeper.learn(self, Signal.ABANDON)

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens to the job, beginning with where it is.

        Ends when nothing more can happen: after the download where one was asked for, else at the end of the task.
        """
        stream = self._listen()
        try:
            yield JobStateChanged(
                job_id=self.job_id, task_id=self.task_id, at=utc_now(), previous=None, state=self.state
            )
            if self._is_over():
                return
            async for event in stream:
                yield event
                if isinstance(event, JobStateChanged | DownloadFailed) and self._is_over(event):
                    return
        finally:
            stream.close()

    @property
    def is_heard(self) -> bool:
        """Whether anybody reads this job's own events."""
        return bool(self._streams)

    def tell(self, event: Event) -> None:
        """Hand an event to whoever listens to this job."""
        for stream in self._streams or ():
            stream.put(event)

    def wake(self) -> None:
        """Let every waiter look again."""
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def end_streams(self) -> None:
        """Let every reader of events finish."""
        for stream in self._streams or ():
            stream.end()

    def _listen(self) -> EventStream:
        stream = EventStream(self._unlisten)
        self._streams = [*(self._streams or ()), stream]
        return stream

    def _unlisten(self, stream: EventStream) -> None:
        self._streams = [other for other in self._streams or () if other is not stream] or None

    def _is_over(self, event: Event | None = None) -> bool:
        if self.state is JobState.SUCCEEDED:
            return self.wanted is None or isinstance(event, DownloadFailed)
        return self.done

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._keeper.check_open()
            waiter = asyncio.get_running_loop().create_future()
            waiters = self._waiters = self._waiters or []
            waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                waiters.remove(waiter)
                raise

    def _failure(self) -> CrynuxError:
        if self.error is not None:
            return copy.copy(self.error)  # one instance raised in several tasks would pile up their tracebacks
        cls, message = _FAILURES[self.state]
        return cls(f"{self!r}: {message}", job_id=self.job_id, task_id=self.task_id)


_FAILURES: dict[JobState, tuple[type[CrynuxError], str]] = {
    JobState.FAILED: (
        JobFailedError,
        (
            "the network gave up after four attempts. The bridge gives no reason; the usual ones are a data set that "
            "nodes cannot load, a wrong column name, too little memory and a time-out that is too short"
        ),
    ),
    JobState.STALLED: (
        JobStalledError,
        "it runs longer than any healthy task can, so the network has most probably lost it; it is still watched",
    ),
    JobState.EXPIRED: (
        JobExpiredError,
        "the bridge does not know this task (any more): it deletes tasks 7 days after their end by default",
    ),
    JobState.ABANDONED: (JobAbandonedError, "it was given up here"),
}
