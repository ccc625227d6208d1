"""The last creates of a key whose limit is not known, as the bridge's bucket saw them."""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

import attrs

FULL_AFTER = 60.0
"""Seconds in which a bucket whose burst is its limit fills."""

# Eight creates in flight at a time: so many are at least sixteen round trips, to each of which one half is uncertain.
_LONGEST = 128
_ROUNDING = 0.005  # the bridge writes a wait with two digits
# A create that takes one of several places arrives before or after each of the others.
_ORDER_VARIANCE = 0.16


class Arrival(NamedTuple):
    """One create, when it came to the bridge's bucket.

    Attributes:
        at: When it probably arrived, in seconds.
        spread: Standard deviation of that, in seconds.
        wait: Seconds that a refusal named, or None if it was not refused.
        tokens: How many it took: 1, 0.5 where nobody knows whether it came so far, or more where several that passed
            are taken together.
        overlap: How many others were under way with it, whose order is not known.
        length: Seconds from the first to the last of several, which is the one that came at ``at``.
    """

    at: float
    spread: float
    wait: float | None = None
    tokens: float = 1.0
    overlap: float = 0.0
    length: float = 0.0

    @classmethod
    def between(cls, sent_at: float, answered_at: float, wait: float | None, tokens: float, overlap: int) -> "Arrival":
        """Return a create that arrived at some time between two others, in seconds."""
        trip = max(0.0, answered_at - sent_at)
        spread = math.hypot(trip / math.sqrt(12.0), _ROUNDING)
        return cls(at=sent_at + trip / 2, spread=spread, wait=wait, tokens=tokens, overlap=float(overlap))

    @property
    def zero_at(self) -> float:
        """When the bucket is back at 0 after this refusal, in seconds."""
        assert self.wait is not None
        return self.at + self.wait

    @property
    def order_variance(self) -> float:
        """Variance of the number of creates that came before it."""
        return _ORDER_VARIANCE * self.overlap


class Step(NamedTuple):
    """What a bucket would have been when a create arrived.

    Attributes:
        arrival: The create.
        level: Tokens before it, as if the bucket had no upper end since the one before; for several, before the last
            of them and as if those before it had taken nothing.
        variance: Of the time since the level was last known exactly, in seconds squared.
        is_known: Whether the level was ever known exactly; else it is at most this.
        span: Number of the span since the level was last known: errors within one are the same error.
    """

    arrival: Arrival
    level: float
    variance: float
    is_known: bool
    span: int


@attrs.frozen(kw_only=True)
class Trace:
    """The creates so far, oldest first; bounded, for the older they are the more of them are taken together.

    Attributes:
        arrivals: The creates.
        is_cut: Whether there were more before: then nothing tells that the bucket was full when the first one came.
    """

    arrivals: tuple[Arrival, ...] = ()
    is_cut: bool = False

    def with_arrival(self, arrival: Arrival) -> "Trace":
        """Return this with one more create."""
        index = bisect_right(self.arrivals, arrival.at, key=attrgetter("at"))
        arrivals = (*self.arrivals[:index], arrival, *self.arrivals[index:])
        if len(arrivals) <= _LONGEST:
            return Trace(arrivals=arrivals, is_cut=self.is_cut)
        older = _taken_together(arrivals[: _LONGEST // 2])
        kept = (*older, *arrivals[_LONGEST // 2 :])
        return Trace(arrivals=kept[-_LONGEST:], is_cut=self.is_cut or len(kept) > _LONGEST)

    def with_refusal_of_same_flight(self, arrival: Arrival) -> "Trace":
        """Return this with a refusal of a create that was under way when the last one was refused.

        Which of them came first is not known, but which came last is: it found the bucket emptiest. So that one stands
        for all.
        """
        index = self.refusals[-1] if self.refusals else None
        if index is None:
            return self.with_arrival(arrival)
        last = self.arrivals[index]
        latest = max(last, arrival, key=lambda one: one.zero_at)
        others = attrs.evolve(self, arrivals=(*self.arrivals[:index], *self.arrivals[index + 1 :]))
        return others.with_arrival(latest._replace(tokens=last.tokens + arrival.tokens))

    @property
    def refusals(self) -> list[int]:
        """Indices of the creates that were refused."""
        return [index for index, arrival in enumerate(self.arrivals) if arrival.wait is not None]

    def runs_before(self, index: int) -> Iterator[tuple[Arrival, float]]:
        """Yield the creates between a refused one and the refusal before it, latest first.

        With each comes how many tokens were taken from it to the refused one, both included.
        """
        tokens = self.arrivals[index].tokens
        for arrival in reversed(self.arrivals[:index]):
            if arrival.wait is not None:
                return
            tokens += arrival.tokens
            yield arrival, tokens

    def least_limit(self, now: float) -> float:
        """Return the lowest limit per minute with a burst of the same number that lets pass what was not refused."""
        least = tokens = 0.0
        for arrival in reversed(self.arrivals):
            if arrival.wait is not None:
                return max(least, 60 * tokens / max(now - arrival.zero_at, FULL_AFTER))
            tokens += arrival.tokens
            least = max(least, 60 * tokens / (FULL_AFTER + max(0.0, now - arrival.at)))
        return least

    def walk(self, rate: float, burst: float) -> Iterator[Step]:
        """Yield what a bucket of this rate (tokens a second) and burst, full at first, was at every create."""
        level, then, anchor, maybe, is_known, span = float(burst), -math.inf, 0.0, 0.0, False, 0
        for arrival in self.arrivals:
            if then > -math.inf:
                level += rate * (arrival.at - arrival.length - then)
            if arrival.length:
                level = min(level, burst) + rate * arrival.length
            then = arrival.at
            order = (arrival.order_variance + maybe) / (rate * rate)
            yield Step(arrival, level, arrival.spread**2 + anchor + order, is_known, span)
            most = burst + arrival.tokens - 1.0  # before the last of several there were at most ``burst``
            if arrival.wait is None and arrival.tokens <= level < most:
                level -= arrival.tokens
                maybe += max(arrival.tokens * (1.0 - arrival.tokens), 0.0)
                continue
            # Here the level is known, to within when this was: full before it, just enough for it, or what it says.
            level = -rate * arrival.wait if arrival.wait is not None else max(min(level, most) - arrival.tokens, 0.0)
            anchor, maybe = arrival.spread**2, arrival.order_variance
            is_known = is_known or arrival.wait is not None
            span += 1

    def level(self, now: float, rate: float, burst: int) -> float:
        """Return the tokens at ``now`` in a bucket of this rate (tokens a second) and burst."""
        last = next(iter(deque(self.walk(rate, burst), maxlen=1)), None)
        if last is None:
            return float(burst)
        wait = last.arrival.wait
        most = burst + last.arrival.tokens - 1.0
        level = -rate * wait if wait is not None else min(last.level, most) - last.arrival.tokens
        return min(float(burst), level + rate * max(0.0, now - last.arrival.at))


def _taken_together(arrivals: Sequence[Arrival]) -> list[Arrival]:
    """Return creates with neighbours that passed soon after each other as one, but for the first."""
    usual_gap = (arrivals[-1].at - arrivals[0].at) / len(arrivals)
    kept = list(arrivals[:1])
    is_pair = True
    for arrival in arrivals[1:]:
        last = kept[-1]
        is_pair = is_pair or arrival.wait is not None or last.wait is not None or arrival.at - last.at > usual_gap
        if is_pair:
            kept.append(arrival)
        else:
            length = last.length + arrival.at - last.at
            kept[-1] = arrival._replace(tokens=last.tokens + arrival.tokens, length=length)
        is_pair = not is_pair
    return kept
