"""Where ledgers are while the conformance checks run on them."""

import secrets
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.postgres_server import PostgresServer
from crynux_async.clock import utc_now
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.ledgers.postgres.ledger import PostgresLedger
from crynux_async.ledgers.sql.text import Sql
from crynux_async.ledgers.sqlite.ledger import SqliteLedger


class MovableClock:
    """The time, and some seconds more."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> datetime:
        return utc_now() + timedelta(seconds=self._ahead)

    def move(self, seconds: float) -> None:
        self._ahead += seconds


class MemoryPlace:
    """A ledger in memory: its instances are one and the same."""

    kind = MemoryLedger

    def __init__(self) -> None:
        self._clock = MovableClock()
        self._ledger = self.kind(clock=self._clock)

    def instance(self) -> MemoryLedger:
        return self._ledger

    def move_clock(self, seconds: float) -> None:
        self._clock.move(seconds)


class SqlitePlace:
    """A ledger in a file, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._clock = MovableClock()
        self._path = Path(tempfile.mkdtemp(dir=folder)) / "jobs.db"

    def instance(self) -> SqliteLedger:
        return SqliteLedger(self._path, clock=self._clock)

    def move_clock(self, seconds: float) -> None:
        self._clock.move(seconds)


class LedgerAhead(PostgresLedger):
    """A ledger whose server's clock is some seconds ahead."""

    def __init__(self, where: str, ahead: "Ahead") -> None:
        super().__init__(where)
        self._ahead = ahead

    def now(self) -> Sql:
        return super().now() + f" + {round(self._ahead.seconds * 1_000_000)}"


class Ahead:
    """How far a clock is ahead."""

    seconds = 0.0


class PostgresPlace:
    """A ledger in a schema of its own."""

    def __init__(self, server: PostgresServer) -> None:
        self._where = server.url(schema=f"place_{secrets.token_hex(6)}")
        self._ahead = Ahead()

    def instance(self) -> PostgresLedger:
        return LedgerAhead(self._where, self._ahead)

    def move_clock(self, seconds: float) -> None:
        self._ahead.seconds += seconds
