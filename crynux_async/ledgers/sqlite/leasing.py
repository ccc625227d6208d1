"""Who follows which job: what is decided about leases, each in a transaction that is open and exclusive.

Every function returns its result and whether it changed anything.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from crynux_async.errors import LedgerError
from crynux_async.ledgers.sql import statements
from crynux_async.ledgers.sql.rows import to_microseconds
from crynux_async.ledgers.sql.steps import lease_row, renewal_row
from crynux_async.ledgers.sqlite.connection import SqliteConnection

_MOST_PARAMETERS = 500


async def take_free(
    connection: SqliteConnection,
    owner: str,
    *,
    backend: str,
    now: datetime,
    until: datetime,
    states: Collection[str],
) -> tuple[list[tuple[Any, ...]], bool]:
    """Give every free job to an owner, and return the columns of those jobs."""
    free = statements.is_free(backend, states, to_microseconds(now))
    rows = await connection.fetch(statements.select_free(free))
    if rows:
        await connection.run(statements.ADD_LEASE, [lease_row(owner, until)])
        await connection.run(statements.take_free(free, owner))
        # Only now: it makes the owner's own jobs, whose lease had ended, cease to be free.
        await connection.run(statements.RENEW_LEASE, [renewal_row(owner, until)])
        await connection.run(statements.forget_leases(to_microseconds(now)))
    return rows, bool(rows)


async def take(
    connection: SqliteConnection, owner: str, job_ids: Sequence[str], *, until: datetime
) -> tuple[list[str], bool]:
    """Give jobs that no other owner has to an owner, and return those that it has now.

    Raises:
        LedgerError: There is no such job.
    """
    owners: dict[str, str | None] = {}
    for start in range(0, len(job_ids), _MOST_PARAMETERS):
        rows = await connection.fetch(statements.select_owners(job_ids[start : start + _MOST_PARAMETERS]))
        owners.update((job_id, known) for job_id, known in rows)
    missing = next((job_id for job_id in job_ids if job_id not in owners), None)
    if missing is not None:
        raise LedgerError(f"there is no job {missing!r}", job_id=missing)
    mine = [job_id for job_id in job_ids if owners[job_id] in {None, owner}]
    if mine:
        await connection.run(statements.ADD_LEASE, [lease_row(owner, until)])
        await connection.run(statements.RENEW_LEASE, [renewal_row(owner, until)])
        await connection.run(statements.TAKE_LEASE, [{"key_job_id": job_id, "owner": owner} for job_id in mine])
    return mine, bool(mine)


async def renew(connection: SqliteConnection, owner: str, *, until: datetime) -> tuple[int, bool]:
    """Move the end of an owner's leases, and return how many it has."""
    if not await connection.run(statements.RENEW_LEASE, [renewal_row(owner, until)]):
        return 0, False
    ((count,),) = await connection.fetch(statements.count_leases(owner))
    return count, True
