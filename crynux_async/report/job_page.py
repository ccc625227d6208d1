"""The page of one job: what is told of it, made of rows, its config and its archive."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from crynux_async.archive import Health, Norms
from crynux_async.archive.naming import PROGRAMS
from crynux_async.job_values import cost_of
from crynux_async.ledgers.base import EventRow, JobRow, TaskRow
from crynux_async.report.board_values import AdviceLine, ArchiveView, Curve, JobView
from crynux_async.report.job_words import event_line, line_of, sentence_of
from crynux_async.report.values import shown_field
from crynux_async.secret import mask_text
from crynux_async.training import advice
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.effective import EffectiveField
from crynux_async.training.service import ServiceFacts
from crynux_async.training.simulation import Simulation, simulate

_POINTS = 120
_WIDTH, _HEIGHT = 1000, 200


def job_view(
    row: JobRow,
    *,
    events: Sequence[EventRow],
    tasks: Sequence[TaskRow],
    service: ServiceFacts,
    archive: ArchiveView | None = None,
    **known: Any,
) -> JobView:
    """Return what is told of a job.

    Args:
        row: The job.
        events: Its newest events, in order.
        tasks: Its tasks.
        service: Who runs it.
        archive: What is known of its archive, or None while there is none.
        **known: What else a list knows of it.
    """
    cost, config = cost_of(tasks), row.config
    simulation = None if config is None else simulate(config, None, service)
    return JobView(
        line=line_of(row, events[-1] if events else None, **known),
        sentence=sentence_of(row),
        facts=list(_facts(row)),
        tries=row.tries,
        cost=cost.spent if tasks and cost.is_complete else None,
        held=cost.held,
        events=[event_line(event) for event in reversed(events)],
        missed=events[0].number - 1 if events else row.last_event,
        fields=[] if config is None else _fields(config, service),
        curve=None if simulation is None else curve_of(simulation),
        rounds="" if simulation is None else rounds_of(simulation),
        advice=[] if config is None else list(_advice(config, service)),
        archive=archive,
    )


def archive_view(row: JobRow, health: Health | None, norms: Norms | None, *, images: int, is_here: bool) -> ArchiveView:
    """Return what is told of an archive.

    Args:
        row: Its job.
        health: What is wrong with it, or None where it could not be read.
        norms: How strongly it changes the UNet, or None where that could not be measured.
        images: How many pictures lie beside it.
        is_here: Whether it is on this machine.
    """
    strength = health.strength if health else None
    blocks = norms.blocks if norms else {}
    largest = max((norm for norm in blocks.values() if math.isfinite(norm)), default=0.0)
    return ArchiveView(
        total_bytes=row.total_bytes,
        is_here=is_here,
        verdict=strength.verdict if strength else "",
        action=strength.action if strength else "",
        problems=[problem.message for problem in health.problems] if health else [],
        norm=norms.total if norms else None,
        blocks=[(name, norm, _share(norm, largest)) for name, norm in blocks.items()],
        images=images,
        exports=[("all", "every program"), *((name, facts.title) for name, facts in PROGRAMS.items())],
    )


def curve_of(simulation: Simulation) -> Curve | None:
    """Return the learning rate over the steps of a job, or None where its length is not known or nothing changes it."""
    schedule = simulation.schedule
    if schedule is None:
        return None
    steps = simulation.steps or schedule.total_steps
    if steps < 2:
        return None
    found = [(step, rate) for step, rate in schedule.points(1, steps, _POINTS) if math.isfinite(rate)]
    top = max((rate for _, rate in found), default=0.0)
    if top <= 0:
        return None
    final = simulation.final_round
    return Curve(
        points=[(_across(step, steps), round(_HEIGHT * (1 - rate / top), 1)) for step, rate in found],
        kept_from=0.0 if final is None else _across(final.first_step, steps),
        top=top,
        steps=steps,
        scheduler=schedule.scheduler,
        says=_said(schedule.scheduler, found, top, steps),
    )


def rounds_of(simulation: Simulation) -> str:
    """Return the rounds of a job in a sentence."""
    if not simulation.is_complete:
        most = simulation.most_rounds
        return "How many steps it has depends on the data set." if most is None else f"At most {most:,} rounds."
    count = len(simulation.rounds)
    if count == 1:
        return f"{simulation.steps:,} steps in one round."
    return f"{simulation.steps:,} steps in {count:,} rounds, of which the last one is kept."


def _said(scheduler: str, found: Sequence[tuple[int, float]], top: float, steps: int) -> str:
    first, last = found[0][1], found[-1][1]
    if first == last == top:
        return f"{top:.3g} over all {steps:,} steps"
    peak = next(step for step, rate in found if rate == top)
    return f"{scheduler}: {first:.3g} at the first step, {top:.3g} at step {peak:,}, {last:.3g} at step {steps:,}"


def _across(step: int, steps: int) -> float:
    return round(_WIDTH * (step - 1) / (steps - 1), 1)


def _share(norm: float, largest: float) -> int:
    return round(100 * norm / largest) if math.isfinite(norm) and largest > 0 else 0


def _facts(row: JobRow) -> Iterator[tuple[str, str]]:
    """Yield what names a job; nothing that concerns this machine or this credential alone."""
    facts = {
        "job": row.job_id,
        "task": row.task_id or "",
        "label": row.label,
        "group": row.group,
        "tags": ", ".join(f"{name}: {value}" for name, value in row.tags.items()),
        "key": row.idempotency_key or "",
        "trains the same as": row.digest[:16],
    }
    yield from ((name, text) for name, text in facts.items() if text)


def _fields(config: FineTuneConfig, service: ServiceFacts) -> list[EffectiveField]:
    """Return every field, those first of which something else is used than was asked."""
    effective = config.effective(mapping=service.mapping)
    changed = {each.field for each in effective.differences}
    lines = [shown_field(each if each.field in changed else attrs.evolve(each, reason="")) for each in effective.fields]
    given = [line for line in lines if line.asked is not None or line.reason]
    return sorted(given, key=lambda line: not line.reason)


def _advice(config: FineTuneConfig, service: ServiceFacts) -> Iterator[AdviceLine]:
    for item in advice.check(config, service=service):
        yield AdviceLine(
            code=item.code,
            severity=item.severity,
            field=item.field or "",
            message=mask_text(item.message),
            action=mask_text(item.action),
        )
