"""What a database must offer to be a ledger's."""

from collections.abc import Sequence
from typing import Any, Protocol

from crynux_async.errors import LedgerError
from crynux_async.ledgers.sql.steps import Step
from crynux_async.ledgers.sql.text import Row, Sql


class StepRefusedError(Exception):
    """The database does not take a step; nothing of its transaction is stored.

    Attributes:
        step: Which.
        cause: What the database said, or None where a row changed nothing.
    """

    def __init__(self, step: Step, cause: Exception | None = None) -> None:
        super().__init__(step.refusal if cause is None else f"{step.refusal} ({cause})")
        self.step = step
        self.cause = cause


class Connection(Protocol):
    """One connection. Methods raise the driver's own errors, which the last four methods tell apart."""

    @property
    def leaves_marks(self) -> bool:
        """Whether the answer to a commit can get lost, so that each transaction leaves a mark by which to ask."""

    async def write(self, steps: Sequence[Step]) -> None:
        """Do all steps in a transaction of their own, at one trip to the database, and commit it.

        Raises:
            StepRefusedError: One was refused; the transaction was undone.
        """

    async def begin(self) -> None:
        """Begin a transaction that writes. Where a database cannot lock rows, it keeps all other writers out."""

    async def commit(self) -> None:
        """Make the transaction durable."""

    async def rollback(self) -> None:
        """Undo the transaction, if one is open; when this returns, nothing of it is stored."""

    async def savepoint(self) -> None:
        """Mark a place in the transaction."""

    async def back_to_savepoint(self) -> None:
        """Undo everything since the place that was marked."""

    async def release_savepoint(self) -> None:
        """Forget the place that was marked."""

    async def run(self, statement: Sql, rows: Sequence[Row] | None = None) -> int:
        """Run a statement once for each row, and return how many rows of the database changed.

        Args:
            statement: Anything but a SELECT.
            rows: Values of its parameters, by name; None where the statement has its values in itself.
        """

    async def insert(self, statement: Sql, row: Row) -> int:
        """Add a row, and return the number that the database gave it."""

    async def fetch(self, statement: Sql, row: Row | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT.

        Args:
            statement: The SELECT.
            row: Values of its parameters, by name; None where the statement has its values in itself.
        """

    async def tend(self) -> None:
        """Do the housekeeping that is due between transactions."""

    def explain(self, error: Exception) -> LedgerError:
        """Return what an error means and what to do.

        ``LedgerBusyError`` where it is certain that nothing was stored and the same may work later; any other
        ``LedgerError`` where nothing may be written any more.
        """

    def is_lost_answer(self, error: Exception) -> bool:
        """Whether an error leaves open if a commit has arrived; the next method of the connection connects anew."""

    def is_refusal(self, error: Exception) -> bool:
        """Whether an error is the fault of a statement's values alone, and the connection is as good as before."""

    def is_collision(self, error: Exception) -> bool:
        """Whether a transaction was undone only because others locked the same rows in another order."""
