"""Case S10: the wall clock is set, and the machine sleeps."""

import asyncio
import itertools
import random
from collections import Counter

from benchmarks.scorecard.case import Context
from benchmarks.scorecard.severing import Severable
from benchmarks.scorecard.worlds import World, accounts, config, creates, on_virtual_time
from crynux_async.ledgers.base import AttemptRow
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.states import JobState
from crynux_async.testing import VirtualTimeLoop

DAY = 86_400.0


def jumps(context: Context) -> str:
    """S10: the wall clock is set a day forward and back while jobs wait, are sent, and run; processes die meanwhile."""
    limit, count = 5, 20
    busiest = 0
    for seed in range(1, context.seeds + 1):

        async def work(world: World, seed: int = seed) -> int:
            return await _jump(world, random.Random(seed), limit, count)

        busiest = max(busiest, on_virtual_time(work, rate_limit=limit, speed=0.01, durable=False))
    assert busiest <= 2 * limit + 1, f"{busiest} creates in one minute at {limit} a minute"
    return f"{context.seeds} seeds, {count} jobs each, 10 jumps: busiest minute {busiest} (burst + rate {2 * limit})"


async def _jump(world: World, rng: random.Random, limit: int, count: int) -> int:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    ledger, told = MemoryLedger(), []

    async def jump() -> None:
        for _ in range(10):
            await asyncio.sleep(rng.uniform(1.0, 30.0))
            loop.set_wall_clock(loop.wall_time() + rng.choice((-DAY, DAY)))

    jumping = asyncio.create_task(jump())
    for part in range(2):  # the second session replays what the first has sent
        async with world.session(ledger=ledger, rate_limit=limit) as session:
            jobs = [session.plan(config(seed)) for seed in range(part * count + 1, part * count + count // 2 + 1)]
            for job in jobs:
                told.append((await job.submitted()).task_id or 0)
            await asyncio.sleep(600)
            states = Counter(job.state for job in session.jobs())
            assert states == {JobState.RUNNING: len(session.jobs())}, f"given up too early: {states}"
            assert session.statistics().refusals == 0, "a create was refused"
    await jumping
    await accounts(world, ledger, told)
    await _die_after_a_jump(world, ledger, told)
    _check_monotone(await ledger.attempts())
    return _busiest_minute([post.at for post in creates(world.bridge)])


async def _die_after_a_jump(world: World, ledger: MemoryLedger, told: list[int]) -> None:
    """Plan a job, set the clock back, send it, and die before the answer: the next process must not send it again."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    world.bridge.add_fault("stall", on="create", count=None)
    dying = Severable(ledger)
    session = world.session(ledger=dying, rate_limit=5, prime_key=False)
    await session.open()
    (job,) = await session.submit_many([config(999)])
    assert (await ledger.get(job.job_id)) is not None
    loop.set_wall_clock(loop.wall_time() - DAY)
    while not creates(world.bridge) or (await ledger.attempts())[-1].job_id != job.job_id:
        await asyncio.sleep(0.01)
    await asyncio.sleep(1)
    await dying.sever(session)
    loop.set_wall_clock(loop.wall_time() + 2 * DAY)
    async with world.session(ledger=ledger, rate_limit=5) as after:
        state = after.job(job.job_id).state
    assert state is JobState.UNCONFIRMED, f"a create was under way when its process died, and its job is {state}"
    await accounts(world, ledger, told)


def _check_monotone(attempts: list[AttemptRow]) -> None:
    times = [time for each in attempts for time in (each.began_at, each.answered_at) if time is not None]
    back = [(earlier, later) for earlier, later in itertools.pairwise(times) if later < earlier]
    assert not back, f"times in the ledger go back {len(back)} times, first from {back[0][0]} to {back[0][1]}"


def _busiest_minute(times: list[float]) -> int:
    return max(sum(begin <= time < begin + 60 for time in times) for begin in times)
