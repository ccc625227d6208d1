"""A ledger that crynux_async 0.1.0 has written: it opens, and nothing of it is lost."""

import contextlib
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import AttemptOutcome, GateRow, JobFilter, TaskRow
from crynux_async.ledgers.sql.schema import APPLICATION_ID
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.states import JobState
from tests.ledger_files import opened, query, refusal

pytestmark = pytest.mark.real_time

RECORDED = Path(__file__).parent.parent / "data" / "ledger_0_1_0.db"
BRIDGE = "https://bridge.crynux.io"
KEY_ID = "key:1f0a2b3c"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copy(RECORDED, tmp_path / "jobs.db"))


def table(path: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of a table as they stand in a file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {name} ORDER BY 1")]


def moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


def text(number: int | None) -> str | None:
    return None if number is None else str(number)


def schema(path: Path) -> dict[str, list[str]]:
    """Return what every table and index was made by, however it is broken into lines, and in whichever order."""
    made = query(path, "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    lines = {name: re.sub(r"\s+", " ", re.sub(r"(?<=\()\s+|\s+(?=\))|\s+$", "", sql)) for name, sql in made}
    # A column that was added later stands behind the conditions of its table.
    return {name: [*sorted(re.split(r", (?![^()]*\))|(?<=\()|(?=\)$)", line))] for name, line in lines.items()}


def test_recorded_ledger_is_of_version_1_and_has_every_state() -> None:
    assert table(RECORDED, "meta") == [{"name": "version", "value": "1"}]
    states = {row["state"] for row in table(RECORDED, "jobs")}
    assert states >= {str(state) for state in JobState} - {"expired", "attached"}  # 0.1.0 had no "attached"
    assert len(table(RECORDED, "jobs")) == 13
    assert len(table(RECORDED, "attempts")) == 9


async def test_every_job_of_version_1_is_kept(old: Path) -> None:
    before = table(RECORDED, "jobs")
    configs = {row["job_id"]: json.loads(row["config"]) for row in table(RECORDED, "configs")}
    async with opened(old) as ledger:
        rows = await ledger.jobs()
    assert [row.job_id for row in rows] == [row["job_id"] for row in before]
    for row, was in zip(rows, before, strict=True):
        for name in ("backend", "key_id", "label", "state", "error", "folder", "file_name", "path", "resubmitted_as"):
            assert getattr(row, name) == was[name], (row.job_id, name)
        assert (row.digest, row.total_bytes, row.task_id) == (was["digest"], was["total_bytes"], text(was["task_id"]))
        times = (row.planned_at, row.submitted_at, row.ended_at)
        assert times == tuple(moment(was[name]) for name in ("planned_at", "submitted_at", "ended_at"))
        assert (None if row.config is None else row.config.to_dict()) == configs.get(row.job_id)
        assert (row.tries, row.last_event, row.is_seed_drawn, row.is_stopped, row.is_sent_by_any) == (
            1,
            0,
            False,
            False,
            False,
        )
        assert (row.group, row.tenant, row.budget, row.idempotency_key, row.asked_digest) == ("", "", "", None, "")
        assert (row.tags, row.host, row.reason) == ({}, "", "")


async def test_every_attempt_of_version_1_is_kept(old: Path) -> None:
    before = table(RECORDED, "attempts")
    async with opened(old) as ledger:
        rows = await ledger.attempts()
    assert len(rows) == len(before)
    for row, was in zip(rows, before, strict=True):
        for name in ("job_id", "number", "backend", "key_id", "outcome", "wait", "status", "answer"):
            assert getattr(row, name) == was[name], (row.job_id, name)
        assert (row.began_at, row.answered_at) == (moment(was["began_at"]), moment(was["answered_at"]))
        assert (row.task_id, row.try_number, row.payload) == (text(was["task_id"]), 1, "")


async def test_every_task_of_version_1_gets_its_row(old: Path) -> None:
    with_task = [row for row in table(RECORDED, "jobs") if row["task_id"] is not None]
    wanted = [
        TaskRow(
            job_id=row["job_id"],
            try_number=1,
            backend=row["backend"],
            task_id=str(row["task_id"]),
            made_at=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=row["submitted_at"]),
            ended_at=moment(row["ended_at"]),
        )
        for row in with_task
    ]
    async with opened(old) as ledger:
        names = [row.job_id for row in await ledger.jobs()]
        assert await ledger.tasks(names) == wanted
        (found,) = await ledger.jobs(JobFilter(task_id="100"))
    assert found.job_id == "j000000000006"
    assert [task.task_id for task in wanted] == ["9", "10", "11", "100", "102", "90"]


async def test_gate_and_what_was_learned_under_version_1_are_kept(old: Path) -> None:
    async with opened(old) as ledger:
        async with ledger.gate(BRIDGE, KEY_ID) as cell:
            assert cell.row == GateRow(clock="a-boot", snapshot={"level": 3.0})
        (hazard,) = table(RECORDED, "hazards")
        assert await ledger.load_hazards(BRIDGE) == {hazard["kind"]: json.loads(hazard["value"])}


async def test_lost_create_of_version_1_has_its_neighbours_and_a_cut_off_one_is_open(old: Path) -> None:
    async with opened(old) as ledger:
        (lost,) = await ledger.attempts(job_ids=["j000000000008"])
        assert lost.outcome is AttemptOutcome.UNKNOWN
        found = await ledger.neighbours(lost)
        assert (found.before, found.after) == (("100", "11", "10", "9"), ("102",))
        (cut_off,) = await ledger.attempts(unfinished=True)
        assert cut_off.job_id == "j000000000002"


async def test_job_of_another_backend_is_found_under_the_name_it_had(old: Path) -> None:
    async with opened(old) as ledger:
        found = await ledger.jobs(JobFilter(backend="http://127.0.0.1:5028"))
        fence = await ledger.enter("me", seconds=60)
        claimed = await ledger.claim(fence, backend=BRIDGE, states=[JobState.PLANNED])
    assert [row.label for row in found] == ["other bridge"]
    assert [row.label for row in claimed] == ["grid/rank1", "grid/rank2", "custom one"]


async def test_ledger_of_version_1_becomes_the_same_as_a_new_one(old: Path, tmp_path: Path) -> None:
    for path in (old, tmp_path / "new.db"):
        async with opened(path):
            pass
    assert schema(old) == schema(tmp_path / "new.db")
    assert query(old, "PRAGMA foreign_key_check") == []
    assert query(old, "PRAGMA integrity_check") == [("ok",)]


async def test_version_0_1_0_refuses_what_this_version_wrote(old: Path) -> None:
    # What its check reads, in crynux_async/sql_migrations.py and sqlite_file.py of that version: the application id,
    # and this row, which it compares with 1 ("was written by a newer version ... upgrade crynux_async").
    async with opened(old):
        pass
    assert query(old, "PRAGMA application_id") == [(APPLICATION_ID,)] == [(0x43727578,)]
    ((version,),) = query(old, "SELECT value FROM meta WHERE name = 'version'")
    assert version.isdecimal()
    assert int(version) > 1


async def test_process_of_version_0_1_0_that_is_still_open_cannot_store_anything_more(old: Path) -> None:
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as still_open:
        still_open.execute("SELECT * FROM jobs").fetchall()
        async with opened(old):
            pass
        attempt = "(job_id, number, backend, key_id, began_at, answer) VALUES ('j000000000001', 1, '', '', 0, '')"
        job = (
            "(job_id, backend, key_id, digest, label, state, planned_at, error) VALUES ('', '', '', '', '', '', 0, '')"
        )
        lease = "(owner, until) VALUES ('host:1', 0)"
        for statement in (f"attempts {attempt}", f"jobs {job}", f"leases {lease}"):
            with pytest.raises(sqlite3.IntegrityError):
                still_open.execute(f"INSERT INTO {statement}")


async def test_copy_of_the_old_file_is_kept_beside_it(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(old):
        pass
    copy = old.with_name("jobs.db.v1-backup")
    for name in ("meta", "jobs", "configs", "attempts", "gates", "hazards", "leases"):
        assert table(copy, name) == table(RECORDED, name)
    assert schema(copy) == schema(RECORDED)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert str(copy) in caplog.text
    async with opened(old):  # it is up to date now
        pass
    assert sorted(path.name for path in old.parent.iterdir()) == ["jobs.db", "jobs.db.v1-backup"]


async def test_copy_never_takes_the_place_of_an_earlier_one(old: Path) -> None:
    old.with_name("jobs.db.v1-backup").write_text("an earlier copy")
    async with opened(old):
        pass
    assert old.with_name("jobs.db.v1-backup").read_text() == "an earlier copy"
    assert table(old.with_name("jobs.db.v1-backup-2"), "jobs") == table(RECORDED, "jobs")


async def test_copy_has_what_was_still_in_the_log(old: Path) -> None:
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("UPDATE jobs SET label = 'in the log' WHERE id = 1")
        assert (old.parent / "jobs.db-wal").stat().st_size > 0
        async with opened(old) as ledger:
            row = await ledger.get("j000000000001")
    assert row is not None
    assert row.label == "in the log"
    assert table(old.with_name("jobs.db.v1-backup"), "jobs")[0]["label"] == "in the log"


@pytest.mark.parametrize("owners", [1, 2])
async def test_ledger_in_use_by_version_0_1_0_is_refused_until_its_leases_have_ended(owners: int, old: Path) -> None:
    now = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
    end = now + timedelta(seconds=60)
    with contextlib.closing(sqlite3.connect(old)) as connection:
        for number in range(owners):
            until = (end - timedelta(seconds=20 * number) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
                microseconds=1
            )
            connection.execute("INSERT INTO leases (owner, until) VALUES (?, ?)", (f"host:{4242 + number}", until))
        connection.commit()
    message = await refusal(old, clock=lambda: now)
    assert "in use by crynux_async 0.1.0 (host:4242, until 2026-12-01 12:01:00 UTC at least)" in message
    assert "end that program" in message
    async with opened(old, clock=lambda: end + timedelta(seconds=1)) as ledger:
        assert len(await ledger.jobs()) == 13
        assert await ledger.holders() == []


async def test_migration_without_room_for_the_copy_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Iterator[Any]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crynux_async.ledgers.sqlite.opening.back_up", fail)
    with pytest.raises(LedgerError, match="cannot be brought to version 3"):
        await SqliteLedger(old).open()
    assert [path.name for path in old.parent.iterdir()] == ["jobs.db"]
    assert table(old, "jobs") == table(RECORDED, "jobs")
    assert schema(old) == schema(RECORDED)
