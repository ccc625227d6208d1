"""When the next create may be sent: a mirror of the bridge's token bucket.

Theory of operation
-------------------
*The bridge's bucket* G holds ``burst`` tokens and refills ``r = limit/60`` tokens a second. Every create takes a token,
**a refused one too**: its reservation is never given back. A create is refused when G is below 0 afterwards, and the
answer then says ``wait = -G/r``, which is when G is back at 0, not at 1. Who waits exactly that long is refused again,
for ever; the next create can pass at ``wait + 60/limit``.

*The interval bucket* F refills a trifle slower than G, is capped at ``burst``, and charges a create **when its answer
arrives**. With p creates in flight the next is sent only while F - p >= 1. Then G >= F - p at all times: both are
"burst, or the first level, plus the refill since u, less the charges since u", minimised over u, and a create that the
bridge processed after u was answered after u or is still in flight. Later answers lower F and p together, so G >= 1
when the create arrives: it is never refused, whatever the delays. The price is one round trip altogether, or one per
create when ``burst`` is 1, where nothing may be sent while another is in flight. After a refusal at R the level is
known, whatever was believed before: F(R) = -r * wait.

*An unknown limit* is learned: creates go at once, one in flight at a time, until one is refused. All that counts of the
past are marks (z, n): before create number n the bucket was as if it had been empty at z and had filled ever since. So
if create number m is refused at t with ``wait``, then ``r * (t + wait - z) = m + 1 - n`` for the mark that binds. A
refusal leaves a mark with ``z = t + wait``. A full bucket at a is one with ``z = a - burst/r``, which is a - 60 when
burst and limit are the same number, as they are until an admin changes the limit; of these the one with the largest r
binds. If that r is a whole limit, so be it: one refusal. Otherwise the bucket was not full at first, or its burst is
another number. The last accepted create left at least 0, hence ``r <= 1/(t + wait - a)`` with a its arrival: at worst
too fast, and then the next refusal gives r from two marks, and the length of the first train of creates the burst. If
none was accepted, all that is known is when G = 0; 60 s after that, a bucket whose burst is its limit is full.

*A belief that fails.* Two refusals with n creates from one to the other mean that r is at least n/(z2 - z1), and just
that if nobody else used the key. Others only ever lower the level, so a limit found lower than believed may be their
doing. It is followed, for if it is true going on faster is refused for ever, and tried again after some undisturbed
accepts by one create sent early. An admin may also raise a limit, which only a create sent early can show, and one that
finds nothing costs a token: a limit that was learned beyond doubt is tried after an hour of creates at the full rate,
then after two, four, and so on. A limit that was given is not tried: whoever raises it gives the new one.

Source: golang.org/x/time/rate v0.1.0 (reserveN, advance); crynux-bridge api/ratelimit/ratelimit.go, and
api/v1/image/finetune.go for the order of checks.
"""

import enum
import heapq
import math
from collections.abc import Callable, Iterable
from typing import Any, Self

import attrs

from crynux_async.errors import UsageError
from crynux_async.pacing.evidence import FULL_AFTER, LOWEST_LIMIT, Belief, Evidence, learned, revised

_SLOWER = 1 - 2e-4  # the clocks of two machines run up to 200 millionths apart
_ROUNDING = 0.005  # the bridge writes a wait with two digits
_LONGEST_BACK_OFF = 3600.0
_SET_BACK = 60.0  # a clock that is behind by more than this was set; less is waited for
_TRAIN_GAP = 5.0  # while the rate is unknown, creates closer together than this belong to one train
_SURE = 0.1  # tokens less than one at which a create can only pass if the limit is higher
# After so many round trips, or seconds, an answer that does not come holds no other create up any more.
_PATIENCE_TRIPS = 4.0
_LEAST_PATIENCE = 2.0
_PATIENCE_AT_FIRST = 10.0
_UNDER_WAY = 1.0  # after so long a create whose process died has arrived
# Tokens left to others for every refusal in a row; without it several users can keep each other out for ever.
_LEFT_TO_OTHERS = 2


class Outcome(enum.StrEnum):
    """What became of a create, as far as the bridge's bucket is concerned.

    Attributes:
        ACCEPTED: A task was made.
        LIMITED: The rate limiter refused it, which costs a token.
        CHARGED: It ended otherwise, its token surely or possibly spent.
        RELEASED: It never came as far as the rate limiter.
    """

    ACCEPTED = "accepted"
    LIMITED = "limited"
    CHARGED = "charged"
    RELEASED = "released"


@attrs.frozen(kw_only=True)
class Attempt:
    """One create of the past, for ``TokenBucket.replay``.

    Attributes:
        sent_at: When it was sent, in seconds of the caller's clock.
        answered_at: When the answer came, or None.
        outcome: What the answer was, or None when it never came: then the token counts as spent.
        wait: Seconds that a refusal named, or None.
    """

    sent_at: float
    answered_at: float | None = None
    outcome: Outcome | None = attrs.field(default=None, converter=attrs.converters.optional(Outcome))
    wait: float | None = None


@attrs.frozen(kw_only=True)
class InFlight:
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


@attrs.frozen(kw_only=True)
class BucketSnapshot:
    """Everything a TokenBucket knows, as a value: what processes that share a key pass to each other.

    Attributes:
        at: When this was true, in seconds of the caller's clock.
        level: Tokens then, those in flight not taken off; negative in debt; without meaning while ``belief`` is None.
        belief: Limit and burst, or None while they are unknown.
        learning: Whether creates go one at a time until one is refused.
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
        evidence: What the answers say about limit and burst.
    """

    at: float
    level: float = 0.0
    belief: Belief | None = None
    learning: bool = True
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


def _seen_burst(belief: Belief, before: BucketSnapshot, zero_at: float, error: float) -> tuple[int, int | None]:
    """Return the burst to believe after a refusal that was not foreseen, and a lower one that it hints at."""
    opening, pair = before.evidence.refused(zero_at).opening, before.evidence.pair(zero_at, error)
    old_limit = None if before.belief is None else before.belief.limit
    first = math.nan if opening is None else opening[0] + 1 - belief.rate * opening[1]
    fits = opening is not None and abs(first - round(first)) <= 0.1 + belief.rate * error
    if opening is not None and belief.limit != old_limit and not belief.is_certain and before.evidence.held is None:
        # A train that began with a broken number of tokens began with a bucket that was not full.
        burst = max(1, round(first) if fits else max(math.ceil(first), int(belief.limit)))
        return burst if belief.trusted is None else min(burst, belief.burst), None
    hint = max(1, round(first)) if fits and before.evidence.train else None
    if hint is None and pair is not None and abs(pair.limit - belief.limit) <= pair.off and pair.creates < 32:
        # The limit is right, nobody else was there, and yet a token was missing: a full bucket had lost it.
        hint = before.burst_hint or 1
    if hint is None or hint >= belief.burst:
        return belief.burst, before.burst_hint
    return (hint, None) if hint == before.burst_hint else (belief.burst, hint)


def _given(limit_per_minute: float, burst: int | None) -> Belief:
    """Return what to believe when the user names a limit, and perhaps a burst."""
    return Belief(limit=limit_per_minute, burst=burst or max(1, int(limit_per_minute)))


class TokenBucket:
    """The mirror of one key's bucket at the bridge; says when the next create may be sent.

    It reads no clock: the caller passes ``now``, seconds on any clock that it keeps to. Time that goes back counts as
    standing still; if it goes back by more than a minute the clock was set, and everything known moves with it.

    Args:
        limit_per_minute: Creates a minute that the key may make, > 0; None to learn it.
        burst: Creates that a rested key may make at once, >= 1; None: as many as the limit, until there is evidence.
        now: Seconds.
        max_in_flight: Creates in flight at once, >= 1; None: one at first, more as creates are accepted, up to what the
            rate can use (two, if a round trip takes less than ``30 / limit_per_minute`` seconds). More gain nothing
            after the first burst, and each is a token lost when the bridge's bucket holds less than thought. While the
            limit is being learned it is always one.

    Raises:
        ValueError: An argument is out of bounds.
    """

    __slots__ = ("_state",)

    def __init__(
        self, *, limit_per_minute: float | None, burst: int | None = None, now: float, max_in_flight: int | None = None
    ) -> None:
        if limit_per_minute is not None and not 0 < limit_per_minute < math.inf:
            raise ValueError(f"limit_per_minute must be above 0 and finite, or None; not {limit_per_minute!r}")
        if (burst is not None and burst < 1) or (max_in_flight is not None and max_in_flight < 1):
            raise ValueError(f"burst and max_in_flight must be at least 1, or None; not {burst!r}, {max_in_flight!r}")
        belief = None if limit_per_minute is None else _given(limit_per_minute, burst)
        self._state = BucketSnapshot(
            at=now,
            level=0.0 if belief is None else float(belief.burst),
            belief=belief,
            learning=belief is None,
            given_limit=limit_per_minute,
            given_burst=burst,
            max_in_flight=max_in_flight,
        )

    def __repr__(self) -> str:
        belief, level = self._state.belief, self._state.level
        known = "limit unknown" if belief is None else f"{belief.limit:g}/min, burst {belief.burst}, level {level:.2f}"
        return f"<TokenBucket {known}, {self.in_flight} in flight, {self.refusals} refused>"

    @classmethod
    def restore(cls, snapshot: BucketSnapshot, now: float) -> Self:
        """Return a bucket that goes on where ``snapshot`` was taken, in any process with the same clock.

        With a clock that began anew meanwhile, as after a restart of the machine, nothing counts as refilled.
        """
        bucket = cls.__new__(cls)
        bucket._state = snapshot
        bucket._clock(now)
        return bucket

    @classmethod
    def replay(
        cls,
        attempts: Iterable[Attempt],
        *,
        limit_per_minute: float | None,
        burst: int | None = None,
        now: float,
        max_in_flight: int | None = None,
    ) -> Self:
        """Return the bucket as the creates of the past have left it.

        It takes all of them, or those from the last refusal on, or, with a known limit and none refused, those of the
        last ``60 * burst / limit`` seconds: what is older has no influence on the level.

        Args:
            attempts: The creates, in any order, with times on the clock of ``now``.
            limit_per_minute: As for a new bucket.
            burst: As for a new bucket.
            now: Seconds.
            max_in_flight: As for a new bucket.
        """
        made = sorted(attempts, key=lambda attempt: attempt.sent_at)
        start = min(now, made[0].sent_at) if made else now
        bucket = cls(limit_per_minute=limit_per_minute, burst=burst, now=start, max_in_flight=max_in_flight)
        waiting: list[tuple[float, int, Attempt]] = []
        for attempt in made:
            while waiting and waiting[0][0] <= attempt.sent_at:
                bucket._conclude(*heapq.heappop(waiting))
            ends_at = attempt.answered_at
            if ends_at is None or attempt.outcome is None:  # lost in a crash, the last of them perhaps just now
                ends_at = max(attempt.sent_at + _UNDER_WAY, now if attempt is made[-1] else start)
            heapq.heappush(waiting, (ends_at, bucket.sent(attempt.sent_at), attempt))
        while waiting:
            bucket._conclude(*heapq.heappop(waiting))
        return bucket

    def snapshot(self) -> BucketSnapshot:
        """Return everything this bucket knows."""
        return self._state

    def reconfigure(self, limit_per_minute: float | None, burst: int | None, now: float) -> None:
        """Take note of what the user says now about limit and burst, where an earlier program was told otherwise.

        What was sent stays counted. A limit that is not given any more is treated like one that was learned.

        Args:
            limit_per_minute: As for a new bucket.
            burst: As for a new bucket.
            now: Seconds.
        """
        state = self._state
        if (limit_per_minute, burst) == (state.given_limit, state.given_burst):
            return
        at = self._settle(now)
        state, belief = self._state, None if limit_per_minute is None else _given(limit_per_minute, burst)
        if belief is None:
            belief = None if state.belief is None else attrs.evolve(state.belief, burst=burst or state.belief.burst)
            belief = None if belief is None else belief.settled(is_certain=belief.try_after is None)
            self._change(given_limit=None, given_burst=burst, belief=belief)
            return
        known = state.evidence.level(at, belief.rate, belief.burst) if state.belief is None else state.level
        self._change(
            given_limit=limit_per_minute,
            given_burst=burst,
            belief=belief,
            learning=False,
            level=min(known, float(belief.burst)),
            hold_until=None if state.belief is None else state.hold_until,
        )

    @property
    def limit_per_minute(self) -> float | None:
        """Creates a minute, as given or learned, or None while unknown."""
        return None if self._state.belief is None else self._state.belief.limit

    @property
    def burst(self) -> int | None:
        """Creates that a rested key may make at once, or None while unknown."""
        return None if self._state.belief is None else self._state.belief.burst

    @property
    def known(self) -> bool:
        """Whether the limit is known, by being given or learned."""
        return self._state.belief is not None

    @property
    def refusals(self) -> int:
        """Creates that the bridge's rate limiter refused so far."""
        return self._state.refusals

    @property
    def in_flight(self) -> int:
        """Creates that were sent and not answered yet."""
        return len(self._state.in_flight)

    def is_in_flight(self, ticket: int) -> bool:
        """Return whether the create with this ticket is not answered yet, and not charged as lost either."""
        return any(create.ticket == ticket for create in self._state.in_flight)

    def ready_at(self, now: float) -> float:
        """Return the earliest instant at which the next create may be sent.

        Returns:
            Seconds; at most ``now`` means now, ``math.inf`` means not before one in flight was answered.
        """
        at = self._place_at(self._clock(now))
        state = self._state
        at = at if state.hold_until is None else max(at, state.hold_until)
        if state.belief is None or state.learning or at == math.inf:
            return at
        needed = 1 + len(state.in_flight)
        if needed > state.belief.burst:
            return math.inf
        missing = needed - self._level(at)
        try_after = state.belief.try_after
        if try_after is not None and state.evidence.accepted >= try_after and needed == 1:
            # Early, for the limit may be higher; by half an interval, so that twice the limit has filled the bucket.
            missing -= 0.5 + self._lag(at)
        # The microsecond makes sure that the level is there at that instant, in floating point too.
        return at if missing <= 0 else at + missing / (state.belief.rate * _SLOWER) + 1e-6

    def expected_at(self, position: int, now: float) -> float:
        """Return when a create with ``position`` >= 0 others before it is expected to go, in seconds, never infinite.

        While the limit is unknown this is the latest that fits the answers so far, with a new key's limit at first.
        """
        at = self._clock(now)
        state = self._state
        trip = state.round_trip or 0.0
        ready = self.ready_at(now)
        first = at + trip if ready == math.inf else ready
        if state.belief is None:
            return first + 60 * position / max(state.evidence.least(at, coupled=True), LOWEST_LIMIT)
        missing = max(0.0, 1 + len(state.in_flight) + position - self._level(at))
        trips = position if state.belief.burst == 1 else 0  # each waits for the answer to the one before
        refilled_at = at + missing / (state.belief.rate * _SLOWER) + trips * trip
        return max(first + position * trip / self._room(ramp=False), refilled_at)

    def sent(self, now: float, owner: str = "") -> int:
        """Take note that a create is being sent.

        Args:
            now: Seconds.
            owner: Who sends it, for ``charge_lost``.

        Returns:
            Its ticket, for exactly one of ``accepted``, ``limited``, ``charged`` and ``released``.
        """
        at = self._settle(now)
        state = self._state
        early = not state.learning and state.level + self._lag(at) - len(state.in_flight) < 1 - _SURE
        create = InFlight(ticket=state.next_ticket, sent_at=at, early=early, owner=owner)
        evidence = attrs.evolve(state.evidence, train=0) if early or self._is_full(at) else state.evidence
        self._change(in_flight=(*state.in_flight, create), next_ticket=create.ticket + 1, evidence=evidence)
        return create.ticket

    def accepted(self, ticket: int, now: float) -> None:
        """Take note that a create was accepted."""
        at, create, arrived = self._answered(ticket, now)
        state = self._state
        belief, learning = state.belief, state.learning
        evidence = state.evidence.passed(arrived, accepted=True)
        if belief is not None and belief.try_after is not None:
            learning = learning or (create.early and belief.trusted is None)
            if create.early and belief.is_certain:
                evidence = state.evidence.renewed(arrived, belief.burst)
            belief = self._allowed(belief.surpassed(evidence.least(at, coupled=False), early=create.early))
        belief = None if belief is None else belief.rested(evidence.accepted)
        self._change(belief=belief, learning=learning, evidence=evidence, level=state.level - 1, blind=0, in_a_row=0)

    def charged(self, ticket: int, now: float) -> None:
        """Take note that a create ended otherwise, its token surely or possibly spent."""
        _, _, arrived = self._answered(ticket, now, shows_trip=False)
        evidence = self._state.evidence.passed(arrived, accepted=False)
        self._change(level=self._state.level - 1, evidence=evidence)

    def released(self, ticket: int, now: float) -> None:
        """Take note that a create never came as far as the rate limiter."""
        self._answered(ticket, now, shows_trip=False)

    def limited(self, ticket: int, now: float, wait: float | None) -> None:
        """Take note of a refusal by the rate limiter, which costs a token; ``wait`` is what it named, in seconds."""
        at, create, arrived = self._answered(ticket, now)
        before = self._state
        in_a_row = before.in_a_row + (before.refused_at is None or create.sent_at >= before.refused_at)
        self._change(refusals=before.refusals + 1, refused_at=at, in_a_row=in_a_row)
        # Once, "0.00 seconds" is a wait like any other; repeated, it is what a limit below 1 says for ever.
        if wait is None or not 0 <= wait < math.inf or (wait < _ROUNDING and before.blind):
            self._back_off(at)
            return
        trip = at - create.sent_at
        error = 2 * _ROUNDING + (trip + (before.round_trip or trip)) / 2
        ahead = sum(other.ticket < ticket for other in before.in_flight)
        seen = attrs.evolve(before, evidence=before.evidence.ahead(ahead))
        belief, hint = before.belief, before.burst_hint
        if belief is None or before.learning:
            belief = learned(seen.evidence, arrived + wait, error) or belief
        elif in_a_row > before.in_a_row:
            belief = self._allowed(revised(belief, seen.evidence, arrived + wait, error, overflow=before.overflow))
            burst, hint = _seen_burst(belief, seen, arrived + wait, error)
            is_seen_low = burst < belief.burst and (belief.is_certain or belief.trusted is not None)
            belief = belief.with_lower_burst(burst) if is_seen_low else attrs.evolve(belief, burst=burst)
        self._change(
            belief=None if belief is None else self._allowed(belief),
            learning=belief is None,
            evidence=attrs.evolve(seen.evidence.refused(arrived + wait), count=before.evidence.count + 1),
            burst_hint=hint,
            overflow=0.0,
            blind=int(wait < _ROUNDING),
        )
        self._hold_back(before, at, wait)

    def charge_lost(self, sent_before: float, now: float, is_gone: Callable[[str], bool] | None = None) -> int:
        """Charge the creates in flight whose answer nobody waits for any more.

        Args:
            sent_before: All that were sent before this, in seconds.
            now: Seconds.
            is_gone: Whether an owner has certainly ended: then all of its creates, too.

        Returns:
            How many there were.
        """

        def is_lost(create: InFlight) -> bool:
            return create.sent_at < sent_before or (is_gone is not None and is_gone(create.owner))

        lost = [create.ticket for create in self._state.in_flight if is_lost(create)]
        for ticket in lost:
            self.charged(ticket, now)
        return len(lost)

    def _hold_back(self, before: BucketSnapshot, at: float, wait: float) -> None:
        """Set the level, or without a belief the time, from which creates can pass after a refusal."""
        state = self._state
        left_to_others = _LEFT_TO_OTHERS * max(0, state.in_a_row - 1)
        if state.belief is None:
            self._change(hold_until=at + wait + FULL_AFTER * (1 + left_to_others))
            return
        level = min(0.0 if before.learning else before.level, -state.belief.rate * (wait + _ROUNDING))
        if before.belief is not None and state.belief.limit == before.belief.limit:
            level -= left_to_others
        self._change(level=level, hold_until=None)

    def _allowed(self, belief: Belief) -> Belief:
        """Return a belief within what was given, or beyond doubt before."""
        state = self._state
        belief = attrs.evolve(belief, burst=state.given_burst or belief.burst)
        most = state.given_limit if belief.trusted is None else belief.trusted
        if most is None or belief.limit < most:
            return belief
        if most == state.given_limit:
            return attrs.evolve(belief, limit=most, try_after=None, is_certain=True, trusted=None)
        return attrs.evolve(belief, limit=most).settled()

    def _back_off(self, at: float) -> None:
        """Wait after a refusal that does not say how long, longer each time."""
        state = self._state
        pause = FULL_AFTER if state.belief is None else 1 / state.belief.rate
        self._change(
            level=min(state.level - 1, 0.0),
            hold_until=at + max(pause, min(pause * 2.0 ** min(state.blind, 60), _LONGEST_BACK_OFF)),
            blind=state.blind + 1,
            evidence=Evidence(opening=state.evidence.opening),
        )

    def _place_at(self, at: float) -> float:
        """Return when there is a place for one more create, whatever the level, in seconds.

        A create whose answer does not come keeps its token, for nobody knows when the bridge takes it, but after a few
        round trips no longer its place: else two that hang would stop everything for as long as a request may take.
        """
        state = self._state
        if state.max_in_flight is not None:
            return at if len(state.in_flight) < state.max_in_flight else math.inf
        trip = state.round_trip
        patience = _PATIENCE_AT_FIRST if trip is None else max(_LEAST_PATIENCE, _PATIENCE_TRIPS * trip)
        frees_at = sorted(frees for one in state.in_flight if (frees := one.sent_at + patience) > at)
        too_many = len(frees_at) - self._room()
        return at if too_many < 0 else frees_at[too_many]

    def _room(self, *, ramp: bool = True) -> int:
        """Return how many creates may be in flight at once, whatever the level; without ``ramp``, later on."""
        state = self._state
        if state.belief is None or state.learning:
            return 1
        if state.max_in_flight is not None:
            return state.max_in_flight
        useful = math.ceil(2 * state.belief.rate * (state.round_trip or 0.0))
        return 1 + (min(useful, state.evidence.accepted) if ramp else useful)

    def _is_full(self, at: float) -> bool:
        """Return whether the bucket is thought to be full."""
        state, last_at = self._state, self._state.evidence.last_at
        if state.belief is None or state.learning:
            return last_at is None or at - last_at > _TRAIN_GAP
        return state.level >= state.belief.burst and not state.in_flight

    def _answered(self, ticket: int, now: float, *, shows_trip: bool = True) -> tuple[float, InFlight, float]:
        """Take a create out of flight; return now, the create, and about when it arrived at the bridge."""
        at = self._settle(now)
        state = self._state
        create = next((create for create in state.in_flight if create.ticket == ticket), None)
        if create is None:
            raise UsageError(f"no create in flight has the ticket {ticket}: each is answered exactly once")
        trip = at - create.sent_at
        usual = trip if state.round_trip is None else state.round_trip
        # One that was stuck says little of the others, and a request that timed out says nothing.
        smoothed = usual + (min(trip, _PATIENCE_TRIPS * usual) - usual) / 8
        self._change(
            in_flight=tuple(other for other in state.in_flight if other is not create),
            round_trip=smoothed if shows_trip else state.round_trip,
        )
        return at, create, create.sent_at + min(trip, 2 * usual) / 2

    def _level(self, at: float, most: float | None = None) -> float:
        """Return the tokens at ``at``; ``most`` in place of the burst."""
        state = self._state
        if state.belief is None:
            return state.level
        level = state.level + state.belief.rate * _SLOWER * max(0.0, at - state.at)
        return min(state.belief.burst if most is None else most, level)

    def _lag(self, at: float) -> float:
        """Return how far the level has probably fallen behind since it was last known exactly, because it is slower."""
        belief, refusal = self._state.belief, self._state.evidence.refusal
        if belief is None or refusal is None:
            return 0.0
        return belief.rate * (1 - _SLOWER) * max(0.0, at - refusal.zero_at)

    def _settle(self, now: float) -> float:
        """Bring the level up to date and return the time."""
        at = self._clock(now)
        level = self._level(at)
        self._change(at=at, level=level, overflow=self._state.overflow + self._level(at, math.inf) - level)
        return at

    def _clock(self, now: float) -> float:
        """Return the time, which never goes back."""
        state = self._state
        behind = state.at - now
        if behind > _SET_BACK:
            self._change(
                at=now,
                hold_until=None if state.hold_until is None else state.hold_until - behind,
                refused_at=None,
                in_flight=tuple(attrs.evolve(create, sent_at=create.sent_at - behind) for create in state.in_flight),
                evidence=Evidence(),
            )
        return max(now, self._state.at)

    def _change(self, **changes: Any) -> None:
        self._state = attrs.evolve(self._state, **changes)

    def _conclude(self, at: float, ticket: int, attempt: Attempt) -> None:
        if attempt.outcome is Outcome.LIMITED:
            self.limited(ticket, at, attempt.wait)
        elif attempt.outcome is Outcome.ACCEPTED:
            self.accepted(ticket, at)
        else:
            (self.released if attempt.outcome is Outcome.RELEASED else self.charged)(ticket, at)
