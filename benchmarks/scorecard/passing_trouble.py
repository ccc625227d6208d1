"""Case S12: a lock that lasts, and a disk that is full for a while, at every statement of a submit."""

import asyncio
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.scorecard.accounting import JobClass
from benchmarks.scorecard.case import Context
from benchmarks.scorecard.worlds import World, accounts, config, creates, on_virtual_time
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.states import JobState

ALL_SEEDS = 20
JOBS = 3
LIMIT = 60_000
INSTANT = 1e9
LASTS = 7.0

_TROUBLES = {"lock": sqlite3.SQLITE_BUSY, "full disk": sqlite3.SQLITE_FULL}
_HARMLESS = ("ROLLBACK", "RELEASE")


class Troubled:
    """A connection to SQLite that fails from one statement on, until the trouble is over.

    Args:
        raw: The connection.
        code: What it fails with.
        at: Which statement, from 1; 0 for none.
        lasts: Seconds of virtual time.
    """

    def __init__(self, raw: sqlite3.Connection, code: int, at: int, lasts: float) -> None:
        self._raw = raw
        self._code = code
        self._at = at
        self._lasts = lasts
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        self.statements = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        """Run a statement, or fail."""
        self._pass(sql)
        return self._raw.execute(sql, *rest)

    def executemany(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        """Run a statement for many rows, or fail."""
        self._pass(sql)
        return self._raw.executemany(sql, *rest)

    def _pass(self, sql: str) -> None:
        if sql.startswith(_HARMLESS):
            return
        self.statements += 1
        if self.statements == self._at:
            self._loop.call_soon_threadsafe(self._loop.call_later, self._lasts, self._end)
        if self._at and self.statements >= self._at and not self._is_over:
            error = sqlite3.OperationalError("trouble")
            error.sqlite_errorcode = self._code
            raise error

    def _end(self) -> None:
        self._is_over = True


def troubled(context: Context) -> str:
    """S12: locks and full disks that pass, at every statement of a submit."""
    path = context.folder / "count.db"
    total, _ = _run(path, sqlite3.SQLITE_BUSY, 0)
    step = max(1, ALL_SEEDS // context.seeds)
    seen = []
    for name, code in _TROUBLES.items():
        points = range(1, total + 1, step)
        for at in points:
            _, classes = _run(context.folder / f"{code}-{at}.db", code, at)
            assert classes == {JobClass.ACCEPTED: JOBS}, f"{name} at statement {at}: {classes}"
        seen.append(f"{name} at {len(points)} of {total} statements")
    return f"{', '.join(seen)}: nothing rejected, {JOBS} jobs sent once each"


def _run(path: Path, code: int, at: int) -> tuple[int, Counter[JobClass]]:
    async def work(world: World) -> tuple[int, Counter[JobClass]]:
        ledger = SqliteLedger(path)
        async with world.session(ledger=ledger, rate_limit=LIMIT) as session:
            database: Any = ledger._database
            file = Troubled(database.writes._raw, code, at, LASTS)
            database.writes._raw = file
            jobs = [session.submit_nowait(config(seed)) for seed in range(1, JOBS + 1)]
            async with asyncio.timeout(600):
                told = [(await job.submitted()).task_id or "" for job in jobs]
            states = {job.state for job in jobs}
            assert states == {JobState.RUNNING}, f"{states}"
            statements = file.statements
        assert len(creates(world.bridge)) == JOBS, f"{len(creates(world.bridge))} POSTs"
        book = SqliteLedger(path)
        await book.open()
        try:
            return statements, await accounts(world, book, told)
        finally:
            await book.close()

    return on_virtual_time(work, rate_limit=LIMIT, speed=INSTANT, durable=False)
