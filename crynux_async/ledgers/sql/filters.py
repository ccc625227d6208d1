"""Which jobs a filter means, as conditions of a SELECT."""

from collections.abc import Iterator

from sqlalchemy import Column, ColumnElement, func, literal_column, select, union_all

from crynux_async.ledgers.base import JobFilter
from crynux_async.ledgers.columns import to_microseconds
from crynux_async.ledgers.sql.schema import jobs, tags, tasks

_EMPTY: ColumnElement[str] = literal_column("''")
_LAST_CHARACTER = 0x10FFFF
_BEFORE_SURROGATES, _AFTER_SURROGATES = 0xD7FF, 0xE000


def conditions(where: JobFilter) -> Iterator[ColumnElement[bool]]:
    """Yield what each attribute of a filter asks of a job."""
    if where.job_ids is not None:
        yield jobs.c.job_id.in_(list(where.job_ids))
    if where.states is not None:
        yield jobs.c.state.in_([state.value for state in where.states])
    if where.has_error is not None:
        yield jobs.c.error != _EMPTY if where.has_error else jobs.c.error == _EMPTY
    if where.since is not None:
        yield from _since(to_microseconds(where.since))
    if where.task_id is not None:
        yield _has_task(where.task_id)
    yield from _equal(where)
    yield from _begins(jobs.c.job_id, where.job_id_prefix)
    yield from _begins(jobs.c.label, where.label_prefix)
    for name, value in where.tags.items():
        yield jobs.c.job_id.in_(select(tags.c.job_id).where(tags.c.name == name, tags.c.value == value))
    yield from _cursors(where)


def _since(moment: int) -> Iterator[ColumnElement[bool]]:
    yield jobs.c.planned_at >= moment
    # Jobs are added in about the order of planning: so the wanted order is kept, and nothing before the first is read.
    # (Not min(id) alone: SQLite would look for it from the first job on, whatever the index says.)
    other = jobs.alias("other")
    first = select(func.min(other.c.id + literal_column("0"))).where(other.c.planned_at >= moment)
    yield jobs.c.id >= first.scalar_subquery()


def _equal(where: JobFilter) -> Iterator[ColumnElement[bool]]:
    for name in ("backend", "idempotency_key"):
        if getattr(where, name) is not None:
            yield jobs.c[name] == getattr(where, name)
    for name in ("tenant", "label", "group", "budget"):
        wanted = getattr(where, name)
        if wanted is not None:
            yield jobs.c[name] == wanted
        if wanted:
            yield _is_given(jobs.c[name])


def _begins(column: Column[str], prefix: str | None) -> Iterator[ColumnElement[bool]]:
    """Yield the range of texts that begin so; unlike LIKE it is literal and uses an index in every database."""
    if prefix:
        yield column >= prefix
        end = after_prefix(prefix)
        if end is not None:
            yield column < end
        if column is jobs.c.label:
            yield _is_given(column)


def after_prefix(prefix: str) -> str | None:
    """Return the first text behind all that begin with ``prefix``, or None where there is none."""
    kept = prefix.rstrip(chr(_LAST_CHARACTER))
    if not kept:
        return None
    last = ord(kept[-1])
    return kept[:-1] + chr(_AFTER_SURROGATES if last == _BEFORE_SURROGATES else last + 1)


def _is_given(column: Column[str]) -> ColumnElement[bool]:
    """Return the condition, word for word, under which the column's index knows a job."""
    return column != _EMPTY


def _has_task(task_id: str) -> ColumnElement[bool]:
    # One list of names and no "or": PostgreSQL would go through all jobs for it.
    named = jobs.alias("named")
    now = select(named.c.job_id).where(named.c.task_id == task_id)
    earlier = select(tasks.c.job_id).where(tasks.c.task_id == task_id)
    return jobs.c.job_id.in_(union_all(now, earlier))


def _cursors(where: JobFilter) -> Iterator[ColumnElement[bool]]:
    for name, is_after in ((where.after, True), (where.before, False)):
        if name is not None:
            cursor = jobs.alias("cursor")
            place = select(cursor.c.id).where(cursor.c.job_id == name).scalar_subquery()
            yield jobs.c.id > place if is_after else jobs.c.id < place
