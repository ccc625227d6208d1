"""Events as rows of a ledger, and back."""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from crynux_async import events
from crynux_async.events import Event, as_json
from crynux_async.ledgers.base import EventRow
from crynux_async.states import JobState

_OF_THE_ROW = frozenset({"job_id", "at", "number"})

_KINDS: Mapping[str, type[Event]] = {
    cls.__name__: cls
    for cls in (
        events.JobQueued,
        events.JobSubmitted,
        events.JobStateChanged,
        events.JobProgressed,
        events.StepTaken,
        events.ImagesReady,
        events.DownloadProgressed,
        events.ArchiveReady,
        events.DownloadFailed,
    )
}

_READ: Mapping[str, Callable[[Any], Any]] = {
    "state": JobState,
    "previous": JobState,
    "path": Path,
    "expected_at": datetime.fromisoformat,
}


def row_of(event: Event, number: int) -> EventRow:
    """Return the row of an event.

    Args:
        event: What happened.
        number: Its number among the events of its job, > 0.
    """
    own = attrs.asdict(event, recurse=False)
    data = {name: as_json(value) for name, value in own.items() if name not in _OF_THE_ROW}
    return EventRow(job_id=event.job_id, number=number, at=event.at, kind=type(event).__name__, data=data)


def event_of(row: EventRow) -> Event:
    """Return the event that a row tells of; one of a kind that is not known here is a plain ``Event``."""
    cls = _KINDS.get(row.kind, Event)
    known = {field.name for field in attrs.fields(cls)}
    data = {name: _read(name, value) for name, value in row.data.items() if name in known}
    return cls(**{"task_id": None, **data, "job_id": row.job_id, "at": row.at, "number": row.number})


def _read(name: str, value: Any) -> Any:
    return _READ[name](value) if name in _READ and value is not None else value
