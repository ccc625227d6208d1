"""What an answer says for or against the limit and the burst that are believed in. Plain functions on snapshots.

``heard_accept`` and ``heard_refusal`` are told the state that the answer met, and return the state that it leaves; the
level after a refusal is the bucket's own affair. Four things can be known of a limit, and each hears a refusal in its
own way:

- nothing, one create at a time: ``evidence.learned`` tells the limit;
- nothing, several at a time: which came first is open, so only a long run tells it, and what it tells is a guess;
- a limit that was learned to within round trips (``_BLURRED``): what is believed becomes what would have passed;
- a limit that was learned exactly, or given: ``evidence.revised`` weighs it against others who use the key.
"""

import math

import attrs

from crynux_async.pacing.bucket_snapshot import BucketSnapshot, InFlight
from crynux_async.pacing.evidence import CLOSE, FULL_AFTER, SELDOMER, Belief, Evidence, learned, learned_wide, revised
from crynux_async.pacing.spacing import Moment
from crynux_async.values import Value, evolved

SURE = 0.1
"""Tokens less than one at which a create can only pass if the limit is higher."""
_BLURRED = 0.2  # tokens refilled in the time that nobody knows: with more a refusal tells no limit exactly
_NARROW = 256  # creates that go one at a time again after one too many was under way
_SOON = 8  # accepts: a refusal sooner after the last one speaks against the burst, a later one against the limit
_LONG_RUN = 90.0  # seconds, of which a minute filled the bucket: after less a burst of one looks like a low limit
PATIENCE_TRIPS = 4.0
"""After so many round trips an answer that does not come holds no other create up any more."""
_RAISE = 1.1  # small enough that a burst of a minute's tokens lasts for ten
_RAISE_AGAIN = 64
_FASTER = 1.5  # times as fast after being weighed, at most
_SOON_PAIRED = 2  # creates: a refusal so soon after two were in flight for the first time is their doing
_WEIGHED_EVERY = 8  # accepts, after which the seconds between two tokens are weighed anew


@attrs.frozen(kw_only=True)
class Refusal(Value):
    """A create that the rate limiter refused.

    Attributes:
        create: The create.
        is_news: Whether it was sent after the last refusal was known.
        answered_at: When its answer came, in seconds.
        wait: Seconds that it named.
        zero_at: When the bucket is about back at 0, in seconds.
        error: How far that may be off, in seconds.
        evidence: What was known until then, with the creates that were sent before it and are not answered yet.
        every_trip: What every round trip takes, in seconds.
    """

    create: InFlight
    is_news: bool
    answered_at: float
    wait: float
    zero_at: float
    error: float
    evidence: Evidence
    every_trip: float

    @property
    def moment(self) -> Moment:
        """When the bucket is back at 0, certainly."""
        return Moment.between(self.create.sent_at, self.answered_at, self.wait, self.every_trip)


def heard_accept(before: BucketSnapshot, create: InFlight, at: float, arrived: float) -> BucketSnapshot:
    """Return a state after a create was accepted whose answer came ``at``, and which arrived about at ``arrived``."""
    moment = Moment.between(create.sent_at, at, shortest_trip=before.every_trip)
    after = evolved(
        before,
        level=before.level - 1,
        blind=0,
        in_a_row=0,
        evidence=before.evidence.passed(arrived, accepted=True),
        zero=None if before.in_flight else moment,
    )
    if before.zero is not None and not before.in_flight:
        after = attrs.evolve(after, spacing=before.spacing.with_accept(before.zero.until(moment)))
    if after.belief is None:
        return after
    if _is_spaced(before, (at - create.sent_at + (before.round_trip or 0.0)) / 2):
        return _respaced(after) if create.early or after.evidence.accepted % _WEIGHED_EVERY == 0 else after
    # What was under way with a refused create tells of the level before it.
    if after.belief.try_after is not None and before.is_after_refusal(create):
        after = _encouraged(before, after, create, at, arrived)
    assert after.belief is not None
    rested = after.belief.rested(after.evidence.accepted)
    return after if rested is after.belief else attrs.evolve(after, belief=rested)


def _encouraged(
    before: BucketSnapshot, after: BucketSnapshot, create: InFlight, at: float, arrived: float
) -> BucketSnapshot:
    belief, trip = after.belief, at - create.sent_at
    assert belief is not None
    # It may have been on its way for so long that it came when there was a token, and the one before it at once; and a
    # create that timed out may have left its token to this one.
    tokens = before.level + before.lag(at) + belief.rate * trip + before.evidence.unsure
    is_proof = create.early and tokens < 1 - SURE
    if is_proof:
        after = _found_higher(before, after, belief, arrived)
    elif create.early:
        after = _found_nothing(after, belief)
    assert after.belief is not None
    least = after.evidence.least(at + trip / 2, coupled=False)
    return attrs.evolve(after, belief=after.allowed(after.belief.surpassed(least, early=is_proof)))


def _found_higher(before: BucketSnapshot, after: BucketSnapshot, belief: Belief, arrived: float) -> BucketSnapshot:
    """Learn anew, one create at a time, unless what was trusted before explains why a try has passed."""
    if belief.is_certain:
        after = attrs.evolve(after, evidence=before.evidence.renewed(arrived, belief.burst))
    if belief.trusted is not None:
        return after
    return attrs.evolve(after, learning=True, narrow_until=before.evidence.count + 1 + _NARROW)


def _found_nothing(after: BucketSnapshot, belief: Belief) -> BucketSnapshot:
    """Let a try that passed, and proves nothing, speak for a limit a little higher, until that is refused."""
    assert belief.try_after is not None
    if belief.is_certain:
        return attrs.evolve(after, belief=attrs.evolve(belief, try_after=SELDOMER * belief.try_after))
    belief = attrs.evolve(belief, try_after=after.evidence.accepted + _RAISE_AGAIN)
    if after.raised_from is not None:  # what it was raised to has stood for as long
        return attrs.evolve(after, belief=belief, raised_from=None)
    return attrs.evolve(after, belief=attrs.evolve(belief, limit=_RAISE * belief.limit), raised_from=belief.limit)


def heard_refusal(before: BucketSnapshot, refusal: Refusal) -> BucketSnapshot:
    """Return a state after a refusal; without a belief nothing is known yet."""
    after = before
    if before.zero is not None and not before.in_flight:
        after = attrs.evolve(before, spacing=before.spacing.with_refusal(before.zero.until(refusal.moment)))
    if before.learning:
        after = _learned(after, refusal)
    elif refusal.is_news and not refusal.create.early and before.is_wide_guess and before.evidence.accepted < _SOON:
        # Several at a time hid a small burst.
        after = attrs.evolve(after, belief=None, narrow_until=before.evidence.count + _NARROW)
    elif refusal.is_news:
        after = _disputed(after, refusal)
    refused = refusal.evidence.refused(refusal.zero_at)
    return attrs.evolve(
        after,
        belief=None if after.belief is None else after.allowed(after.belief),
        learning=after.belief is None,
        is_wide_guess=after.is_wide_guess and after.belief is not None,
        raised_from=None,
        evidence=attrs.evolve(refused, count=before.evidence.count + 1),
        zero=None if before.in_flight else refusal.moment,
    )


def _learned(before: BucketSnapshot, refusal: Refusal) -> BucketSnapshot:
    if not before.in_flight:
        belief = learned(refusal.evidence, refusal.zero_at, refusal.error)
        return attrs.evolve(before, belief=belief or before.belief, is_wide_guess=False)
    # One that has hung for long did not overlap this one; all that is open is whether it took a token.
    patience = PATIENCE_TRIPS * (before.round_trip or 0.0)
    is_overlapped = any(other.sent_at > refusal.create.sent_at - patience for other in before.in_flight)
    is_new_pair = before.paired_at is not None and before.evidence.count - before.paired_at <= _SOON_PAIRED
    if is_overlapped and is_new_pair:
        # So long as they went one at a time none was refused: the bucket holds one token.
        trip = refusal.answered_at - refusal.create.sent_at
        belief = Belief.measured(60 / (refusal.wait + trip / 2), 1, is_certain=False)
        return attrs.evolve(before, belief=belief, is_wide_guess=False)
    least_span = _LONG_RUN if is_overlapped else FULL_AFTER
    overlap = len(before.in_flight)
    belief = learned_wide(
        refusal.evidence,
        refusal.zero_at,
        refusal.error,
        overlap=overlap,
        least_span=least_span,
        refusals=before.refusals + overlap,
    )
    narrow_until = before.narrow_until if belief else before.evidence.count + _NARROW
    return attrs.evolve(before, belief=belief, is_wide_guess=True, narrow_until=narrow_until)


def _disputed(before: BucketSnapshot, refusal: Refusal) -> BucketSnapshot:
    """Return what to believe after a refusal that the belief did not foresee, or that was risked by a try."""
    used, is_early = before.belief, refusal.create.early
    assert used is not None
    seldomer = SELDOMER * (used.try_after or 0)
    if before.raised_from is not None and not is_early:
        return attrs.evolve(before, belief=attrs.evolve(used, limit=before.raised_from, try_after=seldomer))
    if _is_spaced(before, refusal.error):
        return _respaced(before, is_refused=True)
    args = refusal.evidence, refusal.zero_at, refusal.error
    belief = before.allowed(revised(used, *args, overflow=before.overflow))
    burst, hint = _seen_burst(belief, before, refusal)
    lessons = before.lessons
    if before.given_limit is None and not is_early and belief.rate * refusal.error > _BLURRED:
        lessons += 1
        belief, burst = _cautious(belief, burst, before, refusal, lessons)
        if belief.limit > (1 - CLOSE) * used.limit:  # it was all but right, and needs no trying now
            belief = attrs.evolve(belief, try_after=max(belief.try_after or 0, used.try_after or 0))
    is_seen_low = burst < belief.burst and (belief.is_certain or belief.trusted is not None)
    belief = belief.with_lower_burst(burst) if is_seen_low else attrs.evolve(belief, burst=burst)
    if is_early and belief.try_after is not None:
        # A try that was refused after many creates says that no higher limit is true; where others' creates had spoken
        # against a limit that was certain, it only says that they are still there.
        seldom = belief.seldom_tried().try_after if belief.trusted is None else None
        belief = attrs.evolve(belief, try_after=max(belief.try_after, seldomer, seldom or 0))
    return attrs.evolve(before, belief=belief, burst_hint=hint, lessons=lessons)


def _respaced(before: BucketSnapshot, *, is_refused: bool = False) -> BucketSnapshot:
    """Return a state whose belief is what all creates tell of the seconds between two tokens."""
    assert before.belief is not None
    seconds = before.spacing.seconds(before.round_trip or 0.0, before.refusals)
    used = before.belief.limit
    limit = min(60 / seconds, used if is_refused else _FASTER * used)
    belief = attrs.evolve(before.belief, limit=limit).seldom_tried()
    return attrs.evolve(
        before, belief=attrs.evolve(belief, try_after=before.evidence.accepted + (belief.try_after or 0))
    )


def _is_spaced(before: BucketSnapshot, error: float) -> bool:
    """Return whether a burst of one and long round trips make the seconds between two tokens all that can be told."""
    belief = before.belief
    if belief is None or before.given_limit is not None or before.zero is None or before.in_flight:
        return False
    is_one = belief.burst == 1 and not before.spacing.holds_more
    return is_one and not belief.is_certain and belief.rate * error > _BLURRED


def _cautious(belief: Belief, burst: int, before: BucketSnapshot, refusal: Refusal, lessons: int) -> tuple[Belief, int]:
    """Return a belief with which a refusal that tells no limit exactly would not have come."""
    used, accepted = before.belief, refusal.evidence.accepted
    assert used is not None
    trip = refusal.answered_at - refusal.create.sent_at
    missing = (refusal.wait + trip / 4) / (1 if used.burst == 1 else 1 + accepted)
    limit = min(belief.limit, 60 / (60 / used.limit + missing))
    # A few that passed at first say little of the burst where they were long under way; mostly a limit of 1 was raised.
    is_small = used.burst < _SOON and used.limit >= 2 * used.burst and not before.spacing.holds_more
    # With the right burst a limit that is a little too high is refused after many creates.
    if is_small or (lessons >= 2 and accepted < _SOON):
        burst = min(burst, _least_burst(used, refusal))
    return attrs.evolve(belief, limit=limit, is_certain=False), burst


def _least_burst(used: Belief, refusal: Refusal) -> int:
    """Return how many tokens a bucket of this limit holds at least, or the train before would have been refused."""
    if refusal.evidence.opening is None:
        return 1
    creates, seconds = refusal.evidence.opening
    return max(1, math.floor(creates + 1 - used.rate * (seconds + refusal.error)))


def _seen_burst(belief: Belief, before: BucketSnapshot, refusal: Refusal) -> tuple[int, int | None]:
    """Return the burst to believe after a refusal that was not foreseen, and a lower one that it hints at."""
    zero_at, error, evidence = refusal.zero_at, refusal.error, refusal.evidence
    opening, pair = evidence.refused(zero_at).opening, evidence.pair(zero_at, error)
    old_limit = None if before.belief is None else before.belief.limit
    first = math.nan if opening is None else opening[0] + 1 - belief.rate * opening[1]
    fits = opening is not None and abs(first - round(first)) <= 0.1 + belief.rate * error
    if opening is not None and belief.limit != old_limit and not belief.is_certain and evidence.held is None:
        # A train that began with a broken number of tokens began with a bucket that was not full.
        burst = max(1, round(first) if fits else max(math.ceil(first), int(belief.limit)))
        return burst if belief.trusted is None else min(burst, belief.burst), None
    hint = max(1, round(first)) if fits and evidence.train else None
    is_blurred = belief.rate * error > _BLURRED
    is_right = pair is not None and abs(pair.limit - belief.limit) <= pair.off and pair.creates < 32
    if hint is None and is_right and not is_blurred:
        # The limit is right, nobody else was there, and yet a token was missing: a full bucket had lost it.
        hint = before.burst_hint or 1
    if hint is None or hint >= belief.burst:
        return belief.burst, before.burst_hint
    return (hint, None) if hint == before.burst_hint else (belief.burst, hint)
