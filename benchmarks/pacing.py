"""How long it takes to submit sixty jobs, and a thousand in hard scenes: ``python -m benchmarks.pacing``.

Everything runs on virtual time, through the real transport, against the emulated bridge, whose bucket is the real
bridge's. A ratio is the time until the last job is accepted over the optimum (N - burst) * 60 / limit. Peers send with
plain aiohttp: "obey the wait" sleeps as long as the refusal says, "backoff" doubles from 1 s to 60 s, "aiolimiter" is
told the limit. A create takes 0.04 to 0.3 s to reach the bridge, drawn from one seed for everybody.

The hard scenes (creates that hang, others on the key, long and jittery ways) are those of ``benchmarks.pacing_fuzz``:
the limiter and the client's bucket without a transport, the median of five seeds. Where the limit is unknown the ratio
is to a client that is told limit and burst, in the same scene; what others take of a key counts as taken.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import aiohttp
import attrs
from aiolimiter import AsyncLimiter

from benchmarks.pacing_simulation import Scene, play
from benchmarks.reporting import finish, show_table
from benchmarks.scorecard.worlds import World, config, creates, on_virtual_time, submit_all
from crynux_async.backends.base import CreatedTask
from crynux_async.backends.bridge.backend import BridgeBackend
from crynux_async.backends.bridge.wire import parse_wait, to_wire
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.session import Session
from crynux_async.settings import Settings

JOBS = 60
SEED = 7
WAY_OUT = (0.04, 0.30)  # seconds that a create needs to reach the bridge, evenly spread
LIMITS = (1, 5, 20)
HORIZON = 3 * 3600.0

_TOLD = Scene(limit=60, burst=60, is_told=True)
_UNKNOWN = attrs.evolve(_TOLD, is_told=False)
_ONE = attrs.evolve(_UNKNOWN, burst=1)
HARD = {
    "60/min known, 5 % hang": attrs.evolve(_TOLD, jobs=600, hanging=0.05),
    "120/min known, 5 % hang": attrs.evolve(_TOLD, limit=120, burst=120, jobs=600, hanging=0.05),
    "60/min unknown, 3 % hang": attrs.evolve(_UNKNOWN, jobs=600, hanging=0.03),
    "60/min known, others take half for 30 min": attrs.evolve(
        _TOLD, told_burst=False, jobs=4000, foreign=tuple(2.0 * i for i in range(900))
    ),
    "600/min unknown, way 0.15 s": attrs.evolve(
        _UNKNOWN, limit=600, burst=600, jobs=1200, way_out=(0.15, 0.15), way_back=(0.15, 0.15)
    ),
    "60/min unknown, way 0.7 s": attrs.evolve(_UNKNOWN, jobs=1200, way_out=(0.7, 0.7), way_back=(0.7, 0.7)),
    "60/min unknown, burst 1, way 0.05-0.5 s": attrs.evolve(_ONE, way_out=(0.05, 0.5), way_back=(0.05, 0.5)),
    "60/min unknown, burst 1, way 0.02-2 s": attrs.evolve(_ONE, way_out=(0.02, 2.0), way_back=(0.02, 2.0)),
    "60/min unknown, burst 1, way 0.5-10 s": attrs.evolve(_ONE, way_out=(0.5, 10.0), way_back=(0.5, 10.0)),
    "60/min unknown, way 0.5-10 s": attrs.evolve(_UNKNOWN, way_out=(0.5, 10.0), way_back=(0.5, 10.0)),
}

Row = tuple[str, int, float | None, int, int]
Send = Callable[[], Awaitable[dict[str, Any]]]


def main() -> None:
    """Measure and print."""
    rows: list[Row] = []
    for limit in LIMITS:
        rows.append(_session("crynux_async, limit known", limit, known=True))
        rows.append(_session("crynux_async, limit unknown", limit, known=False))
        rows.append(_four_clients(limit))
        rows.append(_peer("obey the wait", limit, _obey))
        rows.append(_peer("backoff 1-60 s", limit, _backoff))
        rows.append(_peer("aiolimiter", limit, _aiolimiter))
    columns = ("client", "limit/min", "time/optimum", "refusals", f"accepted of {JOBS}")
    show_table(f"Submitting {JOBS} jobs; no ratio: not done after 3 h", columns, rows)
    hard = [_hard(name, scene) for name, scene in HARD.items()]
    columns = ("scene", "creates", "time/best", "refusals", "most")
    show_table("Hard scenes, median of five seeds; most: refusals of the worst", columns, hard)
    keys = ("client", "limit", "ratio", "refusals", "accepted")
    hard_keys = ("scene", "creates", "ratio", "refusals", "refusals_most")
    finish(
        "pacing",
        {
            "jobs": JOBS,
            "rows": [dict(zip(keys, row, strict=True)) for row in rows],
            "hard": [dict(zip(hard_keys, row, strict=True)) for row in hard],
        },
    )


def _hard(name: str, scene: Scene) -> tuple[str, int, float, float, int]:
    scenes = [attrs.evolve(scene, seed=seed) for seed in range(5)]
    outlines = [play(one) for one in scenes]
    optimum = (scene.jobs + len(scene.foreign) - scene.burst) * 60 / scene.limit
    best = [optimum if scene.is_told else play(attrs.evolve(one, is_told=True)).seconds for one in scenes]
    ratios = [outline.seconds / seconds for outline, seconds in zip(outlines, best, strict=True)]
    refusals = [outline.refusals for outline in outlines]
    return name, scene.jobs, median(ratios), float(median(refusals)), max(refusals)


def _session(name: str, limit: int, *, known: bool) -> Row:
    async def work(world: World) -> tuple[float, int]:
        settings = world.settings(**({"rate_limit": limit} if known else {}))
        backend = DistantBackend(settings)
        async with Session(settings, backend=backend) as session:
            result = await submit_all(session, JOBS), session.statistics().refusals
        await backend.close()
        return result

    seconds, refusals = on_virtual_time(work, rate_limit=limit)
    return name, limit, _ratio(seconds, limit), refusals, JOBS


def _four_clients(limit: int) -> Row:
    """Four sessions that share one key through one ledger, each with a quarter of the jobs."""

    async def work(world: World) -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        ledger = MemoryLedger()
        settings = world.settings(rate_limit=limit)
        backends = [DistantBackend(settings) for _ in range(4)]
        sessions = [Session(settings, ledger=ledger, backend=backend) for backend in backends]
        for session in sessions:
            await session.open()
        began = loop.time()
        jobs = [session.submit_nowait(config(seed)) for session in sessions for seed in range(1, JOBS // 4 + 1)]
        await asyncio.gather(*(job.submitted() for job in jobs))
        seconds = loop.time() - began
        refused = sum(request.status == 400 for request in creates(world.bridge))
        for session, backend in zip(sessions, backends, strict=True):
            await session.close()
            await backend.close()
        return seconds, refused

    seconds, refusals = on_virtual_time(work, rate_limit=limit)
    return "crynux_async, 4 clients, 1 ledger", limit, _ratio(seconds, limit), refusals, JOBS


def _peer(name: str, limit: int, policy: Callable[[Send, int], Awaitable[int]]) -> Row:
    async def work(world: World) -> tuple[float | None, int, int]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with aiohttp.ClientSession() as http:
            url, headers = f"{world.bridge.url}/v1/images/models", {"Authorization": f"Bearer {world.key}"}
            done: list[float] = []
            way = random.Random(SEED)

            async def send() -> dict[str, Any]:
                await asyncio.sleep(way.uniform(*WAY_OUT))
                async with http.post(url, json=to_wire(config()), headers=headers) as response:
                    answer: dict[str, Any] = await response.json()
                    if response.status == 200:
                        done.append(loop.time() - began)
                    return answer

            try:
                async with asyncio.timeout(HORIZON):
                    await policy(send, limit)
            except TimeoutError:
                pass
        refusals = sum(request.status == 400 for request in creates(world.bridge))
        return (done[-1] if len(done) == JOBS else None), refusals, len(done)

    seconds, refusals, accepted = on_virtual_time(work, rate_limit=limit, durable=False)
    return name, limit, None if seconds is None else _ratio(seconds, limit), refusals, accepted


class DistantBackend(BridgeBackend):
    """The bridge, as far away as the peers have it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._way = random.Random(SEED)

    async def create(self, payload: str) -> CreatedTask:
        """Send one create over the long way."""
        await asyncio.sleep(self._way.uniform(*WAY_OUT))
        return await super().create(payload)


async def _obey(send: Send, _: int) -> int:
    for _job in range(JOBS):
        while (wait := parse_wait(str(await send()))) is not None:
            await asyncio.sleep(wait)
    return JOBS


async def _backoff(send: Send, _: int) -> int:
    for _job in range(JOBS):
        delay = 1.0
        while parse_wait(str(await send())) is not None:
            await asyncio.sleep(delay)
            delay = min(60.0, 2 * delay)
    return JOBS


async def _aiolimiter(send: Send, limit: int) -> int:
    limiter = AsyncLimiter(limit, 60)
    for _job in range(JOBS):
        while True:
            async with limiter:
                if parse_wait(str(await send())) is None:
                    break
    return JOBS


def _ratio(seconds: float, limit: int) -> float:
    return seconds / ((JOBS - limit) * 60 / limit)


if __name__ == "__main__":
    main()
