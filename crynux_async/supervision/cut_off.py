"""Jobs whose process ended while their create was under way: the ledger still has them as planned.

Only a session that takes such a job over writes what became of it; until then nobody may read that nothing was sent.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

import attrs

from crynux_async.backends.credentials import is_wallet
from crynux_async.ledgers.base import AttemptRow, Holder, JobFilter, JobRow
from crynux_async.states import STAGES, JobState, Stage

CUT_OFF = "the process ended while the create was under way; the task may exist and is not sent again by itself"


class Remembered(Protocol):
    """What is asked of a ledger here, as ``Ledger`` has it."""

    async def jobs(
        self, where: JobFilter | None = None, *, limit: int | None = None, newest_first: bool = False
    ) -> list[JobRow]:
        """Return jobs in the order in which they were added, or the other way round."""

    async def attempts(
        self,
        *,
        backend: str | None = None,
        job_ids: Collection[str] | None = None,
        unfinished: bool = False,
    ) -> list[AttemptRow]:
        """Return attempts in the order in which they were begun."""

    async def holder(self, job_id: str) -> Holder | None:
        """Return who holds a job, or None where anybody may take it."""


async def find_as_left(
    ledger: Remembered, where: JobFilter, *, limit: int | None = None, newest_first: bool = False
) -> list[JobRow]:
    """Return jobs that a filter means, as a session would take them over, which no query of the ledger knows.

    Args:
        ledger: As for ``as_left``.
        where: Which.
        limit: At most so many.
        newest_first: Whether those that were added last come first.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    states = where.states
    if states is None or (JobState.PLANNED in states) == (JobState.UNCONFIRMED in states):
        return await as_left(ledger, await ledger.jobs(where, limit=limit, newest_first=newest_first))
    under_way = {one.job_id for one in await ledger.attempts(backend=where.backend, unfinished=True)}
    if JobState.PLANNED in states:
        # Of a hundred thousand planned jobs only as many can fall out as have a create without an outcome.
        more = None if limit is None else limit + len(under_way)
        found = await ledger.jobs(where, limit=more, newest_first=newest_first)
    else:
        stored = await ledger.jobs(where, limit=limit, newest_first=newest_first)
        named = under_way if where.job_ids is None else under_way.intersection(where.job_ids)
        both = attrs.evolve(
            where, job_ids={*named, *(row.job_id for row in stored)}, states={*states, JobState.PLANNED}
        )
        found = await ledger.jobs(both, newest_first=newest_first)
    rows = await as_left(ledger, found)
    return [row for row in rows if row.state in states][:limit]


async def as_left(ledger: Remembered, rows: Sequence[JobRow]) -> list[JobRow]:
    """Return jobs as a session would take them over: what a dead process was sending is unconfirmed.

    Args:
        ledger: Knows creates and who holds jobs; nothing is changed in it.
        rows: The jobs.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    waiting = [row.job_id for row in rows if STAGES[row.state] is Stage.SUBMIT]
    open_ones = await ledger.attempts(job_ids=waiting, unfinished=True) if waiting else []
    # A wallet's create is the same one however often it is sent: it goes on where it was cut off.
    doubtful = [one.job_id for one in open_ones if not is_wallet(one.key_id)]
    left = [job_id for job_id in doubtful if await _is_left(ledger, job_id)]
    # The answer may have come, and its process have ended in peace, between the two looks.
    cut_off = {one.job_id for one in await ledger.attempts(job_ids=left, unfinished=True)} if left else set()
    return [
        attrs.evolve(row, state=JobState.UNCONFIRMED, error=CUT_OFF, error_facts={}) if row.job_id in cut_off else row
        for row in rows
    ]


async def _is_left(ledger: Remembered, job_id: str) -> bool:
    from crynux_async.supervision.owners import is_gone  # here: few lists have such a job

    holder = await ledger.holder(job_id)
    return holder is None or is_gone(holder.fence.owner)


async def sent_in_doubt(ledger: Remembered, rows: Sequence[JobRow]) -> list[str]:
    """Return the planned jobs that may have a task all the same: the answer to a create of them was lost.

    Only a wallet's job is planned then, because the same create is sent again; every other one is unconfirmed.

    Args:
        ledger: As for ``as_left``.
        rows: The jobs, as ``as_left`` has them.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    waiting = {row.job_id: row.tries for row in rows if STAGES[row.state] is Stage.SUBMIT and is_wallet(row.key_id)}
    if not waiting:
        return []
    from crynux_async.supervision.doubt import jobs_in_doubt  # here: few lists have such a job

    attempts = await ledger.attempts(job_ids=list(waiting))
    under_way = [one.job_id for one in attempts if one.outcome is None]
    alive = {job_id for job_id in under_way if not await _is_left(ledger, job_id)}
    return [job_id for job_id in jobs_in_doubt(attempts, waiting) if job_id not in alive]
