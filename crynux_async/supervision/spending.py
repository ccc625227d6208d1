"""What budgets hold for tries: reserved with the attempt, released or spent with its end, each in one transaction."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from crynux_async.budgets import Budget
from crynux_async.errors import BudgetExceededError
from crynux_async.ledgers.base import AttemptOutcome, Ledger, TaskRow
from crynux_async.supervision.accounts import Accounts
from crynux_async.supervision.record import Record
from crynux_async.supervision.rows import TaskEnd

if TYPE_CHECKING:
    from crynux_async.ledgers.base import Reservation, Settlement

_SCOPE = "budget"
_CERTAINLY_UNPAID = frozenset({AttemptOutcome.LIMITED, AttemptOutcome.REJECTED, AttemptOutcome.NOT_SENT})


class Spending:
    """Reserves and settles.

    Args:
        ledger: Remembers the limits, so that a later process can go on within them.
        accounts: Knows what a try may cost.
        budget: The session's own, whose limit counts for jobs of earlier sessions, too; or None.
    """

    def __init__(self, ledger: Ledger, accounts: Accounts, budget: Budget | None = None) -> None:
        self._ledger = ledger
        self._accounts = accounts
        self._own = budget
        self._newest: dict[str, int] = {}  # the limits that this session has noted, by the names of their budgets

    async def note_limits(self, records: Iterable[Record]) -> None:
        """Remember the limits of the budgets of new jobs.

        Raises:
            LedgerError: They cannot be stored.
        """
        for budget in {record.filing.budget for record in records}:
            if budget is None or budget.limit is None or self._newest.get(budget.name) == budget.limit:
                continue
            await self._ledger.put_note(_SCOPE, budget.name, {"limit": str(budget.limit)})
            self._newest[budget.name] = budget.limit

    async def reservation(self, record: Record) -> "Reservation | None":
        """Return what is to be held for a try, or None for a job without a budget.

        Raises:
            BudgetExceededError: The budget has no limit that is known here, or the price is not.
            LedgerError: The limit cannot be read.
        """
        budget = record.filing.budget
        if budget is None:
            return None
        from crynux_async.ledgers.base import Reservation

        limit = await self._limit(budget)
        amount = self._accounts.price_of(record)
        if limit is None or amount is None:
            unknown = "limit" if limit is None else "price of a try"
            raise BudgetExceededError(
                f"the {unknown} is not known, so nothing may be sent on the budget {budget.name!r}; give the session "
                "budget=Budget(name, cnx=...) and price=",
                budget=budget.name,
                amount=amount or 0,
                limit=limit or 0,
                held=0,
                spent=0,
                job_id=record.job_id,
            )
        return Reservation(budget=budget.name, amount=amount, limit=limit)

    def release(self, record: Record, outcome: AttemptOutcome) -> "Settlement | None":
        """Return what an attempt that certainly made no task gives back, or None where it holds what it has."""
        budget = record.filing.budget
        if budget is None or outcome not in _CERTAINLY_UNPAID:
            return None
        amount = self._accounts.price_of(record)
        if amount is None:
            return None
        from crynux_async.ledgers.base import Settlement

        return Settlement(budget=budget.name, released=amount, spent=0)

    async def _limit(self, budget: Budget) -> int | None:
        # A job that was asked for before the limit was raised is sent for the new one.
        if budget.name in self._newest:
            return self._newest[budget.name]
        if budget.limit is not None:
            return budget.limit
        if self._own is not None and self._own.name == budget.name and self._own.limit is not None:
            return self._own.limit
        note = await self._ledger.note(_SCOPE, budget.name)
        return int(note["limit"]) if note is not None else None


def settled(record: Record, before: TaskRow, after: TaskRow) -> "tuple[TaskRow, Settlement | None]":
    """Return a task that has ended with what it did cost, and what that means for its budget.

    What a service does not tell counts as the whole fee: a budget is never believed to have more left than it has.

    Args:
        record: The job.
        before: The task as the ledger has it.
        after: The task with its end.
    """
    budget, fee = record.filing.budget, before.fee
    if budget is None or fee is None or before.spent is not None:
        return after, None
    from crynux_async.ledgers.base import Settlement

    spent = fee if after.spent is None else min(fee, after.spent)
    return attrs.evolve(after, spent=spent), Settlement(budget=budget.name, released=fee, spent=spent)


def with_end(record: Record, before: TaskRow, end: TaskEnd) -> "tuple[TaskRow, Settlement | None]":
    """Return a task with its end, and what that means for its budget: None as long as its cost is not known.

    Args:
        record: The job.
        before: The task as the ledger has it.
        end: How it has ended.
    """
    task = end.entered_in(before)
    # All of it stays held until its cost is known.
    return (task, None) if end.is_open else settled(record, before, task)
