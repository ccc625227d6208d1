"""Curves in a terminal, drawn with the dots of braille characters."""

import math
from collections.abc import Sequence

_BLANK = 0x2800
_ACROSS, _DOWN = 2, 4
# The bit of each dot of a braille character, by column and row from the top (Unicode, block Braille Patterns).
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def curve(points: Sequence[tuple[float, float]], *, width: int, height: int, top: float) -> list[str]:
    """Draw a curve from 0 to ``top`` over the whole width.

    Args:
        points: (x, y) with x not decreasing; a y that is not finite leaves a gap.
        width: Characters across, >= 1; each has two dots.
        height: Characters down, >= 1; each has four dots.
        top: The value at the upper edge, > 0.

    Returns:
        ``height`` lines of ``width`` characters, the highest first.
    """
    columns = _columns(points, width * _ACROSS)
    cells = [[_BLANK] * width for _ in range(height)]
    before = None
    for column, value in enumerate(columns):
        row = None if value is None else _row(value, top, height * _DOWN)
        for dot in _between(before, row):
            cells[dot // _DOWN][column // _ACROSS] |= _DOTS[column % _ACROSS][dot % _DOWN]
        before = row
    return ["".join(map(chr, line)) for line in cells]


def _columns(points: Sequence[tuple[float, float]], count: int) -> list[float | None]:
    """Return the value at each column of dots, interpolated between the points around it."""
    if not points:
        return [None] * count
    low, high = points[0][0], points[-1][0]
    values: list[float | None] = []
    right = 0
    for column in range(count):
        x = low + (high - low) * column / max(1, count - 1)
        while right < len(points) - 1 and points[right][0] < x:
            right += 1
        values.append(_value(points[max(0, right - 1)], points[right], x))
    return values


def _value(left: tuple[float, float], right: tuple[float, float], x: float) -> float | None:
    if x < right[0]:
        value = left[1] + (right[1] - left[1]) * (x - left[0]) / (right[0] - left[0])
        return value if math.isfinite(value) else None
    return right[1] if math.isfinite(right[1]) else None  # not interpolated: the point before it may be a gap


def _row(value: float, top: float, rows: int) -> int:
    return rows - 1 - round(min(max(value / top, 0.0), 1.0) * (rows - 1))


def _between(before: int | None, row: int | None) -> range:
    """Return the dots of a column: its own, and those that join it to the one before."""
    if row is None:
        return range(0)
    if before is None or before == row:
        return range(row, row + 1)
    return range(before + 1, row + 1) if before < row else range(row, before)
