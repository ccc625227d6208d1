"""A sweep in sentences: how far it is, what went wrong, and what to do next. It says no more than is known."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import attrs

from crynux_async.report.values import SweepView, TrialView
from crynux_async.training.effective import EffectiveField
from crynux_async.wording import counted

_TIME = "%Y-%m-%d %H:%M"


@attrs.frozen(kw_only=True)
class Tile:
    """One figure at the head of a page.

    Attributes:
        figure: The figure.
        meaning: What it counts.
    """

    figure: str
    meaning: str


def lead(view: SweepView) -> str:
    """Return the sentence under the heading."""
    model = str(view.base.get("model_name", "")).rpartition("/")[2]
    what = " × ".join(view.parameters) or "one config"
    said = f"{counted(len(view.trials), 'trial')} of {what}" + (f" on {model}" if model else "")
    started = min((trial.sent_at for trial in view.trials if trial.sent_at), default=None)
    begun = f" Started {shown_time(started)}," if started else " Nothing has been sent yet,"
    return f"{said}.{begun} written {shown_time(view.written_at)}."


def tiles(view: SweepView) -> list[Tile]:
    """Return the figures at the head of a page."""
    waiting, running = view.count("waiting", "stopped"), view.count("running")
    ends = f", the last ends about {shown_time(view.ends_at)}" if view.ends_at and running else ""
    sent = f", the last is sent about {shown_time(view.last_sent_at)}" if view.last_sent_at and waiting else ""
    budget = f", budget {money(view.budget_cnx)}" if view.budget_cnx is not None else ""
    held = f", {money(view.held_cnx)} held" if view.held_cnx else ""
    found = [
        Tile(figure=f"{view.count('done')} of {len(view.trials)}", meaning="models on disk"),
        Tile(figure=str(running), meaning=f"training now{ends}"),
        Tile(figure=str(view.count("failed")), meaning="failed, with what is known below"),
        Tile(figure=f"{view.spent_cnx:g} CNX", meaning=f"spent{held}{budget}"),
    ]
    if waiting:
        found.insert(1, Tile(figure=str(waiting), meaning=f"waiting to be sent{sent}"))
    if view.count("unconfirmed"):
        found.append(Tile(figure=str(view.count("unconfirmed")), meaning="may have been created, see below"))
    leader = best(view)
    if leader is not None:
        found.insert(
            1, Tile(figure=f"{leader.objective:.4g}", meaning=f"best {view.objective_name}: trial {leader.number}")
        )
    if view.refusals:
        found.append(Tile(figure=str(view.refusals), meaning="refused by the rate limit"))
    return found


def job_facts(trial: TrialView) -> list[tuple[str, str]]:
    """Return what a trial's job is asked for: names and texts, without what is not known."""
    facts = [
        ("trial", f"{trial.number}, {trial.label}"),
        ("what went wrong", trial.error),
        *(("health", problem) for problem in trial.health),
        *((f"{each.field}, not as it was asked", _changed(each)) for each in trial.changed),
        ("job", trial.job_id),
        ("task", trial.task_id),
        ("sent", _known_time(trial.sent_at)),
        ("end noticed", _known_time(trial.noticed_at)),
        ("model stored", _known_time(trial.stored_at)),
        ("archive", trial.archive),
    ]
    return [(name, text) for name, text in facts if text]


def _changed(each: EffectiveField) -> str:
    return f"asked {each.asked}, sent {each.sent}, used {each.used}: {each.reason}"


def _known_time(when: datetime | None) -> str:
    return "" if when is None else f"{when:%Y-%m-%d %H:%M:%S} UTC"


def notes(view: SweepView) -> list[str]:
    """Return what a reader should know and do, the gravest first."""
    return [*_failures(view), *_unconfirmed(view), *_divergence(view), *_untrained(view), *_budget(view)]


def best(view: SweepView) -> TrialView | None:
    """Return the trial with the best objective, or None where there is none."""
    ranked = [trial for trial in view.trials if trial.objective is not None]
    return (min if view.minimize else max)(ranked, key=lambda trial: trial.objective or 0.0) if ranked else None


def money(cnx: float | None) -> str:
    """Return an amount as people read it."""
    return "–" if cnx is None else f"{cnx:,.6g} CNX"


def shown_time(when: datetime | None) -> str:
    """Return a moment as a page shows it."""
    return "–" if when is None else f"{when.strftime(_TIME)} UTC"


def _failures(view: SweepView) -> Iterator[str]:
    failed = [trial for trial in view.trials if trial.state == "failed"]
    if not failed:
        return
    reasons = Counter(trial.error or "the service gives no reason" for trial in failed)
    for reason, count in reasons.most_common():
        said = f"{counted(count, 'trial')} failed: {reason.rstrip('.')}."
        shared = _shared_by(
            [trial for trial in failed if (trial.error or "the service gives no reason") == reason], view
        )
        again = f" {view.command} tries failed ones again." if view.command else ""
        yield said + shared + again


def _shared_by(failed: Sequence[TrialView], view: SweepView) -> str:
    """Say what all of these trials have in common that no good one has."""
    good = [trial for trial in view.trials if trial.state == "done"]
    # One failure alone shares every value with itself, which says nothing.
    if len(failed) < 2 or not good:
        return ""
    # Only what differs between trials can explain why some of them failed.
    for name in view.parameters:
        values = {_key(trial.params.get(name)) for trial in failed}
        if len(values) == 1 and values.isdisjoint(_key(trial.params.get(name)) for trial in good):
            return f" All of them have {name} {failed[0].params.get(name)}, which no successful one has."
    return " No single value sets them apart from the successful ones."


def _unconfirmed(view: SweepView) -> Iterator[str]:
    count = view.count("unconfirmed")
    if count:
        yield (
            f"The answer to the create of {counted(count, 'trial')} was lost: the task may exist and be paid for. "
            "It is not sent again by itself; reconcile looks for it."
        )


def _divergence(view: SweepView) -> Iterator[str]:
    diverged = [trial for trial in view.trials if trial.verdict == "diverged"]
    if diverged:
        rates = sorted({trial.params["learning_rate"] for trial in diverged if "learning_rate" in trial.params})
        at = f", at learning rates from {rates[0]:g} to {rates[-1]:g}" if rates else ""
        yield f"{counted(len(diverged), 'model')} diverged{at}: try a smaller learning rate or a scheduler that decays."


def _untrained(view: SweepView) -> Iterator[str]:
    untrained = [trial for trial in view.trials if trial.verdict == "untrained"]
    if untrained:
        yield f"{counted(len(untrained), 'model')} came back untrained: the weights are still the initial ones."


def _budget(view: SweepView) -> Iterator[str]:
    waiting = view.count("waiting")
    # What is held counts as spent until it comes back, here as where jobs are sent.
    if view.budget_cnx is not None and waiting and view.spent_cnx + view.held_cnx >= view.budget_cnx:
        yield f"The budget of {money(view.budget_cnx)} is used up; {counted(waiting, 'trial')} will not be sent."


def _key(value: Any) -> str:
    # By its text: a list has no hash, and 1, 1.0 and True are different values here.
    return repr(value)
