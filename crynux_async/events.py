"""What happens to a job, as values. Every event names its job, the task where there is one, and the time."""

from datetime import datetime
from pathlib import Path

import attrs

from crynux_async.states import JobState


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened to a job.

    Attributes:
        job_id: The job.
        task_id: The service's name of its task, or None before there is one.
        at: When, aware UTC.
    """

    job_id: str
    task_id: str | None
    at: datetime


@attrs.frozen(kw_only=True)
class JobQueued(Event):
    """The job waits for its turn to be sent.

    Attributes:
        position: How many jobs go before it, >= 0.
        expected_at: When it will be sent as far as is known, aware UTC, or None.
    """

    position: int
    expected_at: datetime | None


@attrs.frozen(kw_only=True)
class JobSubmitted(Event):
    """The service has accepted the job; from here on it costs money."""


@attrs.frozen(kw_only=True)
class JobStateChanged(Event):
    """The job is in another state.

    Attributes:
        previous: The state before, or None for the first event of a stream, which tells where the job is.
        state: The state now.
    """

    previous: JobState | None
    state: JobState


@attrs.frozen(kw_only=True)
class JobProgressed(Event):
    """The task has come further, as far as the service tells.

    Attributes:
        stage: The service's own word for how far it is, such as "started".
    """

    stage: str


@attrs.frozen(kw_only=True)
class DownloadProgressed(Event):
    """Bytes of the archive have arrived.

    Attributes:
        received_bytes: Bytes on disk.
        total_bytes: Bytes of the archive, or None where the service did not say.
    """

    received_bytes: int
    total_bytes: int | None


@attrs.frozen(kw_only=True)
class ArchiveReady(Event):
    """The archive is complete, checked and safe on disk.

    Attributes:
        path: Where it is.
        total_bytes: Its size.
    """

    path: Path
    total_bytes: int


@attrs.frozen(kw_only=True)
class DownloadFailed(Event):
    """The archive could not be fetched; what arrived is kept, and ``job.download()`` goes on from there.

    Attributes:
        message: What happened and what to do.
    """

    message: str


@attrs.frozen(kw_only=True)
class EventsMissed(Event):
    """The reader was too slow, and the oldest waiting events were dropped; states are never wrong, only skipped.

    Attributes:
        count: How many were dropped, >= 1.
    """

    count: int
