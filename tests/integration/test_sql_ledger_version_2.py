"""A ledger whose schema has version 2, recorded before version 3, in this version."""

import shutil
from pathlib import Path

import pytest

from crynux_async.errors import CrynuxError, JobFailedError, RejectedError, SubmissionUnknownError
from crynux_async.supervision.rows import record_from_row
from tests.fake_backend import make_config
from tests.integration.test_sql_ledger_version_1 import schema, table
from tests.ledger_files import opened, query

RECORDED = Path(__file__).parents[1] / "data" / "ledger_2.db"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copy(RECORDED, tmp_path / "jobs.db"))


async def test_every_job_of_version_2_is_kept(old: Path) -> None:
    before = table(RECORDED, "jobs")
    async with opened(old) as ledger:
        rows = await ledger.jobs()
    assert query(old, "SELECT value FROM meta WHERE name = 'version'") == [("3",)]
    for row, was in zip(rows, before, strict=True):
        for name in ("job_id", "backend", "label", "state", "error", "task_id", "group", "digest"):
            assert getattr(row, name) == was[name], (row.job_id, name)
    assert [row.config for row in rows] == [make_config(seed=seed) for seed in range(1, 7)]


async def test_error_of_version_2_has_the_class_of_its_state(old: Path) -> None:
    async with opened(old) as ledger:
        rows = await ledger.jobs()
    errors = [record_from_row(row, is_ours=False).error for row in rows]
    classes = [type(None), CrynuxError, RejectedError, SubmissionUnknownError, JobFailedError, type(None)]
    assert [type(error) for error in errors] == classes
    assert [row.to_dict()["error_kind"] for row in rows] == [""] * 6


async def test_ledger_of_version_2_becomes_the_same_as_a_new_one(old: Path, tmp_path: Path) -> None:
    for path in (old, tmp_path / "new.db"):
        async with opened(path):
            pass
    assert schema(old) == schema(tmp_path / "new.db")
    assert query(old, "PRAGMA integrity_check") == [("ok",)]
