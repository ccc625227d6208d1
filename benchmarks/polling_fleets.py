"""How near learned polling comes to what nobody can better: ``python -m benchmarks.polling_fleets [--seeds N]``.

Simulated time, the real PollQueue without a cap and without the bound, jobs of several kinds mixed, five submitted a
minute. The *optimum* knows the true distribution of each kind's durations, and nothing else: the best instants to poll
are computed for it by dynamic programming, at the price at which the whole fleet takes as many polls as the learned
policy took, and are tried on the same jobs. *Warm* starts with what a run with other durations has learned.

On the relay nothing is learned: a task waits for a node, trains, has a score that must be seen before it is validated,
and then uploads, and because what is seen late is taken from its node's time the backend says when to look again. The
second table has what all looks of a task together put its end off, and the same from somebody who knows the
distributions and is told for nothing when training begins. The last line has each workload's figure with its goal: the
delay to the optimum's at as many polls, for the relay also the looks to the fewest with as much delay (``looks``).
The optimum never knows more of a job than the queue is told: of two kinds taken for one it knows the mixture.
"""

import argparse
import math
import random
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from statistics import fmean, median
from typing import Any

import attrs
import numpy as np

from benchmarks.polling import SPACING, learned_at, lognormal, sweep, two_kinds
from benchmarks.reporting import finish, show_table
from crynux_async.backends.relay import steps as relay_steps
from crynux_async.backends.relay import tasks as relay_tasks_module
from crynux_async.backends.relay.steps import again_after, first_look_after, spread
from crynux_async.backends.relay.tasks import Status
from crynux_async.pacing.age_bins import HazardSnapshot
from crynux_async.pacing.poll_queue import PollQueue

JOBS = 1500
POLLS = (6, 12, 24)
GRID = 1.0  # seconds between the instants among which the optimum chooses
LEAST = 5.0  # the queue's own shortest interval
DRAWS = 200_000
RELAY_TASKS = 1000
SOON = 1.0  # after a step was done, as the relay's backend looks again
TICK = 0.25  # the queue's own
AIM = 1.05

Draw = Callable[[random.Random], float]


def quick(rng: random.Random) -> float:
    return 300.0 * rng.uniform(0.9, 1.1)


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


@attrs.frozen(kw_only=True, eq=False)
class Durations:
    """How long jobs of a kind take: what part has ended by each instant of the grid, and the integral of that."""

    ended: "np.ndarray"
    area: "np.ndarray"

    @classmethod
    def of(cls, draw: Draw) -> "Durations":
        rng = random.Random(0)
        drawn = np.sort([draw(rng) for _ in range(DRAWS)])
        grid = np.arange(0.0, drawn[-1] + 2 * GRID, GRID)
        ended = np.searchsorted(drawn, grid, side="right") / DRAWS
        steps = (ended[1:] + ended[:-1]) / 2 * GRID
        return cls(ended=ended, area=np.concatenate([[0.0], np.cumsum(steps)]))

    def schedule(self, price: float, shortest: float = LEAST) -> list[float]:
        """Return the ages at which to poll so that delay plus ``price`` for each poll is least in expectation."""
        count, least = len(self.ended), math.ceil(shortest / GRID)
        at = np.arange(count) * GRID
        cost, following = np.zeros(count), np.full(count, count - 1)
        for here in range(count - 1 - least, -1, -1):
            later = slice(here + least, count)
            lived = 1.0 - self.ended[here]
            if lived <= 0.0:
                continue
            hidden = self.area[later] - self.area[here] - self.ended[here] * (at[later] - at[here])
            whole = price * lived + hidden + cost[later]
            best = int(np.argmin(whole))
            following[here], cost[here] = here + least + best, whole[best]
        ages, here = [], 0
        while here < count - 1:
            here = int(following[here])
            ages.append(here * GRID)
        return ages


def polled(seconds: float, ages: Sequence[float]) -> tuple[int, float]:
    """Return the polls and the delay of one job that is polled at these ages, and at the last interval from then on."""
    index = bisect_left(ages, seconds)
    if index < len(ages):
        return index + 1, ages[index] - seconds
    more = math.ceil((seconds - ages[-1]) / LEAST)
    return len(ages) + more, ages[-1] + more * LEAST - seconds


def optimum_at(jobs: Sequence[Job], known: dict[str, Durations], polls: float) -> Run:
    """Return the best run with so many polls a job."""

    def tried(price: float) -> Run:
        ages = {kind: durations.schedule(price) for kind, durations in known.items()}
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
    known = {kind: Durations.of(draw) for kind, draw in fleet.items()}
    jobs, earlier = drawn(fleet, seed, JOBS), drawn(fleet, seed + 1_000, JOBS // 4 * len(fleet))
    price, asked = 2.0, 16.0
    for polls in POLLS:
        price *= (asked / polls) ** 2
        learned = run_learned(earlier, price, {}).learned
        price, warm = learned_at(lambda c: run_learned(jobs, c, learned), polls, price)  # noqa: B023
        best = optimum_at(jobs, known, warm.polls)
        asked = polls
        yield warm.polls, warm.mean, best.mean, warm.mean / best.mean


@attrs.frozen(kw_only=True)
class RelayTask:
    """One task of a relay: seconds in the queue, of training, and from its validation to its upload."""

    queued: float
    training: float
    upload: float


def relay_tasks(draw: Draw, seed: int) -> list[RelayTask]:
    rng = random.Random(seed)
    return [
        RelayTask(queued=rng.expovariate(1 / 60.0), training=draw(rng), upload=upload(rng)) for _ in range(RELAY_TASKS)
    ]


def upload(rng: random.Random) -> float:
    return rng.uniform(5.0, 30.0)


def looked_at(task: RelayTask, timeout: int, number: int) -> tuple[int, float]:
    """Return the looks at a task, when the backend says, and by how many seconds they put its end off."""
    name = f"0x{number * 0x9E3779B1 % 2**32:08x}"
    now, looks, validated = spread(first_look_after(timeout), name), 0, math.inf
    while True:
        looks += 1
        if now >= validated + task.upload:
            return looks, now - task.queued - task.training - task.upload
        if now >= task.queued + task.training and validated == math.inf:
            validated, wait = now, SOON
        else:
            status = Status.VALIDATED if now >= validated else Status.STARTED if now >= task.queued else Status.QUEUED
            wait = spread(again_after(run_of(name, status, timeout, task.queued), now), name)
        now = math.ceil((now + wait) / TICK) * TICK


def run_of(name: str, status: Status, timeout: int, started: float) -> relay_steps.Run:
    """Return a run as the relay shows it; its clock begins with the task's create."""
    started_at = None if status is Status.QUEUED else datetime.fromtimestamp(started, UTC)
    task = relay_tasks_module.RelayTask(
        commitment=name,
        creator="",
        nonce="",
        seed=b"",
        args="",
        status=status,
        abort_reason=relay_tasks_module.AbortReason.NONE,
        fee=1,
        timeout=timeout,
        started_at=started_at,
    )
    return relay_steps.Run(number=0, members={0: task}, is_selected=False)


def relay_optimum(tasks: Sequence[RelayTask], draw: Draw, looks: float, delay: float) -> tuple[float, float]:
    """Return the least mean delay with so many looks a task, and the fewest looks with so much delay."""
    training, uploading = Durations.of(draw), Durations.of(upload)

    def tried(price: float) -> tuple[float, float]:
        first, second = training.schedule(price, SOON), uploading.schedule(price, SOON)
        seen = [(polled(task.training, first), polled(task.upload, second)) for task in tasks]
        return fmean(one[0] + two[0] for one, two in seen), fmean(one[1] + two[1] for one, two in seen)

    def bisected(is_too_cheap: Callable[[tuple[float, float]], bool]) -> tuple[float, float]:
        low, high = 1e-4, 1e4
        for _ in range(16):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if is_too_cheap(tried(middle)) else (low, middle)
        return tried(high)

    return bisected(lambda run: run[0] > looks)[1], bisected(lambda run: run[1] < delay)[0]


def relay_rows(seed: int) -> Iterator[tuple[str, int, float, float, float, float]]:
    """Yield for each kind of task: name, timeout, looks, seconds that they put the end off, the optimum of either."""
    for name, draw, timeout in (("quick", quick, 900), ("sweep", sweep, 3600), ("lognormal", lognormal, 7200)):
        tasks = relay_tasks(draw, seed)
        seen = [looked_at(task, timeout, number) for number, task in enumerate(tasks)]
        looks, delay = fmean(one for one, _ in seen), fmean(late for _, late in seen)
        yield name, timeout, looks, delay, *relay_optimum(tasks, draw, looks, delay)


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
    relay = list(relay_rows(seeds[0]))
    show_table(
        f"The relay, {RELAY_TASKS} tasks: what looks put the end off",
        ("tasks", "timeout, s", "looks", "late s", "optimum, s at as many looks", "looks at as much delay"),
        relay,
    )
    held = [
        {"workload": f"{name}, {asked} polls", "figure": round(ratio, 3), "goal": AIM, "met": ratio <= AIM}
        for name, asked, _, _, _, ratio in rows
    ]
    held += [
        {
            "workload": f"relay, {name}",
            "figure": round(late / best, 3),
            "looks": round(looks / fewest, 3),
            "goal": AIM,
            "met": late <= AIM * best,
        }
        for name, _, looks, late, best, fewest in relay
    ]
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
            "relay": [list(row) for row in relay],
        },
    )


if __name__ == "__main__":
    main()
