"""What a sweep costs and how long it takes: ``python -m benchmarks.sweep``.

Planning is measured in seconds of CPU, as a ratio to building the same configs from tables of fields, each of which is
checked. Running is measured on virtual time, through the real transport, against the emulated bridge: the time from
``run`` to the last archive over the optimum, which sends each create as soon as the bucket has a token and has the last
archive the moment its job ends.
Two polls of a job are at least 5 s apart, and what was learned of how long jobs take is no finer than that: by where
between two polls its end falls, the last archive comes up to 5 s late: 1.02 of the optimum at 20 a minute. With
jobs of 110 to 128 s it was 0.5 to 5.0 s, 2.6 s on average; the 120 s here are among the unlucky ones.

The peers are scripts with plain aiohttp that send one by one and wait as long as a refusal says; "8 at once" has eight
workers, each of which sends, asks every 10 s and fetches before it begins its next trial, and so does Optuna's own
``optimize(n_jobs=8)``, in threads. Requests, stored events and CPU are those of one trial; CPU has that of the emulated
bridge in it, which is the same for all.
"""

import asyncio
import gc
import tempfile
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import attrs
import optuna

from benchmarks.reporting import finish, show_table
from benchmarks.scorecard.worlds import World, config, creates, on_virtual_time
from crynux_async.backends.bridge.wire import parse_wait, to_wire
from crynux_async.sweeps import Sweep, choice, log_uniform, random_search
from crynux_async.sweeps.preview import advice_once
from crynux_async.training.config import FineTuneConfig

PLANNED = 10_000
ROUNDS = 3
WAITING = 2_000
POINTS = 60
LIMITS = (5, 20)
JOB_SECONDS = 120.0
ASK_EVERY = 10.0
HORIZON = 4 * 3600.0
WORKERS = 8


@attrs.frozen(kw_only=True)
class Run:
    """What one client did.

    Attributes:
        seconds: From the start to the last archive, or None where it was not done in time.
        refusals: Creates that the rate limit refused.
        archives: Archives that it has.
        requests: Requests of all kinds.
        events: Events that it has stored, or None where it keeps none.
        cpu: Seconds, those of the emulated bridge included.
    """

    seconds: float | None
    refusals: int
    archives: int
    requests: int
    events: int | None
    cpu: float

    def row(self, client: str, limit: int) -> dict[str, str | float | None]:
        """Return it as it is shown."""
        return {
            "client": client,
            "limit/min": limit,
            "time/optimum": None if self.seconds is None else self.seconds / _optimum(limit),
            "refusals": self.refusals,
            f"archives of {POINTS}": self.archives,
            "requests": self.requests / POINTS,
            "events": None if self.events is None else self.events / POINTS,
            "CPU ms": self.cpu * 1000 / POINTS,
        }


def main() -> None:
    """Measure and print."""
    planning = _planning()
    show_table(
        f"Planning {PLANNED:,} points",
        ("step", "seconds", "of building"),
        [(name, seconds, seconds / planning["building"]) for name, seconds in planning.items()],
    )
    bytes_each = _bytes_a_waiting_point()
    print(f"\n  {bytes_each:,.0f} B for each point that waits to be sent, with its job and its config")
    rows = [row for limit in LIMITS for row in _running(limit)]
    title = f"A sweep of {POINTS} points, the last three for each trial; no ratio: not done after 4 h"
    show_table(title, list(rows[0]), [list(row.values()) for row in rows])
    finish("sweep", {"planning": planning, "bytes_each": bytes_each, "rows": rows})


def _points(count: int) -> list[Any]:
    return random_search(count, seed=1, rank=choice(4, 8, 16), learning_rate=log_uniform(1e-5, 1e-3))


def _planning() -> dict[str, float]:
    base, points = config(), _points(PLANNED)
    sweep, fields = Sweep("cats", base, points=points), base.to_dict()
    good = sweep.plan().good
    return {
        "building": _least_cpu(lambda: [FineTuneConfig.from_dict({**fields, **point}) for point in points]),
        "evolve": _least_cpu(lambda: [base.evolve(**point) for point in points]),
        "plan": _least_cpu(sweep.plan),
        "advice": _least_cpu(lambda: advice_once(good)),
    }


def _least_cpu(work: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def _bytes_a_waiting_point() -> float:
    async def work(world: World) -> float:
        async with world.session(rate_limit=1) as session:
            advice_once(Sweep("dogs", config()).plan().good)  # what is made once, for the first of all points
            gc.collect()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            sweep = Sweep("cats", config(), points=[{"seed": seed} for seed in range(1, WAITING + 1)])
            async with sweep.run(session) as running:
                gc.collect()
                grown = tracemalloc.get_traced_memory()[0] - before
                assert len(running.trials) == WAITING
            tracemalloc.stop()
            return grown / WAITING

    return on_virtual_time(work, rate_limit=1)


def _running(limit: int) -> Iterator[dict[str, str | float | None]]:
    yield _ours(limit, known=True).row("crynux_async", limit)
    yield _ours(limit, known=False).row("crynux_async, limit unknown", limit)
    yield _peer(limit, _one_by_one).row("plain aiohttp, one by one", limit)
    yield _peer(limit, _eight_at_once).row("plain aiohttp, 8 at once", limit)
    yield _peer(limit, _optuna).row("Optuna's optimize(n_jobs=8)", limit)


def _ours(limit: int, *, known: bool) -> Run:
    async def work(world: World) -> Run:
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryDirectory() as folder:
            sweep = Sweep("cats", config(), points=[{"seed": seed} for seed in range(1, POINTS + 1)], folder=folder)
            settings = {"rate_limit": limit} if known else {}
            async with world.session(ledger=f"{folder}/jobs.db", **settings) as session:
                began, cpu = loop.time(), time.process_time()
                async with sweep.run(session) as running:
                    trials = await running.wait()
                seconds, cpu = loop.time() - began, time.process_time() - cpu
                events = [await session.ledger.events(trial.job.job_id) for trial in trials]
                return Run(
                    seconds=seconds,
                    refusals=session.statistics().refusals,
                    archives=sum(trial.state == "done" for trial in trials),
                    requests=len(world.bridge.requests),
                    events=sum(map(len, events)),
                    cpu=cpu,
                )

    return on_virtual_time(work, rate_limit=limit, unet="tiny")


def _peer(limit: int, run: "Callable[[_Script, list[float]], Awaitable[None]]") -> Run:
    async def work(world: World) -> Run:
        loop = asyncio.get_running_loop()
        began, cpu, done = loop.time(), time.process_time(), list[float]()
        async with _script(world) as script:
            with suppress(TimeoutError):
                async with asyncio.timeout(HORIZON):
                    await run(script, done)
        return Run(
            seconds=done[-1] - began if len(done) == POINTS else None,
            refusals=sum(request.status == 400 for request in creates(world.bridge)),
            archives=len(done),
            requests=len(world.bridge.requests),
            events=None,
            cpu=time.process_time() - cpu,
        )

    return on_virtual_time(work, rate_limit=limit, unet="tiny", durable=False)


class _Script:
    """What a careful user writes in an afternoon."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def create(self, seed: int) -> int:
        """Send a create until it is accepted, waiting as long as each refusal says."""
        while True:
            async with self._http.post(f"{self._url}/v1/images/models", json=to_wire(config(seed))) as response:
                answer: dict[str, Any] = await response.json()
            wait = parse_wait(str(answer))
            if wait is None:
                return int(answer["data"]["id"])
            await asyncio.sleep(wait)

    async def model(self, task_id: int) -> None:
        """Ask until a task has ended, and fetch its archive."""
        while True:
            async with self._http.get(f"{self._url}/v1/images/models/{task_id}/status") as response:
                answer: dict[str, Any] = await response.json()
            if answer["data"]["status"] != "running":
                break
            await asyncio.sleep(ASK_EVERY)
        async with self._http.get(f"{self._url}/v1/images/models/{task_id}/result") as response:
            await response.read()


@asynccontextmanager
async def _script(world: World) -> AsyncIterator[_Script]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {world.key}"}) as http:
        yield _Script(http, world.bridge.url)


async def _one_by_one(script: _Script, done: list[float]) -> None:
    async def fetch(task_id: int) -> None:
        await script.model(task_id)
        done.append(asyncio.get_running_loop().time())

    async with asyncio.TaskGroup() as group:
        for seed in range(1, POINTS + 1):
            group.create_task(fetch(await script.create(seed)))


async def _eight_at_once(script: _Script, done: list[float]) -> None:
    seeds = iter(range(1, POINTS + 1))

    async def work() -> None:
        for seed in seeds:
            await _train(script, seed, done)

    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(work())


class _OptunaThreads:
    """Optuna's own ``optimize`` with the script, in threads of its own.

    The loop knows nothing of them, and its clock would jump while one of them is about to begin its next trial: for
    each of those something waits in an executor, for which the clock stands still.
    """

    def __init__(self, script: _Script, done: list[float]) -> None:
        self._script = script
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(WORKERS)
        self._has_begun = threading.Semaphore(0)
        self._expected = self._begun = 0
        self._is_over = False
        self._waits: list[Future[None]] = []
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Run a study to its end, or until this is cancelled."""
        for _ in range(WORKERS):
            self._expect()
        threading.Thread(target=self._optimize, daemon=True).start()
        try:
            await self._ended.wait()
        finally:
            self._is_over = True
            self._has_begun.release(WORKERS)
            for wait in self._waits:
                wait.cancel()
            self._executor.shutdown()

    def _optimize(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        optuna.create_study().optimize(self._objective, n_trials=POINTS, n_jobs=WORKERS, catch=(Exception,))
        with suppress(RuntimeError):  # it was too late, and the loop is closed
            self._loop.call_soon_threadsafe(self._ended.set)

    def _objective(self, trial: optuna.Trial) -> float:
        if self._is_over:
            raise optuna.TrialPruned
        wait = asyncio.run_coroutine_threadsafe(self._train(trial.number + 1), self._loop)
        self._waits.append(wait)
        wait.result()
        return trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True)

    async def _train(self, seed: int) -> None:
        self._expected, self._begun = self._expected - 1, self._begun + 1
        self._has_begun.release()
        await _train(self._script, seed, self._done)
        self._expect()

    def _expect(self) -> None:
        """Let the clock stand still until the next trial has begun, if there will be one."""
        if self._begun + self._expected < POINTS:
            self._expected += 1
            self._loop.run_in_executor(self._executor, self._has_begun.acquire)


async def _optuna(script: _Script, done: list[float]) -> None:
    await _OptunaThreads(script, done).run()


async def _train(script: _Script, seed: int, done: list[float]) -> None:
    await script.model(await script.create(seed))
    done.append(asyncio.get_running_loop().time())


def _optimum(limit: int) -> float:
    """Seconds that the sweep takes at least: the bucket begins full, with a minute's tokens."""
    return max(0, POINTS - limit) * 60.0 / limit + JOB_SECONDS


if __name__ == "__main__":
    main()
