"""The learned completion hazard."""

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.pacing.age_bins import BINS, BinCounts, HazardSnapshot
from crynux_async.pacing.hazard import Hazard

ages = st.floats(0.0, 50_000.0)
intervals = st.tuples(ages, ages).map(sorted)
outcomes = st.sampled_from(["running", "completed", "failed"])
histories = st.lists(st.tuples(intervals, outcomes), max_size=30)
History = list[tuple[list[float], str]]


def learned_from(history: History, hint: float = 1200.0) -> Hazard:
    hazard = Hazard(hint)
    for (seen, age), outcome in history:
        if outcome == "running":
            hazard.observe_running(seen, age)
        else:
            hazard.observe_end(seen, age, failed=outcome == "failed")
    return hazard


def hidden_delay(hazard: Hazard, age: float, tau: float) -> float:
    """Integrate lambda(age + s) (tau - s) over s from 0 to tau, piece by piece between the bins' edges."""
    edges = [10.0 * 1.04**k for k in range(500)]
    points = [age, *(edge for edge in edges if age < edge < age + tau), age + tau]
    total = 0.0
    for low, high in pairwise(points):
        rate = hazard.rate_at((low + high) / 2)
        total += rate * ((tau + age) * (high - low) - (high * high - low * low) / 2)
    return total


def mass_between(snapshot: HazardSnapshot, low: float, high: float) -> float:
    """Sum the events of the bins that lie at least half within two ages."""
    middles = {one.number: 10.0 * 1.04 ** (one.number - 0.5) if one.number else 5.0 for one in snapshot.bins}
    return sum(ended(one) for one in snapshot.bins if low <= middles[one.number] <= high)


def ended(counts: BinCounts) -> float:
    return counts.completed + counts.failed


def run_to_end(hazard: Hazard, duration: float, interval: float) -> None:
    """Poll one job at a fixed interval until its end is seen."""
    age = 0.0
    while age + interval < duration:
        hazard.observe_running(age, age + interval)
        age += interval
    hazard.observe_end(age, age + interval)


@pytest.mark.parametrize("age", [0.0, 9.0, 700.0, 3e5, 1e9])
def test_next_delay_nothing_learned_is_square_root_of_flat_hazard(age: float) -> None:
    assert Hazard(900.0).next_delay(age, 3.0) == pytest.approx(math.sqrt(2 * 3.0 * 900.0), rel=1e-6)


def test_next_delay_flat_learned_hazard_is_square_root_formula() -> None:
    hazard = Hazard()
    rng = random.Random(5)
    for _ in range(1500):
        run_to_end(hazard, rng.expovariate(1 / 600.0), 20.0)
    assert hazard.next_delay(300.0, 2.0) == pytest.approx(math.sqrt(2 * 2.0 * 600.0), rel=0.15)


@settings(max_examples=80, deadline=None)
@given(histories, ages, st.floats(0.01, 1000.0), st.floats(60.0, 1e5))
def test_next_delay_any_history_hides_exactly_the_target(
    history: History, age: float, target: float, hint: float
) -> None:
    hazard = learned_from(history, hint)
    tau = hazard.next_delay(age, target)
    assert hidden_delay(hazard, age, tau) == pytest.approx(target, rel=1e-4, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(histories, ages, st.floats(0.01, 100.0), st.floats(1.0, 500.0))
def test_next_delay_minimum_above_the_answer_is_returned(
    history: History, age: float, target: float, minimum: float
) -> None:
    hazard = learned_from(history)
    free = hazard.next_delay(age, target)
    assert hazard.next_delay(age, target, minimum) == max(free, minimum)


@settings(max_examples=50, deadline=None)
@given(histories, ages, st.floats(0.01, 100.0))
def test_next_delay_larger_target_is_never_sooner(history: History, age: float, target: float) -> None:
    hazard = learned_from(history)
    assert hazard.next_delay(age, 2 * target) >= hazard.next_delay(age, target)


def test_next_delay_sharp_window_learned_sleeps_until_it_and_looks_often_in_it() -> None:
    hazard = Hazard()
    for i in range(200):
        run_to_end(hazard, 1000.0 + i * 61 % 200, 30.0)
    first = hazard.next_delay(0.0, 2.0)
    assert 700.0 < first < 1100.0
    assert hazard.next_delay(1150.0, 2.0) < 40.0


@settings(max_examples=80, deadline=None)
@given(histories)
def test_totals_any_history_count_every_end_and_second(history: History) -> None:
    hazard = learned_from(history)
    ends = sum(outcome != "running" for _, outcome in history)
    running = sum(age - seen for (seen, age), outcome in history if outcome == "running")
    at_most = sum(age - seen for (seen, age), _ in history)
    bins = hazard.snapshot().bins
    assert sum(map(ended, bins)) == pytest.approx(ends)
    assert sum(one.failed for one in bins) == pytest.approx(sum(outcome == "failed" for _, outcome in history))
    assert running - 1e-3 <= sum(one.exposure for one in bins) <= at_most + 1e-3


def test_observe_running_one_interval_or_many_teach_the_same() -> None:
    whole, parts = Hazard(), Hazard()
    whole.observe_running(3.0, 4321.0)
    for low, high in pairwise([3.0, 7.0, 10.0, 55.5, 900.0, 4000.0, 4321.0]):
        parts.observe_running(low, high)
    for one, many in zip(whole.snapshot().bins, parts.snapshot().bins, strict=True):
        assert one.number == many.number
        assert one.exposure == pytest.approx(many.exposure)


def test_observe_running_age_not_above_seen_teaches_nothing() -> None:
    hazard = Hazard()
    hazard.observe_running(100.0, 100.0)
    hazard.observe_running(100.0, 50.0)
    assert hazard.totals == (0.0, 0.0)
    assert not hazard.changed


def test_observe_end_nothing_known_is_spread_evenly_over_a_short_interval() -> None:
    hazard = Hazard(1e6)
    hazard.observe_end(1000.0, 2000.0)
    assert mass_between(hazard.snapshot(), 1000.0, 1500.0) == pytest.approx(0.5, abs=0.05)


def test_observe_end_nothing_known_counts_half_of_the_interval_as_lived() -> None:
    hazard = Hazard(1e6)
    hazard.observe_end(1000.0, 2000.0)
    assert hazard.totals[1] == pytest.approx(500.0, rel=0.02)
    assert sum(one.exposure for one in hazard.snapshot().bins) == pytest.approx(500.0, rel=0.02)


def test_observe_end_long_interval_is_attributed_to_the_known_window() -> None:
    hazard = Hazard()
    for i in range(100):
        run_to_end(hazard, 1000.0 + i, 10.0)
    before = mass_between(hazard.snapshot(), 970.0, 1140.0)
    hazard.observe_end(300.0, 3000.0)
    assert mass_between(hazard.snapshot(), 970.0, 1140.0) - before > 0.9


@pytest.mark.parametrize("age", [600.0, 550.0])
def test_observe_end_not_after_the_last_look_is_one_event_without_exposure(age: float) -> None:
    hazard = Hazard()
    hazard.observe_end(600.0, age)
    assert hazard.totals == (1.0, 0.0)
    assert mass_between(hazard.snapshot(), 580.0, 620.0) == pytest.approx(1.0)


def test_rate_at_more_ends_at_an_age_raises_it_there_and_not_far_away() -> None:
    hazard = Hazard()
    hazard.observe_running(0.0, 5000.0)
    before_near, before_far = hazard.rate_at(500.0), hazard.rate_at(4000.0)
    hazard.observe_end(495.0, 505.0)
    assert hazard.rate_at(500.0) > 2 * before_near
    assert hazard.rate_at(4000.0) == pytest.approx(before_far)


def test_learning_very_many_ends_weighs_no_more_than_a_thousand() -> None:
    hazard = Hazard()
    for i in range(2000):
        run_to_end(hazard, 3000.0 + i * 61 % 300, 150.0)
    assert hazard.totals[0] <= 1.03 * 1024
    # The shape is what it was: nobody ends before 3000 s, and by 3500 s all have.
    assert hazard.next_delay(0.0, 2.0) > 2400.0
    assert hazard.next_delay(3100.0, 2.0) < 60.0


@pytest.mark.parametrize(("before", "after"), [(1200.0, 120.0), (1200.0, 600.0), (600.0, 1200.0), (120.0, 1200.0)])
def test_learning_kind_that_changed_is_learned_anew_from_a_few_ends(before: float, after: float) -> None:
    hazard = Hazard()
    for i in range(1000):
        run_to_end(hazard, before * (0.95 + i * 61 % 100 / 1000), before / 40)
    for i in range(60):
        run_to_end(hazard, after * (0.95 + i * 61 % 100 / 1000), after / 40)
    # Of those that got as far as 0.95 of the new duration most end within a tenth of it.
    passed = sum(hazard.rate_at(after * (0.95 + k / 1000)) * after / 1000 for k in range(100))
    assert math.exp(-passed) < 0.5


def test_learning_batch_whose_quick_jobs_end_first_is_no_change() -> None:
    hazard = Hazard()
    for i in range(400):
        run_to_end(hazard, 1000.0 + i * 61 % 400, 20.0)
    # A hundred jobs of the same kind, all begun at once: their ends come in the order of their durations.
    for age in range(0, 1420, 20):
        for i in range(100):
            duration = 1000.0 + 4 * i
            if age + 20 < duration:
                hazard.observe_running(age, age + 20)
            elif age < duration:
                hazard.observe_end(age, age + 20)
    assert hazard.totals[0] == pytest.approx(500.0)


def test_observe_end_failed_is_put_where_failures_are_and_not_where_ends_are_expected() -> None:
    hazard = Hazard()
    for i in range(300):
        run_to_end(hazard, 1000.0 + i * 61 % 200, 30.0)
    hazard.observe_end(0.0, 1500.0, failed=True)
    failed = {one.number: one.failed for one in hazard.snapshot().bins if one.failed}
    # Nothing is known of failures: it is as likely in any second of a life, which takes 1100 s on average.
    early = sum(part for number, part in failed.items() if 10.0 * 1.04**number <= 750.0)
    assert early == pytest.approx(750 / 1100, abs=0.1)
    assert sum(failed.values()) == pytest.approx(1.0)


def test_failing_at_many_early_failures_are_looked_for_early() -> None:
    hazard = Hazard()
    for i in range(300):
        run_to_end(hazard, 1000.0 + i * 61 % 200, 30.0)
    assert hazard.next_delay(0.0, 2.0) > 700.0
    for _ in range(100):
        hazard.observe_running(0.0, 50.0)
        hazard.observe_end(50.0, 70.0, failed=True)
    assert hazard.failing_at(60.0) > 100 * hazard.failing_at(500.0)
    assert hazard.next_delay(0.0, 2.0) < 75.0
    # Those that did not fail are still left alone until they are expected.
    assert hazard.next_delay(100.0, 2.0) > 200.0


@settings(max_examples=50, deadline=None)
@given(histories, ages, st.floats(0.01, 100.0))
def test_restore_snapshot_gives_the_same_plans(history: History, age: float, target: float) -> None:
    hazard = learned_from(history)
    copy = Hazard()
    copy.restore(hazard.snapshot())
    assert copy.next_delay(age, target) == pytest.approx(hazard.next_delay(age, target), rel=1e-6)


def test_snapshot_nothing_learned_is_empty() -> None:
    assert Hazard().snapshot().bins == ()


def test_snapshot_clears_changed_until_something_is_learned() -> None:
    hazard = Hazard()
    hazard.observe_running(0.0, 60.0)
    assert hazard.changed
    hazard.snapshot()
    assert not hazard.changed
    hazard.observe_end(60.0, 90.0)
    assert hazard.changed


def test_restore_into_what_was_learned_adds_up() -> None:
    one, two = Hazard(), Hazard()
    run_to_end(one, 1000.0, 100.0)
    run_to_end(two, 2000.0, 100.0)
    one.restore(two.snapshot())
    assert one.totals[0] == pytest.approx(2.0)


numbers = st.one_of(st.floats(0.0, 1e12), st.sampled_from([0.0, 5e-324, 1e-300, 1e12]))
counts = st.builds(BinCounts, number=st.integers(0, BINS - 1), completed=numbers, failed=numbers, exposure=numbers)
anything = st.one_of(st.floats(), st.sampled_from([-1.0, 0.0, 1e308, math.inf, math.nan]))


@settings(max_examples=120, deadline=None)
@given(
    snapshots=st.lists(st.lists(counts, max_size=8), min_size=1, max_size=3),
    hint=st.floats(0.0, exclude_min=True, allow_infinity=False),
    looks=st.lists(st.tuples(anything, anything, outcomes), max_size=8),
    target=st.floats(1e-6, 1e6),
)
def test_restore_whatever_can_be_stored_never_breaks_what_comes_after(
    snapshots: list[list[BinCounts]], hint: float, looks: list[tuple[float, float, str]], target: float
) -> None:
    hazard = Hazard(hint)
    for bins in snapshots:
        hazard.restore(HazardSnapshot(bins=tuple(bins)))
    for seen, age, outcome in looks:
        if outcome == "running":
            hazard.observe_running(seen, age)
        else:
            hazard.observe_end(seen, age, failed=outcome == "failed")
        assert 0.0 <= hazard.next_delay(age, target) < math.inf
    assert hazard.next_delay(0.0, target, 5.0) >= 5.0
    HazardSnapshot.from_json(hazard.snapshot().to_json())


@pytest.mark.parametrize("hint", [0.0, -1.0, math.inf, math.nan])
def test_hazard_impossible_hint_is_refused(hint: float) -> None:
    with pytest.raises(ValueError, match="hint"):
        Hazard(hint)


def test_repr_tells_what_was_learned() -> None:
    hazard = Hazard(600.0)
    hazard.observe_running(0.0, 90.0)
    assert repr(hazard) == "<Hazard: 0 ends in 90 job-seconds, hint 600 s>"
