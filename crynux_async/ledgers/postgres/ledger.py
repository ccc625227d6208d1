"""A ledger in PostgreSQL.

Theory of operation. What SQLite gives to the processes of one machine, the server gives to hosts. Every decision locks
the rows that it is about, and only those: a job, a lease, a gate. Time is the server's: hosts whose clocks are a day
apart agree on when a lease has ended and when a create may go. A session has three connections: one that writes, one
that reads, and from the first time that somebody waits for others' writes one that listens.

The server may go away at any moment, also in the middle of a commit (``connection``, ``trouble``): what it said nothing
about is found out by a mark that each transaction leaves on its owner's lease (``sql.writer``).
"""

from pathlib import Path

from crynux_async.clock import monotonic
from crynux_async.ledgers.postgres.address import read_address
from crynux_async.ledgers.postgres.listener import Listener
from crynux_async.ledgers.postgres.opening import (
    SELECT_TIME,
    SERVER_TIME,
    OpenDatabase,
    bring_up_to_date,
    connected,
    require_ledger,
)
from crynux_async.ledgers.postgres.server import Server
from crynux_async.ledgers.sql.connection import Connection
from crynux_async.ledgers.sql.ledger import SqlLedger
from crynux_async.ledgers.sql.migrations import CURRENT, SchemaPlan
from crynux_async.ledgers.sql.text import Sql

_MICROSECONDS = 1_000_000


class PostgresLedger(SqlLedger):
    """A ledger in a PostgreSQL database, which any number of hosts may share.

    Args:
        where: "postgresql://user@host:5432/database"; options after "?" are libpq's, and ``schema`` and ``spill``.
        schema: Namespace of its tables, made where it is not there; "crynux_async" otherwise.
        plan: The schema of the tables; another one than this version's is for tests of migrations.
        makes: Whether tables are made where there are none; else opening it is a UsageError there.

    Raises:
        UsageError: ``where`` cannot be read, or psycopg is not installed.
    """

    def __init__(
        self, where: str, *, schema: str | None = None, plan: SchemaPlan = CURRENT, makes: bool = True
    ) -> None:
        self._makes = makes
        self._address = read_address(where, schema=schema)
        super().__init__(self._address.name)
        self._plan = plan
        self._listener: Listener | None = None

    @property
    def spill(self) -> Path | None:
        """The file for what could not be stored, or None."""
        return self._address.spill

    def give_up_after(self, seconds: float) -> None:
        """Wait for a database that is away or locked no longer than this, from now on; for who ends."""
        super().give_up_after(seconds)
        if isinstance(self._database, OpenDatabase):
            self._database.give_up_at(monotonic() + seconds)

    async def changed(self, since: int) -> int:
        """Wait until anything may have been written by anybody since the call that returned ``since``."""
        self._reading()
        assert self._listener is not None
        number = await self._listener.heard(since)
        self._reading()  # or it was closed meanwhile
        return number

    async def _open_database(self) -> OpenDatabase:
        server = Server(self._address)
        writes = await connected(server)
        try:
            if not self._makes:
                await require_ledger(writes, server)
            await bring_up_to_date(writes, server, self._plan)
            reads = await connected(server)
        except BaseException:
            await writes.close()
            raise
        self._listener = Listener(server, self._bell, lambda: writes.backend_pid)
        return OpenDatabase(writes=writes, reads=reads, listener=self._listener)

    @property
    def _clock_name(self) -> str:
        return "server"

    async def _read_clock(self, connection: Connection) -> float:
        ((microseconds,),) = await connection.fetch(SELECT_TIME)
        return int(microseconds) / _MICROSECONDS

    def now(self) -> Sql:
        """Return the server's time."""
        return SERVER_TIME
