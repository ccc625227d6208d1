"""What was counted by age, and its form in the ledger."""

import json
import math
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.pacing.age_bins import BINS, EDGES, BinCounts, HazardSnapshot, bin_of, nearby_sums
from crynux_async.pacing.hazard import Hazard

SNAPSHOT = HazardSnapshot(
    bins=(
        BinCounts(number=0, completed=0.0, failed=1.5, exposure=20.25),
        BinCounts(number=118, completed=3.0, failed=0.0, exposure=123456.0),
    )
)


@pytest.mark.parametrize(("age", "number"), [(0.0, 0), (9.99, 0), (10.0, 1), (10.39, 1), (10.41, 2), (1e12, BINS - 1)])
def test_bin_of_age_is_the_one_that_holds_it(age: float, number: int) -> None:
    assert bin_of(age) == number


def test_edges_grow_by_four_percent_up_to_ninety_days() -> None:
    assert EDGES[:2] == (0.0, 10.0)
    assert all(high / low == pytest.approx(1.04) for low, high in pairwise(EDGES[1:]))
    assert EDGES[-1] < 90 * 86_400 <= 1.04 * EDGES[-1]


def test_nearby_sums_take_three_neighbours_to_either_side() -> None:
    assert nearby_sums([1.0, 2.0, 4.0, 8.0, 16.0]) == [15.0, 31.0, 31.0, 31.0, 30.0]


def test_snapshot_through_json_and_back_is_the_same() -> None:
    assert HazardSnapshot.from_json(json.loads(json.dumps(SNAPSHOT.to_json()))) == SNAPSHOT


def test_from_json_stored_before_failures_were_counted_is_understood() -> None:
    old = HazardSnapshot.from_json([1, [[118, 3.0, 123456.0]]])
    assert old.bins == (BinCounts(number=118, completed=3.0, failed=0.0, exposure=123456.0),)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        "text",
        [1],
        [3, []],
        [[], []],
        [1, [[0, 1.0]]],
        [1, [[0, 1.0, 1.0, 1.0]]],
        [2, [[0, 1.0, 1.0]]],
        [2, [[-1, 1.0, 1.0, 1.0]]],
        [2, [[100_000, 1.0, 1.0, 1.0]]],
        [2, [[0, -1.0, 1.0, 1.0]]],
        [2, [[0, 1.0, -1.0, 1.0]]],
        [2, [[0, 1.0, 1.0, math.nan]]],
        [2, [[0, 1.0, 1.0, math.inf]]],
        [2, [[math.inf, 1.0, 1.0, 1.0]]],
        [2, [[0, 1e308, 1.0, 1.0]]],
        [1, [[0, 1.0, 1e308]]],
        [2, [[0, 10**400, 1.0, 1.0]]],
    ],
)
def test_from_json_not_a_snapshot_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="snapshot of a completion hazard"):
        HazardSnapshot.from_json(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 400) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=8,
)
rows = st.lists(
    st.tuples(st.integers(0, BINS - 1), st.floats(0.0), st.floats(0.0), st.floats(0.0)).map(list), max_size=5
)
damaged = st.tuples(st.sampled_from([1, 2]), st.one_of(rows, st.lists(st.lists(json_values, max_size=4)))).map(list)


@settings(max_examples=150, deadline=None)
@given(st.one_of(json_values, damaged))
def test_from_json_anything_is_refused_in_words_or_can_be_used(value: Any) -> None:
    try:
        snapshot = HazardSnapshot.from_json(value)
    except ValueError:
        return
    hazard = Hazard()
    hazard.restore(snapshot)
    assert 0.0 <= hazard.next_delay(100.0, 2.0) < math.inf


def test_from_json_random_numbers_of_any_size_are_refused_or_can_be_used() -> None:
    rng = random.Random(4)
    refused = 0
    for _ in range(4000):
        rows = [[rng.randrange(BINS), *(10 ** rng.uniform(-320, 308) for _ in range(2))] for _ in range(3)]
        try:
            snapshot = HazardSnapshot.from_json([1, rows])
        except ValueError:
            refused += 1
            continue
        hazard = Hazard()
        hazard.restore(snapshot)
        assert 0.0 <= hazard.next_delay(rng.uniform(0.0, 5000.0), 2.0) < math.inf
    assert 0 < refused < 4000
