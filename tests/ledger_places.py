"""Where ledgers are while the conformance checks run on them."""

import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from crynux_async.clock import utc_now
from crynux_async.ledgers.memory import MemoryLedger
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
