"""Ledgers on disk for tests, and other processes that use them."""

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import Fence, Ledger
from crynux_async.ledgers.conformance.support import job
from crynux_async.ledgers.sqlite.ledger import SqliteLedger

# A process that does with the ledger what it reads, line by line, and answers each line with JSON.
WORKER = """
import asyncio, json, sys
from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import GateRow
from crynux_async.ledgers.conformance.support import BACKEND, KEY_ID, at, attempt, happened, job
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.states import JobState

async def count(ledger, times):
    for _ in range(times):
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            seen = cell.row.snapshot["count"] if cell.row else 0
            await asyncio.sleep(0)
            cell.row = GateRow(clock="boot", snapshot={"count": seen + 1})

async def enter(ledger, owner):
    global fence
    fence = await ledger.enter(owner, seconds=60)
    return fence.number

async def claim(ledger):
    rows = await ledger.claim(fence, backend=BACKEND, states=[JobState.PLANNED, JobState.RUNNING])
    return [row.job_id for row in rows]

async def add(ledger, *names):
    return [row.job_id for row in await ledger.add([job(name) for name in names])]

async def ask_with_keys(ledger, process, times, keys):
    async def ask(number):
        row = job(f"job {process} {number}", idempotency_key=f"key {number % keys}")
        (stored,) = await ledger.add([row], fence=fence)
        return stored.idempotency_key, stored.job_id
    return await asyncio.gather(*(ask(number) for number in range(times)))

async def tried(doing):
    try:
        return await doing
    except LedgerError as error:
        return str(error)

async def main():
    ledger = SqliteLedger(sys.argv[1])
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(await tried(eval(line))), flush=True)

asyncio.run(main())
"""

# A process without the library, which starts fast: it runs one statement and keeps its transaction.
HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
print('"ready"', flush=True)
sys.stdin.read()
"""


class Worker:
    """Another process on a ledger."""

    def __init__(self, program: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def do(self, line: str) -> Any:
        self.ask(line)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


Start = Callable[..., Worker]


@contextmanager
def workers() -> Iterator[Start]:
    """Give a function that starts other processes; they end with the block."""
    begun: list[Worker] = []

    def start(program: str, *arguments: str) -> Worker:
        begun.append(Worker(program, *arguments))
        return begun[-1]

    try:
        yield start
    finally:
        for worker in begun:
            worker.kill()


def run(program: str, *arguments: str, before: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    """Run a Python program to its end, behind another command where one is given."""
    command = [*before, sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def query(path: Path, statement: str) -> list[Any]:
    """Ask a file in SQLite's own words."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(path, **options)
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


async def make_ledger(path: Path, jobs: int = 3) -> Path:
    async with opened(path) as ledger:
        await ledger.add([job(f"job {number}") for number in range(jobs)])
    return path


class Faulty:
    """Stands before the connection to a file: notes every statement, and lets some of them fail.

    Attributes:
        statements: What was run since the last ``clear()``.
        failing: A statement that begins so fails, if it is not "".
        error: With this.
        is_done: Whether it is done all the same before it fails.
    """

    def __init__(self, ledger: SqliteLedger) -> None:
        assert ledger._database is not None
        writes: Any = ledger._database.writes
        self._raw = writes._raw
        writes._raw = self
        self.statements: list[str] = []
        self.failing = ""
        self.error: Exception = failure_of_sqlite(sqlite3.SQLITE_IOERR)
        self.is_done = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        return self._run(self._raw.execute, sql, *parameters)

    def executemany(self, sql: str, *parameters: Any) -> Any:
        return self._run(self._raw.executemany, sql, *parameters)

    def _run(self, run: Callable[..., Any], sql: str, *parameters: Any) -> Any:
        self.statements.append(sql)
        fails = bool(self.failing) and sql.startswith(self.failing)
        result = run(sql, *parameters) if self.is_done or not fails else None
        if fails:
            raise self.error
        return result


def failure_of_sqlite(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("made for this test")
    error.sqlite_errorcode = code
    return error


async def holding(ledger: Ledger, *names: str) -> Fence:
    """Return a lease of a minute that holds certain jobs."""
    fence = await ledger.enter("me", seconds=60)
    assert await ledger.take(fence, names) == list(names)
    return fence


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


async def refusal(path: Path, **options: Any) -> str:
    """Return why a ledger is not opened; the folder must not change by it."""
    before = contents(path.parent) if path.parent.is_dir() else None
    with pytest.raises(LedgerError) as raised:
        async with opened(path, **{"busy_timeout": 0.1, **options}):
            pass
    if before is not None:
        assert contents(path.parent) == before
    assert raised.value.path == str(path)
    assert str(path) in str(raised.value)
    return str(raised.value)
