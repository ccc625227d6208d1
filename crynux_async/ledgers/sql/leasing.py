"""Who follows which job: what is decided about leases, each in a transaction of its own.

Every function returns its result and whether it changed anything. Times are the ledger's own: ``now`` is a part
of a statement, a number of this machine or a function of the server.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

import attrs

from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import LEASE_MEMORY, Fence
from crynux_async.ledgers.sql import queries, statements
from crynux_async.ledgers.sql.connection import Connection
from crynux_async.ledgers.sql.reads import in_chunks, require_here
from crynux_async.ledgers.sql.requests import require_lease
from crynux_async.ledgers.sql.text import Sql
from crynux_async.values import Value

_T = TypeVar("_T")
_MICROSECONDS = 1_000_000


def _kept(values: Collection[str] | None) -> Sequence[str] | None:
    return None if values is None else sorted({*values})  # the caller's own may change before it is this one's turn


@attrs.frozen(kw_only=True)
class Chosen(Value):
    """Which free jobs are claimed.

    Attributes:
        states: Those in one of these.
        key_ids: Only those of these credentials; None for those of all.
        is_wanted: Whether only those whose archive is wanted.
    """

    states: Collection[str]
    key_ids: Sequence[str] | None = attrs.field(converter=_kept)
    is_wanted: bool

    def in_parts(self) -> "Iterable[Sequence[str] | None]":
        """Return the credentials in parts that a statement can hold; a bridge of one's own may have any number."""
        return [None] if self.key_ids is None else in_chunks(self.key_ids)


async def enter(connection: Connection, owner: str, *, now: Sql, seconds: float) -> tuple[Fence, bool]:
    """Make a lease, and forget those that mean nothing any more.

    Raises:
        LedgerError: The ledger was moved meanwhile.
    """
    require_here(await connection.fetch(queries.SELECT_MOVED))
    long_ago = now + f" - {int(LEASE_MEMORY * _MICROSECONDS)}"
    for (number,) in await connection.fetch(queries.select_forgotten(now, long_ago)):
        await _remove(connection, number)
    number = await connection.insert(statements.ADD_LEASE, {"owner": owner, "until": 0, "mark": 0})
    await connection.run(statements.renew_lease(number, now, round(seconds * _MICROSECONDS)))
    return Fence(owner=owner, number=number), True


async def renew(connection: Connection, fence: Fence, *, now: Sql, seconds: float) -> tuple[int | None, bool]:
    """Move the end of a lease, and return how many jobs it holds, or None where it is gone."""
    if not await connection.run(statements.renew_lease(fence.number, now, round(seconds * _MICROSECONDS))):
        return None, False
    ((count,),) = await connection.fetch(queries.COUNT_HELD, {"lease_id": fence.number})
    return count, True


async def leave(connection: Connection, fence: Fence) -> tuple[None, bool]:
    """Give back a lease with every job that it holds."""
    await _remove(connection, fence.number)
    return None, True


async def claim(
    connection: Connection,
    fence: Fence,
    *,
    now: Sql,
    backend: str,
    followed: Chosen,
    wanted: Chosen,
    spared: Collection[str],
    at_most: int | None,
) -> tuple[list[tuple[Any, ...]], bool]:
    """Give free jobs to a lease, and return the columns of those jobs.

    Raises:
        LeaseLostError: The lease is gone.
    """
    await require_lease(connection, fence)
    free: set[int] = set()
    for chosen in (followed, wanted):
        for key_ids in chosen.in_parts() if chosen.states else ():
            for select in queries.select_free(
                fence,
                now,
                backend=backend,
                states=chosen.states,
                is_wanted=chosen.is_wanted,
                key_ids=key_ids,
                spared=spared,
                at_most=at_most,
            ):
                free |= {number for (number,) in await connection.fetch(select)}
    taken = sorted(free)[:at_most]
    await _give(connection, fence, taken)
    return await _numbered(connection, fence, taken), bool(taken)


async def take(connection: Connection, fence: Fence, job_ids: Sequence[str], *, now: Sql) -> tuple[list[str], bool]:
    """Give jobs that nobody holds any more to a lease, and return those that it holds now.

    Raises:
        LeaseLostError: The lease is gone.
        LedgerError: There is no such job.
    """
    await require_lease(connection, fence)
    found: dict[str, tuple[int, int | None, bool]] = {}
    for some in in_chunks(list(dict.fromkeys(job_ids))):
        for job_id, number, lease, is_held in await connection.fetch(queries.select_takable(some, now)):
            found[job_id] = number, lease, bool(is_held)
    missing = next((job_id for job_id in job_ids if job_id not in found), None)
    if missing is not None:
        raise LedgerError(f"there is no job {missing!r}", job_id=missing)
    free = {job_id for job_id, (_, lease, is_held) in found.items() if lease != fence.number and not is_held}
    await _give(connection, fence, sorted(found[job_id][0] for job_id in free))
    mine = [job_id for job_id in job_ids if job_id in free or found[job_id][1] == fence.number]
    return mine, bool(free)


async def _numbered(connection: Connection, fence: Fence, numbers: Sequence[int]) -> list[tuple[Any, ...]]:
    """Return the columns of jobs that a lease holds by now, by their numbers in order."""
    if not numbers:
        return []
    # One range for all: what the lease holds in between as well is left out here.
    span = {"lease_id": fence.number, "first": numbers[0], "last": numbers[-1]}
    chosen = {*numbers}
    return [row[:-1] for row in await connection.fetch(queries.SELECT_SPAN, span) if row[-1] in chosen]


async def _give(connection: Connection, fence: Fence, numbers: Iterable[int]) -> None:
    rows = [{"key_first": first, "key_last": last, "set_lease": fence.number} for first, last in _runs(numbers)]
    if rows:
        await connection.run(statements.TAKE_JOBS, rows)


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return ascending numbers as runs without a gap: jobs that are taken together were mostly added together."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs


async def _remove(connection: Connection, lease: int) -> None:
    await connection.run(statements.FREE_JOBS, [{"key_lease": lease}])
    await connection.run(statements.REMOVE_LEASE, [{"id": lease}])
