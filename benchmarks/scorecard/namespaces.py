"""Case S14: two containers with one hostname, each with process numbers of its own, on one ledger.

Both programs may be process 2 of their namespace, so that the number of the other one says nothing: who takes a live
process for dead calls its create lost, and somebody pays for it again.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.scorecard.accounting import check_nothing_lost, remember_file
from benchmarks.scorecard.case import Context, SkippedError
from benchmarks.scorecard.processes import require_tool, started
from benchmarks.scorecard.worlds import creates
from crynux_async.emulator import Emulator
from crynux_async.states import JobState

SPEED = 1000.0
LIMIT = 60
DELAY = 15.0
"""Seconds until the first process has its answer: the second one starts, sends and ends in that time."""

PATIENCE = 100.0


def two_namespaces(context: Context) -> str:
    """S14: a session in another PID namespace comes and goes while a create is under way."""
    apart = _apart()
    rounds = min(context.seeds, 3)  # nothing is random; each takes as long as a slow answer
    for number in range(rounds):
        folder = context.folder / str(number)
        folder.mkdir()
        asyncio.run(_run(apart, folder / "jobs.db"))
    return f"{rounds} times: the live process kept its job, one POST for each job"


def _apart() -> list[str]:
    """Return the beginning of a command that runs in a PID namespace of its own.

    Raises:
        SkippedError: No such namespace can be made here.
    """
    command = [require_tool("unshare", "util-linux"), "--pid", "--fork", "--kill-child", "--mount-proc"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise SkippedError(f"unshare makes no PID namespace here: {' '.join(tried.stderr.split())}")
    return command


async def _run(apart: list[str], ledger: Path) -> None:
    async with Emulator(speed=SPEED, rate_limit=LIMIT) as bridge:
        env = {"CRYNUX_BASE_URL": bridge.url, "CRYNUX_API_KEY": bridge.new_key(rate_limit=LIMIT)}
        bridge.add_fault("delay", on="create", seconds=DELAY)
        async with asyncio.timeout(PATIENCE), started([*apart, *_program(ledger, 1)], env=env) as first:
            while not creates(bridge):
                await asyncio.sleep(0.05)
            async with started([*apart, *_program(ledger, 2)], env=env) as second:
                said = _lines((await second.communicate())[0])
            known = await remember_file(ledger)
            states = {row.config.seed: row.state for row in known.jobs if row.config is not None}
            assert first.returncode is None, "the answer came before the second process had ended: nothing was shown"
            assert states[1] is JobState.PLANNED, f"a create that is under way made its job {states[1]}"
            said += _lines((await first.communicate())[0])
        known = await remember_file(ledger)
        told = [str(line["told"]) for line in said if "told" in line]
        assert len(told) == 2, f"not both had their answer: {said}"
        assert len(creates(bridge)) == 2, f"{len(creates(bridge))} POSTs for 2 jobs"
        check_nothing_lost(
            bridge.journal, known.jobs, known.attempts, creates(bridge), brackets=known.brackets, told=told
        )


def _program(ledger: Path, seed: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.scorecard.submit_child", str(ledger), str(seed), "1"]


def _lines(out: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]
