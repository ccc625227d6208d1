"""Case D10: downloads that are cancelled at every await, and asked for again at once."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import attrs

from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.tasks import IMPATIENT, Finished, check_final, finish_task, names_in, on_instant_bridge
from benchmarks.scorecard.worlds import World
from crynux_async.downloads.book import TransferBook
from crynux_async.errors import UsageError
from crynux_async.ledgers.memory import MemoryLedger

_MOST_STEPS = 2000


@attrs.define(eq=False)
class _Steps:
    """Counts how often a coroutine waits, and does something the one time that is wanted."""

    at: int
    act: Callable[[], object]
    count: int = 0

    def passed(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.act()


@attrs.define(eq=False)
class _Watched:
    """Runs a coroutine and counts each time that it waits."""

    coroutine: Coroutine[Any, Any, Any]
    steps: _Steps

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self.coroutine.__await__()
        step: Callable[[], Any] = partial(inner.send, None)
        while True:
            try:
                waited_for = step()
            except StopIteration as end:
                return end.value
            self.steps.passed()
            try:
                value = yield waited_for
            except BaseException as error:  # a cancellation is the coroutine's to see
                step = partial(inner.throw, error)
            else:
                step = partial(inner.send, value)


@contextlib.contextmanager
def _watching(steps: _Steps) -> Iterator[None]:
    """Count how often transfers wait."""
    original = TransferBook._run

    async def run(self: TransferBook, *arguments: Any) -> None:
        await _Watched(original(self, *arguments), steps)

    with mock.patch.object(TransferBook, "_run", run):
        yield


Scenario = Callable[[World, Finished, Path, int], Awaitable[bool]]
"""Ends a download when it waits for the n-th time; returns whether it waited so often."""


def cancelled_everywhere(context: Context) -> str:
    """D10: a caller, one of two callers, or the session is gone at each await of a transfer; the next call succeeds."""
    seen = []
    for name, scenario in (("alone", _alone), ("one of two", _one_of_two), ("session closed", _session_closed)):
        work = partial(_at_every_step, scenario=scenario, folder=context.folder / name)
        seen.append(f"{name} {on_instant_bridge(work)}")
    return f"ended at each await: {', '.join(seen)}; nobody else was told of a cancellation, each retry had the file"


async def _at_every_step(world: World, *, scenario: Scenario, folder: Path) -> int:
    task = await finish_task(world, mebibytes=1)
    for step in range(1, _MOST_STEPS):
        place = folder / str(step)
        was_reached = await scenario(world, task, place, step)
        await check_final(world, task, place, is_there=True)
        assert len(names_in(place)) == 1, f"left behind at await {step}: {names_in(place)}"
        if not was_reached:
            return step - 1
    raise AssertionError(f"a transfer waits more than {_MOST_STEPS} times")


async def _alone(world: World, task: Finished, folder: Path, step: int) -> bool:
    async with world.session(**IMPATIENT) as session:
        job = session.attach(task.task_id)
        await job
        download = asyncio.create_task(job.download(folder))
        steps = _Steps(step, download.cancel)
        with _watching(steps):
            ended = (await asyncio.gather(download, return_exceptions=True))[0]
            assert isinstance(ended, Path | asyncio.CancelledError), repr(ended)
            await job.download(folder)
    return steps.count >= step


async def _one_of_two(world: World, task: Finished, folder: Path, step: int) -> bool:
    async with world.session(**IMPATIENT) as session:
        job = session.attach(task.task_id)
        await job
        download, other = (asyncio.create_task(job.download(folder)) for _ in range(2))
        steps = _Steps(step, download.cancel)
        with _watching(steps):
            await asyncio.gather(download, return_exceptions=True)
            assert isinstance(await other, Path)
    return steps.count >= step


async def _session_closed(world: World, task: Finished, folder: Path, step: int) -> bool:
    ledger = MemoryLedger()
    session = world.session(ledger=ledger, **IMPATIENT)
    await session.open()
    job = session.attach(task.task_id)
    await job
    closing: list[asyncio.Task[None]] = []
    steps = _Steps(step, lambda: closing.append(asyncio.create_task(session.close())))
    with _watching(steps):
        ended = (await asyncio.gather(job.download(folder), return_exceptions=True))[0]
        assert isinstance(ended, Path | UsageError), repr(ended)
        await asyncio.gather(*closing)
    await session.close()
    async with world.session(ledger=ledger, **IMPATIENT) as again:
        await again.attach(task.task_id).download(folder)
    return steps.count >= step


CASES = (Case(name="D10", fault="a download cancelled at every await, and asked for again", run=cancelled_everywhere),)
