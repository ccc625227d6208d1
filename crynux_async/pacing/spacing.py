"""How far apart the creates of a key must be whose bucket holds one token, judged where round trips are long.

Such a bucket is at 0 when a create has passed, and again when the wait of a refusal is over. So a refusal tells the
seconds between two tokens: from the one moment to the other. When a create arrived is known to lie between its sending
and its answer, no better, so each refusal gives a least and a most, and what lies in the middle is likelier. A create
that passes tells as well: the seconds are at most those since the one before, which is little where one create was
seen, and much after a hundred. Limits are whole numbers, and each of them explains what was seen more or less well:
``Spacing.seconds`` weighs them all. It errs on the slow side while that costs little of the pace, and where it would
cost more it risks a refusal, ever less the more there were.
"""

import math
from collections.abc import Iterator

import attrs

from crynux_async.values import Value

_KEPT = 8
_ROUNDING = 0.005  # the bridge writes a wait with two digits
_ALIKE = 0.05  # two gaps whose least differ by less than this part of the most count as alike
_HIGHEST = 3000  # creates per minute
_STEP = 1.01  # above a hundred a minute not every whole limit is weighed
_SURE = 0.997
_CHEAP = 1.04  # times as long between two creates as is likely: that much is given for being sure
# That the seconds are more than those kept, after one refusal, after two, and so on: a thousand creates cost a handful.
_RISKS = (0.7, 0.5, 0.3, 0.1, 0.03)
_TOO_SOON = 3  # creates that passed sooner than a refusal allows: fewer are a limit that was changed, or chance
_IMPOSSIBLE = 1e-6  # what is left of a limit that cannot be: another one may be true since


@attrs.frozen(kw_only=True)
class Moment(Value):
    """When a bucket was at 0: between ``least`` and ``most``, in seconds."""

    least: float
    most: float

    @classmethod
    def between(cls, sent_at: float, answered_at: float, wait: float = 0.0, shortest_trip: float = 0.0) -> "Moment":
        """Return what one create tells, which passed or was refused for ``wait`` seconds.

        What every round trip takes is half the way out and half the way back, or shifts all moments alike.
        """
        idle, rounding = min(shortest_trip, answered_at - sent_at) / 2, _ROUNDING if wait else 0.0
        return cls(least=sent_at + idle + wait - rounding, most=answered_at - idle + wait + rounding)

    def until(self, later: "Moment") -> "Gap":
        """Return the seconds from this moment to a later one."""
        sharpness = abs((self.most - self.least) - (later.most - later.least))
        return Gap(least=later.least - self.most, most=later.most - self.least, flat=sharpness)


@attrs.frozen(kw_only=True)
class Gap(Value):
    """The seconds between two moments: between ``least`` and ``most``, likeliest in the ``flat`` ones in the middle.

    Attributes:
        least: Seconds, may be negative.
        most: Seconds.
        flat: How many seconds in the middle are equally likely.
        creates: How many gaps this is the mean of.
    """

    least: float
    most: float
    flat: float
    creates: int = 1

    def density(self, seconds: float) -> float:
        """Return how likely the gap is so many seconds, per second."""
        half, slope = (self.most - self.least + self.flat) / 2, max(1e-3, (self.most - self.least - self.flat) / 2)
        return max(0.0, min(1.0, (seconds - self.least) / slope, (self.most - seconds) / slope)) / max(half, 1e-3)

    def at_least(self, seconds: float) -> float:
        """Return how likely the gap is that long, 0 to 1."""
        slope = max(1e-3, (self.most - self.least - self.flat) / 2)
        into, left = seconds - self.least, self.most - seconds
        if into <= 0 or left <= 0:
            return float(into <= 0)
        area = slope + self.flat
        if into < slope:
            return 1 - into**2 / (2 * slope * area)
        if left < slope:
            return left**2 / (2 * slope * area)
        return (left - slope / 2) / area

    def with_another(self, gap: "Gap") -> "Gap | None":
        """Return the mean of this and one more, or None if they are not alike."""
        if abs(self.least - gap.least) > _ALIKE * max(self.most - self.least, self.most):
            return None
        part = 1 / (self.creates + 1)
        return Gap(
            least=self.least + part * (gap.least - self.least),
            most=self.most + part * (gap.most - self.most),
            flat=self.flat + part * (gap.flat - self.flat),
            creates=self.creates + 1,
        )


@attrs.frozen(kw_only=True)
class Spacing(Value):
    """The seconds between two tokens as the last creates tell them.

    Attributes:
        refused: What refusals told, oldest first.
        passed: What creates told that passed, alike ones together.
        holds_more: Whether creates passed too soon after each other for a bucket of one token.
    """

    refused: tuple[Gap, ...] = ()
    passed: tuple[Gap, ...] = ()
    holds_more: bool = False

    def with_refusal(self, seconds: Gap) -> "Spacing":
        """Return this with one more refusal; what it contradicts is of a limit that was changed since, and dropped."""
        kept: list[Gap] = [seconds]
        for one in reversed(self.refused):
            if one.least > min(other.most for other in kept) or one.most < max(other.least for other in kept):
                break
            kept.insert(0, one)
        passed = tuple(gap for gap in self.passed if gap.most >= seconds.least)
        too_soon = sum(gap.creates for gap in self.passed if gap.most < seconds.least)
        return Spacing(refused=tuple(kept[-_KEPT:]), passed=passed, holds_more=too_soon >= _TOO_SOON or self.holds_more)

    def with_accept(self, seconds: Gap) -> "Spacing":
        """Return this with one more create that passed."""
        refused = tuple(gap for gap in self.refused if gap.least <= seconds.most)
        for place, gap in enumerate(self.passed):
            if (together := gap.with_another(seconds)) is not None:
                passed = (*self.passed[:place], *self.passed[place + 1 :], together)
                return attrs.evolve(self, refused=refused, passed=passed)
        return attrs.evolve(self, refused=refused, passed=(*self.passed, seconds)[-_KEPT:])

    def seconds(self, trip: float, refusals: int) -> float:
        """Return what to keep from the answer to one create to the next.

        Args:
            trip: Seconds that a round trip takes, which pass between two creates in any case.
            refusals: Creates refused so far.
        """
        weighed = [(60 / limit, self._weight(limit)) for limit in _limits()]
        whole = sum(weight for _, weight in weighed)

        def enough(part: float) -> float:
            """Return the seconds that are enough with this probability."""
            left = (1 - part) * whole
            for seconds, weight in weighed:  # slowest first
                left -= weight
                if left < 0:
                    return seconds
            return weighed[-1][0]

        sure, likely = enough(_SURE), enough(0.5)
        if sure + trip <= _CHEAP * (likely + trip):
            return sure
        return min(sure, enough(1 - _RISKS[min(max(0, refusals - 1), len(_RISKS) - 1)]))

    def _weight(self, limit: int) -> float:
        seconds = 60 / limit
        weight = 1 / limit if limit <= 100 else _STEP - 1
        for gap in self.refused:
            weight *= gap.density(seconds) + _IMPOSSIBLE
        return weight * math.prod((gap.at_least(seconds) + _IMPOSSIBLE) ** gap.creates for gap in self.passed)


def _limits() -> Iterator[int]:
    limit = 1
    while limit <= _HIGHEST:
        yield limit
        limit = max(limit + 1, round(limit * _STEP))
