"""A newcomer's way from an empty folder to a model, as typed."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.bridge_folders import free_port, program, wallet_file

pytestmark = pytest.mark.real_time

CONFIG = """
model_name = "crynux-ai/stable-diffusion-v1-5"
dataset_url = "https://example.com/pictures.zip"
max_train_steps = 10
rank = 2
timeout = 1800
"""


async def type_in(folder: Path, *arguments: str) -> tuple[int, str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("CRYNUX_")}
    env |= {
        "HOME": str(folder / "home"),
        "CRYNUX_WALLET": str(folder / "wallet.key"),
        "CRYNUX_MIN_POLL_INTERVAL": "0.2",
        "CRYNUX_POLL_DELAY": "0.000001",
        "COLUMNS": "80",
        "PYTHONWARNINGS": "error",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "crynux_async.cli", *arguments, cwd=folder, env=env, stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return int(process.returncode or 0), out.decode(), err.decode()


async def test_newcomer_goes_from_an_empty_folder_to_a_model(tmp_path: Path) -> None:
    wallet_file(tmp_path)
    (tmp_path / "job.toml").write_text(CONFIG)
    script = program(tmp_path, "--speed", "1000")
    code, out, err = await type_in(tmp_path, "bridge", "init", "mine", "--port", str(free_port()))
    assert (code, err) == (0, "")
    assert "crynux-async bridge up mine" in out
    try:
        code, out, err = await type_in(tmp_path, "bridge", "up", "mine", "--binary", str(script))
        assert (code, err) == (0, "")
        assert "is ready" in out
        # The very first job of the new key: it can be downloaded because the key was primed.
        code, out, err = await type_in(tmp_path, "run", "job.toml", "--json")
        assert code == 0, err
        assert (tmp_path / json.loads(out)["path"]).stat().st_size > 100_000
        code, out, _ = await type_in(tmp_path, "bridge", "status", "mine", "--json")
        assert json.loads(out)["tasks"]["succeeded"] == 1
    finally:
        code, out, _ = await type_in(tmp_path, "bridge", "down", "mine")
    assert (code, out) == (0, "The bridge is stopped.\n")
    code, _, err = await type_in(tmp_path, "bridge", "status", "mine")
    assert code == 3
    assert "cannot be reached" in err


async def test_example_makes_a_key_a_model_and_a_reason(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "own_bridge.py"
    env = {name: value for name, value in os.environ.items() if not name.startswith("CRYNUX_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", str(example), cwd=tmp_path, env=env, stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    made, account, first, why = out.decode().splitlines()
    assert "is ready until" in made
    assert account.endswith("CNX")
    assert first.endswith(".zip")
    assert "the node did not accept the arguments" in why
