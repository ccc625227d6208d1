"""Where the next config comes from: named sets of points, and what became of each.

Read ``spaces`` (which values), ``points`` (what a point is known by), ``definition`` (a sweep as it is written down).
"""

from crynux_async.sweeps.definition import SweepDefinition
from crynux_async.sweeps.points import BrokenPoint, Point, Points
from crynux_async.sweeps.spaces import choice, grid, integers, listed, log_uniform, random_search, uniform

__all__ = [
    "BrokenPoint",
    "Point",
    "Points",
    "SweepDefinition",
    "choice",
    "grid",
    "integers",
    "listed",
    "log_uniform",
    "random_search",
    "uniform",
]
