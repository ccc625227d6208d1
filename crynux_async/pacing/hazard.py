"""When the jobs of one kind end: hazards of completion and of failure per age, learned from the polls themselves.

Theory of operation
-------------------
A poll that says "running" proves that the job lived through the time since the poll before it; a poll that says "ended"
proves that it ended somewhere in that time. Both go into age bins that grow by 4 %: a running answer adds its
job-seconds of *exposure*; an end adds one *event*, divided among the bins of its interval in proportion to how likely
such an end in each of them is by what is known so far, and the exposure that goes with it (one step of expectation
maximisation; an even division would blur a sharp window of ends by the length of the polls).

Jobs end well or fail, and these are two causes with a hazard each over one exposure: a data set that nobody can read
fails after a minute whatever the training would take, and if its failure counted as a completion it would be put where
completions are expected. Events over exposure is a hazard ``lambda`` (ends per second among the jobs that got that
far). One bin alone is noisy, so it is drawn towards its neighbourhood with the weight of half an event, and the
neighbourhood towards what is assumed at first, an end after ``hint`` seconds on average, with the weight of a fiftieth;
a tenth of that is the part of failures ::

    nearby = (sum of events + 0.02 part) / (sum of exposure + 0.02 hint)     over three bins to either side
    lambda = (events + 0.5) / (exposure + 0.5 / nearby)

Polled at intervals ``tau``, a job costs ``1/tau`` polls a second and hides its end for ``tau/2`` on average. The best
trade at any price is ``tau = sqrt(2 c / lambda)``, lambda the sum of both causes: the interval at which the hidden
delay to be expected reaches ``c`` seconds; for a hazard that changes within the interval that is the smallest ``tau``
with ::

    integral from 0 to tau of lambda(age + s) (tau - s) ds  >=  c

With H the integral of lambda and K the integral of H, the left side is ``K(age + tau) - K(age) - tau H(age)``. As
lambda is a step function, H and K are one table each, and the answer is a binary search and a square root.

The past fades: of very many events only the weight is kept that a thousand have, and when the ends show that the kind
has changed (crynux_async.pacing.drift) that of a few, so that it is learned anew from where it was.

Source: Barlow, Hunter, Proschan, "Optimum checking procedures", J. SIAM 11(4), 1963; Keller, "Optimum checking
schedules for systems subject to random failure", Management Science 21(3), 1974; for two causes over one exposure,
Prentice et al., "The analysis of failure times in the presence of competing risks", Biometrics 34(4), 1978.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from crynux_async.pacing.age_bins import BINS, EDGES, LONGEST, WIDTHS, BinCounts, HazardSnapshot, bin_of, nearby_sums
from crynux_async.pacing.drift import Drift

_HINT_WEIGHT = 0.02
_NEARBY_WEIGHT = 0.5
_FAILING_PART = 0.1
_TOLERANCE = 0.02
_MEMORY_EVENTS = 1024.0
# What is kept of a kind that has changed; a change is looked for where twice as much is known.
_CHANGED_EVENTS = 24.0
# Ends per second: more than that no poll can make use of, and damaged counts must not overflow.
_FASTEST = 10.0


class Hazard:
    """When jobs of one kind end: learns from polls, tells when the next one is worth it.

    Args:
        hint: How long such a job may take, in seconds, > 0. It only matters for ages at which little has been seen.

    Attributes:
        hint: As given.
        changed: True when something was learned since the last snapshot().
    """

    __slots__ = (
        "_areas",
        "_completed",
        "_completing_drift",
        "_crossed",
        "_cumulated",
        "_exposure",
        "_failed",
        "_failing",
        "_failing_cumulated",
        "_failing_drift",
        "_is_watched",
        "_new_events",
        "_new_exposure",
        "_rates",
        "_total_events",
        "_total_exposure",
        "_usual_lateness",
        "changed",
        "hint",
    )

    def __init__(self, hint: float = 1200.0) -> None:
        if not 0.0 < hint < math.inf:
            raise ValueError(f"hint must be a positive number of seconds, not {hint!r}")
        self.hint = hint
        self.changed = False
        self._completed = array("d")
        self._failed = array("d")
        self._exposure = array("d")
        # Jobs seen to cross a bin as a whole are counted at the first and after the last bin of the crossing, so that
        # an answer costs the same however many bins lie between two polls; _tabulate() settles it.
        self._crossed = array("d")
        # Apart: failures that come in addition leave the number of ends much as it was.
        self._completing_drift, self._failing_drift = Drift(), Drift()
        self._new_events = self._new_exposure = 0.0
        self._total_events = self._total_exposure = 0.0
        self._rates = array("d")
        self._failing = array("d")
        self._cumulated = array("d")
        self._failing_cumulated = array("d")
        self._areas = array("d")
        self._usual_lateness: float | None = None
        self._tabulate()

    def __repr__(self) -> str:
        events, exposure = self.totals
        return f"<Hazard: {events:.6g} ends in {exposure:.6g} job-seconds, hint {self.hint:g} s>"

    @property
    def totals(self) -> tuple[float, float]:
        """Everything learned and not faded: events of both causes, and exposure in job-seconds."""
        return self._total_events + self._new_events, self._total_exposure + self._new_exposure

    @property
    def usual_lateness(self) -> float:
        """How late ends are noticed on average where polls are planned at a price of 1 s, in seconds.

        At the price c it is the root of c times that: polls are ``sqrt(2 c / lambda)`` apart, and hide an end for half
        of it.
        """
        self._refresh()
        if self._usual_lateness is None:
            lived = [*(math.exp(-passed) for passed in self._cumulated), 0.0]
            parts = zip(lived, lived[1:], self._rates, strict=False)
            self._usual_lateness = sum((before - after) / math.sqrt(2.0 * rate) for before, after, rate in parts)
        return self._usual_lateness

    def observe_running(self, seen: float, age: float) -> None:
        """Learn that a job known to be running at one age still was at a later one.

        Args:
            seen: Age in seconds, >= 0, up to which it has been counted already.
            age: Age in seconds; an age not above ``seen`` teaches nothing.
        """
        if not 0.0 <= seen < age <= LONGEST:
            seen, age = _within_bins(seen), _within_bins(age)
            if age <= seen:
                return
        first, last = bin_of(seen), bin_of(age)
        if last >= len(self._exposure):
            self._reserve(last)
        self._new_exposure += age - seen
        self.changed = True
        if first == last:
            self._exposure[first] += age - seen
        else:
            self._exposure[first] += EDGES[first + 1] - seen
            self._exposure[last] += age - EDGES[last]
            self._crossed[first + 1] += 1.0
            self._crossed[last] -= 1.0
        if self._is_watched:
            completing, failing = self._passed_between(seen, age)
            # No "or" here and below: both have to hear of it.
            if self._completing_drift.lived(completing) | self._failing_drift.lived(failing):
                self._forget()

    def observe_end(self, seen: float, age: float, *, failed: bool = False) -> None:
        """Learn that a job known to be running at one age had ended at a later one.

        Args:
            seen: Age in seconds, >= 0, up to which it has been counted already.
            age: Age in seconds at which the end was noticed; one below ``seen`` counts as equal.
            failed: Whether it failed; else it ended well.
        """
        seen = _within_bins(seen)
        age = max(_within_bins(age), seen)
        self._refresh()
        self._reserve(bin_of(age))
        events = self._failed if failed else self._completed
        shares = list(self._shares(seen, age, failed=failed))
        whole, gone, lived = sum(mass for _, _, mass in shares), 0.0, 0.0
        for b, seconds, mass in shares:
            # Without any mass the end cannot have been there; it counts where it was noticed.
            part = mass / whole if whole > 0.0 else float(b == shares[-1][0])
            exposure = seconds * max(1.0 - gone - part / 2.0, 0.0)
            events[b] += part
            self._exposure[b] += exposure
            gone, lived = gone + part, lived + exposure
        self._new_events += 1.0
        self._new_exposure += lived
        self.changed = True
        if self._is_watched and self._shows_change(seen, age, failed=failed):
            self._forget()

    def rate_at(self, age: float) -> float:
        """Return the hazard of both causes in ends per second and job at an age in seconds."""
        self._refresh()
        return self._rates[min(bin_of(age), len(self._rates) - 1)]

    def failing_at(self, age: float) -> float:
        """Return the hazard of failure alone in failures per second and job at an age in seconds."""
        self._refresh()
        return self._failing[min(bin_of(age), len(self._failing) - 1)]

    def age_by(self, part: float) -> float:
        """Return by which age, in seconds, a part of all jobs has ended.

        Args:
            part: 0 < part < 1.
        """
        self._refresh()
        goal = -math.log1p(-part)  # of the integral of the hazard: what is left of jobs is exp(-integral)
        b = bisect_right(self._cumulated, goal) - 1
        return EDGES[b] + (goal - self._cumulated[b]) / self._rates[b]

    def next_delay(self, age: float, target_delay: float, min_interval: float = 0.0) -> float:
        """Return after how many seconds a poll is worth it.

        Args:
            age: Age of the job in seconds, >= 0, at which it was running.
            target_delay: How long an end may be hidden, in expectation, before it is looked for; seconds, > 0.
            min_interval: Smallest answer in seconds.
        """
        self._refresh()
        if not 0.0 <= age <= LONGEST:
            age = _within_bins(age)
        rates, cumulated, areas = self._rates, self._cumulated, self._areas
        last = len(rates) - 1
        low = min(bin_of(age), last)
        into = age - EDGES[low]
        passed = cumulated[low] + rates[low] * into
        goal = target_delay + areas[low] + into * (cumulated[low] + rates[low] * into / 2.0) - age * passed
        here = low
        # The last edge at which less than the target is hidden; hidden delay grows with the age, so bisect.
        while low < last:
            middle = (low + last + 1) // 2
            if areas[middle] - EDGES[middle] * passed < goal:
                low = middle
            else:
                last = middle - 1
        if low == here:
            return max(math.sqrt(2.0 * target_delay / rates[low]), min_interval)
        edge = EDGES[low]
        # Both are >= 0 but for the rounding of large sums.
        left = max(goal - (areas[low] - edge * passed), 0.0)
        slope = max(cumulated[low] - passed, 0.0)
        # left = slope x + rate x^2 / 2, in the form that does not cancel.
        divisor = slope + math.sqrt(slope * slope + 2.0 * rates[low] * left)
        beyond = 2.0 * left / divisor if divisor > 0.0 else 0.0
        return max(edge - age + beyond, min_interval)

    def snapshot(self) -> HazardSnapshot:
        """Return all that was learned as a value to store."""
        self._tabulate()
        self.changed = False
        rows = enumerate(zip(self._completed, self._failed, self._exposure, strict=True))
        return HazardSnapshot(bins=tuple(BinCounts.of(b, *counts) for b, counts in rows if any(counts)))

    def restore(self, snapshot: HazardSnapshot) -> None:
        """Add what an earlier process learned."""
        for one in snapshot.bins:
            self._reserve(one.number)
            self._completed[one.number] += one.completed
            self._failed[one.number] += one.failed
            self._exposure[one.number] += one.exposure
        self._tabulate()

    def _refresh(self) -> None:
        # Rebuilding costs far more than an answer. It is done when the news could matter: after every answer while
        # little is known, and once in many when much is known.
        if self._new_events > _TOLERANCE * self._total_events or self._new_exposure > _TOLERANCE * self._total_exposure:
            self._tabulate()

    def _passed(self, age: float) -> float:
        """Return the integral of the hazard from 0 to an age."""
        b = min(bin_of(age), len(self._rates) - 1)
        return self._cumulated[b] + self._rates[b] * (age - EDGES[b])

    def _passed_between(self, seen: float, age: float) -> tuple[float, float]:
        """Return the integrals of the hazards of completion and of failure from one age to another."""
        top = len(self._rates) - 1
        low, high = min(bin_of(seen), top), min(bin_of(age), top)
        before, after = seen - EDGES[low], age - EDGES[high]
        whole = self._cumulated[high] - self._cumulated[low] + self._rates[high] * after - self._rates[low] * before
        failing = self._failing_cumulated[high] - self._failing_cumulated[low]
        failing += self._failing[high] * after - self._failing[low] * before
        return max(whole - failing, 0.0), max(failing, 0.0)

    def _shares(self, seen: float, age: float, *, failed: bool) -> Iterator[tuple[int, float, float]]:
        """Yield for each bin between two ages its number, its seconds, and how likely an end of a cause is in it."""
        first, last, here = bin_of(seen), bin_of(age), self._passed(seen)
        start, survived, top = seen, 1.0, len(self._rates) - 1
        for b in range(first, last + 1):
            end = age if b == last else EDGES[b + 1]
            rate, failing = self._rates[min(b, top)], self._failing[min(b, top)]
            surviving = math.exp(here - self._passed(end))
            cause = failing if failed else rate - failing
            yield b, end - start, max(cause / rate * (survived - surviving), 0.0)
            start, survived = end, surviving

    def _shows_change(self, seen: float, age: float, *, failed: bool) -> bool:
        completing, failing = self._passed_between(seen, age)
        if failed:
            return self._completing_drift.lived(completing) | self._failing_drift.ended(failing)
        return self._completing_drift.ended(completing) | self._failing_drift.lived(failing)

    def _forget(self) -> None:
        """Let most of the past go: the ends are no longer where they were."""
        self._settle()
        self._fade(_CHANGED_EVENTS)
        self._tabulate()

    def _reserve(self, last: int) -> None:
        missing = last + 1 - len(self._exposure)
        if missing > 0:
            for values in (self._completed, self._failed, self._exposure, self._crossed):
                values.extend([0.0] * missing)

    def _settle(self) -> None:
        crossings = accumulate(self._crossed)
        settled = (e + n * w for e, n, w in zip(self._exposure, crossings, WIDTHS, strict=False))
        self._exposure = array("d", settled)
        while self._exposure and self._exposure[-1] == self._completed[-1] == self._failed[-1] == 0.0:
            for values in (self._completed, self._failed, self._exposure):
                values.pop()
        self._crossed = array("d", bytes(8 * len(self._exposure)))

    def _fade(self, events: float) -> None:
        """Keep the weight of so many events, and exposure in proportion."""
        part = events / (sum(self._completed) + sum(self._failed))
        self._completed = array("d", (value * part for value in self._completed))
        self._failed = array("d", (value * part for value in self._failed))
        self._exposure = array("d", (value * part for value in self._exposure))

    def _tabulate(self) -> None:
        self._settle()
        if sum(self._completed) + sum(self._failed) > _MEMORY_EVENTS:
            self._fade(_MEMORY_EVENTS / 2.0)
        self._total_events = sum(self._completed) + sum(self._failed)
        self._total_exposure = sum(self._exposure)
        # Whether enough is known to tell that the kind has changed.
        self._is_watched = self._total_events >= 2.0 * _CHANGED_EVENTS
        self._new_events = self._new_exposure = 0.0
        self._usual_lateness = None
        completing = self._smoothed_rates(self._completed, 1.0 - _FAILING_PART)
        failing = self._smoothed_rates(self._failed, _FAILING_PART)
        rates = [a + b for a, b in zip(completing, failing, strict=True)]
        widths = WIDTHS[: len(rates) - 1]
        cumulated = list(accumulate((r * w for r, w in zip(rates, widths, strict=False)), initial=0.0))
        areas = ((h + r * w / 2.0) * w for h, r, w in zip(cumulated, rates, widths, strict=False))
        self._areas = array("d", accumulate(areas, initial=0.0))
        self._rates = array("d", rates)
        self._failing = array("d", failing)
        self._cumulated = array("d", cumulated)
        failing_passed = (r * w for r, w in zip(failing, widths, strict=False))
        self._failing_cumulated = array("d", accumulate(failing_passed, initial=0.0))

    def _smoothed_rates(self, events: Sequence[float], part: float) -> list[float]:
        """Return the hazard of one cause by bin; ``part`` of all ends are of it where nothing is known."""
        nearby = zip(nearby_sums(events), nearby_sums(self._exposure), strict=True)
        hint = min(max(self.hint, 1.0 / _FASTEST), LONGEST)
        weight, assumed = _HINT_WEIGHT * hint, _HINT_WEIGHT * part
        rates = [
            min((ev + _NEARBY_WEIGHT) / (ex + _NEARBY_WEIGHT * (near_ex + weight) / (near_ev + assumed)), _FASTEST)
            for ev, ex, (near_ev, near_ex) in zip(events, self._exposure, nearby, strict=True)
        ]
        if len(rates) < BINS:
            # One bin for all ages that nobody has reached.
            rates.append(part / hint)
        return rates


def _within_bins(age: float) -> float:
    """Return an age within what the bins hold; one that is no number counts as 0."""
    return min(max(0.0, age), LONGEST)
