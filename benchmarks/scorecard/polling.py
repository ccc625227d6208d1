"""Cases P1 and P2: what the bridge says of jobs, and what it does not say when it is down. On virtual time."""

import asyncio
import resource

from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.worlds import World, config, on_virtual_time
from crynux_async.states import JobState

MANY = 1_000
MORE = 10_000
MAX_POLL_RATE = 50.0


def strange_statuses(_: Context) -> str:
    """P1: one job of a thousand is gone (two answers say so), one has a status that nobody knows."""

    async def work(world: World) -> dict[JobState, int]:
        async with world.session(rate_limit=60_000) as session:
            jobs = await session.submit_many(config(seed) for seed in range(1, MANY + 1))
            await asyncio.gather(*(job.submitted() for job in jobs))
            gone, weird = (int(jobs[number].task_id or 0) for number in (100, 200))
            body = '{"message":"record not found"}'
            world.bridge.add_fault("body", on="status", task_id=gone, status=500, body=body, count=2)
            body = f'{{"message":"success","data":{{"id":{weird},"status":"weird"}}}}'
            world.bridge.add_fault("body", on="status", task_id=weird, status=200, body=body, count=3)
            await session.wait_all(jobs)
            assert jobs[100].state is JobState.EXPIRED, f"the deleted job is {jobs[100].state}"
            assert jobs[200].state is JobState.SUCCEEDED, f"the job with the unknown status is {jobs[200].state}"
            return session.statistics().jobs

    states = on_virtual_time(work, rate_limit=60_000, durable=False)
    assert states == {JobState.SUCCEEDED: MANY - 1, JobState.EXPIRED: 1}, f"{states}"
    return f"1 expired, {MANY - 1} succeeded"


def outage(_: Context) -> str:
    """P2: the bridge is down for ten minutes while ten thousand jobs run."""

    async def work(world: World) -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        async with world.session(rate_limit=600_000, max_poll_rate=MAX_POLL_RATE) as session:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            jobs = await session.submit_many(config(seed, max_train_steps=1600) for seed in range(1, MORE + 1))
            await asyncio.gather(*(job.submitted() for job in jobs))
            await asyncio.sleep(20 * 60)
            await world.bridge.outage(600)
            began = loop.time()
            await session.wait_all(jobs)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            assert session.statistics().jobs == {JobState.SUCCEEDED: MORE}
            polls = [r.at for r in world.bridge.requests if r.method == "GET" and r.at >= began]
            return grown, _busiest(polls, 10.0)

    grown, busiest = on_virtual_time(work, rate_limit=600_000, durable=False, request_log=2_000_000)
    cap = MAX_POLL_RATE * 10 + MAX_POLL_RATE
    assert busiest <= cap, f"{busiest} status requests within 10 s, the cap allows {cap:.0f}"
    assert grown < 150, f"memory grew by {grown:.0f} MiB, bridge included"
    rate = f"at most {busiest / 10:.0f} polls/s (cap {MAX_POLL_RATE:.0f})"
    return f"0 of {MORE:,} dropped; {rate}; +{grown:.0f} MiB, bridge included"


def _busiest(times: list[float], window: float) -> int:
    first = most = 0
    for index, time in enumerate(times):
        while times[first] <= time - window:
            first += 1
        most = max(most, index - first + 1)
    return most


CASES = (
    Case(name="P1", fault="1 of 1,000 jobs deleted, 1 with an unknown status", run=strange_statuses),
    Case(name="P2", fault="bridge down 10 min with 10,000 running jobs", run=outage),
)
