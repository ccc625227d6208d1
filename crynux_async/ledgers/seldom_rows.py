"""Rows that a first job needs none of: steps, events, wishes, budgets, and what is around a lost create.

``base`` hands them on when they are first asked for; import them from there.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from crynux_async.ledgers.rows import AttemptRow
from crynux_async.values import Value


@attrs.frozen(kw_only=True)
class StepRow(Value):
    """One action on a task beyond its create (validate, sibling, cancel), durable before it is done.

    Unique by (job, try, member, kind): arguments and fee are frozen when it is first stored.

    Attributes:
        job_id: Whose it is.
        try_number: Which try, >= 1.
        member: Which task of the try, >= 0.
        kind: What is done: a word of the backend.
        arguments: What it is done with, as JSON values.
        fee: What it may cost, in wei, or None.
        planned_at: When it was decided.
        done_at: When it was done, or None.
        outcome: What became of it: a word of the backend, or "".
    """

    job_id: str
    try_number: int
    member: int = 0
    kind: str
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    fee: int | None = None
    planned_at: datetime
    done_at: datetime | None = None
    outcome: str = ""


@attrs.frozen(kw_only=True)
class EventRow(Value):
    """Something that happened to a job. Only the holder of the job's lease writes events; numbers have no gaps.

    Attributes:
        job_id: Whose it is.
        number: Counts from 1 for each job.
        at: When.
        kind: The name of the event's class.
        data: Its own attributes, as JSON values.
    """

    job_id: str
    number: int
    at: datetime
    kind: str
    data: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class WishRow(Value):
    """What somebody who does not hold a job asks of whoever does.

    Attributes:
        number: The ledger's own number of it, > 0; 0 before it is stored.
        job_id: Of which job.
        kind: What is wished: "abandon", "cancel", "retry", "fetch" ...
        arguments: With what, as JSON values.
        at: When it was made.
    """

    number: int = 0
    job_id: str
    kind: str
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    at: datetime


@attrs.frozen(kw_only=True)
class Reservation(Value):
    """What an attempt may cost, taken from a budget in the transaction that begins it.

    Attributes:
        budget: The budget's name.
        amount: Wei, >= 0.
        limit: What the budget may hold and spend together, in wei; the newest limit that was given counts.
    """

    budget: str
    amount: int
    limit: int


@attrs.frozen(kw_only=True)
class BudgetRow(Value):
    """A budget, shared by every process on the ledger.

    Attributes:
        name: Its name.
        limit: Wei, >= 0.
        held: Wei of tasks that have not ended.
        spent: Wei of tasks that have.
    """

    name: str
    limit: int
    held: int
    spent: int


@attrs.frozen(kw_only=True)
class Settlement(Value):
    """What becomes of an amount that was reserved.

    Attributes:
        budget: The budget's name.
        released: Wei that are not held any more, >= 0.
        spent: Wei that were spent of them, 0 <= spent <= released.
    """

    budget: str
    released: int
    spent: int


@attrs.frozen(kw_only=True)
class Neighbours(Value):
    """Task ids around an attempt of unknown outcome, in the order in which the ledger was told, whatever clocks said.

    Attributes:
        before: Ids whose create was answered before the attempt began, the newest first.
        after: Ids whose create began after the attempt was answered, the oldest first; () while it is not answered.
        under_way: Other attempts of the same service that overlap it and have no final outcome: their tasks may lie
            beside the lost one.
    """

    before: Sequence[str]
    after: Sequence[str]
    under_way: Sequence[AttemptRow]


@attrs.frozen(kw_only=True)
class GateRow(Value):
    """The state of the gate before one key, shared by every process on the ledger.

    Attributes:
        clock: Which clock ``snapshot`` uses (``GateCell.clock``); what another clock said means nothing here.
        snapshot: ``BucketSnapshot`` as JSON values.
    """

    clock: str
    snapshot: dict[str, Any]
