"""Which credentials a session has, and which of them a job's result needs.

A job may be followed by a session that could never open its result. So every session knows of each model whether it can
have it, and leaves it to others where it cannot.
"""

from collections.abc import Sequence

from crynux_async.backends.base import Backend, KeepsCredentials
from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import JobFilter, Ledger
from crynux_async.supervision.record import Record

_OF_NOBODY = ""  # of a task that was attached nobody knows whose it is, so that anybody may try

_MOST_REFUSED = 200  # a claim names them all; one that is forgotten is tried once more


class Credentials:
    """What a session can open.

    Args:
        backend: The service, which knows its own credential and those that it keeps.
        ledger: Knows with which credential each task was made.
    """

    def __init__(self, backend: Backend, ledger: Ledger) -> None:
        self._backend = backend
        self._ledger = ledger
        self._refused: dict[str, None] = {}

    @property
    def refused(self) -> Sequence[str]:
        """The names of jobs whose results were refused to this session, of those that anybody may try."""
        return tuple(self._refused)

    def refuse(self, record: Record) -> None:
        """Remember that a job's result was refused to this session."""
        self._refused[record.job_id] = None
        if len(self._refused) > _MOST_REFUSED:
            del self._refused[next(iter(self._refused))]

    def try_again(self, record: Record) -> None:
        """Forget that it was: its user asks for it anew."""
        self._refused.pop(record.job_id, None)

    async def openable(self) -> frozenset[str]:
        """Return the fingerprints of the credentials whose results can be opened here, and "" for attached tasks."""
        kept = await self._backend.kept_key_ids() if isinstance(self._backend, KeepsCredentials) else ()
        return frozenset({self._backend.key_id, _OF_NOBODY, *kept})

    async def owners(self, record: Record) -> frozenset[str]:
        """Return with which credentials a job's task was made as far as the ledger knows: one, or none.

        Whoever attached a task anew knows less of it than an earlier job of the same task.

        Raises:
            LedgerError: It cannot be read.
        """
        is_sent = record.task_id is not None
        where = JobFilter(task_id=record.task_id) if is_sent else JobFilter(job_ids=[record.job_id])
        rows = await self._ledger.jobs(where)
        return frozenset(row.key_id for row in rows if row.backend == self._backend.name) - {_OF_NOBODY}

    async def needed_for(self, record: Record) -> str | None:
        """Return which other credential a job's result needs; None where it can be had here, or nobody knows."""
        try:
            owners = await self.owners(record)
        except LedgerError:
            return None
        is_own = not owners or bool(owners & await self.openable())
        return None if is_own else min(owners)
