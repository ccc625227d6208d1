"""The command line on a machine that does not do its part: no home, no output, no room; and what programs read then."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from crynux_async.emulator import Emulator
from tests.acceptance.test_cli import bridge, config
from tests.command_line import environment, run_cli, start

__all__ = ["bridge", "config"]

pytestmark = pytest.mark.real_time


async def run_in_shell(line: str, env: dict[str, str], cwd: Path) -> tuple[int | None, str, str]:
    """Run ``crynux-async`` with redirections that only a shell can make."""
    command = f"exec {sys.executable} -m crynux_async.cli {line}"
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", command, cwd=cwd, env=env, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("home", ["", "/proc"])
async def test_no_home_is_one_sentence_that_says_what_to_set(home: str, tmp_path: Path) -> None:
    env = environment(HOME=home)
    del env["CRYNUX_LEDGER"]
    code, out, err = await run_cli("ledger", "migrate", "--json", env=env, cwd=tmp_path)
    facts = json.loads(out)
    assert (code, "Traceback" in err) == (2, False)
    assert "CRYNUX_LEDGER" in facts["message"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("json_", ["", " --json"])
async def test_full_output_is_one_sentence_and_an_exit_code_of_its_own(json_: str, tmp_path: Path) -> None:
    code, _, err = await run_in_shell(f"explain CX201{json_} >/dev/full", environment(), tmp_path)
    assert code == 8
    assert " ".join(err.split()) == "OutputError standard output cannot be written: No space left on device"


@pytest.mark.parametrize("words", ["--help", "sweep run --help", "--version", "explain CX201"])
async def test_text_whose_reader_has_gone_is_no_fault(words: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "crynux_async.cli",
        *words.split(),
        cwd=tmp_path,
        env=environment(),
        stdout=writing,
        stderr=PIPE,
    )
    os.close(writing)
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", ["--help", "--version"])
async def test_full_output_is_told_of_texts_of_help_too(words: str, tmp_path: Path) -> None:
    code, _, err = await run_in_shell(f"{words} >/dev/full", environment(), tmp_path)
    assert (code, "standard output cannot be written" in err, "Traceback" in err) == (8, True, False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_full_output_loses_no_model_that_was_paid_for(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    code, _, err = await run_in_shell("run job.toml --set rank=2 >/dev/full", environment(bridge), tmp_path)
    assert (code, (tmp_path / "1.zip").is_file()) == (8, True), err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_full_output_does_not_hide_that_the_job_failed(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    line = "run job.toml --set model_name=x/fail --json >/dev/full"
    code, _, err = await run_in_shell(line, environment(bridge), tmp_path)
    assert (code, "JobFailedError" in err, "Traceback" in err) == (1, True, False)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
async def test_closed_streams_are_like_those_that_nobody_reads(
    closed: str, bridge: Emulator, config: Path, tmp_path: Path
) -> None:
    code, _, err = await run_in_shell(f"run job.toml --set rank=2 {closed}", environment(bridge), tmp_path)
    assert (code, (tmp_path / "1.zip").is_file(), err) == (0, True, "")
    code, out, _ = await run_cli("jobs", "--json", env=environment(), cwd=tmp_path)
    assert (code, [row["state"] for row in json.loads(out)]) == (0, ["downloaded"])


async def test_narrow_encoding_is_no_reason_to_fail(config: Path, tmp_path: Path) -> None:
    env = environment(PYTHONIOENCODING="ascii")
    code, out, err = await run_cli("export", "über.zip", "x.safetensors", "--json", env=env, cwd=tmp_path)
    assert (code, json.loads(out)["error"], "Traceback" in err) == (5, "ArchiveError", False)
    code, out, err = await run_cli("check", "job.toml", env=env, cwd=tmp_path)
    assert (code, "\\xd7" in out, err) == (0, True, "")  # a multiplication sign


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--json"], "CONFIG"),
        (["jobs", "--json", "--nonsense"], "--nonsense"),
        (["run", "job.toml", "--json", "--timeout", "soon"], "soon"),
        (["nonsense", "--json"], "nonsense"),
    ],
)
async def test_wrong_usage_is_an_object_for_programs_too(arguments: list[str], said: str, tmp_path: Path) -> None:
    code, out, err = await run_cli(*arguments, env=environment(), cwd=tmp_path)
    facts = json.loads(out)
    assert (code, facts["error"], said in facts["message"], said in err) == (2, "UsageError", True, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_command_that_was_ended_is_an_object_for_programs_too(
    number: signal.Signals, bridge: Emulator, config: Path, tmp_path: Path
) -> None:
    arguments = ("run", "job.toml", "--set", "model_name=x/stall", "--json")
    process = await start(*arguments, env=environment(bridge), cwd=tmp_path)
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while b"running" not in await process.stderr.readline():
            assert process.returncode is None
        process.send_signal(number)
        out, _ = await process.communicate()
    assert (process.returncode, json.loads(out)["error"]) == (128 + number, "Interrupted")


async def test_read_only_home_is_one_sentence(tmp_path: Path) -> None:
    home = Path("/sys") if os.geteuid() == 0 else tmp_path  # no permission stops root, but that file system does
    tmp_path.chmod(0o500)
    env = environment(HOME=str(home))
    del env["CRYNUX_LEDGER"]
    code, _, err = await run_cli("ledger", "migrate", env=env, cwd=tmp_path)
    assert (code, "cannot be made" in " ".join(err.split()), "Traceback" in err) == (2, True, False)
