"""The ledger against the service's list: what does not add up is named, and nothing else."""

from datetime import UTC, datetime

import pytest

from crynux_async import UsageError
from crynux_async.backends.base import Payment
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.supervision.audit import KnownTry, Mismatch, audit, compare
from tests.fake_backend import FakeBackend

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def paid(task_id: str, amount: int, refunded: int = 0) -> tuple[str, Payment]:
    return task_id, Payment(task_id=task_id, paid=amount, refunded=refunded, at=NOW)


def known(spent: int | None, *task_ids: str, certain: int | None = None) -> KnownTry:
    return KnownTry(job_id="j", task_ids=task_ids, certain=task_ids[:certain], spent=spent)


def test_group_that_costs_what_its_members_cost_adds_up() -> None:
    found = compare([known(30, "a", "b", "c")], dict([paid("a", 15), paid("b", 15), paid("c", 15, 15)]))
    assert (found.spent, found.held, found.adds_up) == (30, 0, True)


def test_try_that_has_not_ended_is_held_and_cannot_be_wrong() -> None:
    found = compare([known(None, "a")], dict([paid("a", 15)]))
    assert (found.spent, found.held, found.adds_up) == (15, 15, True)


@pytest.mark.parametrize(("spent", "refunded"), [(15, 15), (0, 0)])
def test_difference_is_named_with_both_amounts(spent: int, refunded: int) -> None:
    found = compare([known(spent, "a")], dict([paid("a", 15, refunded)]))
    assert found.mismatches == (Mismatch(job_id="j", task_id="a", known=spent, listed=15 - refunded),)
    assert not found.adds_up


def test_task_that_the_list_does_not_have_yet_is_no_difference_of_money() -> None:
    found = compare([known(15, "a")], {})
    assert (found.unlisted, found.mismatches, found.adds_up) == (("a",), (), False)


def test_task_that_may_never_have_been_made_is_not_missed() -> None:
    found = compare([known(15, "a", "b", certain=1)], dict([paid("a", 15)]))
    assert found.adds_up


async def test_service_without_a_list_says_so() -> None:
    with pytest.raises(UsageError, match="lists no payments"):
        await audit(FakeBackend(), "key", MemoryLedger())
