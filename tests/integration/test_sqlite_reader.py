"""A SQLite ledger is read without an event loop as ``SqliteLedger`` reads it, and is left as it was."""

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest

from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import Fence, JobFilter
from crynux_async.ledgers.conformance.support import BACKEND, attempt, job, task
from crynux_async.ledgers.sql.schema import VERSION
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.ledgers.sqlite.reader import SqliteReader, at_once, open_reader
from crynux_async.states import JobState

pytestmark = pytest.mark.real_time

NAMES = [f"job-{number}" for number in range(3)]


async def fill(ledger: SqliteLedger) -> Fence:
    fence = await ledger.enter("owner", seconds=3600.0)
    rows = [job(name, state=JobState.RUNNING if name == NAMES[1] else JobState.PLANNED) for name in NAMES]
    await ledger.add(rows, fence=fence, tasks=[task(NAMES[1], "7")])
    await ledger.begin(fence, attempt(NAMES[0]))
    return fence


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.open()
    await fill(ledger)
    await ledger.close()
    return tmp_path / "jobs.db"


def reader_of(path: Path) -> SqliteReader:
    reader = open_reader(path)
    assert reader is not None
    return reader


@pytest.mark.parametrize("is_in_use", [True, False])
async def test_reader_reads_what_the_ledger_reads_in_use_or_not(is_in_use: bool, path: Path) -> None:
    ledger = SqliteLedger(path)
    await ledger.open()
    where = JobFilter(states=frozenset({JobState.PLANNED}), job_ids=NAMES)
    wanted = (
        await ledger.jobs(where, newest_first=True),
        await ledger.attempts(job_ids=NAMES, unfinished=True),
        await ledger.tasks(NAMES),
        await ledger.holder(NAMES[0]),
    )
    if not is_in_use:
        await ledger.close()
    reader = reader_of(path)
    found = (
        at_once(reader.jobs(where, newest_first=True)),
        at_once(reader.attempts(job_ids=NAMES, unfinished=True)),
        at_once(reader.tasks(NAMES)),
        at_once(reader.holder(NAMES[0])),
    )
    reader.close()
    await ledger.close()
    assert [len(rows) for rows in found[:3]] == [2, 1, 1]
    assert found == wanted
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_reader_writes_nothing(path: Path) -> None:
    before = path.read_bytes()
    reader = reader_of(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._raw.execute("DELETE FROM jobs")
    reader.close()
    assert path.read_bytes() == before


async def test_log_of_a_process_that_was_killed_is_left_to_whoever_opens_the_ledger(path: Path, tmp_path: Path) -> None:
    ledger = SqliteLedger(path)
    await ledger.open()
    await ledger.add([job("late", backend=BACKEND)])
    # As a kill leaves them: the log holds the newest write, and the beginning of one more.
    (tmp_path / "killed").mkdir()
    left = Path(shutil.copy(path, tmp_path / "killed"))
    log = Path(shutil.copy(f"{path}-wal", tmp_path / "killed"))
    await ledger.close()
    before = log.read_bytes()
    before += before[32:56] + b"torn"
    log.write_bytes(before)

    reader = reader_of(left)
    assert [row.job_id for row in at_once(reader.jobs())] == [*NAMES, "late"]
    reader.close()

    assert log.read_bytes() == before
    again = SqliteLedger(left)
    await again.open()
    await again.close()
    assert "was dropped" in again.dropped


@pytest.mark.parametrize("content", ["", "older"])
async def test_file_that_must_be_made_or_migrated_first_has_no_reader(content: str, path: Path, tmp_path: Path) -> None:
    if not content:
        path = tmp_path / "empty.db"
        path.touch()
    else:
        with sqlite3.connect(path) as raw:
            raw.execute("UPDATE meta SET value = '1' WHERE name = 'version'")
        raw.close()
    before = path.read_bytes()
    assert open_reader(path) is None
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (f"UPDATE meta SET value = '{VERSION + 1}' WHERE name = 'version'", "newer version"),
        (
            "INSERT INTO meta (name, value) VALUES ('moved', 'postgresql://there/jobs')",
            "was moved to postgresql://there",
        ),
        ("PRAGMA application_id = 1", "of another program"),
    ],
)
async def test_ledger_that_cannot_be_opened_cannot_be_read(statement: str, said: str, path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute(statement)
    raw.close()
    with pytest.raises(LedgerError, match=said):
        open_reader(path)
    with pytest.raises(LedgerError, match=said):
        await SqliteLedger(path).open()


async def test_what_waits_for_something_else_cannot_run_at_once() -> None:
    with pytest.raises(RuntimeError, match="waits"):
        at_once(asyncio.sleep(0))
