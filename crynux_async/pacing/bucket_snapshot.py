"""Everything that is known of a key's bucket, as a value: what processes that share the key pass to each other."""

import math

import attrs

from crynux_async.pacing.evidence import Belief, Evidence
from crynux_async.pacing.spacing import Moment, Spacing
from crynux_async.values import Value

SLOWER = 1 - 2e-4  # the clocks of two machines run up to 200 millionths apart

_FEW_TRIPS = 4


@attrs.frozen(kw_only=True)
class InFlight(Value):
    """A create without an answer.

    Attributes:
        ticket: Its number.
        sent_at: When it was sent, in seconds.
        early: Whether it was sent before the level allowed it, to try a higher limit.
        owner: Who sent it, or "".
    """

    ticket: int
    sent_at: float
    early: bool
    owner: str = ""


@attrs.frozen(kw_only=True, slots=False)  # for ``evolved``: a create makes four
class BucketSnapshot(Value):
    """Everything a TokenBucket knows.

    Attributes:
        at: When this was true, in seconds of the caller's clock.
        level: Tokens then, those in flight not taken off; negative in debt; without meaning while ``belief`` is None.
        belief: Limit and burst, or None while they are unknown.
        learning: Whether creates go without regard to a level until one is refused.
        narrow_until: Creates charged until when only one is in flight at a time while learning.
        paired_at: Creates charged until two were in flight for the first time while learning, or None.
        is_wide_guess: Whether the limit was learned while several were in flight.
        raised_from: The limit before it was raised without proof, or None.
        given_limit: The limit per minute that the user named, or None; never exceeded.
        given_burst: The burst that the user named, or None.
        max_in_flight: Creates in flight at once, or None for as many as the rate can use.
        hold_until: No create before, in seconds; or None.
        in_flight: Creates without an answer.
        next_ticket: Number of the next create.
        refusals: Creates refused so far.
        refused_at: When the last refusal came, in seconds; or None.
        in_a_row: Refusals in a row, each of a create sent after the one before.
        blind: Refusals in a row that named no wait, or none above zero.
        overflow: Tokens that a full bucket lost since the last refusal.
        round_trip: Smoothed seconds from a create to its answer, or None before the first.
        shortest_trip: The shortest round trip so far, in seconds, or None before the first.
        trips: Round trips so far.
        burst_hint: A burst below the one believed that the last refusal hinted at, or None.
        lessons: Refusals that were not foreseen and told no limit exactly.
        zero: When the bucket, if it holds one token, was empty after the last create; None where others overlapped it.
        spacing: What creates told of the seconds between two tokens.
        evidence: What the answers say about limit and burst.
    """

    at: float
    level: float = 0.0
    belief: Belief | None = None
    learning: bool = True
    narrow_until: int = 0
    paired_at: int | None = None
    is_wide_guess: bool = False
    raised_from: float | None = None
    given_limit: float | None = None
    given_burst: int | None = None
    max_in_flight: int | None = None
    hold_until: float | None = None
    in_flight: tuple[InFlight, ...] = ()
    next_ticket: int = 1
    refusals: int = 0
    refused_at: float | None = None
    in_a_row: int = 0
    blind: int = 0
    overflow: float = 0.0
    round_trip: float | None = None
    shortest_trip: float | None = None
    trips: int = 0
    burst_hint: int | None = None
    lessons: int = 0
    zero: Moment | None = None
    spacing: Spacing = attrs.field(factory=Spacing)
    evidence: Evidence = attrs.field(factory=Evidence)

    @property
    def is_usable(self) -> bool:
        """Whether its numbers can be counted with, wherever it was stored."""
        sent = (create.sent_at for create in self.in_flight)
        times = (self.at, self.level, self.hold_until or 0.0, self.round_trip or 0.0, self.refused_at or 0.0, *sent)
        belief = self.belief
        # What knows no limit learns one.
        is_believed = self.learning if belief is None else 0 < belief.limit < math.inf and belief.burst >= 1
        return is_believed and all(map(math.isfinite, times))

    def level_at(self, at: float, most: float | None = None) -> float:
        """Return the tokens at a time, those in flight not taken off; ``most`` in place of the burst."""
        if self.belief is None:
            return self.level
        level = self.level + self.belief.rate * SLOWER * max(0.0, at - self.at)
        return min(self.belief.burst if most is None else most, level)

    def lag(self, at: float) -> float:
        """Return how far the level has probably fallen behind since it was last known exactly, because it is slower."""
        belief, refusal = self.belief, self.evidence.refusal
        if belief is None or refusal is None:
            return 0.0
        return belief.rate * (1 - SLOWER) * max(0.0, at - refusal.zero_at)

    @property
    def every_trip(self) -> float:
        """What every round trip takes, in seconds, as far as the few at first can tell."""
        return (self.shortest_trip or 0.0) * self.trips / (self.trips + _FEW_TRIPS)

    def allowed(self, belief: Belief) -> Belief:
        """Return a belief within what was given, or beyond doubt before."""
        belief = attrs.evolve(belief, burst=self.given_burst or belief.burst)
        most = self.given_limit if belief.trusted is None else belief.trusted
        if most is None or belief.limit < most:
            return belief
        if most == self.given_limit:
            return attrs.evolve(belief, limit=most, try_after=None, is_certain=True, trusted=None)
        return attrs.evolve(belief, limit=most).settled()

    def is_after_refusal(self, create: InFlight) -> bool:
        """Return whether a create was sent after the last refusal was known: it tells something new."""
        return create.sent_at > (-math.inf if self.refused_at is None else self.refused_at)
