"""What only a ledger in PostgreSQL has: its schema, its rights, its clock, and how hosts hear of each other."""

import asyncio
import logging
import secrets
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
import psycopg
import pytest

from benchmarks.postgres_server import PostgresServer
from crynux_async.errors import LedgerBusyError, LedgerError
from crynux_async.ledgers.base import GateRow, JobFilter
from crynux_async.ledgers.conformance.support import BACKEND, KEY_ID, attempt, happened, job
from crynux_async.ledgers.postgres.ledger import PostgresLedger
from crynux_async.ledgers.sql import writer
from crynux_async.ledgers.sql.connection import Connection
from crynux_async.ledgers.sql.migrations import CURRENT, SchemaPlan
from crynux_async.ledgers.sql.schema import TABLES
from crynux_async.testing import LEDGER_CHECKS
from tests.documents import blocks
from tests.ledger_places import PostgresPlace

pytestmark = pytest.mark.real_time


@pytest.fixture
def where(postgres: PostgresServer) -> Iterator[str]:
    """The address of a new ledger; its schema is gone after the test."""
    schema = f"test_{secrets.token_hex(6)}"
    yield postgres.url(schema=schema)
    postgres.run(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def schema_of(where: str) -> str:
    return where.rpartition("schema=")[2]


@asynccontextmanager
async def opened(where: str, **options: Any) -> AsyncIterator[PostgresLedger]:
    ledger = PostgresLedger(where, **options)
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


# Opening -------------------------------------------------------------------------------------------------------------


async def test_ten_hosts_that_open_an_empty_database_at_once_make_one_ledger(
    where: str, postgres: PostgresServer
) -> None:
    ledgers = [PostgresLedger(where) for _ in range(10)]
    await asyncio.gather(*(ledger.open() for ledger in ledgers))
    fences = await asyncio.gather(*(ledger.enter("me", seconds=60) for ledger in ledgers))
    assert len({fence.number for fence in fences}) == 10
    assert len(await ledgers[0].holders()) == 10
    await asyncio.gather(*(ledger.close() for ledger in ledgers))
    tables = postgres.run(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema_of(where)}'")
    assert {name for (name,) in tables} == {*TABLES}


async def test_hosts_that_migrate_at_once_do_it_once(where: str) -> None:
    done: list[str] = []

    async def mark(_: Connection, path: str, now: int) -> None:
        done.append(path)
        assert now > 1_600_000_000_000_000  # microseconds: later than 2020

    async with opened(where):
        pass
    plan = SchemaPlan(version=CURRENT.version + 1, migrations={CURRENT.version: mark})
    later = [PostgresLedger(where, plan=plan) for _ in range(5)]
    await asyncio.gather(*(ledger.open() for ledger in later))
    await asyncio.gather(*(ledger.close() for ledger in later))
    assert len(done) == 1


async def test_migration_that_fails_changes_nothing(where: str, postgres: PostgresServer) -> None:
    async def fail(_: Connection, __: str, ___: int) -> None:
        raise LedgerError("no")

    async with opened(where):
        pass
    plan = SchemaPlan(version=CURRENT.version + 1, migrations={CURRENT.version: fail})
    with pytest.raises(LedgerError, match="no"):
        await PostgresLedger(where, plan=plan).open()
    assert postgres.run(f"SELECT value FROM {schema_of(where)}.meta WHERE name = 'version'") == [
        (str(CURRENT.version),)
    ]


async def test_newer_ledger_is_refused_with_both_versions(where: str, postgres: PostgresServer) -> None:
    async with opened(where):
        pass
    postgres.run(f"UPDATE {schema_of(where)}.meta SET value = '99' WHERE name = 'version'")
    with pytest.raises(LedgerError, match=rf"version 99.*up to {CURRENT.version}"):
        await PostgresLedger(where).open()


async def test_ledger_of_version_2_becomes_what_a_new_one_is(where: str, postgres: PostgresServer) -> None:
    schema = schema_of(where)
    columns = f"""
        SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name
        FROM information_schema.columns WHERE table_schema = '{schema}' ORDER BY 1, 2
    """
    async with opened(where) as ledger:
        await ledger.add([job("a")])
        (row,) = await ledger.jobs()
    new = postgres.run(columns)
    postgres.run(
        f"ALTER TABLE {schema}.jobs DROP COLUMN error_facts",
        f"UPDATE {schema}.meta SET value = '2' WHERE name = 'version'",
    )
    async with opened(where) as ledger:
        assert await ledger.jobs() == [row]
    assert postgres.run(columns) == new


async def test_schema_of_another_program_is_left_alone(where: str, postgres: PostgresServer) -> None:
    postgres.run(f"CREATE SCHEMA {schema_of(where)}", f"CREATE TABLE {schema_of(where)}.jobs (id int)")
    with pytest.raises(LedgerError, match="tables of another program"):
        await PostgresLedger(where).open()
    tables = postgres.run(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema_of(where)}'")
    assert tables == [("jobs",)]


async def test_database_in_another_encoding_is_refused(postgres: PostgresServer) -> None:
    name = f"latin_{secrets.token_hex(4)}"
    postgres.run(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(LedgerError, match=r"LATIN1.*UTF8"):
        await PostgresLedger(postgres.url(name)).open()
    postgres.run(f"DROP DATABASE {name}")


async def test_two_schemas_of_one_database_are_two_ledgers(where: str) -> None:
    async with opened(where) as one, opened(where + "_b") as other:
        await one.add([job("a")])
        assert await other.jobs() == []


# Rights and secrets --------------------------------------------------------------------------------------------------


async def test_server_that_is_not_there_is_told_without_the_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ledger = PostgresLedger("postgresql://ann:s3cr3t@127.0.0.1:1/jobs")
    with pytest.raises(LedgerBusyError, match="works again") as caught:
        await ledger.open()
    chain: BaseException | None = caught.value
    texts = [repr(ledger), caplog.text]
    while chain is not None:
        texts += [repr(chain), str(chain)]
        chain = chain.__cause__ or chain.__context__
    assert not any("s3cr3t" in text for text in texts)


async def test_password_is_in_no_variable_of_a_traceback(postgres: PostgresServer) -> None:
    ledger = PostgresLedger(postgres.url("no_database").replace("postgres@", "postgres:s3cr3t@"))
    with pytest.raises(LedgerBusyError, match="no_database") as caught:
        await ledger.open()
    shown: list[str] = []
    chain: BaseException | None = caught.value
    while chain is not None:
        shown += [repr(vars(chain)), repr(getattr(chain, "pgconn", None))]
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    while trace is not None:
        shown += [repr(frame.locals) for frame in trace.stack if "tests" not in frame.filename]
        trace = trace.__cause__ or (None if trace.__suppress_context__ else trace.__context__)
    assert not [text for text in shown if "s3cr3t" in text]


# What docs/many-hosts.md prints.
(PRINTED_GRANTS,) = (block.text for block in blocks("sql"))


class LeastRightsPlace(PostgresPlace):
    """A ledger that its owner has made, and that a role works on which may make nothing."""

    def __init__(self, server: PostgresServer, role: str) -> None:
        super().__init__(server)
        self._role = role

    async def grant(self, server: PostgresServer) -> None:
        async with opened(self._where):
            pass
        grants = PRINTED_GRANTS.replace("SCHEMA crynux_async ", f"SCHEMA {schema_of(self._where)} ")
        server.run(*grants.replace("TO app;", f"TO {self._role}").splitlines())
        self._where = self._where.replace("postgres@", f"{self._role}@")


@pytest.fixture
def role(postgres: PostgresServer) -> Iterator[str]:
    name = f"app_{secrets.token_hex(6)}"
    postgres.run(f"CREATE ROLE {name} LOGIN")
    yield name
    postgres.run(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@pytest.mark.parametrize(
    "check",
    [
        "claims_at_once_never_share_a_job",
        "loser_changes_nothing_of_a_lost_job",
        "gate_is_open_to_one_at_a_time",
        "note_is_stored_only_where_the_expected_one_is",
        "fences_are_never_used_again",
        "hazards_are_replaced_kind_by_kind",
    ],
)
async def test_role_with_the_rights_of_the_docs_can_do_everything(
    check: str, postgres: PostgresServer, role: str
) -> None:
    place = LeastRightsPlace(postgres, role)
    await place.grant(postgres)
    await dict(LEDGER_CHECKS)[check](lambda: place)


async def test_role_without_rights_is_told_what_it_needs(where: str, role: str) -> None:
    async with opened(where):
        pass
    with pytest.raises(LedgerError, match=r"cannot be used by this role.*GRANT"):
        await PostgresLedger(where.replace("postgres@", f"{role}@")).open()


# Time ----------------------------------------------------------------------------------------------------------------


async def test_gate_tells_the_time_of_the_server_after_the_wait_for_the_gate(where: str) -> None:
    async with opened(where) as one, opened(where) as two:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def hold() -> float:
            async with one.gate(BACKEND, KEY_ID) as cell:
                cell.row = GateRow(clock=cell.clock, snapshot={})
                entered.set()
                await leave.wait()
                return cell.now

        async def follow() -> float:
            async with two.gate(BACKEND, KEY_ID) as cell:
                return cell.now

        holding = asyncio.create_task(hold())
        await entered.wait()
        following = asyncio.create_task(follow())
        for _ in range(20):  # the second visitor waits for the lock by now, or will: either way it is later than this
            await one.count(JobFilter())
        ((released,),) = [(await server_time(where),)]
        leave.set()
        assert await holding < released < await following


async def server_time(where: str) -> float:
    async with await psycopg.AsyncConnection.connect(where.partition("&schema")[0]) as raw:
        row = await (await raw.execute("SELECT extract(epoch FROM clock_timestamp())")).fetchone()
        assert row is not None
        return float(row[0])


# Hearing of others ---------------------------------------------------------------------------------------------------


async def test_write_of_another_host_is_heard(where: str) -> None:
    async with opened(where) as one, opened(where) as two:
        heard = await two.changed(await two.changed(0))  # once more: from the moment on that somebody listens
        await one.add([job("a")])
        async with asyncio.timeout(30):
            while not await two.jobs():
                heard = await two.changed(heard)


async def test_wait_for_a_change_ends_when_the_ledger_is_closed(where: str) -> None:
    ledger = PostgresLedger(where)
    await ledger.open()
    heard = await ledger.changed(await ledger.changed(0))
    waiting = asyncio.create_task(ledger.changed(heard))
    await asyncio.sleep(0)
    await ledger.close()
    with pytest.raises(Exception, match="not open"):
        await waiting


# Collisions ----------------------------------------------------------------------------------------------------------


async def test_hosts_that_ask_with_the_same_keys_in_another_order_make_one_job_for_each(where: str) -> None:
    rows = [job(f"job {number}", idempotency_key=f"key {number}") for number in range(30)]
    async with opened(where) as one, opened(where) as two:
        for count in range(5):
            tagged = [attrs.evolve(row, tenant=f"round {count}", job_id=f"{row.job_id} {count}") for row in rows]
            other = [attrs.evolve(row, job_id=f"{row.job_id} again") for row in reversed(tagged)]
            first, second = await asyncio.gather(one.add(tagged), two.add(other))
            assert {row.job_id for row in first} == {row.job_id for row in second}
        assert len(await one.jobs()) == 150


async def test_many_callers_who_ask_two_hosts_with_the_same_keys_keep_neither_waiting(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first collision is told, and not tried again.
    monkeypatch.setattr(writer, "_COLLISIONS", 1)
    async with opened(where) as one, opened(where) as two:
        for count in range(3):
            rows = [job(f"{count} {number}", idempotency_key=f"{count} {number}") for number in range(60)]
            others = [attrs.evolve(row, job_id=f"{row.job_id} again") for row in reversed(rows)]
            asks = [*(one.add([row]) for row in rows), *(two.add([row]) for row in others)]
            told = await asyncio.gather(*asks)
            assert len({row.job_id for (row,) in told}) == 60
        assert len(await one.jobs()) == 180


async def test_keys_that_are_there_are_no_trouble_that_the_driver_logs(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [job(f"job {number}", idempotency_key=f"key {number}") for number in range(100)]
    again = [attrs.evolve(row, job_id=f"{row.job_id} again") for row in rows]
    async with opened(where) as ledger:
        assert await ledger.add(rows) == await ledger.add(again) == rows
    assert [record.getMessage() for record in caplog.records if record.name == "psycopg"] == []


async def test_reader_that_is_cut_off_leaves_the_connection_to_the_next_and_the_driver_logs_nothing(
    where: str, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(where) as ledger, await psycopg.AsyncConnection.connect(postgres.url()) as other:
        reads = ledger.database.reads
        ((number,),) = await reads.command("SELECT pg_backend_pid()")
        await other.execute("SELECT pg_advisory_xact_lock(%s)", [number])
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_soon(scope.cancel)
            await reads.command("SELECT pg_advisory_lock($1)", number)
        assert scope.cancelled_caught
        await other.rollback()
        assert await reads.command("SELECT pg_backend_pid()") == [(number,)]
        await other.execute("SELECT pg_advisory_xact_lock_shared(1)")
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_soon(scope.cancel)
            await reads.command("SELECT pg_advisory_xact_lock(1)")
        assert scope.cancelled_caught
    assert [record.getMessage() for record in caplog.records if record.name == "psycopg"] == []


async def test_events_of_one_host_are_refused_to_another_that_lost_the_job(where: str) -> None:
    async with opened(where) as one, opened(where) as two:
        mine, theirs = await one.enter("one", seconds=60), await two.enter("two", seconds=60)
        await one.add([job("a")], fence=mine)
        await one.drop(mine, ["a"])
        await two.take(theirs, ["a"])
        changes = await asyncio.gather(one.change(mine, [happened("a", 1)]), two.change(theirs, [happened("a", 1)]))
        assert changes == [["a"], []]
        await two.begin(theirs, attempt("a"))
        assert len(await one.events("a")) == 1
