"""Case E1: three processes on one ledger, killed anywhere, and every job awaited and read from each of them."""

import asyncio
import json
import math
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.scorecard import warm
from benchmarks.scorecard.accounting import check_nothing_lost, remember_file
from benchmarks.scorecard.anywhere_child import JOBS, LEASE, PROCESSES, read_notes
from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.submit_crashes import Scene, scene
from benchmarks.scorecard.warm import Child, Program
from benchmarks.scorecard.worlds import creates
from crynux_async.ledgers.base import Ledger
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.states import JobState

KILLS = 10
_EVEN = 1.5  # times an even share, which no process may hold more than
_EVEN_WITHIN = 8 * LEASE
_POLLING = {"CRYNUX_MIN_POLL_INTERVAL": "1", "CRYNUX_POLL_DELAY": "0.5"}

Ends = Mapping[str, Sequence[str]]


def from_anywhere(context: Context) -> str:
    """E1: what each of three processes sees of 200 jobs while ten of them are killed."""
    unclear, uneven = 0, 0.0
    for number in range(context.seeds):
        lost, share = asyncio.run(_run(context.folder / str(number), random.Random(number)))
        unclear, uneven = unclear + lost, max(uneven, share)
    return (
        f"{KILLS} kills: {PROCESSES} processes saw one end of {JOBS} jobs, no config was paid for twice, each read "
        f"every event once; largest share {uneven:.2f} of even, {unclear} of {JOBS * context.seeds} unconfirmed"
    )


class Office:
    """Three places for processes, in each of which one runs."""

    def __init__(self, here: Scene, folder: Path, stack: AsyncExitStack) -> None:
        self._here = here
        self._folder = folder
        self._stack = stack
        self.running: dict[int, Child] = {}

    async def start(self, number: int) -> None:
        """Start the process of a place."""
        arguments = [str(self._here.ledger), str(self._folder), str(number)]
        program = Program(module="benchmarks.scorecard.anywhere_child", arguments=arguments)
        child = await self._stack.enter_async_context(warm.forked(program, env={**self._here.env, **_POLLING}))
        child.go()
        self.running[number] = child

    async def kill(self, number: int) -> None:
        """Kill the process of a place, wherever it is."""
        self.running[number].send(signal.SIGKILL)
        ended = await self.running[number].ended()
        assert ended.was_killed, f"a process ended before it was killed: {ended.err}"

    async def ends(self) -> list[Ends]:
        """Return what every process says at its end."""
        ended = await asyncio.gather(*(child.ended() for child in self.running.values()))
        for each in ended:
            assert each.code == 0, each.err
        return [json.loads(each.out.splitlines()[-1]) for each in ended]


async def _run(folder: Path, rng: random.Random) -> tuple[int, float]:
    """Return how many jobs are unconfirmed, and the largest share of a process in even ones."""
    async with scene(folder) as here, AsyncExitStack() as stack:
        here.world.bridge.add_fault("word", on="status", text="running", count=None)
        office = Office(here, folder, stack)
        for number in range(PROCESSES):
            await office.start(number)
        for _ in range(KILLS):
            await asyncio.sleep(rng.uniform(0.2, 1.5))
            victim = rng.randrange(PROCESSES)
            await office.kill(victim)
            await office.start(victim)
        share = await _even_share(here)
        here.world.bridge.clear_faults()
        ends = await office.ends()
        return await _check(here, folder, ends), share


async def _even_share(here: Scene) -> float:
    """Wait until the processes share the jobs evenly, and return the largest share in even ones."""
    ledger = SqliteLedger(here.ledger)
    await ledger.open()
    try:
        async with asyncio.timeout(_EVEN_WITHIN):
            while (share := await _largest_share(ledger)) > _EVEN:
                await asyncio.sleep(LEASE / 9)
    except TimeoutError:
        raise AssertionError(f"after {_EVEN_WITHIN:g} s a process holds {share:.2f} times an even share") from None
    finally:
        await ledger.close()
    return share


async def _largest_share(ledger: Ledger) -> float:
    counts = await ledger.count()
    if sum(counts.values()) < JOBS or counts.get(JobState.PLANNED, 0):
        return math.inf  # there are more to come
    held = [holder.jobs for holder in await ledger.holders()]
    # Those of unknown outcome are held as well: somebody may find out what became of them.
    return max(held) / math.ceil(JOBS / PROCESSES) if sum(held) == JOBS else math.inf


async def _check(here: Scene, folder: Path, ends: Sequence[Ends]) -> int:
    """Check what is left when all processes have ended, and return how many jobs are unconfirmed."""
    first = ends[0]
    assert sorted(first, key=int) == [str(seed) for seed in range(1, JOBS + 1)], "a process has not seen every job"
    assert all(end == first for end in ends), "processes have seen different ends"
    states = Counter(state for _, state in first.values())
    assert states[JobState.SUCCEEDED] + states[JobState.UNCONFIRMED] == JOBS, f"{dict(states)}"
    journal = here.world.bridge.journal
    made = Counter(entry.seed for entry in journal if entry.accepted)
    assert max(made.values()) == 1, f"the configs {[seed for seed, count in made.items() if count > 1]} were paid twice"
    said = await remember_file(here.ledger)
    check_nothing_lost(journal, said.jobs, said.attempts, creates(here.world.bridge), brackets=said.brackets)
    last = {job.job_id: job.last_event for job in said.jobs}
    for number in range(PROCESSES):
        read: dict[str, list[int]] = defaultdict(list)
        for job_id, event in read_notes(folder / f"read-by-{number}"):
            read[job_id].append(event)
        for job_id, count in last.items():
            expected = [*range(1, count + 1)]
            assert read[job_id] == expected, (
                f"process {number} has read {read[job_id]} of the {count} events of {job_id}"
            )
    return states[JobState.UNCONFIRMED]


CASES = (Case(name="E1", fault="200 jobs seen from three processes, ten of them killed", run=from_anywhere),)
