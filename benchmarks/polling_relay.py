"""How near looks at the relay's tasks come to what nobody can better, who has to look as well.

The rows are part of ``python -m benchmarks.polling_fleets``, which says what is simulated. A task waits for a node,
trains, has a score that must be seen before it is validated, and uploads its result; its looks are planned by the real
PollQueue, with what the relay's backend tells it. The *optimum* knows the true distribution of each of the three parts
of a task's life and keeps the same bounds, and it has to look to learn that a training has begun. It is computed by
dynamic programming: backwards through the ages of the upload, of the training, and of the wait for a node, where a look
may find the task still waiting, training since any moment, or done.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from statistics import fmean

import attrs
import numpy as np

from benchmarks.polling import BOUND, SPACING, learned_at, lognormal, sweep
from benchmarks.polling_optimum import GRID, Ages, Draw
from crynux_async.backends.relay import tasks as relay_tasks
from crynux_async.backends.relay.steps import Run, again_after, first_look_after, look_within, phases_of, spread
from crynux_async.backends.relay.tasks import Status
from crynux_async.pacing.age_bins import HazardSnapshot
from crynux_async.pacing.poll_queue import PollQueue

SOON = 1.0  # after a step was done, as the relay's backend looks again
LEAST = 1.0  # seconds between two looks of the optimum at the relay
SHORTEST = 5.0  # and at a bridge: the queue's own
GRACE = 60.0


def quick(rng: random.Random) -> float:
    return 300.0 * rng.uniform(0.9, 1.1)


def queued(rng: random.Random) -> float:
    return rng.expovariate(1 / 60.0)


def upload(rng: random.Random) -> float:
    return rng.uniform(5.0, 30.0)


@attrs.frozen(kw_only=True)
class RelayJob:
    """One task of the relay: its kind, its timeout, and the seconds of each part of its life."""

    kind: str
    timeout: int
    queued: float
    training: float
    upload: float

    @classmethod
    def drawn(cls, kind: str, timeout: int, draw: Draw, rng: random.Random) -> "RelayJob":
        return cls(kind=kind, timeout=timeout, queued=queued(rng), training=draw(rng), upload=upload(rng))

    def name(self, number: int) -> str:
        return f"0x{number * 0x9E3779B1 % 2**32:08x}"


@attrs.frozen(kw_only=True)
class BridgeJob:
    """One job of a bridge: its kind, and after how many seconds it ends."""

    kind: str
    seconds: float


@attrs.frozen(kw_only=True)
class Watched:
    """How one job was watched: its looks, and by how many seconds they put its end off."""

    job: "RelayJob | BridgeJob"
    looks: int
    late: float


@attrs.frozen(kw_only=True)
class Outcome:
    """What a simulated run came to: each job, and what was learned by kind."""

    watched: Sequence[Watched]
    learned: Mapping[str, HazardSnapshot] = attrs.field(factory=dict)

    @property
    def looks(self) -> float:
        return fmean(one.looks for one in self.watched)

    @property
    def late(self) -> float:
        return fmean(one.late for one in self.watched)

    def of(self, is_meant: Callable[["RelayJob | BridgeJob"], bool]) -> "Outcome":
        """Return the part of some jobs."""
        return Outcome(watched=[one for one in self.watched if is_meant(one.job)])


class Fleet:
    """Jobs of a bridge and of the relay in one queue, five submitted a minute.

    Args:
        jobs: In order.
        queue: Plans the looks.
        tells_phases: Whether the relay's backend tells phases; else its wishes are all that counts.
    """

    def __init__(self, jobs: Sequence[RelayJob | BridgeJob], queue: PollQueue, *, tells_phases: bool = True) -> None:
        self._jobs, self._queue, self._tells_phases = jobs, queue, tells_phases
        self._starts = [number * SPACING for number in range(len(jobs))]
        self._validated: dict[int, float] = {}
        self._looks = [0] * len(jobs)
        self._late = [0.0] * len(jobs)

    def run(self) -> Outcome:
        submitted, now = 0, 0.0
        while submitted < len(self._jobs) or len(self._queue):
            due_at = self._queue.next_at(now)
            if submitted < len(self._jobs) and self._starts[submitted] <= due_at:
                now = self._starts[submitted]
                self._submit(submitted, now)
                submitted += 1
                continue
            now = due_at
            for number in self._queue.due(now, at_most=len(self._jobs)):
                assert isinstance(number, int)
                self._looks[number] += 1
                self._look(number, self._jobs[number], now)
        rows = zip(self._jobs, self._looks, self._late, strict=True)
        watched = [Watched(job=job, looks=looks, late=late) for job, looks, late in rows]
        return Outcome(watched=watched, learned=self._queue.snapshots())

    def _submit(self, number: int, now: float) -> None:
        job = self._jobs[number]
        if isinstance(job, BridgeJob):
            self._queue.add(number, kind=job.kind, started_at=now, now=now)
            return
        run = self._shown(number, job, now)
        self._queue.add(
            number,
            kind=job.kind,
            started_at=now,
            now=now,
            next_at=now + spread(first_look_after(job.timeout), job.name(number)),
            phases=phases_of(run, now) if self._tells_phases else (),
        )

    def _look(self, number: int, job: RelayJob | BridgeJob, now: float) -> None:
        if isinstance(job, BridgeJob):
            self._end_or_go_on(number, now, self._starts[number] + job.seconds)
            return
        run = self._shown(number, job, now)
        (task,) = run.members.values()
        phases = phases_of(run, now) if self._tells_phases else ()
        if task.status is Status.SUCCEEDED:
            self._late[number] = now - self._starts[number] - job.queued - job.training - job.upload
            self._queue.ended(number, now, phases=phases)
            return
        if task.status is Status.SCORE_READY:
            self._validated[number] = now
        is_new = task.status is Status.SCORE_READY
        wish = SOON if is_new else spread(again_after(run, now), job.name(number))
        self._queue.running(number, now, wish, phases)

    def _end_or_go_on(self, number: int, now: float, ended_at: float) -> None:
        if now < ended_at:
            self._queue.running(number, now)
        else:
            self._late[number] = now - ended_at
            self._queue.ended(number, now)

    def _shown(self, number: int, job: RelayJob, now: float) -> Run:
        started = self._starts[number] + job.queued
        scored = started + job.training
        validated = self._validated.get(number, math.inf)
        return run_of(job.name(number), job.timeout, now, (started, scored, validated, validated + job.upload))


def run_of(name: str, timeout: int, now: float, instants: Sequence[float]) -> Run:
    """Return a run of one task as the relay shows it, by when it starts, has a score, is validated and has uploaded."""
    states = (Status.QUEUED, Status.STARTED, Status.SCORE_READY, Status.VALIDATED, Status.SUCCEEDED)
    passed = sum(at <= now for at in instants)
    dates = [datetime.fromtimestamp(at, UTC) if at <= now else None for at in instants]
    task = relay_tasks.RelayTask(
        commitment=name,
        creator="",
        nonce="",
        seed=b"",
        args="",
        status=states[passed],
        abort_reason=relay_tasks.AbortReason.NONE,
        fee=1,
        timeout=timeout,
        started_at=dates[0],
        scored_at=dates[1],
        validated_at=dates[2],
        uploaded_at=dates[3],
    )
    return Run(number=0, members={0: task}, is_selected=False)


@attrs.frozen(kw_only=True, eq=False)
class Lives:
    """What the optimum knows of tasks of one kind: the parts of their lives, and the bounds that it keeps.

    Attributes:
        queue: How long they wait for a node.
        training: How long they train.
        uploading: How long they upload.
        longest: By the age of a training, the longest that it may not be looked at, in seconds.
        worst_delay: The queue's own bound, or None.
    """

    queue: Ages
    training: Ages
    uploading: Ages
    longest: Sequence[float]
    worst_delay: float | None

    @classmethod
    def of(cls, draw: Draw, timeout: int, worst_delay: float | None) -> "Lives":
        training = Ages.of(draw)
        ages = [number * GRID for number in range(len(training.ended))]
        # Started at 0: a task that waits has all of its time left.
        runs = [run_of("0x0000", timeout, age, (0.0, math.inf, math.inf, math.inf)) for age in ages]
        bounds = [math.inf if worst_delay is None else worst_delay * age + GRACE for age in ages]
        return cls(
            queue=Ages.of(queued),
            training=training,
            uploading=Ages.of(upload),
            longest=[min(look_within(run, age), bound) for run, age, bound in zip(runs, ages, bounds, strict=True)],
            worst_delay=worst_delay,
        )

    def planned(self, price: float) -> "Plans":
        """Return when to look so that delay plus ``price`` for each look is least in expectation."""
        training, cost = self.training.plan(price, shortest=LEAST, longest=lambda age: self.longest[int(age / GRID)])
        uploading, _ = self.uploading.plan(price, shortest=LEAST, longest=self._longest_upload)
        return Plans(waiting=self._waiting(price, cost), training=training, uploading=uploading)

    def _waiting(self, price: float, training_cost: "np.ndarray") -> "np.ndarray":
        """Return for each age at which a task waits for a node the next at which to look."""
        starts = np.diff(self.queue.ended)
        count, most = len(starts), int(min(self.longest[0], len(training_cost)) / GRID)
        # What a training costs that began so many seconds before the look: the delay of its end, or what is to come.
        beyond = self.training.area[-1] + np.arange(1, count + most + 1) * GRID
        hidden = np.concatenate([self.training.area, beyond])[: count + most + 1]
        to_come = np.concatenate([training_cost, np.zeros(count + most + 1)])[: count + most + 1]
        began = hidden + to_come
        # The cost of all that began in the queue's first seconds, by when the look is and by how many seconds.
        ages = np.arange(count + most + 1)[:, None] - 1 - np.arange(count)[None, :]
        costs = np.where(ages >= 0, starts[None, :] * began[np.maximum(ages, 0)], 0.0)
        until = np.concatenate([np.zeros((len(costs), 1)), np.cumsum(costs, axis=1)], axis=1)
        cost, following = np.zeros(count + most + 1), np.arange(count + most + 1) + most
        for here in range(count - 1, -1, -1):
            lived = 1.0 - self.queue.ended[here]
            if lived <= 0.0:
                continue
            later = np.arange(here + 1, here + most + 1)
            whole = until[later, np.minimum(later, count)] - until[later, here] + price * lived + cost[later]
            best = int(np.argmin(whole))
            following[here], cost[here] = here + 1 + best, whole[best]
        return following

    def _longest_upload(self, age: float) -> float:
        return math.inf if self.worst_delay is None else self.worst_delay * age + GRACE


@attrs.frozen(kw_only=True, eq=False)
class BridgeLives:
    """What the optimum knows of a bridge's jobs of one kind: how long they take."""

    whole: Ages

    def planned(self, price: float) -> "BridgePlans":
        """Return when to poll so that delay plus ``price`` for each poll is least in expectation."""
        return BridgePlans(whole=self.whole.plan(price, shortest=SHORTEST)[0])


@attrs.frozen(kw_only=True, eq=False)
class Plans:
    """When the optimum looks, by the age at which it has looked before, in each part of a life."""

    waiting: "np.ndarray"
    training: "np.ndarray"
    uploading: "np.ndarray"

    def watched(self, job: RelayJob | BridgeJob) -> Watched:
        assert isinstance(job, RelayJob)
        looks, now = _followed(self.waiting, 0.0, job.queued)
        more, age = _followed(self.training, now - job.queued, job.training)
        last, done = _followed(self.uploading, 0.0, job.upload)
        return Watched(job=job, looks=looks + more + last, late=age - job.training + done - job.upload)


@attrs.frozen(kw_only=True, eq=False)
class BridgePlans:
    """When the optimum polls, by the age at which it has polled before."""

    whole: "np.ndarray"

    def watched(self, job: RelayJob | BridgeJob) -> Watched:
        assert isinstance(job, BridgeJob)
        looks, age = _followed(self.whole, 0.0, job.seconds, SHORTEST)
        return Watched(job=job, looks=looks, late=age - job.seconds)


def _followed(following: "np.ndarray", age: float, end: float, shortest: float = LEAST) -> tuple[int, float]:
    """Return the looks from an age on until one is not before the end, and the age of that one."""
    looks = 0
    while age < end:
        found = float(following[min(int(age / GRID), len(following) - 1)]) * GRID
        looks, age = looks + 1, found if found > age else age + shortest
    return looks, age


def optimum_at(jobs: Sequence[RelayJob | BridgeJob], lives: Mapping[str, Lives | BridgeLives], looks: float) -> float:
    """Return the least mean delay with so many looks a job, in seconds."""

    def tried(price: float) -> Outcome:
        plans = {kind: known.planned(price) for kind, known in lives.items()}
        return Outcome(watched=[plans[job.kind].watched(job) for job in jobs])

    low, high = 1e-3, 1e2
    for _ in range(13):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if tried(middle).looks > looks else (low, middle)
    # Plans change by whole looks: between two prices the mixture of their runs is meant.
    more, fewer = tried(low), tried(high)
    part = (looks - fewer.looks) / (more.looks - fewer.looks) if more.looks > fewer.looks else 0.0
    return fewer.late + part * (more.late - fewer.late)


RELAY_KINDS: Mapping[str, tuple[Draw, int]] = {
    "quick": (quick, 900),
    "sweep": (sweep, 3600),
    "lognormal": (lognormal, 7200),
}
"""How long each kind trains, and its timeout in seconds."""


@attrs.frozen(kw_only=True)
class RelayRow:
    """How tasks of one kind were watched at the relay; looks a task, and mean delays in seconds.

    Attributes:
        kind: Which.
        wishes: With the backend's wishes alone.
        cold: The same tasks with all that is learned from them.
        warm: Other tasks, with what is known then.
        best: The optimum's delay at as many looks as ``warm``.
        bounded: As ``warm``, with the queue's own bound.
        bounded_best: The optimum's delay within that bound.
    """

    kind: str
    wishes: tuple[float, float]
    cold: tuple[float, float]
    warm: tuple[float, float]
    best: float
    bounded: tuple[float, float]
    bounded_best: float


def relay_row(kind: str, seed: int, tasks: int) -> RelayRow:
    draw, timeout = RELAY_KINDS[kind]
    jobs, earlier = relay_jobs(kind, seed, tasks), relay_jobs(kind, seed + 1_000, tasks)
    cold = Fleet(earlier, new_queue()).run()
    warm = Fleet(jobs, new_queue(cold.learned)).run()
    bounded = Fleet(jobs, new_queue(cold.learned, worst_delay=BOUND)).run()
    wishes = Fleet(earlier, new_queue(), tells_phases=False).run()
    best, bounded_best = (
        optimum_at(jobs, {kind: Lives.of(draw, timeout, bound)}, run.looks)
        for run, bound in ((warm, None), (bounded, BOUND))
    )
    return RelayRow(
        kind=kind,
        wishes=(wishes.looks, wishes.late),
        cold=(cold.looks, cold.late),
        warm=(warm.looks, warm.late),
        best=best,
        bounded=(bounded.looks, bounded.late),
        bounded_best=bounded_best,
    )


def relay_jobs(kind: str, seed: int, count: int) -> list[RelayJob]:
    draw, timeout = RELAY_KINDS[kind]
    rng = random.Random(seed)
    return [RelayJob.drawn(kind, timeout, draw, rng) for _ in range(count)]


def new_queue(
    learned: Mapping[str, HazardSnapshot] | None = None, *, target_delay: float = 2.0, worst_delay: float | None = None
) -> PollQueue:
    queue = PollQueue(target_delay=target_delay, requests_per_second=None, worst_delay=worst_delay)
    for kind, snapshot in (learned or {}).items():
        queue.restore(kind, snapshot)
    return queue


MIXED: Sequence[tuple[str, Draw, int | None]] = (
    ("bridge sweep", sweep, None),
    ("relay quick", quick, 900),
    ("bridge lognormal", lognormal, None),
    ("relay sweep", sweep, 3600),
)
"""The kinds of a mixed fleet in turn; those with a timeout are the relay's."""

MIXED_POLLS = 12
"""Polls that a job of the bridge is to take."""


@attrs.frozen(kw_only=True)
class MixedRow:
    """How one kind of a mixed fleet was watched, or all: looks, mean delay, and the optimum's at as many looks."""

    kind: str
    looks: float
    late: float
    best: float

    @property
    def ratio(self) -> float:
        return self.late / self.best


def mixed_rows(seed: int, count: int) -> list[MixedRow]:
    """Watch jobs of a bridge and of the relay in one queue, warm.

    The last two rows are of all jobs: to the optimum that takes as many looks for each kind, and to the one that is
    free to take looks from one kind for another.
    """
    jobs, earlier = mixed_jobs(seed, count), mixed_jobs(seed + 1_000, count)
    learned = Fleet(earlier, new_queue()).run().learned

    def tried(target_delay: float) -> MixedRun:
        return MixedRun(outcome=Fleet(jobs, new_queue(learned, target_delay=target_delay)).run())

    _, found = learned_at(tried, MIXED_POLLS, 2.0)
    lives: dict[str, Lives | BridgeLives] = {
        kind: BridgeLives(whole=Ages.of(draw)) if timeout is None else Lives.of(draw, timeout, None)
        for kind, draw, timeout in MIXED
    }
    rows = []
    for kind, known in lives.items():
        part = found.outcome.of(lambda job: job.kind == kind)  # noqa: B023
        best = optimum_at([one.job for one in part.watched], {kind: known}, part.looks)
        rows.append(MixedRow(kind=kind, looks=part.looks, late=part.late, best=best))
    looks, late = found.outcome.looks, found.outcome.late
    return [
        *rows,
        MixedRow(kind="all", looks=looks, late=late, best=fmean(row.best for row in rows)),
        MixedRow(kind="all, one price", looks=looks, late=late, best=optimum_at(jobs, lives, looks)),
    ]


@attrs.frozen(kw_only=True)
class MixedRun:
    """A run of a mixed fleet, by the polls of its bridge's jobs."""

    outcome: Outcome

    @property
    def polls(self) -> float:
        return self.outcome.of(lambda job: isinstance(job, BridgeJob)).looks


def mixed_jobs(seed: int, count: int) -> list[RelayJob | BridgeJob]:
    rng = random.Random(seed)
    jobs: list[RelayJob | BridgeJob] = []
    for number in range(count):
        kind, draw, timeout = MIXED[number % len(MIXED)]
        is_bridge = timeout is None
        jobs.append(
            BridgeJob(kind=kind, seconds=draw(rng)) if is_bridge else RelayJob.drawn(kind, timeout or 0, draw, rng)
        )
    return jobs
