"""What each write of a ledger is in a database: statements and the rows that they are run for."""

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, TypeAlias

import attrs
from sqlalchemy.sql.expression import ClauseElement

from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import AttemptRow
from crynux_async.ledgers.sql import statements
from crynux_async.ledgers.sql.rows import Column, encode_attempt, encode_changes, to_microseconds

Row: TypeAlias = Mapping[str, Column]


@attrs.frozen(kw_only=True, eq=False)
class Step:
    """One statement of a write.

    Attributes:
        statement: What is run for each row.
        rows: Values of its parameters.
        touches: What it is about: steps that touch the same thing keep their order.
        refusal: What to say where the database refuses a row, or a row changes nothing.
        is_exact: Whether each row must change exactly one row of the database.
    """

    statement: ClauseElement
    rows: Sequence[Row]
    touches: Iterable[Hashable]
    refusal: str
    is_exact: bool = True


def merged(steps: Iterable[Step]) -> list[Step]:
    """Join steps with the same statement, so that each statement runs once for many rows.

    A step moves ahead of others only where it touches nothing that they touch.
    """
    groups: list[tuple[Step, list[Row]]] = []
    newest: dict[ClauseElement, int] = {}
    latest: dict[Hashable, int] = {}
    for step in steps:
        touched = list(step.touches)
        place = newest.get(step.statement, -1)
        if place < max((latest.get(thing, -1) for thing in touched), default=-1) or place < 0:
            place = newest[step.statement] = len(groups)
            groups.append((step, []))
        groups[place][1].extend(step.rows)
        latest.update(dict.fromkeys(touched, place))
    return [attrs.evolve(step, rows=rows) for step, rows in groups]


def add_steps(rows: Sequence[Row], owner: str | None, until: datetime | None) -> list[Step]:
    """Return how jobs are added, with the lease of ``owner`` where there is one.

    Args:
        rows: Every column of each job.
        owner: Who holds them, or None.
        until: When the leases end.
    """
    names = [row["job_id"] for row in rows]
    configs = [row for row in rows if row["config"] is not None]
    refusal = "a job with this id, or with this task of the same service, is there already"
    return [
        *([] if owner is None or until is None else _lease_steps(owner, until)),
        # Touches the owner as well: a job must not go ahead of the lease that it names.
        Step(
            statement=statements.ADD_JOB,
            rows=[{**row, "owner": owner} for row in rows],
            touches=[*names, _owner_key(owner)],
            refusal=refusal,
        ),
        *([Step(statement=statements.ADD_CONFIG, rows=configs, touches=names, refusal=refusal)] if configs else ()),
    ]


def change_steps(changes: Mapping[str, Mapping[str, Any]]) -> list[Step]:
    """Return how columns of jobs change, in the order in which they are named.

    Raises:
        LedgerError: There is no such column, or it cannot hold the value.
    """
    encoded = [(job_id, encode_changes(columns)) for job_id, columns in changes.items()]
    return [_change_alike(names, list(group)) for names, group in groupby(encoded, key=_stored_names)]


def begin_steps(attempt: AttemptRow) -> list[Step]:
    """Return how an attempt is begun.

    Raises:
        LedgerError: A value cannot be stored.
    """
    refusal = f"there is no job {attempt.job_id!r}, or its attempt {attempt.number} was begun already"
    rows = [encode_attempt(attempt)]
    return [Step(statement=statements.BEGIN_ATTEMPT, rows=rows, touches=[attempt.job_id], refusal=refusal)]


def finish_steps(attempt: AttemptRow, changes: Mapping[str, Any]) -> list[Step]:
    """Return how an attempt is finished and its job changed.

    Raises:
        LedgerError: A value cannot be stored.
    """
    columns = encode_attempt(attempt)
    row = {f"set_{name}": value for name, value in columns.items()}
    row |= {"key_job_id": columns["job_id"], "key_number": columns["number"]}
    refusal = f"attempt {attempt.number} of job {attempt.job_id!r} was not begun, or has another outcome already"
    step = Step(statement=statements.FINISH_ATTEMPT, rows=[row], touches=[attempt.job_id], refusal=refusal)
    return [step, *(change_steps({attempt.job_id: changes}) if changes else ())]


def release_steps(owner: str) -> list[Step]:
    """Return how an owner gives back its leases."""
    step = Step(
        statement=statements.RELEASE_LEASE,
        rows=[{"owner": owner}],
        touches=[_owner_key(owner)],
        refusal="the leases cannot be given back",
        is_exact=False,
    )
    return [step]


def hazard_steps(backend: str, hazards: Mapping[str, Any]) -> list[Step]:
    """Return how what was learned is stored.

    Raises:
        LedgerError: A value is not JSON.
    """
    rows: list[Row] = [{"backend": backend, "kind": kind, "value": to_json(hazards[kind])} for kind in hazards]
    touches, refusal = [("hazards", backend)], "what was learned cannot be stored"
    remove = Step(statement=statements.REMOVE_HAZARD, rows=rows, touches=touches, refusal=refusal, is_exact=False)
    return [remove, Step(statement=statements.ADD_HAZARD, rows=rows, touches=touches, refusal=refusal)] if rows else []


def lease_row(owner: str, until: datetime) -> Row:
    """Return the parameters of ``ADD_LEASE``."""
    return {"owner": owner, "until": to_microseconds(until)}


def renewal_row(owner: str, until: datetime) -> Row:
    """Return the parameters of ``RENEW_LEASE``."""
    return {"key_owner": owner, "set_until": to_microseconds(until)}


def to_json(value: Any) -> str:
    """Return a value as JSON text.

    Raises:
        LedgerError: It is not JSON.
    """
    try:
        return json.dumps(value, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise LedgerError(f"{value!r:.100} cannot be stored as JSON: {error}") from error


def _lease_steps(owner: str, until: datetime) -> Iterator[Step]:
    refusal = f"the lease of {owner!r} cannot be stored"
    touches = [_owner_key(owner)]
    rows = [lease_row(owner, until)]
    yield Step(statement=statements.ADD_LEASE, rows=rows, touches=touches, refusal=refusal, is_exact=False)
    yield Step(statement=statements.RENEW_LEASE, rows=[renewal_row(owner, until)], touches=touches, refusal=refusal)


def _owner_key(owner: str | None) -> Hashable:
    return "owner", owner


def _stored_names(change: tuple[str, Row]) -> tuple[str, ...]:
    """Return which columns change."""
    return tuple(sorted(change[1]))


def _change_alike(names: tuple[str, ...], changes: Sequence[tuple[str, Row]]) -> Step:
    """Return how jobs change that change in the same columns."""
    job_ids = [job_id for job_id, _ in changes]
    subject = repr(job_ids[0]) if len(job_ids) == 1 else f"one of {len(job_ids)}"
    refusal = f"job {subject} cannot be changed so: there is no such job, or its task belongs to another one"
    rows = [{"key_job_id": job_id, **{f"set_{name}": columns[name] for name in names}} for job_id, columns in changes]
    return Step(statement=statements.change_job(names), rows=rows, touches=job_ids, refusal=refusal)
