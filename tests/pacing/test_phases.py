"""Phases of a task's life: what is news of them, at which price their ends are looked for, and when."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.backends.base import Phase
from crynux_async.pacing.age_bins import BinCounts, HazardSnapshot
from crynux_async.pacing.hazard import Hazard
from crynux_async.pacing.phases import Counted, Lesson, counted_at, current, learned_wait, lessons, price


class Flat(Hazard):
    """A hazard that is the same at all ages, with so many ends behind it.

    Args:
        seconds: How long a phase takes on average.
        ends: How many ends are known.
    """

    def __init__(self, seconds: float, ends: float = 1e9) -> None:
        super().__init__(hint=10.0 * seconds)  # in tenths
        self._ends = ends

    @property
    def totals(self) -> tuple[float, float]:
        return self._ends, 0.0


TWO_PRICES = st.lists(st.floats(1e-3, 10.0), min_size=2, max_size=2)


def training(age: float = 0.0, took: float | None = None, *, late: float = 4.0, failed: bool = False) -> Phase:
    return Phase(name="training", late=late, age=age, took=took, failed=failed)


def upload(age: float = 0.0, took: float | None = None) -> Phase:
    return Phase(name="upload", late=1.0, age=age, took=took)


def counted(began_at: float, age: float, name: str = "training") -> Counted:
    """Return that a phase which began then was counted up to an age; at an age of 0, that it was to begin."""
    return Counted(name=name, age=age, at=began_at + age)


def lesson(name: str, seen: float, age: float, **ended: bool) -> Lesson:
    return Lesson(name=name, seen=seen, age=age, **ended)


# The time is 1,000 s: what is 30 s old began at 970.
@pytest.mark.parametrize(
    ("before", "phases", "expected"),
    [
        pytest.param(None, [training(), upload()], [], id="nothing has begun"),
        pytest.param(None, [training(30.0), upload()], [lesson("training", 0.0, 30.0)], id="seen from its beginning"),
        pytest.param(
            counted(970.0, 12.0), [training(30.0), upload()], [lesson("training", 12.0, 30.0)], id="goes on"
        ),
        pytest.param(
            counted(971.9, 12.0), [training(30.0), upload()], [lesson("training", 12.0, 30.0)], id="clocks differ"
        ),
        pytest.param(
            counted(995.0, 20.0), [training(3630.0), upload()], [lesson("training", 20.0, 3630.0)],
            id="an hour passed while this machine slept",
        ),
        pytest.param(
            counted(995.0, 0.0, name="upload"),
            [training(3660.0, 40.0), upload(3610.0)],
            [lesson("upload", 0.0, 3610.0)],
            id="an hour passed while it was to upload and this machine slept",
        ),
        pytest.param(
            counted(940.0, 5.0, name="upload"),
            [training(100.0, 50.0), upload(46.0, 20.0)],
            [lesson("upload", 5.0, 20.0, ended=True)],
            id="answered fourteen seconds late",
        ),
        pytest.param(
            counted(600.0, 12.0), [training(30.0), upload()], [lesson("training", 0.0, 30.0)], id="another beginning"
        ),
        pytest.param(
            counted(950.0, 0.0, name="upload"),
            [training(60.0, 9.0), upload(20.0)],
            [lesson("upload", 0.0, 20.0)],
            id="began 30 s after what was before it had been counted",
        ),
        pytest.param(
            counted(900.0, 0.0, name="upload"),
            [training(30.0), upload()],
            [lesson("training", 0.0, 30.0)],
            id="made anew while it waited for the next phase",
        ),
        pytest.param(
            counted(900.0, 0.0, name="upload"),
            [training(60.0, 40.0), upload(20.0)],
            [lesson("training", 0.0, 40.0, ended=True), lesson("upload", 0.0, 20.0)],
            id="made anew, and trained between two looks",
        ),
        pytest.param(
            counted(1000.0, 0.0), [training(0.0), upload()], [], id="had not begun, and has not"
        ),
        pytest.param(
            counted(940.0, 12.0),
            [training(60.0, 50.0), upload()],
            [lesson("training", 12.0, 50.0, ended=True)],
            id="ended when the service says",
        ),
        pytest.param(
            counted(940.0, 12.0),
            [training(60.0, 50.0, failed=True), upload()],
            [lesson("training", 12.0, 50.0, ended=True, failed=True)],
            id="failed",
        ),
        pytest.param(
            counted(980.0, 3.0, name="upload"),
            [training(60.0, 40.0), upload(20.0)],
            [lesson("upload", 3.0, 20.0)],
            id="what was learned is not learned again",
        ),
        pytest.param(
            None,
            [training(60.0, 40.0), upload(20.0, 15.0)],
            [lesson("training", 0.0, 40.0, ended=True), lesson("upload", 0.0, 15.0, ended=True)],
            id="a whole life between two looks",
        ),
    ],
)  # fmt: skip
def test_lessons_are_what_is_news(before: Counted | None, phases: list[Phase], expected: list[Lesson]) -> None:
    assert list(lessons(before, phases, 1000.0)) == expected


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ([training(), upload()], counted(1000.0, 0.0)),
        ([training(30.0), upload()], counted(970.0, 30.0)),
        ([training(60.0, 50.0), upload(4.0)], counted(996.0, 4.0, name="upload")),
        ([training(60.0, 50.0), upload(9.0, 5.0)], None),
        ([], None),
    ],
)
def test_counted_is_what_lasts(phases: list[Phase], expected: Counted | None) -> None:
    assert counted_at(phases, 1000.0) == expected


def test_current_phase_is_the_first_that_is_not_over() -> None:
    assert current([training(60.0, 50.0), upload(4.0)]) == upload(4.0)
    assert current([training(), upload()]) == training()
    assert current([training(60.0, 50.0), upload(9.0, 5.0)]) is None


@given(st.lists(st.floats(0.1, 60.0), max_size=20), st.floats(5.0, 300.0), st.floats(0.1, 30.0))
def test_whatever_the_looks_a_life_is_counted_once(waits: list[float], took: float, idle: float) -> None:
    """A training of ``took`` seconds from 0 on, and some seconds after it an upload of 20, looked at now and then."""
    now, before, taught = 0.0, None, {"training": (0.0, 0), "upload": (0.0, 0)}
    began = took + idle
    for wait in [*waits, 1000.0]:
        now += wait
        phases = [training(now, took if now >= took else None), upload()]
        if now >= began:
            phases[1] = upload(now - began, 20.0 if now >= began + 20.0 else None)
        for news in lessons(before, phases, now):
            seen, ends = taught[news.name]
            assert news.seen == seen
            taught[news.name] = (news.age, ends + news.ended)
        before = counted_at(phases, now)
        if before is None:
            break
    assert taught == {"training": (took, 1), "upload": (20.0, 1)}


def test_lesson_teaches_the_age_of_an_end_and_all_that_was_lived() -> None:
    hazard = Hazard()
    lesson("training", 0.0, 30.0).teach(hazard)
    lesson("training", 30.0, 50.0, ended=True).teach(hazard)
    # In tenths of a second: 500 were lived, and the bin of 500 holds the end.
    assert hazard.totals == (1.0, 500.0)
    (ended,) = [one for one in hazard.snapshot().bins if one.completed]
    assert ended.number == 1 + math.floor(math.log(500.0 / 10.0, 1.04))


@pytest.mark.parametrize("failed", [False, True])
def test_lesson_of_an_end_teaches_whether_it_failed_and_that_it_was_not_before_what_was_lived(failed: bool) -> None:
    hazard = Hazard()
    # The service's clock was set back a little: what was seen to last for 50 s took 40 by its dates.
    lesson("training", 50.0, 40.0, ended=True, failed=failed).teach(hazard)
    (ended,) = hazard.snapshot().bins
    assert (ended.completed, ended.failed) == (float(not failed), float(failed))
    assert ended.number == 1 + math.floor(math.log(500.0 / 10.0, 1.04))


def test_usual_lateness_of_a_flat_hazard_is_half_of_what_is_between_two_polls() -> None:
    # One end in 800 s: at a price of 1 s polls are sqrt(1600) = 40 s apart.
    assert Hazard(hint=800.0).usual_lateness == pytest.approx(20.0)


def test_usual_lateness_weighs_each_age_by_the_ends_at_it() -> None:
    hazard = Hazard(hint=50.0)
    # 1,000 ends, half of them in the first 10 s and half in the next 0.4 s.
    first, second = (
        BinCounts(number=0, completed=500.0, failed=0.0, exposure=7500.0),
        BinCounts(number=1, completed=500.0, failed=0.0, exposure=100.0),
    )
    hazard.restore(HazardSnapshot(bins=(first, second)))
    # The hazards are 1/15 and 5 ends a second, and so many come to the second bin, and beyond it.
    in_first, in_second = 1.0 - math.exp(-10.0 / 15.0), math.exp(-10.0 / 15.0) * (1.0 - math.exp(-0.4 * 5.0))
    expected = in_first / math.sqrt(2.0 / 15.0) + in_second / math.sqrt(10.0)
    left = math.exp(-10.0 / 15.0 - 0.4 * 5.0)
    # What is left, 7 %, ends at ages that nobody has seen, one in 50 s.
    expected += left / math.sqrt(2.0 / 50.0)
    assert hazard.usual_lateness == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("late", "seconds", "expected"),
    [
        # sqrt(c) E[1 / sqrt(2 lambda)] = sqrt(c) sqrt(80 / 2) = 4 for c = 16 / 40.
        ([4.0], [80.0], 0.4),
        # sqrt(c) (sqrt(40) + sqrt(2.5)) = 5 for c = 25 / (1.25 ** 2 * 40).
        ([4.0, 1.0], [80.0, 5.0], 0.4),
        ([8.0], [80.0], 1.6),
    ],
)
def test_price_makes_all_ends_together_as_late_as_is_allowed(
    late: list[float], seconds: list[float], expected: float
) -> None:
    assert price(late, [Flat(one) for one in seconds]) == pytest.approx(expected)


def test_price_counts_the_phases_alone_of_which_enough_was_seen() -> None:
    assert price([4.0, 1.0], [Flat(80.0), Flat(5.0, ends=15.0)]) == pytest.approx(0.4)
    assert price([4.0, 1.0], [Flat(80.0, ends=15.0), Flat(5.0, ends=15.0)]) is None


@pytest.mark.parametrize("late", [0.0, math.inf, math.nan])
def test_price_of_a_lateness_that_is_none_is_none(late: float) -> None:
    assert price([late], [Flat(80.0)]) is None


@pytest.mark.parametrize(
    ("ends", "wish", "expected"),
    [
        # 48 ends: the price of 1.6 s counts (48 / 64) ** 2 = 0.5625 times, sqrt(2 * 0.9 * 80) = 12.
        (48.0, 10.0, 12.0),
        (48.0, 3.0, 9.0),  # three wishes at most
        (48.0, 30.0, 15.0),  # half a wish at least
        # 24 ends: (24 / 40) ** 2 = 0.36, sqrt(2 * 0.576 * 80) = 9.6, between a wish and a half and its inverse.
        (24.0, 10.0, 9.6),
        (24.0, 6.0, 9.0),
        (24.0, 30.0, 20.0),
        (16.0, 10.0, 10.0),
        (3.0, 10.0, 10.0),
        (0.0, 10.0, 10.0),
    ],
)
def test_wait_is_what_was_learned_as_far_as_enough_is_known(ends: float, wish: float, expected: float) -> None:
    assert learned_wait(Flat(80.0, ends), 30.0, 1.6, wish) == pytest.approx(expected)


@given(
    seconds=st.floats(1.0, 1e5), ends=st.floats(0.0, 2000.0), age=st.floats(0.0, 1e6), wish=st.floats(0.25, 60.0),
    target_delay=st.floats(1e-6, 1e3),
)  # fmt: skip
def test_wait_never_leaves_what_the_ends_allow(**given: Any) -> None:
    wait = learned_wait(Flat(given["seconds"], given["ends"]), given["age"], given["target_delay"], given["wish"])
    assert given["wish"] / 2.0 <= wait <= given["wish"] * max(1.0, given["ends"] / 16.0)


@given(
    st.lists(st.floats(17.0, 2000.0), min_size=2, max_size=2), st.lists(st.floats(1e-3, 10.0), min_size=2, max_size=2)
)
def test_wait_grows_with_what_is_known_and_with_the_price(ends: list[float], prices: list[float]) -> None:
    less, more = sorted(ends)
    cheap, dear = sorted(prices)
    assert learned_wait(Flat(8000.0, less), 30.0, 1.6, 1.0) <= learned_wait(Flat(8000.0, more), 30.0, 1.6, 1.0)
    assert learned_wait(Flat(80.0), 30.0, cheap, 1.0) <= learned_wait(Flat(80.0), 30.0, dear, 1.0)
