"""Every statement by which a ledger in a database writes, as SQLAlchemy Core expressions.

The names of the parameters are the columns' own, with "set_" before those that an UPDATE stores and "key_" before those
that it looks for. Every statement about a job looks for its fence, ``key_lease``, or comes behind one that does in the
same transaction: where another lease holds the job, no row is found and nothing is stored.
"""

import functools
from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Delete,
    Insert,
    Select,
    Table,
    Update,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    tuple_,
    update,
)

# An INSERT with ON CONFLICT, which SQLite has taken over from PostgreSQL word for word. SQLite's, because importing
# PostgreSQL's dialects takes four times as long, and whoever has a file for a ledger needs none of them.
from sqlalchemy.dialects.sqlite import insert as insert_or
from sqlalchemy.dialects.sqlite.dml import Insert as InsertOr

from crynux_async.ledgers.base import AttemptOutcome
from crynux_async.ledgers.sql import money
from crynux_async.ledgers.sql.schema import (
    MANY_EVENTS,
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
    tags,
    tasks,
    wishes,
)

FINISHED_COLUMNS = ("answered_at", "outcome", "task_id", "wait", "status", "answer")
_NOTHING = literal_column("0", BigInteger)
_UNKNOWN: ColumnElement[str] = literal_column(f"'{AttemptOutcome.UNKNOWN.value}'")


def _values(table: Table, *, without: Iterable[str] = ()) -> dict[str, Any]:
    """Return a parameter for each column, by its name."""
    return {column.name: bindparam(column.name) for column in table.columns if column.name not in without}


def _put(table: Table) -> InsertOr:
    """Return the INSERT that replaces what is there under the same primary key."""
    statement = insert_or(table).values(_values(table))
    keys = [column.name for column in table.primary_key]
    others = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=others)


def _of_held_job(table: Table, *, without: Iterable[str]) -> InsertOr:
    """Return the INSERT of a row whose job ``key_lease`` holds; the job's row stays locked until the commit."""
    chosen = [column for column in table.columns if column.name not in without]
    row = select(*[bindparam(column.name, type_=column.type) for column in chosen]).select_from(jobs)
    held = row.where(jobs.c.job_id == bindparam("job_id"), jobs.c.lease_id == bindparam("key_lease"))
    return insert_or(table).from_select([column.name for column in chosen], held.with_for_update(of=jobs))


# Jobs

# Where the idempotency key is there it adds nothing, and says so by the number of rows.
ADD_JOB: Insert = (
    insert_or(jobs)
    .values(_values(jobs, without=["id"]))
    .on_conflict_do_nothing(index_elements=["idempotency_key", "backend", "tenant"])
)

ADD_CONFIG: Insert = insert(configs).values(_values(configs))

ADD_TAG: Insert = insert(tags).values(_values(tags))

REMOVE_TAGS: Delete = delete(tags).where(tags.c.job_id == bindparam("job_id"))

CHANGE_CONFIG: Update = (
    update(configs)
    .where(
        configs.c.job_id == bindparam("key_job_id"),
        exists().where(jobs.c.job_id == bindparam("key_job_id"), jobs.c.digest == bindparam("key_digest")),
    )
    .values(config=bindparam("set_config"))
)


@functools.cache
def change_job(names: tuple[str, ...], *, is_numbered: bool) -> Update:
    """Return the UPDATE of some columns of one job by its fence; without any it only finds out whether that holds.

    Args:
        names: The columns.
        is_numbered: Whether the job must be at a certain event, ``key_last_event``, because events are numbered on.
    """
    stored: dict[str, Any] = {name: bindparam(f"set_{name}") for name in names} or {"job_id": jobs.c.job_id}
    found = and_(jobs.c.job_id == bindparam("key_job_id"), jobs.c.lease_id == bindparam("key_lease"))
    if is_numbered:
        found = and_(found, jobs.c.last_event == bindparam("key_last_event"))
    return update(jobs).where(found).values(stored)


# What belongs to jobs

BEGIN_ATTEMPT: Insert = _of_held_job(attempts, without=["id", "last_begun"])

FINISH_ATTEMPT: Update = (
    update(attempts)
    .where(
        attempts.c.job_id == bindparam("key_job_id"),
        attempts.c.number == bindparam("key_number"),
        or_(
            attempts.c.outcome.is_(None),
            attempts.c.outcome == _UNKNOWN,
            attempts.c.outcome == bindparam("set_outcome"),
        ),
    )
    .values(
        {
            **{name: bindparam(f"set_{name}") for name in FINISHED_COLUMNS},
            "last_begun": select(func.max(attempts.c.id)).scalar_subquery(),
        }
    )
)

PUT_TASK: Insert = _put(tasks)

PLAN_STEP: Insert = _of_held_job(steps, without=["id"]).on_conflict_do_nothing(
    index_elements=["job_id", "try_number", "member", "kind"]
)

FINISH_STEP: Update = (
    update(steps)
    .where(
        steps.c.job_id == bindparam("key_job_id"),
        steps.c.try_number == bindparam("key_try_number"),
        steps.c.member == bindparam("key_member"),
        steps.c.kind == bindparam("key_kind"),
    )
    .values(done_at=bindparam("set_done_at"), outcome=bindparam("set_outcome"))
)

ADD_EVENT: Insert = insert(events).values(_values(events))

ADD_WISH: Insert = insert(wishes).values(_values(wishes, without=["number"]))

GRANT_WISH: Delete = delete(wishes).where(
    wishes.c.number == bindparam("number"), wishes.c.job_id == bindparam("job_id")
)


def trim_old_events(before: int, at_most: int) -> Delete:
    """Return the DELETE of some events before a time, of jobs that have ended."""
    is_ended = exists().where(jobs.c.job_id == events.c.job_id, jobs.c.ended_at.is_not(None))
    return _trim(select(events.c.job_id, events.c.number).where(events.c.at < before, is_ended), at_most)


def trim_many_events(keep: int, at_most: int) -> Delete:
    """Return the DELETE of some events that are not among the newest ``keep`` of their job."""
    other = events.alias("other")
    has_many = select(other.c.job_id).where(other.c.number > keep)
    if keep >= MANY_EVENTS:  # in SQLite's own words, or the index is not used
        has_many = has_many.where(other.c.number > literal_column(str(MANY_EVENTS)))
    last = select(jobs.c.last_event).where(jobs.c.job_id == events.c.job_id).scalar_subquery()
    too_many = select(events.c.job_id, events.c.number).where(
        events.c.job_id.in_(has_many), events.c.number <= last - keep
    )
    return _trim(too_many, at_most)


def _trim(chosen: Select[Any], at_most: int) -> Delete:
    some = chosen.limit(at_most).subquery()
    pairs = select(some.c.job_id, some.c.number)
    return delete(events).where(tuple_(events.c.job_id, events.c.number).in_(pairs))


# Money

_HELD, _SPENT, _LIMIT = (money.columns(budgets.c, name) for name in ("held", "spent", "limit"))
_AMOUNT, _GIVEN_LIMIT = money.parameter("set_amount"), money.parameter("set_limit")
_RELEASED, _COST = money.parameter("set_released"), money.parameter("set_spent")

OPEN_BUDGET: Insert = (
    insert_or(budgets)
    .values({column.name: bindparam("name") if column.name == "name" else _NOTHING for column in budgets.columns})
    .on_conflict_do_nothing(index_elements=["name"])
)

RESERVE: Update = (
    update(budgets)
    .where(
        budgets.c.name == bindparam("key_name"),
        money.at_most(money.plus(_HELD, _SPENT, _AMOUNT), _GIVEN_LIMIT),
    )
    .values({**money.stored("limit", _GIVEN_LIMIT), **money.stored("held", money.plus(_HELD, _AMOUNT))})
)

SETTLE: Update = (
    update(budgets)
    .where(budgets.c.name == bindparam("key_name"), money.at_most(_RELEASED, _HELD))
    .values({**money.stored("held", money.minus(_HELD, _RELEASED)), **money.stored("spent", money.plus(_SPENT, _COST))})
)


MARK_MOVED: Insert = insert(meta).values(name=literal_column(f"'{MOVED}'"), value=bindparam("value"))


# Leases

ADD_LEASE: Insert = insert(leases).values(_values(leases, without=["id"]))

LEAVE_MARK: Update = update(leases).where(leases.c.id == bindparam("key_id")).values(mark=bindparam("set_mark"))

REMOVE_LEASE: Delete = delete(leases).where(leases.c.id == bindparam("id"))

FREE_JOBS: Update = update(jobs).where(jobs.c.lease_id == bindparam("key_lease")).values(lease_id=null())

DROP_JOB: Update = (
    update(jobs)
    .where(jobs.c.job_id == bindparam("key_job_id"), jobs.c.lease_id == bindparam("key_lease"))
    .values(lease_id=null())
)

TAKE_JOBS: Update = (
    update(jobs)
    .where(jobs.c.id.between(bindparam("key_first"), bindparam("key_last")))
    .values(lease_id=bindparam("set_lease"))
)


# What is shared

OPEN_GATE: Insert = insert_or(gates).values(_values(gates)).on_conflict_do_nothing(index_elements=["backend", "key_id"])

PUT_GATE: Insert = _put(gates)

PUT_HAZARD: Insert = _put(hazards)

PUT_NOTE: Insert = _put(notes)

ADD_NOTE: Insert = insert_or(notes).values(_values(notes)).on_conflict_do_nothing(index_elements=["scope", "name"])

_THIS_NOTE = and_(notes.c.scope == bindparam("key_scope"), notes.c.name == bindparam("key_name"))

REPLACE_NOTE: Update = (
    update(notes).where(_THIS_NOTE, notes.c.value == bindparam("key_value")).values(value=bindparam("set_value"))
)

REMOVE_NOTE: Delete = delete(notes).where(_THIS_NOTE)

REMOVE_EXPECTED_NOTE: Delete = delete(notes).where(_THIS_NOTE, notes.c.value == bindparam("key_value"))
