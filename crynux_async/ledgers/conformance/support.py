"""What the conformance checks of ledgers are made of."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias

import attrs

from crynux_async.errors import CrynuxError, LedgerError
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, JobRow, Ledger
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig

LedgerFactory: TypeAlias = Callable[[], Ledger]
"""Makes a new, empty ledger that is not open yet."""

BACKEND = "https://bridge.example"
KEY_ID = "0123456789abcdef"
START = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


class LedgerCheck(Protocol):
    """One check; its name says what must hold."""

    __name__: str

    async def __call__(self, make: LedgerFactory) -> None:
        """Run the check on ledgers that ``make`` makes."""


@asynccontextmanager
async def opened(make: LedgerFactory) -> AsyncIterator[Ledger]:
    """Give a new ledger, open for the block."""
    ledger = make()
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


def at(seconds: float) -> datetime:
    """Return a time some seconds after a fixed one."""
    return START + timedelta(seconds=seconds)


def job(name: str, **changes: Any) -> JobRow:
    """Return a planned job with a config of its own."""
    seed = 1 + sum(name.encode())
    config = FineTuneConfig(model_name="base/model", dataset_url="https://data.example/a.zip", seed=seed)
    row: dict[str, Any] = {
        "job_id": name,
        "backend": BACKEND,
        "key_id": KEY_ID,
        "config": config,
        "digest": config.digest(),
        "label": "",
        "task_id": None,
        "state": JobState.PLANNED,
        "planned_at": START,
    }
    return JobRow(**{**row, **changes})


def attempt(name: str, number: int = 1, *, seconds: float = 0.0, **changes: Any) -> AttemptRow:
    """Return an attempt of a job, begun some seconds after the fixed time."""
    row: dict[str, Any] = {
        "job_id": name,
        "number": number,
        "backend": BACKEND,
        "key_id": KEY_ID,
        "began_at": at(seconds),
    }
    return AttemptRow(**{**row, **changes})


def require(condition: object, what: str) -> None:
    """Raise AssertionError unless a condition holds; unlike ``assert``, whatever flags Python runs with."""
    if not condition:
        raise AssertionError(what)


def require_equal(found: object, wanted: object, what: str) -> None:
    """Raise AssertionError unless two values are equal."""
    require(found == wanted, f"{what}: found {found!r}, not {wanted!r}")


async def require_error(doing: Awaitable[object], what: str, kind: type[CrynuxError] = LedgerError) -> None:
    """Raise AssertionError unless awaiting something raises an error of this kind."""
    try:
        await doing
    except kind:
        return
    raise AssertionError(f"{what}: no {kind.__name__} was raised")


async def accept(ledger: Ledger, row: AttemptRow, task_id: int, *, seconds: float = 1.0) -> None:
    """Finish an attempt as accepted, and put its job on the way."""
    done = attrs.evolve(row, answered_at=at(seconds), outcome=AttemptOutcome.ACCEPTED, task_id=task_id)
    await ledger.finish(done, task_id=task_id, state=JobState.RUNNING)
