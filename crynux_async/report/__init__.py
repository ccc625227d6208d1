"""Pages for people: what came of a sweep, in one file that opens anywhere.

``values`` says what a page is told, ``story`` puts it into sentences, ``page`` makes the file. ``templates`` hold the
markup and ``static`` the plot library (Apache ECharts) with its licence. Nothing here knows a session or a ledger.
"""

from typing import TYPE_CHECKING

from crynux_async.lazy import loader_of

if TYPE_CHECKING:
    from crynux_async.report.page import render
    from crynux_async.report.values import SweepView, TrialView

__all__ = ["SweepView", "TrialView", "render"]

# ``units`` is for everybody, and needs nothing of what a page does.
__getattr__ = loader_of(__name__, {"SweepView": "values", "TrialView": "values", "render": "page"})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
