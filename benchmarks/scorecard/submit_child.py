"""The program that is killed while it submits: ``python -m benchmarks.scorecard.submit_child LEDGER FIRST COUNT``.

Settings come from the environment, as a user's would. Standard output has one line of JSON for each thing that
happened, each written at once with one system call, because the process may not live to write a second one.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs

from benchmarks.scorecard.worlds import config
from crynux_async.backends.base import CreatedTask, Habits
from crynux_async.backends.bridge.backend import BridgeBackend
from crynux_async.errors import CrynuxError
from crynux_async.session import Session
from crynux_async.settings import Settings
from crynux_async.states import UNFETCHED, UNFINISHED, JobState

REFUSED = 3
INTERRUPTED = 130
FULL_SECONDS = 1.5
"""How long a session waits for room on a full disk before it is closed."""


class QuietLoop(asyncio.SelectorEventLoop):
    """An event loop that is woken with ``writev`` and ``readv``: ``sendto`` and ``recvfrom`` are left to HTTP.

    strace counts a system call for each thread apart: a ``sendto`` of a thread of the ledger that only says "look
    again" could not be told from one to the bridge.
    """

    def _read_from_self(self) -> None:
        waker: Any = vars(self)["_ssock"]
        with contextlib.suppress(OSError):  # nothing more to read
            while os.readv(waker.fileno(), [bytearray(4096)]):
                pass

    def _write_to_self(self) -> None:
        waker: Any = vars(self).get("_csock")
        if waker is not None:
            with contextlib.suppress(OSError):  # full of wake-ups, or closed: asyncio ignores both too
                os.writev(waker.fileno(), [b"\0"])


class FillingBackend(BridgeBackend):
    """A bridge backend that calls something just before the first create, or just after it.

    Args:
        settings: As for every backend.
        before: Called with nothing before the first create is sent.
        after: Called with nothing when the first create was answered.
        lease: Seconds of a lease, or None for as long as usual.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
        lease: float | None = None,
    ) -> None:
        super().__init__(settings)
        self._before, self._after = before, after
        self._lease = lease

    @property
    def habits(self) -> Habits:
        """What bridges are known to do, with leases as long as this process holds them."""
        return attrs.evolve(super().habits, lease=self._lease) if self._lease else super().habits

    async def create(self, payload: str) -> CreatedTask:
        """Send one create."""
        before, self._before = self._before, None
        if before is not None:
            before()
        created = await super().create(payload)
        after, self._after = self._after, None
        if after is not None:
            after()
        return created


def say(**facts: Any) -> None:
    """Write a line, with one system call."""
    os.write(1, json.dumps(facts).encode() + b"\n")


def fill(folder: Path) -> None:
    """Use up every byte of a file system."""
    descriptor = os.open(folder / "filler", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    os.write(descriptor, b"\0" * size)
            except OSError:
                continue
    finally:
        os.close(descriptor)


async def submit(session: Session, seed: int) -> None:
    """Submit one job and say what became of it."""
    try:
        job = await session.submit(config(seed))
    except CrynuxError as error:
        say(refused=seed, error=type(error).__name__, task_id=error.task_id)
    except asyncio.CancelledError:
        say(cancelled=seed)
        raise
    else:
        say(told=job.task_id, seed=seed)


async def submit_all(session: Session, seeds: Iterable[int], *, at_once: bool) -> None:
    """Submit jobs, all at once or one after the other."""
    if at_once:
        await asyncio.gather(*(submit(session, seed) for seed in seeds))
    else:
        for seed in seeds:
            await submit(session, seed)


async def take_over(session: Session) -> None:
    """Go on until this session has every unfinished job of the ledger, and everything that was planned is sent.

    A task that has ended, and whose model nobody wants, is followed by nobody.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    asked: set[str] = set()
    while True:
        for job in session.jobs(JobState.PLANNED):
            if job.job_id not in asked:  # one that is asked for may be sent at any moment, and is no retry any more
                asked.add(job.job_id)
                await job.retry()
        mine = {job.job_id for job in session.jobs()}
        rows = await session.history()
        left = {row.job_id for row in rows if row.state in UNFINISHED - UNFETCHED} - mine
        if not left and not session.jobs(JobState.PLANNED):
            say(took_over=sorted(mine), seconds=loop.time() - began)
            return
        await asyncio.sleep(0.05)


async def work(options: argparse.Namespace) -> None:
    """Submit jobs on a ledger."""
    place = options.ledger.parent
    fillers: dict[str, Callable[[], None] | None] = {"before": None, "after": None}
    if options.fill in fillers:
        fillers[options.fill] = lambda: fill(place)
    if options.fill == "first":
        fill(place)
    settings = Settings.load()
    backend = FillingBackend(settings, lease=options.lease, **fillers)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(backend.close)
        session = await stack.enter_async_context(Session(settings, ledger=options.ledger, backend=backend))
        say(ready=True)
        if options.fill == "open":
            fill(place)
        seeds = range(options.first, options.first + options.count)
        submitting = asyncio.create_task(submit_all(session, seeds, at_once=options.at_once))
        if options.fill:
            await asyncio.wait([submitting], timeout=FULL_SECONDS)  # a disk may get room again, so nobody is told yet
            await session.close()
        await submitting
        if options.lease:
            await asyncio.to_thread(sys.stdin.read)  # there is nothing to take over before the other one is dead
            await take_over(session)
    say(done=True)


def main() -> int:
    """Submit jobs and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorecard.submit_child", description=__doc__)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("first", type=int, help="seed of the first job")
    parser.add_argument("count", type=int, help="how many jobs")
    parser.add_argument("--at-once", action="store_true", help="submit all jobs at once, not one after the other")
    parser.add_argument("--fill", choices=("first", "open", "before", "after"), help="when to fill the ledger's disk")
    parser.add_argument(
        "--lease",
        type=float,
        help="seconds of a lease; then also take over what others leave, once standard input is closed",
    )
    parser.add_argument("--interruptible", action="store_true", help="run as most programs do, and end with Ctrl-C")
    options = parser.parse_args()
    try:
        with asyncio.Runner(loop_factory=None if options.interruptible else QuietLoop) as runner:
            runner.run(work(options))
    except KeyboardInterrupt:
        return INTERRUPTED
    except CrynuxError as error:
        say(failed=type(error).__name__, message=str(error), task_id=error.task_id)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
