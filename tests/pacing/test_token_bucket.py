"""The mirror of the bridge's bucket, judged by a port of the limiter that the bridge runs."""

import heapq
import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import cattrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.errors import UsageError
from crynux_async.pacing.bucket_snapshot import BucketSnapshot
from crynux_async.pacing.token_bucket import Attempt, Outcome, TokenBucket
from tests.go_limiter import Bridge

JOBS = 60
SEEDS = range(12)
Delays = Iterator[tuple[float, float]]


def jittered(rng: random.Random) -> Delays:
    """Seconds there and back: a round trip of about 0.18 s, at times half as long again."""
    while True:
        trip = 0.18 * rng.uniform(0.75, 1.5)
        there = trip * rng.uniform(0.4, 0.6)
        yield there, trip - there


def cycled(delays: Iterable[tuple[float, float]]) -> Delays:
    return itertools.cycle(delays)


@attrs.define
class Run:
    """Jobs that pass through buckets to one bridge, event by event, on a time of their own."""

    buckets: list[TokenBucket]
    bridge: Bridge
    delays: Delays
    now: float = 0.0
    queued: int = 0
    refusals: int = 0
    queries: int = 0
    sent_at: list[float] = attrs.field(factory=list)
    accepted_at: list[float] = attrs.field(factory=list)
    done_at: list[float] = attrs.field(factory=list)
    attempts: list[Attempt] = attrs.field(factory=list)
    # when, order, what to do
    events: list[tuple[float, int, Callable[[], None]]] = attrs.field(factory=list)
    order: Iterator[int] = attrs.field(factory=itertools.count)

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), action))

    def arrive(self, times: Iterable[float]) -> None:
        def one() -> None:
            self.queued += 1

        for time in times:
            self.at(time, one)

    def finish(self, jobs: int, *, steps: int = 100_000) -> "Run":
        """Go on until so many jobs were accepted."""
        while len(self.done_at) < jobs and (steps := steps - 1):
            self.step()
        assert len(self.done_at) >= jobs, f"only {len(self.done_at)} of {jobs} were accepted"
        return self

    def step(self) -> None:
        ready_at, bucket = self._next()
        if ready_at <= self.now:
            self._send(bucket)
        elif self.events and self.events[0][0] <= ready_at:
            self.now, _, action = heapq.heappop(self.events)
            action()
        else:
            assert ready_at < math.inf, "nothing is in flight and nothing will ever be ready"
            self.now = ready_at

    def _next(self) -> tuple[float, TokenBucket]:
        self.queries += 1
        if not self.queued:
            return math.inf, self.buckets[0]
        times = [bucket.ready_at(self.now) for bucket in self.buckets]
        best = min(range(len(times)), key=lambda i: times[i])
        return times[best], self.buckets[best]

    def _send(self, bucket: TokenBucket) -> None:
        self.queued -= 1
        sent_at, ticket = self.now, bucket.sent(self.now)
        self.sent_at.append(sent_at)
        there, back = next(self.delays)
        index = len(self.attempts)
        self.attempts.append(Attempt(sent_at=sent_at))

        def arrives() -> None:
            wait = self.bridge.check(self.now)
            if wait is None:
                self.accepted_at.append(self.now)
            self.at(self.now + back, lambda: answered(wait))

        def answered(wait: float | None) -> None:
            if bucket not in self.buckets:
                return  # its process is gone
            outcome = Outcome.ACCEPTED if wait is None else Outcome.LIMITED
            self.attempts[index] = Attempt(sent_at=sent_at, answered_at=self.now, outcome=outcome, wait=wait)
            if wait is None:
                bucket.accepted(ticket, self.now)
                self.done_at.append(self.now)
            else:
                bucket.limited(ticket, self.now, wait)
                self.refusals += 1
                self.queued += 1

        self.at(self.now + there, arrives)


def run(bucket: TokenBucket, bridge: Bridge, *, seed: int = 0, jobs: int = JOBS) -> Run:
    """Return a finished run of jobs that are all there at the beginning."""
    return Run([bucket], bridge, jittered(random.Random(seed)), queued=jobs).finish(jobs)


def known(limit: float, **arguments: int | None) -> TokenBucket:
    return TokenBucket(limit_per_minute=limit, now=0.0, **arguments)


def unknown() -> TokenBucket:
    return TokenBucket(limit_per_minute=None, now=0.0)


def most_in_a_window(times: Sequence[float], window: float) -> int:
    ordered = sorted(times)
    return max(sum(1 for time in ordered[i:] if time < start + window) for i, start in enumerate(ordered))


def assert_within_bucket(times: Sequence[float], burst: int, limit: float) -> None:
    """No window of any length holds more than a bucket lets pass."""
    ordered, most = sorted(times), -math.inf
    # A window from the i-th to the j-th holds j - i + 1: the worst beginning of each end is the best of those before.
    for count, end in enumerate(ordered):
        most = max(most, limit / 60 * end - count)
        assert count + 1 - limit / 60 * end + most <= burst + 1e-6


# The judge -----------------------------------------------------------------------------------------------------------


def test_judge_quick_calls_name_the_waits_of_a_real_bridge():
    bridge = Bridge(1)
    assert [bridge.check(at) for at in (0.0, 0.06, 0.11, 0.17)] == [None, 59.94, 119.89, 179.83]


def test_judge_waiting_exactly_as_told_is_refused_for_ever():
    bridge, now = Bridge(5), 0.0
    for _ in range(5):
        assert bridge.check(now) is None
    wait = bridge.check(now)
    for _ in range(20):
        assert wait is not None
        now += wait
        wait = bridge.check(now)
        assert wait == pytest.approx(12.0, abs=0.02)


def test_judge_limit_below_one_refuses_with_zero_seconds():
    assert Bridge(-3).check(0.0) == 0.0


# A known limit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 5, 20])
@pytest.mark.parametrize("seed", SEEDS)
def test_known_limit_fresh_bucket_is_used_up_without_a_refusal(limit: int, seed: int):
    result = run(known(limit), Bridge(limit), seed=seed)
    assert result.refusals == 0
    assert result.done_at[-1] <= 1.02 * (JOBS - limit) * 60 / limit


def test_known_limit_high_is_used_up_without_a_refusal():
    result = run(known(1200), Bridge(1200), jobs=2400)
    assert result.refusals == 0
    assert result.done_at[-1] <= 1.02 * (2400 - 1200) * 60 / 1200


def test_known_limit_far_above_the_need_delays_nothing():
    result = run(known(6000), Bridge(6000))
    assert result.refusals == 0
    assert result.done_at[-1] < 2.0


times = st.floats(0, 120, allow_nan=False)
trips = st.tuples(st.floats(0, 60), st.floats(0, 60))


@settings(max_examples=200, deadline=None)
@given(
    limit=st.integers(1, 6000),
    burst=st.none() | st.integers(1, 30),
    in_flight=st.none() | st.integers(1, 16),
    pauses=st.lists(times | st.just(0.0), min_size=1, max_size=50),
    delays=st.lists(trips | st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), min_size=1, max_size=20),
)
def test_known_limit_any_delays_and_arrivals_are_never_refused(limit, burst, in_flight, pauses, delays):
    bucket = known(limit, burst=burst, max_in_flight=in_flight)
    result = Run([bucket], Bridge(limit, burst=burst), cycled(delays))
    result.arrive(itertools.accumulate(pauses))
    result.finish(len(pauses))
    assert result.refusals == 0
    assert_within_bucket(result.accepted_at, bucket.burst or 0, limit)


@settings(max_examples=200, deadline=None)
@given(
    start=st.sampled_from([0.0, 1e6, 1.7e9]),
    limit=st.floats(0.5, 6000),
    in_flight=st.integers(1, 4),
    answers=st.lists(st.tuples(st.floats(0, 30), st.sampled_from(Outcome), st.floats(0, 300)), max_size=25),
)
def test_ready_at_the_instant_it_names_is_ready(start, limit, in_flight, answers):
    bucket, now = TokenBucket(limit_per_minute=limit, now=start, max_in_flight=in_flight), start
    for delay, outcome, wait in answers:
        ready_at = bucket.ready_at(now)
        assert bucket.ready_at(ready_at) <= ready_at < math.inf
        ticket = bucket.sent(ready_at)
        now = ready_at + delay
        answer(bucket, ticket, now, outcome, wait)


def answer(bucket: TokenBucket, ticket: int, now: float, outcome: Outcome, wait: float | None) -> None:
    if outcome is Outcome.LIMITED:
        bucket.limited(ticket, now, wait)
    else:
        {"accepted": bucket.accepted, "charged": bucket.charged, "released": bucket.released}[outcome](ticket, now)


def test_known_limit_burst_of_one_sends_only_after_the_answer():
    bucket = known(1)
    bucket.sent(0.0)
    assert bucket.ready_at(1000.0) == math.inf


def test_known_limit_by_default_sends_one_before_the_first_answer():
    bucket = known(20)
    ticket = bucket.sent(0.0)
    assert bucket.ready_at(0.0) >= 10.0
    bucket.accepted(ticket, 0.2)
    bucket.sent(0.2)
    assert bucket.ready_at(0.2) == 0.2


def test_known_limit_with_room_sends_the_whole_burst_at_once():
    bucket = known(20, max_in_flight=100)
    for _ in range(20):
        assert bucket.ready_at(0.0) <= 0.0
        bucket.sent(0.0)
    assert bucket.ready_at(0.0) == math.inf


def test_known_limit_creates_that_hang_keep_their_tokens_and_give_up_their_places():
    bucket = known(20)
    for at in (0.0, 0.2, 0.4):
        bucket.accepted(bucket.sent(at), at + 0.2)
    for tokens_left in range(16, -1, -1):
        sent_at = bucket.ready_at(1.0)
        # Two may be in flight at once, and each that hangs holds its place for two seconds.
        assert sent_at <= 1.0 + 2.0 * (17 - tokens_left)
        bucket.sent(sent_at)


def test_known_limit_creates_that_hang_never_take_more_tokens_than_there_are():
    bucket, sent, now = known(20), 0, 0.0
    while (when := bucket.ready_at(now)) < math.inf:
        now = max(now, when)
        bucket.sent(now)
        sent += 1
    assert sent == 20


def test_known_limit_answer_that_came_after_a_minute_does_not_make_the_next_patient():
    bucket = known(20)
    for at in (0.0, 0.2, 0.4):
        bucket.accepted(bucket.sent(at), at + 0.2)
    bucket.charged(bucket.sent(1.0), 61.0)
    bucket.accepted(bucket.sent(61.0), 61.2)
    assert bucket.snapshot().round_trip == pytest.approx(0.2)


@pytest.mark.parametrize("limit", [60, 120])
@pytest.mark.parametrize("seed", range(4))
def test_known_limit_one_create_of_twenty_that_hangs_for_a_minute_costs_little_time(limit: int, seed: int):
    rng = random.Random(seed)
    trips = jittered(rng)
    delays = ((30.0, 30.0) if rng.random() < 0.05 else next(trips) for _ in itertools.count())
    result = Run([known(limit)], Bridge(limit), delays, queued=600).finish(600)
    assert result.refusals == 0
    # The last may be one that hangs.
    assert result.done_at[-1] <= 1.05 * (600 - limit) * 60 / limit + 60


def test_known_limit_empty_at_the_start_costs_one_refusal():
    result = run(known(20), Bridge(20, debt=0))
    assert result.refusals == 1
    assert result.done_at[-1] <= 1.05 * JOBS * 3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("changed_at", [2.0, 30.0, 31.7, 60.0])
def test_known_limit_lowered_on_the_way_costs_two_refusals(changed_at: float, seed: int):
    bucket, bridge = known(20), Bridge(20)
    result = Run([bucket], bridge, jittered(random.Random(seed)), queued=JOBS)
    result.at(changed_at, lambda: bridge.update(5, changed_at))
    result.finish(JOBS)
    assert result.refusals <= 2
    assert bucket.limit_per_minute == 5
    used = 20 + changed_at / 3
    assert result.done_at[-1] <= 1.10 * (changed_at + (JOBS - used) * 12)


def test_known_limit_raised_on_the_way_stays_the_most_that_is_sent():
    bridge = Bridge(5)
    result = Run([known(5)], bridge, jittered(random.Random(1)), queued=200)
    result.at(60.0, lambda: bridge.update(20, 60.0))
    result.finish(200)
    assert result.refusals == 0
    assert_within_bucket(result.accepted_at, 5, 5)


@pytest.mark.parametrize(("before", "after"), [(1, 20), (5, 20), (5, 6), (20, 60)])
@pytest.mark.parametrize("seed", range(2))
def test_unknown_limit_raised_after_learning_is_found_within_an_hour_of_creates(before: int, after: int, seed: int):
    bucket, bridge = unknown(), Bridge(before)
    result = Run([bucket], bridge, jittered(random.Random(seed)), queued=10**6)
    result.at(600.0, lambda: bridge.update(after, 600.0))
    result.finish(before * 70 + after * 10)
    assert (bucket.limit_per_minute, bucket.burst) == (after, before)
    assert result.refusals <= 5  # to learn the first, to find the second, and up to three tries to be certain of it
    assert_within_bucket(result.accepted_at, before, after)


def test_unknown_limit_that_stays_is_tried_after_one_and_four_hours_of_creates():
    result = Run([unknown()], Bridge(20), jittered(random.Random(3)), queued=10_000).finish(10_000)
    assert result.refusals == 3
    assert result.done_at[-1] <= 1.01 * (10_000 - 20) * 3


def test_unknown_limit_refilled_by_a_restart_is_learned_again():
    bucket, bridge = unknown(), Bridge(5)
    result = Run([bucket], bridge, jittered(random.Random(6)), queued=1000)
    result.at(30 * 60.0, lambda: setattr(bridge.limiter, "tokens", 5.0))
    result.finish(1000)
    assert (bucket.limit_per_minute, bucket.burst) == (5, 5)
    assert result.refusals <= 4


# A limit that is named anew ------------------------------------------------------------------------------------------


def named_anew(bucket: TokenBucket, limit: float | None, bridge: Bridge, *, sent: int, jobs: int) -> Run:
    """Send some jobs, name another limit as a new session does, and send the rest."""
    result = Run([bucket], bridge, jittered(random.Random(11)), queued=sent).finish(sent)
    result.buckets = [TokenBucket.restore(bucket.snapshot(), result.now)]
    result.buckets[0].reconfigure(limit, None, result.now)
    result.queued = jobs
    return result.finish(sent + jobs)


@pytest.mark.parametrize("sent", [1, 3, 5, 20])
def test_reconfigure_a_limit_that_was_unknown_or_learned_costs_no_refusal(sent: int):
    plain = run(unknown(), Bridge(5), jobs=sent).refusals
    result = named_anew(unknown(), 5, Bridge(5), sent=sent, jobs=40)
    assert result.refusals == plain
    assert result.buckets[0].limit_per_minute == 5
    assert_within_bucket(result.accepted_at, 5, 5)


def test_reconfigure_a_higher_limit_is_followed_at_once():
    bridge = Bridge(5)
    bucket = unknown()
    result = Run([bucket], bridge, jittered(random.Random(11)), queued=20).finish(20)
    bridge.update(20, result.now)
    bucket.reconfigure(20, None, result.now)
    result.queued, began = 60, result.now
    result.finish(80)
    assert bucket.limit_per_minute == 20
    assert result.done_at[-1] - began <= 1.05 * 60 * 3
    assert result.refusals <= 3  # one to learn 5, two to find that the burst has stayed


def test_reconfigure_the_same_limit_changes_nothing():
    bucket = run(known(5), Bridge(5), jobs=20).buckets[0]
    before = bucket.snapshot()
    bucket.reconfigure(5, None, before.at)
    assert bucket.snapshot() == before


def test_reconfigure_nothing_where_a_limit_was_given_keeps_it_and_tries_it_seldom():
    result = named_anew(known(5), None, Bridge(20), sent=20, jobs=400)
    assert result.buckets[0].limit_per_minute == 20


def test_reconfigure_keeps_creates_in_flight():
    bucket = known(5)
    ticket = bucket.sent(0.0)
    bucket.reconfigure(20, None, 1.0)
    assert bucket.in_flight == 1
    bucket.accepted(ticket, 2.0)
    assert bucket.in_flight == 0


def test_known_limit_lowered_and_raised_again_is_found_by_trying():
    bucket, bridge = known(20), Bridge(20)
    result = Run([bucket], bridge, jittered(random.Random(2)), queued=300)
    result.at(30.0, lambda: bridge.update(5, 30.0))
    result.at(120.0, lambda: bridge.update(20, 120.0))
    result.finish(300)
    assert bucket.limit_per_minute == 20
    assert result.refusals <= 4


def test_known_limit_above_the_true_one_is_corrected():
    bucket = known(20)
    result = run(bucket, Bridge(5), jobs=200)
    assert bucket.limit_per_minute == 5
    assert result.refusals <= 4
    assert result.done_at[-1] <= 1.05 * (200 - 5) * 12


@pytest.mark.parametrize(("in_flight", "refusals"), [(1, 2), (None, 8)])
@pytest.mark.parametrize("seed", SEEDS)
def test_known_limit_burst_below_it_is_found_out(in_flight: int | None, refusals: int, seed: int):
    bucket, bridge = known(20, max_in_flight=in_flight), Bridge(20, burst=5)
    result = Run([bucket], bridge, jittered(random.Random(seed)))
    for hour in range(8):
        result.arrive([hour * 3600.0] * 20)
    result.finish(160)
    assert (bucket.limit_per_minute, bucket.burst) == (20, 5)
    assert result.refusals <= refusals
    assert sum(sent_at > 5.5 * 3600 for sent_at in result.sent_at) == 40  # none of the last hours is refused


@pytest.mark.parametrize(("limit", "seed"), [(20, 0), (60, 1)])
def test_known_limit_burst_that_others_made_look_low_comes_back_with_time(limit: int, seed: int):
    bucket, bridge = known(limit), Bridge(limit)
    result = Run([bucket], bridge, jittered(random.Random(seed)), queued=10**6)
    for i in range(15 * limit):  # half of the key for half an hour
        result.at(i * 120 / limit, lambda: bridge.check(result.now) and None)
    while result.now < 9000:
        result.step()
    assert (bucket.limit_per_minute, bucket.burst) == (limit, limit)
    in_the_last_hour = sum(done_at >= 5400 for done_at in result.done_at)
    assert in_the_last_hour >= 0.99 * 60 * limit


@pytest.mark.parametrize("seed", SEEDS)
def test_known_limit_burst_that_is_low_is_tried_more_and_more_seldom(seed: int):
    bucket, bridge = known(20), Bridge(20, burst=5)
    result = Run([bucket], bridge, jittered(random.Random(seed)))
    for hour in range(200):
        result.arrive([hour * 3600.0] * 20)
    result.finish(4000)
    # Tried after 256, 512, 1024 and 2048 creates, and each time what is learned costs what it cost at first.
    assert result.refusals <= 5 * 8


# An unknown limit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "jobs"), [(1, 60), (2, 60), (5, 60), (20, 60), (60, 180)])
@pytest.mark.parametrize("seed", SEEDS)
def test_unknown_limit_fresh_bucket_is_learned_from_one_refusal(limit: int, jobs: int, seed: int):
    bucket = unknown()
    result = run(bucket, Bridge(limit), seed=seed, jobs=jobs)
    assert result.refusals == 1
    assert (bucket.limit_per_minute, bucket.burst) == (limit, limit)
    assert result.done_at[-1] <= 1.05 * (jobs - limit) * 60 / limit


@pytest.mark.parametrize("delays", [[(0.01, 0.01)], [(0.4, 0.6)], [(0.1, 0.1), (0.3, 0.1), (0.05, 0.4)]])
def test_unknown_limit_other_round_trips_are_learned_from_one_refusal(delays: list[tuple[float, float]]):
    bucket = unknown()
    result = Run([bucket], Bridge(20), cycled(delays), queued=JOBS).finish(JOBS)
    assert result.refusals == 1
    assert bucket.limit_per_minute == 20


@pytest.mark.parametrize("seed", SEEDS)
def test_unknown_limit_with_pauses_before_is_learned_from_one_refusal(seed: int):
    rng = random.Random(seed)
    bucket = unknown()
    result = Run([bucket], Bridge(5), jittered(rng))
    quiet = list(itertools.accumulate(rng.choice([1.0, 20.0, 3000.0]) for _ in range(4)))
    result.arrive([*quiet, *[quiet[-1] + 5] * 40])
    result.finish(44)
    assert result.refusals == 1
    assert (bucket.limit_per_minute, bucket.burst) == (5, 5)


@pytest.mark.parametrize(("limit", "debt"), [(1, 0), (5, 0), (20, 0), (1, 15), (5, 15), (20, 15)])
@pytest.mark.parametrize("seed", SEEDS)
def test_unknown_limit_empty_or_in_debt_is_learned_from_two_refusals(limit: int, debt: int, seed: int):
    bucket = unknown()
    result = run(bucket, Bridge(limit, debt=debt), seed=seed)
    assert result.refusals <= 2
    assert (bucket.limit_per_minute, bucket.burst) == (limit, limit)
    assert result.done_at[-1] <= 1.10 * (JOBS + debt) * 60 / limit


@pytest.mark.parametrize("level", [1.5, 4.3, 9.1, 16.6])
@pytest.mark.parametrize("seed", SEEDS)
def test_unknown_limit_half_full_bucket_is_learned_from_two_refusals(level: float, seed: int):
    bucket = unknown()
    result = run(bucket, Bridge(20, debt=-level), seed=seed)
    assert result.refusals <= 2
    assert bucket.limit_per_minute == 20
    assert result.done_at[-1] <= 1.10 * (JOBS - level) * 3


@pytest.mark.parametrize(("limit", "burst"), [(20, 1), (20, 5), (5, 20), (1, 20)])
@pytest.mark.parametrize("seed", SEEDS)
def test_unknown_limit_other_than_the_burst_is_learned_from_two_refusals(limit: int, burst: int, seed: int):
    bucket = unknown()
    result = run(bucket, Bridge(limit, burst=burst), seed=seed)
    assert result.refusals <= 2
    assert (bucket.limit_per_minute, bucket.burst) == (limit, burst)
    assert result.done_at[-1] <= 1.10 * (JOBS - burst) * 60 / limit


def test_unknown_limit_with_a_burst_of_one_and_wild_delays_is_learned_from_few_refusals():
    refusals = []
    for seed in range(40):
        rng = random.Random(seed)
        delays = ((trip * part, trip * (1 - part)) for trip, part in wild(rng))
        refusals.append(Run([unknown()], Bridge(20, burst=1), delays, queued=JOBS).finish(JOBS).refusals)
    assert sum(refusals) <= 2 * len(refusals)


def wild(rng: random.Random) -> Iterator[tuple[float, float]]:
    while True:
        yield rng.uniform(0.05, 0.6), rng.uniform(0.1, 0.9)


def test_unknown_limit_other_than_the_burst_is_soon_beyond_doubt():
    result = run(unknown(), Bridge(20, burst=5), jobs=1000)
    assert result.refusals <= 3


def test_unknown_limit_lowered_after_learning_costs_two_more_refusals():
    bucket, bridge = unknown(), Bridge(20)
    result = Run([bucket], bridge, jittered(random.Random(4)), queued=JOBS)
    result.at(31.7, lambda: bridge.update(5, 31.7))
    result.finish(JOBS)
    assert result.refusals <= 3
    assert bucket.limit_per_minute == 5


def test_unknown_limit_herd_costs_one_refusal():
    result = Run([unknown()], Bridge(20), jittered(random.Random(5)), queued=10_000).finish(500)
    assert result.refusals == 1
    assert result.sent_at[-1] <= 1.05 * (500 - 20) * 3


def test_unknown_limit_one_create_in_flight_holds_the_rest():
    bucket = unknown()
    ticket = bucket.sent(0.0)
    assert bucket.ready_at(0.0) == 10.0
    bucket.accepted(ticket, 0.2)
    assert bucket.ready_at(0.2) == 0.2


def test_unknown_limit_learned_from_nothing_waits_a_minute_more_than_told():
    bucket = unknown()
    bucket.limited(bucket.sent(0.0), 0.2, 45.0)
    assert not bucket.known
    assert bucket.ready_at(0.2) == pytest.approx(0.2 + 45 + 60)


def test_unknown_limit_key_used_once_for_priming_is_learned_exactly():
    bucket, bridge = unknown(), Bridge(1)
    assert bridge.check(0.1) is None
    bucket.charged(bucket.sent(0.0), 0.2)
    result = Run([bucket], bridge, jittered(random.Random(6)), now=0.2, queued=5).finish(5)
    assert result.refusals == 1
    assert bucket.limit_per_minute == 1


def test_evidence_stays_small_however_many_creates_there_were():
    bucket, now = unknown(), 0.0
    for gap in range(3000, 0, -1):
        now += gap
        bucket.accepted(bucket.sent(now), now + 0.2)
    evidence = bucket.snapshot().evidence
    assert evidence.count == 3000
    assert len(evidence.marks) <= 64


# Others, other wordings, other clocks --------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [5, 20, None])
@pytest.mark.parametrize("others", [0.1, 1.0, 5.0])
def test_foreign_traffic_for_a_minute_is_followed_and_got_over(limit: int | None, others: float):
    true_limit = limit or 20
    bucket, bridge = TokenBucket(limit_per_minute=limit, now=0.0), Bridge(true_limit)
    result = Run([bucket], bridge, jittered(random.Random(7)), queued=400)
    foreign = [30 + i / others for i in range(int(60 * others))]
    for when in foreign:
        result.at(when, lambda: bridge.check(result.now) and None)
    result.finish(400)
    assert bucket.limit_per_minute == true_limit
    assert result.refusals <= 6
    assert most_in_a_window(result.sent_at, 60) <= 2 * true_limit + result.refusals
    assert result.done_at[-1] <= 1.3 * (400 + len(foreign) - true_limit) * 60 / true_limit


@pytest.mark.parametrize("limit", [1, None])
def test_two_that_do_not_know_of_each_other_do_not_lock_each_other_out(limit: int | None):
    buckets = [TokenBucket(limit_per_minute=limit, now=0.0) for _ in range(2)]
    result = Run(buckets, Bridge(1), jittered(random.Random(8)), queued=40).finish(40)
    assert result.done_at[-1] <= 3 * 39 * 60


@pytest.mark.parametrize("limit", [1, 20, None])
@pytest.mark.parametrize("wait", [None, 0.0, -1.0, math.nan, math.inf])
def test_refusals_that_name_no_wait_are_met_with_longer_and_longer_pauses(limit: int | None, wait: float | None):
    bucket, now = TokenBucket(limit_per_minute=limit, now=0.0), 0.0
    pauses = []
    for _ in range(12):
        ready_at = bucket.ready_at(now)
        pauses.append(ready_at - now)
        now = ready_at + 0.2
        bucket.limited(bucket.sent(ready_at), now, wait)
    shortest = 60 / (limit or 1)
    assert min(pauses[1:]) >= shortest - 0.01
    assert all(later >= earlier - 0.01 for earlier, later in itertools.pairwise(pauses))
    assert 8 * shortest < pauses[-1] <= 3601


def test_refusal_of_unknown_wording_once_costs_one_pause():
    bucket = known(20)
    bucket.limited(bucket.sent(0.0), 0.2, None)
    ready_at = bucket.ready_at(0.2)
    assert ready_at == pytest.approx(3.2, abs=0.01)
    bucket.accepted(bucket.sent(ready_at), ready_at + 0.2)
    bucket.limited(bucket.sent(10.0), 10.2, None)
    assert bucket.ready_at(10.2) == pytest.approx(13.2, abs=0.01)


def test_refusal_that_the_bridge_rounds_to_zero_is_followed():
    bucket = known(20)
    bucket.limited(bucket.sent(0.0), 0.2, 0.0)
    assert bucket.ready_at(0.2) == pytest.approx(0.2 + 3.0, abs=0.02)


def test_refusal_sets_the_level_from_its_wait():
    bucket = known(20)
    bucket.limited(bucket.sent(0.0), 0.2, 7.5)
    assert bucket.ready_at(0.2) == pytest.approx(0.2 + 7.5 + 3.0, abs=0.02)


def test_refusals_of_one_flight_leave_the_longest_wait_standing():
    bucket = known(20, max_in_flight=2)
    first, second = bucket.sent(0.0), bucket.sent(0.0)
    bucket.limited(second, 0.2, 6.0)
    bucket.limited(first, 0.25, 3.0)
    assert bucket.ready_at(0.25) == pytest.approx(0.2 + 6.0 + 3.0, abs=0.02)
    assert bucket.limit_per_minute == 20


def test_released_create_costs_no_token():
    bucket = known(1)
    bucket.released(bucket.sent(0.0), 5.0)
    assert bucket.ready_at(5.0) == 5.0


@pytest.mark.parametrize("end", ["accepted", "charged"])
def test_create_of_any_other_outcome_costs_a_token(end: str):
    bucket = known(1)
    getattr(bucket, end)(bucket.sent(0.0), 5.0)
    assert bucket.ready_at(5.0) == pytest.approx(65.0, abs=0.05)


def test_clock_that_jumps_forwards_allows_one_burst():
    bucket = known(20, max_in_flight=1000)
    for _ in range(20):
        bucket.accepted(bucket.sent(0.0), 0.2)
    assert bucket.ready_at(0.2) > 0.2
    allowed = 0
    while bucket.ready_at(1e9) <= 1e9:
        bucket.sent(1e9)
        allowed += 1
    assert allowed == 20


@pytest.mark.parametrize("limit", [1, 20, None])
@pytest.mark.parametrize("back", [0.001, 30.0, 86_400.0, 1e9])
def test_clock_that_is_set_back_neither_stalls_nor_spins(limit: int | None, back: float):
    bucket, now = TokenBucket(limit_per_minute=limit, now=1e9), 1e9
    shift, sent, queries = 0.0, 0, 0
    bridge = Bridge(limit or 20)  # has a clock of its own
    bridge.limiter.last = 0
    while sent < 30:
        queries += 1
        if sent == 10 and not shift:
            shift = back
        ready_at = bucket.ready_at(now - shift)
        if ready_at > now - shift:
            now = ready_at + shift
            continue
        ticket = bucket.sent(now - shift)
        wait = bridge.check(now - 1e9 + 0.1)
        now += 0.2
        bucket.accepted(ticket, now - shift) if wait is None else bucket.limited(ticket, now - shift, wait)
        sent += 1
    assert queries <= 80
    assert now - 1e9 <= 60 + (30 + 2) * 60 / (limit or 20) + 60


def test_clock_that_is_set_back_with_a_create_in_flight_charges_it():
    bucket = known(1)
    ticket = bucket.sent(1e6)
    assert bucket.ready_at(10.0) == math.inf
    bucket.accepted(ticket, 11.0)
    assert bucket.ready_at(11.0) == pytest.approx(71.0, abs=0.05)


# Restarts and sharing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 5, 20])
@pytest.mark.parametrize("seed", range(4))
def test_replay_after_five_crashes_costs_neither_a_refusal_nor_time(limit: int, seed: int):
    rng = random.Random(seed)
    plain = run(known(limit), Bridge(limit), seed=seed)
    result = Run([known(limit)], Bridge(limit), jittered(random.Random(seed)), queued=JOBS)

    def crash() -> None:
        attempts = rng.sample(result.attempts, len(result.attempts))
        result.buckets[0] = TokenBucket.replay(attempts, limit_per_minute=limit, now=result.now)

    for _ in range(5):
        result.at(rng.uniform(0.3, 0.8 * plain.done_at[-1]), crash)
    while len(result.accepted_at) < JOBS:
        result.step()
    assert result.refusals == 0
    assert result.accepted_at[-1] <= 1.01 * plain.done_at[-1]


@pytest.mark.parametrize(
    ("limit", "bridge"),
    [(20, Bridge(20)), (20, Bridge(5)), (None, Bridge(5)), (None, Bridge(20, debt=3)), (None, Bridge(20, burst=1))],
)
def test_replay_of_a_whole_run_knows_what_the_run_knew(limit: int | None, bridge: Bridge):
    bucket = TokenBucket(limit_per_minute=limit, now=0.0)
    result = run(bucket, bridge, seed=9)
    while bucket.in_flight:
        result.step()
    again = TokenBucket.replay(result.attempts, limit_per_minute=limit, now=result.now)
    assert again.snapshot() == bucket.snapshot()


def faster_past() -> Run:
    """What a process left that knew a limit of 20, met an empty bucket and then a create of somebody else."""
    bridge = Bridge(20, debt=0)
    result = Run([known(20)], bridge, jittered(random.Random(12)), queued=30)
    result.at(60.0, lambda: bridge.check(60.0) and None)
    result.finish(30)
    assert result.refusals == 2
    return result


def test_known_limit_one_create_of_somebody_else_does_not_change_it():
    assert faster_past().buckets[0].limit_per_minute == 20


def test_replay_of_a_faster_past_does_not_exceed_what_was_given():
    past = faster_past()
    seen = TokenBucket.replay(past.attempts, limit_per_minute=None, now=past.now)
    assert (seen.limit_per_minute or 0) > 15
    assert TokenBucket.replay(past.attempts, limit_per_minute=5, now=past.now).limit_per_minute == 5


def test_replay_of_a_faster_past_raises_a_limit_that_was_learned():
    slow = run(unknown(), Bridge(5), jobs=10)
    fast = [
        attrs.evolve(one, sent_at=one.sent_at + 1000, answered_at=(one.answered_at or 0) + 1000)
        for one in faster_past().attempts
    ]
    assert TokenBucket.replay(slow.attempts, limit_per_minute=None, now=900.0).limit_per_minute == 5
    seen = TokenBucket.replay([*slow.attempts, *fast], limit_per_minute=None, now=1200.0)
    assert (seen.limit_per_minute or 0) > 15


def test_replay_of_nothing_is_a_fresh_bucket():
    assert TokenBucket.replay([], limit_per_minute=5, now=9.0).snapshot() == (
        TokenBucket(limit_per_minute=5, now=9.0).snapshot()
    )


def test_replay_of_an_attempt_without_outcome_charges_it_at_the_restart():
    bucket = TokenBucket.replay([Attempt(sent_at=0.0)], limit_per_minute=1, now=100.0)
    assert bucket.in_flight == 0
    assert bucket.ready_at(100.0) == pytest.approx(160.0, abs=0.05)


def test_replay_of_an_attempt_that_may_still_be_under_way_charges_it_later():
    bucket = TokenBucket.replay([Attempt(sent_at=100.0)], limit_per_minute=1, now=100.1)
    assert bucket.ready_at(100.1) == pytest.approx(161.0, abs=0.05)


def test_replay_of_a_refusal_keeps_its_distance():
    attempts = [Attempt(sent_at=0.0, answered_at=0.2, outcome=Outcome.LIMITED, wait=59.9)]
    bucket = TokenBucket.replay(attempts, limit_per_minute=1, now=10.0)
    assert bucket.refusals == 1
    assert bucket.ready_at(10.0) == pytest.approx(0.2 + 59.9 + 60, abs=0.1)


def test_replay_of_released_attempts_costs_nothing():
    attempts = [Attempt(sent_at=float(i), answered_at=i + 0.5, outcome=Outcome.RELEASED) for i in range(9)]
    assert TokenBucket.replay(attempts, limit_per_minute=1, now=10.0).ready_at(10.0) == 10.0


CONVERTER = cattrs.Converter()


def through_json(snapshot: BucketSnapshot) -> BucketSnapshot:
    return CONVERTER.structure(json.loads(json.dumps(CONVERTER.unstructure(snapshot))), BucketSnapshot)


@pytest.mark.parametrize("limit", [20, None])
def test_snapshot_through_json_and_back_is_the_same(limit: int | None):
    bucket = TokenBucket(limit_per_minute=limit, now=0.0)
    result = run(bucket, Bridge(20, debt=1), seed=10, jobs=30)
    bucket.sent(result.now)
    assert through_json(bucket.snapshot()) == bucket.snapshot()


class Shared(TokenBucket):
    """One process's view of a bucket that lives in a row: read before every step, written after."""

    __slots__ = ("row",)
    row: list[BucketSnapshot]

    @classmethod
    def of(cls, row: list[BucketSnapshot]) -> "Shared":
        shared = cls.restore(row[0], row[0].at)
        shared.row = row
        return shared

    def ready_at(self, now: float) -> float:
        return TokenBucket.restore(self.row[0], now).ready_at(now)

    def sent(self, now: float) -> int:
        self._state = through_json(self.row[0])
        ticket = super().sent(now)
        self.row[0] = self.snapshot()
        return ticket

    def accepted(self, ticket: int, now: float) -> None:
        self._state = through_json(self.row[0])
        super().accepted(ticket, now)
        self.row[0] = self.snapshot()


@pytest.mark.parametrize("limit", [1, 20])
def test_snapshot_shared_by_four_processes_makes_one_gate(limit: int):
    row = [known(limit).snapshot()]
    buckets: list[TokenBucket] = [Shared.of(row) for _ in range(4)]
    result = Run(buckets, Bridge(limit), jittered(random.Random(11)), queued=JOBS).finish(JOBS)
    assert result.refusals == 0
    assert result.done_at[-1] <= 1.02 * (JOBS - limit) * 60 / limit


def test_restore_on_a_clock_that_began_anew_refills_nothing():
    bucket = known(1)
    bucket.accepted(bucket.sent(1e6), 1e6 + 0.2)
    again = TokenBucket.restore(bucket.snapshot(), 5.0)
    assert again.ready_at(5.0) == pytest.approx(65.0, abs=0.05)


def test_charge_lost_frees_the_place_of_an_owner_that_is_gone_at_once():
    bucket = known(5)
    bucket.sent(0.0, "dead")
    assert bucket.ready_at(1.0) == 10.0  # one at a time until the first was accepted, or hangs
    bucket.charge_lost(-math.inf, 1.0, lambda owner: owner == "alive")
    assert bucket.in_flight == 1
    bucket.charge_lost(-math.inf, 1.0, lambda owner: owner == "dead")
    assert bucket.in_flight == 0
    assert bucket.ready_at(1.0) == 1.0


def test_charge_lost_asks_about_each_owner_once():
    bucket = known(20)
    for number in range(6):
        bucket.sent(0.0, "abc"[number % 3])
    asked: list[str] = []
    bucket.charge_lost(-math.inf, 1.0, lambda owner: asked.append(owner) is not None)
    assert sorted(asked) == ["a", "b", "c"]


def test_charge_lost_frees_the_place_of_a_create_that_nobody_waits_for():
    bucket = known(1)
    bucket.sent(0.0)
    bucket.charge_lost(0.0, 100.0)
    assert bucket.in_flight == 1
    bucket.charge_lost(1.0, 100.0)
    assert bucket.in_flight == 0
    assert bucket.ready_at(100.0) == pytest.approx(160.0, abs=0.05)


# What is expected ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 5, 20, 600])
@pytest.mark.parametrize("position", [0, 10, 59])
def test_expected_at_known_limit_is_when_it_goes(limit: int, position: int):
    bucket = known(limit)
    result = Run([bucket], Bridge(limit), cycled([(0.1, 0.1)]), queued=JOBS + 1).finish(1)
    expected = bucket.expected_at(position, result.now)
    result.finish(position + 2)
    assert result.sent_at[position + 1] == pytest.approx(expected, rel=0.02, abs=1.0)


def test_expected_at_with_a_create_in_flight_is_finite():
    bucket = known(1)
    bucket.sent(0.0)
    assert 0.0 <= bucket.expected_at(0, 0.0) <= bucket.expected_at(1, 0.0) < math.inf


def test_expected_at_unknown_limit_assumes_that_of_a_new_key():
    assert unknown().expected_at(3, 10.0) == 190.0


def test_expected_at_unknown_limit_improves_with_every_accept():
    bucket = unknown()
    for i in range(10):
        bucket.accepted(bucket.sent(0.2 * i), 0.2 * i + 0.2)
    # Ten from a full bucket in two seconds: no limit below 9.7 lets that pass.
    assert bucket.expected_at(30, 2.0) == pytest.approx(2.0 + 30 * 60 / 9.7, rel=0.01)


def test_expected_at_after_a_refusal_is_not_before_it_is_ready():
    bucket = unknown()
    bucket.limited(bucket.sent(0.0), 0.2, 40.0)
    assert bucket.expected_at(0, 0.2) == bucket.ready_at(0.2)


# Bounds --------------------------------------------------------------------------------------------------------------


def test_ticket_answered_twice_is_an_error():
    bucket = known(5)
    ticket = bucket.sent(0.0)
    bucket.accepted(ticket, 1.0)
    with pytest.raises(UsageError, match="exactly once"):
        bucket.limited(ticket, 2.0, 1.0)
    assert bucket.in_flight == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit_per_minute": 0},
        {"limit_per_minute": -1},
        {"limit_per_minute": math.inf},
        {"limit_per_minute": math.nan},
        {"limit_per_minute": 1, "burst": 0},
        {"limit_per_minute": None, "max_in_flight": 0},
    ],
)
def test_bucket_argument_out_of_bounds_is_an_error(arguments: dict[str, float | None]):
    with pytest.raises(ValueError, match="must be"):
        TokenBucket(now=0.0, **arguments)


def test_repr_of_a_bucket_tells_limit_and_level():
    bucket = known(20)
    bucket.accepted(bucket.sent(0.0), 0.2)
    bucket.sent(0.2)
    assert repr(bucket) == "<TokenBucket 20/min, burst 20, level 19.00, 1 in flight, 0 refused>"
    assert "unknown" in repr(unknown())
