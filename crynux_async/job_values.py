"""What a job tells of its money and of its tasks, as values."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import attrs

from crynux_async.events import as_json
from crynux_async.values import Value

if TYPE_CHECKING:
    from crynux_async.ledgers.base import TaskRow


@attrs.frozen(kw_only=True)
class Cost(Value):
    """What the tasks of a job cost, in wei (10**-18 CNX).

    Attributes:
        held: What tasks whose cost is not known yet may cost at most, >= 0. Of a job that was given up while a node
            worked on it, until the relay has given it back by itself, and a session has seen that.
        spent: What tasks did cost, >= 0.
        refunded: What was held for tasks beyond what they did cost, >= 0: given back, or never taken. At the relay
            up to three fees are held of which one is paid, so its own list of refunds may have less.
        is_complete: Whether a price or a cost is known of every task.
    """

    held: int
    spent: int
    refunded: int
    is_complete: bool

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON values: wei as text, because many readers of JSON round numbers."""
        return {
            "held_wei": str(self.held),
            "spent_wei": str(self.spent),
            "refunded_wei": str(self.refunded),
            "is_complete": self.is_complete,
        }


@attrs.frozen(kw_only=True)
class JobTask(Value):
    """One task that was ever made for a job, the present one or an earlier try's.

    Attributes:
        try_number: For which try of the job, >= 1.
        member: Which task of that try, >= 0; services whose tries have one task have only 0.
        task_id: The service's name of it.
        made_at: When it was accepted or attached, aware UTC.
        ended_at: When its end was noticed, aware UTC, or None.
        end: How it ended, such as "succeeded" or "failed", or "" while it has not.
        reason: Why it ended so as far as the service tells, or "".
        fee: What it may cost at most, in wei (10**-18 CNX), or None where no price is known.
        spent: What it did cost, in wei, or None while that is not known.
    """

    try_number: int
    member: int
    task_id: str
    made_at: datetime
    ended_at: datetime | None
    end: str
    reason: str
    fee: int | None
    spent: int | None

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON values: wei as text, because many readers of JSON round numbers."""
        facts = {name: as_json(value) for name, value in attrs.asdict(self).items()}
        for name in ("fee", "spent"):
            wei = facts.pop(name)
            facts[f"{name}_wei"] = None if wei is None else str(wei)
        return facts


def cost_of(rows: "Sequence[TaskRow]") -> Cost:
    """Return what tasks cost together, as far as prices are known."""
    ended = [row for row in rows if row.spent is not None]
    return Cost(
        held=sum(row.fee or 0 for row in rows if row.spent is None),
        spent=sum(row.spent or 0 for row in ended),
        refunded=sum(row.fee - (row.spent or 0) for row in ended if row.fee is not None),
        is_complete=all(row.fee is not None or row.spent is not None for row in rows),
    )


def task_from(row: "TaskRow") -> JobTask:
    """Return a task as a user is shown it."""
    names = [field.name for field in attrs.fields(JobTask)]
    return JobTask(**{name: getattr(row, name) for name in names})
