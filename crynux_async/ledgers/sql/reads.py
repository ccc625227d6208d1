"""What is read of a ledger in a database by whoever lists jobs, the same with an event loop and without one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import attrs

from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import AttemptRow, Holder, JobFilter, JobRow, TaskRow
from crynux_async.ledgers.columns import decode_job
from crynux_async.ledgers.sql import queries
from crynux_async.ledgers.sql.text import Sql

_Item = TypeVar("_Item")
_T = TypeVar("_T")

MOST_PARAMETERS = 500
"""So many names are put into one statement at most."""

_EVERY = JobFilter()


class SqlReads(ABC):
    """Reads jobs and what belongs to them. A subclass reaches the database, tells its time and decodes many rows.

    Args:
        place: The file or database without any secret, for messages.
    """

    def __init__(self, place: str) -> None:
        self._place = place

    @abstractmethod
    def now(self) -> Sql:
        """Return the time by the ledger's own clock, in microseconds since 1970, as a part of a statement."""

    @abstractmethod
    async def _read(self, statement: Sql, row: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT.

        Raises:
            LedgerError: It cannot be read.
        """

    @abstractmethod
    async def _converted(self, convert: Callable[[Any], _T], rows: Sequence[Any]) -> list[_T]:
        """Return what each row becomes."""

    async def holder(self, job_id: str) -> Holder | None:
        """Return who holds a job, or None where anybody may take it."""
        rows = await self._read(queries.select_holder(job_id, self.now()))
        return queries.read_holder(rows[0]) if rows else None

    async def jobs(
        self, where: JobFilter | None = None, *, limit: int | None = None, newest_first: bool = False
    ) -> list[JobRow]:
        """Return jobs in the order in which they were added, or the other way round."""
        numbered: list[tuple[Any, ...]] = []
        for part in parts(where or _EVERY):
            numbered += await self._read(queries.select_jobs(part, limit=limit, newest_first=newest_first))
        numbered.sort(key=lambda row: row[-1], reverse=newest_first)
        return await self._decode(decode_job, [row[:-1] for row in numbered[:limit]])

    async def attempts(
        self,
        *,
        backend: str | None = None,
        key_id: str | None = None,
        job_ids: Collection[str] | None = None,
        since: datetime | None = None,
        unfinished: bool = False,
    ) -> list[AttemptRow]:
        """Return attempts in the order in which they were begun."""
        asked = {"backend": backend, "key_id": key_id, "since": since, "unfinished": unfinished}
        numbered: list[tuple[Any, ...]] = []
        for some in [None] if job_ids is None else in_chunks(sorted({*job_ids})):
            numbered += await self._read(queries.select_attempts({**asked, "job_ids": some}))
        return await self._decode(queries.read_attempt, in_order(numbered))

    async def tasks(self, job_ids: Collection[str]) -> list[TaskRow]:
        """Return every task that was ever made for certain jobs, by job, try and member."""
        numbered = await self._read_in_chunks(queries.select_tasks, job_ids)
        return await self._decode(queries.read_task, in_order(numbered))

    async def _read_in_chunks(
        self, select: Callable[[Sequence[str]], Sql], job_ids: Collection[str]
    ) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for some in in_chunks(sorted({*job_ids})):
            rows += await self._read(select(some))
        return rows

    async def _decode(self, convert: Callable[[Any], _T], rows: Sequence[Any]) -> list[_T]:
        try:
            return await self._converted(convert, rows)
        except (TypeError, ValueError) as error:
            message = f"{self._place} holds a row that no ledger wrote: {error}"
            raise LedgerError(message, path=self._place) from error


def require_here(moved: Sequence[tuple[Any, ...]]) -> None:
    """Refuse a ledger that was moved: it and its copy would both send what is planned.

    Args:
        moved: What ``queries.SELECT_MOVED`` found.

    Raises:
        LedgerError: It was.
    """
    for (place,) in moved:
        raise LedgerError(f"this ledger was moved to {place} and cannot be opened any more; use that one", path=place)


def in_chunks(items: Sequence[_Item]) -> Iterable[Sequence[_Item]]:
    """Return the items in pieces that a statement can hold as parameters."""
    return (items[start : start + MOST_PARAMETERS] for start in range(0, len(items), MOST_PARAMETERS))


def parts(where: JobFilter) -> Iterator[JobFilter]:
    """Yield a filter in parts that a statement can hold: no job fits two of them."""
    if where.job_ids is None or len(where.job_ids) <= MOST_PARAMETERS:
        yield where
    else:
        for some in in_chunks(sorted({*where.job_ids})):
            yield attrs.evolve(where, job_ids=some)


def in_order(numbered: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return rows in the order of the number at their end, without it."""
    return [row[:-1] for row in sorted(numbered, key=lambda row: row[-1])]
