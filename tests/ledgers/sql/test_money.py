"""Wei in two columns: exact, and equal to Python's whole numbers."""

import sqlite3
from contextlib import closing
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.ledgers.sql import money

WEI = 10**18
amounts = (
    st.integers(0, 2**60 * WEI - 1) | st.integers(0, 3 * WEI) | st.sampled_from([0, WEI - 1, WEI, 2**60 * WEI - 1])
)


def answer(*columns: str) -> tuple[Any, ...]:
    with closing(sqlite3.connect(":memory:")) as connection:
        row: tuple[Any, ...] = connection.execute(f"SELECT {', '.join(columns)}").fetchone()
    return row


def pair(amount: int) -> money.Pair:
    cnx, wei = divmod(amount, WEI)
    return str(cnx), str(wei)


@settings(deadline=None)
@given(amounts)
def test_amount_split_and_joined_is_the_same(amount: int) -> None:
    columns = money.split("fee", amount)
    assert money.joined(columns["fee_cnx"], columns["fee_wei"]) == amount


def test_no_amount_is_no_amount() -> None:
    assert money.split("fee", None) == {"fee_cnx": None, "fee_wei": None}
    assert money.joined(None, None) is None


@settings(deadline=None)
@given(st.lists(amounts, min_size=2, max_size=4))
def test_sum_of_amounts_in_a_statement_is_exact(parts: list[int]) -> None:
    assert money.joined(*answer(*money.plus(*map(pair, parts)))) == sum(parts)


@settings(deadline=None)
@given(amounts, amounts)
def test_difference_of_amounts_in_a_statement_is_exact(one: int, other: int) -> None:
    large, small = max(one, other), min(one, other)
    assert money.joined(*answer(*money.minus(pair(large), pair(small)))) == large - small


@settings(deadline=None)
@given(amounts, amounts)
def test_amounts_in_a_statement_compare_like_numbers(one: int, other: int) -> None:
    assert answer(money.at_most(pair(one), pair(other))) == (one <= other,)
    assert answer(money.at_most(pair(one), pair(one))) == (True,)


def test_total_of_many_amounts_is_exact() -> None:
    fees = [number * WEI // 7 + WEI - 1 for number in range(50)]
    text = f"SELECT {money.total(money.pair('fee'))} FROM t"
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (fee_cnx, fee_wei)")
        assert money.totalled(*connection.execute(text).fetchone()) == 0
        connection.executemany("INSERT INTO t VALUES (?, ?)", [divmod(fee, WEI) for fee in fees])
        connection.execute("INSERT INTO t VALUES (NULL, NULL)")
        assert money.totalled(*connection.execute(text).fetchone()) == sum(fees)
