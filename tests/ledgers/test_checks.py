"""Errors that every ledger words alike."""

import pytest

from crynux_async.ledgers.base import BudgetRow, Reservation
from crynux_async.ledgers.checks import exceeded, to_cnx


@pytest.mark.parametrize(
    ("wei", "text"),
    [
        (0, "0"),
        (1, "0.000000000000000001"),
        (10**18, "1"),
        (12 * 10**18 + 5 * 10**17, "12.5"),
        (100 * 10**18, "100"),
        (2**70, "1180.591620717411303424"),
    ],
)
def test_wei_are_shown_as_cnx_exactly(wei: int, text: str) -> None:
    assert to_cnx(wei) == text


def test_exceeded_budget_says_what_is_left_and_what_was_asked() -> None:
    wanted = Reservation(budget="spring", amount=2 * 10**18, limit=5 * 10**18)
    error = exceeded(wanted, BudgetRow(name="spring", limit=9 * 10**18, held=10**18, spent=25 * 10**17), "j")
    assert "'spring' has 1.5 CNX left of 5" in str(error)
    assert "may cost 2;" in str(error)
    assert (error.held, error.spent, error.limit, error.amount) == (10**18, 25 * 10**17, 5 * 10**18, 2 * 10**18)
