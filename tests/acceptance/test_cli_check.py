"""What a user sees before paying: ``check``, ``run --dry-run`` and ``dataset``, as typed."""

import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from crynux_async.emulator import Emulator
from tests.command_line import call, environment

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.real_time

HOW_TO = Path(__file__).parent.parent / "data" / "howto.json"


def run_cli(*arguments: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return call(*map(str, arguments), env=environment(**env), cwd=cwd)


def facts(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def pictures(folder: Path, count: int) -> Path:
    """Make a folder of pictures with captions in text files, as other training programs want it."""
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (512, 512), (20 * number, 10, 200)).save(folder / f"cat{number:02}.png")
        (folder / f"cat{number:02}.txt").write_text(f"a photo of a cat, number {number}")
    return folder


# check


def test_check_of_the_how_to_shows_what_becomes_of_it(tmp_path: Path) -> None:
    done = run_cli("check", HOW_TO, "--images", 8, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert any(line.split() == ["lr_warmup_steps", "0", "1", "1"] for line in lines)
    assert any(line.split()[:3] == ["1", "112", "100"] and line.rstrip().endswith("lost") for line in lines)
    assert any(line.split()[:3] == ["2", "88", "88"] and line.rstrip().endswith("kept") for line in lines)
    assert any("2 × 15 CNX = 30 CNX" in line for line in lines)
    assert any("\u2800" <= character <= "\u28ff" for character in done.stdout)
    assert all(len(line.rstrip()) <= 80 for line in lines)


def test_check_shows_errors_before_warnings_before_notes(tmp_path: Path) -> None:
    done = run_cli("check", HOW_TO, "--set", "init_lora_weights=loftq", cwd=tmp_path)
    kinds = [line.split()[0] for line in done.stdout.splitlines() if line.startswith(("error ", "warning ", "note "))]
    assert done.returncode == 2
    assert kinds == sorted(kinds, key=["error", "warning", "note"].index)
    assert done.stdout.rstrip().splitlines()[-1].startswith("This cannot work: 1 error")


def test_check_as_json_has_everything(tmp_path: Path) -> None:
    found = facts(run_cli("check", HOW_TO, "--images", 8, "--fee", 10, "--json", cwd=tmp_path))
    assert found["workable"] is True
    assert [item["steps"] for item in found["rounds"]] == [112, 88]
    assert (found["cost_cnx"], found["longest_duration"]) == (20, 7560)
    assert found["config"]["lr_warmup_steps"] == 1
    assert {"CX108", "CX201"} <= {item["code"] for item in found["advice"]}


def test_check_with_a_folder_counts_its_images_and_reports_its_problems(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "cats", 12)
    done = run_cli("check", HOW_TO, "--dataset", folder, "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert "CX321" in {item["code"] for item in facts(done)["advice"]}


def test_check_of_a_wrong_config_is_a_config_error(tmp_path: Path) -> None:
    done = run_cli("check", HOW_TO, "--set", "rank=0", "--set", "rnak=4", cwd=tmp_path)
    assert done.returncode == 2
    assert "ConfigError" in done.stderr
    assert "did you mean rank?" in done.stderr


@pytest.mark.parametrize("arguments", [("--images", 0), ("--images", 3, "--dataset", "cats")])
def test_check_with_arguments_that_cannot_work_is_a_usage_error(arguments: tuple[object, ...], tmp_path: Path) -> None:
    done = run_cli("check", HOW_TO, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "UsageError" in done.stderr


@pytest.mark.parametrize("asked", ["max_train_epochs=3", "lr_scheduler=linear", "num_train_steps=1", "timeout=9000"])
def test_check_of_any_kind_of_length_prints_a_page(asked: str, tmp_path: Path) -> None:
    changes = ("--set", "num_train_steps=none", "--set", "max_train_steps=none", "--set", asked)
    done = run_cli("check", HOW_TO, *changes, cwd=tmp_path)
    assert (done.returncode, done.stderr) in {(0, ""), (2, "")}
    assert "Mistakes" in done.stdout


# run


async def test_dry_run_prints_the_same_page_and_sends_nothing(tmp_path: Path) -> None:
    async with Emulator() as bridge:
        env = {"CRYNUX_BASE_URL": bridge.url, "CRYNUX_API_KEY": bridge.new_key()}
        done = run_cli("run", HOW_TO, "--dry-run", cwd=tmp_path, **env)
        checked = run_cli("check", HOW_TO, cwd=tmp_path)
        requests = len(bridge.requests)
    assert (done.returncode, requests) == (0, 0)
    assert done.stdout == checked.stdout


def test_run_of_what_cannot_work_is_refused(tmp_path: Path) -> None:
    done = run_cli("run", HOW_TO, "--set", "init_lora_weights=loftq", "--emulator", cwd=tmp_path)
    assert done.returncode == 2
    assert "CX106" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", [("--name", "{foo}.zip"), ("--out", "file"), ("--out", "file/below")])
@pytest.mark.parametrize("how", [("--dry-run",), ("--emulator",), ("--emulator", "--force")])
def test_run_to_where_no_model_can_come_is_refused_before_anything_is_sent(
    where: tuple[str, str], how: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    done = run_cli("run", HOW_TO, *where, *how, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "UsageError" in done.stderr
    assert "task" not in done.stderr.replace("{task_id}", "").lower()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# dataset


def test_dataset_is_packed_and_then_found_to_be_good(tmp_path: Path) -> None:
    pictures(tmp_path / "cats", 12)
    before = run_cli("dataset", "check", "cats", cwd=tmp_path)
    packed = run_cli("dataset", "pack", "cats", "cats.zip", cwd=tmp_path)
    after = run_cli("dataset", "check", "cats.zip", cwd=tmp_path)
    assert (before.returncode, packed.returncode, after.returncode) == (2, 0, 0)
    assert "CX321" in before.stdout
    assert "12 usable of 12" in after.stdout
    assert "train/metadata.jsonl" in zipfile.ZipFile(tmp_path / "cats.zip").namelist()


def test_dataset_check_as_json_has_the_statistics(tmp_path: Path) -> None:
    pictures(tmp_path / "cats", 12)
    packed = facts(run_cli("dataset", "pack", "cats", "cats.zip", "--json", cwd=tmp_path))
    found = facts(run_cli("dataset", "check", "cats.zip", "--json", cwd=tmp_path))
    assert (packed["image_count"], len(packed["sha256"])) == (12, 64)
    assert (found["ok"], found["usable_count"]) == (True, 12)
    assert found["sizes"] == [{"width": 512, "height": 512, "count": 12}]


def test_dataset_that_was_not_looked_at_is_not_said_to_work(tmp_path: Path) -> None:
    pictures(tmp_path / "cats", 12)
    run_cli("dataset", "pack", "cats", "cats.zip", cwd=tmp_path)
    with zipfile.ZipFile(tmp_path / "cats.zip", "a") as archive:
        archive.writestr("README.md", "---\nconfigs:\n- config_name: default\n---\n")
    done = run_cli("dataset", "check", "cats.zip", cwd=tmp_path)
    found = facts(run_cli("dataset", "check", "cats.zip", "--json", cwd=tmp_path))
    with_config = run_cli("check", HOW_TO, "--dataset", "cats.zip", cwd=tmp_path)
    assert "Whether this works is not known" in with_config.stdout
    assert "This works" not in with_config.stdout
    assert "not known how many are usable of 12" in done.stdout
    assert "Whether this works is not known" in done.stdout
    assert "This works" not in done.stdout
    assert (found["is_checked"], found["usable_count"]) == (False, 0)


def test_dataset_that_cannot_be_packed_says_why(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "cats", 12)
    (folder / "cat05.txt").unlink()
    done = run_cli("dataset", "pack", "cats", "cats.zip", cwd=tmp_path)
    as_json = run_cli("dataset", "pack", "cats", "cats.zip", "--json", cwd=tmp_path)
    assert (done.returncode, as_json.returncode) == (2, 2)
    assert "CX327" in done.stdout
    assert "CX327" in {item["code"] for item in facts(as_json)["problems"]}
    assert not (tmp_path / "cats.zip").exists()


def test_dataset_at_an_address_that_does_not_answer_cannot_be_loaded(tmp_path: Path) -> None:
    done = run_cli("dataset", "check-url", "http://127.0.0.1:9/cats.zip", cwd=tmp_path)
    as_json = run_cli("dataset", "check-url", "http://127.0.0.1:9/cats.zip", "--json", cwd=tmp_path)
    assert (done.returncode, as_json.returncode) == (2, 2)
    assert "CX351" in done.stdout
    assert (facts(as_json)["loadable"], facts(as_json)["archive"]) == (False, ".zip")
