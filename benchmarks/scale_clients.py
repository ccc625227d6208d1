"""The programs that ``benchmarks.scale`` runs, each in a process of its own; the last line of each is JSON.

``python -m benchmarks.scale_clients PROGRAM ARGUMENTS``, see ``PROGRAMS``. Where time is virtual the bridge is a fake
in the same process that answers at once, so that nothing but this library is measured; where it is real the bridge is
``benchmarks.scale_server``. CPU is that of this process alone.
"""

import asyncio
import gc
import itertools
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import attrs

from benchmarks.scale_server import FIRST_SUCCESS
from crynux_async.backends.base import CreatedTask, Habits, Look, Order, ResultStream, Seen, Task, Validator
from crynux_async.backends.bridge import wire
from crynux_async.backends.bridge.http import BridgeClient
from crynux_async.job import Job
from crynux_async.ledgers.base import JobRow, Ledger
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.pacing.hazard import Hazard
from crynux_async.pacing.poll_queue import PollQueue
from crynux_async.session import Session
from crynux_async.settings import Settings
from crynux_async.states import JobState
from crynux_async.testing import virtual_time_run
from crynux_async.training.config import EffectiveConfig, FineTuneConfig
from crynux_async.training.lengths import stall_seconds
from crynux_async.training.service import BRIDGE_FACTS

Figures = dict[str, float]
Ask = Callable[[int], Awaitable[str]]

HOUR = 3600.0
HOUR_INTERVAL = 240
AT_ONCE = 100
WARM_UP_JOBS = 200
LIVE_JOBS = BATCH = 1000
WARM_UP_BATCHES = 3
LAG_POLL_RATE = 200.0  # the default of Settings
FAST = {"max_poll_rate": 1e9, "min_poll_interval": 1e-3, "poll_delay": 1e-9}
RUNNING = Look(seen=Seen.RUNNING)
BASE = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5",
    dataset_url="https://data.example/pictures.zip",
    max_train_steps=1000,
    seed=1,
    timeout=10 * 3600,
)


class InstantBackend:
    """A bridge in this process that answers at once; its tasks run for ever."""

    is_rate_limited = True
    creates_are_repeatable = False
    name = "instant"
    key_id = "0123456789abcdef"
    facts = BRIDGE_FACTS
    habits = Habits()

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self.polls = 0

    def normal_task_id(self, given: str | int) -> str:
        return str(given)

    def effective(self, config: FineTuneConfig) -> EffectiveConfig:
        return config.effective()

    def stall_after(self, config: FineTuneConfig) -> float:
        return stall_seconds(config)

    def intend(self, order: Order) -> str:
        return wire.create_body(order.config).decode()

    async def create(self, payload: str) -> CreatedTask:
        return CreatedTask(task_id=str(next(self._ids)))

    async def look(self, task: Task) -> Look:
        self.polls += 1
        await asyncio.sleep(0)
        return RUNNING

    def open_result(
        self, task: Task, *, start: int = 0, validator: Validator | None = None
    ) -> AbstractAsyncContextManager[ResultStream]:
        raise AssertionError("no task ends")

    async def close(self) -> None:
        pass


def resident() -> int:
    """Return the bytes of memory that this process holds now, garbage not counted."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def configs(count: int, first_seed: int = 1) -> Iterator[FineTuneConfig]:
    """Yield distinct configs, as a sweep over seeds makes them."""
    return (BASE.evolve(seed=seed) for seed in range(first_seed, first_seed + count))


def make_settings(**changes: Any) -> Settings:
    """Return settings under which the rate limit of creates holds nothing up."""
    given = {"base_url": "http://127.0.0.1:1", "rate_limit": 1e9, "rate_burst": 10**9, "max_creates": 64, **changes}
    return Settings(api_key="x" * 43 + "=", **given)


async def all_sent(session: Session) -> None:
    """Wait until every job has been accepted, without a future for each."""
    while (now := session.statistics()).queued or now.creating:
        await asyncio.sleep(0.005)


def life(count: int, *, has_file: bool = False) -> Figures:
    """Submit so many jobs, all of which run, with a ledger in memory or in a file; then close."""

    async def work(ledger: Path | None) -> Figures:
        session = Session(make_settings(), ledger=ledger, backend=InstantBackend())
        await session.open()
        await session.submit_many(configs(WARM_UP_JOBS, first_seed=2_000_000))
        await all_sent(session)
        before = resident()
        began, cpu = time.perf_counter(), time.process_time()
        jobs = await session.submit_many(configs(count))
        await all_sent(session)
        submitted, cpu = time.perf_counter(), time.process_time() - cpu
        grown = resident() - before
        closing = time.perf_counter()
        await session.close()
        closed = time.perf_counter()
        assert all(job.task_id for job in jobs)
        cpu_us = cpu / count * 1e6
        return {"bytes": grown / count, "submit": submitted - began, "cpu_us": cpu_us, "close": closed - closing}

    with tempfile.TemporaryDirectory(prefix="scale-benchmark-") as folder:
        return asyncio.run(work(Path(folder) / "jobs.db" if has_file else None))


def config_size(count: int) -> Figures:
    """Make so many configs and nothing else."""
    kept = list(configs(WARM_UP_JOBS))
    before = resident()
    kept += configs(count)
    return {"bytes": (resident() - before) / count}


def queue(count: int) -> Figures:
    """Put so many jobs into a poll queue and nothing else."""
    names = [f"job {number}" for number in range(count)]
    polls = PollQueue()
    for number in range(WARM_UP_JOBS):
        polls.add(-number, kind="", started_at=0.0, now=0.0, stall_at=1e6)
    before = resident()
    for number, name in enumerate(names):
        polls.add(name, kind="", started_at=float(number), now=float(number), stall_at=float(number) + HOUR)
    return {"bytes": (resident() - before) / count}


def hour(count: int) -> Figures:
    """Follow so many jobs for an hour of virtual time; how long such jobs take is known."""
    hazard, rng = Hazard(), random.Random(count)
    for _ in range(2000):
        hazard.observe_end(0.0, rng.lognormvariate(0.0, 0.5) * 2 * HOUR)
    learned = hazard.snapshot().to_json()

    async def work() -> Figures:
        backend = InstantBackend()
        async with Session(
            make_settings(max_poll_rate=1e6, min_poll_interval=HOUR_INTERVAL, poll_delay=0.2), backend=backend
        ) as session:
            session._open_supervisor().follower.restore({"unknown": learned})
            for number in range(1, count + 1):
                session.attach(number)
                if number * HOUR_INTERVAL % count < HOUR_INTERVAL:
                    await asyncio.sleep(1.0)  # so that as many are polled in every second
            await asyncio.sleep(HOUR_INTERVAL)
            polls, began = backend.polls, time.process_time()
            await asyncio.sleep(HOUR)
            cpu, polls = time.process_time() - began, backend.polls - polls
        return {"cpu_us": cpu / count * 1e6, "polls": polls / count, "cpu_us_per_poll": cpu / polls * 1e6}

    figures: Figures = virtual_time_run(work)
    return figures


def hour_of_tasks(count: int) -> Figures:
    """Follow as many jobs at as many polls with a task for each."""

    async def work() -> Figures:
        backend = InstantBackend()

        async def follow(number: int) -> None:
            await asyncio.sleep(number * HOUR_INTERVAL / count)
            task = Task(task_id=str(number))
            while (await backend.look(task)).seen is Seen.RUNNING:
                await asyncio.sleep(HOUR_INTERVAL)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(follow(number)) for number in range(1, count + 1)]
            await asyncio.sleep(2 * HOUR_INTERVAL)
            polls, began = backend.polls, time.process_time()
            await asyncio.sleep(HOUR)
            cpu, polls = time.process_time() - began, backend.polls - polls
            for task in tasks:
                task.cancel()
        return {"cpu_us": cpu / count * 1e6, "polls": polls / count, "cpu_us_per_poll": cpu / polls * 1e6}

    figures: Figures = virtual_time_run(work)
    return figures


def resume(count: int, place: str) -> Figures:
    """Take over so many running jobs that another process left in a ledger (``memory`` or ``file``), then close."""

    async def work(ledger: Ledger) -> Figures:
        settings = make_settings()
        await ledger.open()
        await ledger.add([running_row(number) for number in range(1, count + 1)], fence=None)
        await ledger.close()
        session = Session(settings, ledger=ledger, backend=InstantBackend())
        began = time.perf_counter()
        await session.open()
        opened = time.perf_counter()
        assert len(session.jobs(JobState.RUNNING)) == count
        closing = time.perf_counter()
        await session.close()
        return {"resume": opened - began, "close": time.perf_counter() - closing}

    with tempfile.TemporaryDirectory(prefix="scale-benchmark-") as folder:
        return asyncio.run(work(MemoryLedger() if place == "memory" else SqliteLedger(Path(folder) / "jobs.db")))


class EndingBackend(InstantBackend):
    """One whose first tasks run for ever; all others have a model when they are looked at."""

    async def look(self, task: Task) -> Look:
        look = await super().look(task)
        return look if int(task.task_id) <= LIVE_JOBS else Look(seen=Seen.SUCCEEDED)


def months(ended_before: int, ended_meanwhile: int) -> Figures:
    """Follow some live jobs on a file in which many have ended, while many more come from other processes and end.

    The first thousands are warm-up: what grows behind them would grow for ever.
    """

    async def work(place: Path) -> Figures:
        other = SqliteLedger(place)
        await other.open()
        for first in range(0, ended_before, BATCH):
            await other.add([ended_row(first + number) for number in range(min(BATCH, ended_before - first))])
        await other.add([running_row(number) for number in range(1, LIVE_JOBS + 1)])
        before = resident()
        settings = make_settings(max_poll_rate=BATCH, max_polls=AT_ONCE)
        async with Session(settings, ledger=place, backend=EndingBackend()) as session:
            for number in range(1, WARM_UP_BATCHES + 1):
                await _end_batch(session, other, number)
            warm, began = resident(), time.process_time()
            for number in range(WARM_UP_BATCHES + 1, WARM_UP_BATCHES + 1 + ended_meanwhile // BATCH):
                await _end_batch(session, other, number)
            cpu, grown = time.process_time() - began, resident() - warm
            assert session.statistics().jobs[JobState.RUNNING] == LIVE_JOBS
        await other.close()
        cpu_us = cpu / ended_meanwhile * 1e6 if ended_meanwhile else 0.0
        return {"bytes": warm - before, "grown": grown, "cpu_us": cpu_us}

    with tempfile.TemporaryDirectory(prefix="scale-benchmark-") as folder:
        figures: Figures = virtual_time_run(lambda: work(Path(folder) / "jobs.db"))
    return figures


async def _end_batch(session: Session, other: Ledger, number: int) -> None:
    """Let another process leave jobs that end at the first look, and wait for their ends without a handle on them."""
    ended = session.statistics().jobs.get(JobState.SUCCEEDED, 0) + BATCH
    fence = await other.enter("another", seconds=HOUR)
    await other.add([running_row(number * BATCH + each) for each in range(1, BATCH + 1)], fence=fence)
    await session.take_over()  # it is there
    await other.leave(fence)
    await session.take_over()  # it has left
    while session.statistics().jobs.get(JobState.SUCCEEDED, 0) < ended:
        await asyncio.sleep(0.5)


def ended_row(number: int) -> JobRow:
    """Return a job that has a model which was fetched long ago."""
    row = running_row(10_000_000 + number)
    return attrs.evolve(
        row, state=JobState.DOWNLOADED, ended_at=row.submitted_at, folder="/models", path="/models/a.zip"
    )


def running_row(number: int) -> JobRow:
    """Return a job that runs, as a ledger remembers it."""
    config, now = BASE.evolve(seed=number), datetime.now(UTC)
    return JobRow(
        job_id=f"j{number:012x}",
        backend=InstantBackend.name,
        key_id=InstantBackend.key_id,
        config=config,
        label="",
        task_id=str(number),
        state=JobState.RUNNING,
        planned_at=now,
        submitted_at=now,
    )


@asynccontextmanager
async def asking(library: str, url: str) -> AsyncIterator[Ask]:
    """Open a peer's client and give the function that asks for one status."""
    async with AsyncExitStack() as stack:
        if library == "aiohttp":
            client = await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE))
            )

            async def ask(task_id: int) -> str:
                async with client.get(f"{url}/v1/images/models/{task_id}/status") as response:
                    response.raise_for_status()
                    word: str = (await response.json())["data"]["status"]
                    return word
        elif library == "transport":
            bridge = BridgeClient(make_settings(base_url=url, max_connections=AT_ONCE))
            stack.push_async_callback(bridge.close)

            async def ask(task_id: int) -> str:
                return await bridge.status(str(task_id))
        else:
            import httpx

            limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
            peer = await stack.enter_async_context(httpx.AsyncClient(limits=limits, timeout=60, trust_env=False))

            async def ask(task_id: int) -> str:
                response = await peer.get(f"{url}/v1/images/models/{task_id}/status")
                response.raise_for_status()
                word: str = response.json()["data"]["status"]
                return word

        yield ask


def rate(library: str, url: str, seconds: str) -> Figures:
    """Ask as fast as possible, 100 requests at once."""
    work = _session_rate if library == "crynux_async" else _loop_rate
    return asyncio.run(work(library, url, float(seconds)))


async def _session_rate(_: str, url: str, seconds: float) -> Figures:
    settings = make_settings(base_url=url, max_polls=AT_ONCE, max_connections=AT_ONCE, **FAST)
    async with Session(settings) as session:
        for number in range(1, 10_001):
            session.attach(number)
        await session.history(limit=0)  # returns when the ledger has them all
        # The first answer about each job is stored, and no later one: that it runs is known then.
        while session.statistics().jobs.get(JobState.ATTACHED):
            await asyncio.sleep(0.1)

        def asked() -> int:
            figures = session.statistics()
            assert not figures.poll_errors
            return figures.polls

        return await _watched(asked, seconds)


async def _loop_rate(library: str, url: str, seconds: float) -> Figures:
    asked = 0

    async def worker(numbers: Iterator[int], ask: Ask) -> None:
        nonlocal asked
        for number in numbers:
            if await ask(number) != "running":
                raise AssertionError("every task runs")
            asked += 1

    async with asking(library, url) as ask, asyncio.TaskGroup() as group:
        numbers = itertools.count(1)
        workers = [group.create_task(worker(numbers, ask)) for _ in range(AT_ONCE)]
        await asyncio.sleep(1.0)
        figures = await _watched(lambda: asked, seconds)
        for task in workers:
            task.cancel()
    return figures


async def _watched(count: Callable[[], int], seconds: float) -> Figures:
    """Return how fast a count rises, and what each costs this process."""
    first, cpu, began = count(), time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    done, took = count() - first, time.perf_counter() - began
    return {"per_second": done / took, "cpu_us": (time.process_time() - cpu) / max(done, 1) * 1e6}


def crowd(library: str, url: str, count: str, per_second: str, seconds: str) -> Figures:
    """Follow so many jobs at so many polls a second over HTTP; peers have a task for each job."""
    work = _session_crowd if library == "crynux_async" else _task_crowd
    return asyncio.run(work(library, url, int(count), float(per_second), float(seconds)))


async def _session_crowd(_: str, url: str, count: int, per_second: float, seconds: float) -> Figures:
    settings = make_settings(base_url=url, max_polls=AT_ONCE, **{**FAST, "max_poll_rate": per_second})
    async with Session(settings) as session:
        for number in range(WARM_UP_JOBS):
            session.attach(2_000_000 + number)
        await asyncio.sleep(1.0)
        before = resident()
        for number in range(1, count + 1):
            session.attach(number)
        await session.history(limit=0)
        await asyncio.sleep(1.0)
        grown = resident() - before
        return {"bytes": grown / count, **await _watched(lambda: session.statistics().polls, seconds)}


async def _task_crowd(library: str, url: str, count: int, per_second: float, seconds: float) -> Figures:
    asked = 0

    async def follow(number: int, ask: Ask, interval: float) -> None:
        nonlocal asked
        await asyncio.sleep(random.uniform(0, interval))
        while await ask(number) == "running":
            asked += 1
            await asyncio.sleep(interval)

    async with asking(library, url) as ask, asyncio.TaskGroup() as group:
        first = range(2_000_000, 2_000_000 + WARM_UP_JOBS)
        warm = [group.create_task(follow(number, ask, WARM_UP_JOBS / per_second)) for number in first]
        await asyncio.sleep(1.0)
        for task in warm:
            task.cancel()
        before = resident()
        tasks = [group.create_task(follow(n, ask, count / per_second)) for n in range(1, count + 1)]
        await asyncio.sleep(1.0)
        grown = resident() - before
        figures = {"bytes": grown / count, **await _watched(lambda: asked, seconds)}
        for task in tasks:
            task.cancel()
    return figures


def lag(url: str, count: str, downloads: str, seconds: str) -> Figures:
    """Sample how late timers fire while jobs are polled at the default settings and results are downloaded."""
    with tempfile.TemporaryDirectory(prefix="scale-benchmark-") as folder:
        return asyncio.run(_lag(url, int(count), int(downloads), float(seconds), Path(folder)))


async def _lag(url: str, count: int, downloads: int, seconds: float, folder: Path) -> Figures:
    received = 0

    async def fetch_for_ever(job: Job) -> None:
        nonlocal received
        while True:
            path = await job.download(folder)
            received += await asyncio.to_thread(_size_of_removed, path)

    settings = make_settings(base_url=url, max_downloads=max(downloads, 1), **{**FAST, "max_poll_rate": LAG_POLL_RATE})
    async with Session(settings) as session:
        ended = [session.attach(FIRST_SUCCESS + number) for number in range(downloads)]
        await session.wait_all(ended)
        for number in range(1, count + 1):
            session.attach(number)
        fetchers = [asyncio.create_task(fetch_for_ever(job)) for job in ended]
        await session.history(limit=0)
        await asyncio.sleep(1.0)
        polls, first, began = session.statistics().polls, received, time.perf_counter()
        lags = await _sampled(seconds)
        took = time.perf_counter() - began
        polls, fetched = session.statistics().polls - polls, received - first
        for task in fetchers:
            task.cancel()
        ends = await asyncio.gather(*fetchers, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
    lags.sort()
    return {
        "p50_ms": lags[len(lags) // 2] * 1e3,
        "p99_ms": lags[int(0.99 * len(lags))] * 1e3,
        "max_ms": lags[-1] * 1e3,
        "polls_per_second": polls / took,
        "mb_per_second": fetched / took / 1e6,
    }


def _size_of_removed(path: Path) -> int:
    """Remove a file, which may wait for the disk, and return its size."""
    size = path.stat().st_size
    path.unlink()
    return size


async def _sampled(seconds: float) -> list[float]:
    """Return by how many seconds timers of 2 ms were late."""
    loop = asyncio.get_running_loop()
    until, lags = loop.time() + seconds, []
    while (now := loop.time()) < until:
        await asyncio.sleep(0.002)
        lags.append(loop.time() - now - 0.002)
    return lags


PROGRAMS: dict[str, Callable[..., Figures]] = {
    "life": lambda count: life(int(count)),
    "life_with_file": lambda count: life(int(count), has_file=True),
    "configs": lambda count: config_size(int(count)),
    "queue": lambda count: queue(int(count)),
    "hour": lambda count: hour(int(count)),
    "hour_of_tasks": lambda count: hour_of_tasks(int(count)),
    "months": lambda before, meanwhile: months(int(before), int(meanwhile)),
    "resume": lambda count, place: resume(int(count), place),
    "rate": rate,
    "crowd": crowd,
    "lag": lag,
}


if __name__ == "__main__":
    print(json.dumps(PROGRAMS[sys.argv[1]](*sys.argv[2:])))
