"""What the answers to creates say about a key's limit and burst: the inference behind ``token_bucket.TokenBucket``.

Plain values and functions. The formulas and what they rest on stand at the top of ``crynux_async.pacing.token_bucket``.
"""

import math

import attrs

from crynux_async.values import Value, evolved

FULL_AFTER = 60.0  # a bucket whose burst is its limit fills in a minute
LOWEST_LIMIT = 1.0  # a limit is a whole number, and a new key has 1
_MOST_MARKS = 64
# Accepts since the last refusal before a higher limit is tried. A failed try costs one token.
_TRY_DISPUTED = 4
_TRY_GUESSED = 16
_TRY_MEASURED = 64
_TRY_CERTAIN = 128
SELDOMER = 4
"""Times as many accepts before the next try of a higher limit, after one that was refused."""
CLOSE = 0.1
"""Part by which a limit is raised to look for a higher one: one that is closer to the truth needs none of that."""
_TRY_CERTAIN_MINUTES = 60  # of creates at the full rate
_MANY_REFUSED = 4  # refusals, after which a limit that seems right is not tried for the price of one more
# Accepts since the last refusal before a burst that was seen low is doubled; if that is refused, twice as many.
_RAISE_BURST = 256
_RAISE_BURST_SELDOM = 16_384


@attrs.frozen(kw_only=True)
class Measured(Value):
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
        return max(LOWEST_LIMIT, self.limit - self.off if self.whole is None else self.whole)


@attrs.frozen(kw_only=True)
class Mark(Value):
    """A bound on the level: before create ``count`` it was as if empty at ``zero_at`` and filled ever since."""

    zero_at: float
    count: int


@attrs.frozen(kw_only=True, slots=False)  # for ``evolved``
class Evidence(Value):
    """What the answers so far say about limit and burst; bounded, however many there were.

    Attributes:
        count: Creates charged so far.
        marks: Bounds for a bucket whose burst is its limit; the lower hull of all there were, oldest first.
        refusal: The last refusal; exact for every bucket.
        accepted: Creates accepted since that refusal.
        unsure: Creates since then, or since the bucket was full, that took a token or did not: nobody knows.
        train: Creates not refused since the bucket was last thought to be full, or None if it was not lately.
        train_at: When the first of them arrived, in seconds.
        last_at: When the last create that was not refused arrived, or None when none did since the last refusal.
        held: The burst, where it is known from before a change of the limit.
        before_try: When the create before the try that showed that change arrived, until a refusal tells the rest.
        opening: Of the last train that a refusal ended: how many were not refused, and seconds from its first to the
            end of the wait. The bucket held ``creates + 1 - rate * seconds`` when it began.
    """

    count: int = 0
    marks: tuple[Mark, ...] = ()
    refusal: Mark | None = None
    accepted: int = 0
    unsure: int = 0
    train: int | None = None
    train_at: float = 0.0
    last_at: float | None = None
    held: int | None = None
    before_try: float | None = None
    opening: tuple[int, float] | None = None

    def passed(self, at: float, *, accepted: bool) -> "Evidence":
        """Return this with one more create, not refused, that arrived at ``at``."""
        return evolved(
            self,
            count=self.count + 1,
            marks=_lower_hull(self.marks, Mark(zero_at=at - FULL_AFTER, count=self.count)),
            accepted=self.accepted + accepted,
            unsure=self.unsure + (not accepted),
            train=None if self.train is None else self.train + 1,
            train_at=at if self.train == 0 else self.train_at,
            last_at=at,
        )

    def ahead(self, creates: int) -> "Evidence":
        """Return this with so many more creates that were sent before the one refused, and are not answered yet."""
        train = None if self.train is None else self.train + creates
        return attrs.evolve(self, count=self.count + creates, train=train)

    def refused(self, zero_at: float) -> "Evidence":
        """Return what is left after a refusal: the level is known, and how it came about matters no more."""
        # An answer that was overtaken by a later create's tells of an earlier state.
        latest = zero_at if self.refusal is None else max(zero_at, self.refusal.zero_at)
        mark = Mark(zero_at=latest, count=self.count + 1)
        opening = (self.train, zero_at - self.train_at) if self.train else self.opening
        return Evidence(count=mark.count, marks=(mark,), refusal=mark, held=self.held, opening=opening)

    def renewed(self, at: float, burst: int) -> "Evidence":
        """Return this after a try at a certain limit has passed, at ``at``: the limit is another one than before."""
        return Evidence(
            count=self.count + 1, train=1, train_at=at, last_at=at, held=burst, before_try=self.last_at or at
        )

    def raised(self, zero_at: float, error: float) -> Measured | None:
        """Return the limit that a refusal means after such a try; the burst is still what it was.

        Until then creates went at the old rate, so at the new one the bucket was full when the create before the try
        arrived. Where the new rate is twice the old one it was full again when the try arrived.
        """
        if self.held is None or self.before_try is None or not self.train:
            return None
        again = Measured(creates=self.train + 1 - self.held, span=zero_at - self.train_at, error=error)
        if again.creates > 0 and again.limit * (self.train_at - self.before_try) >= 60:
            return again
        return Measured(creates=max(1, again.creates + 1), span=zero_at - self.before_try, error=error)

    def coupled(self, zero_at: float, error: float) -> Measured | None:
        """Return the limit if burst is the same number and a create was refused until ``zero_at``."""
        found = (self._since(mark, zero_at, error) for mark in self.marks)
        return max((one for one in found if one is not None), key=lambda one: one.limit, default=None)

    def pair(self, zero_at: float, error: float) -> Measured | None:
        """Return the limit that this refusal and the last one mean; a lower bound if others used the key."""
        found = None if self.refusal is None else self._since(self.refusal, zero_at, error)
        # A hundredth is left for arrivals far from the middle of their round trips.
        return None if found is None else attrs.evolve(found, error=max(error, 0.01 * found.span))

    def ceiling(self, zero_at: float, error: float) -> Measured | None:
        """Return the highest limit that fits: the last create that was not refused left at least 0."""
        return None if self.last_at is None else Measured(creates=1, span=zero_at - self.last_at, error=error)

    def least(self, now: float, *, coupled: bool) -> float:
        """Return the lowest limit per minute that fits the creates so far, >= 0; ``coupled`` if burst is the same."""
        marks = self.marks if coupled else (self.refusal,) if self.refusal else ()
        return max((60 * (self.count - m.count) / (now - m.zero_at) for m in marks if now > m.zero_at), default=0.0)

    def level(self, now: float, rate: float, burst: int) -> float:
        """Return the tokens that are there at ``now`` if these are rate (per second) and burst."""
        bounds = (rate * (now - mark.zero_at) - (self.count - mark.count) for mark in self.marks)
        return min(bounds, default=float(burst)) if self.marks else float(burst)

    def _since(self, mark: Mark, zero_at: float, error: float) -> Measured | None:
        span = zero_at - mark.zero_at
        return Measured(creates=self.count + 1 - mark.count, span=span, error=error) if span > error else None


def _lower_hull(marks: tuple[Mark, ...], mark: Mark) -> tuple[Mark, ...]:
    """Append a mark and drop those that can never again be the one with the steepest line to a later point."""
    if marks and mark.zero_at <= marks[-1].zero_at:
        return marks
    kept = list(marks)
    while len(kept) > 1:
        a, b = kept[-2:]
        if (b.count - a.count) * (mark.zero_at - b.zero_at) < (mark.count - b.count) * (b.zero_at - a.zero_at):
            break
        kept.pop()
    return (*kept[-_MOST_MARKS + 1 :], mark)


@attrs.frozen(kw_only=True)
class Belief(Value):
    """What the bridge's bucket is taken to be.

    Attributes:
        limit: Creates per minute.
        burst: Tokens it holds at most.
        try_after: Undisturbed accepts before a higher limit is tried, or None when the limit was given.
        is_certain: Whether it was given, or measured beyond doubt: a lower one is then most likely others' doing.
        trusted: A higher limit that was certain before two refusals spoke against it, or None.
        usual_burst: The burst before refusals spoke for a lower one, or None.
        raise_after: Undisturbed accepts before a lower one is doubled, as long as it is below the usual one.
        is_raised: Whether it was, since refusals spoke last.
    """

    limit: float
    burst: int
    try_after: int | None = None
    is_certain: bool = True
    trusted: float | None = None
    usual_burst: int | None = None
    raise_after: int = _RAISE_BURST
    is_raised: bool = False

    @classmethod
    def measured(cls, limit: float, burst: int, *, is_certain: bool) -> "Belief":
        """Return what was learned, to be tried again sooner or later."""
        return cls(limit=limit, burst=burst, try_after=_TRY_MEASURED, is_certain=False).settled(is_certain=is_certain)

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.limit / 60

    def revised(self, found: Measured) -> "Belief":
        """Return this with another limit, which two refusals mean."""
        try_after = _TRY_DISPUTED if self.trusted else _TRY_GUESSED if found.whole is None else _TRY_MEASURED
        trusted = self.limit if self.is_certain and found.best < self.limit else self.trusted
        return attrs.evolve(self, limit=found.best, try_after=try_after, is_certain=False, trusted=trusted)

    def confirmed(self, found: Measured) -> "Belief":
        """Return this after two refusals that mean the same limit."""
        if self.try_after is None:
            return self
        again = attrs.evolve(self, try_after=SELDOMER * self.try_after)
        if self.is_certain:
            return again
        is_certain = found.whole is not None and found.off < 0.25
        return attrs.evolve(again, limit=found.best).settled(is_certain=is_certain)

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
        return attrs.evolve(self.seldom_tried(), is_certain=True, trusted=None)

    def seldom_tried(self) -> "Belief":
        """Return this as so close to the truth that a higher limit is looked for after an hour of creates."""
        return attrs.evolve(self, try_after=max(_TRY_CERTAIN, math.ceil(_TRY_CERTAIN_MINUTES * self.limit)))

    def with_lower_burst(self, burst: int) -> "Belief":
        """Return this with a burst that refusals spoke for.

        Others who empty the bucket make it look small, and so does a bucket that is small. Only with time can it be
        told which: a burst that was raised again and refused again is believed in for twice as long.
        """
        return attrs.evolve(
            self,
            burst=burst,
            usual_burst=max(self.burst, self.usual_burst or 0),
            raise_after=min(2 * self.raise_after, _RAISE_BURST_SELDOM) if self.is_raised else self.raise_after,
            is_raised=False,
        )

    def rested(self, accepted: int) -> "Belief":
        """Return this after so many undisturbed accepts: what was seen of a low burst has aged."""
        if self.usual_burst is None or self.burst >= self.usual_burst or accepted % self.raise_after:
            return self
        return attrs.evolve(self, burst=min(2 * self.burst, self.usual_burst), is_raised=True)


def learned(evidence: Evidence, zero_at: float, error: float) -> Belief | None:
    """Return what a refusal means that ends optimistic creates, or None if it says nothing about the limit."""
    if (found := evidence.raised(zero_at, error)) is not None:
        return Belief.measured(found.best, evidence.held or evidence.train or 1, is_certain=False)
    found = evidence.coupled(zero_at, error)
    # A full bucket lets as many pass as its limit.
    if found is not None and found.whole is not None and found.off < 0.5 and found.whole < found.creates:
        is_certain = abs(found.limit - found.whole) < found.off / 2
        return Belief.measured(found.whole, found.whole, is_certain=is_certain)
    ceiling = evidence.ceiling(zero_at, error)
    if ceiling is None or not evidence.train:
        return None
    full = Measured(creates=1, span=zero_at - evidence.train_at, error=error)  # if the train was all that it held
    if full.whole is not None and full.off < 0.15 and 2 * full.limit > ceiling.limit + ceiling.off:
        return Belief.measured(full.whole, evidence.train, is_certain=False)
    limit = max(LOWEST_LIMIT, ceiling.limit if ceiling.whole is None else ceiling.whole)
    return Belief.measured(limit, evidence.train, is_certain=False)


def learned_wide(
    evidence: Evidence, zero_at: float, error: float, *, overlap: int, least_span: float, refusals: int
) -> Belief | None:
    """Return what a refusal means while others were under way, or None if it says too little.

    Args:
        evidence: What was known until then.
        zero_at: When the bucket is back at 0, in seconds.
        error: How far that may be off, in seconds.
        overlap: How many were under way; nobody knows which of them came first.
        least_span: Seconds that the creates must have taken, the minute that fills a bucket included.
        refusals: How many there were, those included that must follow because they are under way.
    """
    found = evidence.coupled(zero_at, error)
    if found is None or found.span < least_span:
        return None
    found = attrs.evolve(found, error=error + overlap * found.span / found.creates)
    belief = Belief.measured(found.best, max(1, int(found.best)), is_certain=False)
    # Where burst and limit are not the same number the limit is higher, which only a create sent early can show.
    is_dear = refusals >= _MANY_REFUSED and found.off <= CLOSE * found.limit
    return belief.seldom_tried() if is_dear else belief


def revised(belief: Belief, evidence: Evidence, zero_at: float, error: float, *, overflow: float) -> Belief:
    """Return what to believe after a refusal that the belief did not foresee, or that was risked."""
    found = evidence.pair(zero_at, error)
    if found is not None and found.creates > 1 and belief.burst == 1:
        # A bucket of one was full before the last accept: what has refilled since is exact.
        found = evidence.ceiling(zero_at, error)
    if found is None:
        return belief
    if found.limit > belief.limit + found.off:
        return belief.revised(found)
    if found.creates > 1 and overflow >= 0.1:
        return belief  # tokens were lost: a lower bound
    if abs(found.limit - belief.limit) <= found.off:
        return belief.confirmed(found)
    # Over many creates a little use by others, or a change on the way, looks like a slightly lower limit.
    return belief.revised(found) if not belief.is_certain or found.creates <= 4 else belief
