"""The command line on a ledger in PostgreSQL."""

import json
import secrets
from pathlib import Path

import pytest

from benchmarks.postgres_server import PostgresServer
from crynux_async.emulator import Emulator
from tests.acceptance.test_cli import bridge, config
from tests.command_line import environment, run_cli

__all__ = ["bridge", "config"]

pytestmark = pytest.mark.real_time


async def test_job_that_was_run_on_one_host_is_listed_on_another(
    bridge: Emulator, config: Path, tmp_path: Path, postgres: PostgresServer
) -> None:
    where = postgres.url(schema=f"cli_{secrets.token_hex(6)}")
    env = {**environment(bridge), "CRYNUX_LEDGER": where}
    code, _, err = await run_cli("run", "job.toml", "--set", "rank=2", env=env, cwd=tmp_path)
    assert code == 0, err
    code, out, _ = await run_cli("jobs", "--json", "--ledger", where, env=environment(), cwd=tmp_path)
    (row,) = json.loads(out)
    assert (code, row["state"], row["label"]) == (0, "downloaded", "job")
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        ("postgresql://ann:s3cr3t@127.0.0.1:1/jobs", 7, "postgresql://ann@127.0.0.1:1/jobs?schema=crynux_async"),
        ("postgresql://ann:s3cr3t/@127.0.0.1:1/jobs", 2, "cannot be read"),
    ],
)
async def test_server_that_cannot_be_reached_is_named_without_the_password(
    where: str, code: int, said: str, tmp_path: Path
) -> None:
    for arguments in (["jobs", "--ledger", where], ["jobs", "--ledger", where, "--json"]):
        ended, out, err = await run_cli(*arguments, env={**environment(), "CRYNUX_LOG": "debug"}, cwd=tmp_path)
        assert ended == code
        assert said in " ".join(err.split()) + out
        assert "s3cr3t" not in out + err


@pytest.mark.parametrize("words", [["jobs"], ["ledger", "check"], ["ledger", "trim"], ["spent"], ["sweep", "list"]])
async def test_command_that_only_looks_makes_no_ledger_under_a_mistyped_name(
    words: list[str], tmp_path: Path, postgres: PostgresServer
) -> None:
    schema = f"cli_{secrets.token_hex(6)}"
    code, out, err = await run_cli(*words, "--ledger", postgres.url(schema=schema), env=environment(), cwd=tmp_path)
    assert (code, out) == (2, "")
    assert f"there is no ledger in {postgres.url(schema=schema)[:20]}" in " ".join(err.split())
    assert "crynux-async ledger migrate" in " ".join(err.split())
    assert postgres.run(f"SELECT 1 FROM pg_namespace WHERE nspname = '{schema}'") == []


async def test_ledger_of_one_machine_moves_to_a_server_and_is_checked_there(
    bridge: Emulator, config: Path, tmp_path: Path, postgres: PostgresServer
) -> None:
    target = postgres.url(schema=f"cli_{secrets.token_hex(6)}")
    env = {**environment(bridge), "CRYNUX_LEDGER": "here.db"}
    code, _, err = await run_cli("run", "job.toml", "--set", "rank=2", env=env, cwd=tmp_path)
    assert code == 0, err
    code, out, err = await run_cli("ledger", "copy", "here.db", target, "--json", env=env, cwd=tmp_path)
    assert (code, json.loads(out)["rows"]["jobs"]) == (0, 1), err
    code, _, err = await run_cli("jobs", env=env, cwd=tmp_path)
    assert (code, "cannot be opened any more" in " ".join(err.split())) == (7, True)
    code, out, _ = await run_cli("ledger", "check", "--ledger", target, "--json", env=env, cwd=tmp_path)
    facts = json.loads(out)
    assert (code, facts["jobs"], facts["attempts_without_outcome"], facts["sessions"]) == (0, {"downloaded": 1}, 0, [])
    code, out, _ = await run_cli("ledger", "trim", "--days", "0", "--ledger", target, "--json", env=env, cwd=tmp_path)
    assert (code, json.loads(out)["removed_events"] > 0) == (0, True)
