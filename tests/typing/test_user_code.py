"""Type checkers accept what users rightly write, and refuse what cannot work."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAINTING = "diffusers"  # an environment of its own has it (test-diffusers): without its types nothing can be checked


def checkable(examples: Path) -> list[Path]:
    found = sorted(examples.glob("*.py"))
    if importlib.util.find_spec(PAINTING):
        return found
    return [example for example in found if f"import {PAINTING}" not in example.read_text(encoding="utf-8")]


EXAMPLES = checkable(HERE.parents[1] / "examples")
USER_CODE = HERE / "user_code.py"

Found = dict[tuple[str, int], str]
"""What a checker says, by file name and line."""


def lines_that_must_fail() -> set[tuple[str, int]]:
    lines = USER_CODE.read_text(encoding="utf-8").splitlines()
    return {(USER_CODE.name, number) for number, line in enumerate(lines, start=1) if line.endswith("# fails")}


def output_of(*command: str) -> str:
    """Run a checker, which exits with 1 when it finds something, and return what it prints."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def found_by_mypy() -> Found:
    options = (f"--config-file={HERE / 'mypy.ini'}", f"--cache-dir={os.devnull}", "--output=json")
    lines = output_of("mypy", *options, *map(str, (USER_CODE, *EXAMPLES))).splitlines()
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    return {
        (Path(message["file"]).name, message["line"]): message["message"]
        for message in messages
        if message["severity"] == "error"
    }


def found_by_pyright() -> Found:
    # basedpyright is pyright as a wheel that needs no download when it starts; pyrightconfig.json asks for its rules.
    options = ("--project", str(HERE), f"--pythonpath={sys.executable}", "--outputjson")
    answer = json.loads(output_of("basedpyright", *options, *map(str, (USER_CODE, *EXAMPLES))))
    assert answer["summary"]["filesAnalyzed"] == 1 + len(EXAMPLES)
    return {
        (Path(message["file"]).name, message["range"]["start"]["line"] + 1): message["message"]
        for message in answer["generalDiagnostics"]
    }


@pytest.mark.parametrize("found_by", [found_by_mypy, found_by_pyright], ids=["mypy", "pyright"])
def test_user_code_and_examples_fail_where_they_are_wrong_and_nowhere_else(
    found_by: Callable[[], Found],
) -> None:
    found, expected = found_by(), lines_that_must_fail()
    assert expected
    assert EXAMPLES
    assert {place: found[place] for place in found.keys() - expected} == {}
    assert sorted(expected - found.keys()) == []
