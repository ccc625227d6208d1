"""The emulator's token bucket."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.emulator.bridge.go_limiter import Buckets, GoLimiter

HERDS = [  # limit, callers, accepted, largest wait, first instant at which anything passes again; seconds
    (1, 60, 1, 3_540, 3_600),
    (5, 60, 5, 660, 672),
    (20, 60, 20, 120, 123),
    (1, 1_000, 1, 59_940, 60_000),
    (20, 10_000, 20, 29_940, 29_943),
]


def herd(limit: int, callers: int) -> tuple[Buckets, list[float]]:
    """Return the buckets after ``callers`` creates at once, and the waits of the refused ones."""
    buckets = Buckets()
    verdicts = [buckets.check(0, limit, 0.0) for _ in range(callers)]
    return buckets, [verdict.wait for verdict in verdicts if not verdict.allowed]


@pytest.mark.parametrize(("limit", "callers", "accepted", "largest", "_first"), HERDS)
def test_herd_on_a_full_bucket_is_accepted_up_to_the_limit(
    limit: int, callers: int, accepted: int, largest: float, _first: float
) -> None:
    _, waits = herd(limit, callers)
    assert callers - len(waits) == accepted
    assert max(waits) == pytest.approx(largest, abs=1e-6)


@pytest.mark.parametrize(("limit", "callers", "_accepted", "_largest", "first"), HERDS)
def test_herd_locks_the_key_until_its_debt_is_paid(
    limit: int, callers: int, _accepted: int, _largest: float, first: float
) -> None:
    early, _ = herd(limit, callers)
    late, _ = herd(limit, callers)
    assert not early.check(0, limit, first - 1e-3).allowed
    assert late.check(0, limit, first + 1e-6).allowed


def test_waits_of_quick_calls_at_one_a_minute_grow_by_a_minute_each() -> None:
    buckets = Buckets()
    verdicts = [buckets.check(0, 1, 0.06 * index) for index in range(4)]
    assert [f"{verdict.wait:.2f}" for verdict in verdicts] == ["0.00", "59.94", "119.88", "179.82"]


@pytest.mark.parametrize("limit", [1, 2, 5, 20, 60, 6000])
def test_create_after_exactly_the_stated_wait_is_refused_every_time(limit: int) -> None:
    buckets = Buckets()
    for _ in range(limit):
        buckets.check(0, limit, 0.0)
    now = 0.0
    for _ in range(50):
        verdict = buckets.check(0, limit, now)
        assert not verdict.allowed
        now += verdict.wait


@pytest.mark.parametrize("limit", [1, 2, 5, 20, 60, 6000])
def test_create_after_the_stated_wait_and_one_interval_is_accepted(limit: int) -> None:
    buckets = Buckets()
    for _ in range(limit):
        buckets.check(0, limit, 0.0)
    wait = buckets.check(0, limit, 0.0).wait
    assert buckets.check(0, limit, wait + 60 / limit + 1e-6).allowed


def test_wait_is_truncated_to_nanoseconds_as_in_go() -> None:
    limiter = GoLimiter(7 * (1 / 60), 7)
    assert [limiter.reserve(0) for _ in range(8)] == [0] * 7 + [8_571_428_571]


def test_changed_limit_of_a_bucket_in_use_changes_the_rate_and_keeps_the_burst() -> None:
    buckets = Buckets()
    assert buckets.check(0, 1, 0.0).allowed
    buckets.change(0, 20, 0.0)
    now = 1_000_000.0
    verdicts = [buckets.check(0, 20, now) for _ in range(2)]
    assert [verdict.allowed for verdict in verdicts] == [True, False]
    assert verdicts[1].wait == pytest.approx(3.0, abs=1e-6)


def test_changed_limit_keeps_the_debt_in_tokens() -> None:
    buckets, _ = herd(1, 11)
    buckets.change(0, 60, 0.0)
    assert buckets.check(0, 60, 0.0).wait == pytest.approx(11.0, abs=1e-6)


def test_changed_limit_of_an_unused_key_makes_a_bucket_with_that_burst() -> None:
    buckets = Buckets()
    buckets.change(0, 3, 0.0)
    assert [buckets.check(0, 1, 0.0).allowed for _ in range(4)] == [True, True, True, False]


def test_forgotten_bucket_is_full_again() -> None:
    buckets, _ = herd(1, 100)
    buckets.forget()
    assert buckets.check(0, 1, 0.0).allowed


def test_buckets_of_two_keys_are_separate() -> None:
    buckets, _ = herd(1, 100)
    assert buckets.check(1, 1, 0.0).allowed


@pytest.mark.parametrize("limit", [0, -1, -60])
def test_limit_that_is_not_positive_refuses_everything_with_no_wait(limit: int) -> None:
    buckets = Buckets()
    verdicts = [buckets.check(0, limit, now) for now in (0.0, 1e6)]
    assert [(verdict.allowed, f"{verdict.wait:.2f}") for verdict in verdicts] == [(False, "0.00")] * 2


def test_bucket_in_use_that_gets_a_negative_limit_names_the_longest_wait_once_empty() -> None:
    buckets = Buckets()
    buckets.check(0, 2, 0.0)
    buckets.change(0, -5, 0.0)
    assert buckets.check(0, -5, 0.0).allowed
    assert f"{buckets.check(0, -5, 9.0).wait:.2f}" == "9223372036.85"


def test_clock_that_goes_back_gives_no_tokens() -> None:
    limiter = GoLimiter(1.0, 1)
    assert limiter.reserve(10_000_000_000) == 0
    assert limiter.reserve(0) == 1_000_000_000


@given(
    limit=st.integers(1, 100),
    gaps=st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_accepted_creates_of_any_window_never_exceed_burst_and_refill(limit: int, gaps: list[float]) -> None:
    buckets = Buckets()
    now = 0.0
    accepted = []
    for gap in gaps:
        now += gap
        if buckets.check(0, limit, now).allowed:
            accepted.append(now)
    for first in range(len(accepted)):
        for last in range(first, len(accepted)):
            window = accepted[last] - accepted[first]
            assert last - first + 1 <= limit + window * limit / 60 + 1e-6


@given(
    limit=st.integers(1, 100),
    gaps=st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_every_call_costs_a_token_whether_refused_or_not(limit: int, gaps: list[float]) -> None:
    buckets = Buckets()
    now, level = 0.0, float(limit)
    for gap in gaps:
        now += gap
        level = min(float(limit), level + gap * limit / 60) - 1
        verdict = buckets.check(0, limit, now)
        assert verdict.wait == pytest.approx(max(0.0, -level * 60 / limit), abs=1e-5)
