"""What refusals say against a limit that is known: given by the user, or measured beyond doubt.

Plain values and functions. The formulas and what they rest on stand at the top of ``crynux_async.pacing.token_bucket``.
"""

import math

import attrs


@attrs.frozen(kw_only=True)
class Measured:
    """A limit that was measured: ``creates`` tokens were refilled in ``span`` seconds, > 0, give or take ``error``."""

    creates: int
    span: float
    error: float

    @property
    def limit(self) -> float:
        """Creates per minute."""
        return 60 * self.creates / self.span

    @property
    def off(self) -> float:
        """How far ``limit`` may be off, in creates per minute."""
        return self.limit * self.error / self.span

    @property
    def whole(self) -> int | None:
        """The whole limit that this means, or None when there is none within the error."""
        low, high = max(1, math.ceil(self.limit - self.off)), math.floor(self.limit + self.off)
        if low >= high:
            return low if low == high else None
        # Errors are mostly far below their bound, and too slow costs little where too fast costs a refusal.
        return max(low, math.floor(self.limit + self.off / 3))

    @property
    def best(self) -> float:
        """The whole limit if there is one, else the lowest within the error, in creates per minute."""
        return self.limit - self.off if self.whole is None else self.whole


@attrs.frozen(kw_only=True)
class Mark:
    """A level that is known: after create ``count`` it is as if empty at ``zero_at``, give or take ``error`` seconds."""

    zero_at: float
    count: int
    error: float = 0.0


@attrs.frozen(kw_only=True)
class Evidence:
    """What the answers so far say about limit and burst; bounded, however many there were.

    Attributes:
        count: Creates charged so far.
        refusal: The last refusal.
        accepted: Creates accepted since that refusal.
        train: Creates not refused since the bucket was last thought to be full, or None if it was not lately.
        train_at: When the first of them arrived, in seconds.
        last_at: When the last create that was not refused arrived, or None when none did since the last refusal.
        last_error: By how much that may be off, in seconds.
        opening: Of the last train that a refusal ended: how many were not refused, and seconds from its first to the
            end of the wait. The bucket held ``creates + 1 - rate * seconds`` when it began.
    """

    count: int = 0
    refusal: Mark | None = None
    accepted: int = 0
    train: int | None = None
    train_at: float = 0.0
    last_at: float | None = None
    last_error: float = 0.0
    opening: tuple[int, float] | None = None

    def passed(self, at: float, error: float, *, accepted: bool) -> "Evidence":
        """Return this with one more create, not refused, that arrived at ``at``, give or take ``error`` seconds."""
        return attrs.evolve(
            self,
            count=self.count + 1,
            accepted=self.accepted + accepted,
            train=None if self.train is None else self.train + 1,
            train_at=at if self.train == 0 else self.train_at,
            last_at=at,
            last_error=error,
        )

    def ahead(self, creates: int) -> "Evidence":
        """Return this with so many more creates that were sent before the one refused, and are not answered yet."""
        train = None if self.train is None else self.train + creates
        return attrs.evolve(self, count=self.count + creates, train=train)

    def refused(self, mark: Mark) -> "Evidence":
        """Return what is left after a refusal: the level is known, and how it came about matters no more."""
        # An answer that was overtaken by a later create's tells of an earlier state.
        latest = mark if self.refusal is None or mark.zero_at > self.refusal.zero_at else self.refusal
        refusal = attrs.evolve(latest, count=self.count + 1)
        opening = (self.train, mark.zero_at - self.train_at) if self.train else self.opening
        return Evidence(count=refusal.count, refusal=refusal, opening=opening)

    def pair(self, mark: Mark) -> Measured | None:
        """Return the limit that this refusal and the last one mean; a lower bound if others used the key."""
        if self.refusal is None or (span := mark.zero_at - self.refusal.zero_at) <= mark.error + self.refusal.error:
            return None
        # A hundredth is left for arrivals far from the middle of their round trips.
        error = max(mark.error + self.refusal.error, 0.01 * span)
        return Measured(creates=self.count + 1 - self.refusal.count, span=span, error=error)

    def ceiling(self, mark: Mark) -> Measured | None:
        """Return the highest limit that fits: the last create that was not refused left at least 0."""
        if self.last_at is None or (span := mark.zero_at - self.last_at) <= 0:
            return None
        return Measured(creates=1, span=span, error=mark.error + self.last_error)

    def least(self, now: float) -> float:
        """Return the lowest limit per minute that fits the creates since the last refusal, >= 0."""
        if self.refusal is None or now <= self.refusal.zero_at:
            return 0.0
        return 60 * (self.count - self.refusal.count) / (now - self.refusal.zero_at)
