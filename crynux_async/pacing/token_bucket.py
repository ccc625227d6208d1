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

*An unknown limit* is learned: creates go at once, one in flight at a time, until one is refused. Where round trips are
long that would never happen, so with time two and three go at once, and as many as the limit can use that is proven by
now; which of them came first is not known, so what a refusal then tells is a guess, and where it fails one goes at a
time again. All that counts of the past are marks (z, n): before create number n the bucket was as if it had been empty
at z and had filled ever since. So if create number m is refused at t with ``wait``, then ``r * (t + wait - z) = m + 1
- n`` for the mark that binds. A refusal leaves a mark with ``z = t + wait``. A full bucket at a is one with ``z = a -
burst/r``, which is a - 60 when burst and limit are the same number, as they are until an admin changes the limit; of
these the one with the largest r binds. If that r is a whole limit, so be it: one refusal. Otherwise the bucket was not
full at first, or its burst is another number. The last accepted create left at least 0, hence ``r <= 1/(t + wait -
a)`` with a its arrival: at worst too fast, and then the next refusal gives r from two marks, and the length of the
first train of creates the burst. If none was accepted, all that is known is when G = 0; 60 s after that, a bucket
whose burst is its limit is full.

*A belief that fails.* Two refusals with n creates from one to the other mean that r is at least n/(z2 - z1), and just
that if nobody else used the key. Others only ever lower the level, so a limit found lower than believed may be their
doing. It is followed, for if it is true going on faster is refused for ever, and tried again after some undisturbed
accepts by one create sent early. An admin may also raise a limit, which only a create sent early can show, and one that
finds nothing costs a token: a limit that was learned beyond doubt is tried after an hour of creates at the full rate,
then after four, sixteen, and so on. A limit that was given is not tried: whoever raises it gives the new one.

*Long round trips.* When a create arrived is known to within its round trip, so a refusal tells the limit to within what
is refilled meanwhile. With a fifth of a token or more the limit is not certain, and each refusal that was not foreseen
lowers it, and then the burst, to what would have passed. If the burst is one, ``spacing`` weighs every whole limit by
what all creates tell. A refusal that comes as soon as two are under way for the first time means such a burst, and so
does one of the first few where the limit is far above what passed. Early creates that pass prove nothing here: a
limit that may be off by more than a tenth is raised by a tenth from time to time, and put back for longer and longer
when that is refused.

*What nobody can know.* Until the bucket is first found empty, limits that would have let the same creates pass cannot
be told from each other: after 200 creates from a full bucket that is every limit above 200 whose burst is the same
number. When k creates are under way at that moment all k are refused, for each takes a token and fewer come back than
are taken. So who may be refused five times has at most five under way until then, and sends no more than five a round
trip: with round trips of 0.3 s, 1,200 creates at 600 a minute take 72 s at least, where who knows the limit needs 60.
Four refusals at once leave one for what they have not told. With a burst of one each refusal tells the seconds between
two tokens with a standard error of 0.3 of the jitter of one way (two arrivals, each off by half the difference of two
ways), so five of them leave an eighth of it; where that is more than a twentieth of what lies between two creates,
only creates that pass make it less.

*A create that hangs* keeps its token, for nobody knows when the bridge takes it, but after a few round trips no longer
its place: others may go while it is waited for.

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
from crynux_async.pacing.bucket_snapshot import SLOWER, BucketSnapshot, InFlight
from crynux_async.pacing.evidence import FULL_AFTER, LOWEST_LIMIT, Belief, Evidence
from crynux_async.pacing.judgement import PATIENCE_TRIPS, SURE, Refusal, heard_accept, heard_refusal
from crynux_async.values import Value, evolved

_ROUNDING = 0.005  # the bridge writes a wait with two digits
_LONGEST_BACK_OFF = 3600.0
_SET_BACK = 60.0  # a clock that is behind by more than this was set; less is waited for
_TRAIN_GAP = 5.0  # while the rate is unknown, creates closer together than this belong to one train
# The least and the first patience with an answer that does not come, in seconds.
_LEAST_PATIENCE = 2.0
_PATIENCE_AT_FIRST = 10.0
# While the limit is unknown, one more create at a time whenever accepted ones have taken so long, up to two.
_WIDER_EVERY = 30.0  # seconds
_WIDER_TRIPS = 32
_MOST_WIDER = 2
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
class Attempt(Value):
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
            limit is being learned this is not asked: it is one at first, and more only where round trips are long.

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
        at = self._clock(now)
        self._settle(at)
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
    def answers(self) -> int:
        """How many creates were accepted, or refused by the rate limit: the service has answered them."""
        return self._state.trips

    @property
    def in_flight(self) -> int:
        """Creates that were sent and not answered yet."""
        return len(self._state.in_flight)

    def is_in_flight(self, ticket: int, owner: str | None = None) -> bool:
        """Return whether the create with this ticket is not answered yet, and not charged as lost either.

        Args:
            ticket: The ticket.
            owner: Whose it must be, or None.
        """
        return any(create.ticket == ticket and owner in (None, create.owner) for create in self._state.in_flight)

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
        missing = needed - self._state.level_at(at)
        try_after = state.belief.try_after
        if try_after is not None and state.evidence.accepted >= try_after and needed == 1:
            # Early, for the limit may be higher; by half an interval, so that twice the limit has filled the bucket.
            missing -= 0.5 + self._state.lag(at) + state.belief.rate * (state.round_trip or 0.0)
        # The microsecond makes sure that the level is there at that instant, in floating point too.
        return at if missing <= 0 else at + missing / (state.belief.rate * SLOWER) + 1e-6

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
        missing = max(0.0, 1 + len(state.in_flight) + position - self._state.level_at(at))
        trips = position if state.belief.burst == 1 else 0  # each waits for the answer to the one before
        refilled_at = at + missing / (state.belief.rate * SLOWER) + trips * trip
        return max(first + position * trip / self._room(ramp=False), refilled_at)

    def sent(self, now: float, owner: str = "") -> int:
        """Take note that a create is being sent.

        Args:
            now: Seconds.
            owner: Who sends it, for ``charge_lost``.

        Returns:
            Its ticket, for exactly one of ``accepted``, ``limited``, ``charged`` and ``released``.
        """
        at = self._clock(now)
        state, level = self._state, self._state.level_at(at)
        early = not state.learning and level + state.lag(at) - len(state.in_flight) < 1 - SURE
        create = InFlight(ticket=state.next_ticket, sent_at=at, early=early, owner=owner)
        evidence, is_full = state.evidence, self._is_full(at, level)
        if early or is_full:
            evidence = evolved(evidence, train=0, unsure=0 if is_full else evidence.unsure)
        is_first_pair = state.learning and state.in_flight and state.paired_at is None
        self._settle(
            at,
            in_flight=(*state.in_flight, create),
            next_ticket=create.ticket + 1,
            evidence=evidence,
            paired_at=state.evidence.count if is_first_pair else state.paired_at,
        )
        return create.ticket

    def accepted(self, ticket: int, now: float) -> None:
        """Take note that a create was accepted."""
        at, create, arrived = self._answered(ticket, now)
        self._state = heard_accept(self._state, create, at, arrived)

    def charged(self, ticket: int, now: float) -> None:
        """Take note that a create ended otherwise, its token surely or possibly spent."""
        _, _, arrived = self._answered(ticket, now, shows_trip=False)
        evidence = self._state.evidence.passed(arrived, accepted=False)
        self._change(level=self._state.level - 1, evidence=evidence, zero=None)

    def released(self, ticket: int, now: float) -> None:
        """Take note that a create never came as far as the rate limiter."""
        self._answered(ticket, now, shows_trip=False)

    def limited(self, ticket: int, now: float, wait: float | None) -> None:
        """Take note of a refusal by the rate limiter, which costs a token; ``wait`` is what it named, in seconds."""
        at, create, arrived = self._answered(ticket, now)
        before = self._state
        is_news = before.is_after_refusal(create)
        self._change(refusals=before.refusals + 1, refused_at=at, in_a_row=before.in_a_row + is_news)
        # Once, "0.00 seconds" is a wait like any other; repeated, it is what a limit below 1 says for ever.
        if wait is None or not 0 <= wait < math.inf or (wait < _ROUNDING and before.blind):
            self._back_off(at)
            return
        trip = at - create.sent_at
        ahead = sum(other.ticket < ticket for other in before.in_flight)
        refusal = Refusal(
            create=create,
            is_news=is_news,
            answered_at=at,
            wait=wait,
            zero_at=arrived + wait,
            error=2 * _ROUNDING + (trip + (before.round_trip or trip)) / 2,
            evidence=before.evidence.ahead(ahead),
            every_trip=before.every_trip,
        )
        self._state = heard_refusal(self._state, refusal)
        self._change(overflow=0.0, blind=int(wait < _ROUNDING))
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
        creates = self._state.in_flight
        # They stand in the order in which they were sent, so that nearly always a look at the first is enough.
        if is_gone is None and not (creates and creates[0].sent_at < sent_before):
            return 0
        # Each owner once: the system is asked about it, while the gate is held.
        owners = {create.owner for create in creates if create.sent_at >= sent_before}
        gone = set() if is_gone is None else set(filter(is_gone, owners))
        lost = [create.ticket for create in creates if create.sent_at < sent_before or create.owner in gone]
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

    def _back_off(self, at: float) -> None:
        """Wait after a refusal that does not say how long, longer each time."""
        state = self._state
        pause = FULL_AFTER if state.belief is None else 1 / state.belief.rate
        self._change(
            level=min(state.level - 1, 0.0),
            hold_until=at + max(pause, min(pause * 2.0 ** min(state.blind, 60), _LONGEST_BACK_OFF)),
            blind=state.blind + 1,
            evidence=Evidence(opening=state.evidence.opening),
            narrow_until=0,
            zero=None,
        )

    def _place_at(self, at: float) -> float:
        """Return when there is a place for one more create, whatever the level, in seconds.

        A create whose answer does not come keeps its token, for nobody knows when the bridge takes it, but after a few
        round trips no longer its place: else two that hang would stop everything for as long as a request may take.
        """
        state = self._state
        if state.max_in_flight is not None and not state.learning:
            return at if len(state.in_flight) < state.max_in_flight else math.inf
        if len(state.in_flight) < self._room():
            return at
        trip = state.round_trip
        patience = _PATIENCE_AT_FIRST if trip is None else max(_LEAST_PATIENCE, PATIENCE_TRIPS * trip)
        frees_at = sorted(frees for one in state.in_flight if (frees := one.sent_at + patience) > at)
        too_many = len(frees_at) - self._room()
        return at if too_many < 0 else frees_at[too_many]

    def _room(self, *, ramp: bool = True) -> int:
        """Return how many creates may be in flight at once, whatever the level; without ``ramp``, later on."""
        state = self._state
        if state.belief is None or state.learning:
            return self._room_to_learn()
        if state.max_in_flight is not None:
            return state.max_in_flight
        useful = math.ceil(2 * state.belief.rate * (state.round_trip or 0.0))
        return 1 + (min(useful, state.evidence.accepted) if ramp else useful)

    def _room_to_learn(self) -> int:
        """Return how many creates may be in flight while the limit is not known.

        When the first of them is refused so are the rest, so at first it is one. But where round trips are long no
        create would ever be refused, and none would go faster: the more have passed, and the longer they took, the more
        may go at once, and those that the limit can use that is proven by now.
        """
        state = self._state
        trip = state.round_trip or 0.0
        if state.evidence.count < state.narrow_until:
            return 1
        every = max(_WIDER_EVERY, _WIDER_TRIPS * trip)
        slow = min(_MOST_WIDER, int(state.evidence.accepted * trip / every))
        return 1 + slow + int(max(0.0, state.evidence.least(state.at, coupled=True)) / 60 * trip)

    def _is_full(self, at: float, level: float) -> bool:
        """Return whether the bucket is thought to be full, with so many tokens."""
        state, last_at = self._state, self._state.evidence.last_at
        if state.belief is None or state.learning:
            return last_at is None or at - last_at > _TRAIN_GAP
        return level >= state.belief.burst and not state.in_flight

    def _answered(self, ticket: int, now: float, *, shows_trip: bool = True) -> tuple[float, InFlight, float]:
        """Take a create out of flight; return now, the create, and about when it arrived at the bridge."""
        at = self._clock(now)
        state = self._state
        place = next((place for place, create in enumerate(state.in_flight) if create.ticket == ticket), None)
        if place is None:
            raise UsageError(f"no create in flight has the ticket {ticket}: each is answered exactly once")
        create = state.in_flight[place]
        trip = at - create.sent_at
        usual = trip if state.round_trip is None else state.round_trip
        news: dict[str, Any] = {"in_flight": state.in_flight[:place] + state.in_flight[place + 1 :]}
        if shows_trip:
            # One that was stuck says little of the others, and a request that timed out says nothing.
            news["round_trip"] = usual + (min(trip, PATIENCE_TRIPS * usual) - usual) / 8
            news["shortest_trip"] = trip if state.shortest_trip is None else min(trip, state.shortest_trip)
            news["trips"] = state.trips + 1
        self._settle(at, **news)
        return at, create, create.sent_at + min(trip, 2 * usual) / 2

    def _settle(self, at: float, **news: Any) -> None:
        """Bring the level up to date, with what else is new; ``at`` is a time of ``_clock``."""
        state = self._state
        filled = state.level_at(at, math.inf)
        level = filled if state.belief is None else min(state.belief.burst, filled)
        self._state = evolved(state, at=at, level=level, overflow=state.overflow + filled - level, **news)

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
                narrow_until=0,
                zero=None,
            )
        return max(now, self._state.at)

    def _change(self, **changes: Any) -> None:
        self._state = evolved(self._state, **changes)

    def _conclude(self, at: float, ticket: int, attempt: Attempt) -> None:
        if attempt.outcome is Outcome.LIMITED:
            self.limited(ticket, at, attempt.wait)
        elif attempt.outcome is Outcome.ACCEPTED:
            self.accepted(ticket, at)
        else:
            (self.released if attempt.outcome is Outcome.RELEASED else self.charged)(ticket, at)
