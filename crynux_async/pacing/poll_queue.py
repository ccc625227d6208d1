"""Which job is to be asked about next, and when: one heap for all of them.

Theory of operation
-------------------
``add()`` puts a job on the heap, ``due()`` takes it off, and from then on it is *in flight* until exactly one of
``running()``, ``ended()`` or ``errored()`` says what the poll found; the first and the last put it back. So a job is
on the heap, in flight, or gone, and it cannot be forgotten. Nothing here waits or reads a clock: the caller passes
``now``, and time is the largest that was ever passed, so a clock that goes back freezes the queue and breaks nothing.

*When.* A running job is polled again when the end that may be hidden by then is ``target_delay`` seconds old in
expectation (crynux_async.pacing.hazard, learned per kind of job), but never before ``min_interval`` nor after
``max_interval``. Instants are rounded up to a common tick, so that thousands of jobs wake the caller a few times a
second at most.

*How many.* ``requests_per_second`` is a promise, kept twice. A token bucket hands out no more, whatever happens. And
the price moves so that no more is wanted: with R polls a second planned at ``target_delay`` and a budget Q of nine
tenths of the promise, the target becomes ``target_delay * (R/Q)^2``, because the interval grows with its square root.
R is a sum over the jobs that is kept up to date as they are planned. (Scaling the plan of each job back to
``target_delay`` makes this the fixed point of "multiply by (rate/Q)^2" without its overshoot.)

*Trouble.* A job whose poll fails backs off alone. When many different jobs in a row fail and none succeeds, it is the
bridge that is gone: then one job per ``min_interval`` is sent to look until somebody gets an answer. The others keep
their place instead of backing off, and are asked at the promised rate afterwards. A job that runs past its stall
deadline is reported once and polled slowly from then on.

*Cost.* A job is one slotted object, one heap entry and one entry of the index. What is discarded leaves the heap when
it comes up or when half of the heap is garbage.
"""

import math
import sys
from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Any

import attrs
from attrs import validators

from crynux_async.pacing.hazard import Hazard, HazardSnapshot

_HEADROOM = 0.9
_HIGHEST_SCALE = 100.0
_GARBAGE_MIN = 64
# This many different jobs fail with no success between them: it is not the jobs.
_OUTAGE_JOBS = 8
# So many failures in a row (at least ten minutes) tell as little as "running" does about a job past its deadline.
_FAILURES_TO_STALL = 8
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_IN_FLIGHT = 0
_GONE = -1


@attrs.frozen(kw_only=True)
class PollStatistics:
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


class _Entry:
    """One job.

    ``serial`` is the number of its heap entry, or _IN_FLIGHT or _GONE; heap entries with another number are garbage.
    ``seen_at`` is the time up to which it has been counted as running, NaN if that is unknown.
    ``load`` is the polls per second of its plan, scaled to what they would be without a budget.
    """

    __slots__ = ("errors", "hazard", "job_id", "load", "seen_at", "serial", "stall_at", "stalled", "started_at")

    def __init__(self, job_id: Hashable, hazard: Hazard, started_at: float, seen_at: float, stall_at: float) -> None:
        self.job_id = job_id
        self.hazard = hazard
        self.started_at = started_at
        self.seen_at = seen_at
        self.stall_at = stall_at
        self.serial = _IN_FLIGHT
        self.errors = 0
        self.load = 0.0
        self.stalled = False


class _TokenBucket:
    """At most ``burst + rate * T`` tokens in any T seconds."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = -math.inf

    def whole_tokens(self, now: float) -> int:
        if now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
            self._at = now
        # The caller comes back at next_at(): a token that lacks a rounding error must not send it away again.
        return int(self._tokens + 1e-4)

    def spend(self, tokens: int) -> None:
        self._tokens -= tokens

    def next_at(self, now: float) -> float:
        return now if self.whole_tokens(now) >= 1 else self._at + (1.0 - self._tokens) / self.rate


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
    requests_per_second: float | None = attrs.field(default=50.0, validator=_positive)
    burst: float = attrs.field(validator=[_positive, validators.ge(1.0)])
    tick: float = attrs.field(default=0.25, validator=_positive)
    error_backoff: float = attrs.field(default=120.0, validator=_positive)
    stalled_interval: float = attrs.field(default=900.0, validator=_positive)
    duration_hint: float = attrs.field(default=1200.0, validator=_positive)

    _bucket: _TokenBucket | None = attrs.field(init=False)
    _budget: float = attrs.field(init=False)
    _jobs: dict[Hashable, _Entry] = attrs.field(init=False, factory=dict)
    _heap: list[tuple[float, int, _Entry]] = attrs.field(init=False, factory=list)
    _garbage: int = attrs.field(init=False, default=0)
    _serial: int = attrs.field(init=False, default=0)
    _hazards: dict[str, Hazard] = attrs.field(init=False, factory=dict)
    _now: float = attrs.field(init=False, default=-math.inf)
    _load: float = attrs.field(init=False, default=0.0)
    _phase: float = attrs.field(init=False, default=0.0)
    _failing: int = attrs.field(init=False, default=0)
    _probe_at: float = attrs.field(init=False, default=-math.inf)
    _newly_stalled: list[_Entry] = attrs.field(init=False, factory=list)
    _stalled: int = attrs.field(init=False, default=0)
    _polls: int = attrs.field(init=False, default=0)
    _errors: int = attrs.field(init=False, default=0)
    _ended: int = attrs.field(init=False, default=0)
    _lag: float = attrs.field(init=False, default=0.0)
    _max_lag: float = attrs.field(init=False, default=0.0)

    @burst.default
    def _one_second(self) -> float:
        return max(1.0, self.requests_per_second or 1.0)

    @_bucket.default
    def _new_bucket(self) -> _TokenBucket | None:
        return None if self.requests_per_second is None else _TokenBucket(self.requests_per_second, self.burst)

    @_budget.default
    def _share_to_plan(self) -> float:
        return math.inf if self.requests_per_second is None else _HEADROOM * self.requests_per_second

    def __attrs_post_init__(self) -> None:
        self.max_interval = max(self.max_interval, self.min_interval)
        self.error_backoff = max(self.error_backoff, self.min_interval)
        self.stalled_interval = max(self.stalled_interval, self.min_interval)

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._jobs

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
    ) -> None:
        """Begin to watch a job.

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

        Raises:
            ValueError: The job is in the queue already.
        """
        if job_id in self._jobs:
            raise ValueError(f"job {job_id!r} is in the poll queue already")
        now = self._at_least(now)
        started_at = min(started_at, now)
        fresh = now - started_at <= self.min_interval
        if seen_at is None:
            seen_at = started_at if fresh else math.nan
        hazard = self._hazard(kind, duration_hint)
        deadline = math.inf if stall_at is None else stall_at
        entry = self._jobs[job_id] = _Entry(job_id, hazard, started_at, seen_at, deadline)
        interval = self._plan(entry, now)
        if next_at is not None and next_at > now:
            interval = min(next_at - now, max(self.max_interval, interval))
        elif not fresh:
            # Multiples of the golden ratio fill the interval evenly, however many there will be.
            self._phase = (self._phase + _GOLDEN) % 1.0
            interval *= self._phase
        self._schedule(entry, now + interval)

    def due(self, now: float, at_most: int) -> list[Hashable]:
        """Take out the jobs to poll now, the longest overdue first.

        Each one is in flight until running(), ended(), errored() or discard() is called for it.

        Args:
            now: The time.
            at_most: How many polls the caller can start.
        """
        now = self._at_least(now)
        heap = self._heap
        ready: list[Hashable] = []
        if not heap or heap[0][0] > now:
            return ready
        allowed = min(at_most, self._allowance(now))
        while len(ready) < allowed and heap and heap[0][0] <= now:
            planned, serial, entry = heappop(heap)
            if entry.serial != serial:
                self._garbage -= 1
                continue
            entry.serial = _IN_FLIGHT
            ready.append(entry.job_id)
            self._lag += now - planned
            self._max_lag = max(self._max_lag, now - planned)
        self._spend(now, len(ready))
        return ready

    def next_at(self, now: float) -> float:
        """Return when due() has something to give, rounded up to the tick; infinity if nothing waits."""
        now = self._at_least(now)
        heap = self._heap
        while heap and heap[0][2].serial != heap[0][1]:
            heappop(heap)
            self._garbage -= 1
        if not heap:
            return math.inf
        at = max(heap[0][0], now)
        if self._failing >= _OUTAGE_JOBS:
            at = max(at, self._probe_at)
        if self._bucket is not None:
            at = max(at, self._bucket.next_at(now))
        return self._rounded_up(at)

    def running(self, job_id: Hashable, now: float) -> None:
        """Note that a poll found the job running, and plan the next one. Unknown jobs are ignored."""
        entry = self._jobs.get(job_id)
        if entry is None:
            return
        now = self._at_least(now)
        if entry.seen_at <= now:
            entry.hazard.observe_running(max(entry.seen_at - entry.started_at, 0.0), now - entry.started_at)
        entry.seen_at = now
        entry.errors = self._failing = 0
        if now >= entry.stall_at:
            self._note_stalled(entry)
        self._schedule(entry, now + self._plan(entry, now))

    def ended(self, job_id: Hashable, now: float, learn: bool = True) -> None:
        """Note that a poll found the job at its end, and forget the job. Unknown jobs are ignored.

        Args:
            job_id: The job.
            now: The time.
            learn: False if this end says nothing about how long such jobs take.
        """
        entry = self._jobs.get(job_id)
        if entry is None:
            return
        now = self._at_least(now)
        if learn and entry.seen_at <= now:
            entry.hazard.observe_end(max(entry.seen_at - entry.started_at, 0.0), now - entry.started_at)
        self._ended += 1
        self._failing = 0
        self._remove(entry)

    def errored(self, job_id: Hashable, now: float) -> None:
        """Note that a poll failed, and let the job back off. Unknown jobs are ignored."""
        entry = self._jobs.get(job_id)
        if entry is None:
            return
        now = self._at_least(now)
        self._errors += 1
        self._failing += entry.errors == 0
        entry.errors += 1
        if now >= entry.stall_at and entry.errors >= _FAILURES_TO_STALL:
            self._note_stalled(entry)
        wait = min(self.min_interval * 2.0 ** min(entry.errors - 1, 60), self.error_backoff)
        if entry.stalled:
            wait = self.stalled_interval
        self._schedule(entry, now + wait)

    def discard(self, job_id: Hashable) -> None:
        """Forget a job, in flight or not. Unknown jobs are ignored."""
        entry = self._jobs.get(job_id)
        if entry is not None:
            self._remove(entry)

    def stalled(self) -> list[Hashable]:
        """Return the jobs that were found past their stall deadline since the last call: each is told once."""
        if not self._newly_stalled:
            return []
        told, self._newly_stalled = self._newly_stalled, []
        return [entry.job_id for entry in told if entry.serial != _GONE]

    def restore(self, kind: str, snapshot: HazardSnapshot) -> None:
        """Add what an earlier process learned about a kind of job.

        Raises:
            ValueError: The snapshot has another version.
        """
        self._hazard(kind, None).restore(snapshot)

    def snapshots(self, *, changed_only: bool = False) -> dict[str, HazardSnapshot]:
        """Return what was learned, by kind of job.

        Args:
            changed_only: Leave out the kinds about which nothing was learned since they were last returned.
        """
        return {k: h.snapshot() for k, h in self._hazards.items() if h.changed or not changed_only}

    def statistics(self) -> PollStatistics:
        """Return the counters."""
        scale = self._scale()
        return PollStatistics(
            jobs=len(self._jobs),
            in_flight=len(self._jobs) - (len(self._heap) - self._garbage),
            stalled=self._stalled,
            polls=self._polls,
            errors=self._errors,
            ended=self._ended,
            mean_lag=self._lag / max(self._polls, 1),
            max_lag=self._max_lag,
            target_delay=self.target_delay * scale * scale,
            planned_rate=max(self._load, 0.0) / scale,
            outage=self._failing >= _OUTAGE_JOBS,
        )

    def _at_least(self, now: float) -> float:
        self._now = max(self._now, now)
        return self._now

    def _rounded_up(self, at: float) -> float:
        return math.ceil(at / self.tick) * self.tick

    def _hazard(self, kind: str, hint: float | None) -> Hazard:
        hazard = self._hazards.get(kind)
        if hazard is None:
            hazard = self._hazards[kind] = Hazard(self.duration_hint if hint is None else hint)
        return hazard

    def _scale(self) -> float:
        """How many times too many polls there would be at ``target_delay``, at least 1."""
        return min(max(self._load / self._budget, 1.0), _HIGHEST_SCALE)

    def _plan(self, entry: _Entry, now: float) -> float:
        """Return the time to the job's next poll and enter its load."""
        scale = self._scale()
        # With more jobs than max_interval and the budget allow, the promised rate wins.
        crowd = len(self._jobs) / self._budget
        if entry.stalled:
            interval = max(self.stalled_interval, crowd)
        else:
            price = self.target_delay * scale * scale
            interval = entry.hazard.next_delay(now - entry.started_at, price, self.min_interval)
            interval = min(interval, max(self.max_interval, crowd))
            if now < entry.stall_at < now + interval:
                interval = max(entry.stall_at - now, self.min_interval)
        load = scale / interval
        self._load += load - entry.load
        entry.load = load
        return interval

    def _schedule(self, entry: _Entry, at: float) -> None:
        queued = entry.serial > _IN_FLIGHT
        self._serial += 1
        entry.serial = self._serial
        heappush(self._heap, (self._rounded_up(at), self._serial, entry))
        if queued:
            self._leave_garbage()

    def _remove(self, entry: _Entry) -> None:
        del self._jobs[entry.job_id]
        # Sums of floats drift; an empty queue is the occasion to be exact again.
        self._load = self._load - entry.load if self._jobs else 0.0
        self._stalled -= entry.stalled
        queued = entry.serial > _IN_FLIGHT
        entry.serial = _GONE
        if queued:
            self._leave_garbage()

    def _leave_garbage(self) -> None:
        self._garbage += 1
        if self._garbage >= _GARBAGE_MIN and self._garbage * 2 > len(self._heap):
            self._heap = [item for item in self._heap if item[2].serial == item[1]]
            heapify(self._heap)
            self._garbage = 0

    def _note_stalled(self, entry: _Entry) -> None:
        if not entry.stalled:
            entry.stalled = True
            self._stalled += 1
            self._newly_stalled.append(entry)

    def _allowance(self, now: float) -> int:
        if self._failing >= _OUTAGE_JOBS and now < self._probe_at:
            return 0
        tokens = sys.maxsize if self._bucket is None else self._bucket.whole_tokens(now)
        return min(tokens, 1) if self._failing >= _OUTAGE_JOBS else tokens

    def _spend(self, now: float, polls: int) -> None:
        self._polls += polls
        if self._bucket is not None:
            self._bucket.spend(polls)
        if polls and self._failing >= _OUTAGE_JOBS:
            self._probe_at = now + self.min_interval
