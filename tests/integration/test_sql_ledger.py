"""The SQL ledger on real files: what it opens and refuses, versions, many callers, and any sequence of calls."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.errors import CrynuxError, LedgerError, UsageError
from crynux_async.ledgers.base import (
    GATE_SECONDS,
    AttemptOutcome,
    Fence,
    GateRow,
    JobChange,
    JobFilter,
    JobRow,
    Ledger,
    Reservation,
    Settlement,
    WishRow,
)
from crynux_async.ledgers.columns import decode_job
from crynux_async.ledgers.conformance.support import BACKEND, KEY_ID, at, attempt, happened, job, step, task
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.ledgers.sql import gate_visit, reads
from crynux_async.ledgers.sql.connection import Connection
from crynux_async.ledgers.sql.migrations import CURRENT, Migration, SchemaPlan
from crynux_async.ledgers.sql.schema import VERSION
from crynux_async.ledgers.sql.text import Sql
from crynux_async.ledgers.sqlite import file as sqlite_file
from crynux_async.ledgers.sqlite import ticker
from crynux_async.ledgers.sqlite.connection import SqliteConnection
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.states import JobState
from tests.ledger_files import HOLDER, Faulty, Start, holding, make_ledger, opened, query, refusal, workers
from tests.ledger_places import MovableClock

pytestmark = pytest.mark.real_time


@pytest.fixture
def start() -> Iterator[Start]:
    with workers() as begin:
        yield begin


# --- the file ---------------------------------------------------------------------------------------------------------


async def test_new_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        await ledger.add([job("a")])
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"jobs.db": 0o600, "jobs.db-wal": 0o600, "jobs.db-shm": 0o600}


async def test_closed_ledger_leaves_one_file(tmp_path: Path) -> None:
    await make_ledger(tmp_path / "jobs.db")
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.db"]


async def test_empty_file_becomes_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.touch()
    async with opened(path) as ledger:
        assert await ledger.jobs() == []


async def test_file_with_awkward_name_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "a b%20c#d?ünï'.db"
    await make_ledger(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


async def test_link_to_a_ledger_is_the_same_ledger(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    await make_ledger(tmp_path / "elsewhere" / "jobs.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "elsewhere" / "jobs.db")
    async with opened(tmp_path / "link.db") as one, opened(tmp_path / "elsewhere" / "jobs.db") as other:
        await one.add([job("new")])
        assert await other.get("new") == job("new")


async def test_every_job_goes_to_disk_as_plain_columns(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db", 1)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (row,) = connection.execute(
            "SELECT job_id, state, planned_at, config FROM jobs NATURAL JOIN configs"
        ).fetchall()
    config = job("job 0").config
    assert config is not None
    assert row[:3] == ("job 0", "planned", 1_767_268_800_123_456)
    assert json.loads(row[3]) == config.to_dict()


async def test_commit_waits_for_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        assert ledger._database is not None
        writes: Any = ledger._database.writes
        assert await writes.command("PRAGMA journal_mode") == [("wal",)]
        assert await writes.command("PRAGMA synchronous") == [(2,)]
        assert await writes.command("PRAGMA foreign_keys") == [(1,)]


# --- files that are refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"x", b"job_id,state\na,planned\n" * 99, bytes(5000)], ids=["byte", "csv", "zeros"]
)
async def test_open_of_a_file_that_is_not_of_sqlite_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    assert "not of SQLite" in await refusal(path)


@pytest.mark.parametrize("application_id", [0, 0x0F055112])
async def test_open_of_another_programs_database_is_refused(application_id: int, tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY)")
        connection.execute(f"PRAGMA application_id={application_id}")
        connection.commit()
    assert "another program" in await refusal(path)


async def test_open_of_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in await refusal(tmp_path)


async def test_open_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in await refusal(tmp_path / "nowhere" / "jobs.db")


async def test_open_of_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "a device or a pipe" in await refusal(tmp_path / "pipe")


async def test_open_of_a_read_only_file_is_refused(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    path.chmod(0o400)
    assert "is read-only" in await refusal(path)


@pytest.mark.parametrize("is_there", [True, False])
async def test_open_in_a_read_only_folder_is_refused(is_there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    if is_there:
        await make_ledger(folder / "jobs.db")
    folder.chmod(0o500)
    try:
        assert "is read-only" in await refusal(folder / "jobs.db")
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("kept", [1, 99, 100, 4096, 20_000, -4096, -1])
async def test_open_of_a_truncated_ledger_is_refused(kept: int, tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db", 30)
    path.write_bytes(path.read_bytes()[:kept])
    message = await refusal(path)
    assert "is damaged" in message or "not of SQLite" in message


async def test_open_of_a_ledger_with_an_overwritten_page_is_refused(tmp_path: Path) -> None:
    whole = (await make_ledger(tmp_path / "jobs.db", 30)).read_bytes()
    pages = len(whole) // 4096
    for page in random.Random(1).sample(range(1, pages), 8):
        damaged = bytearray(whole)
        damaged[page * 4096 : page * 4096 + 4096] = random.Random(page).randbytes(4096)
        (tmp_path / "jobs.db").write_bytes(damaged)
        assert "is damaged" in await refusal(tmp_path / "jobs.db")


async def test_large_ledger_is_not_gone_through_as_a_whole_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await make_ledger(tmp_path / "jobs.db", 30)
    ((page,),) = query(path, "SELECT rootpage FROM sqlite_master WHERE name = 'jobs_planned_at'")
    damaged = bytearray(path.read_bytes())
    damaged[(page - 1) * 4096 : page * 4096] = random.Random(1).randbytes(4096)
    path.write_bytes(damaged)
    assert "is damaged" in await refusal(path)
    monkeypatch.setattr(sqlite_file, "CHECKED_BYTES", len(damaged) - 1)
    async with opened(path) as ledger:
        assert len(await ledger.jobs()) == 30
        with pytest.raises(LedgerError, match="is damaged"):
            await ledger.jobs(JobFilter(since=at(0)))


async def test_open_of_a_ledger_without_its_version_is_refused(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM meta")
        connection.commit()
        connection.execute("PRAGMA journal_mode=DELETE")
    assert "is damaged" in await refusal(path)


async def test_open_of_a_damaged_ledger_with_a_log_keeps_both_files(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    crash = tmp_path / "crash"
    async with opened(tmp_path / "live" / "jobs.db") as ledger:
        await ledger.add([job(f"job {number}") for number in range(200)])
        assert ledger._database is not None
        writes: Any = ledger._database.writes
        await writes.command("PRAGMA wal_checkpoint(PASSIVE)")
        await ledger.add([job("in the log")])
        shutil.copytree(tmp_path / "live", crash)
    main = bytearray((crash / "jobs.db").read_bytes())
    main[40 * 4096 : 60 * 4096] = random.Random(2).randbytes(20 * 4096)
    (crash / "jobs.db").write_bytes(main)
    log = (crash / "jobs.db-wal").read_bytes()
    with pytest.raises(LedgerError, match="is damaged"):
        await SqliteLedger(crash / "jobs.db").open()
    assert (crash / "jobs.db").read_bytes() == main
    assert (crash / "jobs.db-wal").read_bytes() == log


async def test_open_of_a_locked_file_says_so_and_works_afterwards(tmp_path: Path, start: Start) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    holder = start(HOLDER, str(path), "PRAGMA locking_mode=EXCLUSIVE", "BEGIN EXCLUSIVE", "DELETE FROM attempts")
    holder.answer()
    ledger = SqliteLedger(path, busy_timeout=0.1)
    with pytest.raises(LedgerError, match="locked by another process"):
        await ledger.open()
    holder.kill()
    await ledger.open()
    assert len(await ledger.jobs()) == 3
    await ledger.close()


async def test_verdict_about_a_file_that_changes_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    looks = 0

    def look(path: Path, *_: Any) -> None:
        nonlocal looks
        looks += 1
        if looks < 3:
            os.utime(path, ns=(looks, looks))
            raise LedgerError("read while it was written")

    monkeypatch.setattr(sqlite_file, "_look", look)
    sqlite_file.prepare(path, CURRENT.version, 0.1)
    assert looks == 3


async def test_refused_ledger_can_be_opened_when_the_reason_is_gone(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "later" / "jobs.db")
    with pytest.raises(LedgerError):
        await ledger.open()
    (tmp_path / "later").mkdir()
    await ledger.open()
    await ledger.add([job("a")])
    await ledger.close()


# --- versions ---------------------------------------------------------------------------------------------------------


def run_all(*statements: str) -> Migration:
    """Return a step of a migration that runs some statements."""

    async def migrate(connection: Connection, _path: str, _now: int) -> None:
        for statement in statements:
            await connection.run(Sql(statement))

    return migrate


_add_colour = run_all("ALTER TABLE jobs ADD COLUMN colour TEXT")
_paint = run_all("UPDATE jobs SET colour = 'red'")
_fail_halfway = run_all("DROP TABLE hazards", "DELETE FROM nowhere")


def plan_to(version: int, *steps: Migration) -> SchemaPlan:
    return SchemaPlan(
        version=version, migrations={version - len(steps) + number: step for number, step in enumerate(steps)}
    )


async def test_older_ledger_is_brought_up_to_date_step_by_step(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    async with opened(path, plan=plan_to(VERSION + 2, _add_colour, _paint)) as ledger:
        assert [row.job_id for row in await ledger.jobs()] == ["job 0", "job 1", "job 2"]
    assert query(path, "SELECT value FROM meta WHERE name = 'version'") == [(str(VERSION + 2),)]
    assert query(path, "SELECT DISTINCT colour FROM jobs") == [("red",)]


async def test_ledger_that_is_up_to_date_is_not_migrated_again(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    for _ in range(2):
        async with opened(path, plan=plan_to(VERSION + 1, _add_colour)) as ledger:
            assert len(await ledger.jobs()) == 3


async def test_newer_ledger_is_refused_with_both_versions(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    async with opened(path, plan=plan_to(VERSION + 1, _add_colour)):
        pass
    message = await refusal(path)
    assert f"version {VERSION + 1}" in message
    assert f"versions up to {VERSION}" in message
    assert "upgrade crynux_async" in message


async def test_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    before = query(path, "SELECT sql FROM sqlite_master ORDER BY name")
    with pytest.raises(LedgerError, match=f"cannot be brought to version {VERSION + 2}"):
        await SqliteLedger(path, plan=plan_to(VERSION + 2, _add_colour, _fail_halfway)).open()
    assert query(path, "SELECT sql FROM sqlite_master ORDER BY name") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["jobs.db"]
    async with opened(path) as ledger:
        assert len(await ledger.jobs()) == 3


async def test_two_processes_that_migrate_at_once_both_get_the_new_version(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    plan = plan_to(VERSION + 1, _add_colour)
    async with opened(path, plan=plan) as one, opened(path, plan=plan) as other:
        await one.add([job("new")])
        assert await other.get("new") == job("new")


async def test_config_of_a_later_version_is_listed_without_it_and_kept(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    config = job("job 1").config
    assert config is not None
    newer = json.dumps({**config.to_dict(), "lora_magic": 7})
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE configs SET config = ? WHERE job_id = 'job 1'", (newer,))
        connection.execute("UPDATE configs SET config = '{' WHERE job_id = 'job 2'")
        connection.commit()
    async with opened(path) as ledger:
        fence = await holding(ledger, "job 1")
        columns = {"state": JobState.FAILED, "error": "no luck"}
        await ledger.change(fence, [JobChange(job_id="job 1", columns=columns)])
        good, later, broken = await ledger.jobs()
    assert good == job("job 0")
    assert (later.config, later.state) == (None, JobState.FAILED)
    assert later.error.startswith("no luck; its config cannot be read by this version")
    assert "lora_magic: is not a field" in later.error
    assert (broken.config, broken.error) == (None, broken.error)
    assert "not a JSON table" in broken.error
    assert query(path, "SELECT config FROM configs WHERE job_id = 'job 1'") == [(newer,)]


async def test_row_that_no_ledger_wrote_is_reported_as_damage(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE jobs SET state = 'bored' WHERE job_id = 'job 1'")
        connection.commit()
    async with opened(path) as ledger:
        with pytest.raises(LedgerError, match="bored"):
            await ledger.jobs()
        assert await ledger.get("job 0") == job("job 0")


# --- one process, many callers ----------------------------------------------------------------------------------------


async def test_writes_that_wait_together_are_committed_together(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        file = Faulty(ledger)
        await asyncio.gather(*(ledger.add([job(f"job {number}")]) for number in range(100)))
        assert file.statements.count("COMMIT") <= 2
        assert len(await ledger.jobs()) == 100


async def test_creates_that_go_on_together_are_committed_together(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        names = [f"job {number}" for number in range(50)]
        await ledger.add([job(name) for name in names])
        fence = await holding(ledger, *names)
        file = Faulty(ledger)

        async def live(name: str) -> None:
            await ledger.begin(fence, attempt(name))
            done = attempt(name, answered_at=at(1), outcome=AttemptOutcome.ACCEPTED, task_id=name)
            columns = {"task_id": name, "state": JobState.RUNNING, "last_event": 1}
            events = happened(name, 1).events
            change = JobChange(job_id=name, columns=columns, finished=done, tasks=[task(name, name)], events=events)
            assert await ledger.change(fence, [change]) == []

        await asyncio.gather(*map(live, names))
        assert file.statements.count("COMMIT") <= 4
        assert len(file.statements) <= 8 * file.statements.count("COMMIT")


async def test_gate_that_was_only_looked_at_costs_no_commit(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            cell.row = GateRow(clock="boot", snapshot={})
        file = Faulty(ledger)
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            assert cell.row is not None
        begin, select, end = file.statements
        assert (begin, select[:6], end) == ("BEGIN IMMEDIATE", "SELECT", "ROLLBACK")


async def test_close_writes_what_is_left(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.open()
    fence = await ledger.enter("me", seconds=60)
    left: list[asyncio.Task[Any]] = []
    for number in range(20):
        left.append(asyncio.create_task(ledger.add([job(f"job {number}")])))
        left.append(asyncio.create_task(ledger.take(fence, [f"job {number}"])))
    await asyncio.sleep(0)
    await ledger.close()
    await asyncio.gather(*left)
    async with opened(tmp_path / "jobs.db") as again:
        assert await again.renew(fence, seconds=60) == 20


async def test_close_that_is_cancelled_closes_all_the_same(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.open()
    adding = asyncio.create_task(ledger.add([job("a")]))
    closing = asyncio.create_task(ledger.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await adding
    await ledger.close()
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.db"]


async def test_open_that_is_cancelled_at_any_moment_lets_the_file_go(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    moment, is_done = 0, False
    while not is_done:
        ledger = SqliteLedger(path)
        opening = asyncio.create_task(ledger.open())
        for _ in range(moment):
            await asyncio.sleep(0)
        opening.cancel()
        is_done = not (await asyncio.gather(opening, return_exceptions=True))[0]
        await ledger.close()
        moment += 1 + moment // 4
    assert moment > 10
    async with opened(path) as again:
        assert len(await again.jobs()) == 3


async def test_method_of_a_ledger_that_is_not_open_is_a_usage_error(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    for _ in range(2):
        for doing in (
            ledger.jobs(),
            ledger.add([job("a")]),
            ledger.enter("me", seconds=60),
            ledger.changed(0),
        ):
            with pytest.raises(UsageError, match="not open"):
                await doing
        await ledger.open()
        with pytest.raises(UsageError, match="open already"):
            await ledger.open()
        await ledger.close()


async def test_writes_cancelled_at_random_are_whole_and_harm_nobody(tmp_path: Path) -> None:
    rng = random.Random(3)
    async with opened(tmp_path / "jobs.db") as ledger:
        adding = []
        for number in range(200):
            adding.append(asyncio.create_task(ledger.add([job(f"{number} one"), job(f"{number} two")])))
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            if rng.random() < 0.5:
                # The newest one has certainly not been written yet.
                rng.choice((adding[-1], rng.choice(adding))).cancel()
        results = await asyncio.gather(*adding, return_exceptions=True)
        await ledger.add([job("last")])
        stored = {row.job_id for row in await ledger.jobs()}
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) > 20
    assert all((f"{number} one" in stored) is (f"{number} two" in stored) for number in range(200))
    assert all(f"{number} one" in stored for number, result in enumerate(results) if result is None)
    assert "last" in stored


async def test_list_of_many_jobs_lets_the_loop_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turn, rows_in_turn = 0, Counter[int]()

    def note(values: Any) -> JobRow:
        rows_in_turn[turn] += 1
        return decode_job(values)

    monkeypatch.setattr(reads, "decode_job", note)
    async with opened(tmp_path / "jobs.db") as ledger:
        await ledger.add([job(f"job {number}") for number in range(500)])
        listing = asyncio.create_task(ledger.jobs())
        while not listing.done():
            turn += 1
            await asyncio.sleep(0)
    assert sum(rows_in_turn.values()) == 500
    assert max(rows_in_turn.values()) <= 50


async def test_gate_that_is_held_too_long_stores_nothing_and_lets_others_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_visit, "GATE_SECONDS", 0.01)
    async with opened(tmp_path / "jobs.db") as ledger:
        file = Faulty(ledger)
        with pytest.raises(LedgerError, match="held for more than"):
            async with ledger.gate(BACKEND, KEY_ID) as cell:
                cell.row = GateRow(clock="boot", snapshot={})
                while "ROLLBACK" not in file.statements:
                    await asyncio.sleep(0)
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            assert cell.row is None


async def test_gate_left_by_an_error_is_open_to_the_next_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        with pytest.raises(KeyError):
            async with ledger.gate(BACKEND, KEY_ID):
                raise KeyError
        async with asyncio.timeout(GATE_SECONDS / 2), ledger.gate(BACKEND, KEY_ID) as cell:
            assert cell.row is None


async def test_wait_for_a_change_ends_when_the_ledger_is_closed(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.open()
    waiting = asyncio.create_task(ledger.changed(await ledger.changed(0)))
    await asyncio.sleep(0.01)
    await ledger.close()
    with pytest.raises(UsageError, match="not open"):
        await waiting


async def test_file_is_looked_at_only_while_somebody_waits_and_once_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    command = SqliteConnection.command

    async def count(self: SqliteConnection, sql: str) -> list[tuple[Any, ...]]:
        nonlocal looks
        looks += sql == "PRAGMA data_version"
        return await command(self, sql)

    monkeypatch.setattr(SqliteConnection, "command", count)
    monkeypatch.setattr(ticker, "TICK", 0.001)
    async with opened(tmp_path / "jobs.db") as ledger:
        since = await ledger.changed(0)
        waiting = [asyncio.create_task(ledger.changed(since)) for _ in range(100)]
        while looks < 111:
            await asyncio.sleep(0.001)
        assert len([one for one in asyncio.all_tasks() if one.get_name() == "crynux_async ledger ticker"]) == 1
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
        before = looks
        await asyncio.sleep(0.02)
        assert looks == before


async def test_log_that_nobody_has_written_is_looked_at_without_asking_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    command = SqliteConnection.command

    async def count(self: SqliteConnection, sql: str) -> list[tuple[Any, ...]]:
        nonlocal asked
        asked += sql == "PRAGMA data_version"
        return await command(self, sql)

    monkeypatch.setattr(SqliteConnection, "command", count)
    monkeypatch.setattr(ticker, "TICK", 0.05)
    path = tmp_path / "jobs.db"
    async with opened(path) as ledger, opened(path) as other:
        since = await ledger.changed(0)
        os.utime(tmp_path / "jobs.db-wal", (1_000_000_000, 1_000_000_000))  # as if it was written long ago
        waiting = asyncio.create_task(ledger.changed(since))
        before = -1
        while asked != before:  # what was asked before the ticker knew the log; on a busy machine that takes a while
            before = asked
            await asyncio.sleep(ticker.TICK * 2)
        await asyncio.sleep(ticker.TICK * 16)
        assert asked == before
        await other.add([job("a")])
        async with asyncio.timeout(30):
            assert await waiting > since


async def test_log_that_was_written_just_now_proves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"1")
    assert ticker._mark_of(log) is None, "a second write in the same tick of the clock would look like this one"
    os.utime(log, (1_000_000_000, 1_000_000_000))
    assert ticker._mark_of(log) is not None
    assert ticker._mark_of(tmp_path / "no log") is None


async def test_gate_whose_row_is_not_json_is_an_error_of_its_visitor_only(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        with pytest.raises(LedgerError, match="JSON"):
            async with ledger.gate(BACKEND, KEY_ID) as cell:
                cell.row = GateRow(clock="boot", snapshot={"when": at(0)})
        assert ledger.failure is None
        await ledger.add([job("a")])


# --- any sequence of calls --------------------------------------------------------------------------------------------

_names = st.sampled_from("abc")
_keys = st.none() | st.sampled_from(["one", "two"])
_task_ids = st.none() | st.sampled_from(["9", "10", "11"])
_fences = st.integers(0, 2)  # which of the leases that were made, modulo how many there are
_numbers = st.integers(1, 2)
_outcomes = st.sampled_from(AttemptOutcome)
_calls = st.one_of(
    st.tuples(st.just("enter"), st.sampled_from([5.0, 50.0])),
    st.tuples(st.just("leave"), _fences),
    st.tuples(st.just("renew"), _fences, st.sampled_from([5.0, 50.0])),
    st.tuples(st.just("move"), st.sampled_from([1.0, 10.0, 100_000.0])),
    st.tuples(st.just("add"), st.lists(_names, min_size=1, max_size=2), _task_ids, _keys, st.none() | _fences),
    st.tuples(st.just("claim"), _fences, st.none() | st.integers(1, 2)),
    st.tuples(st.just("take"), _fences, st.lists(_names, max_size=2, unique=True)),
    st.tuples(st.just("drop"), _fences, st.lists(_names, max_size=2, unique=True)),
    st.tuples(st.just("change"), _fences, st.lists(st.tuples(_names, _task_ids), max_size=3)),
    st.tuples(st.just("happen"), _fences, _names, st.integers(1, 3)),
    st.tuples(st.just("begin"), _fences, _names, _numbers, st.none() | st.integers(0, 6)),
    st.tuples(st.just("finish"), _fences, _names, _numbers, _outcomes, _task_ids),
    st.tuples(st.just("settle"), _fences, _names, st.integers(0, 6)),
    st.tuples(st.just("plan"), _fences, _names, st.integers(0, 1)),
    st.tuples(st.just("wish"), _names),
    st.tuples(st.just("grant"), _fences, _names, st.integers(1, 3)),
    st.tuples(st.just("neighbours"), _names, _numbers),
)


class Player:
    """Does calls on a ledger, with leases of its own; every ledger answers the same sequence alike."""

    def __init__(self, ledger: Ledger, clock: MovableClock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._fences: list[Fence] = []

    async def call(self, name: str, *given: Any) -> Any:
        """Do one call, and return what came of it; errors by their kind, for their words may differ."""
        try:
            return await getattr(self, f"_{name}")(*given)
        except CrynuxError as error:
            return type(error)

    async def everything(self) -> list[Any]:
        """Return all that the ledger remembers."""
        ledger, jobs = self._ledger, await self._ledger.jobs()
        names = [row.job_id for row in jobs]
        held = [await ledger.held(fence) for fence in self._fences]
        wishes = [await ledger.wishes(fence) for fence in self._fences]
        events = [await ledger.events(name) for name in names]
        holders = [(holder.fence, holder.jobs) for holder in await ledger.holders()]
        parts = [await ledger.attempts(), await ledger.tasks(names), await ledger.steps(names)]
        found = [await ledger.jobs(JobFilter(task_id=task_id)) for task_id in ("9", "10", "11")]
        return [jobs, held, wishes, events, holders, parts, found, await ledger.budget("spring")]

    def _fence(self, number: int) -> Fence:
        return self._fences[number % len(self._fences)] if self._fences else Fence(owner="nobody", number=99)

    async def _enter(self, seconds: float) -> None:
        self._fences.append(await self._ledger.enter("somebody", seconds=seconds))

    async def _leave(self, fence: int) -> None:
        await self._ledger.leave(self._fence(fence))

    async def _renew(self, fence: int, seconds: float) -> int | None:
        return await self._ledger.renew(self._fence(fence), seconds=seconds)

    async def _move(self, seconds: float) -> None:
        self._clock.move(seconds)

    async def _add(self, names: list[str], task_id: str | None, key: str | None, fence: int | None) -> list[JobRow]:
        rows = [job(name, task_id=task_id, idempotency_key=key) for name in names]
        tasks = [] if task_id is None else [task(names[0], task_id)]
        holder = None if fence is None else self._fence(fence)
        return await self._ledger.add(rows, fence=holder, tasks=tasks)

    async def _claim(self, fence: int, at_most: int | None) -> list[JobRow]:
        states = [JobState.PLANNED]
        return await self._ledger.claim(self._fence(fence), backend=BACKEND, states=states, at_most=at_most)

    async def _take(self, fence: int, names: list[str]) -> list[str]:
        return await self._ledger.take(self._fence(fence), names)

    async def _drop(self, fence: int, names: list[str]) -> None:
        await self._ledger.drop(self._fence(fence), names)

    async def _change(self, fence: int, changes: list[tuple[str, str | None]]) -> list[str]:
        made = [
            JobChange(
                job_id=name,
                columns={"task_id": task_id, "folder": task_id},
                tasks=[] if task_id is None else [task(name, task_id, fee=3)],
            )
            for name, task_id in changes
        ]
        return await self._ledger.change(self._fence(fence), made)

    async def _happen(self, fence: int, name: str, number: int) -> list[str]:
        return await self._ledger.change(self._fence(fence), [happened(name, number)])

    async def _begin(self, fence: int, name: str, number: int, amount: int | None) -> None:
        wanted = None if amount is None else Reservation(budget="spring", amount=amount, limit=8)
        await self._ledger.begin(self._fence(fence), attempt(name, number), reservation=wanted)

    async def _finish(
        self, fence: int, name: str, number: int, outcome: AttemptOutcome, task_id: str | None
    ) -> list[str]:
        done = attempt(name, number, answered_at=at(1), outcome=outcome, task_id=task_id)
        change = JobChange(job_id=name, finished=done, columns={"task_id": task_id, "state": JobState.RUNNING})
        return await self._ledger.change(self._fence(fence), [change])

    async def _settle(self, fence: int, name: str, amount: int) -> list[str]:
        settlement = Settlement(budget="spring", released=amount, spent=amount // 2)
        return await self._ledger.change(self._fence(fence), [JobChange(job_id=name, settlement=settlement)])

    async def _plan(self, fence: int, name: str, value: int) -> Any:
        return await self._ledger.plan_step(self._fence(fence), step(name, "validate", arguments={"value": value}))

    async def _wish(self, name: str) -> WishRow:
        return await self._ledger.wish(WishRow(job_id=name, kind="abandon", at=at(0)))

    async def _grant(self, fence: int, name: str, number: int) -> list[str]:
        return await self._ledger.change(self._fence(fence), [JobChange(job_id=name, granted=[number])])

    async def _neighbours(self, name: str, number: int) -> Any:
        return await self._ledger.neighbours(attempt(name, number))


@settings(max_examples=60, deadline=None)
@given(st.lists(_calls, max_size=30))
def test_any_sequence_of_calls_has_the_same_results_in_both_ledgers(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[Any, ...]]
) -> None:
    async def main() -> None:
        clock = MovableClock()
        async with opened(tmp_path_factory.mktemp("any") / "jobs.db", clock=clock) as sql:
            players = [Player(sql, clock), Player(MemoryLedger(clock=clock), MovableClock())]
            for one in calls:
                ours, theirs = [await player.call(*one) for player in players]
                assert ours == theirs, one
            ours, theirs = [await player.everything() for player in players]
            assert ours == theirs

    asyncio.run(main())


async def test_value_that_no_database_holds_is_refused_and_the_ledger_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        await ledger.add([job("a")])
        for doing in (
            ledger.put_note("test", "\ud800", 1),
            ledger.enter("\ud800", seconds=60),
            ledger.enter("x", seconds=1e15),
            ledger.jobs(limit=2**63),
            ledger.note("test", "\ud800"),
        ):
            with pytest.raises(LedgerError, match="nothing in a ledger can have such a value"):
                await doing
        assert ledger.failure is None
        await ledger.put_note("test", "a", 1)
        assert await ledger.note("test", "a") == 1
