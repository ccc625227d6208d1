"""What every ledger refuses: parts of one write that do not fit together, and errors that say so alike everywhere."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from crynux_async.errors import BudgetExceededError, LedgerError
from crynux_async.ledgers.base import AttemptRow, JobChange, JobRow, TaskRow
from crynux_async.money import to_cnx

if TYPE_CHECKING:
    from crynux_async.ledgers.base import BudgetRow, EventRow, Reservation, Settlement, StepRow

VALUE_ERRORS = OverflowError, UnicodeError
"""What Python's own database drivers say of a value before they hand it on: the database has not even seen it."""


def no_such_value(error: Exception, place: str) -> LedgerError:
    """Return the error for a value that no ledger can hold or look for; the ledger is as good as before."""
    return LedgerError(f"nothing in a ledger can have such a value: {error}", path=place)


def check_new_rows(rows: Sequence[JobRow], events: "Sequence[EventRow]", tasks: Sequence[TaskRow]) -> None:
    """Check that events and tasks belong to new jobs, and that events are numbered from 1 to ``last_event``.

    Raises:
        LedgerError: They are not.
    """
    numbers: dict[str, list[int]] = {row.job_id: [] for row in rows}
    _require_owner(numbers, (*events, *tasks))
    for event in events:
        numbers[event.job_id].append(event.number)
    for row in rows:
        if numbers[row.job_id] != [*range(1, row.last_event + 1)]:
            raise misnumbered(row.job_id)


def check_change(change: JobChange) -> None:
    """Check that everything in a change is about its job, that events are numbered on, and that money adds up.

    Raises:
        LedgerError: It is not, or they are not.
    """
    finished = () if change.finished is None else (change.finished,)
    _require_owner((change.job_id,), (*finished, *change.tasks, *change.steps, *change.events))
    numbers = [event.number for event in change.events]
    is_in_order = numbers == [*range(numbers[0], numbers[0] + len(numbers))] if numbers else True
    if not is_in_order or change.columns.get("last_event") != (numbers[-1] if numbers else None):
        raise misnumbered(change.job_id)
    settlement = change.settlement
    if settlement is not None and not 0 <= settlement.spent <= settlement.released:
        message = f"{settlement.spent} wei of {settlement.released} cannot have been spent"
        raise LedgerError(message, job_id=change.job_id, field="settlement")


def misnumbered(job_id: str) -> LedgerError:
    """Return the error of events that leave a gap, or were numbered before."""
    message = f"the events of job {job_id!r} must be numbered on without a gap, up to its last_event"
    return LedgerError(message, job_id=job_id, field="last_event")


def not_begun(attempt: AttemptRow, *, or_ended: bool = False) -> LedgerError:
    """Return the error of an attempt that is not there, or has another outcome already."""
    tail = ", or has another outcome already" if or_ended else ""
    return LedgerError(f"attempt {attempt.number} of job {attempt.job_id!r} was not begun{tail}", job_id=attempt.job_id)


def not_held(settlement: "Settlement") -> LedgerError:
    """Return the error of a budget that holds less than it should give back."""
    message = f"the budget {settlement.budget!r} does not hold {settlement.released} wei that it could give back"
    return LedgerError(message, field="settlement")


def exceeded(wanted: "Reservation", known: "BudgetRow", job_id: str) -> BudgetExceededError:
    """Return the error of a create that its budget does not allow."""
    # Below 0 where the limit was lowered under what is held already.
    left = max(0, wanted.limit - known.held - known.spent)
    message = (
        f"the budget {wanted.budget!r} has {to_cnx(left)} CNX left of {to_cnx(wanted.limit)}, and this create may cost "
        f"{to_cnx(wanted.amount)}; it was not sent. Raise the budget, or wait for tasks that end for less"
    )
    return BudgetExceededError(
        message,
        budget=wanted.budget,
        amount=wanted.amount,
        limit=wanted.limit,
        held=known.held,
        spent=known.spent,
        job_id=job_id,
    )


def _require_owner(job_ids: Iterable[str], parts: "Iterable[AttemptRow | TaskRow | StepRow | EventRow]") -> None:
    known = {*job_ids}
    for part in parts:
        if part.job_id not in known:
            message = f"a row of job {part.job_id!r} cannot be stored with other jobs"
            raise LedgerError(message, job_id=part.job_id, field="job_id")
