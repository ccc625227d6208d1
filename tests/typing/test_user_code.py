"""Type checkers accept what users rightly write, and refuse what cannot work."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
USER_CODE = HERE / "user_code.py"


def lines_that_must_fail() -> set[int]:
    lines = USER_CODE.read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, start=1) if line.endswith("# fails")}


def output_of(*command: str) -> str:
    """Run a checker, which exits with 1 when it finds something, and return what it prints."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def found_by_mypy(cache: Path) -> dict[int, str]:
    options = ("--strict", "--config-file=", f"--cache-dir={cache}", "--output=json")
    messages = [json.loads(line) for line in output_of("mypy", *options, USER_CODE.name).splitlines()]
    assert {message["file"] for message in messages} == {USER_CODE.name}
    return {message["line"]: message["message"] for message in messages if message["severity"] == "error"}


def found_by_pyright(_: Path) -> dict[int, str]:
    # basedpyright is pyright as a wheel that needs no download when it starts; pyrightconfig.json asks for its rules.
    options = (f"--pythonpath={sys.executable}", "--outputjson")
    messages = json.loads(output_of("basedpyright", *options, USER_CODE.name))["generalDiagnostics"]
    return {message["range"]["start"]["line"] + 1: message["message"] for message in messages}


@pytest.mark.parametrize("found_by", [found_by_mypy, found_by_pyright], ids=["mypy", "pyright"])
def test_user_code_fails_where_it_is_wrong_and_nowhere_else(
    found_by: Callable[[Path], dict[int, str]], tmp_path: Path
) -> None:
    found = found_by(tmp_path)
    expected = lines_that_must_fail()
    assert expected
    assert {line: found[line] for line in found.keys() - expected} == {}
    assert sorted(expected - found.keys()) == []
