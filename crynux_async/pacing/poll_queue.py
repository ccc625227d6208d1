"""Which job is to be asked about next, and when: one heap for all of them.

Theory of operation
-------------------
``add()`` plans a job, ``due()`` takes it out, and from then on it is *in flight* until exactly one of
``running()``, ``ended()`` or ``errored()`` says what the poll found; the first and the last put it back. So a job is
on the heap, in flight, or gone, and it cannot be forgotten. Nothing here waits or reads a clock: the caller passes
``now``, and time is the largest that was ever passed, so a clock that goes back freezes the queue and breaks nothing.
Whoever drives jobs must not be stopped by a number: nothing here raises once the queue is made.

*When.* A running job is polled again when the end that may be hidden by then is ``target_delay`` seconds old in
expectation (crynux_async.pacing.hazard, learned per kind of job), but never before ``min_interval`` nor after
``max_interval``. What was learned may be wrong: a data set that fails at once, a kind that has become ten times
faster. So there is a bound that rests on nothing learned: an interval is at most ``worst_delay`` of the job's age and a
minute, and no end is noticed later than that. Where the service says when to look again, that takes the place of what
was learned, not of the bound; and where it tells the phases of a task's life, too, what was learned of those takes the
place of its wish (crynux_async.pacing.phases), with a bound of the phase's age and a minute. Instants are rounded up to
a common tick, so that thousands of jobs wake the caller a few times a second at most.

*How many.* See crynux_async.pacing.poll_budget. Where the promised rate does not allow all polls, everything that was
planned is stretched alike, the bound included.

*Trouble.* A job whose poll fails backs off alone, but not in an outage: then the jobs keep their place, and are asked
at the promised rate afterwards. A job that runs past its stall deadline is reported once and polled slowly from then
on.

*Cost.* A job is one entry of the index, one place in a few lists, and one in the agenda: 130 bytes.
"""

import math
from array import array
from collections.abc import Hashable, Sequence
from typing import Any

import attrs
from attrs import validators

from crynux_async.backends.base import Phase
from crynux_async.pacing.age_bins import HazardSnapshot
from crynux_async.pacing.agenda import Agenda
from crynux_async.pacing.hazard import Hazard
from crynux_async.pacing.phases import Counted, counted_at, current, learned_wait, lessons, price
from crynux_async.pacing.poll_budget import PollBudget
from crynux_async.values import Value

_GRACE = 60.0  # seconds on top of the part of its age by which an end may be noticed late
# So many failures in a row (at least ten minutes) tell as little as "running" does about a job past its deadline.
_FAILURES_TO_STALL = 8
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_MOST_TICKS = 2.0**53
_ENDS_FOR_A_FORECAST = 3.0  # ends of a kind before its ages are more than a guess


@attrs.frozen(kw_only=True)
class PollStatistics(Value):
    """Counters of a PollQueue since it was made.

    Attributes:
        jobs: Jobs in the queue now, in flight or not.
        in_flight: Jobs handed out and not answered yet.
        stalled: Jobs past their stall deadline.
        polls: Jobs handed out by due().
        errors: Polls that failed.
        ended: Ends that were seen.
        mean_lag: Mean time from the planned instant to the hand-out, in seconds.
        max_lag: The longest such time, in seconds.
        target_delay: The price in force: expected hidden delay at which a job is polled, in seconds.
        planned_rate: Polls a second that the plans in force come to.
        outage: True while no poll succeeds.
    """

    jobs: int
    in_flight: int
    stalled: int
    polls: int
    errors: int
    ended: int
    mean_lag: float
    max_lag: float
    target_delay: float
    planned_rate: float
    outage: bool


class _Watched:
    """What is known of the jobs of a queue, each of which has a place in every list.

    A hundred thousand must fit, and an object with four floats for each takes twice as much.

    Attributes:
        job_ids: Their names; None where a place is free.
        hazards: What is learned of their kinds.
        started_at: When their age was 0.
        seen_at: The time up to which each has been counted as running, NaN if that is unknown.
        stall_at: When each cannot be healthy any more.
        load: The polls per second of each one's plan, scaled to what they would be without a budget.
        errors: How many polls in a row have failed, for those of which any has.
        counted: How far the life of each was counted, for those whose life has phases.
        uncounted: Those of an earlier process whose life may have phases, of which none were told yet.
        stalled: Those past their deadline.
    """

    __slots__ = (
        "_free",
        "counted",
        "errors",
        "hazards",
        "job_ids",
        "load",
        "seen_at",
        "stall_at",
        "stalled",
        "started_at",
        "uncounted",
    )

    def __init__(self) -> None:
        self.job_ids: list[Hashable] = []
        self.hazards: list[Hazard] = []
        self.started_at = array("d")
        self.seen_at = array("d")
        self.stall_at = array("d")
        self.load = array("d")
        self.errors: dict[int, int] = {}
        self.counted: dict[int, Counted] = {}
        self.uncounted: set[int] = set()
        self.stalled: set[int] = set()
        self._free: list[int] = []

    def add(self, job_id: Hashable, hazard: Hazard, started_at: float, seen_at: float, stall_at: float) -> int:
        """Enter a job and return its place."""
        columns = (self.job_ids, self.hazards, self.started_at, self.seen_at, self.stall_at, self.load)
        values = (job_id, hazard, started_at, seen_at, stall_at, 0.0)
        place = self._free.pop() if self._free else len(self.job_ids)
        column: Any
        for column, value in zip(columns, values, strict=True):
            if place < len(column):
                column[place] = value
            else:
                column.append(value)
        return place

    def remove(self, place: int) -> None:
        """Forget the job at a place, which the next one may have."""
        self.job_ids[place] = None
        self.errors.pop(place, None)
        self.counted.pop(place, None)
        self.uncounted.discard(place)
        self.stalled.discard(place)
        self._free.append(place)


def _positive(_: object, field: "attrs.Attribute[Any]", value: float | None) -> None:
    if value is not None and not 0.0 < value < math.inf:
        raise ValueError(f"{field.name} must be a positive number, not {value!r}")


@attrs.define(eq=False, kw_only=True, repr=False, on_setattr=attrs.setters.NO_OP)
class PollQueue:
    """All jobs that wait for their end, in the order in which they are worth a poll.

    Times are float seconds of one clock that the caller chooses.

    Attributes:
        target_delay: For how many seconds an end may be hidden, in expectation, before it is looked for; > 0. Polls go
            with the inverse of its square root.
        min_interval: Shortest time between two polls of a job in seconds, > 0; raises the longer ones that are below.
        max_interval: Longest time between two polls of a job that answers in seconds, unless the budget needs more.
        worst_delay: No end is noticed later than this part of the job's age and 60 seconds, whatever was learned, as
            long as the budget allows it and polls are answered; > 0, None for no such bound.
        requests_per_second: No more polls than this, all jobs together; None for no limit.
        burst: How many polls may come at once after a quiet time, >= 1; by default what one second allows.
        tick: Polls are planned on multiples of so many seconds, > 0.
        error_backoff: Longest time between two polls of a job whose polls fail, in seconds.
        stalled_interval: Time between two polls of a job past its stall deadline, in seconds.
        duration_hint: How many seconds a job of an unknown kind may take.

    Raises:
        ValueError: An argument is out of range.
    """

    target_delay: float = attrs.field(default=2.0, validator=_positive)
    min_interval: float = attrs.field(default=5.0, validator=_positive)
    max_interval: float = attrs.field(default=1800.0, validator=_positive)
    worst_delay: float | None = attrs.field(default=0.5, validator=_positive)
    requests_per_second: float | None = attrs.field(default=50.0, validator=_positive)
    burst: float = attrs.field(validator=[_positive, validators.ge(1.0)])
    tick: float = attrs.field(default=0.25, validator=_positive)
    error_backoff: float = attrs.field(default=120.0, validator=_positive)
    stalled_interval: float = attrs.field(default=900.0, validator=_positive)
    duration_hint: float = attrs.field(default=1200.0, validator=_positive)

    _budget: PollBudget = attrs.field(init=False)
    _places: dict[Hashable, int] = attrs.field(init=False, factory=dict)
    _watched: _Watched = attrs.field(init=False, factory=_Watched)
    _agenda: Agenda = attrs.field(init=False, factory=Agenda)
    _hazards: dict[str, Hazard] = attrs.field(init=False, factory=dict)
    _phase_hazards: dict[tuple[Hazard, str], Hazard] = attrs.field(init=False, factory=dict)
    _now: float = attrs.field(init=False, default=-math.inf)
    _phase: float = attrs.field(init=False, default=0.0)
    _newly_stalled: list[Hashable] = attrs.field(init=False, factory=list)
    _polls: int = attrs.field(init=False, default=0)
    _errors: int = attrs.field(init=False, default=0)
    _ended: int = attrs.field(init=False, default=0)
    _lag: float = attrs.field(init=False, default=0.0)
    _max_lag: float = attrs.field(init=False, default=0.0)

    @burst.default
    def _one_second(self) -> float:
        return max(1.0, self.requests_per_second or 1.0)

    @_budget.default
    def _promise(self) -> PollBudget:
        return PollBudget(self.requests_per_second, self.burst, self.min_interval)

    def __attrs_post_init__(self) -> None:
        self.max_interval = max(self.max_interval, self.min_interval)
        self.error_backoff = max(self.error_backoff, self.min_interval)
        self.stalled_interval = max(self.stalled_interval, self.min_interval)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._places

    def __repr__(self) -> str:
        s = self.statistics()
        trouble = f", {s.stalled} stalled" * bool(s.stalled) + ", no poll succeeds" * s.outage
        plan = f"{s.planned_rate:.3g} polls/s planned, target delay {s.target_delay:.3g} s"
        return f"<PollQueue: {s.jobs} jobs, {s.in_flight} in flight{trouble}; {plan}>"

    def add(
        self,
        job_id: Hashable,
        *,
        kind: str,
        started_at: float,
        now: float,
        stall_at: float | None = None,
        next_at: float | None = None,
        seen_at: float | None = None,
        duration_hint: float | None = None,
        at_once: bool = False,
        phases: Sequence[Phase] = (),
    ) -> None:
        """Begin to watch a job; one that is watched already is planned anew.

        A job that was started long ago (by an earlier process) is planned somewhere within its first interval, so that
        thousands of them do not come due at once.

        Args:
            job_id: Whatever due() shall return.
            kind: Jobs of one kind share what is learned about their durations. Keep the number of kinds small.
            started_at: When the job's age was 0.
            now: The time.
            stall_at: After this the job cannot be healthy any more; None for never.
            next_at: When it was planned to be polled next, if that is known; ignored if it is past.
            seen_at: When it was last known to run and counted, for a job that an earlier process has polled. Without
                it the first answer about an old job teaches nothing, because its end may lie anywhere.
            duration_hint: How many seconds a job of this kind may take; only the first job of a kind is heard.
            at_once: Poll it first as soon as the budget allows, because it may have ended already.
            phases: The phases of its life, where the service tells them: with those that are known, ``next_at`` is a
                wish.
        """
        self.discard(job_id)
        now = self._at_least(now)
        started_at = min(now, started_at)  # in this order: what is no number counts as now
        fresh = now - started_at <= self.min_interval
        if seen_at is None:
            seen_at = started_at if fresh else math.nan
        hazard = self._hazard(kind, duration_hint)
        deadline = math.inf if stall_at is None else stall_at
        place = self._places[job_id] = self._watched.add(job_id, hazard, started_at, seen_at, deadline)
        interval = self._plan(place, now)
        if at_once:
            interval = 0.0
        elif next_at is not None and next_at > now:
            scale = self._budget.scale
            wanted = self._wanted(place, now, next_at - now, scale, phases) if phases else next_at - now
            interval = min(wanted, self._longest(place, now, scale))
        elif not fresh:
            # Multiples of the golden ratio fill the interval evenly, however many there will be.
            self._phase = (self._phase + _GOLDEN) % 1.0
            interval *= self._phase
        self._schedule(place, now + interval)

    def due(self, now: float, at_most: int) -> list[Hashable]:
        """Take out the jobs to poll now, the longest overdue first.

        Each one is in flight until running(), ended(), errored() or discard() is called for it.

        Args:
            now: The time.
            at_most: How many polls the caller can start.
        """
        now = self._at_least(now)
        ready: list[Hashable] = []
        if self._agenda.next_at() > now:
            return ready
        for planned, place in self._agenda.take(now, min(at_most, self._budget.allowed(now))):
            ready.append(self._watched.job_ids[place])
            self._lag += now - planned
            self._max_lag = max(self._max_lag, now - planned)
        self._polls += len(ready)
        self._budget.spend(len(ready), now)
        return ready

    def next_at(self, now: float) -> float:
        """Return when due() has something to give, rounded up to the tick; infinity if nothing waits."""
        now = self._at_least(now)
        planned = self._agenda.next_at()
        if planned == math.inf:
            return math.inf
        return self._rounded_up(self._budget.next_at(max(planned, now), now))

    def running(
        self, job_id: Hashable, now: float, look_again: float | None = None, phases: Sequence[Phase] = ()
    ) -> None:
        """Note that a poll found the job running, and plan the next one. Unknown jobs are ignored.

        Args:
            job_id: The job.
            now: The time.
            look_again: After how many seconds the service wants to be asked again, or None where it does not say. It
                may be less than ``min_interval``; it does not put off what ``worst_delay`` promises.
            phases: The phases of the task's life, where the service tells them; only beside ``look_again``.
        """
        place = self._places.get(job_id)
        if place is None:
            return
        now = self._at_least(now)
        watched = self._watched
        seen_at, started_at = watched.seen_at[place], watched.started_at[place]
        if seen_at <= now:
            watched.hazards[place].observe_running(seen_at - started_at, now - started_at)
        elif look_again is not None:
            # What came before was counted by the process that saw it, or never will be.
            watched.uncounted.add(place)
        if phases:
            self._learn_phases(place, phases, now)
        watched.seen_at[place] = now
        watched.errors.pop(place, None)
        self._budget.answered()
        if now >= watched.stall_at[place]:
            self._note_stalled(place)
        self._schedule(place, now + self._plan(place, now, look_again, phases))

    def ended(
        self,
        job_id: Hashable,
        now: float,
        *,
        failed: bool = False,
        learn: bool = True,
        phases: Sequence[Phase] = (),
    ) -> None:
        """Note that a poll found the job at its end, and forget the job. Unknown jobs are ignored.

        Args:
            job_id: The job.
            now: The time.
            failed: Whether the job failed; failures are learned apart.
            learn: False if this end says nothing about how long such jobs take.
            phases: The phases of the task's life, where the service tells them.
        """
        place = self._places.get(job_id)
        if place is None:
            return
        now = self._at_least(now)
        seen_at, started_at = self._watched.seen_at[place], self._watched.started_at[place]
        if learn and seen_at <= now:
            hazard = self._watched.hazards[place]
            hazard.observe_end(max(seen_at - started_at, 0.0), now - started_at, failed=failed)
            if phases:
                self._learn_phases(place, phases, now)
        self._ended += 1
        self._budget.answered()
        self._remove(job_id, place)

    def errored(self, job_id: Hashable, now: float) -> None:
        """Note that a poll failed, and let the job back off. Unknown jobs are ignored."""
        place = self._places.get(job_id)
        if place is None:
            return
        now = self._at_least(now)
        self._errors += 1
        before = self._watched.errors.get(place, 0)
        self._budget.failed(again=before > 0)
        self._watched.errors[place] = before + 1
        if now >= self._watched.stall_at[place] and before + 1 >= _FAILURES_TO_STALL:
            self._note_stalled(place)
        wait = min(self.min_interval * 2.0 ** min(before, 60), self.error_backoff)
        if place in self._watched.stalled:
            wait = self.stalled_interval
        self._schedule(place, now + wait)

    def unclear(self, job_id: Hashable, now: float, again_after: float) -> None:
        """Note that a poll was answered but showed neither that the job runs nor its end. Unknown jobs are ignored.

        Args:
            job_id: The job.
            now: The time.
            again_after: After how many seconds to poll it again, > 0.
        """
        place = self._places.get(job_id)
        if place is None:
            return
        now = self._at_least(now)
        self._watched.errors.pop(place, None)
        self._budget.answered()
        self._schedule(place, now + again_after)

    def discard(self, job_id: Hashable) -> None:
        """Forget a job, in flight or not. Unknown jobs are ignored."""
        place = self._places.get(job_id)
        if place is not None:
            self._remove(job_id, place)

    def stalled(self) -> list[Hashable]:
        """Return the jobs that were found past their stall deadline since the last call: each is told once."""
        if not self._newly_stalled:
            return []
        told, self._newly_stalled = self._newly_stalled, []
        # One that was forgotten, or is watched anew, meanwhile is not past its deadline.
        return [job_id for job_id in dict.fromkeys(told) if self._places.get(job_id) in self._watched.stalled]

    def restore(self, kind: str, snapshot: HazardSnapshot) -> None:
        """Add what an earlier process learned about a kind of job."""
        self._hazard(kind, None).restore(snapshot)

    def snapshots(self, *, changed_only: bool = False) -> dict[str, HazardSnapshot]:
        """Return what was learned, by kind of job.

        Args:
            changed_only: Leave out the kinds about which nothing was learned since they were last returned.
        """
        return {k: h.snapshot() for k, h in self._hazards.items() if h.changed or not changed_only}

    def age_by(self, part: float, kind: str) -> float | None:
        """Return by which age, in seconds, a part of the jobs of a kind has ended; None where too few have been seen.

        Args:
            part: 0 < part < 1.
            kind: As given to ``add``.
        """
        hazard = self._hazards.get(kind)
        return None if hazard is None or hazard.totals[0] < _ENDS_FOR_A_FORECAST else hazard.age_by(part)

    def statistics(self) -> PollStatistics:
        """Return the counters."""
        scale = self._budget.scale
        return PollStatistics(
            jobs=len(self._places),
            in_flight=len(self._places) - len(self._agenda),
            stalled=len(self._watched.stalled),
            polls=self._polls,
            errors=self._errors,
            ended=self._ended,
            mean_lag=self._lag / max(self._polls, 1),
            max_lag=self._max_lag,
            target_delay=self.target_delay * scale * scale,
            planned_rate=max(self._budget.load, 0.0) / scale,
            outage=self._budget.is_outage,
        )

    def _at_least(self, now: float) -> float:
        if self._now < now < math.inf:
            self._now = now
        return self._now if self._now > -math.inf else 0.0

    def _rounded_up(self, at: float) -> float:
        ticks = at / self.tick
        return math.ceil(ticks) * self.tick if ticks < _MOST_TICKS else at

    def _hazard(self, kind: str, hint: float | None) -> Hazard:
        hazard = self._hazards.get(kind)
        if hazard is None:
            usable = hint is not None and 0.0 < hint < math.inf
            hazard = self._hazards[kind] = Hazard(hint if hint is not None and usable else self.duration_hint)
        return hazard

    def _phase_hazard(self, place: int, name: str) -> Hazard:
        """Return what is learned of a phase of the lives of a job's kind."""
        whole = self._watched.hazards[place]
        hazard = self._phase_hazards.get((whole, name))
        if hazard is None:
            kind = next(kind for kind, one in self._hazards.items() if one is whole)
            # Its hint counts in tenths of a second, too: a phase is a part of a life.
            hazard = self._phase_hazards[whole, name] = self._hazard(phase_of(kind, name), None)
        return hazard

    def _learn_phases(self, place: int, phases: Sequence[Phase], now: float) -> None:
        counted, uncounted = self._watched.counted, self._watched.uncounted
        if place in uncounted:
            uncounted.discard(place)
        else:
            for lesson in lessons(counted.get(place), phases, now):
                lesson.teach(self._phase_hazard(place, lesson.name))
        reached = counted_at(phases, now)
        if reached is not None:
            counted[place] = reached

    def _plan(self, place: int, now: float, look_again: float | None = None, phases: Sequence[Phase] = ()) -> float:
        """Return the time to the job's next poll and enter its load."""
        budget = self._budget
        scale = budget.scale
        interval = min(self._wanted(place, now, look_again, scale, phases), self._longest(place, now, scale))
        load = scale / interval
        budget.plan(budget.load + load - self._watched.load[place])
        self._watched.load[place] = load
        return interval

    def _wanted(
        self, place: int, now: float, look_again: float | None, scale: float, phases: Sequence[Phase] = ()
    ) -> float:
        """Return the time to the job's next poll as far as only its end counts."""
        watched = self._watched
        if look_again is not None:
            wish = max(self.tick, look_again)
            phase = None if place in watched.stalled else current(phases)
            return wish * scale if phase is None else self._by_phase(place, phase, phases, wish, scale)
        if place in watched.stalled:
            return self.stalled_interval
        age, stall_at = now - watched.started_at[place], watched.stall_at[place]
        interval = watched.hazards[place].next_delay(age, self.target_delay * scale * scale, self.min_interval)
        return max(stall_at - now, self.min_interval) if now < stall_at < now + interval else interval

    def _by_phase(self, place: int, phase: Phase, phases: Sequence[Phase], wish: float, scale: float) -> float:
        """Return the time to the next poll of a job whose life has phases, of which one lasts or is to begin."""
        hazard = self._phase_hazard(place, phase.name)
        known = price([one.late for one in phases], [self._phase_hazard(place, one.name) for one in phases])
        if known is None:
            return wish * scale
        age = max(0.0, phase.age)
        wait = learned_wait(hazard, age, known * scale * scale, wish * scale)
        if self.worst_delay is not None:
            wait = min(wait, (self.worst_delay * age + _GRACE - self.tick) * scale)
        return wait if phase.within is None else min(wait, max(self.tick, phase.within) * scale)

    def _longest(self, place: int, now: float, scale: float) -> float:
        """Return the longest time to the job's next poll."""
        longest = self.stalled_interval if place in self._watched.stalled else self.max_interval
        if self.worst_delay is not None:
            # The instant is rounded up to the tick.
            bound = (self.worst_delay * (now - self._watched.started_at[place]) + _GRACE - self.tick) * scale
            longest = min(longest, max(bound, self.min_interval))
        # With more jobs than that and the budget allow, the promised rate wins.
        return max(longest, self._budget.crowd(len(self._places)))

    def _schedule(self, place: int, at: float) -> None:
        self._agenda.plan(place, self._rounded_up(at))

    def _remove(self, job_id: Hashable, place: int) -> None:
        del self._places[job_id]
        if self._places:
            self._budget.plan(self._budget.load - self._watched.load[place])
            self._agenda.cancel(place)
            self._watched.remove(place)
        else:
            # Sums of floats drift; an empty queue is the occasion to be exact again, and to give the room back.
            self._budget.plan(0.0)
            self._agenda.clear()
            self._watched = _Watched()

    def _note_stalled(self, place: int) -> None:
        if place not in self._watched.stalled:
            self._watched.stalled.add(place)
            self._newly_stalled.append(self._watched.job_ids[place])


def phase_of(kind: str, name: str) -> str:
    """Return under which kind it is kept what is learned of a phase of the lives of a kind."""
    return f"{kind}|{name}"
