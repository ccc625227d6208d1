"""What it costs to remember jobs so that nothing is lost: ``python -m benchmarks.ledger``.

A pair is what one create costs: the attempt is begun before its first byte is sent, and finished together with its job
when the answer is there; both are durable before anything else happens. A whole pair stores the new task and an event
as well, as sessions do. The peer is the standard library's ``sqlite3`` with the same statements and settings, which
commits every write by itself and blocks meanwhile.
"""

import argparse
import asyncio
import sqlite3
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from benchmarks import onlookers
from benchmarks.reporting import finish, show_table
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, EventRow, Fence, JobChange, JobRow, Ledger, TaskRow
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.session import Session
from crynux_async.settings import Settings
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig

REPEATS = 3
PAIRS = 384
CALLERS = (1, 8, 64)
SIZES = (1_000, 10_000)
MEMORY_JOBS = 100_000
EVENTS = 40  # for each of the most callers
BACKEND = "https://bridge.example"
KEY_ID = "0123456789abcdef"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3600.0


def make_job(number: int) -> JobRow:
    """Return one point of a sweep."""
    config = FineTuneConfig(
        model_name="crynux-ai/stable-diffusion-v1-5",
        dataset_url="https://data.example/pictures.zip",
        max_train_steps=1000 + number,
        seed=1 + number,
    )
    return JobRow(
        job_id=f"{number:026x}",
        backend=BACKEND,
        key_id=KEY_ID,
        config=config,
        digest=f"{number:064x}",
        label=f"trial {number}",
        state=JobState.PLANNED,
        planned_at=NOW,
    )


def make_attempt(job: JobRow) -> AttemptRow:
    """Return the first create of a job."""
    return AttemptRow(job_id=job.job_id, number=1, backend=BACKEND, key_id=KEY_ID, began_at=NOW)


def make_event(job: JobRow, number: int) -> EventRow:
    """Return one event of a job."""
    return EventRow(job_id=job.job_id, number=number, at=NOW, kind="StateChanged", data={"state": "running"})


async def live(ledger: Ledger, fence: Fence, number: int, job: JobRow, *, is_whole: bool) -> None:
    """Do what one create asks of a ledger."""
    attempt, task_id = make_attempt(job), str(number + 1)
    await ledger.begin(fence, attempt)
    done = attrs.evolve(attempt, answered_at=NOW, outcome=AttemptOutcome.ACCEPTED, task_id=task_id, status=200)
    columns = {"state": JobState.RUNNING, "task_id": task_id, "submitted_at": NOW}
    change = JobChange(job_id=job.job_id, columns=columns, finished=done)
    if is_whole:
        task = TaskRow(job_id=job.job_id, try_number=1, backend=BACKEND, task_id=task_id, made_at=NOW)
        columns["last_event"] = 1
        change = attrs.evolve(change, tasks=[task], events=[make_event(job, 1)])
    assert not await ledger.change(fence, [change])


async def pairs_per_second(ledger: Ledger, callers: int, *, is_whole: bool = False) -> float:
    """Return how many begin and finish pairs a ledger takes from so many callers at once."""
    jobs = [make_job(number) for number in range(PAIRS)]
    await ledger.open()
    fence = await ledger.enter("me", seconds=HOUR)
    await ledger.add(jobs, fence=fence)
    waiting = iter(enumerate(jobs))

    async def caller() -> None:
        for number, job in waiting:
            await live(ledger, fence, number, job, is_whole=is_whole)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    seconds = time.perf_counter() - started
    await ledger.close()
    return PAIRS / seconds


def raw_pairs_per_second(path: Path) -> float:
    """Return how many pairs ``sqlite3`` takes with the ledger's tables and settings, a commit for every write."""

    async def prepare() -> None:
        ledger = SqliteLedger(path)
        await ledger.open()
        await ledger.add([make_job(number) for number in range(PAIRS)])
        await ledger.close()

    asyncio.run(prepare())
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    begin = (
        "INSERT INTO attempts (job_id, number, backend, key_id, began_at, try_number, payload, answer) "
        "VALUES (?, 1, ?, ?, ?, 1, '', '')"
    )
    change = "UPDATE jobs SET state='running', task_id=?, submitted_at=? WHERE job_id=?"
    end = (
        "UPDATE attempts SET answered_at=?, outcome='accepted', task_id=?, status=200, "
        "last_begun=(SELECT max(id) FROM attempts) WHERE job_id=? AND number=1"
    )
    started = time.perf_counter()
    for number in range(PAIRS):
        name, task_id = f"{number:026x}", str(number + 1)
        connection.execute(begin, (name, BACKEND, KEY_ID, 0))
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(change, (task_id, 0, name))
        connection.execute(end, (0, task_id, name))
        connection.execute("COMMIT")
    seconds = time.perf_counter() - started
    connection.close()
    return PAIRS / seconds


@contextmanager
def stopwatch(times: dict[str, float], name: str) -> Iterator[None]:
    """Keep how many seconds the block takes."""
    started = time.perf_counter()
    yield
    times[name] = time.perf_counter() - started


async def large_ledger(path: Path, size: int) -> dict[str, float]:
    """Return the seconds that each step takes with a ledger of so many running jobs, and the bytes of its file."""
    times: dict[str, float] = {}
    jobs = [attrs.evolve(make_job(number), state=JobState.RUNNING, task_id=str(number + 1)) for number in range(size)]
    states = [JobState.RUNNING]
    ledger = SqliteLedger(path)
    await ledger.open()
    gone = await ledger.enter("gone", seconds=-1.0)
    with stopwatch(times, "add"):
        await ledger.add(jobs, fence=gone)
    await ledger.close()
    times["bytes"] = _size(path)
    with stopwatch(times, "open"):
        await ledger.open()
    me, other = [await ledger.enter(owner, seconds=HOUR) for owner in ("me", "other")]
    with stopwatch(times, "list"):
        assert len(await ledger.jobs()) == size
    with stopwatch(times, "claim"):
        assert len(await ledger.claim(me, backend=BACKEND, states=states)) == size
    with stopwatch(times, "claim in vain"):
        assert not await ledger.claim(other, backend=BACKEND, states=states)
    with stopwatch(times, "renew"):
        assert await ledger.renew(me, seconds=HOUR) == size
    with stopwatch(times, "look for wishes"):
        assert not await ledger.wishes(me)
    with stopwatch(times, "leave"):
        await ledger.leave(me)
    with stopwatch(times, "close"):
        await ledger.close()
    settings = Settings(base_url=BACKEND, api_key="k" * 44)
    backend = onlookers.OutOfReach(settings)
    session = Session(settings, ledger=path, backend=backend)
    with stopwatch(times, "resume"):  # all of it, until every job is followed
        await session.open()
    assert len(session.jobs(JobState.RUNNING)) == size
    await session.close()
    await backend.close()
    return times


def _size(path: Path) -> int:
    return path.stat().st_size


async def events_per_second(path: Path) -> dict[str, float]:
    """Return how many events a second many callers write, and another instance on the same file hears and reads."""
    jobs = [make_job(number) for number in range(CALLERS[-1])]
    async with AsyncExitStack() as stack:
        writer, reader = SqliteLedger(path), SqliteLedger(path)
        for ledger in (writer, reader):
            await ledger.open()
            stack.push_async_callback(ledger.close)
        fence = await writer.enter("me", seconds=HOUR)
        await writer.add(jobs, fence=fence)
        started = time.perf_counter()

        async def write(job: JobRow) -> None:
            for number in range(1, EVENTS + 1):
                columns = {"last_event": number}
                change = JobChange(job_id=job.job_id, columns=columns, events=[make_event(job, number)])
                assert not await writer.change(fence, [change])

        async def write_all() -> float:
            await asyncio.gather(*map(write, jobs))
            return time.perf_counter() - started

        async def hear_all() -> float:
            heard, since = dict.fromkeys((job.job_id for job in jobs), 0), 0
            while min(heard.values()) < EVENTS:
                since = await reader.changed(since)
                for name in heard:
                    heard[name] += len(await reader.events(name, after=heard[name]))
            return time.perf_counter() - started

        written, heard = await asyncio.gather(write_all(), hear_all())
    total = len(jobs) * EVENTS
    return {"written": total / written, "heard": total / heard}


async def _fill_memory() -> MemoryLedger:
    ledger = MemoryLedger()
    fence = await ledger.enter("me", seconds=HOUR)
    shared = make_job(0)
    for number in range(MEMORY_JOBS):
        job = attrs.evolve(shared, job_id=f"{number:026x}")
        await ledger.add([job], fence=fence)
        await live(ledger, fence, number, job, is_whole=False)
    return ledger


def memory_bytes_per_job() -> float:
    """Return how many bytes ``MemoryLedger`` takes for a running job with its attempt, but without the config."""
    tracemalloc.start()
    ledger = asyncio.run(_fill_memory())
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(MEMORY_JOBS) in repr(ledger)
    return used / MEMORY_JOBS


def measure_pairs(folder: Path) -> dict[str, list[float]]:
    """Return pairs per second for each number of callers, the median of some runs taken in turn."""
    runs: dict[str, list[list[float]]] = {"memory": [], "sqlite": [], "sqlite whole": [], "sqlite3": []}
    for repeat in range(REPEATS):
        runs["memory"].append([asyncio.run(pairs_per_second(MemoryLedger(), callers)) for callers in CALLERS])
        for name, is_whole in (("sqlite", False), ("sqlite whole", True)):
            files = {callers: folder / f"{repeat}-{name}-{callers}.db" for callers in CALLERS}
            runs[name].append(
                [
                    asyncio.run(pairs_per_second(SqliteLedger(files[callers]), callers, is_whole=is_whole))
                    for callers in CALLERS
                ]
            )
        runs["sqlite3"].append([raw_pairs_per_second(folder / f"{repeat}-raw.db")] * len(CALLERS))
    return {name: [median(column) for column in zip(*rows, strict=True)] for name, rows in runs.items()}


def measure_sizes(folder: Path) -> dict[int, dict[str, float]]:
    """Return the median times for each size of ledger."""
    found: dict[int, dict[str, float]] = {}
    for size in SIZES:
        runs = [asyncio.run(large_ledger(folder / f"{size}-{repeat}.db", size)) for repeat in range(REPEATS)]
        found[size] = {name: median(run[name] for run in runs) for name in runs[0]}
    return found


def measure_events(folder: Path) -> dict[str, float]:
    """Return what events cost, the median of some runs."""
    runs = [asyncio.run(events_per_second(folder / f"{repeat}-events.db")) for repeat in range(REPEATS)]
    found = {name: median(run[name] for run in runs) for name in runs[0]}
    return {**found, "listening": onlookers.waiting_seconds_per_hour(folder)}


def show_pairs(pairs: dict[str, list[float]]) -> None:
    """Print what durability costs."""
    names = {
        "memory": "MemoryLedger",
        "sqlite": "SqliteLedger",
        "sqlite whole": "SqliteLedger, whole pairs",
        "sqlite3": "sqlite3, a commit per write",
    }
    rows = [
        (names[name], callers, pairs[name][index], 1000 / pairs[name][index], pairs[name][index] / pairs["sqlite3"][0])
        for name in names
        for index, callers in enumerate(CALLERS if name != "sqlite3" else CALLERS[:1])
    ]
    columns = ("ledger", "callers", "pairs/s", "ms/pair", "ratio to sqlite3")
    show_table(f"Begin and finish of {PAIRS} creates, median of {REPEATS}", columns, rows)


def show_sizes(sizes: dict[int, dict[str, float]]) -> None:
    """Print what a large ledger costs."""
    steps: Sequence[str] = [step for step in sizes[SIZES[0]] if step != "bytes"]
    small, large = (sizes[size] for size in SIZES)
    rows: list[tuple[Any, ...]] = [
        (step, 1000 * small[step], 1000 * large[step], 1000 * large[step] / SIZES[1], large[step] / small[step])
        for step in steps
    ]
    columns = ("step", f"ms of {SIZES[0]:,} jobs", f"ms of {SIZES[1]:,} jobs", "ms/job", "ratio")
    show_table(f"A ledger of {SIZES[0]:,} and of {SIZES[1]:,} running jobs, median of {REPEATS}", columns, rows)


def show_events(events: dict[str, float]) -> None:
    """Print what it costs to be heard."""
    rows = [
        (f"events/s written by {CALLERS[-1]} callers", events["written"]),
        ("events/s heard and read by another instance", events["heard"]),
        ("seconds of a processor for an hour of a session that waits", events["listening"]),
    ]
    show_table(f"Events of one SQLite file, median of {REPEATS}", ("figure", "value"), rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__)
    parser.add_argument("--postgres", action="store_true", help="a ledger in PostgreSQL, against procrastinate")
    if parser.parse_args().postgres:
        from benchmarks import ledger_postgres

        ledger_postgres.run()
    else:
        run()


def run() -> None:
    """Measure ledgers of one machine."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-") as folder:
        pairs = measure_pairs(Path(folder))
        sizes = measure_sizes(Path(folder))
        events = measure_events(Path(folder))
        handle = onlookers.bytes_per_handle(Path(folder))
    memory = memory_bytes_per_job()
    show_pairs(pairs)
    show_sizes(sizes)
    show_events(events)
    file_bytes = [(f"{size:,}", sizes[size]["bytes"], sizes[size]["bytes"] / size) for size in SIZES]
    show_table("Size of the file", ("jobs", "bytes", "bytes/job"), file_bytes)
    show_table(
        "Memory of MemoryLedger, a job and its attempt, without the config",
        ("jobs", "bytes/job"),
        [(f"{MEMORY_JOBS:,}", memory)],
    )
    show_table(
        "Memory of handles on another's jobs that wait, with the config",
        ("handles", "bytes/handle"),
        [(f"{onlookers.HANDLES:,}", handle)],
    )
    finish(
        "ledger",
        {
            "pairs_per_second": {
                name: dict(zip(map(str, CALLERS), map(round, values), strict=True)) for name, values in pairs.items()
            },
            "seconds": {
                size: {name: round(value, 4) for name, value in times.items()} for size, times in sizes.items()
            },
            "events_per_second": {name: round(events[name]) for name in ("written", "heard")},
            "listening_seconds_per_hour": round(events["listening"], 2),
            "memory_bytes_per_job": round(memory),
            "memory_bytes_per_waiting_handle": round(handle),
        },
    )


if __name__ == "__main__":
    main()
