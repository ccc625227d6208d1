"""What a refusal that was not foreseen says against a limit and a burst that are known."""

import math

from crynux_async.pacing.belief import Belief
from crynux_async.pacing.evidence import Evidence, Mark

# Over many creates a little use by others, or a change on the way, looks like a slightly lower limit.
_FEW_CREATES = 4
_SOME_CREATES = 32
_LOST = 0.1  # tokens: a full bucket that lost so much makes the limit that two refusals mean a lower bound


def revised(belief: Belief, evidence: Evidence, mark: Mark, *, overflow: float) -> Belief:
    """Return what to believe of the limit after a refusal that the belief did not foresee, or that was risked."""
    found = evidence.pair(mark)
    if found is not None and found.creates > 1 and belief.burst == 1:
        # A bucket of one was full before the last accept: what has refilled since is exact.
        found = evidence.ceiling(mark)
    if found is None:
        return belief
    if found.limit > belief.limit + found.off:
        return belief.revised(found)
    if found.creates > 1 and overflow >= _LOST:
        return belief
    if abs(found.limit - belief.limit) <= found.off:
        return belief.confirmed(found)
    return belief.revised(found) if not belief.is_certain or found.creates <= _FEW_CREATES else belief


def seen_burst(
    belief: Belief, before: Belief, evidence: Evidence, mark: Mark, hint: int | None
) -> tuple[int, int | None]:
    """Return the burst to believe after such a refusal, and a lower one that it hints at.

    Args:
        belief: What is believed now.
        before: What was believed until then.
        evidence: What was known until then.
        mark: The level that the refusal tells.
        hint: A burst that an earlier refusal hinted at: what is hinted at twice is believed.
    """
    opening, pair = evidence.refused(mark).opening, evidence.pair(mark)
    first = math.nan if opening is None else opening[0] + 1 - belief.rate * opening[1]
    fits = opening is not None and abs(first - round(first)) <= 0.1 + belief.rate * mark.error
    if opening is not None and belief.limit != before.limit and not belief.is_certain:
        # A train that began with a broken number of tokens began with a bucket that was not full.
        burst = max(1, round(first) if fits else max(math.ceil(first), int(belief.limit)))
        return burst if belief.trusted is None else min(burst, belief.burst), None
    seen = max(1, round(first)) if fits and evidence.train else None
    if (
        seen is None
        and pair is not None
        and abs(pair.limit - belief.limit) <= pair.off
        and pair.creates < _SOME_CREATES
    ):
        # The limit is right, nobody else was there, and yet a token was missing: a full bucket had lost it.
        seen = hint or 1
    if seen is None or seen >= belief.burst:
        return belief.burst, hint
    return (seen, None) if seen == hint else (belief.burst, seen)
