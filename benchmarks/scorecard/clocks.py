"""Case S10: the wall clock is set, and the machine sleeps."""

import asyncio
import errno
import glob
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from benchmarks.scorecard.accounting import JobClass, check_nothing_lost, remember_file
from benchmarks.scorecard.case import Context, SkippedError
from benchmarks.scorecard.processes import started
from benchmarks.scorecard.severing import Severable
from benchmarks.scorecard.submit_crashes import Work, all_of
from benchmarks.scorecard.tasks import environment
from benchmarks.scorecard.worlds import World, accounts, config, creates, on_virtual_time
from crynux_async.emulator import Emulator
from crynux_async.ledgers.base import AttemptRow, Fence, JobRow
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.states import JobState
from crynux_async.testing import VirtualTimeLoop

DAY = 86_400.0
HOUR = 3600.0
REAL_JOBS = 20
REAL_RATE = 5
"""Creates a second."""
REAL_WINDOW = 2.0


def jumps(context: Context) -> str:
    """S10: the wall clock is set, and the machine sleeps, while jobs wait, are sent and run; sessions die meanwhile."""
    seen = f"{_virtual_jumps(context)}; {_virtual_sleeps(context)}"
    try:
        return f"{seen}; {asyncio.run(_real_jumps(context))}"
    except SkippedError as reason:
        raise SkippedError(f"on real clocks: {reason}; the virtual part passed: {seen}") from None


def _virtual_jumps(context: Context) -> str:
    """Set the clock a day forward and back."""
    limit, count = 5, 20
    busiest = 0
    for seed in range(1, context.seeds + 1):

        async def work(world: World, seed: int = seed) -> int:
            return await _jump(world, random.Random(seed), limit, count)

        busiest = max(busiest, on_virtual_time(work, rate_limit=limit, speed=0.01, durable=False))
    assert busiest <= 2 * limit + 1, f"{busiest} creates in one minute at {limit} a minute"
    return f"{context.seeds} seeds, {count} jobs each, 10 jumps: busiest minute {busiest} (burst + rate {2 * limit})"


async def _jump(world: World, rng: random.Random, limit: int, count: int) -> int:
    loop, ledger, told = _virtual_loop(), MemoryLedger(), list[str]()

    async def jump() -> None:
        for _ in range(10):
            await asyncio.sleep(rng.uniform(1.0, 30.0))
            loop.set_wall_clock(loop.wall_time() + rng.choice((-DAY, DAY)))

    jumping = asyncio.create_task(jump())
    for part in range(2):  # the second session replays what the first has sent
        async with world.session(ledger=ledger, rate_limit=limit) as session:
            jobs = [
                session.submit_nowait(config(seed)) for seed in range(part * count + 1, part * count + count // 2 + 1)
            ]
            for job in jobs:
                told.append((await job.submitted()).task_id or "")
            await asyncio.sleep(600)
            states = Counter(job.state for job in session.jobs())
            assert states == {JobState.RUNNING: len(session.jobs())}, f"given up too early: {states}"
            assert session.statistics().refusals == 0, "a create was refused"
    await jumping
    await accounts(world, ledger, told)
    await _die_after_a_jump(world, ledger, told)
    _check_monotone(await ledger.attempts())
    return _busiest_minute([post.at for post in creates(world.bridge)])


async def _die_after_a_jump(world: World, ledger: MemoryLedger, told: list[str]) -> None:
    """Plan a job, set the clock back, send it, and die before the answer: the next process must not send it again."""
    loop = _virtual_loop()
    world.bridge.add_fault("stall", on="create", count=None)
    dying = Severable(ledger)
    session = world.session(ledger=dying, rate_limit=5, prime_key=False)
    await session.open()
    (job,) = await session.submit_many([config(999)])
    assert (await ledger.get(job.job_id)) is not None
    loop.set_wall_clock(loop.wall_time() - DAY)
    while not creates(world.bridge) or (await ledger.attempts())[-1].job_id != job.job_id:
        await asyncio.sleep(0.01)
    await asyncio.sleep(1)
    await dying.sever(session)
    loop.set_wall_clock(loop.wall_time() + 2 * DAY)
    async with world.session(ledger=ledger, rate_limit=5) as after:
        state = after.job(job.job_id).state
    assert state is JobState.UNCONFIRMED, f"a create was under way when its process died, and its job is {state}"
    await accounts(world, ledger, told)


@attrs.define(eq=False, kw_only=True)
class Sleeper:
    """A machine that sleeps, with programs on it, while the world outside goes on.

    Attributes:
        world: The bridge, which is outside.
        counts_sleep: Whether the loop's clock goes on meanwhile, as on some systems; on Linux it stands still.
        slept: Seconds that the bridge is ahead of the loop.
    """

    world: World
    counts_sleep: bool
    slept: float = 0.0

    def __attrs_post_init__(self) -> None:
        loop = _virtual_loop()
        vars(self.world.bridge._clock)["now"] = lambda: loop.time() + self.slept

    def sleep(self, seconds: float) -> None:
        """Sleep, with every program, at once."""
        loop = _virtual_loop()
        if self.counts_sleep:
            loop.advance(seconds)
        else:
            self.slept += seconds
            loop.set_wall_clock(loop.wall_time() + seconds)

    @asynccontextmanager
    async def without_network(self, seconds: float) -> AsyncIterator[None]:
        """Have no network while the block runs and for some seconds after it."""
        loop: Any = asyncio.get_running_loop()

        async def fail(*_: Any) -> None:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

        loop.sock_connect = fail
        yield
        await asyncio.sleep(seconds)
        del loop.sock_connect


def _virtual_sleeps(context: Context) -> str:
    """Let the machine sleep for hours, with a clock that counts them and with one that does not."""
    limit, classes, busiest = 5, Counter[JobClass](), 0
    for seed in range(1, context.seeds + 1):
        for counts_sleep in (True, False):

            async def work(
                world: World, seed: int = seed, counts_sleep: bool = counts_sleep
            ) -> tuple[int, Counter[JobClass]]:
                return await _sleep_and_wake(world, random.Random(seed), limit, counts_sleep)

            found, seen = on_virtual_time(work, rate_limit=limit, speed=0.02, durable=False)
            busiest, classes = max(busiest, found), classes + seen
    assert busiest <= limit + 1, f"{busiest} creates in one minute at {limit} a minute and one at once"
    became = ", ".join(f"{classes[name]} {name}" for name in JobClass if classes[name])
    return (
        f"2 x {context.seeds} machines with 2 sessions on one ledger asleep 4 times for hours: busiest minute "
        f"{busiest} (limit {limit}), {became}, none given up"
    )


class WatchedLedger(MemoryLedger):
    """A ledger that tells jobs that were given to another session from those that were taken from it.

    Attributes:
        taken: Jobs that a session claimed and no other had given back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[str] = []
        self._given: set[str] = set()

    async def drop(self, fence: Fence, job_ids: Sequence[str]) -> None:
        """Give back jobs, as the one does that has more than its share."""
        await super().drop(fence, job_ids)
        self._given.update(job_ids)

    async def claim(self, fence: Fence, **where: Any) -> list[JobRow]:
        """Take jobs that nobody holds."""
        rows = await super().claim(fence, **where)
        self.taken += [row.job_id for row in rows if row.job_id not in self._given]
        self._given -= {row.job_id for row in rows}
        return rows


async def _sleep_and_wake(
    world: World, rng: random.Random, limit: int, counts_sleep: bool
) -> tuple[int, Counter[JobClass]]:
    """Return the number of creates in the busiest minute of the bridge, and what became of the jobs."""
    sleeper, ledger = Sleeper(world=world, counts_sleep=counts_sleep), WatchedLedger()
    world.bridge.add_fault("delay", on="create", seconds=0.5, count=None)
    settings = {"rate_limit": limit, "rate_burst": 1, "unreachable_timeout": 200}
    async with (
        world.session(ledger=ledger, **settings) as one,
        world.session(ledger=ledger, **settings) as other,
    ):
        sessions, seeds = (one, other), itertools.count(1)
        mine = [[session.submit_nowait(config(next(seeds))) for _ in range(20)] for session in sessions]
        for _ in range(4):
            await asyncio.sleep(rng.uniform(80.0, 160.0))  # long enough to notice that there is a network
            async with sleeper.without_network(rng.uniform(0.0, 60.0)):
                await asyncio.sleep(rng.uniform(0.0, 20.0))
                sleeper.sleep(rng.uniform(1.0, 10.0) * HOUR)
        await asyncio.sleep(3 * HOUR)
        for session in sessions:
            assert session.statistics().refusals == 0, "a create was refused"
    attempts, rows = await ledger.attempts(), await ledger.jobs()
    assert not ledger.taken, f"jobs were taken although their process lives: {ledger.taken}"
    given_up = [row for row in rows if row.state not in (JobState.SUCCEEDED, JobState.UNCONFIRMED)]
    assert not given_up, f"given up because of a sleep: {[(row.job_id, row.state, row.error) for row in given_up]}"
    _check_monotone(attempts)
    _check_dates(rows)
    told = [job.task_id for jobs in mine for job in jobs if job.task_id is not None]
    return _busiest_minute([post.at for post in creates(world.bridge)]), await accounts(world, ledger, told)


def _virtual_loop() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


@attrs.frozen(kw_only=True)
class Jump:
    """Something that happens to the clocks of a real process.

    Attributes:
        name: What it is called.
        shift: What libfaketime adds to its clocks, as it is written in its file.
        sets_monotonic: Whether its monotonic clock jumps too.
        stops: Seconds during which it does not run.
    """

    name: str
    shift: str
    sets_monotonic: bool = False
    stops: float = 0.0


JUMPS = (
    Jump(name="suspend", shift="+8h", stops=1.5),
    Jump(name="suspend that every clock counts", shift="+8h", sets_monotonic=True, stops=1.5),
    Jump(name="set back", shift="-1d"),
    Jump(name="set forward", shift="+1d"),
)


async def _real_jumps(context: Context) -> str:
    """Do it to real processes with real clocks."""
    library = libfaketime()
    rng = random.Random(10)
    works = [
        _jumping(context, f"{jump.name} {number}", jump, library, rng.uniform(0.5, 0.8 * REAL_JOBS / REAL_RATE))
        for number in range(max(1, context.seeds // 5))
        for jump in JUMPS
    ]
    busiest = max(await all_of(works))
    window = REAL_WINDOW * REAL_RATE
    assert busiest <= window + 1, f"{busiest} creates in {REAL_WINDOW:g} s, {window:g} and one at once are allowed"
    return (
        f"{len(works)} processes with {REAL_JOBS} jobs ({', '.join(jump.name for jump in JUMPS)}): "
        f"at most {busiest} creates in {REAL_WINDOW:g} s (limit {window:g}), none refused, none given up"
    )


def libfaketime() -> str:
    """Return the path of libfaketime.

    Raises:
        SkippedError: It is not installed, or not used here.
    """
    places = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")
    found = [path for place in places for path in glob.glob(f"{place}/libfaketimeMT.so.1")]
    if not found:
        raise SkippedError("needs libfaketime: apt install libfaketime")
    command = [sys.executable, "-c", "import time; print(time.time())"]
    env = {**os.environ, "LD_PRELOAD": found[0], "FAKETIME": "+1d"}
    tried = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if tried.returncode or float(tried.stdout or 0) < time.time() + DAY / 2:
        raise SkippedError(f"libfaketime does not work here: {' '.join(tried.stderr.split())}")
    return found[0]


def _jumping(context: Context, name: str, jump: Jump, library: str, seconds: float) -> Work[int]:
    async def work() -> int:
        folder = context.folder / name
        options: dict[str, Any] = {"speed": 1e9, "unet": "tiny", "rate_limit": 60 * REAL_RATE}
        async with Emulator(folder=folder / "bridge", **options) as bridge:
            world = World(bridge=bridge, key=bridge.new_key(rate_limit=60 * REAL_RATE))
            shift = folder / "shift"
            shift.write_text("+0")
            fakes = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(shift), "FAKETIME_CACHE_DURATION": "1"}
            fakes |= {} if jump.sets_monotonic else {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
            # Without the "fix", which lets every thread that waits for another spin: CPython waits for its own lock.
            fakes |= {"NO_FAKE_STAT": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0"}
            env = {**environment(world, rate_limit=60 * REAL_RATE, rate_burst=1), **fakes}
            ledger = folder / "jobs.db"
            command = [sys.executable, "-m", "benchmarks.scorecard.clock_child", str(ledger), str(REAL_JOBS)]
            async with started(command, env=env) as process:
                assert process.stdout is not None
                assert await process.stdout.readline(), f"{name}: {(await process.communicate())[1]!r}"
                await asyncio.sleep(seconds)
                await _jump_now(process, jump, shift)
                async with asyncio.timeout(60):
                    out, err = await process.communicate()
            assert process.returncode == 0, f"{name}: exited with {process.returncode}: {out!r} {err!r}"
            return await _judge(world, ledger, name, json.loads(out))

    return work


async def _jump_now(process: asyncio.subprocess.Process, jump: Jump, shift: Path) -> None:
    """Change the clocks of a process between two of its instructions."""
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(jump.stops)
    draft = shift.with_suffix(".new")
    draft.write_text(jump.shift)
    draft.replace(shift)
    process.send_signal(signal.SIGCONT)


async def _judge(world: World, ledger: Path, name: str, said: dict[str, Any]) -> int:
    """Return the number of creates in the busiest stretch of ``REAL_WINDOW`` seconds."""
    posts = creates(world.bridge)
    assert len(posts) == REAL_JOBS, f"{name}: {len(posts)} creates"
    assert said["refusals"] == 0, f"{name}: {said['refusals']} were refused"
    assert said["seen"] == {"running": REAL_JOBS, "succeeded": REAL_JOBS}, f"{name}: {said['seen']}"
    known = await remember_file(ledger)
    check_nothing_lost(
        world.bridge.journal, known.jobs, known.attempts, posts, brackets=known.brackets, told=said["told"]
    )
    _check_monotone(known.attempts)
    _check_dates(known.jobs)
    return _busiest([post.at for post in posts], REAL_WINDOW)


def _check_dates(rows: Sequence[JobRow]) -> None:
    for row in rows:
        dates = [date for date in (row.planned_at, row.submitted_at, row.ended_at) if date is not None]
        assert dates == sorted(dates), f"times of a job go back: {row}"


def _check_monotone(attempts: Sequence[AttemptRow]) -> None:
    times = [time for each in attempts for time in (each.began_at, each.answered_at) if time is not None]
    back = [(earlier, later) for earlier, later in itertools.pairwise(times) if later < earlier]
    assert not back, f"times in the ledger go back {len(back)} times, first from {back[0][0]} to {back[0][1]}"


def _busiest_minute(times: list[float]) -> int:
    return _busiest(times, 60.0)


def _busiest(times: list[float], window: float) -> int:
    return max(sum(begin <= time < begin + window for time in times) for begin in times)
