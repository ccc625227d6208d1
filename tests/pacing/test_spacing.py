"""The seconds between two tokens, from refusals and accepts of which each tells a little."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.pacing.spacing import Gap, Moment, Spacing

Way = tuple[float, float]


def arrivals(out: Way, back: Way, pause: float) -> tuple[Moment, float, float, float]:
    """Return what the first create tells, seconds from its arrival to the next, and when that went and came."""
    answered = out[0] + back[0]
    sent_at = answered + pause
    return Moment.between(0.0, answered), sent_at + out[1] - out[0], sent_at, sent_at + out[1] + back[1]


def told(spacing: float, out: Way, back: Way, pause: float = 0.0) -> tuple[Gap, bool]:
    """Return what a create tells that is sent ``pause`` after the answer to one that passed, and whether it passes."""
    first, apart, sent_at, answered = arrivals(out, back, pause)
    wait = max(0.0, spacing - apart)
    return first.until(Moment.between(sent_at, answered, wait)), wait == 0


ways = st.tuples(st.floats(0, 10), st.floats(0, 10))


@given(st.integers(1, 100), ways, ways, st.floats(0, 60))
def test_gap_of_any_create_never_excludes_what_is_true(limit: int, out: Way, back: Way, pause: float) -> None:
    gap, has_passed = told(60 / limit, out, back, pause)
    assert gap.least <= gap.most
    if has_passed:
        assert gap.most >= 60 / limit - 1e-9
    else:
        assert gap.least - 1e-9 <= 60 / limit <= gap.most + 1e-9


@given(st.floats(-5, 5), st.floats(0.1, 10), st.floats(0, 0.9))
def test_gap_chances_fall_from_one_to_nothing_and_are_the_sum_of_the_density(least: float, width: float, part: float):
    gap = Gap(least=least, most=least + width, flat=part * width)
    steps = [least + i * width / 200 for i in range(201)]
    chances = [gap.at_least(at) for at in steps]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(chances))
    assert (chances[0], chances[-1]) == (1.0, pytest.approx(0.0, abs=1e-6))
    middle = sum(gap.density(at) for at in steps[100:]) * width / 200
    assert middle == pytest.approx(0.5, abs=0.05)


def spacing_after(limit: int, refusals: int, accepts: int, seed: int, pause: float = 0.0) -> Spacing:
    """Return what so many refusals tell, and then so many creates that pass, of ways between 0.5 and 3 s."""
    rng, known, seen = random.Random(seed), Spacing(), [0, 0]
    while seen != [refusals, accepts]:
        out, back = ((rng.uniform(0.5, 3), rng.uniform(0.5, 3)) for _ in range(2))
        gap, has_passed = told(60 / limit, out, back, pause if seen[0] == refusals else 0.0)
        if has_passed and seen[0] == refusals:
            known, seen[1] = known.with_accept(gap), seen[1] + 1
        elif not has_passed and seen[0] < refusals:
            known, seen[0] = known.with_refusal(gap), seen[0] + 1
    return known


@pytest.mark.parametrize("seed", range(8))
def test_seconds_after_eight_refusals_are_close_and_rather_too_many(seed: int):
    assert 0.9 * 6 <= spacing_after(10, 8, 0, seed).seconds(3.5, 8) <= 1.3 * 6


def test_seconds_of_round_trips_without_a_way_are_exact():
    gap, _ = told(3.0, (0.0, 0.0), (0.0, 0.0), pause=1.0)
    assert Spacing().with_refusal(gap).seconds(0.0, 1) == 3.0


def test_seconds_where_round_trips_take_the_same_are_exact_however_long_they_are():
    sent_at = 9.0
    moment = Moment.between(0.0, 8.0, shortest_trip=8.0)
    later = Moment.between(sent_at, sent_at + 8.0, 20.0 - sent_at, shortest_trip=8.0)
    assert Spacing().with_refusal(moment.until(later)).seconds(8.0, 1) == 20.0


@pytest.mark.parametrize("seed", range(4))
def test_seconds_are_fewer_when_many_creates_passed_sooner(seed: int):
    before = spacing_after(10, 1, 0, seed)
    pause = max(0.0, before.seconds(3.5, 5) - 4)
    after = spacing_after(10, 1, 200, seed, pause)
    assert after.seconds(3.5, 5) < before.seconds(3.5, 5)
    assert len(after.passed) <= 8


@pytest.mark.parametrize("seed", range(4))
def test_seconds_risk_less_with_every_refusal(seed: int):
    known = spacing_after(10, 2, 0, seed)
    seconds = [known.seconds(0.0, refusals) for refusals in range(1, 8)]
    assert seconds == sorted(seconds)
    assert seconds[0] < seconds[-1]


def test_refusal_that_older_ones_contradict_stands_alone():
    known = Spacing()
    for spacing in (3.0, 3.0, 12.0):
        gap, _ = told(spacing, (0.5, 0.5), (0.5, 0.5))
        known = known.with_refusal(gap)
    assert len(known.refused) == 1
    assert known.seconds(1.0, 9) == pytest.approx(12.0, abs=1.0)


@pytest.mark.parametrize(("passed", "holds_more"), [(2, False), (3, True)])
def test_creates_that_passed_sooner_than_a_refusal_allows_show_a_larger_burst(passed: int, holds_more: bool):
    known = Spacing()
    for _ in range(passed):
        known = known.with_accept(Gap(least=0.1, most=0.3, flat=0.0))
    assert known.with_refusal(Gap(least=2.5, most=3.5, flat=0.0)).holds_more is holds_more
