"""The SQL ledger where things go wrong: failing disks, crashes, other processes."""

import asyncio
import contextlib
import logging
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from crynux_async.errors import LedgerBusyError, LedgerError
from crynux_async.ledgers.base import Fence, WishRow
from crynux_async.ledgers.conformance.support import BACKEND, KEY_ID, at, attempt, happened, job
from crynux_async.ledgers.sql.schema import APPLICATION_ID
from crynux_async.ledgers.sqlite.connection import SqliteConnection
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.ledgers.sqlite.opening import _what_was_dropped
from crynux_async.ledgers.sqlite.wal import read_frames
from crynux_async.states import JobState
from tests.ledger_files import (
    HOLDER,
    WORKER,
    Faulty,
    Start,
    failure_of_sqlite,
    holding,
    make_ledger,
    opened,
    query,
    run,
    workers,
)
from tests.ledger_places import MovableClock

pytestmark = pytest.mark.real_time


@pytest.fixture
def start() -> Iterator[Start]:
    with workers() as begin:
        yield begin


# --- trouble that passes ----------------------------------------------------------------------------------------------


async def test_full_disk_fails_what_does_not_fit_and_nothing_else(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    async with opened(path) as ledger:
        assert ledger._database is not None
        writes: Any = ledger._database.writes
        ((pages,),) = await writes.command("PRAGMA page_count")
        await writes.command(f"PRAGMA max_page_count={pages + 2}")
        with pytest.raises(LedgerBusyError, match="the disk is full, and nothing was stored") as raised:
            await ledger.add([job(f"large {number}") for number in range(200)])
        assert raised.value.path == str(path)
        assert ledger.failure is None
        await ledger.add([job("small")])
        assert len(await ledger.jobs()) == 4
        await writes.command("PRAGMA max_page_count=100000")
        await ledger.add([job(f"large {number}") for number in range(200)])
        assert len(await ledger.jobs()) == 204


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("when", range(1, 13))
async def test_disk_that_is_full_at_any_write_stores_what_it_says_and_nothing_else(when: int, tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db", 1)
    program = (
        "import asyncio, sys\n"
        "from crynux_async.errors import LedgerBusyError\n"
        "from crynux_async.ledgers.sqlite.ledger import SqliteLedger\n"
        "from crynux_async.ledgers.conformance.support import job\n"
        "async def main():\n"
        "    ledger = SqliteLedger(sys.argv[1])\n"
        "    await ledger.open()\n"
        "    for name in 'abcdef':\n"
        "        try:\n"
        "            await ledger.add([job(name)])\n"
        "            print(name, end='')\n"
        "        except LedgerBusyError as error:\n"
        "            print('-', end='')\n"
        "    assert ledger.failure is None\n"
        "    await ledger.close()\n"
        "asyncio.run(main())\n"
    )
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", f"{path}-wal", "-e", "trace=pwrite64"]
    done = run(program, str(path), before=[*strace, "-e", f"inject=pwrite64:error=ENOSPC:when={when}"])
    if "ptrace" in done.stderr:
        pytest.skip("strace is not allowed here")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 6
    assert done.stdout.count("-") == 1
    async with opened(path) as ledger:
        assert "".join(row.job_id for row in await ledger.jobs()) == "job 0" + done.stdout.replace("-", "")
        assert ledger.dropped == ""


async def test_lock_of_another_fails_what_waits_for_it_and_nothing_else(tmp_path: Path, start: Start) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    async with opened(path, busy_timeout=0.1) as ledger:
        fence = await holding(ledger, "job 0")
        holder = start(HOLDER, str(path), "BEGIN IMMEDIATE", "DELETE FROM attempts")
        holder.answer()
        for doing in (
            ledger.add([job("a")]),
            ledger.begin(fence, attempt("job 0")),
            ledger.change(fence, [happened("job 0", 1)]),
            ledger.renew(fence, seconds=60),
            ledger.claim(fence, backend=BACKEND, states=[JobState.PLANNED]),
            ledger.put_note("test", "a", 1),
            ledger.wish(WishRow(job_id="job 0", kind="abandon", at=at(0))),
        ):
            with pytest.raises(LedgerBusyError, match="locked by another process"):
                await doing
        with pytest.raises(LedgerBusyError, match="locked by another process"):
            async with ledger.gate(BACKEND, KEY_ID):
                pass
        assert ledger.failure is None
        assert len(await ledger.jobs()) == 3
        holder.kill()
        await ledger.add([job("a")])
        await ledger.begin(fence, attempt("job 0"))
        assert len(await ledger.jobs()) == 4


@pytest.mark.parametrize("failing", ["BEGIN", "INSERT INTO jobs", "COMMIT"])
@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_FULL]
)
async def test_trouble_that_passes_is_undone_and_the_next_write_works(code: int, failing: str, tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        file = Faulty(ledger)
        file.failing, file.error = failing, failure_of_sqlite(code)
        results = await asyncio.gather(*(ledger.add([job(name)]) for name in "ab"), return_exceptions=True)
        assert [type(result) for result in results] == [LedgerBusyError] * 2
        assert results[0] is not results[1]
        file.failing = ""
        assert ledger.failure is None
        assert await ledger.jobs() == []
        await ledger.add([job("a")])
        assert await ledger.jobs() == [job("a")]


async def test_trouble_that_passes_while_requests_are_done_apart_stores_none_of_them(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        await ledger.add([job("taken")])
        file = Faulty(ledger)
        file.failing, file.error = "RELEASE", failure_of_sqlite(sqlite3.SQLITE_FULL)
        adding = [ledger.add([job(name)]) for name in ("a", "taken", "b")]
        results = await asyncio.gather(*adding, return_exceptions=True)
        assert [type(result) for result in results] == [LedgerBusyError] * 3
        file.failing = ""
        assert await ledger.jobs() == [job("taken")]
        await ledger.add([job("a")])


async def test_full_disk_while_the_log_is_copied_is_tried_again_later(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        file = Faulty(ledger)
        file.failing, file.error = "PRAGMA wal_checkpoint", failure_of_sqlite(sqlite3.SQLITE_FULL)
        many = [job(f"job {number}") for number in range(1001)]
        await ledger.add(many)
        await ledger.add([job("a")])
        assert ledger.failure is None
        file.failing = ""
        file.statements.clear()
        await ledger.add([attrs.evolve(row, job_id=f"{row.job_id} again") for row in many])
        await ledger.add([job("b")])
        assert "PRAGMA wal_checkpoint(PASSIVE)" in file.statements


# --- trouble that stays -----------------------------------------------------------------------------------------------

_STAYS = {
    name: getattr(sqlite3, name)
    for name in (
        "SQLITE_IOERR_FSYNC",
        "SQLITE_IOERR_WRITE",
        "SQLITE_IOERR_SHMSIZE",
        "SQLITE_IOERR_LOCK",
        "SQLITE_READONLY",
        "SQLITE_CANTOPEN",
        "SQLITE_NOMEM",
        "SQLITE_CORRUPT",
        "SQLITE_NOTADB",
        "SQLITE_ERROR",
        "SQLITE_INTERNAL",
    )
}


@pytest.mark.parametrize("code", _STAYS.values(), ids=_STAYS)
@pytest.mark.parametrize("failing", ["BEGIN", "INSERT INTO jobs", "COMMIT"])
async def test_trouble_that_stays_stops_every_later_write(code: int, failing: str, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as ledger:
        file = Faulty(ledger)
        file.failing, file.error = failing, failure_of_sqlite(code)
        results = await asyncio.gather(*(ledger.add([job(name)]) for name in "ab"), return_exceptions=True)
        assert [type(result) for result in results] == [LedgerError] * 2
        assert results[0] is not results[1]
        file.failing = ""
        file.statements.clear()
        fence = Fence(owner="me", number=1)
        for doing in (
            ledger.add([job("c")]),
            ledger.begin(fence, attempt("a")),
            ledger.change(fence, [happened("a", 1)]),
            ledger.enter("me", seconds=60),
        ):
            with pytest.raises(LedgerError, match="made for this test"):
                await doing
        with pytest.raises(LedgerError, match="made for this test"):
            async with ledger.gate(BACKEND, KEY_ID):
                pass
        assert file.statements == []
        assert "made for this test" in str(ledger.failure)
        await ledger.close()
        await ledger.open()
        assert str(ledger.failure) == "None"
        await ledger.add([job("a")])


async def test_commit_that_fails_after_it_reached_the_disk_is_not_called_undone(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        file = Faulty(ledger)
        file.failing, file.error, file.is_done = "COMMIT", failure_of_sqlite(sqlite3.SQLITE_IOERR_SHMSIZE), True
        with pytest.raises(LedgerError) as raised:
            await ledger.add([job("a")])
        assert not isinstance(raised.value, LedgerBusyError)
        assert ledger.failure is not None


async def test_failed_sync_while_the_log_is_copied_stops_later_writes(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        file = Faulty(ledger)
        file.failing, file.error = "PRAGMA wal_checkpoint", failure_of_sqlite(sqlite3.SQLITE_IOERR_FSYNC)
        await ledger.add([job(f"job {number}") for number in range(1001)])  # enough to have the log copied
        with pytest.raises(LedgerError, match="made for this test"):
            await ledger.add([job("b")])
        assert file.statements[-1] == "PRAGMA wal_checkpoint(PASSIVE)"
        assert len(await ledger.jobs()) == 1001


async def test_file_that_outgrows_its_limit_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    program = (
        "import asyncio, resource, sys\n"
        "from crynux_async.errors import LedgerError\n"
        "from crynux_async.ledgers.sqlite.ledger import SqliteLedger\n"
        "from crynux_async.ledgers.conformance.support import job\n"
        "async def main():\n"
        "    ledger = SqliteLedger(sys.argv[1])\n"
        "    await ledger.open()\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))\n"
        "    for number in range(100):\n"
        "        try:\n"
        "            await ledger.add([job(f'job {number}')])\n"
        "            print('stored', number)\n"
        "        except LedgerError as error:\n"
        "            print('failed', number)\n"
        "    await ledger.close()\n"
        "asyncio.run(main())\n"
    )
    done = run(program, str(path))
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    stored = [int(number) for word, number in lines if word == "stored"]
    failed = [int(number) for word, number in lines if word == "failed"]
    assert stored
    assert failed == list(range(len(stored), 100))
    async with opened(path) as ledger:
        assert [row.job_id for row in await ledger.jobs()] == [f"job {number}" for number in stored]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
async def test_failed_fdatasync_stops_every_later_write(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db", 1)
    program = (
        "import asyncio, sys\n"
        "from crynux_async.errors import LedgerError\n"
        "from crynux_async.ledgers.sqlite.ledger import SqliteLedger\n"
        "from crynux_async.ledgers.conformance.support import job\n"
        "async def main():\n"
        "    ledger = SqliteLedger(sys.argv[1])\n"
        "    await ledger.open()\n"
        "    for name in 'abcdef':\n"
        "        try:\n"
        "            await ledger.add([job(name)])\n"
        "            print(name, end='')\n"
        "        except LedgerError as error:\n"
        "            print('-', end='')\n"
        "    await ledger.close()\n"
        "asyncio.run(main())\n"
    )
    # The first sync of the log is of its header, the next ones are the commits.
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]
    done = run(program, str(path), before=[*strace, "-e", "inject=fdatasync:error=EIO:when=5"])
    if "ptrace" in done.stderr:
        pytest.skip("strace is not allowed here")
    assert done.returncode == 0, done.stderr
    stored = done.stdout.rstrip("-")
    assert 0 < len(stored) < 6
    assert done.stdout == stored + "-" * (6 - len(stored))
    async with opened(path) as ledger:
        assert "".join(row.job_id for row in await ledger.jobs()) == "job 0" + stored


@pytest.mark.parametrize("is_replaced", [True, False])
async def test_ledger_whose_file_is_deleted_stops(is_replaced: bool, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as ledger:
        await ledger.add([job("a")])
        path.rename(tmp_path / "moved.db")
        if is_replaced:
            path.write_bytes(b"")
        with pytest.raises(LedgerError, match="deleted or replaced"):
            await ledger.add([job("b")])
        assert ledger.failure is not None


async def test_orphaned_write_that_fails_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        await ledger.add([job("a")])
        adding = asyncio.create_task(ledger.add([job("a")]))
        await asyncio.sleep(0)
        adding.cancel()
        with caplog.at_level(logging.ERROR, "crynux_async.ledgers"):
            await asyncio.wait([adding])
            await ledger.add([job("b")])
    assert "not stored" in caplog.text


# --- crashes ----------------------------------------------------------------------------------------------------------


async def test_log_cut_at_every_page_gives_back_a_beginning_of_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    crash = tmp_path / "crash"
    async with opened(tmp_path / "live" / "jobs.db") as ledger:
        for name in "abcde":
            await ledger.add([job(name)])
        shutil.copytree(tmp_path / "live", crash)
    log = (crash / "jobs.db-wal").read_bytes()
    frame_bytes = 24 + 4096
    frames = (len(log) - 32) // frame_bytes
    # The second number in a frame's header is the size of the file after a commit, and 0 in all other frames.
    is_commit = [any(log[32 + frame * frame_bytes + 4 : 32 + frame * frame_bytes + 8]) for frame in range(frames)]
    main = (crash / "jobs.db").read_bytes()
    assert sum(is_commit) == 5
    for cut in range(frames + 1):
        for extra in (0, 1000) if cut < frames else (0,):
            shutil.rmtree(crash)
            crash.mkdir()
            (crash / "jobs.db").write_bytes(main)
            (crash / "jobs.db-wal").write_bytes(log[: 32 + cut * frame_bytes + extra])
            async with opened(crash / "jobs.db") as ledger:
                found = [row.job_id for row in await ledger.jobs()]
                assert found == list("abcde")[: sum(is_commit[:cut])]
                # The log's header is written with its first frame: alone it is an unfinished write, too.
                is_clean = extra == 0 and cut > 0 and is_commit[cut - 1]
                assert (ledger.dropped == "") is is_clean
                assert is_clean or "unfinished write" in ledger.dropped


async def test_log_with_a_flipped_bit_ends_there_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "live").mkdir()
    crash = tmp_path / "crash"
    async with opened(tmp_path / "live" / "jobs.db") as ledger:
        for name in "abc":
            await ledger.add([job(name)])
        shutil.copytree(tmp_path / "live", crash)
    log = bytearray((crash / "jobs.db-wal").read_bytes())
    log[-100] ^= 1
    (crash / "jobs.db-wal").write_bytes(log)
    (crash / "jobs.db-shm").unlink()
    async with opened(crash / "jobs.db") as ledger:
        assert [row.job_id for row in await ledger.jobs()] == ["a", "b"]
    assert "unfinished write" in caplog.text


def test_log_of_frames_from_before_it_was_begun_anew_counts_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE numbers (number)")
        for number in range(20):
            connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        many = read_frames(tmp_path / "jobs.db-wal")
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
        connection.execute("INSERT INTO numbers VALUES (99)")
        few = read_frames(tmp_path / "jobs.db-wal")
    assert (many.whole, many.torn_bytes) == (22, 0)
    assert (few.whole, few.torn_bytes) == (1, 0)
    assert few.salts != many.salts
    assert read_frames(tmp_path / "nowhere").whole == 0


async def test_creation_that_was_killed_is_begun_again(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "jobs.db"
    path.touch()
    spill = [
        "PRAGMA cache_size=1",
        "PRAGMA cache_spill=1",
        "BEGIN IMMEDIATE",
        f"PRAGMA application_id={APPLICATION_ID}",
    ]
    tables = [f"CREATE TABLE filler{number} AS SELECT randomblob(9000) AS content" for number in range(9)]
    holder = start(HOLDER, str(path), *spill, *tables)
    holder.answer()
    holder.kill()
    assert (tmp_path / "jobs.db-journal").stat().st_size > 0
    assert path.stat().st_size > 0
    async with opened(path) as ledger:
        await ledger.add([job("a")])
    assert query(path, "SELECT count(*) FROM sqlite_master WHERE name LIKE 'filler%'") == [(0,)]


async def test_creation_that_was_killed_after_its_first_page_is_begun_again(tmp_path: Path) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    path.write_bytes(path.read_bytes()[: 3 * 4096])
    # A journal without pages of a file that was empty before (sqlite.org/fileformat2.html section 3).
    numbers = (0, 0, 0, 512, 4096)  # pages in the journal, nonce, pages of the file, bytes of a sector and of a page
    header = bytes.fromhex("d9d505f920a163d7") + b"".join(number.to_bytes(4, "big") for number in numbers)
    (tmp_path / "jobs.db-journal").write_bytes(header.ljust(512, b"\0"))
    async with opened(path) as ledger:
        assert await ledger.jobs() == []
        await ledger.add([job("a")])


async def test_log_that_was_begun_anew_meanwhile_says_nothing_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as ledger:
        assert ledger._database is not None
        writes: Any = ledger._database.writes
        await ledger.add([job("a")])
        now = read_frames(tmp_path / "jobs.db-wal")
        more = attrs.evolve(now, whole=now.whole + 1)
        earlier = attrs.evolve(more, salts=b"12345678")
        assert await _what_was_dropped(writes, path, now) == ""
        assert await _what_was_dropped(writes, path, more) != ""
        assert await _what_was_dropped(writes, path, earlier) == ""


# --- several processes ------------------------------------------------------------------------------------------------


async def test_several_processes_share_leases_gates_and_attempts(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "jobs.db"
    workers = [start(WORKER, str(path)) for _ in range(3)]
    assert [worker.answer() for worker in workers] == ["ready"] * 3

    def all_do(line: str) -> list[Any]:
        for number, worker in enumerate(workers):
            worker.ask(line.format(number))
        return [worker.answer() for worker in workers]

    # All of them find no file, and exactly one of them makes it.
    assert all_do("ledger.open()") == [None] * 3
    assert len(set(all_do("enter(ledger, 'owner {}')"))) == 3
    names = [f"job {number}" for number in range(60)]
    assert workers[0].do(f"add(ledger, *{names})") == names

    claims = all_do("claim(ledger)")
    assert sorted(name for claim in claims for name in claim) == sorted(names)
    assert all_do("ledger.renew(fence, seconds=60)") == [len(claim) for claim in claims]

    assert all_do("count(ledger, 15)") == [None] * 3
    async with opened(path) as ledger, ledger.gate(BACKEND, KEY_ID) as cell:
        assert cell.row is not None
        assert cell.row.snapshot == {"count": 45}

    begun = all_do("ledger.begin(fence, attempt('job 0'))")
    winner = next(number for number, claim in enumerate(claims) if "job 0" in claim)
    assert [answer is None for answer in begun] == [number == winner for number in range(3)]
    assert all("not held" in answer for answer in begun if answer is not None)

    # What a killed process has stored is there, and its jobs are free when its lease has ended.
    workers[winner].kill()
    clock = MovableClock()
    async with opened(path, clock=clock) as ledger:
        assert [(row.job_id, row.outcome) for row in await ledger.attempts()] == [("job 0", None)]
        fence = await ledger.enter("heir", seconds=60)
        assert await ledger.claim(fence, backend=BACKEND, states=[JobState.PLANNED]) == []
        clock.move(50)
        for number, worker in enumerate(workers):
            if number != winner:
                assert worker.do("ledger.renew(fence, seconds=600)") == len(claims[number])
        clock.move(20)
        taken = await ledger.claim(fence, backend=BACKEND, states=[JobState.PLANNED])
        assert [row.job_id for row in taken] == [name for name in names if name in claims[winner]]


async def test_processes_that_ask_with_the_same_keys_at_once_make_one_job_for_each(
    tmp_path: Path, start: Start
) -> None:
    path = await make_ledger(tmp_path / "jobs.db", 0)
    workers = [start(WORKER, str(path)) for _ in range(4)]
    assert [worker.answer() for worker in workers] == ["ready"] * 4
    for line in ("ledger.open()", "enter(ledger, 'owner')"):
        for worker in workers:
            worker.do(line)
    for number, worker in enumerate(workers):
        worker.ask(f"ask_with_keys(ledger, {number}, 250, 100)")
    told = [tuple(pair) for worker in workers for pair in worker.answer()]
    async with opened(path) as ledger:
        stored = {(row.idempotency_key, row.job_id) for row in await ledger.jobs()}
    assert len(told) == 1000
    assert len(stored) == 100
    assert set(told) == stored


async def test_process_hears_what_another_one_writes(tmp_path: Path, start: Start) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    worker = start(WORKER, str(path))
    assert worker.answer() == "ready"
    assert worker.do("ledger.open()") is None
    async with opened(path) as ledger:
        since = await ledger.changed(0)
        waiting = asyncio.create_task(ledger.changed(since))
        await asyncio.sleep(0)
        worker.ask("add(ledger, 'a')")
        async with asyncio.timeout(10):
            assert await waiting > since
        assert await ledger.get("a") == job("a")


@pytest.mark.parametrize(("refusals", "is_opened"), [(2, True), (10_000, False)])
async def test_open_while_another_turns_the_log_on_tries_again(
    refusals: int, is_opened: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two processes that do this at once get SQLITE_BUSY without any wait, but too rarely to rely on it.
    working = SqliteConnection.command
    refused = 0

    async def refuse(self: SqliteConnection, sql: str) -> list[tuple[Any, ...]]:
        nonlocal refused
        if sql == "PRAGMA journal_mode=WAL" and refused < refusals:
            refused += 1
            raise failure_of_sqlite(sqlite3.SQLITE_BUSY)
        return await working(self, sql)

    monkeypatch.setattr(SqliteConnection, "command", refuse)
    ledger = SqliteLedger(tmp_path / "jobs.db", busy_timeout=10 if is_opened else 0.1)
    with contextlib.nullcontext() if is_opened else pytest.raises(LedgerError, match="locked by another process"):
        await ledger.open()
    await ledger.close()


async def test_ledgers_that_are_created_at_once_are_one(tmp_path: Path) -> None:
    ledgers = [SqliteLedger(tmp_path / "jobs.db") for _ in range(6)]
    await asyncio.gather(*(ledger.open() for ledger in ledgers))
    await asyncio.gather(*(ledger.add([job(f"job {number}")]) for number, ledger in enumerate(ledgers)))
    assert [len(await ledger.jobs()) for ledger in ledgers] == [6] * 6
    await asyncio.gather(*(ledger.close() for ledger in ledgers))


async def test_jobs_of_an_open_ledger_can_be_read_by_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as ledger:
        await ledger.add([job("a")])
        assert query(path, "SELECT job_id, state FROM jobs") == [("a", "planned")]


async def test_connection_whose_closing_was_cancelled_can_be_closed_again(tmp_path: Path) -> None:
    connection = await SqliteConnection.open(await make_ledger(tmp_path / "jobs.db"), 1.0)
    closing = asyncio.create_task(connection.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await connection.close()
    with pytest.raises((sqlite3.ProgrammingError, RuntimeError)):
        await connection.command("SELECT 1")


async def test_connection_of_an_opening_that_is_cancelled_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await make_ledger(tmp_path / "jobs.db")
    connect = sqlite3.connect
    begun, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    class Watched(sqlite3.Connection):
        def close(self) -> None:
            super().close()
            closed.set()

    def hold_up(*arguments: Any, **options: Any) -> sqlite3.Connection:
        begun.set()
        go_on.wait()
        return connect(*arguments, factory=Watched, **options)

    monkeypatch.setattr(sqlite3, "connect", hold_up)
    opening = asyncio.create_task(SqliteConnection.open(path, 1.0))
    await asyncio.to_thread(begun.wait)
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    go_on.set()
    assert await asyncio.to_thread(closed.wait, 10), "nobody closes it"
