"""What a key's bucket at the bridge is taken to be."""

import math

import attrs

from crynux_async.pacing.evidence import Measured

LOWEST_LIMIT = 1.0
"""A limit is a whole number, and a new key has 1."""
# Accepts since the last refusal before a higher limit, or a higher burst, is tried. A failed try costs one token.
_TRY_DISPUTED = 4
_TRY_GUESSED = 16
_TRY_MEASURED = 64
_TRY_CERTAIN_MINUTES = 60  # of creates at the full rate, and each failed try doubles it
_RAISE_BURST = 64
_RAISE_BURST_SELDOM = 4096


@attrs.frozen(kw_only=True)
class Belief:
    """What the bridge's bucket is taken to be.

    Attributes:
        limit: Creates per minute.
        burst: Tokens it holds at most.
        is_guess: Whether it is what a few creates most likely mean, to be guessed anew with the next ones.
        try_after: Undisturbed accepts before a higher limit is tried, or None when the limit was given.
        is_certain: Whether it was given, or measured beyond doubt: a lower one is then most likely others' doing.
        trusted: A higher limit that was certain before two refusals spoke against it, or None.
        usual_burst: The burst before refusals spoke for a lower one, or None.
        raise_after: Undisturbed accepts before the usual burst is believed in again.
    """

    limit: float
    burst: int
    is_guess: bool = False
    try_after: int | None = None
    is_certain: bool = True
    trusted: float | None = None
    usual_burst: int | None = None
    raise_after: int = _RAISE_BURST

    @classmethod
    def guessed(cls, limit: float, burst: int) -> "Belief":
        """Return what a few creates most likely mean."""
        return cls(limit=limit, burst=burst, is_guess=True, is_certain=False, try_after=_TRY_MEASURED)

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.limit / 60

    def revised(self, found: Measured) -> "Belief":
        """Return this with another limit, which two refusals mean."""
        try_after = _TRY_DISPUTED if self.trusted else _TRY_GUESSED if found.whole is None else _TRY_MEASURED
        trusted = self.limit if self.is_certain and found.best < self.limit else self.trusted
        limit = max(LOWEST_LIMIT, found.best)
        return attrs.evolve(self, limit=limit, try_after=try_after, is_certain=False, trusted=trusted)

    def confirmed(self, found: Measured) -> "Belief":
        """Return this after two refusals that mean the same limit."""
        if self.try_after is None:
            return self
        again = attrs.evolve(self, try_after=2 * self.try_after)
        if self.is_certain:
            return again
        is_certain = found.whole is not None and found.off < 0.25
        return attrs.evolve(again, limit=max(LOWEST_LIMIT, found.best)).settled(is_certain=is_certain)

    def surpassed(self, least: float, *, early: bool) -> "Belief":
        """Return this after more creates passed than was thought possible: at least ``least`` a minute.

        Args:
            least: Creates a minute that fit what passed.
            early: Whether the last one was a try. If it was, what was trusted is true after all, or all is open again.
        """
        if self.is_certain and not early:
            return self
        limit = max(self.limit, self.trusted if early and self.trusted else least)
        try_after = _TRY_MEASURED if self.is_certain else self.try_after
        return attrs.evolve(self, limit=limit, is_certain=False, try_after=try_after)

    def settled(self, *, is_certain: bool = True) -> "Belief":
        """Return this as certain, to be tried seldom, if ``is_certain``."""
        if not is_certain:
            return self
        seldom = max(_TRY_MEASURED, math.ceil(_TRY_CERTAIN_MINUTES * self.limit))
        return attrs.evolve(self, try_after=seldom, is_certain=True, trusted=None, is_guess=False)

    def with_lower_burst(self, burst: int) -> "Belief":
        """Return this with a lower burst, which refusals spoke for; the next time it is believed in for longer."""
        usual = max(self.burst, self.usual_burst or 0)
        raise_after = self.raise_after if self.usual_burst is None else min(2 * self.raise_after, _RAISE_BURST_SELDOM)
        return attrs.evolve(self, burst=burst, usual_burst=usual, raise_after=raise_after)

    def with_usual_burst(self, accepted: int) -> "Belief":
        """Return this with the burst that it used to have, after so many undisturbed accepts that it may have it again.

        A burst is seen low when somebody else empties the bucket, and nothing that is sent within it shows a higher one.
        """
        if self.usual_burst is None or self.burst >= self.usual_burst or accepted < self.raise_after:
            return self
        return attrs.evolve(self, burst=self.usual_burst)
