"""Every statement by which a ledger in a database writes.

The names of the parameters are the columns' own, with "set_" before those that an UPDATE stores and "key_" before those
that it looks for. Every statement about a job looks for its fence, ``key_lease``, or comes behind one that does in the
same transaction: where another lease holds the job, no row is found and nothing is stored.
"""

import functools
from collections.abc import Iterable

from crynux_async.ledgers.base import AttemptOutcome
from crynux_async.ledgers.columns import (
    ATTEMPT_COLUMNS,
    EVENT_COLUMNS,
    FINISHED_COLUMNS,
    JOB_COLUMNS,
    STEP_COLUMNS,
    TASK_COLUMNS,
)
from crynux_async.ledgers.sql import money
from crynux_async.ledgers.sql.schema import MANY_EVENTS, MOVED
from crynux_async.ledgers.sql.text import Sql, column, insert, limited, listed, parameters, put

_TASK_KEY = ("job_id", "try_number", "member")


def _set(names: Iterable[str]) -> str:
    """Return what an UPDATE sets to store columns that come with a row."""
    return ", ".join(f"{column(name)} = :set_{name}" for name in names)


def _of_held_job(table: str, names: Iterable[str], conflict: str = "") -> Sql:
    """Return the INSERT of a row whose job ``key_lease`` holds; the job's row stays locked until the commit."""
    columns = tuple(money.spread(names))
    return Sql(
        f"INSERT INTO {table} ({listed(columns)}) SELECT {parameters(columns)} FROM jobs "
        f"WHERE jobs.job_id = :job_id AND jobs.lease_id = :key_lease /* FOR UPDATE OF jobs */{conflict}"
    )


# Jobs

# Where the idempotency key is there it adds nothing, and says so by the number of rows.
ADD_JOB = insert(
    "jobs",
    (*(name for name in JOB_COLUMNS if name != "config"), "lease_id"),
    " ON CONFLICT (idempotency_key, backend, tenant) DO NOTHING",
)

ADD_CONFIG = insert("configs", ("job_id", "config"))

ADD_TAG = insert("tags", ("job_id", "name", "value"))

REMOVE_TAGS = Sql("DELETE FROM tags WHERE job_id = :job_id")

CHANGE_CONFIG = Sql(
    "UPDATE configs SET config = :set_config WHERE job_id = :key_job_id "
    "AND EXISTS (SELECT * FROM jobs WHERE jobs.job_id = :key_job_id AND jobs.digest = :key_digest)"
)


@functools.cache
def change_job(names: tuple[str, ...], *, is_numbered: bool) -> Sql:
    """Return the UPDATE of some columns of one job by its fence; without any it only finds out whether that holds.

    Args:
        names: The columns.
        is_numbered: Whether the job must be at a certain event, ``key_last_event``, because events are numbered on.
    """
    numbered = " AND last_event = :key_last_event" if is_numbered else ""
    stored = _set(names) or "job_id = job_id"
    return Sql(f"UPDATE jobs SET {stored} WHERE job_id = :key_job_id AND lease_id = :key_lease{numbered}")


# What belongs to jobs

BEGIN_ATTEMPT = _of_held_job("attempts", ATTEMPT_COLUMNS)

FINISH_ATTEMPT = Sql(
    f"UPDATE attempts SET {_set(FINISHED_COLUMNS)}, last_begun = (SELECT max(other.id) FROM attempts AS other) "
    "WHERE job_id = :key_job_id AND number = :key_number "
    f"AND (outcome IS NULL OR outcome = '{AttemptOutcome.UNKNOWN.value}' OR outcome = :set_outcome)"
)

PUT_TASK = put("tasks", _TASK_KEY, [name for name in money.spread(TASK_COLUMNS) if name not in _TASK_KEY])

PLAN_STEP = _of_held_job("steps", STEP_COLUMNS, " ON CONFLICT (job_id, try_number, member, kind) DO NOTHING")

FINISH_STEP = Sql(
    f"UPDATE steps SET {_set(('done_at', 'outcome'))} WHERE job_id = :key_job_id "
    "AND try_number = :key_try_number AND member = :key_member AND kind = :key_kind"
)

ADD_EVENT = insert("events", tuple(EVENT_COLUMNS))

ADD_WISH = insert("wishes", ("job_id", "kind", "arguments", "at"), " /* RETURNING number */")

GRANT_WISH = Sql("DELETE FROM wishes WHERE number = :number AND job_id = :job_id")


def trim_old_events(before: int, at_most: int) -> Sql:
    """Return the DELETE of some events before a time, of jobs that have ended."""
    is_ended = "EXISTS (SELECT * FROM jobs WHERE jobs.job_id = events.job_id AND jobs.ended_at IS NOT NULL)"
    return _trim(Sql(f"events.at < :before AND {is_ended}", {"before": before}), at_most)


def trim_many_events(keep: int, at_most: int) -> Sql:
    """Return the DELETE of some events that are not among the newest ``keep`` of their job."""
    many = "SELECT other.job_id FROM events AS other WHERE other.number > :keep"
    if keep >= MANY_EVENTS:  # in SQLite's own words, or the index is not used
        many += f" AND other.number > {MANY_EVENTS}"
    last = "SELECT jobs.last_event FROM jobs WHERE jobs.job_id = events.job_id"
    return _trim(Sql(f"events.job_id IN ({many}) AND events.number <= ({last}) - :keep", {"keep": keep}), at_most)


def _trim(condition: Sql, at_most: int) -> Sql:
    chosen = Sql("SELECT events.job_id, events.number FROM events WHERE ") + condition + limited(at_most)
    before = "DELETE FROM events WHERE (events.job_id, events.number) IN (SELECT chosen.job_id, chosen.number FROM ("
    return Sql(before) + chosen + ") AS chosen)"


# Money

_HELD, _SPENT = money.pair("held"), money.pair("spent")
_AMOUNT, _LIMIT = money.pair(":set_amount"), money.pair(":set_limit")
_RELEASED, _COST = money.pair(":set_released"), money.pair(":set_spent")

OPEN_BUDGET = Sql(
    "INSERT INTO budgets (name, limit_cnx, limit_wei, held_cnx, held_wei, spent_cnx, spent_wei) "
    "VALUES (:name, 0, 0, 0, 0, 0, 0) ON CONFLICT (name) DO NOTHING"
)

RESERVE = Sql(
    f"UPDATE budgets SET {money.stored('limit', _LIMIT)}, {money.stored('held', money.plus(_HELD, _AMOUNT))} "
    f"WHERE name = :key_name AND {money.at_most(money.plus(_HELD, _SPENT, _AMOUNT), _LIMIT)}"
)

SETTLE = Sql(
    f"UPDATE budgets SET {money.stored('held', money.minus(_HELD, _RELEASED))}, "
    f"{money.stored('spent', money.plus(_SPENT, _COST))} "
    f"WHERE name = :key_name AND {money.at_most(_RELEASED, _HELD)}"
)


MARK_MOVED = Sql(f"INSERT INTO meta (name, value) VALUES ('{MOVED}', :value)")


# Leases

ADD_LEASE = insert("leases", ("owner", "until", "mark"), " /* RETURNING id */")

LEAVE_MARK = Sql("UPDATE leases SET mark = :set_mark WHERE id = :key_id")

REMOVE_LEASE = Sql("DELETE FROM leases WHERE id = :id")


def renew_lease(lease: int, now: Sql, microseconds: int) -> Sql:
    """Return the UPDATE of the end of a lease.

    Args:
        lease: Its number.
        now: The time by the ledger's own clock.
        microseconds: From then on.
    """
    given = {"key_id": lease, "microseconds": microseconds}
    return Sql(f"UPDATE leases SET until = {now.text} + :microseconds WHERE id = :key_id", {**now.values, **given})


FREE_JOBS = Sql("UPDATE jobs SET lease_id = NULL WHERE lease_id = :key_lease")

DROP_JOB = Sql("UPDATE jobs SET lease_id = NULL WHERE job_id = :key_job_id AND lease_id = :key_lease")

TAKE_JOBS = Sql("UPDATE jobs SET lease_id = :set_lease WHERE id BETWEEN :key_first AND :key_last")


# What is shared

OPEN_GATE = insert("gates", ("backend", "key_id", "boot_id", "snapshot"), " ON CONFLICT (backend, key_id) DO NOTHING")

PUT_GATE = put("gates", ("backend", "key_id"), ("boot_id", "snapshot"))

PUT_HAZARD = put("hazards", ("backend", "kind"), ("value",))

PUT_NOTE = put("notes", ("scope", "name"), ("value",))

ADD_NOTE = insert("notes", ("scope", "name", "value"), " ON CONFLICT (scope, name) DO NOTHING")

_THIS_NOTE = "scope = :key_scope AND name = :key_name"

REPLACE_NOTE = Sql(f"UPDATE notes SET value = :set_value WHERE {_THIS_NOTE} AND value = :key_value")

REMOVE_NOTE = Sql(f"DELETE FROM notes WHERE {_THIS_NOTE}")

REMOVE_EXPECTED_NOTE = Sql(f"DELETE FROM notes WHERE {_THIS_NOTE} AND value = :key_value")
