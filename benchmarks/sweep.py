"""What a sweep costs and how long it takes: ``python -m benchmarks.sweep``.

Planning is measured in seconds of CPU, as a ratio to building the same configs by ``evolve``. Running is measured on
virtual time, through the real transport, against the emulated bridge: the time from ``run`` to the last archive over
the optimum, which sends each create as soon as the bucket has a token and has the last archive the moment its job ends.
The peers are scripts with plain aiohttp that send one by one and wait as long as a refusal says; "8 at once" has eight
workers, each of which sends, asks every 10 s and fetches before it begins its next trial, as ``optimize(n_jobs=8)``
does with such a script.
"""

import asyncio
import gc
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from benchmarks.reporting import finish, show_table
from benchmarks.scorecard.worlds import World, config, creates, on_virtual_time
from crynux_async.backends.bridge.wire import parse_wait, to_wire
from crynux_async.sweeps import Sweep, choice, log_uniform, random_search
from crynux_async.sweeps.preview import advice_once

PLANNED = 10_000
ROUNDS = 3
WAITING = 2_000
POINTS = 60
LIMITS = (5, 20)
JOB_SECONDS = 120.0
ASK_EVERY = 10.0
HORIZON = 4 * 3600.0

Row = tuple[str, int, float | None, int, int]


def main() -> None:
    """Measure and print."""
    planning = _planning()
    show_table(
        f"Planning {PLANNED:,} points",
        ("step", "seconds", "of evolve"),
        [(name, seconds, seconds / planning["evolve"]) for name, seconds in planning.items()],
    )
    bytes_each = _bytes_a_waiting_point()
    print(f"\n  {bytes_each:,.0f} B for each point that waits to be sent, with its job and its config")
    rows = [row for limit in LIMITS for row in _running(limit)]
    columns = ("client", "limit/min", "time/optimum", "refusals", f"archives of {POINTS}")
    show_table(f"A sweep of {POINTS} points; no ratio: not done after 4 h", columns, rows)
    keys = ("client", "limit", "ratio", "refusals", "archives")
    named = [dict(zip(keys, row, strict=True)) for row in rows]
    finish("sweep", {"planning": planning, "bytes_each": bytes_each, "rows": named})


def _points(count: int) -> list[Any]:
    return random_search(count, seed=1, rank=choice(4, 8, 16), learning_rate=log_uniform(1e-5, 1e-3))


def _planning() -> dict[str, float]:
    base, points = config(), _points(PLANNED)
    sweep = Sweep("cats", base, points=points)
    good = sweep.plan().good
    return {
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


def _running(limit: int) -> Iterator[Row]:
    yield _ours("crynux_async", limit, known=True)
    yield _ours("crynux_async, limit unknown", limit, known=False)
    yield _peer("plain aiohttp, one by one", limit, workers=1)
    yield _peer("plain aiohttp, 8 at once", limit, workers=8)


def _ours(name: str, limit: int, *, known: bool) -> Row:
    async def work(world: World) -> tuple[float, int, int]:
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryDirectory() as folder:
            sweep = Sweep("cats", config(), points=[{"seed": seed} for seed in range(1, POINTS + 1)], folder=folder)
            async with world.session(**({"rate_limit": limit} if known else {})) as session:
                began = loop.time()
                async with sweep.run(session) as running:
                    trials = await running.wait()
                seconds = loop.time() - began
                return seconds, session.statistics().refusals, sum(trial.state == "done" for trial in trials)

    seconds, refusals, archives = on_virtual_time(work, rate_limit=limit, unet="tiny")
    return name, limit, seconds / _optimum(limit), refusals, archives


def _peer(name: str, limit: int, *, workers: int) -> Row:
    async def work(world: World) -> tuple[float | None, int, int]:
        loop = asyncio.get_running_loop()
        began, done = loop.time(), list[float]()
        left = iter(range(1, POINTS + 1))
        async with _script(world) as script:
            try:
                async with asyncio.timeout(HORIZON), asyncio.TaskGroup() as group:
                    if workers == 1:
                        await _send_then_wait(script, left, done, group)
                    else:
                        for _ in range(workers):
                            group.create_task(_work(script, left, done))
            except TimeoutError:
                pass
        refusals = sum(request.status == 400 for request in creates(world.bridge))
        return (done[-1] - began if len(done) == POINTS else None), refusals, len(done)

    seconds, refusals, archives = on_virtual_time(work, rate_limit=limit, unet="tiny", durable=False)
    return name, limit, None if seconds is None else seconds / _optimum(limit), refusals, archives


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


async def _send_then_wait(script: _Script, seeds: Iterable[int], done: list[float], group: asyncio.TaskGroup) -> None:
    async def fetch(task_id: int) -> None:
        await script.model(task_id)
        done.append(asyncio.get_running_loop().time())

    for seed in seeds:
        group.create_task(fetch(await script.create(seed)))


async def _work(script: _Script, seeds: Iterator[int], done: list[float]) -> None:
    for seed in seeds:
        await script.model(await script.create(seed))
        done.append(asyncio.get_running_loop().time())


def _optimum(limit: int) -> float:
    """Seconds that the sweep takes at least: the bucket begins full, with a minute's tokens."""
    return max(0, POINTS - limit) * 60.0 / limit + JOB_SECONDS


if __name__ == "__main__":
    main()
