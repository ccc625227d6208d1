"""What callers ask of the writer: steps that are usually taken as they are, and what to do where one is refused.

Theory of operation. Nearly every write is taken: its fence holds, its key is new, its budget suffices. So the writer
does the steps of all that waits together and asks no questions. Where a step is refused, the same requests are done
again one by one, each behind a savepoint, and now each finds out by itself what it has to tell: which jobs are lost,
which job was there before, what the budget has left.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

import attrs

from crynux_async.errors import LeaseLostError, LedgerError
from crynux_async.ledgers.base import (
    AttemptRow,
    EventRow,
    Fence,
    JobChange,
    JobRow,
    Reservation,
    StepRow,
    TaskRow,
)
from crynux_async.ledgers.checks import exceeded, misnumbered
from crynux_async.ledgers.columns import decode_job
from crynux_async.ledgers.sql import queries
from crynux_async.ledgers.sql.connection import Connection
from crynux_async.ledgers.sql.steps import Step, add_steps, begin_steps, change_steps, plan_steps
from crynux_async.ledgers.sql.text import Row

_T = TypeVar("_T")


@attrs.define(eq=False)
class Request(Generic[_T]):
    """One write.

    Attributes:
        steps: What is done.
        result: What the caller hears where all steps are taken.
        apart: Does it alone, where a step is refused, behind a savepoint; returns the result, or raises what to tell.
        meets: Where it meets writes of others, who wait until its transaction ends: writes of one transaction are done
            in this order, or two hosts would wait for each other, until the server undoes what one of them did.
    """

    steps: Sequence[Step]
    result: _T
    apart: Callable[[Connection], Awaitable[_T]]
    meets: tuple[str, ...] = ()


def plain_request(steps: Sequence[Step]) -> Request[None]:
    """Return a write that is refused as it is."""
    return Request(steps, None, partial(_do, steps=steps))


def add_request(
    rows: Sequence[JobRow],
    encoded: Sequence[Row],
    *,
    fence: Fence | None,
    events: Sequence[EventRow],
    tasks: Sequence[TaskRow],
) -> Request[list[JobRow]]:
    """Return how jobs are added; those whose idempotency key is there give way to the earlier ones.

    Args:
        rows: The jobs.
        encoded: Every column of each of them.
        fence: Who holds them, or None.
        events: Their events.
        tasks: Their tasks.

    Raises:
        LedgerError: A value cannot be stored.
    """
    parts: dict[str, list[EventRow | TaskRow]] = {row.job_id: [] for row in rows}
    every: tuple[EventRow | TaskRow, ...] = (*events, *tasks)
    for part in every:
        parts[part.job_id].append(part)
    steps = add_steps(encoded, fence, _tags(rows), [part for row in rows for part in parts[row.job_id]])

    async def apart(connection: Connection) -> list[JobRow]:
        if fence is not None:
            await require_lease(connection, fence)
        return [
            await _add_or_find(connection, row, add_steps([columns], fence, _tags([row]), parts[row.job_id]))
            for row, columns in zip(rows, encoded, strict=True)
        ]

    keys = [(row.backend, row.tenant, row.idempotency_key) for row in rows if row.idempotency_key is not None]
    return Request(steps, list(rows), apart, meets=min(keys, default=()))


def change_request(fence: Fence, changes: Sequence[JobChange]) -> Request[list[str]]:
    """Return how jobs are changed; the result names those that are lost.

    Raises:
        LedgerError: A value cannot be stored.
    """
    steps = [change_steps(fence, change) for change in changes]

    async def apart(connection: Connection) -> list[str]:
        lost: dict[str, None] = {}
        for change, own_steps in zip(changes, steps, strict=True):
            held = await connection.fetch(queries.SELECT_HOLD, {"job_id": change.job_id})
            if not held or held[0][0] != fence.number:
                lost[change.job_id] = None
            elif change.events and held[0][1] != change.events[0].number - 1:
                raise misnumbered(change.job_id)
            else:
                await _do(connection, own_steps)
        return list(lost)

    return Request([step for own_steps in steps for step in own_steps], [], apart)


def begin_request(fence: Fence, attempt: AttemptRow, reservation: Reservation | None) -> Request[None]:
    """Return how an attempt is begun.

    Raises:
        LedgerError: A value cannot be stored.
    """
    steps = begin_steps(fence, attempt, reservation)

    async def apart(connection: Connection) -> None:
        await require_hold(connection, fence, attempt.job_id)
        if reservation is None:
            await _do(connection, steps)
            return
        *begin, reserve = steps
        await _do(connection, begin)
        if not await _run(connection, reserve):
            (known,) = await connection.fetch(queries.SELECT_BUDGET, {"name": reservation.budget})
            raise exceeded(reservation, queries.read_budget(known), attempt.job_id)

    return Request(steps, None, apart)


def plan_request(fence: Fence, step: StepRow) -> Request[StepRow]:
    """Return how a step of a job is planned; the result is the first one of its kind.

    Raises:
        LedgerError: A value cannot be stored.
    """
    steps = plan_steps(fence, step)

    async def apart(connection: Connection) -> StepRow:
        await require_hold(connection, fence, step.job_id)
        if await _run(connection, steps[0]):
            return step
        row: Row = {"job_id": step.job_id, "try_number": step.try_number, "member": step.member, "kind": step.kind}
        (known,) = await connection.fetch(queries.SELECT_STEP, row)
        return queries.read_step(known)

    return Request(steps, step, apart)


async def require_lease(connection: Connection, fence: Fence) -> None:
    """Check that a lease is there, and keep it there until the transaction ends.

    Raises:
        LeaseLostError: It is gone.
    """
    if not await connection.fetch(queries.SELECT_LEASE, {"id": fence.number}):
        raise LeaseLostError(f"the lease of {fence.owner!r} was given back", job_ids=())


async def require_hold(connection: Connection, fence: Fence, job_id: str) -> None:
    """Check that a lease holds a job, and keep it so until the transaction ends.

    Raises:
        LeaseLostError: Another has it, or nobody.
        LedgerError: There is no such job.
    """
    held = await connection.fetch(queries.SELECT_HOLD, {"job_id": job_id})
    if not held:
        raise LedgerError(f"there is no job {job_id!r}", job_id=job_id)
    if held[0][0] != fence.number:
        raise LeaseLostError(f"job {job_id!r} is not held by {fence.owner!r} any more", job_ids=[job_id])


async def _add_or_find(connection: Connection, row: JobRow, steps: Sequence[Step]) -> JobRow:
    """Add a job, or return the one that has its idempotency key already."""
    add, *rest = steps
    if await _run(connection, add):
        await _do(connection, rest)
        return row
    key = {"backend": row.backend, "tenant": row.tenant, "idempotency_key": row.idempotency_key}
    (found,) = await connection.fetch(queries.SELECT_BY_KEY, key)
    return decode_job(found)


def _tags(rows: Sequence[JobRow]) -> dict[str, Mapping[str, str]]:
    return {row.job_id: row.tags for row in rows if row.tags}


async def _do(connection: Connection, steps: Iterable[Step]) -> None:
    """Do steps in the transaction that is open.

    Raises:
        LedgerError: The database does not take one of them.
    """
    for step in steps:
        if await _run(connection, step) != len(step.rows) and step.is_exact:
            raise LedgerError(step.refusal)


async def _run(connection: Connection, step: Step) -> int:
    """Do a step, and return how many rows changed.

    Raises:
        LedgerError: The database does not take it.
    """
    try:
        return await connection.run(step.statement, step.rows)
    except Exception as error:
        if not connection.is_refusal(error):
            raise
        raise LedgerError(f"{step.refusal} ({error})") from error
