"""What a service is told and tells beyond creates and looks: steps, lost creates, payments.

``base`` hands them on when they are first asked for, with the protocols that they belong to; import them from there.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from crynux_async.backends.base import Verdict
from crynux_async.training.config import FineTuneConfig
from crynux_async.values import Value


@attrs.frozen(kw_only=True)
class Action(Value):
    """Something to be done to a task beyond its create, or that was done.

    Attributes:
        kind: What: a word of the backend, such as "validate".
        member: To which task of the try, >= 0.
        arguments: With what, as JSON values; frozen when they are first stored.
        fee: What it may cost, in wei, or None.
        done_at: When it was done, or None while it is not.
        outcome: What became of it: a word of the backend, or "".
    """

    kind: str
    member: int = 0
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    fee: int | None = None
    done_at: datetime | None = None
    outcome: str = ""


@attrs.frozen(kw_only=True)
class LostCreate(Value):
    """A create whose outcome is not known.

    Attributes:
        job_id: The job.
        payload: What was sent.
        began_at: When the create was begun, aware UTC.
        before: Task ids whose create was answered before this one began, the newest first.
        after: Task ids whose create began after this one was answered, the oldest first; () while that is not known.
        is_closed: Whether this create, and every other create of the service that overlaps it, has ended for certain.
        is_wanted: Whether its task is looked for. Otherwise it only tells which tasks may be its own: those of a job
            that was given up or paid for again, or that another process holds.
    """

    job_id: str
    payload: str
    began_at: datetime
    before: Sequence[str]
    after: Sequence[str]
    is_closed: bool
    is_wanted: bool = True


@attrs.frozen(kw_only=True)
class Finding(Value):
    """What looking for one lost create has shown.

    Attributes:
        job_id: The job.
        verdict: FOUND: exactly one task is left, and no other job can have made it. AMBIGUOUS: ``candidates`` are left,
            the user decides. NOT_CREATED: certainly no task exists, sending again is safe. OPEN: cannot be told yet.
            Never ORPHAN, which is a task without a job.
        task_id: The task, where it was found.
        candidates: Tasks that may be it.
        explanation: For people: what was done, what remains, what to do.
    """

    job_id: str
    verdict: Verdict
    task_id: str | None = None
    candidates: Sequence[str] = ()
    explanation: str = ""


@attrs.frozen(kw_only=True)
class Payment(Value):
    """What was paid for a task and what came back, as the service's own list has it.

    Attributes:
        task_id: The task.
        paid: Wei, >= 0.
        refunded: Wei, >= 0.
        at: When it was first listed, aware UTC.
    """

    task_id: str
    paid: int
    refunded: int
    at: datetime

    @property
    def gone(self) -> int:
        """Wei that were paid and have not come back (yet)."""
        return self.paid - self.refunded


@attrs.frozen(kw_only=True)
class OwnTask(Value):
    """A task that this library has made, as the service alone shows it.

    Attributes:
        task_id: What to ``attach`` for it: of tasks that check each other, the same for all.
        stage: The service's own word for how far it is.
        can_have_model: Whether a model may come of it, or has come of it.
        config: What it trains, or None where the service shows nothing that makes sense.
    """

    task_id: str
    stage: str
    can_have_model: bool
    config: FineTuneConfig | None
