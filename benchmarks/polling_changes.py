"""What polling does when the past misleads: jobs that fail soon, and kinds of jobs that become faster or slower.

One kind of jobs, five submitted a minute, at the queue's own price and bound. Delays are from the end of a job to the
poll that sees it. The rows are part of ``python -m benchmarks.polling``.
"""

import random
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import attrs

from crynux_async.pacing.poll_queue import PollQueue

SPACING = 12.0
KIND = "sd15 512x512"
SPREAD = 0.05
GRACE = 60.0


@attrs.frozen(kw_only=True)
class Ending:
    """How one job ends: after so many seconds, well or not."""

    seconds: float
    failed: bool = False


@attrs.frozen(kw_only=True)
class Watched:
    """How one job was watched: its end, the polls that it took, and seconds from the end to the poll that saw it."""

    ending: Ending
    polls: int
    delay: float

    @property
    def lateness(self) -> float:
        """How much later than half of its age and a minute the end was seen, in seconds; at most 0 is as promised."""
        return self.delay - self.ending.seconds / 2 - GRACE


@attrs.frozen(kw_only=True)
class Row:
    """One line of the table: delays and polls of a part of the jobs."""

    case: str
    jobs: str
    polls: float
    mean: float
    worst: float
    kept_bound: bool


def watch(endings: Sequence[Ending], **settings: Any) -> list[Watched]:
    """Poll jobs that are submitted one after the other until all have ended."""
    queue = PollQueue(requests_per_second=None, **settings)
    starts = [i * SPACING for i in range(len(endings))]
    polls = [0] * len(endings)
    delays = [0.0] * len(endings)
    submitted, now = 0, 0.0
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
            polls[job] += 1
            ended_at = starts[job] + endings[job].seconds
            if now < ended_at:
                queue.running(job, now)
            else:
                delays[job] = now - ended_at
                queue.ended(job, now, failed=endings[job].failed)
    return [Watched(ending=e, polls=p, delay=d) for e, p, d in zip(endings, polls, delays, strict=True)]


def usual(rng: random.Random, seconds: float, jobs: int) -> list[Ending]:
    """Return so many jobs that end well after about so many seconds."""
    return [Ending(seconds=seconds * rng.uniform(1 - SPREAD, 1 + SPREAD)) for _ in range(jobs)]


def measure(seed: int) -> list[Row]:
    """Run every case with one seed."""
    return [*_one_failure(seed), *_half_fails(seed), *_drift(seed)]


def _one_failure(seed: int) -> list[Row]:
    rows = []
    for typical, fails_at in ((1200.0, 15.0), (3600.0, 1800.0)):
        past = usual(random.Random(seed), typical, 300)
        seen = watch([*past, Ending(seconds=fails_at, failed=True)])
        rows.append(_row(f"300 of {typical:g} s, then one fails", f"after {fails_at:g} s", seen[-1:]))
        rows.append(_row(f"300 of {typical:g} s, then one fails", "the last 100 good", seen[200:300]))
    return rows


def _half_fails(seed: int) -> list[Row]:
    rng = random.Random(seed)
    good = iter(usual(rng, 1200.0, 600))
    seen = watch([Ending(seconds=60.0, failed=True) if rng.random() < 0.5 else next(good) for _ in range(600)])
    failed = [one for one in seen if one.ending.failed]
    well = [one for one in seen if not one.ending.failed]
    case = "half of 600 fail at 60 s"
    return [
        _row(case, "first 100 failures", failed[:100]),
        _row(case, "last 100 failures", failed[-100:]),
        _row(case, "last 100 good", well[-100:]),
    ]


def _drift(seed: int) -> list[Row]:
    rows = []
    for before, after in ((1200.0, 120.0), (1200.0, 600.0), (1200.0, 2400.0), (120.0, 1200.0)):
        rng = random.Random(seed)
        seen = watch([*usual(rng, before, 3000), *usual(rng, after, 750)])
        case = f"{before:g} s becomes {after:g} s"
        rows.append(_row(case, "250 before", seen[2750:3000]))
        rows.append(_row(case, "first 250", seen[3000:3250]))
        rows.append(_row(case, "third 250", seen[3500:3750]))
    return rows


def _row(case: str, jobs: str, seen: Sequence[Watched]) -> Row:
    delays = [one.delay for one in seen]
    return Row(
        case=case,
        jobs=jobs,
        polls=fmean(one.polls for one in seen),
        mean=fmean(delays),
        worst=max(delays),
        kept_bound=all(one.lateness <= 0 for one in seen),
    )
