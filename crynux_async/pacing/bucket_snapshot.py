"""Everything that is known of a key's bucket, as a value: what processes that share the key pass to each other."""

import attrs

from crynux_async.pacing.belief import Belief
from crynux_async.pacing.evidence import Evidence
from crynux_async.pacing.trace import Trace


@attrs.frozen(kw_only=True)
class InFlight:
    """A create without an answer.

    Attributes:
        ticket: Its number.
        sent_at: When it was sent, in seconds.
        early: Whether it was sent before the level allowed it, to try a higher limit.
        owner: Who sent it, or "".
        overlap: How many others were in flight when it was sent.
    """

    ticket: int
    sent_at: float
    early: bool
    owner: str = ""
    overlap: int = 0


@attrs.frozen(kw_only=True)
class BucketSnapshot:
    """Everything a TokenBucket knows.

    Attributes:
        at: When this was true, in seconds of the caller's clock.
        level: Tokens then, those in flight not taken off; negative in debt; without meaning while ``belief`` is None.
        belief: Limit and burst, or None while they are unknown.
        learning: Whether creates go without regard to a level until one is refused.
        lessons: Refusals since the limit was last unknown.
        held_burst: The burst, where it is known from before a change of the limit; or None.
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
        burst_hint: A burst below the one believed that the last refusal hinted at, or None.
        evidence: What the answers say about a limit that is known.
        trace: The last creates, while the limit is not known.
    """

    at: float
    level: float = 0.0
    belief: Belief | None = None
    learning: bool = True
    lessons: int = 0
    held_burst: int | None = None
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
    burst_hint: int | None = None
    evidence: Evidence = attrs.field(factory=Evidence)
    trace: Trace = attrs.field(factory=Trace)
