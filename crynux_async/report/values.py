"""What a page about a sweep is told: plain values, whoever collected them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias

import attrs

from crynux_async.secret import mask_address
from crynux_async.training.effective import EffectiveField

TrialState: TypeAlias = Literal["waiting", "running", "done", "failed", "unconfirmed", "stopped"]
"""Where a trial is, as far as a reader of the page is concerned."""

Verdict: TypeAlias = Literal["", "untrained", "faint", "usual", "strong", "diverged", "damaged"]
"""What the weights say of a training."""


@attrs.frozen(kw_only=True)
class TrialView:
    """One trial.

    Attributes:
        number: Its place in the sweep, >= 1.
        label: A name for people.
        state: Where it is.
        params: What it changes in the base.
        job_id: Its job, or "".
        task_id: Its task, or "".
        objective: What it is ranked by, or None.
        norm: ||B A|| over all modules, or None where there is no archive.
        blocks: ||B A|| by block of the UNet.
        verdict: What the weights say.
        health: What is wrong with the archive, sentence by sentence.
        cost_cnx: CNX spent, or None where that is not known.
        held_cnx: CNX held while it runs.
        sent_at: When it was accepted, or None.
        noticed_at: When its end was noticed, or None.
        stored_at: When its archive was safe on disk, or None.
        error: What went wrong and what to do, or "".
        archive: Where its archive is, or "".
        images: Pictures of its model, as PNG or JPEG files, or addresses of some.
        changed: Fields of which something else is trained than was asked, beside those of the whole sweep.
    """

    number: int
    label: str
    state: TrialState
    params: Mapping[str, Any]
    job_id: str = ""
    task_id: str = ""
    objective: float | None = None
    norm: float | None = None
    blocks: Mapping[str, float] = attrs.field(factory=dict)
    verdict: Verdict = ""
    health: Sequence[str] = ()
    cost_cnx: float | None = None
    held_cnx: float = 0.0
    sent_at: datetime | None = None
    noticed_at: datetime | None = None
    stored_at: datetime | None = None
    error: str = ""
    archive: str = ""
    images: Sequence[bytes | str] = ()
    changed: Sequence[EffectiveField] = ()

    @property
    def minutes(self) -> float | None:
        """Minutes from being accepted to its end being noticed, or None."""
        if self.sent_at is None or self.noticed_at is None:
            return None
        # To when it was noticed: a bridge does not say when a training ended.
        return (self.noticed_at - self.sent_at).total_seconds() / 60


@attrs.frozen(kw_only=True)
class SweepView:
    """A sweep.

    Attributes:
        name: Its name.
        base: What is trained where a trial changes nothing: fields and values.
        changed: Fields of which something else is trained than was asked.
        trials: Every trial, in the order of the sweep.
        objective_name: What trials are ranked by, or "".
        minimize: Whether a smaller objective is better.
        budget_cnx: What it may cost, or None.
        refusals: Creates refused by the rate limit.
        last_sent_at: When the last create is expected to be sent, or None.
        ends_at: When the last trial is expected to end, or None.
        command: What to type to try failed trials again, or "".
        written_at: When this was collected.
    """

    name: str
    base: Mapping[str, Any]
    changed: Sequence[EffectiveField] = ()
    trials: Sequence[TrialView]
    objective_name: str = ""
    minimize: bool = False
    budget_cnx: float | None = None
    refusals: int = 0
    last_sent_at: datetime | None = None
    ends_at: datetime | None = None
    command: str = ""
    written_at: datetime

    @property
    def parameters(self) -> list[str]:
        """Names of what the trials change, in the order in which they first come."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.params))

    def count(self, *states: TrialState) -> int:
        """Return how many trials are in any of these states."""
        return sum(trial.state in states for trial in self.trials)

    @property
    def spent_cnx(self) -> float:
        """CNX spent, as far as known."""
        return sum(trial.cost_cnx or 0.0 for trial in self.trials)

    @property
    def held_cnx(self) -> float:
        """CNX held for trials that run."""
        return sum(trial.held_cnx for trial in self.trials)


def shown_field(field: EffectiveField) -> EffectiveField:
    """Return a field of a config as pages show it: without the secret parts of addresses."""
    masked = {name: mask_address(getattr(field, name)) for name in ("asked", "sent", "used")}
    return attrs.evolve(field, **masked)
