"""Texts from outside that look like markup, escape sequences or several lines, through the commands of a user."""

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
from pathlib import Path

import pytest

from crynux_async.cli.plain import one_line
from crynux_async.emulator import Emulator
from crynux_async.ledgers.conformance.support import job
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.states import JobState
from crynux_async.supervision.record import new_job_id
from tests.acceptance.test_cli import CONFIG, bridge
from tests.command_line import environment, run_cli
from tests.fake_backend import make_config

__all__ = ["bridge"]

pytestmark = pytest.mark.real_time

HOSTILE = ["[red]x[", "[bold]", ":bomb:", "x" * 200, "two\nlines", "\x1b[31mred\x1b[0m"]


@pytest.mark.parametrize("name", ["x" * 200, "[red]:bomb:[x two\nlines \x1b[31mred\x1b[0m"])
async def test_hostile_name_of_a_config_and_its_folder_is_printed_as_it_is(
    name: str, bridge: Emulator, tmp_path: Path
) -> None:
    env = environment(bridge)
    (tmp_path / f"{name}.toml").write_text(CONFIG)
    code, out, err = await run_cli("check", f"{name}.toml", env=env, cwd=tmp_path)
    assert (code, one_line(name) in out, "\x1b" in out) == (0, True, False), err
    code, out, err = await run_cli("run", f"{name}.toml", "--set", "rank=2", "--out", name, env=env, cwd=tmp_path)
    assert code == 0, err
    assert out.splitlines()[-1] == one_line(str(tmp_path / name / "1.zip"))
    assert f" {one_line(name)} (task 1): running" in out
    code, out, err = await run_cli("jobs", env=env, cwd=tmp_path)
    assert code == 0, err
    (line,) = out.splitlines()[1:]
    assert f"  {one_line(name)}  " in line
    assert line.endswith(one_line(f"{name}/1.zip"))
    code, out, err = await run_cli("inspect", f"{name}/1.zip", env=env, cwd=tmp_path)
    assert (code, one_line(f"{name}/1.zip") in out) == (0, True), err
    code, out, err = await run_cli("export", f"{name}/1.zip", f"{name}/out.safetensors", env=env, cwd=tmp_path)
    assert (code, one_line(f"Wrote {name}/out.safetensors") in out) == (0, True), err


@pytest.mark.parametrize("command", [["check"], ["inspect"], ["jobs", "--state"], ["retry"], ["explain"], ["jobs"]])
async def test_hostile_argument_is_named_in_the_error_as_it_is(
    command: list[str], bridge: Emulator, tmp_path: Path
) -> None:
    name = "[/]\x1b[31mred\x1b[0m"
    await (ledger := SqliteLedger(tmp_path / "jobs.db")).open()
    await ledger.close()
    code, out, err = await run_cli(*command, name, env=environment(bridge), cwd=tmp_path)
    assert (code in (2, 5), "Traceback" in err, "\x1b" in err + out) == (True, False, False), err
    # Errors may have several lines, so that only controls are spelt out; and some quote what they name.
    shown = name.replace("\x1b", "\\x1b").replace("\n", "\\n")
    assert shown in err.replace("\n", "\\n").replace("\\\\", "\\"), err


async def test_hostile_answer_of_a_server_is_printed_as_it_is(bridge: Emulator, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(CONFIG)
    said = "[/] [red]no[/] \x1b[2J " + "y" * 200
    bridge.add_fault("status", on="create", status=400, field="task_args", message=said)
    code, out, err = await run_cli("run", "job.toml", env=environment(bridge), cwd=tmp_path)
    assert code == 3
    assert said.replace("\x1b", "\\x1b") in err.replace("\\\\", "\\")
    assert "\x1b" not in err + out


def in_terminal(*arguments: str, env: dict[str, str], cwd: Path, columns: int = 80) -> str:
    """Run the command in a terminal of this width, and return what stands in it."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(cwd)
        os.execve(sys.executable, [sys.executable, "-m", "crynux_async.cli", *arguments], env)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    said = bytearray()
    while True:
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # the other side has ended
            break
        if not piece:
            break
        said += piece
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, said.decode()
    return said.decode().replace("\r\n", "\n")


async def test_list_in_a_terminal_of_80_columns_keeps_names_states_and_ages_whole(tmp_path: Path) -> None:
    rows = [
        job(
            new_job_id(),
            backend=f"https://bridge{number % 2}.example",
            task_id=str(70000 + number),
            config=make_config(),
            state=JobState.DOWNLOADED,
            label=HOSTILE[number % len(HOSTILE)],
            path=f"/home/user/{'long/' * 40}{number}.zip",
            total_bytes=9_100_000,
        )
        for number in range(30)
    ]
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.open()
    await ledger.add(rows)
    await ledger.close()
    env = environment(TERM="xterm", NO_COLOR="1")
    del env["COLUMNS"]
    shown = await asyncio.to_thread(in_terminal, "jobs", env=env, cwd=tmp_path)
    lines = [line.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "") for line in shown.splitlines()]
    assert lines[0].split() == ["job", "task", "state", "age", "service", "label", "size", "archive"]
    assert len(lines) == 31
    assert max(map(len, lines)) <= 80
    for row, line in zip(rows, lines[1:], strict=True):
        name, task, state, *_ = line.split()
        assert (row.job_id.startswith(name), len(name) >= 9, task, state) == (True, True, row.task_id, "downloaded")
        assert line.endswith(f"/{Path(row.path or '').name}")
        assert "  9.1 MB  " in line
    code, out, err = await run_cli("jobs", env=environment(), cwd=tmp_path)
    assert code == 0, err
    assert all(str(row.path) in out and row.job_id in out for row in rows)
