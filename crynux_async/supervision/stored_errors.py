"""Errors as a ledger keeps them, and back: their words, the name of their class, and their own attributes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs

from crynux_async import errors
from crynux_async.errors import (
    CrynuxError,
    JobAbandonedError,
    JobError,
    JobExpiredError,
    JobFailedError,
    Problem,
    RejectedError,
    SubmissionUnknownError,
    rebuilt,
)
from crynux_async.ledgers.base import JobRow
from crynux_async.states import JobState

_OF_THE_ROW = frozenset({"job_id", "task_id", "reason"})

_OF_A_PROBLEM = frozenset(attrs.fields_dict(Problem))

_LONGEST = 4096  # characters: an answer may have 64 KiB, and a page of jobs is read whole

# One for all jobs, and the row's own: a hundred thousand empty tables are 6 MB, and what is usual is not checked.
_NO_ERROR: Mapping[str, Any] = MappingProxyType({"error": "", "error_facts": attrs.fields(JobRow).error_facts.default})

_ERRORS: Mapping[JobState, type[CrynuxError]] = {
    JobState.UNCONFIRMED: SubmissionUnknownError,
    JobState.REJECTED: RejectedError,
    JobState.FAILED: JobFailedError,
    JobState.EXPIRED: JobExpiredError,
    JobState.ABANDONED: JobAbandonedError,
}


def columns_of_error(error: CrynuxError | None) -> Mapping[str, Any]:
    """Return what the row of a job keeps of an error, or of there being none."""
    if error is None:
        return _NO_ERROR
    own = {name: _stored(value) for name, value in vars(error).items() if name not in _OF_THE_ROW}
    return {"error": str(error), "error_facts": {"kind": type(error).__name__, **own}}


def error_of(state: JobState, text: str, row: JobRow) -> CrynuxError | None:
    """Return the error that a row tells of, or None where a job in this state has none that concerns others.

    Args:
        state: What is believed of the job.
        text: The words of the error, or "".
        row: The row.
    """
    # Exceptions are made anew from what is stored: pickles in a ledger would run code.
    usual = CrynuxError if state is JobState.PLANNED else _ERRORS.get(state)
    if usual is None or not text:
        return None
    own = {name: _read(name, value) for name, value in row.error_facts.items() if name != "kind"}
    cls = getattr(errors, str(row.error_facts.get("kind")), None)
    if row.state is state and isinstance(cls, type) and issubclass(cls, CrynuxError):
        error = rebuilt(cls, (text,), {**own, "job_id": row.job_id, "task_id": row.task_id})
    else:
        error = usual(text, job_id=row.job_id, task_id=row.task_id)
    if isinstance(error, JobError):
        error.reason = row.reason
    return error


def _stored(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_LONGEST].encode("utf-8", "replace").decode()  # half a character cannot be stored
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Problem):
        return attrs.asdict(value)
    if isinstance(value, Mapping):
        return {str(name): _stored(each) for name, each in value.items()}
    return [_stored(each) for each in value] if isinstance(value, Sequence) else str(value)


def _read(name: str, value: Any) -> Any:
    if name == "problems":
        return tuple(_problem(each) for each in (value if isinstance(value, list) else [value]))
    return tuple(value) if isinstance(value, list) else value


def _problem(value: Any) -> Problem:
    # Rows of a later version are read as far as they can be: one of them must not keep a whole listing from its reader.
    stored = value if isinstance(value, Mapping) else {"message": value}
    known = {name: str(each) for name, each in stored.items() if name in _OF_A_PROBLEM}
    return Problem(**{"field": "", "message": "", **known})
