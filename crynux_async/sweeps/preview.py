"""``Preview``: what running a sweep would do, before anything is sent."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from crynux_async.errors import ConflictError
from crynux_async.job import Job, record_of
from crynux_async.report.values import TrialState
from crynux_async.states import JobState
from crynux_async.supervision.forecast import Forecast
from crynux_async.sweeps.notes import SCOPE, check_same
from crynux_async.sweeps.points import Point, Points
from crynux_async.sweeps.trial_states import state_of
from crynux_async.training import advice
from crynux_async.training.advice import Advice
from crynux_async.training.effective import EffectiveField
from crynux_async.training.fields import field_names
from crynux_async.training.service import BRIDGE_FACTS, ServiceFacts

if TYPE_CHECKING:
    from crynux_async.session import Session
    from crynux_async.sweeps.sweep import Sweep

_AT_ONCE = 100


@attrs.frozen(kw_only=True)
class Said:
    """An advice that concerns some points alike.

    Attributes:
        advice: What is said of the first of them.
        points: Places of the points.
    """

    advice: Advice
    points: Sequence[int]


@attrs.frozen(kw_only=True)
class Changed:
    """A value that is not used as it was asked for, in some points alike.

    Attributes:
        value: What becomes of it in the first of them.
        points: Places of the points.
    """

    value: EffectiveField
    points: Sequence[int]


@attrs.frozen(kw_only=True)
class Preview:
    """What running a sweep would do.

    Attributes:
        name: The sweep's name.
        points: Every point, those that are no config, and those that are asked for twice or train the same.
        known: How many trials the ledger has already, by where they are.
        new: The points that would be sent, in their order.
        advice: What is to be known of them, each kind once, errors first.
        changed: The effective values of them that differ from what was asked, each kind once.
        price: What sending the new points may cost at most, in wei (10**-18 CNX), or None where prices are not known.
        balance: What the account that pays has, in wei, or None where that cannot be asked.
        forecast: When the last would be sent and end, as far as that can be said.
        conflict: Why the sweep cannot run under this name, or None.
    """

    name: str
    points: Points
    known: Mapping[TrialState, int]
    new: Sequence[Point]
    advice: Sequence[Said]
    changed: Sequence[Changed]
    price: int | None
    balance: int | None
    forecast: Forecast
    conflict: ConflictError | None

    @property
    def is_workable(self) -> bool:
        """Whether running it would send every point: no point is broken, no advice an error, and the name is free."""
        has_error = any(said.advice.severity == "error" for said in self.advice)
        return self.conflict is None and not self.points.broken and not has_error


async def preview(sweep: "Sweep", session: "Session") -> Preview:
    """Return what running a sweep in a session would do (see ``Sweep.preview``)."""
    # In threads: to plan a thousand points takes two seconds, and to judge them one.
    points = await asyncio.to_thread(sweep.plan, session.service_facts.mapping)
    jobs = {job.idempotency_key: job for job in await session.history(group=sweep.name)}
    new = [point for point in points.good if point.key not in jobs or _is_to_be_sent(jobs[point.key])]
    new_keys = {point.key for point in new}
    return Preview(
        name=sweep.name,
        points=points,
        known=Counter(state_of(job.state) for key, job in jobs.items() if key not in new_keys),
        new=new,
        advice=await asyncio.to_thread(advice_once, new, session.service_facts),
        changed=await asyncio.to_thread(changed_once, new, session.service_facts),
        price=await _price(new, session),
        balance=await session.balance(),
        forecast=session.forecast([point.config for point in new]),
        conflict=_conflict(sweep, await session.ledger.note(SCOPE, sweep.name)),
    )


def _is_to_be_sent(job: Job) -> bool:
    """Whether the next run sends a job: it was refused or left unsent, and so never paid for."""
    return job.state is JobState.REJECTED or record_of(job).is_set_aside


def advice_once(points: Iterable[Point], service: ServiceFacts = BRIDGE_FACTS) -> list[Said]:
    """Return what is to be known of points, each kind once with the points that it concerns, errors first."""
    said: dict[tuple[str, str | None], tuple[Advice, list[int]]] = {}
    for point in points:
        # Repeats differ in their seeds, of which no advice speaks.
        if point.repeat == 1:
            for item in advice.check(point.config, service=service):
                said.setdefault((item.code, item.field), (item, []))[1].append(point.number)
    order = {"error": 0, "warning": 1, "note": 2}
    kinds = sorted(said.values(), key=lambda kind: order[kind[0].severity])
    return [Said(advice=item, points=numbers) for item, numbers in kinds]


def changed_once(points: Iterable[Point], service: ServiceFacts = BRIDGE_FACTS) -> list[Changed]:
    """Return the values of points that are not used as they were asked for, each kind once, in the order of fields."""
    found: dict[tuple[str, str], tuple[EffectiveField, list[int]]] = {}
    for point in points:
        if point.repeat == 1:
            for value in point.config.effective(mapping=service.mapping).differences:
                found.setdefault((value.field, value.reason), (value, []))[1].append(point.number)
    places = {name: place for place, name in enumerate(field_names())}
    kinds = sorted(found.values(), key=lambda kind: places[kind[0].field])
    return [Changed(value=value, points=numbers) for value, numbers in kinds]


async def _price(points: Iterable[Point], session: "Session") -> int | None:
    total = 0
    for number, point in enumerate(points):
        if number % _AT_ONCE == 0:  # a session belongs to its loop, which others use, too
            await asyncio.sleep(0)
        price = session.price(point.config)
        if price is None:
            return None
        total += price
    return total


def _conflict(sweep: "Sweep", known: Mapping[str, object] | None) -> ConflictError | None:
    if known is None:
        return None
    try:
        check_same(sweep.name, known, sweep.asked())
    except ConflictError as error:
        return error
    return None
