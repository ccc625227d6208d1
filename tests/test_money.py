"""Whole wei, exactly, for every amount that a ledger can keep."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async import UsageError
from crynux_async.budgets import Budget, wei_of
from crynux_async.money import from_wei, to_cnx, to_wei

MOST = 2**60 * 10**18 - 1


@given(st.integers(0, MOST))
def test_amount_survives_both_ways(wei: int) -> None:
    assert to_wei(from_wei(wei)) == wei
    assert wei_of(to_cnx(wei), "cnx") == wei
    assert Budget("cats", cnx=from_wei(wei)).limit == wei


@pytest.mark.parametrize(
    ("cnx", "wei"),
    [
        ("0.0000000000000000019", 1),
        ("12345678901234.1234567890123456789", 12345678901234_123456789012345678),
        ("1e-999999999", 0),
    ],
)
def test_less_than_a_wei_is_left_out(cnx: str, wei: int) -> None:
    assert wei_of(cnx, "cnx") == wei


def test_amount_is_written_without_zeros_at_its_end() -> None:
    assert [to_cnx(wei) for wei in (0, -15 * 10**17, 1)] == ["0", "-1.5", "0.000000000000000001"]


def test_limit_below_zero_is_refused_before_it_is_counted() -> None:
    with pytest.raises(UsageError, match="CNX"):
        wei_of(Decimal(-1), "cnx")
