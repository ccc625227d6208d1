"""What limit and burst a key has, judged by the creates that passed and those that were refused.

Theory of operation
-------------------
A *guess* is a limit and a burst. It is judged by walking a bucket of these through the creates of a trace. When a
create arrived is known to within its round trip, so the level that it met is known to within ``rate * spread``: a
normal distribution. A create that passed must have met one token, which has the probability that the level was above 1.
A refused one tells the level exactly, so the guess is judged by the density at what it predicted. Of the creates that
passed since the level was last known only the one counts that passed most narrowly, for they share the error of that
level. No event counts against a guess by more than ``e^-10``, for any token may have been taken by somebody else. A
first refusal may also mean that the bucket was not full to begin with.

Before anything is seen a burst that is the limit is the most likely, as the bridge makes them; then a burst of 1, which
a new key has until an admin raises its limit; limits are whole numbers, small ones as likely as large ones on a log
scale.

*Which guesses.* Likelihoods are too sharp for a grid. But each refusal has few guesses that predict it exactly. Let n
be the tokens taken since an earlier create and S the seconds from that create to the end of the wait. Since the refusal
before, which left an empty bucket, ``rate = n / S``. Since a full bucket, ``rate = (n - burst) / S`` for the create
that makes it the largest; where burst and limit are one number that is ``n / (60 + S)``. These limits for the last
refusals, whole numbers within three standard deviations around them, and for each of these the bursts that the trains
of creates speak for, are what is judged. What is left of the uncertainty is the spread of the weights.

*Which one to use.* Guesses are ordered by how fast they would let creates go, and the one is taken below which so large
a part of the weight lies as the caller is bold: a little where much is at stake, for too slow costs little where too
fast costs a refusal; much where next to nothing is known, for a refusal tells much.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import attrs

from crynux_async.pacing.trace import FULL_AFTER, Arrival, Trace

_WORST = -10.0
_BOLDEST = 0.85
_EXPLAINED = 3.0  # standard deviations
_NOT_FULL = math.log(0.05)
_REFUSALS = 3  # the last ones give guesses; all are judged
_STEPS = 6
_SLOWEST = 0.02
_COARSE_RATIO = 1.5
_COARSE_STEPS = 18
_BROKEN = 0.01  # the bridge has whole limits
_COUPLED = 0.6
_BURST_OF_ONE = 0.2
_ANY_BURST = 0.05


@attrs.frozen
class Guess:
    """A limit per minute and a burst, and how likely they are: a weight, or its logarithm before all are known."""

    limit: float
    burst: int
    weight: float

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.limit / 60

    def speed(self, round_trip: float) -> float:
        """Return how many creates a minute it lets go when each takes ``round_trip`` seconds."""
        if self.burst == 1:
            return 60 / (60 / self.limit + round_trip)  # each waits for the answer to the one before
        return min(self.limit, 60 * self.burst / max(round_trip, 1e-3))


def guesses(trace: Trace, burst: int | None = None, usual_burst: int | None = None) -> list[Guess]:
    """Return what a trace may mean, each with its part of the weight, or nothing where it says nothing.

    Args:
        trace: The creates.
        burst: The burst where that is known, or None.
        usual_burst: What the burst most likely is, if not the limit; or None.
    """
    limits: dict[float, float] = {}
    for limit, step in _limits(trace):
        limits[limit] = max(limits.get(limit, 0.0), step)
    judged = [
        Guess(
            limit,
            size,
            math.log(prior * step / limit * (1.0 if limit >= 1.0 else _BROKEN)) + likelihood(trace, limit, size),
        )
        for limit, step in limits.items()
        for size, prior in ({burst: 1.0} if burst else _bursts(trace, limit, usual_burst)).items()
    ]
    most = max((guess.weight for guess in judged), default=0.0)
    weights = [math.exp(guess.weight - most) for guess in judged]
    whole = sum(weights)
    return [Guess(guess.limit, guess.burst, weight / whole) for guess, weight in zip(judged, weights, strict=True)]


def choose(found: Sequence[Guess], boldness: float, round_trip: float) -> Guess:
    """Return the guess below which a part of the weight lies, by the speed that it allows.

    Too fast costs as many refusals as are in flight, so the more that would be the less bold it is.

    Args:
        found: The guesses, at least one.
        boldness: That part, 0 to 1.
        round_trip: Seconds from a create to its answer.
    """
    below = 0.0
    chosen = None
    for guess in sorted(found, key=lambda guess: (guess.speed(round_trip), guess.limit, guess.burst)):
        in_flight = guess.speed(round_trip) / 60 * round_trip
        if chosen is None or below < min(boldness, _BOLDEST**in_flight):
            chosen = guess
        below += guess.weight
    assert chosen is not None
    return chosen


def likeliest(found: Sequence[Guess]) -> Guess:
    """Return the guess with the most weight."""
    return max(found, key=lambda guess: guess.weight)


def explains(trace: Trace, guess: Guess) -> bool:
    """Return whether the last refusal is what a guess predicts, to within the error of its time."""
    rate, index = guess.limit / 60, trace.refusals[-1]
    arrival, level, variance, _, _ = next(islice(trace.walk(rate, guess.burst), index, None))
    off = (level - arrival.tokens) / rate + trace.arrivals[index].zero_at - arrival.at
    return abs(off) <= _EXPLAINED * math.sqrt(variance)


def likelihood(trace: Trace, limit: float, burst: int) -> float:
    """Return the logarithm of how likely a trace is with this limit per minute and burst."""
    rate = limit / 60
    # Any other level is as likely as the next, and takes so many seconds to fill.
    not_full = -math.log(burst / rate) + (0.0 if trace.is_cut else _NOT_FULL)
    total = tightest = 0.0
    current = 0
    for arrival, level, variance, is_known, span in trace.walk(rate, burst):
        if span != current:
            total, tightest, current = total + tightest, 0.0, span
        above = (level - arrival.tokens) / rate  # seconds since there were enough tokens
        if arrival.wait is not None:
            off = above + arrival.wait
            found = -0.5 * off * off / variance - 0.5 * math.log(2 * math.pi * variance)
            total += max(found, _WORST if is_known or off < 0 else not_full)
        elif arrival.tokens >= 1.0 and above < 4 * math.sqrt(variance):
            tightest = min(tightest, _log_probability_below(above / math.sqrt(variance)))
    return total + tightest


def _log_probability_below(deviations: float) -> float:
    """Return the log of the part of a normal distribution below so many standard deviations."""
    part = 0.5 * math.erfc(-deviations / math.sqrt(2))
    return max(math.log(part), _WORST) if part > 0 else _WORST


def _limits(trace: Trace) -> Iterator[tuple[float, float]]:
    """Yield the limits per minute that may be, each with its distance to the next."""
    fits = [fit for index in trace.refusals[-_REFUSALS:] for fit in _fits(trace, index)]
    for rate, error in fits:
        step = max(1.0, 60 * error / 2)
        for k in range(-_STEPS, _STEPS + 1):
            limit = 60 * rate + k * step
            if limit > _SLOWEST:
                yield (float(round(limit)) if limit >= 0.75 else limit), min(step, limit / 2)
    if fits:  # where round trips are long no refusal tells much: any limit may be
        for k in range(_COARSE_STEPS):
            limit = _COARSE_RATIO**k
            yield float(round(limit)), 1.0


def _fits(trace: Trace, index: int) -> Iterator[tuple[float, float]]:
    """Yield the rates that predict a refusal exactly, in tokens a second, each with its standard deviation."""
    refusal = trace.arrivals[index]
    before = max((i for i in trace.refusals if i < index), default=None)
    since_empty: list[tuple[float, float, Arrival]] = []
    if before is not None:
        tokens = sum(arrival.tokens for arrival in trace.arrivals[before + 1 : index + 1])
        since_empty = [(tokens, refusal.zero_at - trace.arrivals[before].zero_at, trace.arrivals[before])]
        yield from _steepest(since_empty, refusal)
    runs = [
        (tokens, refusal.zero_at - arrival.at + arrival.length, arrival) for arrival, tokens in trace.runs_before(index)
    ]
    yield from _steepest([*since_empty, *((n, FULL_AFTER + seconds, since) for n, seconds, since in runs)], refusal)
    for burst in (1, 2, 3):
        yield from _steepest([*since_empty, *((n - burst, seconds, since) for n, seconds, since in runs)], refusal)


def _steepest(spans: Sequence[tuple[float, float, Arrival]], refusal: Arrival) -> Iterator[tuple[float, float]]:
    """Yield the largest of some rates and its standard deviation; each is tokens in so many seconds since a create."""
    # A span no longer than the error of its ends says nothing.
    rising = [
        (n / (seconds + error), n / seconds, error / seconds)
        for n, seconds, since in spans
        if n > 0 and seconds > (error := math.hypot(since.spread, refusal.spread))
    ]
    if rising:
        _, rate, error = max(rising)
        yield rate, rate * error


def _bursts(trace: Trace, limit: float, usual: int | None) -> dict[int, float]:
    """Return the bursts that may go with a limit per minute, each with how likely it is before anything is seen."""
    rate = limit / 60
    found = {2, 3, max(1, math.ceil(_longest_train(trace, rate) - 0.3))}
    for index in trace.refusals[-_REFUSALS:]:
        runs = ((n, trace.arrivals[index].zero_at - since.at + since.length) for since, n in trace.runs_before(index))
        opening = max((n - rate * seconds for n, seconds in runs), default=0.0)
        if trace.is_cut and index == trace.refusals[0]:
            continue
        if opening >= 0.5:
            found.add(round(opening))
    bursts = {**{burst: _ANY_BURST / burst for burst in found}, 1: _BURST_OF_ONE}
    return {**bursts, max(1, int(limit)): _COUPLED} if usual is None else {**bursts, usual: _COUPLED}


def _longest_train(trace: Trace, rate: float) -> float:
    """Return the lowest burst that lets every train of creates pass that was not refused."""
    longest = train = 1.0
    last: Arrival | None = None
    for arrival in trace.arrivals:
        if arrival.wait is not None or last is None:
            train = 1.0
        else:
            train = max(arrival.tokens - rate * arrival.length, train - rate * (arrival.at - last.at) + arrival.tokens)
        last = None if arrival.wait is not None else arrival
        longest = max(longest, train)
    return longest
