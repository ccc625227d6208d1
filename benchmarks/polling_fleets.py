"""How near learned polling comes to what nobody can better: ``python -m benchmarks.polling_fleets [--seeds N]``.

Simulated time, the real PollQueue without a cap and without the bound, jobs of several kinds mixed, five submitted a
minute. The *optimum* knows the true distribution of each kind's durations, and nothing else: the best instants to poll
are computed for it by dynamic programming, at the price at which the whole fleet takes as many polls as the learned
policy took, and are tried on the same jobs. *Warm* starts with what a run with other durations has learned.

At the relay a task waits for a node, trains, has a score that must be seen before it is validated, and then uploads.
The backend wishes when to look again, and tells these phases, which are learned: ``benchmarks.polling_relay`` has how
that is simulated, and an optimum that has to look, too, to learn that a training has begun. *Cold* is a first run, held
to the wishes alone on the same tasks. The last table has jobs of a bridge and of the relay in one queue: held to the
optimum that takes as many looks for each kind, and to one that has a single price for all. The queue has two, because
a user's ``poll_delay`` is the bridge's price, and the relay says for itself how late it may be.

The last line has each workload's figure with its goal: the delay to the optimum's at as many polls. The optimum never
knows more of a job than the queue is told: of two kinds taken for one it knows the mixture.
"""

import argparse
import math
import random
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import Any, TypeVar

import attrs

from benchmarks.polling import SPACING, learned_at, lognormal, sweep, two_kinds
from benchmarks.polling_optimum import Ages, Draw
from benchmarks.polling_relay import RELAY_KINDS, MixedRow, RelayRow, mixed_rows, quick, relay_row
from benchmarks.reporting import finish, show_table
from crynux_async.pacing.age_bins import HazardSnapshot
from crynux_async.pacing.poll_queue import PollQueue

JOBS = 1500
POLLS = (6, 12, 24)
LEAST = 5.0  # the queue's own shortest interval
RELAY_TASKS = 1000
MIXED_JOBS = 1200
AIM = 1.05


def early_failures(rng: random.Random) -> float:
    return rng.uniform(30.0, 90.0) if rng.random() < 0.2 else sweep(rng)


FLEETS: dict[str, dict[str, Draw]] = {
    "lognormal alone": {"lognormal": lognormal},
    "sweep alone": {"sweep": sweep},
    "two kinds taken for one": {"two kinds": two_kinds},
    "four kinds": {"quick": quick, "sweep": sweep, "lognormal": lognormal, "two kinds": two_kinds},
    "a fifth fails early": {"early": early_failures, "quick": quick},
}


@attrs.frozen(kw_only=True)
class Job:
    """One job of a fleet: its kind, and after how many seconds it ends."""

    kind: str
    seconds: float


@attrs.frozen(kw_only=True)
class Run:
    """What one simulated run came to: polls per job, mean delay in seconds, and what was learned by kind."""

    polls: float
    mean: float
    learned: dict[str, HazardSnapshot] = attrs.field(factory=dict)


def polled(seconds: float, ages: Sequence[float]) -> tuple[int, float]:
    """Return the polls and the delay of one job that is polled at these ages, and at the last interval from then on."""
    index = bisect_left(ages, seconds)
    if index < len(ages):
        return index + 1, ages[index] - seconds
    more = math.ceil((seconds - ages[-1]) / LEAST)
    return len(ages) + more, ages[-1] + more * LEAST - seconds


def optimum_at(jobs: Sequence[Job], known: dict[str, Ages], polls: float) -> Run:
    """Return the best run with so many polls a job."""

    def tried(price: float) -> Run:
        ages = {kind: lasting.schedule(price, shortest=LEAST) for kind, lasting in known.items()}
        seen = [polled(job.seconds, ages[job.kind]) for job in jobs]
        return Run(polls=fmean(n for n, _ in seen), mean=fmean(delay for _, delay in seen))

    low, high = 1e-3, 1e4
    for _ in range(14):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if tried(middle).polls > polls else (low, middle)
    # Schedules change by whole polls: between two prices the mixture of their runs is meant.
    more, fewer = tried(low), tried(high)
    part = (polls - fewer.polls) / (more.polls - fewer.polls) if more.polls > fewer.polls else 0.0
    return Run(polls=polls, mean=fewer.mean + part * (more.mean - fewer.mean))


def run_learned(jobs: Sequence[Job], target_delay: float, learned: dict[str, HazardSnapshot]) -> Run:
    """Poll a fleet as the queue plans it."""
    queue = PollQueue(target_delay=target_delay, requests_per_second=None, worst_delay=None)
    for kind, snapshot in learned.items():
        queue.restore(kind, snapshot)
    starts = [i * SPACING for i in range(len(jobs))]
    submitted, delays, now = 0, [], 0.0
    while submitted < len(jobs) or len(queue):
        due_at = queue.next_at(now)
        if submitted < len(jobs) and starts[submitted] <= due_at:
            now = starts[submitted]
            queue.add(submitted, kind=jobs[submitted].kind, started_at=now, now=now)
            submitted += 1
            continue
        now = due_at
        for number in queue.due(now, at_most=len(jobs)):
            assert isinstance(number, int)
            ended_at = starts[number] + jobs[number].seconds
            if now < ended_at:
                queue.running(number, now)
            else:
                queue.ended(number, now)
                delays.append(now - ended_at)
    return Run(polls=queue.statistics().polls / len(jobs), mean=fmean(delays), learned=queue.snapshots())


def drawn(fleet: dict[str, Draw], seed: int, count: int) -> list[Job]:
    rng, kinds = random.Random(seed), list(fleet)
    picked = [kinds[number % len(kinds)] for number in range(count)]
    return [Job(kind=kind, seconds=fleet[kind](rng)) for kind in picked]


def frontier(name: str, seed: int) -> Iterator[tuple[float, float, float, float]]:
    """Yield for each number of polls: polls, mean delay warm, the optimum's, and the ratio of both."""
    fleet = FLEETS[name]
    known = {kind: Ages.of(draw) for kind, draw in fleet.items()}
    jobs, earlier = drawn(fleet, seed, JOBS), drawn(fleet, seed + 1_000, JOBS // 4 * len(fleet))
    price, asked = 2.0, 16.0
    for polls in POLLS:
        price *= (asked / polls) ** 2
        learned = run_learned(earlier, price, {}).learned
        price, warm = learned_at(lambda c: run_learned(jobs, c, learned), polls, price)  # noqa: B023
        best = optimum_at(jobs, known, warm.polls)
        asked = polls
        yield warm.polls, warm.mean, best.mean, warm.mean / best.mean


def held_to(workload: str, figure: float, goal: float = AIM) -> dict[str, Any]:
    return {"workload": workload, "figure": round(figure, 3), "goal": goal, "met": figure <= goal}


def relay_goals(row: RelayRow) -> list[dict[str, Any]]:
    """Hold learned looks to the optimum's delay, and a first run to that of the wishes and to their number."""
    return [
        held_to(f"relay, {row.kind}", row.warm[1] / row.best),
        held_to(f"relay, {row.kind}, within the bound", row.bounded[1] / row.bounded_best),
        held_to(f"relay, {row.kind}, cold, delay to the wishes'", row.cold[1] / row.wishes[1], 1.0),
        held_to(f"relay, {row.kind}, cold, looks to the wishes'", row.cold[0] / row.wishes[0], 1.0),
    ]


_Row = TypeVar("_Row", RelayRow, MixedRow)


def medians(rows: Sequence[_Row]) -> _Row:
    """Return the median row of several seeds, number by number."""
    columns = {name: [getattr(row, name) for row in rows] for name in attrs.fields_dict(type(rows[0]))}
    return attrs.evolve(rows[0], **{name: _median(values) for name, values in columns.items()})


def _median(values: Sequence[Any]) -> Any:
    if isinstance(values[0], tuple):
        return tuple(median(column) for column in zip(*values, strict=True))
    return values[0] if isinstance(values[0], str) else median(values)


def goal_row(held: Mapping[str, Any]) -> tuple[Any, ...]:
    return held["workload"], held["figure"], held["goal"], "yes" if held["met"] else "NO"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.polling_fleets")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default 3)")
    seeds = range(1, 1 + parser.parse_args().seeds)
    began = time.perf_counter()
    rows = [
        (name, asked, *(median(column) for column in zip(*same, strict=True)))
        for name in FLEETS
        for asked, *same in zip(POLLS, *(frontier(name, seed) for seed in seeds), strict=True)
    ]
    show_table(
        f"Mean delay, warm, at equal polls a job; median of {len(seeds)} seeds, {JOBS} jobs",
        ("fleet", "at polls", "polls", "learned s", "optimum s", "ratio"),
        rows,
    )
    relay = [medians([relay_row(kind, seed, RELAY_TASKS) for seed in seeds]) for kind in RELAY_KINDS]
    show_table(
        f"The relay, {RELAY_TASKS} tasks: looks, and what they put the end off; * within the queue's bound",
        ("tasks", "wishes", "late s", "cold", "late s", "warm", "late s", "optimum s", "warm*", "late s", "optimum s"),
        [(row.kind, *row.wishes, *row.cold, *row.warm, row.best, *row.bounded, row.bounded_best) for row in relay],
    )
    mixed = [medians(list(same)) for same in zip(*(mixed_rows(seed, MIXED_JOBS) for seed in seeds), strict=True)]
    show_table(
        f"Bridge and relay in one queue, {MIXED_JOBS} jobs, warm",
        ("kind", "looks", "late s", "optimum s at as many looks", "ratio"),
        [(row.kind, row.looks, row.late, row.best, row.ratio) for row in mixed],
    )
    held = [held_to(f"{name}, {asked} polls", ratio) for name, asked, _, _, _, ratio in rows]
    held += [goal for row in relay for goal in relay_goals(row)]
    held += [held_to(f"mixed fleet, {row.kind}", row.ratio) for row in mixed]
    show_table(
        "Goals: delay to the optimum's at equal polls",
        ("workload", "figure", "goal", "met"),
        [goal_row(h) for h in held],
    )
    finish(
        "polling_fleets",
        {
            "seconds": round(time.perf_counter() - began, 1),
            "met": all(one["met"] for one in held),
            "goals": held,
            "rows": [list(row) for row in rows],
            "relay": [attrs.asdict(row) for row in relay],
            "mixed": [attrs.asdict(row) for row in mixed],
        },
    )


if __name__ == "__main__":
    main()
