"""What commands load: each starts as soon as what it needs itself is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crynux_async.cli.ledger_commands import migrate
from tests.cli.test_sweep import ran_once

_PROGRAM = """
import atexit, sys

def tell():
    print(*sys.modules, file=sys.stderr)
    for name, module in list(sys.modules.items()):
        for kind in vars(module).values() if name.startswith("crynux_async.") else ():
            if isinstance(kind, type) and kind.__module__ == name:
                code = getattr(vars(kind).get("__eq__"), "__code__", None)
                if code and code.co_filename.startswith("<attrs generated"):
                    print("compiled:" + kind.__qualname__, file=sys.stderr)

atexit.register(tell)
from crynux_async.cli import main
main()
"""


def loaded_by(words: list[str], home: Path) -> set[str]:
    """Return the names of the modules that a command has loaded at its end."""
    place = {**os.environ, "HOME": str(home), "CRYNUX_SETTINGS": os.devnull, "CRYNUX_LEDGER": str(home / "jobs.db")}
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words], env=place, capture_output=True, text=True, check=True
    )
    return set(ended.stderr.split())


def commands_in(loaded: set[str]) -> set[str]:
    """Return which modules with commands are among these."""
    return {name.rpartition(".")[2] for name in loaded if name.endswith("_commands")}


@pytest.mark.parametrize(
    ("words", "home"), [(["--help"], set()), (["run", "--help"], {"run_commands"}), (["--version"], set())]
)
def test_what_only_prints_loads_nothing_that_waits_trains_or_draws_markdown(
    words: list[str], home: set[str], tmp_path: Path
) -> None:
    loaded = loaded_by(words, tmp_path)

    assert "crynux_async.cli.app" in loaded
    assert not loaded & {"asyncio", "aiohttp", "sqlalchemy", "crynux_async.session", "crynux_async.training.config"}
    assert commands_in(loaded) == home
    assert not loaded & {"rich.markdown", "markdown_it", "pygments", "crynux_async.settings", "crynux_async.signing"}
    assert ("docstring_parser" in loaded) is (words[0] == "run")  # whose options are told in its docstring


def test_list_of_jobs_for_people_loads_neither_settings_nor_events_nor_models(tmp_path: Path) -> None:
    assert migrate(ledger=str(tmp_path / "jobs.db")) == 0

    loaded = loaded_by(["jobs"], tmp_path)

    assert "crynux_async.ledgers.sqlite.reader" in loaded
    assert commands_in(loaded) == {"job_commands"}
    assert not loaded & {"asyncio", "cyclopts.validators", "hashlib"}
    assert not loaded & {"rich.console", "rich.text"}  # it is printed into a pipe
    assert [name for name in loaded if name.startswith("compiled:")] == []
    assert not loaded & {
        "anyio",
        "crynux_async.events",
        "crynux_async.files",
        "crynux_async.settings",
        "crynux_async.supervision.record",
        "crynux_async.training.base_models",
    }


def test_list_of_jobs_loads_no_session_and_reads_no_archive(tmp_path: Path) -> None:
    assert migrate(ledger=str(tmp_path / "jobs.db")) == 0

    loaded = loaded_by(["jobs", "--json"], tmp_path)

    assert "crynux_async.ledgers.sqlite.ledger" in loaded
    assert not loaded & {
        "aiohttp",
        "crynux_async.backends.base",
        "crynux_async.session",
        "crynux_async.archive.lora_archive",
        "crynux_async.report.page",
        "sqlalchemy",
    }


async def test_list_of_sweeps_loads_no_session_where_it_has_some_to_list(tmp_path: Path) -> None:
    await ran_once(tmp_path / "jobs.db")

    loaded = loaded_by(["sweep", "list"], tmp_path)

    assert "crynux_async.sweeps.trial_states" in loaded
    assert not loaded & {
        "aiohttp",
        "anyio",
        "crynux_async.archive",
        "crynux_async.backends.base",
        "crynux_async.job",
        "crynux_async.report",
        "crynux_async.session",
        "crynux_async.sweeps.trial",
    }
