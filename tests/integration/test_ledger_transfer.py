"""A ledger that moves from a file to a server: whole, once, and never while somebody is at work on it."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.postgres_server import PostgresServer
from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import BudgetRow, JobFilter, Ledger, Reservation, WishRow
from crynux_async.ledgers.conformance.support import BACKEND, at, attempt, happened, job, step, task
from crynux_async.ledgers.postgres.ledger import PostgresLedger
from crynux_async.ledgers.sql.schema import TABLES
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.ledgers.transfer import move
from crynux_async.states import JobState

pytestmark = pytest.mark.real_time

NAMES = [f"job {number}" for number in range(12)]


@pytest.fixture
def where(postgres: PostgresServer) -> Iterator[str]:
    schema = f"move_{secrets.token_hex(6)}"
    yield postgres.url(schema=schema)
    postgres.run(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


async def fill(ledger: Ledger, *, is_left: bool = True) -> int:
    """Fill a ledger with a row of every kind, and return the number of the lease."""
    await ledger.open()
    fence = await ledger.enter("me", seconds=60)
    rows = [job(name, tags={"color": "red"}, idempotency_key=name) for name in NAMES]
    await ledger.add(rows, fence=fence)
    await ledger.begin(fence, attempt("job 0", seconds=1), reservation=Reservation(budget="b", amount=7, limit=9))
    await ledger.change(fence, [happened("job 0", 1)])
    await ledger.plan_step(fence, step("job 0", "create"))
    await ledger.wish(WishRow(job_id="job 1", kind="retry", at=at(0)))
    await ledger.add([job("attached", task_id="77", state=JobState.RUNNING)], tasks=[task("attached", "77")])
    await ledger.put_note("sweep", "cats", {"points": [1]})
    await ledger.save_hazards(BACKEND, {"kind": [1, 2]})
    if is_left:
        await ledger.leave(fence)
    await ledger.close()
    return fence.number


async def test_ledger_that_moved_is_whole_and_its_numbers_go_on(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crynux_async.ledgers.transfer._PAGE", 5)
    source, target = SqliteLedger(tmp_path / "jobs.db"), PostgresLedger(where)
    lease = await fill(source)
    counts = await move(source, target)
    assert counts["jobs"] == len(NAMES) + 1
    assert {name for name, count in counts.items() if count == 0} == {"leases", "gates"}
    assert {*counts} == {*TABLES} - {"meta"}
    await target.open()
    assert [row.job_id for row in await target.jobs()] == [*NAMES, "attached"]
    assert await target.get("job 7") == job("job 7", tags={"color": "red"}, idempotency_key="job 7")
    assert len(await target.jobs(JobFilter(tags={"color": "red"}))) == len(NAMES)
    assert await target.budget("b") == BudgetRow(name="b", limit=9, held=7, spent=0)
    assert await target.attempts() == [attempt("job 0", seconds=1)]
    assert (await target.events("job 0"))[0].number == 1
    assert await target.note("sweep", "cats") == {"points": [1]}
    assert await target.load_hazards(BACKEND) == {"kind": [1, 2]}
    fence = await target.enter("me", seconds=60)
    assert fence.number > lease  # a number is never used again
    await target.add([job("new")])
    assert (await target.jobs())[-1].job_id == "new"
    await target.close()


async def test_source_opens_no_more_and_says_where_it_is(where: str, tmp_path: Path) -> None:
    await fill(SqliteLedger(tmp_path / "jobs.db"))
    await move(SqliteLedger(tmp_path / "jobs.db"), PostgresLedger(where))
    with pytest.raises(LedgerError, match=r"moved to postgresql://.*schema=move_.*cannot be opened any more"):
        await SqliteLedger(tmp_path / "jobs.db").open()


async def test_session_that_opened_the_source_before_it_was_moved_does_not_enter_it(where: str, tmp_path: Path) -> None:
    await fill(SqliteLedger(tmp_path / "jobs.db"))
    early = SqliteLedger(tmp_path / "jobs.db")
    await early.open()
    await move(SqliteLedger(tmp_path / "jobs.db"), PostgresLedger(where))
    with pytest.raises(LedgerError, match="cannot be opened any more"):
        await early.enter("me", seconds=60)
    await early.close()


async def test_ledger_with_a_live_lease_does_not_move(where: str, tmp_path: Path) -> None:
    await fill(SqliteLedger(tmp_path / "jobs.db"), is_left=False)
    with pytest.raises(LedgerError, match=r"in use \(1: me\)"):
        await move(SqliteLedger(tmp_path / "jobs.db"), PostgresLedger(where))
    source, target = SqliteLedger(tmp_path / "jobs.db"), PostgresLedger(where)
    await source.open()  # it is as it was
    await source.close()
    await target.open()
    assert await target.jobs() == []
    await target.close()


async def test_target_that_holds_rows_is_left_alone_and_the_source_with_it(where: str, tmp_path: Path) -> None:
    await fill(SqliteLedger(tmp_path / "jobs.db"))
    target = PostgresLedger(where)
    await target.open()
    await target.add([job("mine")])
    await target.close()
    with pytest.raises(LedgerError, match="holds rows already"):
        await move(SqliteLedger(tmp_path / "jobs.db"), PostgresLedger(where))
    source = SqliteLedger(tmp_path / "jobs.db")
    await source.open()
    await source.close()


async def test_copy_that_was_cut_off_is_begun_anew_and_done_twice_changes_nothing(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jobs.db"
    await fill(SqliteLedger(path))

    async def cut_off(*_: object) -> None:
        raise LedgerError("cut off")

    monkeypatch.setattr("crynux_async.ledgers.transfer._last_number", cut_off)
    with pytest.raises(LedgerError, match="ended early: cut off; do it again"):
        await move(SqliteLedger(path), PostgresLedger(where))
    monkeypatch.undo()
    with pytest.raises(LedgerError, match="cannot be opened any more"):
        await SqliteLedger(path).open()
    first = await move(SqliteLedger(path), PostgresLedger(where))
    assert first["jobs"] == len(NAMES) + 1
    assert await move(SqliteLedger(path), PostgresLedger(where)) == first
    with pytest.raises(LedgerError, match="was moved to"):
        await move(SqliteLedger(path), PostgresLedger(where + "_other"))
