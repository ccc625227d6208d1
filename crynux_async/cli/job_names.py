"""What jobs are called on a command line: their names or tasks, or as much of the beginning as tells them apart."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from crynux_async.errors import UsageError
from crynux_async.ledgers.base import JobFilter, JobRow

if TYPE_CHECKING:  # a list is read without a session, and is there sooner without its modules
    from crynux_async.job import Job
    from crynux_async.session import Session

_LEAST = 9  # shorter beginnings are soon those of other jobs, too
# Fewer characters would be guessed at, not meant.
_LEAST_GIVEN = 4
_NAMED = 5  # jobs that are named where a beginning is that of many


def shortest(names: Iterable[str]) -> Mapping[str, str]:
    """Return the shortest beginning of each name that no other of them has, of nine characters at least.

    Args:
        names: Different names.
    """
    ordered = sorted(names)
    # In their order, the name that has most in common with another one stands beside it.
    common = [0, *(_common(one, other) for one, other in pairwise(ordered)), 0]
    needed = (max(beside) + 1 for beside in pairwise(common))
    return {name: name[: max(_LEAST, length)] for name, length in zip(ordered, needed, strict=False)}


def shortest_tasks(task_ids: Iterable[str | None]) -> Mapping[str, str]:
    """Return shorter names of the tasks that are at a relay, whose own are 66 characters long."""
    return shortest({task_id for task_id in task_ids if task_id is not None and task_id.startswith("0x")})


def _common(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (mine, its) in pairs if mine != its), min(len(one), len(other)))


async def find_jobs(session: "Session", names: Iterable[str]) -> "list[Job]":
    """Return the jobs that are meant, whatever has become of them, each once.

    Args:
        session: Where to look; only jobs of its service are found.
        names: What the user has written.

    Raises:
        UsageError: A name is that of no job, or of several; nothing is done to any.
    """
    return list(dict.fromkeys([await _find(session, name) for name in names]))


async def _find(session: "Session", name: str) -> "Job":
    # Both: a bridge's task is a number, and a job may be called by either.
    job = await session.find(name) or await _with_task(session, name)
    if job is not None:
        return job
    rows = await _beginning(session, name)
    if len(rows) == 1:
        job = await session.find(rows[0].job_id)
    if job is None:
        raise UsageError(await _refusal(session, name, rows), field="job")
    return job


async def _with_task(session: "Session", name: str) -> "Job | None":
    try:
        return await session.find(task_id=name)
    except UsageError:  # no task of this service can be called so
        return None


async def _beginning(session: "Session", name: str) -> Sequence[JobRow]:
    """Return the jobs whose name, or whose task at a relay, begins so."""
    if len(name) < _LEAST_GIVEN:
        return []
    rows = await session.ledger.jobs(JobFilter(backend=session.service, job_id_prefix=name))
    if rows or not name.startswith("0x"):
        return rows
    every = await session.ledger.jobs(JobFilter(backend=session.service))
    # A relay's names are hex in small letters, and are pasted from wherever.
    return [row for row in every if row.task_id is not None and row.task_id.startswith(name.lower())]


async def _refusal(session: "Session", name: str, rows: Sequence[JobRow]) -> str:
    if rows:
        named = ", ".join(row.job_id for row in rows[:_NAMED])
        return f"{len(rows)} jobs begin with {name!r}: {named}{' ...' if len(rows) > _NAMED else ''}"
    elsewhere = await session.ledger.jobs(JobFilter(job_id_prefix=name), limit=1) if len(name) >= _LEAST_GIVEN else []
    if elsewhere:
        place = elsewhere[0].backend
        return f"{elsewhere[0].job_id} is a job of {place} and not of {session.service}; set CRYNUX_BASE_URL or --relay"
    return f"no job is called {name}; 'crynux-async jobs' lists them"
