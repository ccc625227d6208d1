"""Curves of braille dots."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.cli.plot import curve

DOTS = {0x01: (0, 0), 0x02: (0, 1), 0x04: (0, 2), 0x40: (0, 3), 0x08: (1, 0), 0x10: (1, 1), 0x20: (1, 2), 0x80: (1, 3)}


def dots(lines: list[str]) -> set[tuple[int, int]]:
    """Return column and row, from the top left, of every dot."""
    return {
        (2 * column + x, 4 * row + y)
        for row, line in enumerate(lines)
        for column, character in enumerate(line)
        for bit, (x, y) in DOTS.items()
        if (ord(character) - 0x2800) & bit
    }


def test_straight_line_goes_from_corner_to_corner() -> None:
    drawn = dots(curve([(0, 0.0), (1, 1.0)], width=4, height=2, top=1.0))
    assert drawn == {(index, 7 - index) for index in range(8)}


def test_constant_at_the_top_is_one_row_of_dots() -> None:
    drawn = dots(curve([(1, 5.0), (9, 5.0)], width=3, height=2, top=5.0))
    assert drawn == {(column, 0) for column in range(6)}


def test_jump_is_joined_by_a_vertical_line() -> None:
    drawn = dots(curve([(0, 0.0), (0.5, 0.0), (0.5, 1.0), (1, 1.0)], width=2, height=1, top=1.0))
    assert {row for column, row in drawn if column in (1, 2)} == {0, 1, 2, 3}


def test_value_that_is_no_number_leaves_a_gap() -> None:
    drawn = dots(curve([(0, 1.0), (1, math.nan), (2, math.nan), (3, 1.0)], width=2, height=1, top=1.0))
    assert {column for column, _ in drawn} == {0, 3}


def test_no_points_draw_nothing() -> None:
    assert curve([], width=3, height=2, top=1.0) == ["\u2800" * 3] * 2


@pytest.mark.parametrize("points", [[(5, 0.5)], [(5, 0.5), (5, 0.5)]])
def test_single_point_is_drawn_over_the_whole_width(points: list[tuple[float, float]]) -> None:
    assert {column for column, _ in dots(curve(points, width=2, height=2, top=1.0))} == {0, 1, 2, 3}


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(-1, 2) | st.just(math.nan)), max_size=20),
    st.integers(1, 10),
    st.integers(1, 5),
)
@settings(max_examples=80, deadline=None)
def test_curve_is_always_of_the_size_asked_for(points: list[tuple[float, float]], width: int, height: int) -> None:
    lines = curve(sorted(points, key=lambda point: point[0]), width=width, height=height, top=1.0)
    assert [len(line) for line in lines] == [width] * height
    assert all(0x2800 <= ord(character) < 0x2900 for line in lines for character in line)
