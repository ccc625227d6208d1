"""What the conformance checks of ledgers are made of."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias

import attrs

from crynux_async.errors import CrynuxError, LedgerError
from crynux_async.ledgers.base import (
    AttemptOutcome,
    AttemptRow,
    EventRow,
    Fence,
    JobChange,
    JobRow,
    Ledger,
    StepRow,
    TaskRow,
)
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig

BACKEND = "https://bridge.example"
OTHER_BACKEND = "https://other.example"
KEY_ID = "0123456789abcdef"
START = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
AWKWARD = "ünï\n\"quotes\" 'single' % {} 😀 \u2028 ;--"
"""Text that a careless ledger does not give back as it was."""


class LedgerPlace(Protocol):
    """Where one new, empty ledger is."""

    def instance(self) -> Ledger:
        """Return one more instance of this ledger, not open yet: all of them see the same rows."""

    def move_clock(self, seconds: float) -> None:
        """Move the clock that this ledger tells the ends of leases by, in every instance."""


LedgerFactory: TypeAlias = Callable[[], LedgerPlace]
"""Makes a place for a new, empty ledger."""


class LedgerCheck(Protocol):
    """One check; its name says what must hold."""

    __name__: str

    async def __call__(self, make: LedgerFactory) -> None:
        """Run the check on ledgers that ``make`` makes."""


@attrs.frozen
class Desk:
    """An open ledger and somebody who works on it.

    Attributes:
        ledger: The ledger.
        fence: A lease on it.
        place: Where it is.
    """

    ledger: Ledger
    fence: Fence
    place: LedgerPlace

    async def change(self, job_id: str, **parts: Any) -> list[str]:
        """Change one job; ``parts`` are those of ``JobChange``."""
        return await self.ledger.change(self.fence, [JobChange(job_id=job_id, **parts)])

    async def accept(self, row: AttemptRow, task_id: str, *, seconds: float = 1.0) -> None:
        """Finish an attempt as accepted, and put its job on the way."""
        done = attrs.evolve(row, answered_at=at(seconds), outcome=AttemptOutcome.ACCEPTED, task_id=task_id)
        lost = await self.change(
            row.job_id, columns={"task_id": task_id, "state": JobState.RUNNING}, finished=done, tasks=[]
        )
        require_equal(lost, [], "jobs lost while a create was answered")


@asynccontextmanager
async def opened(make: LedgerFactory) -> AsyncIterator[Ledger]:
    """Give a new ledger, open for the block."""
    async with opened_at(make()) as ledger:
        yield ledger


@asynccontextmanager
async def opened_at(place: LedgerPlace) -> AsyncIterator[Ledger]:
    """Give one more instance of a ledger, open for the block."""
    ledger = place.instance()
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


@asynccontextmanager
async def desk(make: LedgerFactory, *names: str) -> AsyncIterator[Desk]:
    """Give a new ledger and a lease of a minute on it, which holds planned jobs with these names."""
    async with desks(make, 1) as (one,):
        await one.ledger.add([job(name) for name in names], fence=one.fence)
        yield one


@asynccontextmanager
async def desks(make: LedgerFactory, count: int = 2) -> AsyncIterator[Sequence[Desk]]:
    """Give several instances of one new ledger, each with a lease of a minute."""
    place = make()
    async with AsyncExitStack() as stack:
        made = []
        for number in range(count):
            ledger = await stack.enter_async_context(opened_at(place))
            fence = await ledger.enter(f"owner {number}", seconds=60)
            made.append(Desk(ledger=ledger, fence=fence, place=place))
        yield made


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


def task(name: str, task_id: str, try_number: int = 1, member: int = 0, **changes: Any) -> TaskRow:
    """Return a task of a job."""
    row: dict[str, Any] = {
        "job_id": name,
        "try_number": try_number,
        "member": member,
        "backend": BACKEND,
        "task_id": task_id,
        "made_at": START,
    }
    return TaskRow(**{**row, **changes})


def step(name: str, kind: str, try_number: int = 1, **changes: Any) -> StepRow:
    """Return a step of a job that was planned."""
    return StepRow(**{"job_id": name, "try_number": try_number, "kind": kind, "planned_at": START, **changes})


def event(name: str, number: int, *, seconds: float = 0.0, **data: Any) -> EventRow:
    """Return an event of a job."""
    return EventRow(job_id=name, number=number, at=at(seconds), kind="Happened", data=data)


def happened(name: str, *numbers: int, seconds: float = 0.0) -> JobChange:
    """Return a change that is some events."""
    events = [event(name, number, seconds=seconds) for number in numbers]
    return JobChange(job_id=name, columns={"last_event": numbers[-1]}, events=events)


def require(condition: object, what: str) -> None:
    """Raise AssertionError unless a condition holds; unlike ``assert``, whatever flags Python runs with."""
    if not condition:
        raise AssertionError(what)


def require_equal(found: object, wanted: object, what: str) -> None:
    """Raise AssertionError unless two values are equal."""
    require(found == wanted, f"{what}: found {found!r}, not {wanted!r}")


async def require_error(doing: Awaitable[object], what: str, kind: type[CrynuxError] = LedgerError) -> CrynuxError:
    """Raise AssertionError unless awaiting something raises an error of just this kind; return it."""
    try:
        await doing
    except CrynuxError as error:
        require(type(error) is kind, f"{what}: {error!r} was raised, and no {kind.__name__}")
        return error
    raise AssertionError(f"{what}: no {kind.__name__} was raised")


def names(rows: Sequence[JobRow]) -> list[str]:
    """Return the names of jobs."""
    return [row.job_id for row in rows]
