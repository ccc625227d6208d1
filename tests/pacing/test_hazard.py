"""The learned completion hazard."""

import json
import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.pacing.hazard import Hazard, HazardSnapshot

ages = st.floats(0.0, 50_000.0)
intervals = st.tuples(ages, ages).map(sorted)
histories = st.lists(st.tuples(intervals, st.booleans()), max_size=30)


def learned_from(history: list[tuple[list[float], bool]], hint: float = 1200.0) -> Hazard:
    hazard = Hazard(hint)
    for (seen, age), ended in history:
        if ended:
            hazard.observe_end(seen, age)
        else:
            hazard.observe_running(seen, age)
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
    middles = {b: 10.0 * 1.04 ** (b - 0.5) if b else 5.0 for b, _, _ in snapshot.bins}
    return sum(events for b, events, _ in snapshot.bins if low <= middles[b] <= high)


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
    for _ in range(3000):
        run_to_end(hazard, rng.expovariate(1 / 600.0), 20.0)
    assert hazard.next_delay(300.0, 2.0) == pytest.approx(math.sqrt(2 * 2.0 * 600.0), rel=0.15)


@settings(max_examples=80, deadline=None)
@given(histories, ages, st.floats(0.01, 1000.0), st.floats(60.0, 1e5))
def test_next_delay_any_history_hides_exactly_the_target(
    history: list[tuple[list[float], bool]], age: float, target: float, hint: float
) -> None:
    hazard = learned_from(history, hint)
    tau = hazard.next_delay(age, target)
    assert hidden_delay(hazard, age, tau) == pytest.approx(target, rel=1e-4, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(histories, ages, st.floats(0.01, 100.0), st.floats(1.0, 500.0))
def test_next_delay_minimum_above_the_answer_is_returned(
    history: list[tuple[list[float], bool]], age: float, target: float, minimum: float
) -> None:
    hazard = learned_from(history)
    free = hazard.next_delay(age, target)
    assert hazard.next_delay(age, target, minimum) == max(free, minimum)


@settings(max_examples=50, deadline=None)
@given(histories, ages, st.floats(0.01, 100.0))
def test_next_delay_larger_target_is_never_sooner(
    history: list[tuple[list[float], bool]], age: float, target: float
) -> None:
    hazard = learned_from(history)
    assert hazard.next_delay(age, 2 * target) >= hazard.next_delay(age, target)


def test_next_delay_sharp_window_learned_sleeps_until_it_and_looks_often_in_it() -> None:
    hazard = Hazard()
    for i in range(200):
        run_to_end(hazard, 1000.0 + i, 30.0)
    first = hazard.next_delay(0.0, 2.0)
    assert 700.0 < first < 1100.0
    assert hazard.next_delay(1150.0, 2.0) < 40.0


@settings(max_examples=80, deadline=None)
@given(histories)
def test_totals_any_history_count_every_end_and_second(history: list[tuple[list[float], bool]]) -> None:
    hazard = learned_from(history)
    ends = sum(ended for _, ended in history)
    running = sum(age - seen for (seen, age), ended in history if not ended)
    at_most = sum(age - seen for (seen, age), _ in history)
    bins = hazard.snapshot().bins
    assert sum(events for _, events, _ in bins) == pytest.approx(ends)
    assert running - 1e-3 <= sum(exposure for _, _, exposure in bins) <= at_most + 1e-3


def test_observe_running_one_interval_or_many_teach_the_same() -> None:
    whole, parts = Hazard(), Hazard()
    whole.observe_running(3.0, 4321.0)
    for low, high in pairwise([3.0, 7.0, 10.0, 55.5, 900.0, 4000.0, 4321.0]):
        parts.observe_running(low, high)
    assert [b for b, _, _ in whole.snapshot().bins] == [b for b, _, _ in parts.snapshot().bins]
    for (_, _, one), (_, _, many) in zip(whole.snapshot().bins, parts.snapshot().bins, strict=True):
        assert one == pytest.approx(many)


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
    assert sum(exposure for _, _, exposure in hazard.snapshot().bins) == pytest.approx(500.0, rel=0.02)


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


def test_learning_kind_became_faster_is_learned_anew() -> None:
    hazard = Hazard()
    for i in range(5000):
        run_to_end(hazard, 3000.0 + i % 300, 150.0)
    for i in range(10_000):
        run_to_end(hazard, 600.0 + i % 60, 30.0)
    assert hazard.totals[0] < 5000
    # Three quarters of what is remembered, or more, is of the new sort: most jobs end in the new window.
    survival = math.exp(-sum(hazard.rate_at(a + 0.5) for a in range(550, 750)))
    assert survival < 0.3


@settings(max_examples=50, deadline=None)
@given(histories, ages, st.floats(0.01, 100.0))
def test_snapshot_through_json_gives_the_same_plans(
    history: list[tuple[list[float], bool]], age: float, target: float
) -> None:
    hazard = learned_from(history)
    stored = json.dumps(hazard.snapshot().to_json())
    copy = Hazard()
    copy.restore(HazardSnapshot.from_json(json.loads(stored)))
    hazard.snapshot()
    assert copy.next_delay(age, target) == pytest.approx(hazard.next_delay(age, target), rel=1e-3)


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


def test_restore_other_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 2"):
        Hazard().restore(HazardSnapshot(version=2))


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        "text",
        [1],
        [2, []],
        [1, [[0, 1.0]]],
        [1, [[-1, 1.0, 1.0]]],
        [1, [[100_000, 1.0, 1.0]]],
        [1, [[0, -1.0, 1.0]]],
        [1, [[0, 1.0, math.nan]]],
        [1, [[0, 1.0, math.inf]]],
        [1, [[math.inf, 1.0, 1.0]]],
    ],
)
def test_from_json_not_a_snapshot_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="snapshot of a completion hazard"):
        HazardSnapshot.from_json(value)


@pytest.mark.parametrize("hint", [0.0, -1.0, math.inf, math.nan])
def test_hazard_impossible_hint_is_refused(hint: float) -> None:
    with pytest.raises(ValueError, match="hint"):
        Hazard(hint)


def test_repr_tells_what_was_learned() -> None:
    hazard = Hazard(600.0)
    hazard.observe_running(0.0, 90.0)
    assert repr(hazard) == "<Hazard: 0 ends in 90 job-seconds, hint 600 s>"
