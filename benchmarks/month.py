"""A month of a session: ``python -m benchmarks.month [--jobs N]``.

Thirty days of virtual time in one process, on a service in the same process that limits creates, answers every question
at once, and keeps its word about nothing else: it is away for half an hour every few days, one job in fifty fails, and
how long a training takes changes from sweep to sweep. Sweeps of up to a thousand jobs come and go, at most two thousand
jobs live at a time; the session is opened anew on its ledger every day, and somebody sets the clock by hours, forth and
back.

What must not grow with the jobs that have ended is shown as a slope against their number, from the second third of the
month on: memory of the process, processor time of a job, refused creates. What is kept on purpose, the rows of the
ledger, is shown with it.
"""

import argparse
import asyncio
import math
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import linear_regression
from typing import Any

import attrs

from benchmarks.reporting import finish, show_table
from benchmarks.scale_clients import BASE, InstantBackend, resident
from crynux_async.backends.base import CreatedTask, Habits, Look, Seen, Task
from crynux_async.clock import monotonic
from crynux_async.errors import RateLimitedError, UnreachableError
from crynux_async.job import Job
from crynux_async.session import Session
from crynux_async.states import FOLLOWED, JobState
from crynux_async.supervision import upkeep
from crynux_async.testing import virtual_time_run
from crynux_async.testing.virtual_time import VirtualTimeLoop

DAY, DAYS = 86_400.0, 30
MOST_LIVE, SWEEP = 2_000, 1_000
LIMIT_PER_MINUTE = 60
AWAY_EVERY, AWAY_FOR = 2.3 * DAY, 1800.0
LOOK_EVERY = 600.0
FAILS_EVERY = 50
# Of one ended job, where nothing should be kept: what a page of memory and the noise of a month's samples come to.
MOST_BYTES, MOST_REFUSALS = 20.0, 0.001
ENDED = (JobState.SUCCEEDED, JobState.FAILED)


@attrs.frozen(kw_only=True)
class Sample:
    """How the process stands at one moment.

    Attributes:
        day: Virtual days since the beginning.
        ended: Jobs that have ended so far.
        live: Jobs that are planned or run.
        memory_bytes: Resident set, garbage not counted.
        ledger_bytes: The ledger's files.
        cpu_seconds: Processor time so far.
        refusals: Refused creates so far.
    """

    day: float
    ended: int
    live: int
    memory_bytes: int
    ledger_bytes: int
    cpu_seconds: float
    refusals: int


class MonthBackend(InstantBackend):
    """A service with a rate limit, outages and tasks that end.

    Attributes:
        refusals: Creates that it has refused.
        ended: Tasks whose end it has told.
    """

    name = "month"
    # A session renews its lease and looks for wishes half a million times a month, whatever else it does: that is not
    # what is measured here.
    habits = Habits(lease=DAY)

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.refusals = self.ended = 0
        self._rng = rng
        self._tokens, self._filled_at = float(LIMIT_PER_MINUTE), 0.0
        self._ends: dict[str, float] = {}
        self.typical = 1200.0

    async def create(self, payload: str) -> CreatedTask:
        now = self._answer()
        self._tokens = min(LIMIT_PER_MINUTE, self._tokens + (now - self._filled_at) * LIMIT_PER_MINUTE / 60)
        self._filled_at = now
        # As the bridge does it: a refused create costs a token, too.
        self._tokens -= 1
        if self._tokens < 0:
            self.refusals += 1
            raise RateLimitedError("too many", wait=-self._tokens * 60 / LIMIT_PER_MINUTE, status=429)
        created = await super().create(payload)
        self._ends[created.task_id] = now + self.typical * math.exp(self._rng.gauss(0, 0.3))
        return created

    async def look(self, task: Task) -> Look:
        now = self._answer()
        await super().look(task)
        task_id = str(task.task_id)
        if now < self._ends.get(task_id, now):
            return Look(seen=Seen.RUNNING)
        # Nothing is kept of what has ended, or this would be what grows.
        if self._ends.pop(task_id, None) is not None:
            self.ended += 1
        return Look(seen=Seen.SUCCEEDED if int(task_id) % FAILS_EVERY else Seen.FAILED)

    def _answer(self) -> float:
        """Return the time of an answer, or be away."""
        now = monotonic()
        if now % AWAY_EVERY > AWAY_EVERY - AWAY_FOR:
            raise UnreachableError("the service is restarted")
        return now


class Month:
    """The month.

    Args:
        jobs: How many jobs there are in it.
        ledger: The ledger's file.
    """

    def __init__(self, jobs: int, ledger: Path) -> None:
        self.samples: list[Sample] = []
        self._jobs = jobs
        self._ledger = ledger
        self._rng = random.Random(1)
        self._backend: MonthBackend | None = None
        self._submitted = 0

    async def run(self) -> None:
        """Live through it."""
        upkeep._HEAR_WISHES_EVERY = 3600.0
        self._backend = MonthBackend(self._rng)
        for day in range(DAYS):
            self._set_clock(day)
            async with Session(backend=self._backend, ledger=self._ledger) as session:
                await self._day(session, day)
            print(f"day {day + 1}: {self.samples[-1].ended:,} jobs have ended", file=sys.stderr)

    async def _day(self, session: Session, day: int) -> None:
        """Submit what is due on this day, sweep after sweep, and follow what runs until it is over."""
        due = self._jobs * (day + 1) // DAYS
        midnight = (day + 1) * DAY
        while monotonic() < midnight:
            live = self._live(session)
            count = min(SWEEP, due - self._submitted)
            if count > 0 and live + count <= MOST_LIVE:
                self._submit(session, count)
            await asyncio.sleep(min(LOOK_EVERY, max(1.0, midnight - monotonic())))
        self._sample(session, day + 1)

    def _submit(self, session: Session, count: int) -> list[Job]:
        assert self._backend is not None
        self._backend.typical = self._rng.choice((600.0, 1200.0, 2400.0))
        sweep = f"sweep-{self._submitted}"
        self._submitted += count
        return [
            session.submit_nowait(BASE.evolve(seed=self._submitted + number), label=f"{sweep}/{number}", group=sweep)
            for number in range(count)
        ]

    def _live(self, session: Session) -> int:
        counts = session.statistics().jobs
        return sum(counts.get(state, 0) for state in (JobState.PLANNED, *FOLLOWED))

    def _set_clock(self, day: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        if day % 5 == 4:
            loop.set_wall_clock(loop.wall_time() + self._rng.choice((-1, 1)) * 3 * 3600)

    def _sample(self, session: Session, day: float) -> None:
        assert self._backend is not None
        files = [self._ledger.with_name(self._ledger.name + end) for end in ("", "-wal", "-shm")]
        self.samples.append(
            Sample(
                day=day,
                ended=self._backend.ended,
                live=self._live(session),
                memory_bytes=resident(),
                ledger_bytes=sum(file.stat().st_size for file in files if file.exists()),
                cpu_seconds=time.process_time(),
                refusals=self._backend.refusals,
            )
        )


def slopes(samples: Sequence[Sample]) -> dict[str, float]:
    """Return by how much each figure grows with one ended job, from the second third of the month on."""
    late = samples[len(samples) // 3 :]
    ended = [sample.ended for sample in late]
    steps = list(pairwise(samples))
    cost = [1e3 * (b.cpu_seconds - a.cpu_seconds) / max(1, b.ended - a.ended) for a, b in steps]
    half = len(cost) // 2
    return {
        "memory_bytes": round(linear_regression(ended, [sample.memory_bytes for sample in late]).slope, 2),
        "ledger_bytes": round(linear_regression(ended, [sample.ledger_bytes for sample in late]).slope, 1),
        "refusals": round((late[-1].refusals - late[0].refusals) / max(1, ended[-1] - ended[0]), 6),
        "cpu_ms_first_half": round(sum(cost[:half]) / half, 3),
        "cpu_ms_second_half": round(sum(cost[half:]) / (len(cost) - half), 3),
    }


def problems(found: dict[str, float], jobs: int, ended: int) -> list[str]:
    """Say what is not as it should be."""
    said = []
    if ended < 0.99 * jobs:
        said.append(f"only {ended:,} of {jobs:,} jobs have ended")
    if found["memory_bytes"] > MOST_BYTES:
        said.append(f"memory grows by {found['memory_bytes']} bytes with each ended job")
    if found["refusals"] > MOST_REFUSALS:
        said.append(f"{found['refusals']} refused creates for each job")
    if found["cpu_ms_second_half"] > 1.2 * found["cpu_ms_first_half"]:
        said.append("a job costs more processor time in the second half of the month than in the first")
    return said


def main() -> int:
    """Measure, print, and return the exit code: 1 if something grows that should not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.month", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs in the month (default 100,000)")
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory(prefix="month-benchmark-") as folder:
        month = Month(jobs, Path(folder) / "jobs.db")
        virtual_time_run(month.run)
    rows = [attrs.astuple(sample) for sample in month.samples]
    shown = [(d, e, v, m / 2**20, s / 2**20, c, r) for d, e, v, m, s, c, r in rows]
    columns = ("day", "ended", "live", "memory, MiB", "ledger, MiB", "CPU s", "refusals")
    show_table(f"A month with {jobs:,} jobs", columns, shown)
    found = slopes(month.samples)
    show_table("For each job that has ended", ("what", "grows by"), list(found.items()))
    missed = problems(found, jobs, month.samples[-1].ended)
    show_table("Missed", ("what",), [(each,) for each in missed] or [("nothing",)])
    results: dict[str, Any] = {"jobs": jobs, "slopes": found, "samples": rows, "missed": missed}
    finish("month", results)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
