"""One visit to the row of a gate, seen from its two sides: the writer, which holds the transaction, and the visitor."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from crynux_async.errors import LedgerBusyError, LedgerError
from crynux_async.ledgers.base import GATE_SECONDS, GateRow
from crynux_async.ledgers.columns import to_json
from crynux_async.ledgers.sql import queries, statements
from crynux_async.ledgers.sql.connection import Connection
from crynux_async.ledgers.sql.text import Row

_EMPTY = ""
"""The snapshot of a row that was never stored by a visitor."""


class GateCell:
    """A gate's row inside its transaction.

    Attributes:
        row: As it was found; set it to store another one.
        clock: Which clock ``now`` is read from.
        now: Seconds, read after everybody else was kept out.
    """

    __slots__ = ("clock", "now", "row")

    def __init__(self, clock: str) -> None:
        self.row: GateRow | None = None
        self.clock = clock
        self.now = 0.0


class GateVisit:
    """From the wish to see a gate's row to the end of the transaction.

    Args:
        backend: The service.
        key_id: Fingerprint of the key.
        clock: The name of the clock that all visitors share.
        read_clock: Returns its seconds, inside the transaction.
    """

    def __init__(
        self, backend: str, key_id: str, *, clock: str, read_clock: Callable[[Connection], Awaitable[float]]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.cell = GateCell(clock)
        self._read_clock = read_clock
        self._backend = backend
        self._key_id = key_id
        self._found: GateRow | None = None
        self._opened: asyncio.Future[None] = loop.create_future()
        self._left: asyncio.Future[Row | None] = loop.create_future()

    async def hold(self, connection: Connection) -> tuple[None, bool]:
        """Show the row to the visitor inside the open transaction, and store what it leaves.

        Raises:
            LedgerError: The visitor does not come back, or the row is not readable.
        """
        if self._opened.done():  # the transaction was undone after the visitor had decided
            raise LedgerBusyError("a gate was closed before what was decided in it was stored")
        key = {"backend": self._backend, "key_id": self._key_id}
        rows = await connection.fetch(queries.SELECT_GATE, key)
        if not rows:  # a row that is not there cannot be locked
            await connection.run(statements.OPEN_GATE, [{**key, "boot_id": "", "snapshot": _EMPTY}])
            rows = await connection.fetch(queries.SELECT_GATE, key)
        # In a statement of its own: one that waited for a lock says when it began to wait.
        self.cell.now = await self._read_clock(connection)
        # The transaction stays open while the visitor decides: that is what makes the gate one for all processes.
        self.cell.row = self._found = _decode(rows[0])
        self._opened.set_result(None)
        try:
            async with asyncio.timeout(GATE_SECONDS):
                row = await self._left
        except TimeoutError:
            message = f"a gate was held for more than {GATE_SECONDS:g} s, so that what was decided in it is not stored"
            raise LedgerError(message) from None
        if row is None:
            return None, False
        await connection.run(statements.PUT_GATE, [row])
        return None, True

    async def enter(self, stored: "asyncio.Future[None]") -> None:
        """Wait for the row.

        Args:
            stored: The end of the transaction, which comes first where it could not begin.

        Raises:
            LedgerError: It could not begin.
        """
        await asyncio.wait({self._opened, stored}, return_when=asyncio.FIRST_COMPLETED)
        if not self._opened.done():
            stored.result()

    def leave(self, row: Row | None) -> None:
        """Let the transaction end: store ``row``, or nothing where it is None."""
        if not self._left.done():
            self._left.set_result(row)

    def changed_row(self) -> Row | None:
        """Return what the visitor has put into the cell, or None where it is what was found.

        Raises:
            LedgerError: It cannot be stored as JSON.
        """
        row = self.cell.row
        # Most visits only look; a write for each would be an fsync for each.
        if row is None or row is self._found:
            return None
        return {
            "backend": self._backend,
            "key_id": self._key_id,
            "boot_id": row.clock,
            "snapshot": to_json(row.snapshot),
        }


def _decode(columns: tuple[str, str]) -> GateRow | None:
    clock, text = columns
    if text == _EMPTY:
        return None
    try:
        return GateRow(clock=clock, snapshot=json.loads(text))
    except ValueError as error:
        raise LedgerError(f"the row of a gate cannot be read: {error}") from error
