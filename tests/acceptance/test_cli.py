"""The command line, as a user types it: real processes, real exit codes."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

import crynux_async
from crynux_async.emulator import Emulator
from crynux_async.signing import Wallet
from tests.command_line import environment, run_cli, start

pytestmark = pytest.mark.real_time

CONFIG = """
model_name = "crynux-ai/stable-diffusion-v1-5"
dataset_url = "https://example.com/pictures.zip"
max_train_steps = 50
seed = 42
timeout = 1800
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(CONFIG)
    return path


@pytest_asyncio.fixture
async def bridge() -> AsyncIterator[Emulator]:
    async with Emulator(speed=1000, rate_limit=60) as emulator:
        yield emulator


async def test_version_is_the_packages_version(tmp_path: Path) -> None:
    code, out, _ = await run_cli("--version", env=environment(), cwd=tmp_path)
    assert (code, out.strip()) == (0, crynux_async.__version__)


async def test_help_names_every_command(tmp_path: Path) -> None:
    code, out, _ = await run_cli("--help", env=environment(), cwd=tmp_path)
    assert code == 0
    assert all(command in out for command in ("demo", "run", "download", "emulator"))


@pytest.mark.parametrize("arguments", [["--help"], ["check", "job.toml"], ["run", "job.toml", "--dry-run"], ["jobs"]])
async def test_command_that_sends_nothing_starts_without_an_http_client_and_a_database(
    arguments: list[str], config: Path, tmp_path: Path
) -> None:
    program = f"""
import contextlib, sys
from crynux_async.cli.app import make_app
with contextlib.suppress(SystemExit):
    make_app()({arguments!r})
print([name for name in ("aiohttp", "sqlalchemy") if name in sys.modules])
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=tmp_path, env=environment(), stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert out.decode().splitlines()[-1] == "[]", err.decode()


async def test_run_downloads_and_prints_json_for_programs(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    env = environment(bridge)
    code, out, _ = await run_cli(
        "run", "job.toml", "--set", "rank=2", "--out", "models", "--json", env=env, cwd=tmp_path
    )
    facts: dict[str, Any] = json.loads(out)
    assert (code, facts["state"]) == (0, "downloaded")
    assert (tmp_path / facts["path"]).is_file()


async def test_run_for_people_prints_states_and_the_path(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    code, out, _ = await run_cli("run", "job.toml", "--set", "rank=2", env=environment(bridge), cwd=tmp_path)
    assert code == 0
    assert "succeeded" in out
    assert out.strip().endswith("1.zip")


async def test_run_prints_a_path_as_it_is(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    folder = f"models[v2]{'x' * 80}"
    arguments = ("run", "job.toml", "--set", "rank=2", "--out", folder)
    code, out, err = await run_cli(*arguments, env=environment(bridge), cwd=tmp_path)
    assert (code, Path(out.splitlines()[-1])) == (0, tmp_path / folder / "1.zip"), err
    assert (tmp_path / folder / "1.zip").is_file()


async def test_run_with_the_emulator_needs_no_account(config: Path, tmp_path: Path) -> None:
    changes = ("--set", "rank=2", "--set", "max_train_steps=10")
    code, _, err = await run_cli("run", "job.toml", "--emulator", *changes, env=environment(), cwd=tmp_path)
    assert code == 0, err
    assert (tmp_path / "1.zip").is_file()


async def test_run_with_wrong_config_lists_every_problem_and_exits_2(config: Path, tmp_path: Path) -> None:
    changes = ("--set", "rnak=3", "--set", "lr_scheduler=cosin")
    code, out, err = await run_cli("run", "job.toml", *changes, env=environment(), cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "did you mean rank" in err
    assert "cosine" in err
    assert "Traceback" not in err


async def test_config_that_is_not_there_is_named_once(tmp_path: Path) -> None:
    code, _, err = await run_cli("run", "missing.toml", env=environment(), cwd=tmp_path)
    assert (code, err.count("missing.toml"), "there is no file" in err) == (2, 1, True)


async def test_settings_that_are_not_there_are_named_once(config: Path, tmp_path: Path) -> None:
    code, _, err = await run_cli("run", "job.toml", env=environment(CRYNUX_SETTINGS="mine.toml"), cwd=tmp_path)
    assert (code, err.count("mine.toml")) == (2, 1)


@pytest.mark.parametrize("command", [("run", "job.toml"), ("download", "1"), ("resume",)])
async def test_timeout_below_zero_is_wrong_usage(
    command: tuple[str, ...], bridge: Emulator, config: Path, tmp_path: Path
) -> None:
    code, _, err = await run_cli(*command, "--timeout", "-1", env=environment(bridge), cwd=tmp_path)
    assert (code, "--timeout" in err, len(bridge.journal)) == (2, True, 0)


async def test_run_shows_the_warnings_that_check_shows(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    changes = ("job.toml", "--set", "max_train_steps=200", "--set", "num_train_steps=50", "--set", "rank=2", "--json")
    _, out, _ = await run_cli("check", *changes, env=environment(), cwd=tmp_path)
    codes = {item["code"] for item in json.loads(out)["advice"] if item["severity"] == "warning"}
    _, _, err = await run_cli("run", *changes, "--timeout", "0", env=environment(bridge), cwd=tmp_path)
    assert "CX201" in codes  # only the last of four rounds that are paid for is kept
    assert codes == set(re.findall(r"^warning (CX\d+)", err, re.MULTILINE))


async def test_run_with_a_key_that_is_refused_exits_3(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    env = environment(bridge, CRYNUX_API_KEY="A" * 43 + "=")
    code, _, err = await run_cli("run", "job.toml", env=env, cwd=tmp_path)
    assert code == 3
    assert "AuthError" in err
    assert "AAAAAAAA" not in err


async def test_run_without_a_key_says_where_it_comes_from(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    env = environment(bridge, CRYNUX_API_KEY=" ")
    for command in (("run", "job.toml"), ("download", "1")):
        code, _, err = await run_cli(*command, env=env, cwd=tmp_path)
        assert (code, "CRYNUX_API_KEY" in err) == (2, True)
    assert not (tmp_path / "jobs.db").exists()  # where the job would be rejected for ever


async def test_run_with_a_job_that_fails_exits_1(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    env = environment(bridge)
    code, _, err = await run_cli("run", "job.toml", "--set", "model_name=x/fail", env=env, cwd=tmp_path)
    assert code == 1
    assert "JobFailedError" in err


async def test_run_that_takes_too_long_exits_6_and_says_how_to_go_on(
    bridge: Emulator, config: Path, tmp_path: Path
) -> None:
    arguments = ("run", "job.toml", "--set", "model_name=x/stall", "--timeout", "1")
    code, out, _ = await run_cli(*arguments, env=environment(bridge), cwd=tmp_path)
    assert code == 6
    assert "crynux-async download 1" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_commands_that_wait_end_by_a_signal_with_its_code_and_say_how_to_go_on(
    number: signal.Signals, bridge: Emulator, config: Path, tmp_path: Path
) -> None:
    env = environment(bridge)
    for arguments, begun, words in (
        (("run", "job.toml", "--set", "model_name=x/stall"), "running", "crynux-async download 1"),
        (("download", "1"), "running", "crynux-async download 1"),
        (("resume",), "running", "at the bridge still: 1. To go on: crynux-async resume"),
    ):
        process = await start(*arguments, env=env, cwd=tmp_path)
        bridge.add_fault("word", on="status", text="running", count=None)
        code, out, err = await end_when_it_says(process, begun, number)
        assert (code, words in out, err) == (128 + number, True, ""), (arguments, out)


async def end_when_it_says(process: Process, words: str, number: signal.Signals) -> tuple[int | None, str, str]:
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(60):
        while words not in said:
            line = (await process.stdout.readline()).decode()
            assert line, said
            said += line
        process.send_signal(number)
        out, err = await process.communicate()
    return process.returncode, said + out.decode(), err.decode()


async def test_emulator_ends_by_sigterm_with_its_code(tmp_path: Path) -> None:
    process = await start("emulator", "--port", "0", env=environment(), cwd=tmp_path)
    code, _, err = await end_when_it_says(process, "CRYNUX_API_KEY", signal.SIGTERM)
    assert (code, err) == (143, "")


async def test_sigterm_ends_process_1_of_a_container(tmp_path: Path) -> None:
    """There the system drops signals that a process does not handle itself."""
    outside = ("unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "crynux_async.cli")
    try:
        process = await asyncio.create_subprocess_exec(
            *outside, "emulator", "--port", "0", cwd=tmp_path, env=environment(), stdout=PIPE, stderr=PIPE
        )
    except FileNotFoundError:
        pytest.skip("needs unshare")
    assert process.stdout is not None
    async with asyncio.timeout(60):
        if not await process.stdout.readline():
            pytest.skip("may not make a PID namespace")
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        await process.communicate()
    assert process.returncode == 143


async def test_sigterm_before_a_command_begins_ends_it_too(tmp_path: Path) -> None:
    program = """
import os, signal, sys, types
import crynux_async.cli
started = types.ModuleType("crynux_async.cli.app")
started.start = lambda *_: (os.kill(os.getpid(), signal.SIGTERM), print("went on"))
sys.modules[started.__name__] = started
crynux_async.cli.main()
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=tmp_path, stdout=PIPE)
    out, _ = await process.communicate()
    assert (process.returncode, out) == (143, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["crynux_async.cli.app", "crynux_async.cli.exits", "rich", "cyclopts"])
async def test_signal_while_a_command_is_loaded_ends_it_without_a_traceback(
    number: signal.Signals, module: str, tmp_path: Path
) -> None:
    program = f"""
import os, sys
import crynux_async.cli
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Interrupting())
crynux_async.cli.main()
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "--version", cwd=tmp_path, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (128 + number, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_after_a_command_has_ended_shows_nothing(number: signal.Signals, tmp_path: Path) -> None:
    program = f"""
import atexit, os
import crynux_async.cli
atexit.register(os.kill, os.getpid(), {int(number)})
crynux_async.cli.main()
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "--version", cwd=tmp_path, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert (process.returncode, out.decode().strip(), err) == (-number, crynux_async.__version__, b"")


async def test_download_fetches_a_task_that_exists(bridge: Emulator, config: Path, tmp_path: Path) -> None:
    env = environment(bridge)
    _, out, _ = await run_cli("run", "job.toml", "--set", "rank=2", "--out", "first", "--json", env=env, cwd=tmp_path)
    job_id = json.loads(out)["job_id"]
    code, out, _ = await run_cli("download", "1", "--out", "second", "--json", env=env, cwd=tmp_path)
    assert code == 0
    assert (tmp_path / json.loads(out)["path"]).read_bytes() == (tmp_path / "first" / "1.zip").read_bytes()
    code, out, err = await run_cli("download", job_id[:9], "--out", "third", "--json", env=env, cwd=tmp_path)
    assert (code, json.loads(out)["task_id"]) == (0, "1"), err
    assert (tmp_path / "third" / "1.zip").is_file()
    code, _, err = await run_cli("download", "jffffffff", env=env, cwd=tmp_path)
    assert (code, "no job is called jffffffff" in err) == (2, True)


async def test_waiting_that_ends_during_a_create_names_the_task_that_comes_of_it(
    bridge: Emulator, config: Path, tmp_path: Path
) -> None:
    bridge.add_fault("delay", on="create", seconds=3.0)
    code, out, err = await run_cli("run", "job.toml", "--timeout", "1", env=environment(bridge), cwd=tmp_path)
    assert code == 6, err
    assert " is planned. To go on" not in out
    assert out.splitlines()[-1] == "Task 1 is running at the bridge. To go on: crynux-async download 1"


async def test_download_of_an_unknown_task_says_that_the_service_does_not_know_it(
    bridge: Emulator, tmp_path: Path
) -> None:
    code, out, err = await run_cli("download", "4711", "--timeout", "2", env=environment(bridge), cwd=tmp_path)
    assert code == 6
    assert "did not know the task" in " ".join(err.split())
    assert "Task 4711 was not seen yet. To go on: crynux-async download 4711" in out


async def test_emulator_prints_an_address_and_a_key_that_work(config: Path, tmp_path: Path) -> None:
    server = await start("emulator", "--port", "0", "--speed", "1000", "--json", env=environment(), cwd=tmp_path)
    assert server.stdout is not None
    try:
        async with asyncio.timeout(60):
            facts = json.loads(await server.stdout.readline())
        env = environment(CRYNUX_BASE_URL=facts["base_url"], CRYNUX_API_KEY=facts["api_key"])
        code, _, err = await run_cli("run", "job.toml", "--set", "rank=2", env=env, cwd=tmp_path)
        assert code == 0, err
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.send_signal(signal.SIGINT)
        await server.communicate()
    assert server.returncode == 130


async def test_emulator_open_to_other_machines_prints_a_plain_address_and_its_token(tmp_path: Path) -> None:
    server = await start("emulator", "--port", "0", "--host", "0.0.0.0", env=environment(), cwd=tmp_path)
    assert server.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(60):
            while not lines or not lines[-1].startswith("X-Emulator-Token:"):
                lines.append((await server.stdout.readline()).decode().rstrip("\n"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.send_signal(signal.SIGINT)
        await server.communicate()
    address = next(line for line in lines if "CRYNUX_BASE_URL" in line)
    assert re.fullmatch(r"export CRYNUX_BASE_URL=http://127\.0\.0\.1:[0-9]+", address)
    assert len(lines[-1].removeprefix("X-Emulator-Token: ")) >= 32


async def test_emulated_relay_prints_an_address_and_a_wallet_with_money(tmp_path: Path) -> None:
    folder = tmp_path / "relay"
    arguments = ("emulator", "--relay", "--port", "0", "--control-port", "0", "--folder", str(folder), "--json")
    facts = []
    for _ in range(2):
        server = await start(*arguments, env=environment(), cwd=tmp_path)
        assert server.stdout is not None
        async with asyncio.timeout(60):
            facts.append(json.loads(await server.stdout.readline()))
        async with aiohttp.ClientSession() as session:
            wallet = Wallet.from_file(facts[-1]["wallet"])
            url = f"{facts[-1]['network']}/v2/relay_account/{wallet.address}/balance"
            answer = await signed(session, url, wallet)
        with contextlib.suppress(ProcessLookupError):
            server.send_signal(signal.SIGINT)
        await server.communicate()
        assert answer == {"message": "success", "data": str(1000 * 10**18)}
    assert facts[0]["wallet"] == facts[1]["wallet"]
    assert (folder / "wallet.key").stat().st_mode & 0o777 == 0o600


async def signed(session: aiohttp.ClientSession, url: str, wallet: Wallet) -> Any:
    now = int(time.time())
    parameters = {"timestamp": str(now), "signature": wallet.sign({"address": wallet.address}, now)}
    async with session.get(url, params=parameters) as response:
        return await response.json()


async def test_emulated_bridge_takes_no_options_of_a_relay(tmp_path: Path) -> None:
    code, _, err = await run_cli("emulator", "--port", "0", "--nodes", "3", env=environment(), cwd=tmp_path)
    assert (code, "--relay" in err) == (2, True)


async def test_emulator_with_an_option_that_makes_no_sense_says_so(tmp_path: Path) -> None:
    code, _, err = await run_cli("emulator", "--port", "0", "--speed", "0", env=environment(), cwd=tmp_path)
    assert code == 2
    assert "speed: must be a number above 0" in err


async def test_emulator_on_a_port_that_is_taken_says_so(bridge: Emulator, tmp_path: Path) -> None:
    port = bridge.url.rsplit(":", 1)[1]
    code, _, err = await run_cli("emulator", "--port", port, env=environment(), cwd=tmp_path)
    assert code == 2
    assert "cannot listen" in err
    assert "try --port 0" in err


async def test_emulator_on_an_address_of_another_machine_advises_no_other_port(tmp_path: Path) -> None:
    # 203.0.113.0/24 is for documentation (RFC 5737): no machine has it.
    code, _, err = await run_cli("emulator", "--host", "203.0.113.9", "--port", "0", env=environment(), cwd=tmp_path)
    assert (code, "cannot listen on 203.0.113.9:0" in err, "--port" in err) == (2, True, False)


@pytest.mark.parametrize("example", ["one_job.py", "many_jobs.py"])
async def test_example_runs_as_it_is_with_the_emulator(example: str, tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "examples" / example
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(path), "--emulator", cwd=tmp_path, env=environment(), stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.decode().count(".zip") == (1 if example == "one_job.py" else 12)
    assert out.decode().count("failing  JobFailedError") == (0 if example == "one_job.py" else 1)
