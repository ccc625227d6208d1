"""CONTRIBUTING.md says what is so: its diagram, its paths and its commands."""

import re
from pathlib import Path

from tests.state_diagram import diagram

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_state_diagram_is_that_of_the_table() -> None:
    [drawn] = re.findall(r"```mermaid\n(.*?)\n```", TEXT, re.DOTALL)
    assert drawn == diagram(), "print the new one with: python -m tests.state_diagram"


def test_every_path_that_is_named_exists() -> None:
    named = re.findall(r"`((?:crynux_async|tests|benchmarks|examples|\.ci)/[\w/.-]*)`", TEXT)
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_folder_of_the_package_stands_in_the_life_of_a_job() -> None:
    folders = {path.name for path in (ROOT / "crynux_async").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {folder for folder in folders if f"`{folder}/`" not in TEXT} == set()
