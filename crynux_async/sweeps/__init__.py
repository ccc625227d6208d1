"""Where the next config comes from: named sets of points, and what became of each.

Read ``spaces`` (which values), ``points`` (what a point is known by), ``sweep`` (all of it; ``definition`` reads one
from a file), ``preview`` (what running it would do), ``running`` and ``trial`` (running it), ``notes`` and ``recall``
(what the ledger remembers), ``table`` (for other programs), ``view``, ``pictures`` and ``page`` (for people).
"""

from crynux_async.report.values import TrialState
from crynux_async.sweeps.page import Report
from crynux_async.sweeps.points import BrokenPoint, Point, Points
from crynux_async.sweeps.preview import Preview
from crynux_async.sweeps.recall import RememberedSweep, recall, sweep_names
from crynux_async.sweeps.running import OnFailure, RetryAtMost, StopAfter, SweepRun
from crynux_async.sweeps.spaces import choice, grid, integers, listed, log_uniform, random_search, uniform
from crynux_async.sweeps.sweep import Sweep
from crynux_async.sweeps.table import Table
from crynux_async.sweeps.trial import Trial

__all__ = [
    "BrokenPoint",
    "OnFailure",
    "Point",
    "Points",
    "Preview",
    "RememberedSweep",
    "Report",
    "RetryAtMost",
    "StopAfter",
    "Sweep",
    "SweepRun",
    "Table",
    "Trial",
    "TrialState",
    "choice",
    "grid",
    "integers",
    "listed",
    "log_uniform",
    "random_search",
    "recall",
    "sweep_names",
    "uniform",
]
