"""Records as rows of a ledger, and back: what the last process knew, and what follows from how it ended."""

from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from crynux_async.budgets import Budget
from crynux_async.ledgers.base import JobRow, TaskRow
from crynux_async.states import FOLLOWED, STAGES, JobState, Stage
from crynux_async.supervision.cut_off import CUT_OFF
from crynux_async.supervision.filing import filed
from crynux_async.supervision.record import OnlookerRecord, Record, StoredArchive, Wanted
from crynux_async.supervision.stored_errors import columns_of_error, error_of
from crynux_async.training.keeping import as_kept, field_of
from crynux_async.values import Value

NO_TASK = "it was accepted, and its task id was never stored; the task exists and may be found with reconcile()"


def new_row(record: Record, *, backend: str, key_id: str) -> JobRow:
    """Return the row of a record that the ledger does not have yet.

    Args:
        record: The job.
        backend: Which service it belongs to.
        key_id: Fingerprint of the credential; a task that was attached is not known to belong to it.
    """
    kept, filing = record.kept_config, record.filing
    has_key = record.idempotency_key is not None
    return JobRow(
        job_id=record.job_id,
        backend=backend,
        key_id=key_id if kept is not None else "",
        config=kept,
        is_seed_drawn=kept is not None and field_of(kept, "seed_was_drawn"),
        label=record.label,
        group=filing.group,
        tags=filing.tags,
        tenant=filing.tenant,
        idempotency_key=record.idempotency_key,
        budget=filing.budget.name if filing.budget is not None else "",
        # A job with a name of its own can be told from any other, so that whoever stands for it may go on with it.
        is_sent_by_any=has_key,
        last_event=record.last_event,
        planned_at=record.planned_at,
        **columns_of(record),
    )


@attrs.frozen(kw_only=True)
class TaskEnd(Value):
    """How a task ended, as far as the service tells.

    Attributes:
        task_id: The task.
        at: When that was noticed.
        word: What was seen, such as "succeeded".
        reason: Why, or "".
        spent: What it did cost, in wei, or None where that is not known.
        is_open: Whether the service may still give something back by itself, so that the cost is entered later.
    """

    task_id: str
    at: datetime
    word: str
    reason: str = ""
    spent: int | None = None
    is_open: bool = False

    def entered_in(self, row: TaskRow) -> TaskRow:
        """Return the row of the task with its end."""
        return attrs.evolve(row, ended_at=self.at, end=self.word, reason=self.reason, spent=self.spent)


def attached_task(row: JobRow) -> TaskRow:
    """Return the task of a job that was attached to it."""
    assert row.task_id is not None
    return TaskRow(
        job_id=row.job_id,
        try_number=row.tries,
        backend=row.backend,
        task_id=row.task_id,
        made_at=row.submitted_at or row.planned_at,
    )


def columns_of(record: Record) -> dict[str, Any]:
    """Return every column that can have changed since a job was planned.

    They go together: a state that says that a task exists is never stored without the task's id (issue of a lock that
    lasted longer than the write of an answer: the next process could neither follow nor find that task).
    """
    wanted, seldom = record.wanted, record.seldom
    archive = seldom.archive
    return {
        "state": record.state,
        "task_id": record.task_id,
        "submitted_at": record.submitted_at,
        "ended_at": seldom.ended_at,
        **columns_of_error(seldom.error),
        "reason": record.reason,
        "folder": str(wanted.folder) if wanted else None,
        "file_name": wanted.name if wanted else None,
        "path": str(archive.path) if archive else None,
        "total_bytes": archive.total_bytes if archive else None,
        "host": archive.host if archive else "",
        "resubmitted_as": seldom.resubmitted_as,
    }


def record_from_row(row: JobRow, *, is_ours: bool, is_cut_off: bool = False) -> Record:
    """Return the record that a row tells of.

    Args:
        row: The job.
        is_ours: Whether this session holds its lease.
        is_cut_off: As for ``restore``.
    """
    record = (Record if is_ours else OnlookerRecord)(
        job_id=row.job_id,
        config=row.given_config,
        label=row.label,
        filing=filed(
            group=row.group,
            tags=row.tags,
            tenant=row.tenant,
            budget=Budget(row.budget) if row.budget else None,
        ),
        idempotency_key=row.idempotency_key,
        planned_at=row.planned_at,
        is_ours=is_ours,
        is_saved=True,
        is_resumed=True,
    )
    restore(record, row, is_cut_off=is_cut_off)
    return record


def restore(record: Record, row: JobRow, *, is_cut_off: bool = False) -> None:
    """Bring a record up to date with its row: everything that ``columns_of`` writes, and the config.

    A planned job whose create was cut off by the end of its process, and one that runs and whose task was never stored,
    are UNCONFIRMED.

    Args:
        record: The record.
        row: Its row.
        is_cut_off: Whether a create of the job has an unknown outcome.
    """
    state, error = _believed(row, is_cut_off=is_cut_off)
    kept = as_kept(row.given_config)
    # A later try may have more time. What is kept of both is one object where the record was just made of the row.
    if kept is not None and kept is not record.kept_config and row.config != record.config:
        record.kept_config = kept
    # That of a planned job, too: it was set aside, and waits for somebody who asks for it again.
    record.state, record.error = state, error_of(state, error, row)
    # What was answered here after the job was lost is known before its owner has heard of it.
    record.task_id = row.task_id or (record.task_id if record.tries == row.tries else None)
    record.submitted_at, record.ended_at = row.submitted_at, row.ended_at
    record.tries = row.tries
    record.last_event = row.last_event
    wanted = Wanted(folder=Path(row.folder), name=row.file_name) if row.folder and row.file_name else None
    # An onlooker that waits to fetch the model itself is known as such here alone, until it has taken the job.
    record.wanted = wanted or (None if record.is_ours else record.wanted)
    record.archive = (
        StoredArchive(path=Path(row.path), total_bytes=row.total_bytes, host=row.host) if row.path else None
    )
    record.resubmitted_as = row.resubmitted_as


def _believed(row: JobRow, *, is_cut_off: bool) -> tuple[JobState, str]:
    # Written by versions whose second write overtook the first; an onlooker must not poll what has no name.
    if row.state in FOLLOWED and row.task_id is None:
        return JobState.UNCONFIRMED, NO_TASK
    if STAGES[row.state] is Stage.SUBMIT and is_cut_off:
        return JobState.UNCONFIRMED, CUT_OFF
    return row.state, row.error
