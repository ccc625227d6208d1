"""Pages for people: what came of a sweep, in one file that opens anywhere.

``values`` says what a page is told, ``story`` puts it into sentences, ``page`` makes the file. ``templates`` hold the
markup and ``static`` the plot library (Apache ECharts) with its licence. Nothing here knows a session or a ledger.
"""

from crynux_async.report.page import render
from crynux_async.report.values import SweepView, TrialView

__all__ = ["SweepView", "TrialView", "render"]
