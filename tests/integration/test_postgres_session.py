"""Sessions of several hosts on one ledger in PostgreSQL."""

import asyncio
import json
import logging
import secrets
from functools import partial
from pathlib import Path

import pytest

from benchmarks.postgres_line import line_to
from benchmarks.postgres_server import PostgresServer
from crynux_async.clock import monotonic
from crynux_async.emulator import Emulator
from crynux_async.job import Job
from crynux_async.ledgers.conformance.support import job as new_row
from crynux_async.ledgers.postgres.ledger import PostgresLedger
from crynux_async.pacing.gate import LedgerGate
from crynux_async.pacing.token_bucket import Outcome, TokenBucket
from crynux_async.session import Session
from crynux_async.states import JobState
from crynux_async.supervision import upkeep
from tests.fake_backend import make_config

pytestmark = pytest.mark.real_time


async def test_job_of_one_host_is_awaited_and_fetched_on_another(postgres: PostgresServer, tmp_path: Path) -> None:
    where = postgres.url(schema=f"session_{secrets.token_hex(6)}")
    async with (
        Emulator(speed=1000, unet="tiny") as bridge,
        Session(ledger=where, **bridge.settings()) as one,
        Session(ledger=where, follow=False, **bridge.settings()) as two,
    ):
        job = await one.submit(make_config(), label="mine")
        seen = await two.find(job.job_id)
        assert seen is not None
        await asyncio.wait_for(seen, 60)
        assert seen.state is JobState.SUCCEEDED
        await job.download(tmp_path / "one")
        assert [path.suffix for path in (tmp_path / "one").iterdir()] == [".zip"]


async def test_hosts_on_one_ledger_share_the_tokens_of_a_key(postgres: PostgresServer) -> None:
    where = postgres.url(schema=f"session_{secrets.token_hex(6)}")
    ledgers = [PostgresLedger(where), PostgresLedger(where)]
    await asyncio.gather(*(ledger.open() for ledger in ledgers))
    sent: list[float] = []

    async def send(gate: LedgerGate) -> None:
        for _ in range(2):
            while (entry := await gate.enter()).ticket is None:
                await asyncio.sleep(entry.when - monotonic())
            sent.append(monotonic())
            await gate.leave(entry.ticket, Outcome.ACCEPTED)

    gates = [
        LedgerGate(
            ledger,
            "bridge",
            "key",
            fresh=lambda now: TokenBucket(limit_per_minute=600, burst=1, now=now),
            given=(600, 1),
            lost_after=75.0,
            owner=str(number),
        )
        for number, ledger in enumerate(ledgers)
    ]
    await asyncio.gather(*map(send, gates))
    # One token every tenth of a second for both hosts together: four creates take 0.3 s at least.
    assert len(sent) == 4
    assert max(sent) - min(sent) >= 0.29
    await asyncio.gather(*(ledger.close() for ledger in ledgers))


async def test_gate_of_a_host_whose_own_clock_is_elsewhere_goes_by_the_servers(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = postgres.url(schema=f"session_{secrets.token_hex(6)}")
    ledger = PostgresLedger(where)
    await ledger.open()

    def gate(owner: str) -> LedgerGate:
        make = partial(TokenBucket, limit_per_minute=1)
        return LedgerGate(
            ledger,
            "bridge",
            "key",
            fresh=lambda now: make(now=now),
            given=(1, None),
            lost_after=75.0,
            owner=owner,
        )

    here, there = gate("here"), gate("there")
    entry = await here.enter()
    assert entry.ticket is not None
    await here.leave(entry.ticket, Outcome.ACCEPTED)
    monkeypatch.setattr("crynux_async.pacing.gate.monotonic", lambda: monotonic() + 86_400)
    refused = await there.enter()
    assert refused.ticket is None
    assert 0 < refused.when - (monotonic() + 86_400) <= 30.1  # it looks again after half a minute at the latest
    assert 30 < there.expected_at(0) - (monotonic() + 86_400) <= 60.1
    await ledger.close()


async def create_under_way(bridge: Emulator, session: Session) -> Job:
    """Open a session, and return a job whose create has been sent and not answered yet."""
    bridge.add_fault("delay", on="create", seconds=0.3)
    await session.open()
    job = session.submit_nowait(make_config())
    while not any(request.method == "POST" for request in bridge.requests):
        await asyncio.sleep(0.01)
    return job


async def test_task_that_could_not_be_stored_is_spilled_and_followed_by_the_next_session(
    postgres: PostgresServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_HEAR_WISHES_EVERY", 0.2)
    schema, spill = f"session_{secrets.token_hex(6)}", tmp_path / "spill.jsonl"
    async with Emulator(speed=1000, unet="tiny") as bridge, line_to(postgres) as line:
        settings = {**bridge.settings(), "close_timeout": 0.5}
        session = Session(ledger=line.url(schema=schema, spill=str(spill)), **settings)
        job = await create_under_way(bridge, session)
        line.is_down = True
        line.cut()
        await session.close()
        assert json.loads(spill.read_text())["job_id"] == job.job_id
        assert "write it down" in capsys.readouterr().err
        postgres.run(f"UPDATE {schema}.leases SET until = 0")  # the lease of a session that could not give it back
        async with Session(ledger=postgres.url(schema=schema, spill=str(spill)), **settings) as after:
            async with asyncio.timeout(60):  # its owner hears of it as of any wish
                while (found := await after.find(job.job_id)) is None or found.task_id is None:
                    await asyncio.sleep(0.02)
                await found
            assert found.task_id == job.task_id
        assert spill.read_text() == ""
        assert sum(request.method == "POST" for request in bridge.requests) == 1


async def test_session_ends_although_the_answer_to_a_commit_never_comes_and_spills_the_task(
    postgres: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(upkeep, "_HEAR_WISHES_EVERY", 0.2)
    schema, spill = f"session_{secrets.token_hex(6)}", tmp_path / "spill.jsonl"
    async with Emulator(speed=1000, unet="tiny") as bridge, line_to(postgres) as line:
        settings = {**bridge.settings(), "close_timeout": 0.5}
        session = Session(ledger=line.url(schema=schema, spill=str(spill)), **settings)
        job = await create_under_way(bridge, session)
        line.cut_after(b"COMMIT", stays_down=True)
        while not line.is_down:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            await session.close()
        assert caplog.text.count("nothing is stored or sent until it is back") == 1
        [(task_id,)] = postgres.run(f"SELECT task_id FROM {schema}.tasks")  # it had arrived, which nobody could know
        assert f"job {job.job_id} (task {task_id}) could not be stored" in capsys.readouterr().err
        assert json.loads(spill.read_text())["task_id"] == task_id
        postgres.run(f"UPDATE {schema}.leases SET until = 0")  # the lease of a session that could not give it back
        async with Session(ledger=postgres.url(schema=schema, spill=str(spill)), **settings) as after:
            found = await after.find(job.job_id)
            assert found is not None
            async with asyncio.timeout(60):
                await found
            assert found.task_id == task_id
        assert spill.read_text() == ""
        assert sum(request.method == "POST" for request in bridge.requests) == 1


async def test_archive_of_another_host_is_fetched_again_and_its_host_is_in_the_row(
    postgres: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    where = postgres.url(schema=f"session_{secrets.token_hex(6)}")
    caplog.set_level(logging.INFO)
    async with Emulator(speed=1000, unet="tiny") as bridge:
        settings = bridge.settings()
        async with Session(ledger=where, host="first", **settings) as one:
            job = await one.submit(make_config())
            first = await job.download(tmp_path / "first")
            row = await one.ledger.get(job.job_id)
            assert row is not None
            assert (row.host, row.path) == ("first", str(first))
        first.rename(tmp_path / "gone.zip")  # the folder of another host is not seen from here
        async with Session(ledger=where, host="second", **settings) as two:
            found = await two.find(job.job_id)
            assert found is not None
            second = await found.download(tmp_path / "second")
    assert second.read_bytes() == (tmp_path / "gone.zip").read_bytes()
    assert f"is on first ({first}) and not here; it is fetched again" in caplog.text


async def test_archive_of_another_host_is_taken_from_the_folder_that_both_mount(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    where = postgres.url(schema=f"session_{secrets.token_hex(6)}")
    mounts = tmp_path / "mounted here", tmp_path / "mounted there"
    mounts[0].mkdir()
    mounts[1].symlink_to(mounts[0])
    async with Emulator(speed=1000, unet="tiny") as bridge:
        settings = bridge.settings()
        async with Session(ledger=where, host="first", archives=mounts[0], **settings) as one:
            job = await one.submit(make_config())
            first = await job.download(tmp_path / "first")
        first.rename(tmp_path / "gone.zip")
        asked = sum(request.path.endswith("/result") for request in bridge.requests)
        async with Session(ledger=where, host="second", archives=mounts[1], **settings) as two:
            found = await two.find(job.job_id)
            assert found is not None
            second = await found.download(tmp_path / "second")
        assert sum(request.path.endswith("/result") for request in bridge.requests) == asked
    assert second.read_bytes() == (tmp_path / "gone.zip").read_bytes()


async def test_session_that_asks_for_a_known_key_first_goes_on_with_new_ones(postgres: PostgresServer) -> None:
    where = postgres.url(schema=f"session_{secrets.token_hex(6)}")
    async with Emulator(speed=1000, unet="tiny") as bridge:
        settings = bridge.settings()
        async with Session(ledger=where, **settings) as before:
            known = await before.submit(make_config(), idempotency_key="known")
        async with Session(ledger=where, **settings) as after:
            again = await after.submit(make_config(), idempotency_key="known")
            new = await after.submit(make_config(), idempotency_key="new")
        assert again.job_id == known.job_id
        assert new.task_id not in {None, known.task_id}


async def test_server_that_forgets_what_was_prepared_is_gone_on_with(postgres: PostgresServer) -> None:
    ledger = PostgresLedger(postgres.url(schema=f"session_{secrets.token_hex(6)}"))
    await ledger.open()
    fence = await ledger.enter("host", seconds=60)
    for number in range(8):  # often enough that every statement is prepared
        await ledger.add([new_row(f"a{number}")], fence=fence)
        await ledger.get("a0")
    database = ledger.database
    for connection in (database.writes, database.reads):
        await connection.command("DEALLOCATE ALL")
    heard = await ledger.changed(0)
    await ledger.add([new_row("b")], fence=fence)
    await ledger.renew(fence, seconds=60)
    assert await ledger.get("b") is not None
    await ledger.add([new_row("c")], fence=fence)
    assert await ledger.changed(heard) > heard
    assert len(await ledger.jobs()) == 10
    await ledger.close()
