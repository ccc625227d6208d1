"""Whether a kind of job that changes is noticed, and one that stays is left alone."""

import random

import pytest

from crynux_async.pacing.drift import Drift


def jobs_until_alarm(rng: random.Random, factor: float, step: float, at_most: int) -> int | None:
    """Return after how many jobs a change is seen, if their hazard is ``factor`` times what is believed.

    Each job is looked at after every ``step`` of the hazard that is believed.
    """
    drift = Drift()
    for number in range(1, at_most + 1):
        left = rng.expovariate(factor)
        while left > step:
            left -= step
            if drift.lived(step):
                return number
        if drift.ended(step):
            return number
    return None


@pytest.mark.parametrize("step", [0.05, 0.2, 3.0])
def test_drift_kind_that_stays_is_left_alone(step: float) -> None:
    assert not any(jobs_until_alarm(random.Random(seed), 1.0, step, 500) for seed in range(10))


@pytest.mark.parametrize("step", [0.01, 0.2])
@pytest.mark.parametrize("factor", [8.0, 0.125])
def test_drift_kind_that_changed_is_noticed_after_a_few(factor: float, step: float) -> None:
    noticed = [jobs_until_alarm(random.Random(seed), factor, step, 200) for seed in range(20)]
    assert all(number is not None and number <= 30 for number in noticed)


def test_drift_ends_where_none_was_expected_are_noticed_at_the_ninth() -> None:
    # Each is four times as likely if the kind is four times as fast: 4^8 < e^12 < 4^9.
    drift = Drift()
    assert [drift.ended(0.0) for _ in range(9)] == [False] * 8 + [True]


def test_drift_begins_anew_after_an_alarm() -> None:
    drift = Drift()
    for _ in range(9):
        drift.ended(0.0)
    assert not drift.ended(0.0)


def test_drift_one_job_that_never_ends_is_noticed() -> None:
    # Living through a hazard of 1 is e^0.75 times as likely at a quarter of it, and e^12 is the alarm.
    drift = Drift()
    steps = next(number for number in range(1, 1000) if drift.lived(0.1))
    assert steps * 0.1 == pytest.approx(16.0, abs=0.2)
