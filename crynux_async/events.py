"""What happens to a job, as values. Every event names its job, the task where there is one, and the time."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path

import attrs

from crynux_async.states import JobState
from crynux_async.values import Value

_PRIVATE = frozenset({"path", "message"})


def as_json(value: object) -> object:
    """Return an event's attribute as a JSON value."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, StrEnum):
        return value.value
    return str(value) if isinstance(value, Path) else value


@attrs.frozen(kw_only=True)
class Event(Value):
    """Something that happened to a job.

    Attributes:
        job_id: The job.
        task_id: The service's name of its task, or None before there is one.
        at: When, aware UTC.
        number: Its number among the job's events, > 0: give it to ``job.events(after=...)`` to go on behind it. It is 0
            in ``session.events()``, where nothing can be gone back to.
    """

    job_id: str
    task_id: str | None
    at: datetime
    number: int = 0

    def to_dict(self, *, public: bool = False) -> dict[str, object]:
        """Return the event as JSON values, with its ``kind``, the name of its class.

        Args:
            public: Leave out what concerns nobody outside: paths, and messages that may hold some.
        """
        own = attrs.asdict(self, recurse=False)
        values = {name: as_json(value) for name, value in own.items() if not (public and name in _PRIVATE)}
        return {"kind": type(self).__name__, **values}


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
    """The job is in another state. From one that has ended to PLANNED means another try.

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
class StepTaken(Event):
    """Something was done on the task beyond its create, where the service needs that.

    Attributes:
        step: What was done: the service's own word, such as "validate".
        member: To which task of the try, >= 0.
        outcome: What became of it, or "" where it went well.
    """

    step: str
    member: int
    outcome: str


@attrs.frozen(kw_only=True)
class ImagesReady(Event):
    """Validation images of the task are there: ``job.images()`` fetches them."""


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
    """Events are not there any more: the reader was too slow, or asked for what was trimmed. States are never wrong.

    Attributes:
        count: How many are missing, >= 1; of a job's events, ``number`` is that of the last of them.
    """

    count: int
