"""Case R4: processes that share a key and a ledger, and with it one gate; some are killed while they send."""

import asyncio
import random
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.processes import started
from benchmarks.scorecard.severing import Severable
from benchmarks.scorecard.tasks import environment
from benchmarks.scorecard.worlds import World, config, creates, on_virtual_time
from crynux_async.emulator import Emulator
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.session import Session

PROCESSES, KILLS, JOBS = 4, 5, 300
LIMIT = 20
REAL_LIMIT, REAL_SECONDS = 300, 60.0


def shared_gate(context: Context) -> str:
    """R4: four users of one gate, five of them killed: no refusal, and as fast as one alone."""
    worst = refused = 0.0
    for seed in range(1, context.seeds + 1):

        async def work(world: World, seed: int = seed) -> tuple[float, int]:
            return await _on_virtual_time(world, random.Random(seed))

        ratio, refusals = on_virtual_time(work, rate_limit=LIMIT, durable=False)
        worst, refused = max(worst, ratio), refused + refusals
    real, real_refused = asyncio.run(_with_processes(random.Random(4), context.folder))
    seen = (
        f"sessions, {context.seeds} seeds: {refused:.0f} refusals, at most {worst:.3f}x; "
        f"{PROCESSES} processes on one file: {real_refused} refusals, {real:.3f}x"
    )
    assert refused == real_refused == 0, seen
    assert max(worst, real) <= 1.02, seen
    return seen


async def _on_virtual_time(world: World, rng: random.Random) -> tuple[float, int]:
    """Return how much longer than possible it took, and how many creates were refused."""
    ledger = MemoryLedger()
    seeds = iter(range(1, 10**6))
    world.bridge.add_fault("delay", on="create", seconds=0.2, count=None)

    async def start() -> tuple[Session, Severable]:
        way = Severable(ledger)
        session = world.session(ledger=way, rate_limit=LIMIT, prime_key=False)
        await session.open()
        for _ in range(JOBS):
            session.submit_nowait(config(next(seeds)))
        return session, way

    alive = [await start() for _ in range(PROCESSES)]
    optimum = (JOBS - LIMIT) * 60 / LIMIT
    loop = asyncio.get_running_loop()
    began = loop.time()
    for at in sorted(rng.uniform(0.0, optimum) for _ in range(KILLS)):
        await asyncio.sleep(began + at - loop.time())
        session, way = alive.pop(rng.randrange(PROCESSES))
        await way.sever(session)
        alive.append(await start())
    while len(creates(world.bridge)) < JOBS:
        await asyncio.sleep(1.0)
    for session, way in alive:
        await way.sever(session)
    return _judge(world, optimum, JOBS)


async def _with_processes(rng: random.Random, folder: Path) -> tuple[float, int]:
    """Do the same with processes and a file, in real time."""
    jobs = REAL_LIMIT + int(REAL_SECONDS * REAL_LIMIT / 60)
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {"rate_limit": REAL_LIMIT, "unet": "tiny", "durable": False}
        with tempfile.TemporaryDirectory(dir=folder) as place:
            bridge = await stack.enter_async_context(Emulator(folder=place, **options))
            world = World(bridge=bridge, key=bridge.new_key(rate_limit=REAL_LIMIT))
            env = environment(world, rate_limit=REAL_LIMIT, min_poll_interval=60, poll_delay=60)
            firsts = iter(range(1, 10**9, 10**6))

            async def start() -> asyncio.subprocess.Process:
                module = "benchmarks.scorecard.submit_child"
                command = _python(module, folder / "jobs.db", next(firsts), jobs, "--at-once")
                process = await stack.enter_async_context(started(command, env=env))
                assert process.stdout is not None
                stack.callback(asyncio.create_task(process.stdout.read()).cancel)
                return process

            alive = [await start() for _ in range(PROCESSES)]
            while not creates(bridge):
                await asyncio.sleep(0.01)
            pause = REAL_SECONDS / (KILLS + 1)
            for _ in range(KILLS):
                await asyncio.sleep(rng.uniform(0.5, 1.5) * pause)
                alive.pop(rng.randrange(PROCESSES)).kill()
                alive.append(await start())
            while len(creates(bridge)) < jobs:
                await asyncio.sleep(0.05)
            return _judge(world, (jobs - REAL_LIMIT) * 60 / REAL_LIMIT, jobs)


def _judge(world: World, optimum: float, count: int) -> tuple[float, int]:
    posts = creates(world.bridge)[:count]
    return (posts[-1].at - posts[0].at) / optimum, sum(post.status == 400 for post in posts)


def _python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


CASES = (Case(name="R4", fault=f"{PROCESSES} processes share key and ledger, {KILLS} killed", run=shared_gate),)
