"""Every statement that a ledger in a database makes, as SQLAlchemy Core expressions.

The names of the parameters are the columns' own, with "set_" before those that an UPDATE stores.
"""

import functools
from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Delete,
    Insert,
    ScalarSelect,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    not_,
    or_,
    select,
    update,
)

from crynux_async.ledgers.base import AttemptOutcome
from crynux_async.ledgers.sql.rows import ATTEMPT_COLUMNS, JOB_COLUMNS
from crynux_async.ledgers.sql.schema import attempts, configs, gates, hazards, jobs, leases

_JOB_COLUMNS = [name for name in JOB_COLUMNS if name != "config"]
_FINISHED_COLUMNS = ("answered_at", "outcome", "task_id", "wait", "status", "answer")


def _lease_of_owner() -> ScalarSelect[Any]:
    return select(leases.c.id).where(leases.c.owner == bindparam("owner")).scalar_subquery()


ADD_JOB: Insert = insert(jobs).values(
    {**{name: bindparam(name) for name in _JOB_COLUMNS}, "lease_id": _lease_of_owner()},
)

ADD_CONFIG: Insert = insert(configs).values(job_id=bindparam("job_id"), config=bindparam("config"))

BEGIN_ATTEMPT: Insert = insert(attempts).values({name: bindparam(name) for name in ATTEMPT_COLUMNS})

FINISH_ATTEMPT: Update = (
    update(attempts)
    .where(
        attempts.c.job_id == bindparam("key_job_id"),
        attempts.c.number == bindparam("key_number"),
        or_(
            attempts.c.outcome.is_(None),
            attempts.c.outcome == literal_column(f"'{AttemptOutcome.UNKNOWN.value}'"),
            attempts.c.outcome == bindparam("set_outcome"),
        ),
    )
    .values(
        {
            **{name: bindparam(f"set_{name}") for name in _FINISHED_COLUMNS},
            "last_begun": select(func.max(attempts.c.id)).scalar_subquery(),
        }
    )
)

ADD_LEASE: Insert = insert(leases).from_select(
    ["owner", "until"],
    select(bindparam("owner", type_=Text), bindparam("until", type_=BigInteger)).where(
        not_(exists().where(leases.c.owner == bindparam("owner")))
    ),
)

RENEW_LEASE: Update = (
    update(leases).where(leases.c.owner == bindparam("key_owner")).values(until=bindparam("set_until"))
)

RELEASE_LEASE: Delete = delete(leases).where(leases.c.owner == bindparam("owner"))

TAKE_LEASE: Update = update(jobs).where(jobs.c.job_id == bindparam("key_job_id")).values(lease_id=_lease_of_owner())

REMOVE_GATE: Delete = delete(gates).where(
    gates.c.backend == bindparam("backend"), gates.c.key_id == bindparam("key_id")
)

ADD_GATE: Insert = insert(gates).values({column.name: bindparam(column.name) for column in gates.columns})

REMOVE_HAZARD: Delete = delete(hazards).where(
    hazards.c.backend == bindparam("backend"), hazards.c.kind == bindparam("kind")
)

ADD_HAZARD: Insert = insert(hazards).values({column.name: bindparam(column.name) for column in hazards.columns})


@functools.cache
def change_job(names: tuple[str, ...]) -> Update:
    """Return the UPDATE of some columns of one job; without any it only finds out whether the job is there."""
    stored: dict[str, Any] = {name: bindparam(f"set_{name}") for name in names} or {"job_id": jobs.c.job_id}
    return update(jobs).where(jobs.c.job_id == bindparam("key_job_id")).values(stored)


def _select_rows() -> Select[Any]:
    columns = [configs.c.config if name == "config" else jobs.c[name] for name in JOB_COLUMNS]
    return select(*columns).select_from(jobs.outerjoin(configs, jobs.c.job_id == configs.c.job_id))


def select_job(job_id: str) -> Select[Any]:
    """Return the SELECT of one job."""
    return _select_rows().where(jobs.c.job_id == job_id)


def select_jobs(
    states: Collection[str] | None, backend: str | None, label: str | None, limit: int | None
) -> Select[Any]:
    """Return the SELECT of jobs in the order in which they were added."""
    found = _select_rows().order_by(jobs.c.id)
    if states is not None:
        found = found.where(jobs.c.state.in_(list(states)))
    if backend is not None:
        found = found.where(jobs.c.backend == backend)
    if label is not None:
        found = found.where(jobs.c.label == label)
    return found if limit is None else found.limit(limit)


def select_attempts(backend: str | None, key_id: str | None, job_id: str | None, since: int | None) -> Select[Any]:
    """Return the SELECT of attempts in the order in which they were begun."""
    found = select(*[attempts.c[name] for name in ATTEMPT_COLUMNS]).order_by(attempts.c.id)
    for name, wanted in (("backend", backend), ("key_id", key_id), ("job_id", job_id)):
        if wanted is not None:
            found = found.where(attempts.c[name] == wanted)
    return found if since is None else found.where(attempts.c.began_at >= since)


def select_bracket(job_id: str, number: int) -> Select[Any]:
    """Return the SELECT of the two task ids around an attempt; no row where it was not begun."""
    this, other = attempts.alias("this"), attempts.alias("other")
    is_near = and_(other.c.backend == this.c.backend, other.c.task_id.is_not(None))
    after = select(func.max(other.c.task_id)).where(is_near, other.c.last_begun < this.c.id).scalar_subquery()
    before = select(func.min(other.c.task_id)).where(is_near, other.c.id > this.c.last_begun).scalar_subquery()
    return select(after, before).where(this.c.job_id == job_id, this.c.number == number)


def is_free(backend: str, states: Collection[str], now: int) -> ColumnElement[bool]:
    """Return the condition that a job can be claimed."""
    is_held = exists().where(leases.c.id == jobs.c.lease_id, leases.c.until >= now)
    return and_(jobs.c.backend == backend, jobs.c.state.in_(list(states)), not_(is_held))


def select_free(condition: ColumnElement[bool]) -> Select[Any]:
    """Return the SELECT of the jobs that a claim takes; it locks them where the database locks rows."""
    return _select_rows().where(condition).order_by(jobs.c.id).with_for_update(of=jobs)


def take_free(condition: ColumnElement[bool], owner: str) -> Update:
    """Return the UPDATE that gives the jobs of a claim to their owner, whose lease is there already."""
    lease_id = select(leases.c.id).where(leases.c.owner == owner).scalar_subquery()
    return update(jobs).where(condition).values(lease_id=lease_id)


def select_owners(job_ids: Collection[str]) -> Select[Any]:
    """Return the SELECT of jobs with the owners of their leases (None: nobody)."""
    joined = jobs.outerjoin(leases, leases.c.id == jobs.c.lease_id)
    return select(jobs.c.job_id, leases.c.owner).select_from(joined).where(jobs.c.job_id.in_(list(job_ids)))


def count_leases(owner: str) -> Select[Any]:
    """Return the SELECT of how many jobs an owner has."""
    lease_id = select(leases.c.id).where(leases.c.owner == owner).scalar_subquery()
    return select(func.count()).select_from(jobs).where(jobs.c.lease_id == lease_id)


def forget_leases(now: int) -> Delete:
    """Return the DELETE of leases that ended and have no job left."""
    is_used = exists().where(jobs.c.lease_id == leases.c.id)
    return delete(leases).where(leases.c.until < now, not_(is_used))


def select_gate(backend: str, key_id: str) -> Select[Any]:
    """Return the SELECT of a key's gate."""
    return select(gates.c.boot_id, gates.c.snapshot).where(gates.c.backend == backend, gates.c.key_id == key_id)


def select_hazards(backend: str) -> Select[Any]:
    """Return the SELECT of what was learned about a service."""
    return select(hazards.c.kind, hazards.c.value).where(hazards.c.backend == backend).order_by(hazards.c.kind)


SELECT_OWNERS = select(leases.c.owner)
