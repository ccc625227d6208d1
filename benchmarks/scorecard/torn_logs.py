"""Case S8: a ledger's write-ahead log that ends too early, wherever that is."""

import asyncio
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs

from benchmarks.scorecard.case import Context
from benchmarks.scorecard.worlds import config
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, JobChange, JobRow, TaskRow
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.states import JobState

JOBS = 6
ALL_SEEDS = 20
_BACKEND = "https://bridge.example"
_KEY_ID = "0123456789abcdef"
_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24


@attrs.frozen(kw_only=True)
class Commit:
    """What a ledger held when a write had returned.

    Attributes:
        log_bytes: Size of its log.
        jobs: Its jobs.
        attempts: Its attempts.
    """

    log_bytes: int
    jobs: list[JobRow]
    attempts: list[AttemptRow]


def torn_log(context: Context) -> str:
    """S8: cut the log at every frame and inside every frame, and damage what is behind the cut in other ways."""
    return asyncio.run(_torn_log(context))


async def _torn_log(context: Context) -> str:
    commits, frozen = await _write(context.folder / "jobs.db")
    log = (frozen.with_name(f"{frozen.name}-wal")).read_bytes()
    frame = _FRAME_HEADER_BYTES + int.from_bytes(log[8:12])
    frames = (len(log) - _HEADER_BYTES) // frame
    edges = [_HEADER_BYTES + number * frame for number in range(frames + 1)]
    inside = [edge + part for edge in edges[:-1] for part in (1, _FRAME_HEADER_BYTES, frame // 2, frame - 1)]
    points = sorted({0, 1, *edges, *inside})[:: max(1, ALL_SEEDS // context.seeds)]
    tails: dict[str, Callable[[int], bytes]] = {
        "cut": lambda at: log[:at],
        "zeros behind": lambda at: log[:at] + bytes(len(log) - at),
        "garbage behind": lambda at: log[:at] + b"\xa5" * (len(log) - at),
    }
    told = 0
    for name, tail in tails.items():
        for at in points:
            what = f"{name} at {at} of {len(log)}"
            expected = _last(commits, _equal_bytes(log, tail(at)))
            was_told = await _check(frozen, tail(at), expected, what)
            told += was_told
            # Zeros and garbage cannot be told from what an older log has left behind the end of a newer one.
            assert was_told or name != "cut" or at <= expected.log_bytes, f"{what}: dropped without a word"
    for commit in commits:  # a power failure: everything after a sync is gone
        await _check(frozen, log[: commit.log_bytes], commit, f"unsynced tail at {commit.log_bytes}")
    assert told, "no message ever said that something was dropped"
    return (
        f"{len(points)} places in a log of {frames} frames, {len(tails)} kinds of damage: always exactly the "
        f"{len(commits)} commits before it; said what was dropped {told} times"
    )


async def _write(path: Path) -> tuple[list[Commit], Path]:
    """Write a ledger, and return what it held after each write and a copy of its files as a crash would leave them."""
    ledger = SqliteLedger(path)
    await ledger.open()
    commits: list[Commit] = [await _commit(ledger, path)]

    async def done(write: Any) -> None:
        await write
        commits.append(await _commit(ledger, path))

    fence = await ledger.enter("me", seconds=60)
    commits.append(await _commit(ledger, path))
    for number in range(1, JOBS + 1):
        row, attempt, task_id = _job(number), _attempt(number), str(number)
        await done(ledger.add([row], fence=fence))
        await done(ledger.begin(fence, attempt))
        at = _NOON + timedelta(seconds=number)
        finished = attrs.evolve(attempt, answered_at=at, outcome=AttemptOutcome.ACCEPTED, task_id=task_id)
        columns = {"state": JobState.RUNNING, "task_id": task_id}
        task = TaskRow(job_id=row.job_id, try_number=1, backend=row.backend, task_id=task_id, made_at=at)
        change = JobChange(job_id=row.job_id, columns=columns, finished=finished, tasks=(task,))
        await done(ledger.change(fence, [change]))
    frozen = path.with_name("frozen.db")
    shutil.copy(path, frozen)
    shutil.copy(path.with_name(f"{path.name}-wal"), frozen.with_name(f"{frozen.name}-wal"))
    await ledger.close()
    return commits, frozen


async def _commit(ledger: SqliteLedger, path: Path) -> Commit:
    log = path.with_name(f"{path.name}-wal")
    size = await asyncio.to_thread(lambda: log.stat().st_size if log.exists() else 0)
    return Commit(log_bytes=size, jobs=await ledger.jobs(), attempts=await ledger.attempts())


def _equal_bytes(log: bytes, damaged: bytes) -> int:
    """Return how many bytes are as they were: a zero that is written over a zero damages nothing."""
    pairs = zip(log, damaged, strict=False)
    return next((index for index, (was, now) in enumerate(pairs) if was != now), min(len(log), len(damaged)))


def _last(commits: list[Commit], at: int) -> Commit:
    return [commit for commit in commits if commit.log_bytes <= at or commit is commits[0]][-1]


async def _check(frozen: Path, log: bytes, expected: Commit, what: str) -> bool:
    """Open a copy with this log, compare, and return whether the ledger said that it dropped something."""
    copy = frozen.with_name("copy.db")
    for ending in ("", "-wal", "-shm"):
        copy.with_name(copy.name + ending).unlink(missing_ok=True)
    shutil.copy(frozen, copy)
    copy.with_name(f"{copy.name}-wal").write_bytes(log)
    ledger = SqliteLedger(copy)
    await ledger.open()
    try:
        jobs, attempts = await ledger.jobs(), await ledger.attempts()
        assert jobs == expected.jobs, f"{what}: {len(jobs)} jobs, not {len(expected.jobs)}"
        assert attempts == expected.attempts, f"{what}: {len(attempts)} attempts, not {len(expected.attempts)}"
        await ledger.add([_job(JOBS + 1)])  # it can be used
        return bool(ledger.dropped)
    finally:
        await ledger.close()


def _job(number: int) -> JobRow:
    made = config(number)
    return JobRow(
        job_id=f"j{number:012}",
        backend=_BACKEND,
        key_id=_KEY_ID,
        config=made,
        digest=made.digest(),
        label="",
        task_id=None,
        state=JobState.PLANNED,
        planned_at=_NOON,
    )


def _attempt(number: int) -> AttemptRow:
    return AttemptRow(job_id=f"j{number:012}", number=1, backend=_BACKEND, key_id=_KEY_ID, began_at=_NOON)
