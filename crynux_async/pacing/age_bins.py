"""Ages of jobs in bins that grow by 4 %, and what was counted in them, as a value that can be stored."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import attrs

from crynux_async.values import Value

_RATIO = 1.04
_FIRST_EDGE = 10.0
LONGEST = 90 * 86_400.0
"""Ages beyond this count as this, in seconds."""
BINS = 1 + math.ceil(math.log(LONGEST / _FIRST_EDGE, _RATIO))
# Bin b holds the ages [EDGES[b], EDGES[b + 1]); the last one has no upper edge.
EDGES = (0.0, *(_FIRST_EDGE * _RATIO**b for b in range(BINS - 1)))
WIDTHS = (*(high - low for low, high in pairwise(EDGES)), 0.0)

_NEARBY_BINS = 3
_VERSION = 2
_VERSION_WITHOUT_FAILURES = 1
# More than any fleet comes to; the square of it times the longest age is still far from the end of a float.
_MOST = 1e12


def bin_of(age: float) -> int:
    """Return the number of the bin that holds an age >= 0 in seconds."""
    return bisect_right(EDGES, age) - 1


def nearby_sums(values: Sequence[float]) -> list[float]:
    """Return for each value the sum of it and its three neighbours to either side."""
    sums = list(accumulate(values, initial=0.0))
    upper = sums[_NEARBY_BINS + 1 :] + [sums[-1]] * min(_NEARBY_BINS, len(values))
    lower = [0.0] * _NEARBY_BINS + sums
    return [max(high - low, 0.0) for high, low in zip(upper, lower, strict=False)]


@attrs.frozen(kw_only=True)
class BinCounts(Value):
    """What was seen at the ages of one bin.

    Attributes:
        number: Which bin.
        completed: Jobs that ended well, >= 0; fractions where it is not known in which bin they did.
        failed: Jobs that failed, >= 0, likewise.
        exposure: Job-seconds lived, >= 0.
    """

    number: int
    completed: float
    failed: float
    exposure: float

    @classmethod
    def of(cls, number: int, completed: float, failed: float, exposure: float) -> "BinCounts":
        """Return the counts of a bin, each no more than can be stored."""
        return cls(
            number=number,
            completed=min(completed, _MOST),
            failed=min(failed, _MOST),
            exposure=min(exposure, _MOST),
        )


def _are_sane(_: object, __: "attrs.Attribute[Any]", bins: Sequence[BinCounts]) -> None:
    for one in bins:
        counts = (one.completed, one.failed, one.exposure)
        if not 0 <= one.number < BINS or not all(0 <= count <= _MOST for count in counts):
            raise ValueError(f"snapshot of a completion hazard has a number out of range: {one}")


@attrs.frozen(kw_only=True)
class HazardSnapshot(Value):
    """What was learned about one kind of job, as a value that can be stored.

    Attributes:
        bins: The bins that are not empty, in ascending order.

    Raises:
        ValueError: A number is out of range.
    """

    bins: tuple[BinCounts, ...] = attrs.field(default=(), validator=_are_sane)

    def to_json(self) -> list[Any]:
        """Return the snapshot as a compact JSON value, numbers rounded to 6 digits."""
        rows = [[b.number, _rounded(b.completed), _rounded(b.failed), _rounded(b.exposure)] for b in self.bins]
        return [_VERSION, rows]

    @classmethod
    def from_json(cls, value: Any) -> "HazardSnapshot":
        """Read what to_json() gave, here or in the version that counted no failures.

        Raises:
            ValueError: The value is not such a snapshot, or one of another version.
        """
        try:
            version, rows = value
            if version == _VERSION_WITHOUT_FAILURES:
                rows = [(number, events, 0.0, exposure) for number, events, exposure in rows]
            elif version != _VERSION:
                raise ValueError(f"snapshot of a completion hazard has version {version!r}, not {_VERSION}")
            bins = tuple(
                BinCounts(number=int(b), completed=float(completed), failed=float(failed), exposure=float(exposure))
                for b, completed, failed, exposure in rows
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a snapshot of a completion hazard: {error}") from error
        return cls(bins=bins)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
