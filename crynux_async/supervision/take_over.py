"""From rows of a ledger back to jobs: what the last process knew, and what can be concluded from how it ended."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import attrs

from crynux_async.errors import (
    CrynuxError,
    JobAbandonedError,
    JobExpiredError,
    JobFailedError,
    RejectedError,
    SubmissionUnknownError,
)
from crynux_async.job import Job, JobKeeper
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, JobRow
from crynux_async.states import JobState

UNFINISHED = frozenset({JobState.PLANNED, JobState.UNCONFIRMED, JobState.RUNNING, JobState.STALLED, JobState.SUCCEEDED})
"""States whose jobs a new session takes over."""

CUT_OFF = "the process ended while the create was under way; the task may exist and is not sent again by itself"

_ERRORS: Mapping[JobState, type[CrynuxError]] = {
    JobState.UNCONFIRMED: SubmissionUnknownError,
    JobState.REJECTED: RejectedError,
    JobState.FAILED: JobFailedError,
    JobState.EXPIRED: JobExpiredError,
    JobState.ABANDONED: JobAbandonedError,
}


@attrs.frozen(kw_only=True)
class Unconfirmed:
    """A create whose outcome is not known, and where its task must be if there is one.

    Attributes:
        job: The job.
        began_at: When the create was begun, aware UTC.
        digest: The config's digest.
        after: The task has a larger number than this, or None where that is not known.
        before: The task has a smaller number than this, or None where that is not known yet.
    """

    job: Job
    began_at: datetime
    digest: str
    after: int | None
    before: int | None

    @property
    def candidates(self) -> range | None:
        """The numbers that the task can have, or None where they are not bounded on both sides."""
        if self.after is None or self.before is None:
            return None
        return range(self.after + 1, self.before)


def job_from_row(row: JobRow, attempts: Iterable[AttemptRow], keeper: JobKeeper) -> Job:
    """Return the job that a row tells of.

    A planned job with an attempt of unknown outcome was cut off by the end of its process: it is UNCONFIRMED.
    """
    made = list(attempts)
    state, error = row.state, row.error
    if state is JobState.PLANNED and lost_attempt(made) is not None:
        state, error = JobState.UNCONFIRMED, CUT_OFF
    return Job(
        job_id=row.job_id,
        config=row.config,
        label=row.label,
        task_id=row.task_id,
        state=state,
        error=_error(state, error, row),
        path=Path(row.path) if row.path else None,
        total_bytes=row.total_bytes,
        planned_at=row.planned_at,
        submitted_at=row.submitted_at,
        ended_at=row.ended_at,
        wanted=(Path(row.folder), row.file_name) if row.folder is not None and row.file_name else None,
        resubmitted_as=row.resubmitted_as,
        attempts=max((attempt.number for attempt in made), default=0),
        is_saved=True,
        is_resumed=True,
        keeper=keeper,
    )


def lost_attempt(attempts: Iterable[AttemptRow]) -> AttemptRow | None:
    """Return the last attempt whose outcome is not known, or None."""
    unknown = [attempt for attempt in attempts if attempt.outcome in (None, AttemptOutcome.UNKNOWN)]
    return max(unknown, key=lambda attempt: attempt.number) if unknown else None


def _error(state: JobState, text: str, row: JobRow) -> CrynuxError | None:
    cls = _ERRORS.get(state)
    if cls is None or not text:
        return None
    return cls(text, job_id=row.job_id, task_id=row.task_id)
