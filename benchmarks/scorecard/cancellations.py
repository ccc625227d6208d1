"""Case S5: whoever waits for a create is cancelled, times out, loses a sibling, or is interrupted with Ctrl-C."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable
from typing import Any, TypeVar

import attrs

from benchmarks.scorecard import warm
from benchmarks.scorecard.accounting import JobClass
from benchmarks.scorecard.case import Context
from benchmarks.scorecard.processes import Ended
from benchmarks.scorecard.submit_child import INTERRUPTED
from benchmarks.scorecard.submit_crashes import Work, all_of, lines, scene
from benchmarks.scorecard.worlds import World, accounts, config, on_virtual_time
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.session import Session

T = TypeVar("T")

CANCELLATIONS = 15
LIMIT = 60_000
INSTANT = 1e9

_ANSWER = 0.1
_MARGIN = 3.0


class SlowLedger(MemoryLedger):
    """A ledger whose disk takes its time, before it has a row and after."""

    async def add(self, *args: Any, **kwargs: Any) -> Any:
        """Store new jobs."""
        return await _around(super().add(*args, **kwargs))

    async def begin(self, *args: Any, **kwargs: Any) -> None:
        """Store an attempt."""
        await _around(super().begin(*args, **kwargs))

    async def change(self, *args: Any, **kwargs: Any) -> Any:
        """Store what became of an attempt, and what changed about jobs."""
        return await _around(super().change(*args, **kwargs))


async def _around(write: Awaitable[T]) -> T:
    async def do() -> T:
        await asyncio.sleep(0.05)
        written = await write
        await asyncio.sleep(0.05)
        return written

    return await asyncio.shield(asyncio.create_task(do()))  # cancelling a caller does not undo its write


def cancelled(context: Context) -> str:
    """S5: callers are cancelled, timed out, lose a sibling, or are interrupted, at random instants of a create."""
    return f"{_cancelled(CANCELLATIONS * context.seeds)}; {asyncio.run(_interrupted(context))}"


def _cancelled(count: int) -> str:
    """Cancel callers on virtual time."""

    async def work(world: World) -> tuple[Counter[str], int, Counter[JobClass]]:
        world.bridge.add_fault("delay", on="create", seconds=0.3, count=None)
        ledger, rng, ends = SlowLedger(), random.Random(5), Counter[str]()
        async with world.session(ledger=ledger, rate_limit=LIMIT, max_creates=64) as session:
            told: list[str] = []
            ways = (_by_cancel, _by_timeout, _by_sibling)
            for number in range(count):
                ends[await ways[number % 3](session, number + 1, rng.uniform(0.0, 0.6), told)] += 1
            during = len(told)
        created = [entry for entry in world.bridge.journal if entry.accepted]
        classes = await accounts(world, ledger, told)
        recorded = {row.task_id for row in await ledger.jobs()}
        lost = sum(str(entry.task_id) not in recorded for entry in created)
        assert len(created) > during, "no cancellation came after the POST, so the case shows nothing"
        return ends, lost, classes

    ends, lost, classes = on_virtual_time(work, rate_limit=LIMIT, speed=INSTANT, durable=False)
    assert lost == 0, f"{lost} ids lost"
    assert classes[JobClass.AMBIGUOUS] == 0, f"{classes}"
    assert sum(ends.values()) == count
    return f"{count} creates, {dict(ends)}: 0 ids lost; {classes[JobClass.ACCEPTED]} accepted, the others never sent"


async def _submit_and_tell(session: Session, seed: int, told: list[str]) -> None:
    job = await session.submit(config(seed))
    assert job.task_id is not None
    told.append(job.task_id)


async def _by_cancel(session: Session, seed: int, seconds: float, told: list[str]) -> str:
    task = asyncio.create_task(_submit_and_tell(session, seed, told))
    await asyncio.sleep(seconds)
    task.cancel()
    began = asyncio.get_running_loop().time()
    await asyncio.wait([task])
    assert asyncio.get_running_loop().time() - began < session.settings.close_timeout, "the caller was held back"
    return "cancelled" if task.cancelled() else "returned"


async def _by_timeout(session: Session, seed: int, seconds: float, told: list[str]) -> str:
    try:
        async with asyncio.timeout(seconds):
            await _submit_and_tell(session, seed, told)
    except TimeoutError:
        return "timed out"
    return "returned"


async def _by_sibling(session: Session, seed: int, seconds: float, told: list[str]) -> str:
    async def fail() -> None:
        await asyncio.sleep(seconds)
        raise ZeroDivisionError

    before = len(told)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_submit_and_tell(session, seed, told))
            group.create_task(fail())
    except* ZeroDivisionError:
        pass
    return "returned" if len(told) > before else "lost a sibling"


@attrs.frozen(kw_only=True)
class Interruption:
    """A way to press Ctrl-C.

    Attributes:
        name: What it is called.
        fault: What the bridge does with every create.
        options: More of that.
        drain: The child's ``close_timeout``.
        presses: How often Ctrl-C is pressed; whoever presses it twice does not want to wait for ``drain``.
    """

    name: str
    fault: str
    options: dict[str, Any]
    drain: float
    presses: int = 1


INTERRUPTIONS = (
    Interruption(name="answered", fault="delay", options={"seconds": _ANSWER}, drain=10.0),
    Interruption(name="never answered", fault="stall", options={}, drain=0.5),
    Interruption(name="pressed twice", fault="stall", options={}, drain=30.0, presses=2),
)


async def _interrupted(context: Context) -> str:
    """Press Ctrl-C in real processes; each way once per seed."""
    rng = random.Random(5)
    works = [
        _interrupting(context, f"{way.name} {seed}", way, rng.uniform(0.0, 3 * _ANSWER))
        for seed in range(context.seeds)
        for way in INTERRUPTIONS
    ]
    found = await all_of(works)
    in_time = [each for each in found if each is not None]
    assert len(in_time) >= 0.9 * len(works), f"only {len(in_time)} of {len(works)} were interrupted in time"
    classes = sum((each for _, each in in_time), Counter[JobClass]())
    assert classes[JobClass.ACCEPTED], "nothing was sent before Ctrl-C, so the case shows nothing"
    slowest = max(seconds for seconds, _ in in_time)
    return (
        f"Ctrl-C in {len(in_time)} processes, ended after at most {slowest:.1f} s: "
        f"{', '.join(f'{classes[name]} {name}' for name in JobClass if classes[name])}"
    )


def _interrupting(
    context: Context, name: str, way: Interruption, seconds: float
) -> Work[tuple[float, Counter[JobClass]] | None]:
    async def work() -> tuple[float, Counter[JobClass]] | None:
        async with scene(context.folder / name) as here:
            here.world.bridge.add_fault(way.fault, on="create", count=None, **way.options)
            env = {**here.env, "CRYNUX_CLOSE_TIMEOUT": str(way.drain)}
            async with warm.forked(here.submit("--interruptible"), env=env) as child:
                child.go()
                words = await child.out.readline()
                assert words, "the child said nothing"
                await asyncio.sleep(seconds)
                began = asyncio.get_running_loop().time()
                ended, more = await _pressed(child, way)
                took = asyncio.get_running_loop().time() - began - more * _MARGIN
            said = lines(words.decode() + ended.out)
            here.world.bridge.clear_faults()
            classes = await here.check(said)
            if {"done": True} in said:
                return None  # it was faster than Ctrl-C
            assert ended.code == INTERRUPTED, f"{name}: exited with {ended.code}: {ended.out} {ended.err}"
            # Ctrl-C may come before the first submit has begun, or when the last has returned.
            answers = sum(not line.keys().isdisjoint({"told", "refused", "cancelled"}) for line in said)
            assert answers >= classes.total() or way.presses > 1, f"{name}: a caller was not told: {said}"
            assert more <= 2, f"{name}: Ctrl-C was pressed {way.presses + more} times"
            longest = _MARGIN + (0.0 if way.presses > 1 else way.drain)
            assert took < longest, f"{name}: it took {took:.1f} s to end, not {longest:g}"
            lost = classes[JobClass.AMBIGUOUS]
            assert not lost or way.name != "answered", f"{name}: {lost} ids lost, with time to wait for them"
            return took, classes

    return work


async def _pressed(child: warm.Child, way: Interruption) -> tuple[Ended, int]:
    """Press Ctrl-C until a child has ended, and return how it ended, and how often more than was meant it took.

    A busy machine makes one press of two. And asyncio raises the KeyboardInterrupt of the second one wherever Python
    is: where that is in asyncio itself, a callback is lost, and its loop waits for the task of that callback without an
    end. Only one press more ends it. A library can do nothing about that; the command line has a handler of its own.
    """
    for _ in range(way.presses):
        child.send(signal.SIGINT)
        await asyncio.sleep(0.02)
    ending, more = asyncio.create_task(child.ended()), 0
    while way.presses > 1 and not (await asyncio.wait([ending], timeout=_MARGIN))[0]:
        child.send(signal.SIGINT)
        more += 1
    return await ending, more
