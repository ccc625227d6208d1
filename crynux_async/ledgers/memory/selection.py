"""Which jobs a filter means, in a ledger in memory."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeAlias

from crynux_async.ledgers.base import JobFilter
from crynux_async.ledgers.memory.jobs import Entry, JobTable

_Test: TypeAlias = Callable[[Entry], bool]

_EQUAL = ("backend", "tenant", "idempotency_key", "label", "group", "budget")
"""Names of a filter whose value must be the row's own."""


def selected(table: JobTable, where: JobFilter, *, limit: int | None = None, newest_first: bool = False) -> list[Entry]:
    """Return the jobs that a filter means.

    Args:
        table: Every job.
        where: Which.
        limit: At most so many.
        newest_first: Whether those that were added last come first.
    """
    tests = [*_tests(table, where)]
    found = (entry for entry in _candidates(table, where, newest_first) if all(test(entry) for test in tests))
    return list(islice(found, limit))


def _candidates(table: JobTable, where: JobFilter, newest_first: bool) -> Iterable[Entry]:
    """Return the jobs that a filter can mean, without a walk over all where it names them."""
    if where.job_ids is not None:
        found = filter(None, map(table.find, {*where.job_ids}))
        return sorted(found, key=lambda entry: entry.number, reverse=newest_first)
    if where.task_id is not None:
        entries = table.by_task(where.backend, where.task_id)
        return entries[::-1] if newest_first else entries
    return table.all(newest_first=newest_first)


def _tests(table: JobTable, where: JobFilter) -> Iterator[_Test]:
    """Yield what each attribute of a filter asks of a job."""
    for name in _EQUAL:
        if getattr(where, name) is not None:
            yield _equal(name, getattr(where, name))
    states, tags, since, has_error = where.states, where.tags.items(), where.since, where.has_error
    if states is not None:
        yield lambda entry: entry.column("state") in states
    if where.job_id_prefix is not None:
        yield _begins("job_id", where.job_id_prefix)
    if where.label_prefix is not None:
        yield _begins("label", where.label_prefix)
    if tags:
        yield lambda entry: tags <= entry.column("tags").items()
    if has_error is not None:
        yield lambda entry: bool(entry.column("error")) is has_error
    if since is not None:
        yield lambda entry: entry.column("planned_at") >= since
    if where.task_id is not None:
        names = {entry.column("job_id") for entry in table.by_task(where.backend, where.task_id)}
        yield lambda entry: entry.column("job_id") in names
    yield from _cursors(table, where)


def _equal(name: str, wanted: str) -> _Test:
    return lambda entry: bool(entry.column(name) == wanted)


def _begins(name: str, prefix: str) -> _Test:
    return lambda entry: bool(entry.column(name).startswith(prefix))


def _cursors(table: JobTable, where: JobFilter) -> Iterator[_Test]:
    if where.after is not None:
        cursor = table.find(where.after)
        yield lambda entry: cursor is not None and entry.number > cursor.number
    if where.before is not None:
        end = table.find(where.before)
        yield lambda entry: end is not None and entry.number < end.number
