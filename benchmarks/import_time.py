"""What starting costs: ``python -m benchmarks.import_time``.

Everything is started in fresh interpreters in turn, and what counts is the processor's time: of an import, what
``import aiohttp`` takes in the same run; of a command, what a program takes that does nothing but import rich's
console, both beyond an interpreter that does nothing.
"""

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.reporting import finish, show_table
from crynux_async.ledgers import open_ledger

_T = TypeVar("_T")

STARTS = 7
# What is loaded from a first submit to a first poll (tests/integration/test_loading.py).
_REQUEST = (
    "import crynux_async.backends.opening, crynux_async.backends.bridge.backend, crynux_async.session, "
    "crynux_async.ledgers."
)
IMPORTS = {
    "aiohttp": "import aiohttp",
    "crynux_async": "import crynux_async",
    "Session": "from crynux_async import Session, FineTuneConfig",
    "first request": _REQUEST + "memory",
    # A ledger on disk keeps the events of every job.
    "first request, SQLite": _REQUEST + "sqlite.ledger, crynux_async.supervision.event_rows",
    # No module imports it: the first task group loads what anyio runs on.
    "first request, as it runs": _REQUEST + "memory, anyio._backends._asyncio",
}
COMMANDS = {
    "python": ["-c", "pass"],
    "rich": ["-c", "import rich.console"],
    # Below these no command can come: what names its options, and draws them or reads the ledger.
    "libraries of --help": ["-c", "import cyclopts, rich.console, rich.panel"],
    "libraries of jobs": ["-c", "import cyclopts, rich.cells, sqlite3"],
    "--help": ["-m", "crynux_async.cli", "--help"],
    "jobs": ["-m", "crynux_async.cli", "jobs"],
    "sweep list": ["-m", "crynux_async.cli", "sweep", "list"],
}
GOALS = {"first request": 1.3, "first request, SQLite": 1.45, "--help": 3.0, "jobs": 3.0}
_PROGRAM = "import time; t = time.process_time(); {}; print(time.process_time() - t)"


def main() -> None:
    """Measure and print."""
    imports = _medians(IMPORTS, _import)
    with tempfile.TemporaryDirectory() as home:
        place = {**os.environ, "HOME": home, "CRYNUX_LEDGER": f"{home}/jobs.db", "CRYNUX_SETTINGS": os.devnull}
        asyncio.run(_make_ledger(place["CRYNUX_LEDGER"]))
        commands = _medians(COMMANDS, lambda words: _run(words, place))
    bare = commands.pop("python")
    ratios = {name: seconds / imports["aiohttp"] for name, seconds in imports.items()}
    ratios |= {name: (seconds - bare) / (commands["rich"] - bare) for name, seconds in commands.items()}
    rows = [(name, 1000 * seconds, ratios[name], GOALS.get(name)) for name, seconds in (imports | commands).items()]
    columns = ("what", "ms", "ratio", "goal")
    show_table(f"Processor time of imports and commands, median of {STARTS} starts", columns, rows)
    finish(
        "import_time",
        {
            "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
            "goals": GOALS,
            "met": {name: ratios[name] <= goal for name, goal in GOALS.items()},
        },
    )


def _medians(what: Mapping[str, _T], start: Callable[[_T], float]) -> dict[str, float]:
    """Return the median seconds of each; the first round fills caches and does not count."""
    times: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(STARTS + 1):
        for name, each in what.items():
            times[name].append(start(each))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


async def _make_ledger(path: str) -> None:
    ledger = open_ledger(path)
    await ledger.open()
    await ledger.close()


def _import(statement: str) -> float:
    command = [sys.executable, "-c", _PROGRAM.format(statement)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _run(words: Sequence[str], environment: Mapping[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, *words], env=environment, cwd=root, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
