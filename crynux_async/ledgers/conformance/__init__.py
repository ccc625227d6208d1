"""What every ledger must do, as checks that run without a test framework.

::

    class MyPlace:
        def __init__(self):
            self._database, self._ahead = new_database(), 0.0

        def instance(self):
            return MyLedger(self._database, clock=lambda: utc_now() + timedelta(seconds=self._ahead))

        def move_clock(self, seconds):
            self._ahead += seconds

    @pytest.mark.parametrize(("name", "check"), LEDGER_CHECKS)
    async def test_my_ledger_conforms(name, check):
        await check(MyPlace)

A check is handed a factory of places for one new, empty ledger each, makes the instances that it needs there, and opens
them. It raises ``AssertionError`` with a sentence that says what is wrong. It needs no particular event loop, and waits
for nothing but the ledger, at most about a second.

Begin with ``support``; the other modules follow the protocol: ``rows``, ``keys``, ``filters``, ``leases``, ``fences``,
``changes``, ``attempts``, ``tasks``, ``budgets``, ``events``, ``wishes``, ``shared``.
"""

from crynux_async.ledgers.conformance.attempts import ATTEMPT_CHECKS
from crynux_async.ledgers.conformance.budgets import BUDGET_CHECKS
from crynux_async.ledgers.conformance.changes import CHANGE_CHECKS
from crynux_async.ledgers.conformance.events import EVENT_CHECKS
from crynux_async.ledgers.conformance.fences import FENCE_CHECKS
from crynux_async.ledgers.conformance.filters import FILTER_CHECKS
from crynux_async.ledgers.conformance.keys import KEY_CHECKS
from crynux_async.ledgers.conformance.leases import LEASE_CHECKS
from crynux_async.ledgers.conformance.rows import ROW_CHECKS
from crynux_async.ledgers.conformance.shared import SHARED_CHECKS
from crynux_async.ledgers.conformance.support import LedgerCheck, LedgerFactory, LedgerPlace
from crynux_async.ledgers.conformance.tasks import TASK_CHECKS
from crynux_async.ledgers.conformance.wishes import WISH_CHECKS

__all__ = ["LEDGER_CHECKS", "LedgerCheck", "LedgerFactory", "LedgerPlace"]

LEDGER_CHECKS: tuple[tuple[str, LedgerCheck], ...] = tuple(
    (check.__name__, check)
    for checks in (
        ROW_CHECKS,
        KEY_CHECKS,
        FILTER_CHECKS,
        LEASE_CHECKS,
        FENCE_CHECKS,
        CHANGE_CHECKS,
        ATTEMPT_CHECKS,
        TASK_CHECKS,
        BUDGET_CHECKS,
        EVENT_CHECKS,
        WISH_CHECKS,
        SHARED_CHECKS,
    )
    for check in checks
)
"""Every check with its name."""
