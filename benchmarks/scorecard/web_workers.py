"""Case F1: web workers on one ledger are killed and stopped while callers ask them for jobs and read events.

What happens and what must hold is the test of the same name; here it is asked for a hundred jobs in place of a few.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.scorecard.case import Case, Context, SkippedError

KEYS = 100
_ROOT = Path(__file__).parents[2]
_TEST = "tests/integrations/test_fastapi_workers.py"
_WITHIN = 1200.0


def web_workers(context: Context) -> str:
    """F1: two workers are killed and one is stopped, in SQLite and in PostgreSQL, with 500 requests for 100 jobs.

    And servers of 1, 2 and 4 workers are stopped with 200 open streams.
    """
    missing = [name for name in ("fastapi", "uvicorn", "pytest") if find_spec(name) is None]
    if missing:
        raise SkippedError(f"needs {', '.join(missing)}")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-rs",
        _TEST,
        "-k",
        "kills or open_streams",
        f"--basetemp={context.folder}",
    ]
    environment = {**os.environ, "CRYNUX_TEST_WEB_KEYS": str(KEYS)}
    done = subprocess.run(
        command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False, timeout=_WITHIN
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return f"{KEYS} keys, {5 * KEYS} requests, 2 readers each: {done.stdout.strip().splitlines()[-1]}"


CASES = (Case(name="F1", fault="web workers are killed and stopped under requests and streams", run=web_workers),)
