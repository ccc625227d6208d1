"""Every SELECT of a ledger in a database, and how its rows are read.

The parameters of those that are asked again and again are named like the columns. SELECTs inside a transaction that
then writes lock what they find, where the database locks rows.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from crynux_async.ledgers.base import AttemptRow, BudgetRow, Fence, Holder, JobFilter, StepRow, TaskRow
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
from crynux_async.ledgers.sql.schema import MOVED, OPEN_ATTEMPT
from crynux_async.ledgers.sql.text import Sql, among, limited, listed, matching
from crynux_async.money import WEI

_JOB = ", ".join("configs.config" if name == "config" else listed([name], "jobs") for name in JOB_COLUMNS)
_JOINED = "FROM jobs LEFT JOIN configs ON jobs.job_id = configs.job_id"
_ROWS, _NUMBERED_ROWS = f"SELECT {_JOB} {_JOINED}", f"SELECT {_JOB}, jobs.id {_JOINED}"
_ATTEMPT = listed(ATTEMPT_COLUMNS)
_STEP = listed(money.spread(STEP_COLUMNS))


# Jobs

SELECT_JOB = Sql(f"{_ROWS} WHERE jobs.job_id = :job_id")

SELECT_BY_KEY = Sql(
    f"{_ROWS} WHERE jobs.idempotency_key = :idempotency_key AND jobs.backend = :backend AND jobs.tenant = :tenant"
)


def select_jobs(where: JobFilter, *, limit: int | None, newest_first: bool) -> Sql:
    """Return the SELECT of jobs, each with its number in the order of adding behind its columns."""
    order = " ORDER BY jobs.id DESC" if newest_first else " ORDER BY jobs.id"
    return Sql(_NUMBERED_ROWS) + matching(filters.conditions(where)) + order + limited(limit)


SELECT_SPAN = Sql(
    f"{_NUMBERED_ROWS} WHERE jobs.lease_id = :lease_id AND jobs.id BETWEEN :first AND :last ORDER BY jobs.id"
)
"""The jobs that a lease holds between two numbers, each with its number behind its columns."""


def count_jobs(where: JobFilter) -> Sql:
    """Return the SELECT of how many jobs are in which state."""
    return Sql("SELECT jobs.state, count(*) FROM jobs") + matching(filters.conditions(where)) + " GROUP BY jobs.state"


def sum_money(where: JobFilter) -> Sql:
    """Return the SELECT of what tasks hold and have spent, for ``money.totalled``."""
    held = money.total(money.pair("tasks.fee"), only="tasks.spent_cnx IS NULL")
    sums = f"SELECT {held}, {money.total(money.pair('tasks.spent'))}"
    return Sql(f"{sums} FROM tasks JOIN jobs ON jobs.job_id = tasks.job_id") + matching(filters.conditions(where))


SELECT_MOVED = Sql(f"SELECT value FROM meta WHERE name = '{MOVED}'")
"""Where a ledger was moved, if it was."""

# Leases

SELECT_LEASE = Sql("SELECT id FROM leases WHERE id = :id /* FOR KEY SHARE */")

SELECT_MARK = Sql("SELECT leases.mark FROM leases WHERE leases.id = :id /* FOR NO KEY UPDATE */")
"""The mark on a lease. Its lock waits for the end of the transaction that is asked about."""

SELECT_HOLD = Sql("SELECT lease_id, last_event FROM jobs WHERE job_id = :job_id /* FOR UPDATE */")
"""Whose a job is, and its last event."""

SELECT_HELD = Sql("SELECT job_id FROM jobs WHERE lease_id = :lease_id")

COUNT_HELD = Sql("SELECT count(*) FROM jobs WHERE lease_id = :lease_id")

_HOLDERS = (
    "SELECT leases.owner, leases.id, leases.until, (SELECT count(*) FROM jobs WHERE jobs.lease_id = leases.id) "
    "FROM leases"
)

SELECT_HOLDERS = Sql(f"{_HOLDERS} ORDER BY leases.id")


def select_holder(job_id: str, now: Sql) -> Sql:
    """Return the SELECT of who holds a job and may keep it."""
    lease = "SELECT jobs.lease_id FROM jobs WHERE jobs.job_id = :job_id"
    holder = f"{_HOLDERS} WHERE leases.id = ({lease}) AND leases.until >= "
    return Sql(holder, {"job_id": job_id}) + now


def select_free(
    fence: Fence,
    now: Sql,
    *,
    backend: str,
    states: Collection[str],
    is_wanted: bool,
    key_ids: Collection[str] | None,
    spared: Collection[str] = (),
    at_most: int | None,
) -> list[Sql]:
    """Return the SELECTs of the numbers of jobs that a fence may take; what others are about to take is left out.

    Each looks up one kind in one index: jobs that nobody holds, and jobs of leases that have ended.
    """
    found = [among("jobs.state", "state", states), Sql("jobs.backend = :backend", {"backend": backend})]
    if is_wanted:
        found.append(Sql("jobs.folder IS NOT NULL"))
    if key_ids is not None:
        found.append(among("jobs.key_id", "key_id", key_ids))
    if spared:
        found.append(Sql("NOT ") + among("jobs.job_id", "spared", spared))
    ended = Sql("SELECT leases.id FROM leases WHERE leases.until < ") + now + " AND leases.id != :lease"
    held = (
        Sql("jobs.lease_id IS NULL"),
        Sql("jobs.lease_id IN (", {"lease": fence.number}) + ended + ")",
    )
    order = Sql(" ORDER BY jobs.id") + limited(at_most) + " /* FOR UPDATE OF jobs SKIP LOCKED */"
    return [Sql("SELECT jobs.id FROM jobs") + matching([*found, lease]) + order for lease in held]


def select_takable(job_ids: Collection[str], now: Sql) -> Sql:
    """Return the SELECT of jobs with their numbers, leases, and whether these have not ended."""
    is_held = Sql("EXISTS (SELECT * FROM leases WHERE leases.id = jobs.lease_id AND leases.until >= ") + now + ")"
    found = Sql("SELECT jobs.job_id, jobs.id, jobs.lease_id, ") + is_held + " FROM jobs"
    return found + matching([among("jobs.job_id", "job_id", job_ids)]) + " /* FOR UPDATE OF jobs */"


def select_forgotten(now: Sql, long_ago: Sql) -> Sql:
    """Return the SELECT of leases that ended long ago, or that ended and hold nothing."""
    unused = "NOT EXISTS (SELECT * FROM jobs WHERE jobs.lease_id = leases.id)"
    long_over = Sql("SELECT leases.id FROM leases WHERE leases.until < ") + long_ago
    return long_over + " OR leases.until < " + now + f" AND {unused}"


def read_holder(row: Sequence[Any]) -> Holder:
    """Return who holds a lease."""
    owner, number, until, count = row
    return Holder(fence=Fence(owner=owner, number=number), until=from_microseconds(until), jobs=count)


# What belongs to jobs


def select_attempts(conditions: Mapping[str, Any]) -> Sql:
    """Return the SELECT of attempts, each with its number in the order of beginning behind its columns.

    They come in any order: SQLite would rather go through all of them in order than sort the few of an index.

    Args:
        conditions: Those of ``Ledger.attempts``, by name; None where one does not count.
    """
    wanted = [
        Sql(f"{name} = :{name}", {name: conditions[name]})
        for name in ("backend", "key_id")
        if conditions[name] is not None
    ]
    if conditions["job_ids"] is not None:
        wanted.append(among("job_id", "job_id", conditions["job_ids"]))
    if conditions["since"] is not None:
        wanted.append(Sql("began_at >= :since", {"since": to_microseconds(conditions["since"])}))
    if conditions["unfinished"]:
        wanted.append(Sql(f"({OPEN_ATTEMPT}) AND outcome IS NULL"))
    return Sql(f"SELECT {_ATTEMPT}, id FROM attempts") + matching(wanted)


SELECT_PLACE = Sql("SELECT id, last_begun, backend FROM attempts WHERE job_id = :job_id AND number = :number")
"""Where an attempt is in the order of events: its number, the last one begun before its end, and its service."""

SELECT_BEFORE = Sql(
    "SELECT task_id FROM attempts WHERE backend = :backend AND task_id IS NOT NULL AND last_begun < :place "
    "ORDER BY last_begun DESC, id DESC LIMIT :at_most"
)
"""Task ids whose create was answered before an attempt began, the newest first."""

SELECT_AFTER = Sql(
    "SELECT task_id FROM attempts WHERE backend = :backend AND task_id IS NOT NULL AND id > :end "
    "ORDER BY id LIMIT :at_most"
)
"""Task ids whose create began after an attempt was answered, the oldest first."""


def select_under_way(place: int, end: int | None, backend: str) -> Sql:
    """Return the SELECT of attempts without a final outcome that overlap one."""
    wanted = f"({OPEN_ATTEMPT}) AND id != :place AND NOT (last_begun IS NOT NULL AND last_begun < :place)"
    found = [Sql(f"backend = :backend AND {wanted}", {"backend": backend, "place": place})]
    if end is not None:
        found.append(Sql("id <= :end", {"end": end}))
    return Sql(f"SELECT {_ATTEMPT} FROM attempts") + matching(found) + " ORDER BY id"


def select_tasks(job_ids: Collection[str]) -> Sql:
    """Return the SELECT of tasks with the numbers of their jobs behind their columns."""
    columns = listed(money.spread(TASK_COLUMNS), "tasks")
    found = Sql(f"SELECT {columns}, jobs.id FROM tasks JOIN jobs ON jobs.job_id = tasks.job_id")
    order = " ORDER BY jobs.id, tasks.try_number, tasks.member"
    return found + matching([among("tasks.job_id", "job_id", job_ids)]) + order


def select_newest_tasks(backend: str, task_ids: Collection[str]) -> Sql:
    """Return the SELECT of those of these tasks of a backend that are the newest of a job."""
    return _some_tasks("jobs", backend, task_ids)


def select_all_tasks(backend: str, task_ids: Collection[str]) -> Sql:
    """Return the SELECT of those of these tasks of a backend that were ever made for a job."""
    return _some_tasks("tasks", backend, task_ids)


def _some_tasks(table: str, backend: str, task_ids: Collection[str]) -> Sql:
    wanted = [Sql("backend = :backend", {"backend": backend}), among("task_id", "task_id", task_ids)]
    return Sql(f"SELECT task_id FROM {table}") + matching(wanted)


def select_steps(job_ids: Collection[str]) -> Sql:
    """Return the SELECT of steps with their numbers behind their columns, in the order in which they were planned."""
    return Sql(f"SELECT {_STEP}, id FROM steps") + matching([among("job_id", "job_id", job_ids)]) + " ORDER BY id"


SELECT_STEP = Sql(
    f"SELECT {_STEP} FROM steps "
    "WHERE job_id = :job_id AND try_number = :try_number AND member = :member AND kind = :kind"
)

SELECT_EVENTS = Sql(
    f"SELECT {listed(EVENT_COLUMNS)} FROM events WHERE job_id = :job_id AND number > :number "
    "ORDER BY number LIMIT :limit"
)

# The wishes are few and the jobs of a lease many, so the wishes are gone through, and not the jobs.
SELECT_WISHES = Sql(
    f"SELECT {listed(WISH_COLUMNS)} FROM wishes "
    "WHERE EXISTS (SELECT * FROM jobs WHERE jobs.job_id = wishes.job_id AND jobs.lease_id = :lease_id) ORDER BY number"
)

SELECT_BUDGET = Sql(
    "SELECT name, limit_cnx, limit_wei, held_cnx, held_wei, spent_cnx, spent_wei FROM budgets WHERE name = :name"
)


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


# What is shared

SELECT_GATE = Sql("SELECT boot_id, snapshot FROM gates WHERE backend = :backend AND key_id = :key_id /* FOR UPDATE */")

SELECT_HAZARDS = Sql("SELECT kind, value FROM hazards WHERE backend = :backend ORDER BY kind")

SELECT_NOTE = Sql("SELECT value FROM notes WHERE scope = :scope AND name = :name")
