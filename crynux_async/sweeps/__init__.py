"""Where the next config comes from: named sets of points, and what became of each.

Read ``spaces`` (which values), ``points`` (what a point is known by), ``sweep`` (all of it; ``definition`` reads one
from a file), ``preview`` (what running it would do), ``running`` and ``trial`` (running it), ``trial_states`` (where a
trial is), ``notes`` and ``remembered`` (what the ledger remembers), ``table`` (for other programs), ``view``,
``pictures`` and ``page`` (for people).

Names are loaded when they are first used: a list of sweeps needs no session.
"""

from typing import TYPE_CHECKING

from crynux_async.lazy import loader_of

if TYPE_CHECKING:
    from crynux_async.report.values import TrialState
    from crynux_async.sweeps.page import Report
    from crynux_async.sweeps.points import BrokenPoint, Point, Points
    from crynux_async.sweeps.preview import Preview
    from crynux_async.sweeps.remembered import RememberedSweep, recall, sweep_names
    from crynux_async.sweeps.running import OnFailure, RetryAtMost, StopAfter, SweepRun
    from crynux_async.sweeps.spaces import choice, grid, integers, listed, log_uniform, random_search, uniform
    from crynux_async.sweeps.sweep import Sweep
    from crynux_async.sweeps.table import Table
    from crynux_async.sweeps.trial import Trial

_HOME_OF = {
    "BrokenPoint": "points",
    "OnFailure": "running",
    "Point": "points",
    "Points": "points",
    "Preview": "preview",
    "RememberedSweep": "remembered",
    "Report": "page",
    "RetryAtMost": "running",
    "StopAfter": "running",
    "Sweep": "sweep",
    "SweepRun": "running",
    "Table": "table",
    "Trial": "trial",
    "TrialState": "trial",
    "choice": "spaces",
    "grid": "spaces",
    "integers": "spaces",
    "listed": "spaces",
    "log_uniform": "spaces",
    "random_search": "spaces",
    "recall": "remembered",
    "sweep_names": "remembered",
    "uniform": "spaces",
}

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

__getattr__ = loader_of(__name__, _HOME_OF)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
