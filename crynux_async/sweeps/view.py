"""What a page about a sweep is told, collected from its trials."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from crynux_async.archive import Health, HealthCode
from crynux_async.money import WEI
from crynux_async.report.values import SweepView, TrialView, Verdict, shown_field
from crynux_async.secret import mask_addresses, mask_text
from crynux_async.sweeps.trial import Trial, varied_fields
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.effective import EffectiveField
from crynux_async.training.service import BRIDGE_MAPPING, ValueMapping


@attrs.frozen(kw_only=True)
class Subject:
    """What a page tells of a sweep besides its trials.

    Attributes:
        name: The sweep's name.
        base: Fields of the base that was asked, and values.
        objective_name: What trials are ranked by, or "".
        minimize: Whether a smaller objective is better.
        budget_cnx: What it may cost, or None.
    """

    name: str
    base: Mapping[str, Any]
    objective_name: str = ""
    minimize: bool = True
    budget_cnx: float | None = None


def view_of(
    subject: Subject,
    trials: Sequence[Trial],
    *,
    written_at: datetime,
    images: Mapping[Trial, Sequence[bytes | str]] | None = None,
    refusals: int = 0,
    last_sent_at: datetime | None = None,
    mapping: ValueMapping = BRIDGE_MAPPING,
    options: str | None = None,
    public: bool = False,
) -> SweepView:
    """Return what a page about a sweep is told.

    Args:
        subject: The sweep.
        trials: Its trials.
        written_at: Now.
        images: Pictures of their models, PNG or JPEG, or addresses of some.
        refusals: Creates refused by the rate limit.
        last_sent_at: When the last create is expected to be sent, or None.
        mapping: What their service cannot be sent, and what it is sent instead.
        options: What the command that tries failed ones again must be given; None where there is no such command.
        public: Leave out what concerns nobody outside: paths, commands, and messages that may hold hosts.
    """
    pictures = images or {}
    fields = varied_fields(trials)
    everywhere = _changed(FineTuneConfig.from_dict(dict(subject.base)), mapping)
    return SweepView(
        name=subject.name,
        base=mask_addresses(subject.base),
        changed=everywhere,
        trials=[
            _trial(trial, fields, pictures.get(trial, ()), _own_changes(trial, everywhere, mapping), public=public)
            for trial in trials
        ],
        objective_name=subject.objective_name,
        minimize=subject.minimize,
        budget_cnx=subject.budget_cnx,
        refusals=refusals,
        last_sent_at=last_sent_at,
        command="" if public or options is None else _command(subject.name, options),
        written_at=written_at,
    )


def _command(name: str, options: str) -> str:
    return " ".join(filter(None, ("crynux-async sweep retry", shlex.quote(name), options)))


def _own_changes(trial: Trial, everywhere: Sequence[EffectiveField], mapping: ValueMapping) -> list[EffectiveField]:
    # What all have in common is said once, at the head of the page.
    return [each for each in _changed(trial.point.config, mapping) if each not in everywhere]


def _trial(
    trial: Trial,
    fields: Sequence[str],
    images: Sequence[bytes | str],
    changed: Sequence[EffectiveField],
    *,
    public: bool,
) -> TrialView:
    job, health, norms, cost = trial.job, trial.health, trial.norms, trial.cost
    return TrialView(
        number=trial.number,
        label=trial.label,
        state=trial.state,
        params=mask_addresses({field: trial.value_of(field) for field in fields}),
        job_id=job.job_id,
        task_id=job.task_id or "",
        objective=trial.objective,
        norm=norms.total if norms else None,
        blocks=norms.blocks if norms else {},
        verdict=_verdict(health),
        health=tuple(map(str, health.problems)) if health else (),
        cost_cnx=cost.spent / WEI if cost and cost.is_complete else None,
        held_cnx=cost.held / WEI if cost else 0.0,
        sent_at=job.submitted_at,
        noticed_at=job.ended_at,
        stored_at=_stored_at(job.path),
        error=_public_error(trial) if public else "; ".join(filter(None, (str(trial.error or ""), job.reason or ""))),
        archive=str(job.path) if job.path and not public else "",
        images=images,
        changed=changed,
    )


def _public_error(trial: Trial) -> str:
    if trial.problem is not None:
        return "its archive could not be used"
    return mask_text(trial.job.reason or "")


def _verdict(health: "Health | None") -> Verdict:
    if health is None:
        return ""
    # Worse than any strength: the numbers are no numbers.
    if health.codes & {HealthCode.NAN, HealthCode.INF}:
        return "damaged"
    return health.strength.verdict if health.strength else ""


def _stored_at(path: Path | None) -> datetime | None:
    # The last byte was written when the archive was stored; it got its final name a moment later.
    try:
        return None if path is None else datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:  # moved since
        return None


def _changed(config: FineTuneConfig, mapping: ValueMapping) -> list[EffectiveField]:
    return [shown_field(each) for each in config.effective(mapping=mapping).differences]
