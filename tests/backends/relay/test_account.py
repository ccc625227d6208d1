"""Payments and refunds, put together from the relay's list."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.backends.base import Payment
from crynux_async.backends.relay.account import summed
from crynux_async.backends.relay.answers import FeeKind, FeeRecord

START = datetime(2026, 1, 1, tzinfo=UTC)


def record(number: int, kind: FeeKind, amount: int, task: str) -> FeeRecord:
    at = START + timedelta(seconds=number)
    return FeeRecord(number=number, kind=kind, amount=amount, commitment=task, created_at=at)


def test_payment_is_listed_with_its_refund_and_the_newest_comes_first() -> None:
    records = [
        record(4, FeeKind.REFUND, 15, "0xa"),
        record(3, FeeKind.PAYMENT, 20, "0xb"),
        record(1, FeeKind.PAYMENT, 15, "0xa"),
    ]
    newest, oldest = summed(records)
    assert newest == Payment(task_id="0xb", paid=20, refunded=0, at=START + timedelta(seconds=3))
    assert oldest == Payment(task_id="0xa", paid=15, refunded=15, at=START + timedelta(seconds=1))
    assert (newest.gone, oldest.gone) == (20, 0)


def test_what_a_node_of_the_same_wallet_earns_is_no_payment() -> None:
    assert summed([record(1, FeeKind.INCOME, 15, "0xa")]) == []


@given(
    st.lists(st.tuples(st.sampled_from([FeeKind.PAYMENT, FeeKind.REFUND]), st.integers(0, 10**20), st.integers(0, 5))),
    st.randoms(),
)
def test_nothing_is_lost_in_whichever_order_the_records_come(
    entries: list[tuple[FeeKind, int, int]], order: random.Random
) -> None:
    records = [record(number, kind, amount, f"0x{task}") for number, (kind, amount, task) in enumerate(entries)]
    total = sum(entry.amount if entry.kind is FeeKind.PAYMENT else -entry.amount for entry in records)
    expected = summed(records)
    order.shuffle(records)
    assert summed(records) == expected
    assert sum(payment.gone for payment in expected) == total


@pytest.mark.parametrize("count", [0, 1])
def test_account_without_payments_has_an_empty_list(count: int) -> None:
    assert len(summed([record(1, FeeKind.PAYMENT, 1, "0xa")][:count])) == count
