"""Case S16: whatever the supervisor calls raises once: the backend, the ledger, the gate."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from benchmarks.scorecard.accounting import JobClass, check_nothing_lost, remember
from benchmarks.scorecard.case import Context
from benchmarks.scorecard.worlds import World, config, creates, on_virtual_time
from crynux_async.backends.bridge.backend import BridgeBackend
from crynux_async.errors import LedgerBusyError, LedgerError, ServerError
from crynux_async.ledgers.base import GateCell, Ledger
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.session import Session
from crynux_async.states import JobState

JOBS = 3
LIMIT = 60_000
LONG = 4 * 3600.0

_LEDGER = (
    "add",
    "attempts",
    "begin",
    "change",
    "claim",
    "gate",
    "holders",
    "leave",
    "renew",
    "save_hazards",
    "tasks",
    "wishes",
)
_BACKEND = ("create", "intend", "look", "open_result", "prepare", "price", "spent", "stall_after")
_ERRORS: tuple[Callable[[], Exception], ...] = (
    lambda: RuntimeError("a bug"),
    lambda: OSError(5, "Input/output error"),
    lambda: KeyError("a bug"),
)
_TYPED: tuple[Callable[[], Exception], ...] = (
    lambda: LedgerBusyError("locked"),
    lambda: LedgerError("no"),
    lambda: ServerError("no", status=503),
)


@attrs.define(eq=False)
class Trap:
    """Raises once, at one call of one seam.

    Attributes:
        seam: The method.
        at: Which call of it, >= 1.
        error: Makes what it raises.
        calls: How often the seam was called.
    """

    seam: str
    at: int
    error: Callable[[], Exception]
    calls: int = 0

    def spring(self, seam: str) -> None:
        """Raise, where it is this call's turn."""
        if seam == self.seam:
            self.calls += 1
            if self.calls == self.at:
                raise self.error()


class Trapped:
    """Something whose methods may raise once.

    Args:
        inner: What it stands for.
        trap: Which of its methods raises, and when.
        seams: The methods that may.
    """

    def __init__(self, inner: Any, trap: Trap, seams: tuple[str, ...]) -> None:
        self._inner = inner
        self._trap = trap
        self._seams = seams

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._seams:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._trap.spring(name)
            return found(*args, **kwargs)

        async def call_and_wait(*args: Any, **kwargs: Any) -> Any:
            self._trap.spring(name)
            return await found(*args, **kwargs)

        return call_and_wait if asyncio.iscoroutinefunction(found) else call


class TrappedLedger(Trapped):
    """A ledger whose methods may raise once."""

    _inner: Ledger

    @asynccontextmanager
    async def gate(self, backend: str, key_id: str) -> AsyncIterator[GateCell]:
        """Open the row of a key's gate."""
        self._trap.spring("gate")
        async with self._inner.gate(backend, key_id) as cell:
            yield cell


def raising(context: Context) -> str:
    """S16: every exception at every seam of the supervisor, once."""
    calls = (1, 2, 4) if context.seeds >= 5 else (2,)
    errors = (*_ERRORS, *_TYPED) if context.seeds >= 5 else (_ERRORS[0], _TYPED[1])
    seen: Counter[str] = Counter()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    for seam in (*_LEDGER, *_BACKEND):
        for at in calls:
            for error in errors:
                trap = Trap(seam, at, error)
                hit = _run(trap, context.folder / f"{seam}-{at}-{errors.index(error)}")
                seen["sprung"] += trap.calls >= at
                seen["one job hit"] += hit
    seams = len(_LEDGER) + len(_BACKEND)
    return f"{seen['sprung']} exceptions at {seams} seams, {seen['one job hit']} hit one job, none hit two"


def _run(trap: Trap, folder: Path) -> int:
    """Run a few jobs while one call raises, and return how many of them did not get their model."""

    async def work(world: World) -> int:
        ledger = MemoryLedger()
        settings = world.settings(rate_limit=LIMIT, unreachable_timeout=600.0)
        backend = Trapped(BridgeBackend(settings), trap, _BACKEND)
        session = Session(settings, ledger=TrappedLedger(ledger, trap, _LEDGER), backend=backend)
        if not await _opens(session, trap):
            await backend.close()
            return 0
        jobs = [session.submit_nowait(config(seed)) for seed in range(1, JOBS + 1)]
        results = await asyncio.wait_for(
            asyncio.gather(*(_model(job, folder) for job in jobs), return_exceptions=True), LONG
        )
        bad = [result for result in results if isinstance(result, BaseException)]
        assert len(bad) <= 1, f"{trap}: {bad}"
        last = await asyncio.wait_for(asyncio.gather(session.submit(config(JOBS + 1)), return_exceptions=True), LONG)
        bad += [result for result in last if isinstance(result, BaseException)]  # or the session goes on
        assert len(bad) <= 1, f"{trap}: {bad}"
        await session.close()
        await backend.close()
        assert len(creates(world.bridge)) <= JOBS + 2, f"{trap}: {len(creates(world.bridge))} POSTs"
        known = await remember(ledger)
        classes = check_nothing_lost(
            world.bridge.journal, known.jobs, known.attempts, creates(world.bridge), brackets=known.brackets
        )
        assert classes[JobClass.ACCEPTED] + len(bad) >= JOBS + 1, f"{trap}: {classes}"
        return len(bad)

    return on_virtual_time(work, rate_limit=LIMIT, durable=False, unet="tiny")


async def _opens(session: Session, trap: Trap) -> bool:
    """Open a session; where that hits the trap, its error is what is raised."""
    try:
        await session.open()
    except Exception as error:
        if type(error) is not type(trap.error()):
            raise
        return False
    return True


async def _model(job: Any, folder: Path) -> Path:
    path: Path = await job.download(folder)
    assert job.state is JobState.DOWNLOADED, f"{job!r}"
    return path
