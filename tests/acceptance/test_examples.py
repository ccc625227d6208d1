"""Every example is listed by its task, and runs as the list says."""

import asyncio
import os
import re
import runpy
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from crynux_async.testing import virtual_time_run
from tests.documents import ROOT
from tests.optuna_storage import collected_afterwards

LIST = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")

# The others have tests of their own: test_cli, test_cli_archive, test_own_bridge, test_fastapi_example,
# test_preview_images_real_library; sweep.toml and test_my_program.py are in test_documentation as printed.
SAID = {
    "go_on_after_a_crash.py": r"^(running: task \d\n){2}(.+zip: task \d\n){2}$",
    "many_hosts.py": r"^The other host knows task 1: running\nThe other host has .+\.zip$",
    "tracker.py": r"^Look at trials\.csv$",
    "sweep.py": r"(?m)^(\w+ .*\n){6}",
    "optuna_sweep.py": r"(?m)^\{'rank': [24], 'learning_rate': ",
    "relay_job.py": r"2 validation images, 15 CNX\n(Cancelled while it waits|Not cancelled: a node has it)",
}


def test_every_example_is_listed_with_the_command_that_runs_it() -> None:
    files = {path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".toml")}
    rows = re.findall(r"^\| [^|]+ \| \[(.+)\]\((.+)\) \| `(.+)` \|$", LIST, re.MULTILINE)
    assert {shown for shown, _, _ in rows} == files
    assert [row for row in rows if row[0] != row[1] or f"examples/{row[0]}" not in row[2]] == []


@pytest.mark.parametrize("example", SAID)
def test_example_runs_as_it_is_listed(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"`python examples/{example}`" in LIST
    for name in [name for name in os.environ if name.startswith("CRYNUX_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [example, "--emulator"])  # all of them take it
    with monkeypatch.context() as patch, collected_afterwards() if "optuna" in example else nullcontext():
        patch.setattr(asyncio, "run", lambda main: virtual_time_run(lambda: main))
        runpy.run_path(str(ROOT / "examples" / example), run_name="__main__")
    assert re.search(SAID[example], printed := capsys.readouterr().out), printed


def test_picture_of_a_board_shows_its_last_state_alone() -> None:
    screen = runpy.run_path(str(ROOT / "examples" / "pictures.py"), run_name="pictures")["screen"]
    board = "\x1b[?25l1 done\n2 to go\r\x1b[2K\x1b[1A\x1b[2K3 done\n0 to go\nReport: cats.html\n"
    assert screen("before\n" + board) == "before\n3 done\n0 to go\nReport: cats.html"
