"""Cases R1, R2, R3 and R5: the rate limit, through the real transport against the emulated bridge, on virtual time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.worlds import World, config, creates, on_virtual_time, submit_all
from crynux_async.backends.bridge.http import BridgeClient

JOBS = 60


def limit_is_known(_: Context) -> str:
    """R1: no refusal, and as fast as possible."""
    seen = []
    for limit in (1, 5, 20):

        async def work(world: World, limit: int = limit) -> tuple[float, int]:
            async with world.session(rate_limit=limit) as session:
                seconds = await submit_all(session, JOBS)
                return seconds / ((JOBS - limit) * 60 / limit), session.statistics().refusals

        ratio, refusals = on_virtual_time(work, rate_limit=limit)
        assert refusals == 0, f"{refusals} refusals at {limit} a minute"
        assert ratio <= 1.02, f"{ratio:.3f} of the optimum at {limit} a minute"
        seen.append(f"{limit}/min {ratio:.3f}x")
    return f"0 refusals; {', '.join(seen)}"


def limit_is_unknown(_: Context) -> str:
    """R2: one refusal to learn the limit of a full bucket, two otherwise, also when it changes."""
    seen = []
    for limit in (1, 5, 20):
        for start in ("full", "empty", "in debt"):
            ratio, refusals, learned = _learn(limit, start)
            allowed = 1 if start == "full" else 2
            assert refusals <= allowed, f"{refusals} refusals at {limit} a minute, {start}"
            assert ratio <= 1.08, f"{ratio:.3f} of the optimum at {limit} a minute, {start}"
            assert abs(learned - limit) < 0.02 * limit, f"learned {learned:.2f} for {limit} a minute"
            seen.append(f"{limit}/min {start} {ratio:.2f}x {refusals}")
    ratio, refusals = _changed(20, 5)
    assert refusals <= 2, f"{refusals} refusals when 20 became 5 a minute"
    assert ratio <= 1.10, f"{ratio:.3f} of the optimum when 20 became 5 a minute"
    seen.append(f"20->5/min {ratio:.2f}x {refusals}")
    minutes, refusals = _raised(5, 20)
    assert refusals <= 2, f"{refusals} refusals when 5 became 20 a minute"
    assert minutes <= 61, f"20 a minute were noticed after {minutes:.0f} minutes"
    seen.append(f"5->20/min noticed after {minutes:.0f} min of creates, {refusals}")
    return "; ".join(seen)


@contextlib.asynccontextmanager
async def stranger(world: World) -> AsyncIterator[BridgeClient]:
    """Provide another program's client, which knows of no gate.

    It wastes the key's tokens with ``prime_key``: every one of these creates is refused by the schema.
    """
    client = BridgeClient(world.settings())
    try:
        yield client
    finally:
        await client.close()


def _learn(limit: int, start: str) -> tuple[float, int, float]:
    async def work(world: World) -> tuple[float, int, float]:
        debt = {"full": 0, "empty": limit, "in debt": limit + 3}[start]
        async with stranger(world) as other:
            with contextlib.suppress(Exception):
                for _ in range(debt):
                    await other.prime_key()
        async with world.session() as session:
            seconds = await submit_all(session, JOBS)
            owed = debt - limit if start == "in debt" else 0
            tokens = limit if start == "full" else 0
            optimum = (JOBS - tokens + owed) * 60 / limit
            statistics = session.statistics()
            return seconds / optimum, statistics.refusals, statistics.limit_per_minute or 0.0

    return on_virtual_time(work, rate_limit=limit)


def _changed(before: int, after: int) -> tuple[float, int]:
    """Change the limit while a learned one is in use, as the bridge's admin call does: the burst stays."""

    async def work(world: World) -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        async with world.session() as session:
            await submit_all(session, 3 * before)
            refusals = session.statistics().refusals
            world.bridge.set_rate_limit(world.key, after)
            began = loop.time()
            jobs = [session.submit_nowait(config(seed)) for seed in range(1, 10 * after + 1)]
            await asyncio.gather(*(job.submitted() for job in jobs))
            return (loop.time() - began) / (10 * 60), session.statistics().refusals - refusals

    return on_virtual_time(work, rate_limit=before)


def _raised(before: int, after: int) -> tuple[float, int]:
    """Raise the limit soon after it was learned; return after how many minutes that is noticed, and the refusals."""

    async def work(world: World) -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        async with world.session(close_timeout=0) as session:
            await submit_all(session, 3 * before)
            refusals = session.statistics().refusals
            world.bridge.set_rate_limit(world.key, after)
            began = loop.time()
            await session.submit_many(config(seed) for seed in range(1, 80 * before + 1))
            while session.statistics().limit_per_minute != after:
                await asyncio.sleep(10)
            return (loop.time() - began) / 60, session.statistics().refusals - refusals

    return on_virtual_time(work, rate_limit=before)


def herd(_: Context) -> str:
    """R3: ten thousand coroutines at once, limit unknown."""

    async def work(world: World) -> tuple[int, int, int]:
        async with world.session(close_timeout=0) as session:
            callers = [asyncio.create_task(session.submit(config(seed))) for seed in range(1, 10_001)]
            await asyncio.sleep(30 * 60)
            refusals = session.statistics().refusals
            posts = creates(world.bridge)
            busiest = _busiest_minute([post.at for post in posts])
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            return refusals, busiest, sum(entry.outcome == "job" for entry in world.bridge.journal)

    limit = 20
    refusals, busiest, accepted = on_virtual_time(work, rate_limit=limit)
    assert refusals <= 1, f"{refusals} refusals"
    assert busiest <= 2 * limit + 1, f"{busiest} creates in one minute"
    assert accepted >= 20 * 29, f"only {accepted} of at most {20 * 31} accepted in 30 minutes"
    return f"{refusals} refusal, {accepted} accepted in 30 min at {limit}/min, busiest minute {busiest} (burst + rate)"


def _busiest_minute(times: list[float]) -> int:
    first = most = 0
    for index, time in enumerate(times):
        while times[first] <= time - 60:
            first += 1
        most = max(most, index - first + 1)
    return most


def strange_refusals(_: Context) -> str:
    """R5: refusals that say 0.00 seconds or nothing that is known, and other programs on the key."""
    seen = []
    for name, text in (("0.00 s", "rate limit exceeded, please wait 0.00 seconds"), ("other words", "slow down")):

        async def work(world: World, text: str = text) -> tuple[int, int]:
            world.bridge.add_fault("rate_wording", on="create", text=text, count=8)
            async with world.session() as session:
                await submit_all(session, 10)
                posts = [post.at for post in creates(world.bridge)]
                return len(session.jobs()), _busiest_minute(posts)

        jobs, busiest = on_virtual_time(work, rate_limit=5)
        assert busiest <= 10 + 1, f"{busiest} creates in one minute after {name}"
        seen.append(f"{name}: {jobs} of 10 jobs, busiest minute {busiest}")
    refusals = on_virtual_time(_foreign_traffic, rate_limit=5)
    seen.append(f"foreign traffic: all accepted, {refusals} refusals")
    return "; ".join(seen)


async def _foreign_traffic(world: World) -> int:
    """Submit while another program uses the same key for a minute."""

    async def other() -> None:
        async with stranger(world) as client:
            for _ in range(6):
                with contextlib.suppress(Exception):
                    await client.prime_key()
                await asyncio.sleep(10)

    async with world.session(rate_limit=5) as session:
        traffic = asyncio.create_task(other())
        await submit_all(session, 20)
        await traffic
        posts = [post.at for post in creates(world.bridge)]
        assert _busiest_minute(posts) <= 2 * 5 + 1 + 6
        return session.statistics().refusals


CASES = (
    Case(name="R1", fault="limits 1, 5, 20 a minute, known, 60 jobs", run=limit_is_known),
    Case(name="R2", fault="limit unknown; full, empty, in debt, changed", run=limit_is_unknown),
    Case(name="R3", fault="10,000 coroutines submit at once", run=herd),
    Case(name="R5", fault='"wait 0.00 seconds", other words, foreign traffic', run=strange_refusals),
)
