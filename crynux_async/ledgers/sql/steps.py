"""What each write of a ledger is in a database: statements and the rows that they are run for."""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from crynux_async.ledgers.base import (
    AttemptRow,
    EventRow,
    Fence,
    JobChange,
    Reservation,
    Settlement,
    StepRow,
    TaskRow,
)
from crynux_async.ledgers.checks import not_held
from crynux_async.ledgers.columns import FINISHED_COLUMNS, Column, encode_changes, encode_row, encode_wei, to_json
from crynux_async.ledgers.sql import money, statements
from crynux_async.ledgers.sql.text import Row, Sql


@attrs.define(kw_only=True, eq=False)  # not frozen: it costs half as much to make, six times for every create
class Step:
    """One statement of a write.

    Attributes:
        statement: What is run for each row.
        rows: Values of its parameters.
        touches: What it is about: steps that touch the same thing keep their order.
        refusal: What to say where the database refuses a row, or a row changes nothing.
        is_exact: Whether each row must change exactly one row of the database.
    """

    statement: Sql
    rows: Sequence[Row]
    touches: Collection[Hashable]
    refusal: str
    is_exact: bool = True


def merged(steps: Iterable[Step]) -> list[Step]:
    """Join steps with the same statement, so that each statement runs once for many rows.

    A step moves ahead of others only where it touches nothing that they touch.
    """
    groups: list[tuple[Step, list[Row]]] = []
    newest: dict[Sql, int] = {}
    latest: dict[Hashable, int] = {}
    for step in steps:
        place = newest.get(step.statement, -1)
        if place < 0 or any(latest.get(thing, -1) > place for thing in step.touches):
            place = newest[step.statement] = len(groups)
            groups.append((step, []))
        groups[place][1].extend(step.rows)
        for thing in step.touches:
            latest[thing] = place
    return [attrs.evolve(step, rows=rows) for step, rows in groups]


# Jobs


def add_steps(
    rows: Sequence[Row], fence: Fence | None, tags: Mapping[str, Mapping[str, str]], parts: Sequence[EventRow | TaskRow]
) -> list[Step]:
    """Return how jobs are added.

    Args:
        rows: Every column of each job.
        fence: Who holds them, or None.
        tags: Their tags, by the names of those that have any.
        parts: Their events and tasks.

    Raises:
        LedgerError: A value cannot be stored.
    """
    names = [str(row["job_id"]) for row in rows]
    # Without a fence the job is anybody's: the next claim takes it.
    lease = None if fence is None else fence.number
    refusal = "a job with this id, or with this task of the same service, is there already"
    configs = [row for row in rows if row["config"] is not None]
    return [
        Step(
            statement=statements.ADD_JOB,
            rows=[{**row, "lease_id": lease} for row in rows],
            touches=names,
            refusal=refusal,
        ),
        *([Step(statement=statements.ADD_CONFIG, rows=configs, touches=names, refusal=refusal)] if configs else ()),
        *(_add_tags(name, tags[name]) for name in tags),
        *(_event_step(part) if isinstance(part, EventRow) else _task_step(part) for part in parts),
    ]


def change_steps(fence: Fence, change: JobChange) -> list[Step]:
    """Return how a job changes, beginning with the step that looks for its fence.

    Raises:
        LedgerError: A value cannot be stored.
    """
    name = change.job_id
    return [
        # First, so that nothing else is tried for a job that another has: 0 rows mean that the lease is lost (case
        # S13).
        _hold_step(fence, change),
        *_config_steps(name, change.columns),
        *_tag_steps(name, change.columns),
        *([] if change.finished is None else [_finish_step(change.finished)]),
        *map(_task_step, change.tasks),
        *map(_step_done, change.steps),
        *map(_event_step, change.events),
        *([] if change.settlement is None else [_settle_step(change.settlement)]),
        *_grant_steps(name, change.granted),
    ]


def begin_steps(fence: Fence, attempt: AttemptRow, reservation: Reservation | None) -> list[Step]:
    """Return how an attempt is begun.

    Raises:
        LedgerError: A value cannot be stored.
    """
    name = attempt.job_id
    begin = Step(
        statement=statements.BEGIN_ATTEMPT,
        rows=[{**encode_row(attempt), "key_lease": fence.number}],
        touches=[name],
        refusal=f"attempt {attempt.number} of job {name!r} was begun already",
    )
    return [begin, *([] if reservation is None else _reserve_steps(reservation))]


def plan_steps(fence: Fence, step: StepRow) -> list[Step]:
    """Return how a step of a job is planned; it changes nothing where it is there already.

    Raises:
        LedgerError: A value cannot be stored.
    """
    row: Row = {**_with_money(encode_row(step), "fee"), "key_lease": fence.number}
    refusal = f"the step {step.kind!r} of job {step.job_id!r} is there already"
    return [Step(statement=statements.PLAN_STEP, rows=[row], touches=[step.job_id], refusal=refusal)]


def drop_steps(fence: Fence, job_ids: Sequence[str]) -> list[Step]:
    """Return how jobs are given back that a lease holds."""
    rows: list[Row] = [{"key_job_id": job_id, "key_lease": fence.number} for job_id in job_ids]
    refusal = "the jobs cannot be given back"
    return [Step(statement=statements.DROP_JOB, rows=rows, touches=job_ids, refusal=refusal, is_exact=False)]


def mark_step(lease: int, mark: int) -> Step:
    """Return how a transaction leaves its mark on a lease, to be asked for where the answer to its commit is lost."""
    rows: list[Row] = [{"key_id": lease, "set_mark": mark}]
    touches = [("lease", lease)]
    refusal = "no mark can be left"
    return Step(statement=statements.LEAVE_MARK, rows=rows, touches=touches, refusal=refusal, is_exact=False)


def hazard_steps(backend: str, hazards: Mapping[str, Any]) -> list[Step]:
    """Return how what was learned is stored.

    Raises:
        LedgerError: A value is not JSON.
    """
    rows: list[Row] = [{"backend": backend, "kind": kind, "value": to_json(hazards[kind])} for kind in hazards]
    refusal = "what was learned cannot be stored"
    return [Step(statement=statements.PUT_HAZARD, rows=rows, touches=[("hazards", backend)], refusal=refusal)]


# Parts of a change


def _hold_step(fence: Fence, change: JobChange) -> Step:
    columns = encode_changes(change.columns)
    columns.pop("config", None)
    row: dict[str, Column] = {"key_job_id": change.job_id, "key_lease": fence.number}
    if change.events:
        # The count of the row is part of the condition: two owners can never write the same number.
        row["key_last_event"] = change.events[0].number - 1
    names = tuple(sorted(columns))
    return Step(
        statement=statements.change_job(names, is_numbered=bool(change.events)),
        rows=[{**row, **{f"set_{name}": columns[name] for name in names}}],
        touches=[change.job_id],
        refusal=f"job {change.job_id!r} cannot be changed so: its task belongs to another one",
    )


def _config_steps(name: str, columns: Mapping[str, Any]) -> Iterator[Step]:
    if "config" in columns:
        config = columns["config"]
        # Compared by the statement itself: a config may change in its timeout, never in what it trains.
        digest = "" if config is None else config.digest()
        row = {"key_job_id": name, "key_digest": digest, "set_config": encode_changes({"config": config})["config"]}
        refusal = "the config of a job cannot change in what it trains"
        yield Step(statement=statements.CHANGE_CONFIG, rows=[row], touches=[name], refusal=refusal)


def _tag_steps(name: str, columns: Mapping[str, Any]) -> Iterator[Step]:
    if "tags" in columns:
        refusal = "the tags cannot be stored"
        row = {"job_id": name}
        yield Step(statement=statements.REMOVE_TAGS, rows=[row], touches=[name], refusal=refusal, is_exact=False)
        if columns["tags"]:
            yield _add_tags(name, columns["tags"])


def _add_tags(name: str, tags: Mapping[str, str]) -> Step:
    rows = [{"job_id": name, "name": tag, "value": tags[tag]} for tag in tags]
    return Step(statement=statements.ADD_TAG, rows=rows, touches=[name], refusal="the tags cannot be stored")


def _finish_step(attempt: AttemptRow) -> Step:
    columns = encode_row(attempt, FINISHED_COLUMNS)
    row: dict[str, Column] = {f"set_{name}": columns[name] for name in columns}
    row |= {"key_job_id": attempt.job_id, "key_number": attempt.number}
    refusal = f"attempt {attempt.number} of job {attempt.job_id!r} was not begun, or has another outcome already"
    return Step(statement=statements.FINISH_ATTEMPT, rows=[row], touches=[attempt.job_id], refusal=refusal)


def _task_step(task: TaskRow) -> Step:
    row = _with_money(_with_money(encode_row(task), "fee"), "spent")
    refusal = f"task {task.task_id} of {task.backend} belongs to another job already, or to another try"
    return Step(statement=statements.PUT_TASK, rows=[row], touches=[task.job_id], refusal=refusal)


def _step_done(step: StepRow) -> Step:
    columns = encode_row(step, ("job_id", "try_number", "member", "kind", "done_at", "outcome"))
    row = {f"key_{name}": columns[name] for name in ("job_id", "try_number", "member", "kind")}
    row |= {"set_done_at": columns["done_at"], "set_outcome": columns["outcome"]}
    refusal = f"the step {step.kind!r} of job {step.job_id!r} was not planned"
    return Step(statement=statements.FINISH_STEP, rows=[row], touches=[step.job_id], refusal=refusal)


def _event_step(event: EventRow) -> Step:
    refusal = f"the event {event.number} of job {event.job_id!r} is there already"
    return Step(statement=statements.ADD_EVENT, rows=[encode_row(event)], touches=[event.job_id], refusal=refusal)


def _grant_steps(name: str, granted: Sequence[int]) -> Iterator[Step]:
    if granted:
        rows: list[Row] = [{"number": number, "job_id": name} for number in granted]
        refusal = "the wishes cannot be removed"
        yield Step(statement=statements.GRANT_WISH, rows=rows, touches=[name], refusal=refusal, is_exact=False)


# Money


def _reserve_steps(wanted: Reservation) -> list[Step]:
    amount = money.split("set_amount", encode_wei("amount", wanted.amount))
    row: Row = {"key_name": wanted.budget, **amount, **money.split("set_limit", encode_wei("limit", wanted.limit))}
    touches = [("budget", wanted.budget)]
    refusal = f"the budget {wanted.budget!r} does not allow it"
    # A row that is not there cannot be locked, and two processes would both find room in it.
    opened = [{"name": wanted.budget}]
    return [
        Step(statement=statements.OPEN_BUDGET, rows=opened, touches=touches, refusal=refusal, is_exact=False),
        Step(statement=statements.RESERVE, rows=[row], touches=touches, refusal=refusal),
    ]


def _settle_step(settlement: Settlement) -> Step:
    released = money.split("set_released", encode_wei("released", settlement.released))
    row: Row = {
        "key_name": settlement.budget,
        **released,
        **money.split("set_spent", encode_wei("spent", settlement.spent)),
    }
    return Step(
        statement=statements.SETTLE,
        rows=[row],
        touches=[("budget", settlement.budget)],
        refusal=str(not_held(settlement)),
    )


def _with_money(columns: dict[str, Column], name: str) -> dict[str, Column]:
    """Return the columns with an amount as the two that a database keeps."""
    amount = columns.pop(name)
    assert amount is None or isinstance(amount, int)
    return {**columns, **money.split(name, amount)}
