"""Every SELECT of a ledger in a database, and how its rows are read.

Those that are asked again and again are constants, so that they are rendered once; their parameters are named like the
columns. SELECTs inside a transaction that then writes lock what they find, where the database locks rows.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, and_, bindparam, exists, func, literal_column, or_, select

from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, BudgetRow, Fence, Holder, JobFilter, StepRow, TaskRow
from crynux_async.ledgers.columns import (
    ATTEMPT_COLUMNS,
    EVENT_COLUMNS,
    JOB_COLUMNS,
    STEP_COLUMNS,
    TASK_COLUMNS,
    WISH_COLUMNS,
    decode_row,
    from_microseconds,
    to_microseconds,
)
from crynux_async.ledgers.sql import filters, money
from crynux_async.ledgers.sql.schema import (
    MOVED,
    attempts,
    budgets,
    configs,
    events,
    gates,
    hazards,
    jobs,
    leases,
    meta,
    notes,
    steps,
    tasks,
    wishes,
)
from crynux_async.money import WEI

_UNKNOWN: ColumnElement[str] = literal_column(f"'{AttemptOutcome.UNKNOWN.value}'")
_MONEY = ("fee", "spent")


def _columns(table: Table, names: Collection[str]) -> list[ColumnElement[Any]]:
    """Return the columns of a row's attributes; an amount of money is two."""
    parts = {name: [f"{name}_cnx", f"{name}_wei"] if name in _MONEY else [name] for name in names}
    return [table.c[part] for name in names for part in parts[name]]


_ROWS: Select[Any] = select(
    *[configs.c.config if name == "config" else jobs.c[name] for name in JOB_COLUMNS]
).select_from(jobs.outerjoin(configs, jobs.c.job_id == configs.c.job_id))


# Jobs

SELECT_JOB: Select[Any] = _ROWS.where(jobs.c.job_id == bindparam("job_id"))

SELECT_BY_KEY: Select[Any] = _ROWS.where(
    jobs.c.idempotency_key == bindparam("idempotency_key"),
    jobs.c.backend == bindparam("backend"),
    jobs.c.tenant == bindparam("tenant"),
)


def select_jobs(where: JobFilter, *, limit: int | None, newest_first: bool) -> Select[Any]:
    """Return the SELECT of jobs, each with its number in the order of adding behind its columns."""
    found = _ROWS.add_columns(jobs.c.id).where(*filters.conditions(where))
    return found.order_by(jobs.c.id.desc() if newest_first else jobs.c.id).limit(limit)


SELECT_SPAN: Select[Any] = (
    _ROWS.add_columns(jobs.c.id)
    .where(jobs.c.lease_id == bindparam("lease_id"), jobs.c.id.between(bindparam("first"), bindparam("last")))
    .order_by(jobs.c.id)
)
"""The jobs that a lease holds between two numbers, each with its number behind its columns."""


def count_jobs(where: JobFilter) -> Select[Any]:
    """Return the SELECT of how many jobs are in which state."""
    return select(jobs.c.state, func.count()).where(*filters.conditions(where)).group_by(jobs.c.state)


def sum_money(where: JobFilter) -> Select[Any]:
    """Return the SELECT of what tasks hold and have spent, for ``money.totalled``."""
    fee, spent = money.columns(tasks.c, "fee"), money.columns(tasks.c, "spent")
    held = money.total(fee, only=tasks.c.spent_cnx.is_(None))
    joined = tasks.join(jobs, jobs.c.job_id == tasks.c.job_id)
    sums: list[ColumnElement[Any]] = [*held, *money.total(spent)]
    return select(*sums).select_from(joined).where(*filters.conditions(where))


SELECT_MOVED: Select[Any] = select(meta.c.value).where(meta.c.name == MOVED)
"""Where a ledger was moved, if it was."""

# Leases

SELECT_LEASE: Select[Any] = (
    select(leases.c.id).where(leases.c.id == bindparam("id")).with_for_update(read=True, key_share=True)
)

SELECT_MARK: Select[Any] = select(leases.c.mark).where(leases.c.id == bindparam("id")).with_for_update(key_share=True)
"""The mark on a lease. Its lock waits for the end of the transaction that is asked about."""

SELECT_HOLD: Select[Any] = (
    select(jobs.c.lease_id, jobs.c.last_event).where(jobs.c.job_id == bindparam("job_id")).with_for_update()
)
"""Whose a job is, and its last event."""

SELECT_HELD: Select[Any] = select(jobs.c.job_id).where(jobs.c.lease_id == bindparam("lease_id"))

COUNT_HELD: Select[Any] = select(func.count()).select_from(jobs).where(jobs.c.lease_id == bindparam("lease_id"))

_HOLDERS: Select[Any] = select(
    leases.c.owner,
    leases.c.id,
    leases.c.until,
    select(func.count()).select_from(jobs).where(jobs.c.lease_id == leases.c.id).scalar_subquery(),
)

SELECT_HOLDERS: Select[Any] = _HOLDERS.order_by(leases.c.id)

SELECT_NEWEST_LEASE: Select[Any] = select(func.max(leases.c.id))


def select_holder(job_id: str, now: ColumnElement[int]) -> Select[Any]:
    """Return the SELECT of who holds a job and may keep it."""
    lease = select(jobs.c.lease_id).where(jobs.c.job_id == job_id).scalar_subquery()
    return _HOLDERS.where(leases.c.id == lease, leases.c.until >= now)


def select_free(
    fence: Fence,
    now: ColumnElement[int],
    *,
    backend: str,
    states: Collection[str],
    is_wanted: bool,
    key_ids: Collection[str] | None,
    spared: Collection[str] = (),
    at_most: int | None,
) -> list[Select[Any]]:
    """Return the SELECTs of the numbers of jobs that a fence may take; what others are about to take is left out.

    Each looks up one kind in one index: jobs that nobody holds, and jobs of leases that have ended.
    """
    ended = select(leases.c.id).where(leases.c.until < now, leases.c.id != fence.number)
    found = select(jobs.c.id).where(jobs.c.state.in_(list(states)), jobs.c.backend == backend)
    if is_wanted:
        found = found.where(jobs.c.folder.is_not(None))
    if key_ids is not None:
        found = found.where(jobs.c.key_id.in_(list(key_ids)))
    if spared:
        found = found.where(jobs.c.job_id.not_in(list(spared)))
    found = found.order_by(jobs.c.id).limit(at_most).with_for_update(of=jobs, skip_locked=True)
    return [found.where(jobs.c.lease_id.is_(None)), found.where(jobs.c.lease_id.in_(ended))]


def select_takable(job_ids: Collection[str], now: ColumnElement[int]) -> Select[Any]:
    """Return the SELECT of jobs with their numbers, leases, and whether these have not ended."""
    is_held = exists().where(leases.c.id == jobs.c.lease_id, leases.c.until >= now)
    found = select(jobs.c.job_id, jobs.c.id, jobs.c.lease_id, is_held)
    return found.where(jobs.c.job_id.in_(list(job_ids))).with_for_update(of=jobs)


def select_forgotten(now: ColumnElement[int], long_ago: ColumnElement[int]) -> Select[Any]:
    """Return the SELECT of leases that ended long ago, or that ended and hold nothing."""
    is_used = exists().where(jobs.c.lease_id == leases.c.id)
    return select(leases.c.id).where(or_(leases.c.until < long_ago, and_(leases.c.until < now, ~is_used)))


def read_holder(row: Sequence[Any]) -> Holder:
    """Return who holds a lease."""
    owner, number, until, count = row
    return Holder(fence=Fence(owner=owner, number=number), until=from_microseconds(until), jobs=count)


# What belongs to jobs


def select_attempts(conditions: Mapping[str, Any]) -> Select[Any]:
    """Return the SELECT of attempts, each with its number in the order of beginning behind its columns.

    They come in any order: SQLite would rather go through all of them in order than sort the few of an index.

    Args:
        conditions: Those of ``Ledger.attempts``, by name; None where one does not count.
    """
    found = select(*_columns(attempts, ATTEMPT_COLUMNS), attempts.c.id)
    for name in ("backend", "key_id"):
        if conditions[name] is not None:
            found = found.where(attempts.c[name] == conditions[name])
    if conditions["job_ids"] is not None:
        found = found.where(attempts.c.job_id.in_(conditions["job_ids"]))
    if conditions["since"] is not None:
        found = found.where(attempts.c.began_at >= to_microseconds(conditions["since"]))
    if conditions["unfinished"]:
        found = found.where(_is_open(attempts), attempts.c.outcome.is_(None))
    return found


SELECT_PLACE: Select[Any] = select(attempts.c.id, attempts.c.last_begun, attempts.c.backend).where(
    attempts.c.job_id == bindparam("job_id"), attempts.c.number == bindparam("number")
)
"""Where an attempt is in the order of events: its number, the last one begun before its end, and its service."""


def select_before(place: int, backend: str, at_most: int) -> Select[Any]:
    """Return the SELECT of task ids whose create was answered before an attempt began, the newest first."""
    found = select(attempts.c.task_id).where(
        attempts.c.backend == backend, attempts.c.task_id.is_not(None), attempts.c.last_begun < place
    )
    return found.order_by(attempts.c.last_begun.desc(), attempts.c.id.desc()).limit(at_most)


def select_after(end: int, backend: str, at_most: int) -> Select[Any]:
    """Return the SELECT of task ids whose create began after an attempt was answered, the oldest first."""
    found = select(attempts.c.task_id).where(
        attempts.c.backend == backend, attempts.c.task_id.is_not(None), attempts.c.id > end
    )
    return found.order_by(attempts.c.id).limit(at_most)


def select_under_way(place: int, end: int | None, backend: str) -> Select[Any]:
    """Return the SELECT of attempts without a final outcome that overlap one."""
    is_answered_before = and_(attempts.c.last_begun.is_not(None), attempts.c.last_begun < place)
    found = select(*_columns(attempts, ATTEMPT_COLUMNS)).where(
        attempts.c.backend == backend, _is_open(attempts), attempts.c.id != place, ~is_answered_before
    )
    if end is not None:
        found = found.where(attempts.c.id <= end)
    return found.order_by(attempts.c.id)


def select_tasks(job_ids: Collection[str]) -> Select[Any]:
    """Return the SELECT of tasks with the numbers of their jobs behind their columns."""
    joined = tasks.join(jobs, jobs.c.job_id == tasks.c.job_id)
    found = select(*_columns(tasks, TASK_COLUMNS), jobs.c.id).select_from(joined)
    return found.where(tasks.c.job_id.in_(list(job_ids))).order_by(jobs.c.id, tasks.c.try_number, tasks.c.member)


def select_newest_tasks(backend: str, task_ids: Collection[str]) -> Select[Any]:
    """Return the SELECT of those of these tasks of a backend that are the newest of a job."""
    return select(jobs.c.task_id).where(jobs.c.backend == backend, jobs.c.task_id.in_(list(task_ids)))


def select_all_tasks(backend: str, task_ids: Collection[str]) -> Select[Any]:
    """Return the SELECT of those of these tasks of a backend that were ever made for a job."""
    return select(tasks.c.task_id).where(tasks.c.backend == backend, tasks.c.task_id.in_(list(task_ids)))


def select_steps(job_ids: Collection[str]) -> Select[Any]:
    """Return the SELECT of steps with their numbers behind their columns, in the order in which they were planned."""
    found = select(*_columns(steps, STEP_COLUMNS), steps.c.id).where(steps.c.job_id.in_(list(job_ids)))
    return found.order_by(steps.c.id)


SELECT_STEP: Select[Any] = select(*_columns(steps, STEP_COLUMNS)).where(
    steps.c.job_id == bindparam("job_id"),
    steps.c.try_number == bindparam("try_number"),
    steps.c.member == bindparam("member"),
    steps.c.kind == bindparam("kind"),
)

SELECT_EVENTS: Select[Any] = (
    select(*_columns(events, EVENT_COLUMNS))
    .where(events.c.job_id == bindparam("job_id"), events.c.number > bindparam("number"))
    .order_by(events.c.number)
    .limit(bindparam("limit"))
)

# The wishes are few and the jobs of a lease many, so the wishes are gone through, and not the jobs.
SELECT_WISHES: Select[Any] = (
    select(*_columns(wishes, WISH_COLUMNS))
    .where(exists().where(jobs.c.job_id == wishes.c.job_id, jobs.c.lease_id == bindparam("lease_id")))
    .order_by(wishes.c.number)
)

SELECT_BUDGET: Select[Any] = select(budgets).where(budgets.c.name == bindparam("name"))


def read_task(columns: Sequence[Any]) -> TaskRow:
    """Return a task from its columns."""
    *plain, fee_cnx, fee_wei, spent_cnx, spent_wei = columns
    return decode_row(TaskRow, [*plain, money.joined(fee_cnx, fee_wei), money.joined(spent_cnx, spent_wei)])


def read_step(columns: Sequence[Any]) -> StepRow:
    """Return a step from its columns."""
    job_id, try_number, member, kind, arguments, cnx, wei, planned_at, done_at, outcome = columns
    fee = money.joined(cnx, wei)
    return decode_row(StepRow, [job_id, try_number, member, kind, arguments, fee, planned_at, done_at, outcome])


def read_attempt(columns: Sequence[Any]) -> AttemptRow:
    """Return an attempt from its columns."""
    return decode_row(AttemptRow, columns)


def read_budget(columns: Sequence[Any]) -> BudgetRow:
    """Return a budget from its columns."""
    name, limit_cnx, limit_wei, held_cnx, held_wei, spent_cnx, spent_wei = columns
    return BudgetRow(
        name=name,
        limit=limit_cnx * WEI + limit_wei,
        held=held_cnx * WEI + held_wei,
        spent=spent_cnx * WEI + spent_wei,
    )


def _is_open(table: Table) -> ColumnElement[bool]:
    """Return the condition, word for word, under which an index knows an attempt that has no final outcome."""
    return or_(table.c.outcome.is_(None), table.c.outcome == _UNKNOWN)


# What is shared

SELECT_GATE: Select[Any] = (
    select(gates.c.boot_id, gates.c.snapshot)
    .where(gates.c.backend == bindparam("backend"), gates.c.key_id == bindparam("key_id"))
    .with_for_update()
)

SELECT_HAZARDS: Select[Any] = (
    select(hazards.c.kind, hazards.c.value).where(hazards.c.backend == bindparam("backend")).order_by(hazards.c.kind)
)

SELECT_NOTE: Select[Any] = select(notes.c.value).where(
    notes.c.scope == bindparam("scope"), notes.c.name == bindparam("name")
)
