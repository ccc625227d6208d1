"""When the jobs of one kind end: a completion hazard per age, learned from the polls themselves.

Theory of operation
-------------------
A poll that says "running" proves that the job lived through the time since the poll before it; a poll that says "ended"
proves that it ended somewhere in that time. Both go into age bins that grow by 4 %: a running answer adds its
job-seconds of *exposure*; an end adds one *event*, divided among the bins of its interval in proportion to how likely
an end in each of them is by what is known so far, and the exposure that goes with it (one step of expectation
maximisation; an even division would blur a sharp window of ends by the length of the polls).

Events over exposure is the hazard ``lambda`` (ends per second among the jobs that got that far). One bin alone is
noisy, so it is drawn towards its neighbourhood with the weight of half an event, and the neighbourhood towards a job
that lasts ``hint`` seconds with the weight of a fiftieth ::

    nearby = (sum of events + 0.02) / (sum of exposure + 0.02 hint)     over three bins to either side
    lambda = (events + 0.5) / (exposure + 0.5 / nearby)

Polled at intervals ``tau``, a job costs ``1/tau`` polls a second and hides its end for ``tau/2`` on average. The best
trade at any price is ``tau = sqrt(2 c / lambda)``, the interval at which the hidden delay to be expected reaches ``c``
seconds; for a hazard that changes within the interval that is the smallest ``tau`` with ::

    integral from 0 to tau of lambda(age + s) (tau - s) ds  >=  c

With H the integral of lambda and K the integral of H, the left side is ``K(age + tau) - K(age) - tau H(age)``. As
lambda is a step function, H and K are one table each, and the answer is a binary search and a square root.

Source: Barlow, Hunter, Proschan, "Optimum checking procedures", J. SIAM 11(4), 1963; Keller, "Optimum checking
schedules for systems subject to random failure", Management Science 21(3), 1974.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import attrs

_RATIO = 1.04
_FIRST_EDGE = 10.0
_LONGEST = 90 * 86_400.0
_BINS = 1 + math.ceil(math.log(_LONGEST / _FIRST_EDGE, _RATIO))
# Bin b holds the ages [_EDGES[b], _EDGES[b + 1]); the last one has no upper edge.
_EDGES = (0.0, *(_FIRST_EDGE * _RATIO**b for b in range(_BINS - 1)))
_WIDTHS = (*(high - low for low, high in pairwise(_EDGES)), 0.0)

_HINT_WEIGHT = 0.02
_NEARBY_WEIGHT = 0.5
_NEARBY_BINS = 3
_TOLERANCE = 0.02
_MEMORY_EVENTS = 4096.0
_VERSION = 1


@attrs.frozen(kw_only=True)
class HazardSnapshot:
    """What was learned about one kind of job, as a value that can be stored.

    Attributes:
        version: Meaning of the bin numbers; 1 is bins that grow by 4 % from a first edge at 10 s.
        bins: One (bin number, events >= 0, exposure in job-seconds >= 0) per bin that is not empty, in ascending order.
    """

    version: int = _VERSION
    bins: tuple[tuple[int, float, float], ...] = ()

    def to_json(self) -> list[Any]:
        """Return the snapshot as a compact JSON value, numbers rounded to 6 digits."""
        return [self.version, [[b, _rounded(events), _rounded(exposure)] for b, events, exposure in self.bins]]

    @classmethod
    def from_json(cls, value: Any) -> "HazardSnapshot":
        """Read what to_json() gave.

        Raises:
            ValueError: The value is not such a snapshot, or one of another version.
        """
        try:
            version, rows = value
            bins = tuple((int(b), float(events), float(exposure)) for b, events, exposure in rows)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError("not a snapshot of a completion hazard") from error
        if version != _VERSION:
            raise ValueError(f"snapshot of a completion hazard has version {version!r}, expected {_VERSION}")
        if not all(
            0 <= b < _BINS and 0 <= events < math.inf and 0 <= exposure < math.inf for b, events, exposure in bins
        ):
            raise ValueError("snapshot of a completion hazard has a number out of range")
        return cls(version=version, bins=bins)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _bin_of(age: float) -> int:
    return bisect_right(_EDGES, age) - 1


def _windows(values: Sequence[float]) -> list[float]:
    """Return the sum of each value and its neighbours."""
    sums = list(accumulate(values, initial=0.0))
    upper = sums[_NEARBY_BINS + 1 :] + [sums[-1]] * min(_NEARBY_BINS, len(values))
    lower = [0.0] * _NEARBY_BINS + sums
    return [max(high - low, 0.0) for high, low in zip(upper, lower, strict=False)]


class Hazard:
    """The completion hazard of one kind of job: learns from polls, tells when the next one is worth it.

    Memory is bounded and the past fades: when 4096 events have come together all counts are halved, so a kind that has
    become faster or slower is learned anew.

    Args:
        hint: How long such a job may take, in seconds, > 0. It only matters for ages at which little has been seen.

    Attributes:
        hint: As given.
        changed: True when something was learned since the last snapshot().
    """

    __slots__ = (
        "_areas",
        "_crossed",
        "_cumulated",
        "_events",
        "_exposure",
        "_new_events",
        "_new_exposure",
        "_rates",
        "_total_events",
        "_total_exposure",
        "changed",
        "hint",
    )

    def __init__(self, hint: float = 1200.0) -> None:
        if not 0.0 < hint < math.inf:
            raise ValueError(f"hint must be a positive number of seconds, not {hint!r}")
        self.hint = hint
        self.changed = False
        self._events = array("d")
        self._exposure = array("d")
        # Jobs seen to cross a bin as a whole are counted at the first and after the last bin of the crossing, so that
        # an answer costs the same however many bins lie between two polls; _tabulate() settles it.
        self._crossed = array("d")
        self._new_events = self._new_exposure = 0.0
        self._total_events = self._total_exposure = 0.0
        self._rates = array("d")
        self._cumulated = array("d")
        self._areas = array("d")
        self._tabulate()

    def __repr__(self) -> str:
        events, exposure = self.totals
        return f"<Hazard: {events:.6g} ends in {exposure:.6g} job-seconds, hint {self.hint:g} s>"

    @property
    def totals(self) -> tuple[float, float]:
        """Everything learned and not faded: events, and exposure in job-seconds."""
        return self._total_events + self._new_events, self._total_exposure + self._new_exposure

    def observe_running(self, seen: float, age: float) -> None:
        """Learn that a job known to be running at one age still was at a later one.

        Args:
            seen: Age in seconds, >= 0, up to which it has been counted already.
            age: Age in seconds; an age not above ``seen`` teaches nothing.
        """
        if age <= seen:
            return
        first, last = _bin_of(seen), _bin_of(age)
        self._reserve(last)
        self._new_exposure += age - seen
        self.changed = True
        if first == last:
            self._exposure[first] += age - seen
            return
        self._exposure[first] += _EDGES[first + 1] - seen
        self._exposure[last] += age - _EDGES[last]
        self._crossed[first + 1] += 1.0
        self._crossed[last] -= 1.0

    def observe_end(self, seen: float, age: float) -> None:
        """Learn that a job known to be running at one age had ended at a later one.

        Args:
            seen: Age in seconds, >= 0, up to which it has been counted already.
            age: Age in seconds at which the end was noticed; one below ``seen`` counts as equal.
        """
        age = max(age, seen)
        self._refresh()
        first, last = _bin_of(seen), _bin_of(age)
        self._reserve(last)
        passed = self._passed(seen)
        chance = max(-math.expm1(passed - self._passed(age)), 1e-12)
        start, gone, lived = seen, 0.0, 0.0
        for b, end in enumerate((*_EDGES[first + 1 : last + 1], age), first):
            by_then = 1.0 if end == age else min(max(-math.expm1(passed - self._passed(end)) / chance, gone), 1.0)
            exposure = (end - start) * (1.0 - (gone + by_then) / 2.0)
            self._events[b] += by_then - gone
            self._exposure[b] += exposure
            start, gone, lived = end, by_then, lived + exposure
        self._new_events += 1.0
        self._new_exposure += lived
        self.changed = True

    def rate_at(self, age: float) -> float:
        """Return the hazard in ends per second and job at an age in seconds."""
        self._refresh()
        return self._rates[min(_bin_of(age), len(self._rates) - 1)]

    def next_delay(self, age: float, target_delay: float, min_interval: float = 0.0) -> float:
        """Return after how many seconds a poll is worth it.

        Args:
            age: Age of the job in seconds, >= 0, at which it was running.
            target_delay: How long an end may be hidden, in expectation, before it is looked for; seconds, > 0.
            min_interval: Smallest answer in seconds.
        """
        self._refresh()
        rates, cumulated, areas = self._rates, self._cumulated, self._areas
        last = len(rates) - 1
        low = min(_bin_of(age), last)
        into = age - _EDGES[low]
        passed = cumulated[low] + rates[low] * into
        goal = target_delay + areas[low] + into * (cumulated[low] + rates[low] * into / 2.0) - age * passed
        here = low
        # The last edge at which less than the target is hidden; hidden delay grows with the age, so bisect.
        while low < last:
            middle = (low + last + 1) // 2
            if areas[middle] - _EDGES[middle] * passed < goal:
                low = middle
            else:
                last = middle - 1
        if low == here:
            return max(math.sqrt(2.0 * target_delay / rates[low]), min_interval)
        edge = _EDGES[low]
        left = goal - (areas[low] - edge * passed)
        slope = cumulated[low] - passed
        # left = slope x + rate x^2 / 2, in the form that does not cancel.
        beyond = 2.0 * left / (slope + math.sqrt(slope * slope + 2.0 * rates[low] * left))
        return max(edge - age + beyond, min_interval)

    def snapshot(self) -> HazardSnapshot:
        """Return all that was learned as a value to store."""
        self._tabulate()
        rows = zip(self._events, self._exposure, strict=True)
        self.changed = False
        bins = tuple((b, ev, ex) for b, (ev, ex) in enumerate(rows) if ev > 0.0 or ex > 0.0)
        return HazardSnapshot(bins=bins)

    def restore(self, snapshot: HazardSnapshot) -> None:
        """Add what an earlier process learned.

        Raises:
            ValueError: The snapshot has another version.
        """
        if snapshot.version != _VERSION:
            raise ValueError(f"snapshot has version {snapshot.version}, expected {_VERSION}")
        for b, events, exposure in snapshot.bins:
            self._reserve(b)
            self._events[b] += events
            self._exposure[b] += exposure
        self._tabulate()

    def _refresh(self) -> None:
        # Rebuilding costs far more than an answer. It is done when the news could matter: after every answer while
        # little is known, and once in many when much is known.
        if self._new_events > _TOLERANCE * self._total_events or self._new_exposure > _TOLERANCE * self._total_exposure:
            self._tabulate()

    def _passed(self, age: float) -> float:
        """Return the integral of the hazard from 0 to an age."""
        b = min(_bin_of(age), len(self._rates) - 1)
        return self._cumulated[b] + self._rates[b] * (age - _EDGES[b])

    def _reserve(self, last: int) -> None:
        missing = last + 1 - len(self._events)
        if missing > 0:
            for values in (self._events, self._exposure, self._crossed):
                values.extend([0.0] * missing)

    def _settle(self) -> None:
        crossings = accumulate(self._crossed)
        settled = (e + n * w for e, n, w in zip(self._exposure, crossings, _WIDTHS, strict=False))
        self._exposure = array("d", settled)
        while self._exposure and self._exposure[-1] == self._events[-1] == 0.0:
            self._exposure.pop()
            self._events.pop()
        self._crossed = array("d", bytes(8 * len(self._exposure)))
        if sum(self._events) > _MEMORY_EVENTS:
            self._events = array("d", (value / 2.0 for value in self._events))
            self._exposure = array("d", (value / 2.0 for value in self._exposure))

    def _tabulate(self) -> None:
        self._settle()
        self._total_events = sum(self._events)
        self._total_exposure = sum(self._exposure)
        self._new_events = self._new_exposure = 0.0
        rates = self._smoothed_rates()
        widths = _WIDTHS[: len(rates) - 1]
        cumulated = list(accumulate((r * w for r, w in zip(rates, widths, strict=False)), initial=0.0))
        areas = ((h + r * w / 2.0) * w for h, r, w in zip(cumulated, rates, widths, strict=False))
        self._areas = array("d", accumulate(areas, initial=0.0))
        self._rates = array("d", rates)
        self._cumulated = array("d", cumulated)

    def _smoothed_rates(self) -> list[float]:
        nearby = zip(_windows(self._events), _windows(self._exposure), strict=True)
        weight = _HINT_WEIGHT * self.hint
        rates = [
            (ev + _NEARBY_WEIGHT) / (ex + _NEARBY_WEIGHT * (near_ex + weight) / (near_ev + _HINT_WEIGHT))
            for ev, ex, (near_ev, near_ex) in zip(self._events, self._exposure, nearby, strict=True)
        ]
        if len(rates) < _BINS:
            # One bin for all ages that nobody has reached.
            rates.append(1.0 / self.hint)
        return rates
