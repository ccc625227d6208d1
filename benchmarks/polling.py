"""Delay against number of polls: the learned policy and a fixed interval at equal polls per job.

``python -m benchmarks.polling``: simulated time, the real PollQueue without a cap, 400 jobs, five submitted a minute.
Three workloads: durations spread widely (lognormal, sigma 0.5, median 20 minutes), a sweep (20 minutes, 15 % more or
less) and two kinds of 10 and 40 minutes that the queue takes for one. The price of the learned policy and the interval
of the fixed one are tuned until both need the same number of polls per job. *Cold* is a first run, *warm* starts with
what a run with other durations has learned. The delay is from the end of a job to the poll that sees it. Each figure is
the median over the seeds.
"""

import argparse
import math
import random
import time
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

import attrs

from benchmarks.reporting import finish, show_table
from crynux_async.pacing.hazard import HazardSnapshot
from crynux_async.pacing.poll_queue import PollQueue

JOBS = 400
SPACING = 12.0
TYPICAL = 1200.0
POLLS = (6, 12, 24, 48)
KIND = "sd15 512x512"
# On the sweep at these numbers of polls the gain is to be at least so much.
TARGETS = {"cold": 4.0, "warm": 5.0}
TARGET_POLLS = (6, 12, 24)


def lognormal(rng: random.Random) -> float:
    return TYPICAL * math.exp(rng.gauss(0.0, 0.5))


def sweep(rng: random.Random) -> float:
    return TYPICAL * rng.uniform(0.85, 1.15)


def two_kinds(rng: random.Random) -> float:
    return rng.choice((600.0, 2400.0)) * rng.uniform(0.9, 1.1)


WORKLOADS: dict[str, Callable[[random.Random], float]] = {
    "lognormal": lognormal,
    "sweep": sweep,
    "two kinds": two_kinds,
}


@attrs.frozen(kw_only=True)
class Run:
    """What one simulated run came to: polls per job, delays in seconds, and what was learned."""

    polls: float
    delays: Sequence[float]
    learned: HazardSnapshot = HazardSnapshot()

    @property
    def mean(self) -> float:
        return fmean(self.delays)

    @property
    def p95(self) -> float:
        return sorted(self.delays)[int(0.95 * len(self.delays))]


@attrs.frozen(kw_only=True)
class Row:
    """One line of the table; ``gain`` is how many times shorter than fixed at the same polls the mean delay is."""

    workload: str
    target_polls: int
    policy: str
    polls: float
    mean: float
    p95: float
    gain: float


def run_fixed(durations: Sequence[float], interval: float) -> Run:
    polls = [math.ceil(d / interval) for d in durations]
    return Run(polls=fmean(polls), delays=[n * interval - d for n, d in zip(polls, durations, strict=True)])


def run_learned(durations: Sequence[float], target_delay: float, learned: HazardSnapshot | None = None) -> Run:
    queue = PollQueue(target_delay=target_delay, requests_per_second=None)
    if learned is not None:
        queue.restore(KIND, learned)
    starts = [i * SPACING for i in range(len(durations))]
    submitted, delays, now = 0, [], 0.0
    while submitted < len(starts) or len(queue):
        due_at = queue.next_at(now)
        if submitted < len(starts) and starts[submitted] <= due_at:
            now = starts[submitted]
            queue.add(submitted, kind=KIND, started_at=now, now=now)
            submitted += 1
            continue
        now = due_at
        for job in queue.due(now, at_most=len(starts)):
            assert isinstance(job, int)
            ended_at = starts[job] + durations[job]
            if now < ended_at:
                queue.running(job, now)
            else:
                queue.ended(job, now)
                delays.append(now - ended_at)
    return Run(polls=queue.statistics().polls / len(starts), delays=delays, learned=queue.snapshots()[KIND])


def fixed_at(durations: Sequence[float], polls: float) -> Run:
    """Bisect for the interval that needs so many polls a job."""
    low, high = 0.1, 10_000.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if run_fixed(durations, middle).polls > polls else (low, middle)
    return run_fixed(durations, high)


def learned_at(simulate: Callable[[float], Run], polls: float, price: float) -> tuple[float, Run]:
    """Search for the price that needs so many polls a job; polls go about with the inverse of its square root."""
    run = simulate(price)
    for _ in range(8):
        # Below such a price only min_interval counts, and no price buys more polls.
        if abs(run.polls / polls - 1.0) < 0.01 or price < 1e-3:
            break
        price *= (run.polls / polls) ** 2
        run = simulate(price)
    return price, run


def frontier(workload: str, seed: int) -> list[Row]:
    """Measure all policies at all numbers of polls for one seed."""
    durations = [WORKLOADS[workload](rng) for rng in [random.Random(seed)] for _ in range(JOBS)]
    earlier = [WORKLOADS[workload](rng) for rng in [random.Random(seed + 1_000)] for _ in range(JOBS)]
    rows = []
    cold_price, warm_price, asked = 2.0, 2.0, 16.0
    for polls in POLLS:
        ratio = (asked / polls) ** 2
        cold_price, cold = learned_at(lambda c: run_learned(durations, c), polls, cold_price * ratio)
        learned = run_learned(earlier, cold_price).learned
        warm_price, warm = learned_at(lambda c: run_learned(durations, c, learned), polls, warm_price * ratio)  # noqa: B023
        asked = polls
        fixed = fixed_at(durations, polls)
        for policy, run in (("fixed", fixed), ("cold", cold), ("warm", warm)):
            gain = 1.0 if policy == "fixed" else fixed_at(durations, run.polls).mean / run.mean
            rows.append(
                Row(
                    workload=workload,
                    target_polls=polls,
                    policy=policy,
                    polls=run.polls,
                    mean=run.mean,
                    p95=run.p95,
                    gain=gain,
                )
            )
    return rows


def over_seeds(rows: Sequence[Row]) -> Row:
    """Return the median row of several seeds, number by number."""
    numbers = {name: median(getattr(row, name) for row in rows) for name in ("polls", "mean", "p95", "gain")}
    return attrs.evolve(rows[0], **numbers)


def verdict(rows: Sequence[Row]) -> dict[str, bool]:
    """Compare with what the policy is meant to reach."""
    aimed = [row for row in rows if row.workload == "sweep" and row.target_polls in TARGET_POLLS]
    met = {
        f"sweep {policy} at least {gain:g}x": all(row.gain >= gain for row in aimed if row.policy == policy)
        for policy, gain in TARGETS.items()
    }
    return {**met, "never worse than fixed": all(row.gain >= 1.0 for row in rows)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.polling")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default 3)")
    seeds = range(1, 1 + parser.parse_args().seeds)
    began = time.perf_counter()
    rows = [
        over_seeds(same)
        for workload in WORKLOADS
        for same in zip(*(frontier(workload, seed) for seed in seeds), strict=True)
    ]
    show_table(
        f"Delay of the detection at equal polls per job, median of {len(seeds)} seeds",
        ("workload", "at polls", "policy", "polls", "mean s", "p95 s", "gain"),
        [attrs.astuple(row) for row in rows],
    )
    met = verdict(rows)
    show_table("Aims", ("aim", "met"), [(aim, "yes" if holds else "NO") for aim, holds in met.items()])
    seconds = round(time.perf_counter() - began, 1)
    finish(
        "polling", {"jobs": JOBS, "seeds": len(seeds), "seconds": seconds, "met": met, "rows": list(map(plain, rows))}
    )


def plain(row: Row) -> dict[str, Any]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in attrs.asdict(row).items()}


if __name__ == "__main__":
    main()
