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
import sys
from collections.abc import Callable, Iterable
from typing import Any, Self

import attrs

from crynux_async.errors import UsageError
from crynux_async.pacing.belief import LOWEST_LIMIT, Belief
from crynux_async.pacing.bucket_snapshot import BucketSnapshot, InFlight
from crynux_async.pacing.dispute import revised, seen_burst
from crynux_async.pacing.evidence import Evidence, Mark
from crynux_async.pacing.inference import choose, explains, guesses, likeliest
from crynux_async.pacing.trace import FULL_AFTER, Arrival, Trace

_SLOWER = 1 - 2e-4  # the clocks of two machines run up to 200 millionths apart
_ROUNDING = 0.005  # the bridge writes a wait with two digits
_LONGEST_BACK_OFF = 3600.0
_SET_BACK = 60.0  # a clock that is behind by more than this was set; less is waited for
_SURE = 0.1  # tokens less than one at which a create can only pass if the limit is higher
_UNDER_WAY = 1.0  # after so long a create whose process died has arrived
# After so many round trips, or seconds, an answer that does not come holds no other create up any more.
_PATIENCE_TRIPS = 4.0
_LEAST_PATIENCE = 2.0
_PATIENCE_AT_FIRST = 10.0
# While the limit is not known, one more create may be in flight for so many seconds, up to two, and for so many accepts.
_MORE_EVERY = 30.0
_MORE_IN_TIME = 1
_MORE_ACCEPTS = 128
_MOST_MORE = 4
_MAYBE = 0.5  # tokens that a create took of which nobody knows whether it arrived
# How bold to be after the first refusals, and again after so many accepts; then no more is tried but seldom.
_BOLD = (0.8, 0.3, 0.2, 0.1, 0.05, 0.02)
_BOLDER = {64: 0.6, 128: 0.85, 192: 0.97}
_SETTLED_AFTER = 256
_LIKELY = 0.3
_CLOSE = 0.1
_BEYOND_DOUBT = 0.95
_EXACT = 0.5  # tokens in a round trip: with more, no refusal tells exactly
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
        known = state.trace.level(at, belief.rate, belief.burst) if state.belief is None else state.level
        self._change(
            given_limit=limit_per_minute,
            given_burst=burst,
            belief=belief,
            learning=False,
            lessons=0,
            trace=Trace(),
            held_burst=None,
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
        if self._is_time_to_try(state.belief) and needed == 1:
            # Early, for the limit may be higher; by half an interval on arrival, so that twice the limit has filled it.
            missing -= 0.5 + self._lag(at) + state.belief.rate * (state.round_trip or 0.0)
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
            return first + 60 * position / max(state.trace.least_limit(at), LOWEST_LIMIT)
        missing = max(0.0, 1 + len(state.in_flight) + position - self._level(at))
        trips = position if state.belief.burst == 1 else 0  # each waits for the answer to the one before
        refilled_at = at + missing / (state.belief.rate * _SLOWER) + trips * trip
        return max(first + position * trip / self._room(at, ramp=False), refilled_at)

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
        overlap = len(state.in_flight)
        early = not state.learning and state.level + self._lag(at) - overlap < 1 - _SURE
        create = InFlight(ticket=state.next_ticket, sent_at=at, early=early, owner=owner, overlap=overlap)
        evidence = attrs.evolve(state.evidence, train=0) if early or self._is_full() else state.evidence
        self._change(in_flight=(*state.in_flight, create), next_ticket=create.ticket + 1, evidence=evidence)
        return create.ticket

    def accepted(self, ticket: int, now: float) -> None:
        """Take note that a create was accepted."""
        at, create = self._answered(ticket, now, shows_trip=True)
        before = self._state
        # It shows a higher limit only if there was no token even when its answer came.
        early = create.early and before.level + self._lag(at) < 1 - _SURE
        self._pass(at, create, accepted=True)
        self._change(blind=0, in_a_row=0)
        belief = before.belief
        if belief is None or before.learning:
            return
        if belief.is_guess:
            self._guess_again()
        elif early and belief.is_certain and belief.try_after is not None:
            self._begin_to_learn(before, create, at)
        elif belief.try_after is not None:
            least = self._state.evidence.least(at)
            self._change(
                belief=self._allowed(belief.surpassed(least, early=early)),
                learning=early and belief.trusted is None,
            )
        if self._state.belief is not None:
            self._change(belief=self._state.belief.with_usual_burst(self._state.evidence.accepted))

    def charged(self, ticket: int, now: float) -> None:
        """Take note that a create ended otherwise, its token surely or possibly spent."""
        at, create = self._answered(ticket, now)
        self._pass(at, create, accepted=False)

    def released(self, ticket: int, now: float) -> None:
        """Take note that a create never came as far as the rate limiter."""
        self._answered(ticket, now)

    def limited(self, ticket: int, now: float, wait: float | None) -> None:
        """Take note of a refusal by the rate limiter, which costs a token; ``wait`` is what it named, in seconds."""
        at, create = self._answered(ticket, now, shows_trip=True)
        before = self._state
        is_news = before.refused_at is None or create.sent_at >= before.refused_at
        in_a_row = before.in_a_row + is_news
        refused_at = at if is_news else before.refused_at
        self._change(refusals=before.refusals + 1, refused_at=refused_at, in_a_row=in_a_row)
        # Once, "0.00 seconds" is a wait like any other; repeated, it is what a limit below 1 says for ever.
        if wait is None or not 0 <= wait < math.inf or (wait < _ROUNDING and before.blind):
            self._back_off(at)
            return
        self._change(blind=int(wait < _ROUNDING))
        if before.belief is None or before.learning or before.belief.is_guess:
            self._guess(at, create, wait, is_news=is_news)
        elif not self._refine(at, create, wait, is_news=is_news):
            self._dispute(at, create, wait, is_news=is_news)
        self._hold_back(before, at, wait)

    def charge_lost(self, sent_before: float, now: float, is_gone: Callable[[str], bool] | None = None) -> None:
        """Charge the creates in flight whose answer nobody waits for any more.

        Args:
            sent_before: All that were sent before this, in seconds.
            now: Seconds.
            is_gone: Whether an owner has certainly ended: then all of its creates, too.
        """

        def is_lost(create: InFlight) -> bool:
            return create.sent_at < sent_before or (is_gone is not None and is_gone(create.owner))

        for ticket in [create.ticket for create in self._state.in_flight if is_lost(create)]:
            self.charged(ticket, now)

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

    def _pass(self, at: float, create: InFlight, *, accepted: bool) -> None:
        """Charge a create that was not refused."""
        state = self._state
        arrived, error = self._arrival(at, create)
        self._change(level=state.level - 1, evidence=state.evidence.passed(arrived, error, accepted=accepted))
        self._remember(at, create, tokens=1.0 if accepted else _MAYBE)

    def _remember(
        self,
        at: float,
        create: InFlight,
        *,
        wait: float | None = None,
        tokens: float = 1.0,
        is_same_flight: bool = False,
    ) -> None:
        """Add a create to the trace while the limit is not known."""
        state = self._state
        if state.given_limit is None:
            overlap = max(create.overlap, len(state.in_flight))
            arrival = Arrival.between(create.sent_at, at, wait, tokens, overlap)
            trace = state.trace
            add = trace.with_refusal_of_same_flight if is_same_flight else trace.with_arrival
            self._change(trace=add(arrival))

    def _begin_to_learn(self, before: BucketSnapshot, create: InFlight, at: float) -> None:
        """Learn the limit anew after a try has passed: until the create before it the bucket was full, at any limit."""
        belief, last_at = before.belief, before.evidence.last_at
        assert belief is not None
        full = () if last_at is None else (Arrival(at=last_at, spread=before.evidence.last_error / 2),)
        self._change(
            trace=Trace(arrivals=full),
            learning=True,
            lessons=0,
            held_burst=belief.burst,
            evidence=Evidence(count=self._state.evidence.count, last_at=last_at),
        )
        self._remember(at, create)

    def _guess(self, at: float, create: InFlight, wait: float, *, is_news: bool) -> None:
        """Conclude from a refusal what the limit most likely is, if it can be told."""
        self._remember(at, create, wait=wait, is_same_flight=not is_news)
        state = self._state
        arrived, error = self._arrival(at, create)
        mark = Mark(zero_at=arrived + wait, count=0, error=error)
        lessons = state.lessons + is_news
        slower = self._slower(at, create, wait) if is_news else None
        self._change(evidence=state.evidence.refused(mark), lessons=lessons, overflow=0.0)
        self._believe_best(_BOLD[min(lessons, len(_BOLD)) - 1], at_first=lessons == 1)
        self._keep_below(slower)

    def _guess_again(self) -> None:
        """Be bolder the more creates have passed since the last refusal, until nothing faster is likely."""
        state = self._state
        rarer = 2 ** max(0, state.lessons - 2)
        boldness = next((bold for after, bold in _BOLDER.items() if state.evidence.accepted == after * rarer), None)
        if boldness is not None:
            self._believe_best(boldness)
        elif state.evidence.accepted >= _SETTLED_AFTER * rarer and state.belief is not None:
            self._change(belief=state.belief.settled(), held_burst=None)

    def _refine(self, at: float, create: InFlight, wait: float, *, is_news: bool) -> bool:
        """Correct a limit that was learned, and return True, if its creates so far explain the refusal."""
        before = self._state
        belief = before.belief
        assert belief is not None
        if before.given_limit is not None or not belief.is_certain or create.early:
            return False
        self._remember(at, create, wait=wait, is_same_flight=not is_news)
        trace = self._state.trace
        found = guesses(trace, before.given_burst, belief.burst)
        if not found or not explains(trace, best := likeliest(found)):
            self._change(trace=before.trace)
            return False
        if abs(best.limit - belief.limit) > max(1.0, _CLOSE * belief.limit):
            self._change(trace=before.trace, lessons=max(before.lessons, 2))
            self._guess(at, create, wait, is_news=is_news)
            return True
        guess = choose(found, _BOLD[1], before.round_trip or 0.0)
        slower = self._slower(at, create, wait) if is_news else None
        arrived, error = self._arrival(at, create)
        mark = Mark(zero_at=arrived + wait, count=0, error=error)
        self._change(
            belief=attrs.evolve(belief, limit=guess.limit, burst=guess.burst).settled(),
            evidence=before.evidence.refused(mark),
            overflow=0.0,
        )
        self._keep_below(slower)
        return True

    def _slower(self, at: float, create: InFlight, wait: float) -> float | None:
        """Return the limit with which a refusal would not have come, had every create since the last waited its part."""
        belief, learning = self._state.belief, self._state.learning
        if belief is None or learning:
            return None
        creates = 1 if belief.burst == 1 else 1 + self._state.evidence.accepted
        return 60 / (60 / belief.limit + (wait + (at - create.sent_at) / 4) / creates)

    def _keep_below(self, limit: float | None) -> None:
        """Believe in no higher limit than this."""
        belief = self._state.belief
        if belief is not None and limit is not None and limit < belief.limit:
            self._change(belief=attrs.evolve(belief, limit=limit))

    def _believe_best(self, boldness: float, *, at_first: bool = False) -> None:
        """Take the guess below which so large a part of the weight lies, or settle where there is hardly another."""
        state = self._state
        found = guesses(state.trace, state.given_burst, state.held_burst)
        if not found:
            self._change(learning=state.belief is None or state.learning)
            return
        best = likeliest(found)
        # Some other burst or other fits any single refusal.
        is_usual = best.burst in (1, max(1, int(best.limit)), state.held_burst) and best.weight >= _LIKELY
        guess = best if at_first and is_usual else choose(found, boldness, state.round_trip or 0.0)
        belief = Belief.guessed(guess.limit, guess.burst)
        is_exact = best.rate * (state.round_trip or 0.0) <= _EXACT
        same = sum(other.weight for other in found if other.limit == best.limit)
        if is_exact and best.limit == guess.limit and same >= _BEYOND_DOUBT:
            belief = Belief.guessed(best.limit, best.burst).settled()
        self._change(belief=self._allowed(belief), learning=False)

    def _dispute(self, at: float, create: InFlight, wait: float, *, is_news: bool) -> None:
        """Hear what a refusal says against a limit that is known."""
        before = self._state
        assert before.belief is not None
        arrived, error = self._arrival(at, create)
        mark = Mark(zero_at=arrived + wait, count=0, error=error)
        ahead = sum(other.ticket < create.ticket for other in before.in_flight)
        evidence = before.evidence.ahead(ahead)
        if is_news:
            belief = self._allowed(revised(before.belief, evidence, mark, overflow=before.overflow))
            burst, hint = seen_burst(belief, before.belief, evidence, mark, before.burst_hint)
            belief = belief.with_lower_burst(burst) if burst < belief.burst else attrs.evolve(belief, burst=burst)
            self._change(belief=self._allowed(belief), burst_hint=hint)
        refused = evidence.refused(mark)
        self._change(evidence=attrs.evolve(refused, count=before.evidence.count + 1), overflow=0.0)

    def _allowed(self, belief: Belief) -> Belief:
        """Return a belief within what was given, or beyond doubt before."""
        state = self._state
        belief = attrs.evolve(belief, burst=state.given_burst or belief.burst)
        most = state.given_limit if belief.trusted is None else belief.trusted
        if most is None or belief.limit < most:
            return belief
        if most == state.given_limit:
            return Belief(limit=most, burst=belief.burst)
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
            trace=Trace(),
        )

    def _place_at(self, at: float) -> float:
        """Return when there is a place for one more create, whatever the level, in seconds.

        An answer that does not come keeps its token, but after a few round trips no longer its place.
        """
        state = self._state
        if state.max_in_flight is not None and len(state.in_flight) >= state.max_in_flight:
            return math.inf
        trip = state.round_trip
        patience = _PATIENCE_AT_FIRST if trip is None else max(_LEAST_PATIENCE, _PATIENCE_TRIPS * trip)
        frees_at = sorted(free for one in state.in_flight if (free := one.sent_at + patience) > at)
        too_many = len(frees_at) - self._room(at)
        return at if too_many < 0 else frees_at[too_many]

    def _room(self, at: float, *, ramp: bool = True) -> int:
        """Return how many creates may be in flight at once, whatever the level; without ``ramp``, later on."""
        state = self._state
        trip = state.round_trip or 0.0
        most = state.max_in_flight or sys.maxsize
        if state.belief is None or state.learning:
            return min(most, self._room_to_learn(at))
        useful = math.ceil(2 * state.belief.rate * trip)
        return min(most, 1 + (min(useful, state.evidence.accepted) if ramp else useful))

    def _room_to_learn(self, at: float) -> int:
        """Return how many creates may be in flight while the limit is not known.

        Those that the limit may use that is proven by now, and a few more with time and with every accept, for each of
        those is a token lost when the first is refused.
        """
        state = self._state
        accepted, trip = state.evidence.accepted, state.round_trip or 0.0
        slow = min(_MORE_IN_TIME, int(accepted * trip / _MORE_EVERY))
        more = min(_MOST_MORE, slow + accepted // _MORE_ACCEPTS)
        return 1 + more + int(state.trace.least_limit(at) / 60 * trip)

    def _is_time_to_try(self, belief: Belief) -> bool:
        """Return whether the next create is to go early, to see whether the limit is higher."""
        return (
            belief.try_after is not None and not belief.is_guess and self._state.evidence.accepted >= belief.try_after
        )

    def _is_full(self) -> bool:
        """Return whether the bucket is thought to be full."""
        belief = self._state.belief
        if belief is None or self._state.learning:
            return False
        return self._state.level >= belief.burst and not self._state.in_flight

    def _answered(self, ticket: int, now: float, *, shows_trip: bool = False) -> tuple[float, InFlight]:
        """Take a create out of flight; return now and the create."""
        at = self._settle(now)
        state = self._state
        create = next((create for create in state.in_flight if create.ticket == ticket), None)
        if create is None:
            raise UsageError(f"no create in flight has the ticket {ticket}: each is answered exactly once")
        self._change(in_flight=tuple(other for other in state.in_flight if other is not create))
        if shows_trip:
            trip = at - create.sent_at
            usual = trip if state.round_trip is None else state.round_trip
            # One that was stuck says little of the others.
            self._change(round_trip=usual + (min(trip, _PATIENCE_TRIPS * usual) - usual) / 8)
        return at, create

    def _arrival(self, at: float, create: InFlight) -> tuple[float, float]:
        """Return when a create that was answered at ``at`` probably arrived, and how much that may be off, in seconds."""
        trip = at - create.sent_at
        usual = trip if self._state.round_trip is None else self._state.round_trip
        return create.sent_at + min(trip, 2 * usual) / 2, trip / 2 + _ROUNDING

    def _level(self, at: float, most: float | None = None) -> float:
        """Return the tokens at ``at``; ``most`` in place of the burst."""
        state = self._state
        if state.belief is None:
            return state.level
        level = state.level + state.belief.rate * _SLOWER * max(0.0, at - state.at)
        return min(state.belief.burst if most is None else most, level)

    def _lag(self, at: float) -> float:
        """Return how far the level may have fallen behind: it is slower, and began when the last refusal's answer came."""
        belief, refusal = self._state.belief, self._state.evidence.refusal
        if belief is None or refusal is None:
            return 0.0
        return belief.rate * ((1 - _SLOWER) * max(0.0, at - refusal.zero_at) + 2 * refusal.error)

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
                trace=Trace(),
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
