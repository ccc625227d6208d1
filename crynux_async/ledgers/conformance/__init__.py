"""What every ledger must do, as checks that run without a test framework.

::

    @pytest.mark.parametrize(("name", "check"), LEDGER_CHECKS)
    async def test_my_ledger_conforms(name, check):
        await check(MyLedger)

A check is handed a factory of new, empty ledgers that are not open yet. It raises ``AssertionError`` with a sentence
that says what is wrong. It needs no particular clock and waits for nothing but the ledger.
"""

from crynux_async.ledgers.conformance.attempts import ATTEMPT_CHECKS
from crynux_async.ledgers.conformance.rows import ROW_CHECKS
from crynux_async.ledgers.conformance.sharing import SHARING_CHECKS
from crynux_async.ledgers.conformance.support import LedgerCheck, LedgerFactory

__all__ = ["LEDGER_CHECKS", "LedgerCheck", "LedgerFactory"]

LEDGER_CHECKS: tuple[tuple[str, LedgerCheck], ...] = tuple(
    (check.__name__, check) for check in (*ROW_CHECKS, *ATTEMPT_CHECKS, *SHARING_CHECKS)
)
"""Every check with its name."""
