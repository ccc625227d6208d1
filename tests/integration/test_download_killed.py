"""Downloads whose process is killed, shares its file with another process, or runs out of disk space."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def run(scenario: str, folder: Path, *, before: tuple[str, ...] = ()) -> dict[str, Any]:
    done = subprocess.run(
        [*before, sys.executable, str(ROOT / "tests/integration/killed_download.py"), scenario, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


@pytest.mark.parametrize(("scenario", "steps"), [("plain", 20), ("changed", 35), ("corrupt", 25)])
def test_download_killed_before_any_step_is_finished_by_the_next_process(
    scenario: str, steps: int, tmp_path: Path
) -> None:
    outcome = run(scenario, tmp_path)
    assert outcome["violations"] == []
    assert outcome["kills"] >= steps


def test_two_processes_without_a_working_lock_both_end_with_the_right_file(tmp_path: Path) -> None:
    assert run("together", tmp_path)["violations"] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> tuple[str, ...]:
    """A command before which a disk of 2 MiB is mounted, for the command alone."""
    mounted = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"', str(tmp_path))
    if not shutil.which("unshare") or subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    return mounted


def test_download_to_a_disk_that_fills_up_goes_on_when_there_is_space(
    tmp_path: Path, small_disk: tuple[str, ...]
) -> None:
    assert run("full", tmp_path, before=small_disk)["violations"] == []


def test_room_of_a_download_is_not_taken_by_another_program(tmp_path: Path, small_disk: tuple[str, ...]) -> None:
    outcome = run("kept", tmp_path, before=small_disk)
    assert outcome == {"refused": ["No space left on device"], "is_whole": True}
