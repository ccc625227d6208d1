"""The SQL ledger on real files: what it opens and refuses, versions, many callers, and any sequence of calls."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from crynux_async.errors import CrynuxError, LedgerError, UsageError
from crynux_async.ledgers.base import GATE_SECONDS, AttemptOutcome, GateRow, JobRow, Ledger
from crynux_async.ledgers.conformance.support import BACKEND, KEY_ID, at, attempt, job
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.ledgers.sql.migrations import CURRENT, SchemaPlan
from crynux_async.ledgers.sql.rows import decode_job
from crynux_async.ledgers.sql.schema import VERSION
from crynux_async.ledgers.sqlite import file as sqlite_file
from crynux_async.ledgers.sqlite import gate_visit
from crynux_async.ledgers.sqlite import ledger as sqlite_ledger
from crynux_async.ledgers.sqlite.connection import SqliteConnection
from crynux_async.ledgers.sqlite.ledger import SqlLedger
from crynux_async.states import JobState
from tests.ledger_files import HOLDER, Start, make_ledger, opened, query, refusal, workers

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
        assert ledger._file is not None
        writes = ledger._file.writes
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
        assert ledger._file is not None
        await ledger._file.writes.command("PRAGMA wal_checkpoint(PASSIVE)")
        await ledger.add([job("in the log")])
        shutil.copytree(tmp_path / "live", crash)
    main = bytearray((crash / "jobs.db").read_bytes())
    main[40 * 4096 : 60 * 4096] = random.Random(2).randbytes(20 * 4096)
    (crash / "jobs.db").write_bytes(main)
    log = (crash / "jobs.db-wal").read_bytes()
    with pytest.raises(LedgerError, match="is damaged"):
        await SqlLedger(crash / "jobs.db").open()
    assert (crash / "jobs.db").read_bytes() == main
    assert (crash / "jobs.db-wal").read_bytes() == log


async def test_open_of_a_locked_file_says_so_and_works_afterwards(tmp_path: Path, start: Start) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    holder = start(HOLDER, str(path), "PRAGMA locking_mode=EXCLUSIVE", "BEGIN EXCLUSIVE", "DELETE FROM attempts")
    holder.answer()
    ledger = SqlLedger(path, busy_timeout=0.1)
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
    sqlite_file.prepare(path, CURRENT, 0.1)
    assert looks == 3


async def test_refused_ledger_can_be_opened_when_the_reason_is_gone(tmp_path: Path) -> None:
    ledger = SqlLedger(tmp_path / "later" / "jobs.db")
    with pytest.raises(LedgerError):
        await ledger.open()
    (tmp_path / "later").mkdir()
    await ledger.open()
    await ledger.add([job("a")])
    await ledger.close()


# --- versions ---------------------------------------------------------------------------------------------------------


def _add_colour(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE jobs ADD COLUMN colour TEXT"))


def _paint(connection: Connection) -> None:
    connection.execute(text("UPDATE jobs SET colour = 'red'"))


def _fail_halfway(connection: Connection) -> None:
    connection.execute(text("DROP TABLE hazards"))
    connection.execute(text("SELECT nothing FROM nowhere"))


def plan_to(version: int, *steps: Callable[[Connection], None]) -> SchemaPlan:
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
        await SqlLedger(path, plan=plan_to(VERSION + 2, _add_colour, _fail_halfway)).open()
    assert query(path, "SELECT sql FROM sqlite_master ORDER BY name") == before
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
        await ledger.update({"job 1": {"state": JobState.FAILED, "error": "no luck"}})
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


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every command that any connection of a ledger runs."""
    seen: list[str] = []
    command = SqliteConnection.command

    async def note(self: SqliteConnection, sql: str) -> list[tuple[Any, ...]]:
        seen.append(sql)
        return await command(self, sql)

    monkeypatch.setattr(SqliteConnection, "command", note)
    return seen


async def test_writes_that_wait_together_are_committed_together(tmp_path: Path, commands: list[str]) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        commands.clear()
        await asyncio.gather(*(ledger.add([job(f"job {number}")]) for number in range(100)))
        assert commands.count("COMMIT") <= 2
        assert len(await ledger.jobs()) == 100


async def test_gate_that_was_only_looked_at_costs_no_commit(tmp_path: Path, commands: list[str]) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            cell.row = GateRow(boot_id="boot", snapshot={})
        commands.clear()
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            assert cell.row is not None
        assert commands == ["BEGIN IMMEDIATE", "ROLLBACK"]


async def test_close_writes_what_is_left(tmp_path: Path) -> None:
    ledger = SqlLedger(tmp_path / "jobs.db")
    await ledger.open()
    left: list[asyncio.Task[Any]] = []
    for number in range(20):
        left.append(asyncio.create_task(ledger.add([job(f"job {number}")])))
        left.append(asyncio.create_task(ledger.lease("me", [f"job {number}"], until=at(0))))
    await asyncio.sleep(0)
    await ledger.close()
    await asyncio.gather(*left)
    async with opened(tmp_path / "jobs.db") as again:
        assert await again.renew("me", until=at(0)) == 20


async def test_close_that_is_cancelled_closes_all_the_same(tmp_path: Path) -> None:
    ledger = SqlLedger(tmp_path / "jobs.db")
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
        ledger = SqlLedger(path)
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
    ledger = SqlLedger(tmp_path / "jobs.db")
    for _ in range(2):
        for doing in (ledger.jobs(), ledger.add([job("a")]), ledger.renew("me", until=at(0))):
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
                rng.choice(adding).cancel()
        results = await asyncio.gather(*adding, return_exceptions=True)
        await ledger.add([job("last")])
        stored = {row.job_id for row in await ledger.jobs()}
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) > 20
    assert all((f"{number} one" in stored) is (f"{number} two" in stored) for number in range(200))
    assert all(f"{number} one" in stored for number, result in enumerate(results) if result is None)
    assert "last" in stored


async def test_claim_that_is_cancelled_while_it_waits_takes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        await ledger.add([job("a")])
        claiming = asyncio.create_task(
            ledger.claim("gone", backend=BACKEND, now=at(0), until=at(60), states=[JobState.PLANNED])
        )
        await asyncio.sleep(0)
        claiming.cancel()
        await asyncio.wait([claiming])
        rows = await ledger.claim("me", backend=BACKEND, now=at(0), until=at(60), states=[JobState.PLANNED])
    assert [row.job_id for row in rows] == ["a"]


async def test_list_of_many_jobs_lets_the_loop_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turn, rows_in_turn = 0, Counter[int]()

    def note(values: Any) -> JobRow:
        rows_in_turn[turn] += 1
        return decode_job(values)

    monkeypatch.setattr(sqlite_ledger, "decode_job", note)
    async with opened(tmp_path / "jobs.db") as ledger:
        await ledger.add([job(f"job {number}") for number in range(500)])
        listing = asyncio.create_task(ledger.jobs())
        while not listing.done():
            turn += 1
            await asyncio.sleep(0)
    assert sum(rows_in_turn.values()) == 500
    assert max(rows_in_turn.values()) <= 50


async def test_gate_that_is_held_too_long_stores_nothing_and_lets_others_in(
    tmp_path: Path, commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_visit, "GATE_SECONDS", 0.01)
    async with opened(tmp_path / "jobs.db") as ledger:
        with pytest.raises(LedgerError, match="held for more than"):
            async with ledger.gate(BACKEND, KEY_ID) as cell:
                cell.row = GateRow(boot_id="boot", snapshot={})
                while "ROLLBACK" not in commands:
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


async def test_claim_forgets_owners_that_have_no_job_left(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as ledger:
        await ledger.add([job("a")], owner="gone", until=at(0))
        await ledger.add([job("b", state=JobState.FAILED)], owner="gone too, with a job", until=at(0))
        await ledger.claim("me", backend=BACKEND, now=at(1), until=at(2), states=[JobState.PLANNED])
    assert query(path, "SELECT owner FROM leases ORDER BY owner") == [("gone too, with a job",), ("me",)]


async def test_gate_whose_row_is_not_json_is_an_error_of_its_visitor_only(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        with pytest.raises(LedgerError, match="JSON"):
            async with ledger.gate(BACKEND, KEY_ID) as cell:
                cell.row = GateRow(boot_id="boot", snapshot={"when": at(0)})
        assert ledger.failure is None
        await ledger.add([job("a")])


# --- any sequence of calls --------------------------------------------------------------------------------------------

_names = st.sampled_from("abc")
_owners = st.sampled_from(["one", "two"])
_task_ids = st.none() | st.integers(1, 3)
_times = st.integers(0, 3).map(at)
_outcomes = st.sampled_from(AttemptOutcome)
_calls = st.one_of(
    st.tuples(st.just("add"), st.lists(_names, min_size=1, max_size=2), _task_ids, st.none() | _owners, _times),
    st.tuples(st.just("update"), st.dictionaries(_names, _task_ids, max_size=2)),
    st.tuples(st.just("begin"), _names, st.integers(1, 2)),
    st.tuples(st.just("finish"), _names, st.integers(1, 2), _outcomes, _task_ids),
    st.tuples(st.just("bracket"), _names, st.integers(1, 2)),
    st.tuples(st.just("claim"), _owners, _times, _times),
    st.tuples(st.just("lease"), _owners, st.lists(_names, max_size=2, unique=True), _times),
    st.tuples(st.just("renew"), _owners, _times),
    st.tuples(st.just("release"), _owners),
    st.tuples(st.just("list"), st.none() | st.sets(st.sampled_from([JobState.PLANNED, JobState.RUNNING]))),
)


async def call(ledger: Ledger, name: str, *given: Any) -> Any:
    """Do one of the calls above, and return what came of it; errors by their kind, for their words may differ."""
    try:
        match name, given:
            case "add", (names, task_id, owner, until):
                rows = [job(name, task_id=task_id) for name in names]
                await ledger.add(rows, owner=owner, until=until if owner else None)
            case "update", (changes,):
                await ledger.update({name: {"task_id": task_id} for name, task_id in changes.items()})
            case "begin", (name, number):
                await ledger.begin(attempt(name, number))
            case "finish", (name, number, outcome, task_id):
                done = attempt(name, number, answered_at=at(1), outcome=outcome, task_id=task_id)
                await ledger.finish(done, task_id=task_id, state=JobState.RUNNING)
            case "bracket", (name, number):
                return await ledger.bracket(attempt(name, number))
            case "claim", (owner, now, until):
                return await ledger.claim(owner, backend=BACKEND, now=now, until=until, states=[JobState.PLANNED])
            case "lease", (owner, names, until):
                return await ledger.lease(owner, names, until=until)
            case "renew", (owner, until):
                return await ledger.renew(owner, until=until)
            case "release", (owner,):
                await ledger.release(owner)
            case "list", (states,):
                return await ledger.jobs(states=states)
    except CrynuxError as error:
        return type(error)
    return None


@settings(max_examples=60, deadline=None)
@given(st.lists(_calls, max_size=25))
def test_any_sequence_of_calls_has_the_same_results_in_both_ledgers(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[Any, ...]]
) -> None:
    async def main() -> None:
        memory = MemoryLedger()
        async with opened(tmp_path_factory.mktemp("any") / "jobs.db") as sql:
            for one in calls:
                assert await call(sql, *one) == await call(memory, *one), one
            assert await sql.jobs() == await memory.jobs()
            assert await sql.attempts() == await memory.attempts()

    asyncio.run(main())
