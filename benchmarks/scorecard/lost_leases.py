"""Case S13: a process is stopped at every step, loses its lease to another one, and goes on when it is continued."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.scorecard.accounting import JobClass
from benchmarks.scorecard.case import Context
from benchmarks.scorecard.worlds import World, accounts, config, creates, on_virtual_time
from crynux_async.backends.base import CreatedTask, Look, Task
from crynux_async.backends.bridge.backend import BridgeBackend
from crynux_async.ledgers.base import GateCell, Ledger
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.session import Session
from crynux_async.states import JobState

ALL_SEEDS = 20
JOBS = 3
LIMIT = 60_000
INSTANT = 1e9
AWAY = 300.0
TO_SEND = 10.0


class Stop:
    """A process that can be stopped (SIGSTOP) at one of its steps, and be continued."""

    def __init__(self) -> None:
        self._at = 0
        self.steps = 0
        self.is_stopped = False
        self._may_go_on = asyncio.Event()
        self._may_go_on.set()

    async def step(self) -> None:
        """Pass one step: what a process cannot do while it is stopped."""
        self.steps += 1
        if self.steps == self._at:
            self.is_stopped = True
            self._may_go_on.clear()
        await self._may_go_on.wait()

    def begin(self, at: int) -> None:
        """Count steps from now on, and stop at this one; 0 for none."""
        self.steps, self._at = 0, at

    def go_on(self) -> None:
        """Continue it."""
        self._may_go_on.set()


class StoppableLedger:
    """One process's way to a ledger: before each call and after it the process may be stopped.

    Args:
        ledger: What it leads to.
        stop: Stops it.
    """

    def __init__(self, ledger: Ledger, stop: Stop) -> None:
        self._ledger = ledger
        self._stop = stop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ledger, name)
        return self._stoppable(found) if callable(found) else found

    @asynccontextmanager
    async def gate(self, backend: str, key_id: str) -> AsyncIterator[GateCell]:
        """Open the row of a key's gate."""
        await self._stop.step()
        async with self._ledger.gate(backend, key_id) as cell:
            yield cell
        await self._stop.step()

    def _stoppable(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._stop.step()
            result = await method(*args, **kwargs)
            await self._stop.step()
            return result

        return call


class StoppableBackend(BridgeBackend):
    """One process's way to the bridge."""

    stop: Stop

    async def create(self, payload: str) -> CreatedTask:
        """Send one create."""
        await self.stop.step()
        created = await super().create(payload)
        await self.stop.step()
        return created

    async def look(self, task: Task) -> Look:
        """Look at a task."""
        await self.stop.step()
        look = await super().look(task)
        await self.stop.step()
        return look


def lost_leases(context: Context) -> str:
    """S13: stopped at every step, taken over, continued."""
    whole, _ = _run(0)
    step = max(1, ALL_SEEDS // context.seeds)
    points = range(1, whole + 1, step)
    for at in points:
        _, classes = _run(at)
        assert classes == {JobClass.ACCEPTED: JOBS}, f"stopped at step {at}: {classes}"
    return f"stopped at {len(points)} of {whole} steps: no POST twice, every job as its second owner left it"


def _run(at: int) -> tuple[int, Counter[JobClass]]:
    """Stop the first process at a step, and return how many steps there were and what became of the jobs."""

    async def work(world: World) -> tuple[int, Counter[JobClass]]:
        ledger, stop = MemoryLedger(), Stop()
        backend = StoppableBackend(world.settings(rate_limit=LIMIT))
        backend.stop = stop
        settings = world.settings(rate_limit=LIMIT, close_timeout=1.0)
        first = Session(settings, ledger=StoppableLedger(ledger, stop), backend=backend)
        await first.open()
        stop.begin(at)
        sending = asyncio.create_task(first.submit_many([config(seed) for seed in range(1, JOBS + 1)]))
        await asyncio.sleep(TO_SEND)
        steps = stop.steps
        if at:
            assert stop.is_stopped, "it was never stopped, so the case shows nothing"
            await _taken_over(world, ledger, stop)
        await sending
        await asyncio.gather(*(job.submitted() for job in first.jobs() if job.state is JobState.PLANNED))
        before = await ledger.jobs()
        await first.close()
        await backend.close()
        after = await ledger.jobs()
        changed = [row for row, old in zip(after, before, strict=True) if row.state is not old.state]
        assert not changed, f"the loser wrote last: {changed}"
        assert len(creates(world.bridge)) == JOBS, f"{len(creates(world.bridge))} POSTs for {JOBS} jobs"
        return steps, await accounts(world, ledger, [])

    return on_virtual_time(work, rate_limit=LIMIT, speed=INSTANT, durable=False)


async def _taken_over(world: World, ledger: Ledger, stop: Stop) -> None:
    """Let a second process take over and send what was planned, then continue the first beside it."""
    async with world.session(ledger=ledger, rate_limit=LIMIT) as second:
        await asyncio.sleep(AWAY)
        for job in second.jobs(JobState.PLANNED):
            await job.retry()
        await asyncio.sleep(AWAY)
        stop.go_on()
        await asyncio.sleep(AWAY)
        believed = {job.job_id: (job.state, job.task_id) for job in second.jobs()}
        for row in await ledger.jobs():
            if row.job_id in believed:
                assert (row.state, row.task_id) == believed[row.job_id], f"{row} is not as its owner believes"
