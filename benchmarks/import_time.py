"""What importing costs: ``python -m benchmarks.import_time``.

Every statement is run in fresh interpreters in turn, and the time is taken inside, around the import alone.
"""

import statistics
import subprocess
import sys

from benchmarks.reporting import finish, show_table

STARTS = 10
STATEMENTS = {
    "aiohttp": "import aiohttp",
    "crynux_async": "import crynux_async",
    "Session": "from crynux_async import Session, FineTuneConfig",
    "first request": "import crynux_async.backends.bridge.http, crynux_async.session",
}
_PROGRAM = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def main() -> None:
    """Measure and print."""
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(STARTS + 1):
        for name, statement in STATEMENTS.items():
            times[name].append(_start(statement))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    rows = [(STATEMENTS[name], 1000 * median, median / medians["aiohttp"]) for name, median in medians.items()]
    show_table(f"Import time, median of {STARTS} interpreter starts", ("statement", "ms", "ratio to aiohttp"), rows)
    finish(
        "import_time",
        {
            "ms": {k: round(1000 * v, 2) for k, v in medians.items()},
            "ratio_to_aiohttp": {k: round(v / medians["aiohttp"], 3) for k, v in medians.items()},
        },
    )


def _start(statement: str) -> float:
    command = [sys.executable, "-c", _PROGRAM.format(statement)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
