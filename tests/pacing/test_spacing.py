"""The seconds between two tokens, from refusals of which each tells a little."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.pacing.spacing import Moment, Spacing


def refusal(spacing: float, out: tuple[float, float], back: tuple[float, float], gap: float = 0.0) -> Moment | None:
    """Return what a create tells that is sent ``gap`` after the answer to one that passed, or None if it passes too."""
    first_arrived = out[0]
    first_answered = first_arrived + back[0]
    sent_at = first_answered + gap
    arrived = sent_at + out[1]
    wait = spacing - (arrived - first_arrived)
    if wait <= 0:
        return None
    return Moment.between(0.0, first_answered).until(Moment.between(sent_at, arrived + back[1], wait))


ways = st.tuples(st.floats(0, 10), st.floats(0, 10))


@given(st.floats(0.1, 60), st.lists(st.tuples(ways, ways, st.floats(0, 60)), min_size=1, max_size=30))
def test_seconds_lie_within_all_that_is_certain(spacing: float, trips: list[tuple[tuple, tuple, float]]) -> None:
    known = Spacing()
    for out, back, gap in trips:
        if (told := refusal(spacing, out, back, gap)) is not None:
            assert told.least <= spacing + 1e-9
            assert told.most >= spacing - 1e-9
            known = known.with_refusal(told)
            assert max(one.least for one in known.seen) <= known.seconds + 1e-9
            assert known.seconds <= min(one.most for one in known.seen) + 1e-9
    assert len(known.seen) <= 8


@pytest.mark.parametrize("seed", range(8))
def test_seconds_after_eight_refusals_are_close(seed: int) -> None:
    rng, known = random.Random(seed), Spacing()
    while len(known.seen) < 8:
        out, back = ((rng.uniform(0.5, 3), rng.uniform(0.5, 3)) for _ in range(2))
        if (told := refusal(6.0, out, back)) is not None:
            known = known.with_refusal(told)
    assert known.seconds == pytest.approx(6.0, rel=0.15)


def test_seconds_of_round_trips_without_a_way_are_exact() -> None:
    told = refusal(3.0, (0.0, 0.0), (0.0, 0.0), gap=1.0)
    assert told is not None
    assert Spacing().with_refusal(told).seconds == 3.0


def test_refusal_that_older_ones_contradict_stands_alone() -> None:
    known = Spacing()
    for spacing in (3.0, 3.0, 12.0):
        told = refusal(spacing, (0.5, 0.5), (0.5, 0.5))
        assert told is not None
        known = known.with_refusal(told)
    assert len(known.seen) == 1
    assert known.seconds == pytest.approx(12.0, abs=1.0)
