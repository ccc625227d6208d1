"""Delay against number of polls: the learned policy and a fixed interval at equal polls per job.

``python -m benchmarks.polling``: simulated time, the real PollQueue without a cap, 400 jobs, five submitted a minute.
Three workloads: durations spread widely (lognormal, sigma 0.5, median 20 minutes), a sweep (20 minutes, 15 % more or
less) and two kinds of 10 and 40 minutes that the queue takes for one. The price of the learned policy and the interval
of the fixed one are tuned until both need the same number of polls per job. *Cold* is a first run, *warm* starts with
what a run with other durations has learned. The delay is from the end of a job to the poll that sees it. Each figure is
the median over the seeds.

The first table shows what learning is worth: no policy in it keeps to a bound. By default the queue promises that no
end is noticed later than half of the job's age and a minute. For that a job of 20 minutes has to be polled five times
before anything is expected, whoever plans it, so the second table compares policies that all keep the promise, the
fixed interval included, from 12 polls a job on; with 6 there would be nothing left to plan. The third shows what the
promise is for: see ``benchmarks.polling_changes``.
"""

import argparse
import math
import random
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any, Protocol, TypeVar

import attrs

from benchmarks import polling_changes
from benchmarks.reporting import finish, show_table
from crynux_async.pacing.age_bins import HazardSnapshot
from crynux_async.pacing.poll_queue import PollQueue

JOBS = 400
SPACING = 12.0
TYPICAL = 1200.0
POLLS = (6, 12, 24, 48)
BOUND = 0.5  # the queue's own: no end is noticed later than this part of the job's age and a minute
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


def run_fixed(durations: Sequence[float], interval: float, bound: float | None) -> Run:
    """Poll at a fixed interval, or more often where the bound wants it: in both cases at the same ages for all jobs."""
    ages = [0.0]
    longest = max(durations)
    while ages[-1] < longest:
        ages.append(ages[-1] + min(interval, math.inf if bound is None else bound * ages[-1] + polling_changes.GRACE))
    polls = [bisect_left(ages, duration) for duration in durations]
    return Run(polls=fmean(polls), delays=[ages[n] - d for n, d in zip(polls, durations, strict=True)])


def run_learned(
    durations: Sequence[float], target_delay: float, bound: float | None, learned: HazardSnapshot | None = None
) -> Run:
    queue = PollQueue(target_delay=target_delay, requests_per_second=None, worst_delay=bound)
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


def fixed_at(durations: Sequence[float], polls: float, bound: float | None) -> Run:
    """Bisect for the interval that needs so many polls a job."""
    low, high = 0.1, 10_000.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if run_fixed(durations, middle, bound).polls > polls else (low, middle)
    return run_fixed(durations, high, bound)


class HasPolls(Protocol):
    """The outcome of a simulated run that tells how many polls a job took."""

    @property
    def polls(self) -> float: ...


_Outcome = TypeVar("_Outcome", bound=HasPolls)


def learned_at(simulate: Callable[[float], _Outcome], polls: float, price: float) -> tuple[float, _Outcome]:
    """Search for the price that needs so many polls a job; polls go about with the inverse of its square root."""
    run = simulate(price)
    for _ in range(8):
        # Below such a price only min_interval counts, and no price buys more polls.
        if abs(run.polls / polls - 1.0) < 0.01 or price < 1e-3:
            break
        price *= (run.polls / polls) ** 2
        run = simulate(price)
    return price, run


def frontier(workload: str, seed: int, bound: float | None) -> list[Row]:
    """Measure all policies at all numbers of polls for one seed."""
    durations = [WORKLOADS[workload](rng) for rng in [random.Random(seed)] for _ in range(JOBS)]
    earlier = [WORKLOADS[workload](rng) for rng in [random.Random(seed + 1_000)] for _ in range(JOBS)]
    rows = []
    cold_price, warm_price, asked = 2.0, 2.0, 16.0
    for polls in POLLS if bound is None else POLLS[1:]:
        ratio = (asked / polls) ** 2
        cold_price, cold = learned_at(lambda c: run_learned(durations, c, bound), polls, cold_price * ratio)
        learned = run_learned(earlier, cold_price, bound).learned
        warm_price, warm = learned_at(
            lambda c: run_learned(durations, c, bound, learned),  # noqa: B023
            polls,
            warm_price * ratio,
        )
        asked = polls
        for policy, run in (("fixed", fixed_at(durations, polls, bound)), ("cold", cold), ("warm", warm)):
            gain = 1.0 if policy == "fixed" else fixed_at(durations, run.polls, bound).mean / run.mean
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


def verdict(rows: Sequence[Row], changes: Sequence[polling_changes.Row]) -> dict[str, bool]:
    """Compare with what the policy is meant to reach."""
    aimed = [row for row in rows if row.workload == "sweep" and row.target_polls in TARGET_POLLS]
    met = {
        f"sweep {policy} at least {gain:g}x": all(row.gain >= gain for row in aimed if row.policy == policy)
        for policy, gain in TARGETS.items()
    }
    return {
        **met,
        "never worse than fixed": all(row.gain >= 1.0 for row in rows),
        "no end later than half the age and a minute": all(row.kept_bound for row in changes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.polling")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default 3)")
    seeds = range(1, 1 + parser.parse_args().seeds)
    began = time.perf_counter()
    free, bounded = (measure(seeds, bound) for bound in (None, BOUND))
    changes = polling_changes.measure(seeds[0])
    columns = ("workload", "at polls", "policy", "polls", "mean s", "p95 s", "gain")
    title = f"Delay of the detection at equal polls per job, median of {len(seeds)} seeds"
    show_table(f"{title}, without a bound", columns, [attrs.astuple(row) for row in free])
    show_table(f"{title}, with the bound", columns, [attrs.astuple(row) for row in bounded])
    show_table(
        "Misleading pasts, with the bound",
        ("case", "jobs", "polls", "mean s", "worst s", "bound kept"),
        [(*attrs.astuple(row)[:-1], "yes" if row.kept_bound else "NO") for row in changes],
    )
    met = verdict(free, changes)
    show_table("Aims", ("aim", "met"), [(aim, "yes" if holds else "NO") for aim, holds in met.items()])
    seconds = round(time.perf_counter() - began, 1)
    rows = {
        name: [plain(row) for row in some]
        for name, some in (("rows", free), ("bounded", bounded), ("changes", changes))
    }
    finish("polling", {"jobs": JOBS, "seeds": len(seeds), "seconds": seconds, "met": met, **rows})


def measure(seeds: Sequence[int], bound: float | None) -> list[Row]:
    """Return the table for one bound."""
    return [
        over_seeds(same)
        for workload in WORKLOADS
        for same in zip(*(frontier(workload, seed, bound) for seed in seeds), strict=True)
    ]


def plain(row: Row | polling_changes.Row) -> dict[str, Any]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in attrs.asdict(row).items()}


if __name__ == "__main__":
    main()
