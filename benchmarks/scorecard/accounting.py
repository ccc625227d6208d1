"""What "nothing is lost" means, checked after every fault: five sentences about a bridge, a ledger and a disk.

N1. Every task that the bridge made is recorded in the ledger, or lies in the bracket of a submission that the ledger
    lists as ambiguous; and no bracket explains more than one task.
N2. Planned = accepted + rejected + not sent + ambiguous, each job in exactly one class.
N3. No try of a job has more than one POST that could have been paid; only the user can ask for another try.
N4. A file under its final name is complete (size and zip CRC) and comes from one version.
N5. Once a task id was returned to a caller, the ledger has it.
"""

import hashlib
import math
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from enum import StrEnum
from pathlib import Path

import attrs

from crynux_async.emulator import JournalEntry
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, JobRow, Ledger, Neighbours
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.states import JobState
from crynux_async.supervision.doubt import lost_attempt

Bracket = tuple[int | None, int | None]

_PAYABLE = frozenset({None, AttemptOutcome.UNKNOWN, AttemptOutcome.ACCEPTED})


class JobClass(StrEnum):
    """What became of a planned job, as far as money is concerned."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    NOT_SENT = "not sent"
    AMBIGUOUS = "ambiguous"


@attrs.frozen(kw_only=True)
class Remembered:
    """Everything that a ledger says about money.

    Attributes:
        jobs: All of its jobs.
        attempts: All of its attempts, in the order in which they were begun.
        lost: For each job without a task whose create has an unknown outcome, what was made before and after it.
        given_up: The same for each create of unknown outcome after which the user had its job sent again.
    """

    jobs: Sequence[JobRow]
    attempts: Sequence[AttemptRow]
    lost: Mapping[str, Neighbours]
    given_up: Mapping[str, Neighbours]

    @property
    def brackets(self) -> dict[str, Bracket]:
        """For each job in ``lost``, between which numbers its task must lie."""
        return {job_id: _bracket(around) for job_id, around in self.lost.items()}

    @property
    def given_up_brackets(self) -> dict[str, Bracket]:
        """For each create in ``given_up``, between which numbers its task must lie."""
        return {name: _bracket(around) for name, around in self.given_up.items()}


async def remember(ledger: Ledger) -> Remembered:
    """Return what an open ledger says."""
    jobs, attempts = await ledger.jobs(), await ledger.attempts()
    by_job = _by_job(attempts)
    around, given_up = {}, {}
    for job in jobs:
        begun = by_job.get(job.job_id, ())
        lost = lost_attempt(begun, job.tries) if job.task_id is None else None
        if lost is not None:
            around[job.job_id] = await ledger.neighbours(lost)
        for number in range(1, job.tries):
            earlier = lost_attempt(begun, number)
            if earlier is not None:
                given_up[f"{job.job_id} try {number}"] = await ledger.neighbours(earlier)
    return Remembered(jobs=jobs, attempts=attempts, lost=around, given_up=given_up)


async def remember_file(path: Path) -> Remembered:
    """Return what a ledger's file says that no process uses any more."""
    ledger = SqliteLedger(path)
    await ledger.open()
    try:
        return await remember(ledger)
    finally:
        await ledger.close()


def check_nothing_lost(
    journal: Iterable[JournalEntry],
    jobs: Sequence[JobRow],
    attempts: Sequence[AttemptRow],
    posts: Sized,
    *,
    brackets: Mapping[str, Bracket],
    told: Iterable[str] = (),
    finals: Mapping[Path, str] | None = None,
) -> Counter[JobClass]:
    """Check N1 to N5, and return how many jobs are in which class.

    Args:
        journal: What the bridge gave away, the same key's only; the judge.
        jobs: The ledger's jobs.
        attempts: The ledger's attempts.
        posts: The creates that arrived at the bridge, refused ones included.
        brackets: As ``Remembered`` has them.
        told: Every task id that a caller was given.
        finals: Every file under a final name, with the SHA-256 (hex) of the one version that it may have.

    Raises:
        AssertionError: Something is lost, or paid twice.
    """
    created = [entry for entry in journal if entry.accepted]
    by_job = _by_job(attempts)
    classes = {job.job_id: _class_of(job, by_job.get(job.job_id, ())) for job in jobs}
    recorded = _numbers(jobs) | {int(attempt.task_id) for attempt in attempts if attempt.task_id is not None}
    _check_recorded(created, recorded, brackets)
    _check_paid_once(created, jobs, by_job, posts)
    for path, digest in (finals or {}).items():
        _check_final(path, digest, jobs)
    missing = set(map(int, told)) - recorded
    assert not missing, f"N5: tasks {sorted(missing)} were told to callers, and the ledger does not have them"
    return Counter(classes.values())


def _bracket(around: Neighbours) -> Bracket:
    return max(map(int, around.before), default=None), min(map(int, around.after), default=None)


def _numbers(jobs: Iterable[JobRow]) -> set[int]:
    """Return the bridge's numbers of the tasks of jobs."""
    return {int(job.task_id) for job in jobs if job.task_id is not None}


def _by_job(attempts: Iterable[AttemptRow]) -> dict[str, list[AttemptRow]]:
    found: dict[str, list[AttemptRow]] = {}
    for attempt in attempts:
        found.setdefault(attempt.job_id, []).append(attempt)
    return found


def _check_recorded(created: Sequence[JournalEntry], recorded: set[int], brackets: Mapping[str, Bracket]) -> None:
    """N1: every task is a job's, or has an ambiguous submission of its own whose bracket it lies in."""
    free = [(after or 0, math.inf if before is None else before) for after, before in brackets.values()]
    for task_id in sorted(entry.task_id for entry in created if entry.task_id not in recorded):
        # The bracket that ends first is the one that later tasks can use least: no better assignment exists.
        around = min((span for span in free if span[0] < task_id < span[1]), key=lambda span: span[1], default=None)
        assert around is not None, f"N1: task {task_id} is in no job and in no bracket of {dict(brackets)}"
        free.remove(around)


def _class_of(job: JobRow, attempts: Sequence[AttemptRow]) -> JobClass:
    """N2: return the one class that a job is in."""
    is_lost = job.task_id is None and lost_attempt(attempts, job.tries) is not None
    fits = {
        JobClass.ACCEPTED: job.task_id is not None,
        JobClass.REJECTED: job.state is JobState.REJECTED,
        JobClass.AMBIGUOUS: job.state is JobState.UNCONFIRMED or is_lost,
        JobClass.NOT_SENT: not is_lost
        and (job.state is JobState.PLANNED or (job.state is JobState.ABANDONED and job.task_id is None)),
    }
    found = [name for name, is_in in fits.items() if is_in]
    assert len(found) == 1, f"N2: job {job.job_id} ({job.state}, task {job.task_id}) is {found or 'in no class'}"
    of_try = [attempt for attempt in attempts if attempt.try_number == job.tries]
    made = {attempt.task_id for attempt in of_try if attempt.outcome is AttemptOutcome.ACCEPTED}
    assert made <= {job.task_id}, f"N2: job {job.job_id} has task {job.task_id}, its attempts say {made}"
    return found[0]


def _check_paid_once(
    created: Iterable[JournalEntry],
    jobs: Sequence[JobRow],
    by_job: Mapping[str, Sequence[AttemptRow]],
    posts: Sized,
) -> None:
    """N3, by what the ledger began, by what arrived, and by what the bridge made of it."""
    for job_id, made in by_job.items():
        payable = Counter(attempt.try_number for attempt in made if attempt.outcome in _PAYABLE)
        assert set(payable.values()) <= {1}, f"N3: job {job_id} has creates that could have been paid: {payable}"
    begun = sum(map(len, by_job.values()))
    assert len(posts) <= begun, f"N3: {len(posts)} creates arrived and {begun} were begun"
    # An attached task has no config, and none of our creates made it.
    planned: Counter[tuple[str, int | None]] = Counter()
    for job in jobs:
        if job.config is not None:
            planned[job.config.model_name, job.config.seed] += job.tries
    attached = _numbers(job for job in jobs if job.config is None)
    made_of = Counter((entry.model_name, entry.seed) for entry in created if entry.task_id not in attached)
    for config, count in made_of.items():
        assert count <= planned[config], f"N3: {count} tasks for {planned[config]} jobs with seed {config[1]}"


def _check_final(path: Path, digest: str, jobs: Iterable[JobRow]) -> None:
    """N4: a file under its final name is whole, and of one version."""
    sizes = {job.total_bytes for job in jobs if job.path == str(path)}
    assert sizes <= {None, path.stat().st_size}, f"N4: {path} has {path.stat().st_size} bytes, not {sizes}"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None, f"N4: {path} is damaged"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    assert found == digest, f"N4: {path} is not the version that it should be"
