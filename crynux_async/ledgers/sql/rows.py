"""Between the rows of a ledger and plain column values: text, whole numbers, and None.

Times are whole microseconds since 1970 in UTC, so that they compare alike in every database. A config is the JSON text
of ``FineTuneConfig.to_dict()``. What has the wrong type is refused here, before anything is written.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeAlias

from crynux_async.errors import ConfigError, LedgerError
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, JobRow
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig

Column: TypeAlias = str | int | float | None

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LARGEST = 2**63 - 1
_FIXED = ("job_id", "config", "digest")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("must be text")
    value.encode()  # a lone surrogate cannot be stored anywhere
    return str(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST:
        raise TypeError("must be a whole number below 2**63")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("must be a number")
    return float(value)


def to_microseconds(value: Any) -> int:
    """Return an aware time as whole microseconds since 1970.

    Raises:
        TypeError: It is no time, or one without a time zone.
    """
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise TypeError("must be a time with a time zone")
    return (value - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """Return the aware UTC time of whole microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=value)


def _state(value: Any) -> str:
    return JobState(value).value


def _outcome(value: Any) -> str:
    return AttemptOutcome(value).value


def _config(value: Any) -> str:
    if not isinstance(value, FineTuneConfig):
        raise TypeError("must be a FineTuneConfig")
    return json.dumps(value.to_dict(), ensure_ascii=False, separators=(",", ":"))


def _optional(encode: Callable[[Any], Column]) -> Callable[[Any], Column]:
    return lambda value: None if value is None else encode(value)


JOB_COLUMNS: Mapping[str, Callable[[Any], Column]] = MappingProxyType(
    {
        "job_id": _text,
        "backend": _text,
        "key_id": _text,
        "config": _optional(_config),
        "digest": _text,
        "label": _text,
        "task_id": _optional(_whole),
        "state": _state,
        "planned_at": to_microseconds,
        "submitted_at": _optional(to_microseconds),
        "ended_at": _optional(to_microseconds),
        "error": _text,
        "folder": _optional(_text),
        "file_name": _optional(_text),
        "path": _optional(_text),
        "total_bytes": _optional(_whole),
        "resubmitted_as": _optional(_text),
    }
)
"""How each attribute of a ``JobRow`` becomes a column value."""

ATTEMPT_COLUMNS: Mapping[str, Callable[[Any], Column]] = MappingProxyType(
    {
        "job_id": _text,
        "number": _whole,
        "backend": _text,
        "key_id": _text,
        "began_at": to_microseconds,
        "answered_at": _optional(to_microseconds),
        "outcome": _optional(_outcome),
        "task_id": _optional(_whole),
        "wait": _optional(_number),
        "status": _optional(_whole),
        "answer": _text,
    }
)
"""How each attribute of an ``AttemptRow`` becomes a column value."""


def encode(columns: Mapping[str, Callable[[Any], Column]], name: str, value: Any) -> Column:
    """Return one value as its column keeps it.

    Raises:
        LedgerError: There is no such column, or it cannot hold the value.
    """
    if name not in columns:
        raise LedgerError(f"a ledger has no column {name!r}", field=name)
    try:
        return columns[name](value)
    except (TypeError, ValueError) as error:
        raise LedgerError(f"{name} cannot be {value!r:.100}: {error}", field=name) from error


def encode_job(row: JobRow) -> dict[str, Column]:
    """Return every column of a job.

    Raises:
        LedgerError: A value cannot be stored.
    """
    return {name: encode(JOB_COLUMNS, name, getattr(row, name)) for name in JOB_COLUMNS}


def encode_attempt(row: AttemptRow) -> dict[str, Column]:
    """Return every column of an attempt.

    Raises:
        LedgerError: A value cannot be stored.
    """
    return {name: encode(ATTEMPT_COLUMNS, name, getattr(row, name)) for name in ATTEMPT_COLUMNS}


def encode_changes(changes: Mapping[str, Any]) -> dict[str, Column]:
    """Return the columns of a job that change.

    Raises:
        LedgerError: There is no such column, it cannot change, or it cannot hold the value.
    """
    for name in _FIXED:
        if name in changes:
            raise LedgerError(f"the {name} of a job cannot change", field=name)
    return {name: encode(JOB_COLUMNS, name, value) for name, value in changes.items()}


def check_job(row: JobRow) -> None:
    """Check a job like ``encode_job``, without the costly parts: a config is valid because it exists.

    Raises:
        LedgerError: A value cannot be stored.
    """
    for name in JOB_COLUMNS:
        if name not in ("config", "digest") or not isinstance(row.config, FineTuneConfig):
            encode(JOB_COLUMNS, name, getattr(row, name))


def decode_job(values: Sequence[Any]) -> JobRow:
    """Return a job from its columns, in the order of ``JOB_COLUMNS``.

    Raises:
        ValueError: The columns were not written by a ledger.
    """
    data = dict(zip(JOB_COLUMNS, values, strict=True))
    data["config"], remark = read_config(data["config"])
    data["error"] = "; ".join(filter(None, (data["error"], remark)))
    data["state"] = JobState(data["state"])
    for name in ("planned_at", "submitted_at", "ended_at"):
        if data[name] is not None:
            data[name] = from_microseconds(data[name])
    return JobRow(**data)


def decode_attempt(values: Sequence[Any]) -> AttemptRow:
    """Return an attempt from its columns, in the order of ``ATTEMPT_COLUMNS``.

    Raises:
        ValueError: The columns were not written by a ledger.
    """
    data = dict(zip(ATTEMPT_COLUMNS, values, strict=True))
    data["outcome"] = AttemptOutcome(data["outcome"]) if data["outcome"] is not None else None
    for name in ("began_at", "answered_at"):
        if data[name] is not None:
            data[name] = from_microseconds(data[name])
    return AttemptRow(**data)


def read_config(text: str | None) -> tuple[FineTuneConfig | None, str]:
    """Return a stored config, or None and why it cannot be read.

    Args:
        text: The JSON text, or None where the job has no config.
    """
    if text is None:
        return None, ""
    try:
        return FineTuneConfig(**json.loads(text)), ""
    except (TypeError, ValueError):
        return None, f"its config cannot be read by this version of crynux_async: {_why(text)}"


def _why(text: str) -> str:
    """Say what is wrong with a stored config, more slowly and in more detail than its constructor does."""
    try:
        FineTuneConfig.from_dict(json.loads(text))
    except ConfigError as error:
        return "; ".join(map(str, error.problems))
    except (TypeError, ValueError) as error:
        return f"not a JSON table of fields ({error})"
    return "it is kept as it is"
