"""``ledger check``: what is in a ledger, in words."""

import shutil
from pathlib import Path

import pytest

from crynux_async.cli.ledger import check
from tests.integration.test_sql_ledger_version_1 import RECORDED


async def test_check_counts_one_create_and_no_session(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await check(Path(shutil.copy(RECORDED, tmp_path / "jobs.db")), as_json=False) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 create without an outcome, 0 sessions at work"
