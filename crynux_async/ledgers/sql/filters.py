"""Which jobs a filter means, as conditions of a SELECT."""

import functools
from collections.abc import Iterator, Mapping

from crynux_async.ledgers.base import JobFilter
from crynux_async.ledgers.columns import to_microseconds
from crynux_async.ledgers.sql.text import Sql, among, column

# Each of so many tags is looked up; the others are counted for each job that has these. PostgreSQL weighs in which
# order to look things up, which takes it 12 s for 100 of them.
_LOOKED_UP = 4
_LAST_CHARACTER = 0x10FFFF
_BEFORE_SURROGATES, _AFTER_SURROGATES = 0xD7FF, 0xE000


def conditions(where: JobFilter) -> Iterator[Sql]:
    """Yield what each attribute of a filter asks of a job."""
    if where.job_ids is not None:
        yield among("jobs.job_id", "job_id", where.job_ids)
    if where.states is not None:
        yield among("jobs.state", "state", [state.value for state in where.states])
    if where.has_error is not None:
        yield Sql("jobs.error != ''" if where.has_error else "jobs.error = ''")
    if where.since is not None:
        yield from _since(to_microseconds(where.since))
    if where.task_id is not None:
        yield _has_task(where.task_id)
    yield from _equal(where)
    yield from _begins("job_id", where.job_id_prefix)
    if where.label_prefix:
        yield from _begins("label", where.label_prefix)
        yield _is_given("label")
    yield from _tagged(where.tags)
    yield from _cursors(where)


def _since(moment: int) -> Iterator[Sql]:
    yield Sql("jobs.planned_at >= :since", {"since": moment})
    # Jobs are added in about the order of planning: so the wanted order is kept, and nothing before the first is read.
    # (Not min(id) alone: SQLite would look for it from the first job on, whatever the index says.)
    yield Sql("jobs.id >= (SELECT min(other.id + 0) FROM jobs AS other WHERE other.planned_at >= :since)")


def _equal(where: JobFilter) -> Iterator[Sql]:
    for name in ("backend", "idempotency_key", "tenant", "label", "group", "budget"):
        wanted = getattr(where, name)
        if wanted is not None:
            yield Sql(f"jobs.{column(name)} = :{name}", {name: wanted})
            if wanted and name not in ("backend", "idempotency_key"):
                yield _is_given(name)


def _begins(name: str, prefix: str | None) -> Iterator[Sql]:
    """Yield the range of texts that begin so; unlike LIKE it is literal and uses an index in every database."""
    if prefix:
        yield Sql(f"jobs.{name} >= :{name}_prefix", {f"{name}_prefix": prefix})
        end = after_prefix(prefix)
        if end is not None:
            yield Sql(f"jobs.{name} < :{name}_end", {f"{name}_end": end})


def _tagged(tags: Mapping[str, str]) -> Iterator[Sql]:
    """Yield that a job has all of these tags."""
    pairs = [
        Sql(f"(:tag_{number}, :tag_value_{number})", {f"tag_{number}": name, f"tag_value_{number}": value})
        for number, (name, value) in enumerate(tags.items())
    ]
    for pair in pairs[:_LOOKED_UP]:
        yield Sql("jobs.job_id IN (SELECT tags.job_id FROM tags WHERE (tags.name, tags.value) = ") + pair + ")"
    others = pairs[_LOOKED_UP:]
    if others:
        listed = functools.reduce(lambda found, pair: found + ", " + pair, others)
        counted = Sql(
            "(SELECT count(*) FROM tags WHERE tags.job_id = jobs.job_id AND (tags.name, tags.value) IN (VALUES "
        )
        yield counted + listed + f")) = {len(others)}"


def after_prefix(prefix: str) -> str | None:
    """Return the first text behind all that begin with ``prefix``, or None where there is none."""
    kept = prefix.rstrip(chr(_LAST_CHARACTER))
    if not kept:
        return None
    last = ord(kept[-1])
    return kept[:-1] + chr(_AFTER_SURROGATES if last == _BEFORE_SURROGATES else last + 1)


def _is_given(name: str) -> Sql:
    """Return the condition, word for word, under which the column's index knows a job."""
    return Sql(f"jobs.{column(name)} != ''")


def _has_task(task_id: str) -> Sql:
    # One list of names and no "or": PostgreSQL would go through all jobs for it.
    return Sql(
        "jobs.job_id IN (SELECT named.job_id FROM jobs AS named WHERE named.task_id = :task_id "
        "UNION ALL SELECT tasks.job_id FROM tasks WHERE tasks.task_id = :task_id)",
        {"task_id": task_id},
    )


def _cursors(where: JobFilter) -> Iterator[Sql]:
    for name, job_id, sign in (("after", where.after, ">"), ("before", where.before, "<")):
        if job_id is not None:
            place = f"SELECT cursor.id FROM jobs AS cursor WHERE cursor.job_id = :{name}"
            yield Sql(f"jobs.id {sign} ({place})", {name: job_id})
