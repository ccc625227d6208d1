"""What a page about a sweep is told, collected from its trials."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from crynux_async.archive import Health, HealthCode
from crynux_async.clock import utc_now
from crynux_async.errors import CrynuxError
from crynux_async.money import WEI
from crynux_async.report.values import ChangedField, SweepView, TrialView, Verdict
from crynux_async.secret import mask_address, mask_addresses
from crynux_async.sweeps.trial import Trial
from crynux_async.training.config import FineTuneConfig

Pictures: TypeAlias = Path | Callable[[Trial], Sequence[bytes]]
"""Where pictures of models come from: a folder of files named like the archives, or a function of a trial."""

_PICTURES = (".png", ".jpg", ".jpeg")


def view_of(
    name: str,
    base: Mapping[str, Any],
    trials: Iterable[Trial],
    *,
    images: Mapping[Trial, Sequence[bytes]] | None = None,
    objective_name: str = "",
    minimize: bool = True,
    budget_cnx: float | None = None,
    refusals: int = 0,
) -> SweepView:
    """Return what a page about a sweep is told.

    Args:
        name: The sweep's name.
        base: Fields of the base that was asked, and values.
        trials: Its trials.
        images: Pictures of their models, PNG or JPEG.
        objective_name: What trials are ranked by, or "".
        minimize: Whether a smaller objective is better.
        budget_cnx: What it may cost, or None.
        refusals: Creates refused by the rate limit.
    """
    pictures = images or {}
    return SweepView(
        name=name,
        base=mask_addresses(base),
        changed=_changed(base),
        trials=[_trial(trial, pictures.get(trial, ())) for trial in trials],
        objective_name=objective_name,
        minimize=minimize,
        budget_cnx=budget_cnx,
        refusals=refusals,
        command=f"crynux-async sweep retry '{name}'",
        written_at=utc_now(),
    )


def pictures_of(trial: Trial, source: Pictures) -> list[bytes]:
    """Return the pictures of a trial's model: files whose name begins with that of its archive, or what is returned."""
    if callable(source):
        return list(source(trial))
    if trial.job.path is None:
        return []
    found = sorted(Path(source).glob(f"{_literal(trial.job.path.stem)}*"))
    return [path.read_bytes() for path in found if path.suffix.lower() in _PICTURES]


async def service_pictures(trial: Trial) -> list[bytes]:
    """Return the validation images that the service has of a trial, where it has any."""
    try:
        return await trial.job.images()
    except CrynuxError:  # no bridge has any, and a relay deletes them with the task
        return []


def _trial(trial: Trial, images: Sequence[bytes]) -> TrialView:
    job, health, norms, cost = trial.job, trial.health, trial.norms, trial.cost
    return TrialView(
        number=trial.number,
        label=trial.label,
        state=trial.state,
        params=mask_addresses(trial.params),
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
        error="; ".join(text for text in (str(trial.error or ""), job.reason or "") if text),
        archive=str(job.path) if job.path else "",
        images=images,
    )


def _verdict(health: "Health | None") -> Verdict:
    if health is None:
        return ""
    if health.codes & {HealthCode.NAN, HealthCode.INF}:
        return "damaged"
    return health.strength.verdict if health.strength else ""


def _stored_at(path: Path | None) -> datetime | None:
    # The last byte was written when the archive was stored; it got its final name a moment later.
    try:
        return None if path is None else datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:  # moved since
        return None


def _changed(base: Mapping[str, Any]) -> list[ChangedField]:
    return [
        ChangedField(
            field=each.field,
            asked=mask_address(each.asked),
            sent=mask_address(each.sent),
            used=mask_address(each.used),
            reason=each.reason,
        )
        for each in FineTuneConfig.from_dict(dict(base)).effective().differences
    ]


def _literal(stem: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in stem)
