"""What other programs want to know of jobs: all that the ledger has, what they cost, and what their archives are."""

import asyncio
import csv
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import attrs

from crynux_async.clock import utc_now
from crynux_async.downloads.images import images_beside
from crynux_async.errors import ArchiveError
from crynux_async.ledgers.base import JobRow, Ledger, TaskRow
from crynux_async.states import JobState
from crynux_async.values import Value

if TYPE_CHECKING:
    from crynux_async.job import Job


@attrs.frozen(kw_only=True)
class Detail(Value):
    """How much is told.

    Attributes:
        is_public: Leave out paths, hosts, addresses, credential and budget.
        reads_archives: Read every weight of every archive that is on this machine, and judge it.
    """

    is_public: bool = False
    reads_archives: bool = False


async def facts_of(
    ledger: Ledger, rows: Sequence[JobRow], detail: Detail, *, in_doubt: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return what is known of jobs as JSON values, every job with the same names in the same order.

    Args:
        ledger: Has their tasks.
        rows: The jobs.
        detail: How much is told.
        in_doubt: Which of the planned ones may have a task, because the answer to a create of them was lost.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    tasks: Mapping[str, list[TaskRow]] = defaultdict(list)
    for task in await ledger.tasks([row.job_id for row in rows]):
        tasks[task.job_id].append(task)
    return [await _facts(row, tasks[row.job_id], detail, is_in_doubt=row.job_id in in_doubt) for row in rows]


async def names_of(detail: Detail) -> list[str]:
    """Return the names of what is known of every job, in order."""
    nothing = JobRow(job_id="", backend="", key_id="", config=None, state=JobState.PLANNED, planned_at=utc_now())
    return list(await _facts(nothing, (), detail))


def write_csv(names: Sequence[str], facts: Sequence[Mapping[str, Any]], out: TextIO) -> None:
    """Write a table with a column for everything that is known; what has parts stands in it as JSON.

    Args:
        names: The names of the columns, which are told of no jobs, too: readers of tables ask for them.
        facts: The rows, each with these names.
        out: Where to.
    """
    table = csv.DictWriter(out, fieldnames=names)
    table.writeheader()
    for each in facts:
        parts = {name: json.dumps(value) for name, value in each.items() if isinstance(value, dict | list)}
        table.writerow({**each, **parts})


async def _facts(row: JobRow, tasks: Sequence[TaskRow], detail: Detail, *, is_in_doubt: bool = False) -> dict[str, Any]:
    from crynux_async.job_values import cost_of  # here: the list for people is there sooner without all events

    # Said by the ledger, and looked at here: an archive may have been moved since.
    is_there = row.path is not None and await asyncio.to_thread(Path(row.path).is_file)
    facts = {
        **row.to_dict(public=detail.is_public),
        **({} if detail.is_public else {"error": without_reason(row.error, row.reason)}),
        "cost": cost_of(tasks).to_dict(),
        "archive_is_there": is_there,
        "may_have_task": row.task_id is not None or row.state is JobState.UNCONFIRMED or is_in_doubt,
    }
    if not detail.is_public:
        beside = await asyncio.to_thread(images_beside, Path(row.path)) if row.path is not None else []
        facts["images"] = [str(path) for path in beside]
    if detail.reads_archives:
        # Beside the loop, and one after another: each is read whole.
        facts["health"] = await asyncio.to_thread(_health, row) if is_there else None
    return facts


def _health(row: JobRow) -> dict[str, Any]:
    from crynux_async.archive.lora_archive import LoraArchive  # a list that reads no archive is there sooner without it

    assert row.path is not None
    try:
        health = LoraArchive.open(row.path).health(row.config)
    except (ArchiveError, OSError) as error:
        return {"ok": False, "verdict": "", "problems": [str(error)]}
    verdict = health.strength.verdict if health.strength else ""
    return {"ok": health.ok, "verdict": verdict, "problems": [problem.message for problem in health.problems]}


def as_facts(job: "Job") -> dict[str, str | int | None]:
    """Return what a program wants to know of a job."""

    def iso(when: datetime | None) -> str | None:
        return when.isoformat() if when else None

    return {
        "job_id": job.job_id,
        "label": job.label,
        "task_id": job.task_id,
        "state": str(job.state),
        "path": str(job.path) if job.path else None,
        "error": without_reason(str(job.error), job.reason or "") if job.error else None,
        "reason": job.reason or None,
        "submitted_at": iso(job.submitted_at),
        "ended_at": iso(job.ended_at),
    }


def without_reason(error: str, reason: str) -> str:
    """Return an error's text without the reason at its end, which stands beside it."""
    return error.removesuffix(f": {reason}") if reason else error
