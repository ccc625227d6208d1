"""Sweeps from the command line: real processes on an emulated bridge."""

import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from crynux_async.emulator import Emulator
from tests.command_line import environment, run_cli

pytestmark = pytest.mark.real_time

SWEEP = """
name = "cats"
folder = "models"

[base]
model_name = "crynux-ai/stable-diffusion-v1-5"
dataset_url = "https://example.com/pictures.zip"
max_train_steps = 50
rank = 2
timeout = 1800

[[points]]
rank = 2

[[points]]
model_name = "x/fail"
"""


@pytest_asyncio.fixture
async def bridge() -> AsyncIterator[Emulator]:
    async with Emulator(speed=1000, rate_limit=60) as emulator:
        yield emulator


async def test_sweep_from_preview_to_report(bridge: Emulator, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP)
    env = environment(bridge)
    code, out, _ = await run_cli("sweep", "preview", "sweep.toml", "--json", env=env, cwd=tmp_path)
    seen = json.loads(out)
    assert (code, seen["new"], seen["workable"]) == (0, 2, True)

    code, out, err = await run_cli(
        "sweep", "run", "sweep.toml", "--report", "cats.html", "--json", env=env, cwd=tmp_path
    )
    ran = json.loads(out)
    assert (code, ran["done"], ran["failed"]) == (1, 1, 1), err
    assert [trial["state"] for trial in ran["trials"]] == ["done", "failed"]
    assert Path(ran["trials"][0]["archive"]).parent == tmp_path / "models"
    assert "Content-Security-Policy" in (tmp_path / "cats.html").read_text()

    code, out, _ = await run_cli("sweep", "run", "sweep.toml", "--json", env=env, cwd=tmp_path)
    assert [trial["task_id"] for trial in json.loads(out)["trials"]] == [trial["task_id"] for trial in ran["trials"]]

    code, out, _ = await run_cli("sweep", "list", env=env, cwd=tmp_path)
    assert (code, out.strip()) == (0, "cats: 1 done, 1 failed")
    code, out, _ = await run_cli("sweep", "status", "cats", env=env, cwd=tmp_path)
    assert code == 1
    code, out, _ = await run_cli("sweep", "table", "cats", env=env, cwd=tmp_path)
    assert [row["state"] for row in csv.DictReader(io.StringIO(out))] == ["done", "failed"]
    code, out, _ = await run_cli("sweep", "report", "cats", env=env, cwd=tmp_path)
    assert (code, out.strip()) == (0, str(tmp_path / "cats.html"))
    code, out, _ = await run_cli("sweep", "report", "cats", "--json", env=env, cwd=tmp_path)
    assert json.loads(out) == {"name": "cats", "report": str(tmp_path / "cats.html")}
    code, out, _ = await run_cli("sweep", "table", "cats", "--json", env=env, cwd=tmp_path)
    assert [row["state"] for row in json.loads(out)] == ["done", "failed"]
    code, out, _ = await run_cli("sweep", "stop", "cats", "--json", env=env, cwd=tmp_path)
    assert json.loads(out) == {"name": "cats", "unsent": 0}

    code, out, _ = await run_cli("sweep", "retry", "cats", "-y", "--json", env=env, cwd=tmp_path)
    (again,) = json.loads(out)["trials"]
    assert (code, again["state"]) == (1, "failed")
    assert again["task_id"] != ran["trials"][1]["task_id"]


async def test_sweep_that_cannot_work_says_so_before_anything_is_sent(bridge: Emulator, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP.replace("[[points]]\nrank = 2", "[[points]]\nrank = -1"))
    code, out, _ = await run_cli("sweep", "preview", "sweep.toml", env=environment(bridge), cwd=tmp_path)
    assert code == 2
    assert "point 1" in out
    code, _, err = await run_cli("sweep", "run", "sweep.toml", env=environment(bridge), cwd=tmp_path)
    assert code == 2
    assert "point 1: rank" in err


async def test_unknown_sweep_and_missing_ledger_are_named(bridge: Emulator, tmp_path: Path) -> None:
    code, _, err = await run_cli("sweep", "status", "dogs", env=environment(bridge), cwd=tmp_path)
    assert code == 2
    assert "no ledger" in err


async def test_retry_of_a_sweep_without_failures_prints_json_and_sends_nothing(
    bridge: Emulator, tmp_path: Path
) -> None:
    env = environment(bridge)
    (tmp_path / "sweep.toml").write_text(SWEEP.partition("[[points]]")[0])
    code, out, err = await run_cli("sweep", "run", "sweep.toml", "--json", env=env, cwd=tmp_path)
    assert (code, json.loads(out)["done"]) == (0, 1), err
    code, out, err = await run_cli("sweep", "retry", "cats", "-y", "--json", env=env, cwd=tmp_path)
    assert (code, json.loads(out)) == (0, {"name": "cats", "trials": []}), err
