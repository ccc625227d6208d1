"""Case C1: the command line whose operator ends it, whose output nobody takes, or whose home cannot be written."""

import asyncio
import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import attrs

from benchmarks.scorecard.accounting import check_nothing_lost, remember_file
from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.processes import TIMEOUT, Ended, require_tool, run, started
from benchmarks.scorecard.tasks import environment
from benchmarks.scorecard.worlds import World, creates
from crynux_async.emulator import Emulator

SPEED = 300.0
"""A run has its task at the bridge for about as long as it takes to start."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)
FULL, USAGE = 8, 2
OUTPUTS: Mapping[str, int] = {
    ">/dev/full": FULL,
    "--json >/dev/full": FULL,
    ">&-": 0,
    "2>&-": 0,
    ">&- 2>&- <&-": 0,
}
"""What is done to the streams of ``run``, and how it ends: its model is there each time."""

_CONFIG = """
model_name = "crynux-ai/stable-diffusion-v1-5"
dataset_url = "https://example.com/pictures.zip"
max_train_steps = 100
rank = 1
target_modules = ["to_k"]
timeout = 1800
seed = 1
"""
_CLI = (sys.executable, "-m", "crynux_async.cli")


@attrs.frozen(kw_only=True)
class Desk:
    """A folder with a config, from which commands are run.

    Attributes:
        world: The bridge that they use.
        folder: Where ledger and models go.
    """

    world: World
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """Settings for every command; another ledger and home for each folder."""
        return {**environment(self.world, ledger=self.ledger, trust_env=0), "HOME": str(self.folder)}

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.folder / "jobs.db"

    @property
    def models(self) -> list[Path]:
        """The archives that are there."""
        return list((self.folder / "models").glob("*.zip"))

    @property
    def run(self) -> list[str]:
        """The command that sends a job and fetches its model."""
        (self.folder / "job.toml").write_text(_CONFIG)
        return [*_CLI, "run", str(self.folder / "job.toml"), "--out", str(self.folder / "models")]

    async def check(self) -> None:
        """Check that everything that was paid for is in the ledger and that each model is there, and nothing twice."""
        known = await remember_file(self.ledger)
        bridge = self.world.bridge
        check_nothing_lost(bridge.journal, known.jobs, known.attempts, creates(bridge), brackets=known.brackets)
        paid = sum(entry.accepted for entry in bridge.journal)
        assert (paid, len(self.models)) == (1, 1), f"{paid} tasks were paid for, {len(self.models)} models are there"


def command_line(context: Context) -> str:
    """C1: ``run`` is ended at any moment, also as process 1, or its streams or its home are not what they should be."""
    chance = random.Random(1)
    length = asyncio.run(_undisturbed(_folder(context, "undisturbed")))
    apart = _apart()
    ways = [(way, number) for way in ([], *([apart] if apart else [])) for number in SIGNALS]
    ended_early = 0
    for seed in range(context.seeds):
        for index, (way, number) in enumerate(ways):
            folder = _folder(context, f"signal-{seed}-{index}")
            ended_early += asyncio.run(_signalled(folder, way, number, chance.uniform(0, length)))
    for index, (streams, code) in enumerate(OUTPUTS.items()):
        asyncio.run(_without_outputs(_folder(context, f"output-{index}"), streams, code))
    for index, home in enumerate(("", "/proc", "/sys")):
        asyncio.run(_without_home(_folder(context, f"home-{index}"), home))
    whether = "also as process 1" if apart else "not as process 1: unshare makes no PID namespace here"
    return (
        f"{context.seeds * len(ways)} signals ({whether}), {ended_early} before the end: resumed, each paid "
        f"for once; {len(OUTPUTS)} kinds of output, 3 homes: right code, no traceback"
    )


def _folder(context: Context, name: str) -> Path:
    folder = context.folder / name
    folder.mkdir()
    return folder


def _apart() -> list[str]:
    """Return the beginning of a command that is process 1 of a namespace, or nothing where none can be made."""
    command = [require_tool("unshare", "util-linux"), "--pid", "--fork", "--kill-child", "--mount-proc"]
    tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    return [] if tried.returncode else command


@contextlib.asynccontextmanager
async def _desk(folder: Path) -> AsyncIterator[Desk]:
    async with Emulator(speed=SPEED, rate_limit=60_000, unet="tiny") as bridge:
        yield Desk(world=World(bridge=bridge, key=bridge.new_key()), folder=folder)


async def _undisturbed(folder: Path) -> float:
    """Return the seconds that a run takes once it hears signals."""
    async with _desk(folder) as desk, started(desk.run, env=desk.env) as process:
        saying = asyncio.create_task(process.communicate())
        await _hears_signals(process, [])
        began = time.perf_counter()
        await saying
        assert process.returncode == 0, saying.result()
        await desk.check()
        return time.perf_counter() - began


async def _signalled(folder: Path, way: Sequence[str], number: signal.Signals, delay: float) -> bool:
    """End a run after ``delay`` seconds, and go on with it; return whether it had not ended yet."""
    async with _desk(folder) as desk:
        async with started([*way, *desk.run], env=desk.env) as process:
            saying = asyncio.create_task(process.communicate())
            pid = await _hears_signals(process, way)
            await asyncio.wait({saying}, timeout=delay)
            if not saying.done():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            async with asyncio.timeout(TIMEOUT):
                out, err = await saying
        assert process.returncode is not None
        # A shell shows both alike. What the system itself has ended had done its work.
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        ended = Ended(code=code, out=out.decode(), err=err.decode())
        _check_end(ended, {0, 128 + number})
        is_early = ended.code != 0
        if is_early and creates(desk.world.bridge) and not desk.models:
            assert process.returncode > 0, f"the system has ended it in the middle: {ended}"
            assert "crynux-async " in ended.out + ended.err, f"it does not say how to go on: {ended}"
        if is_early and not desk.ledger.exists():
            assert not creates(desk.world.bridge), "it sent a job that no ledger knows"
            return is_early
        if is_early:
            command = [*_CLI, "resume", "--send", "--out", str(folder / "models"), "--json"]
            _check_end(await run(command, env=desk.env), {0})
        if creates(desk.world.bridge):
            await desk.check()
        return is_early


async def _hears_signals(process: asyncio.subprocess.Process, way: Sequence[str]) -> int:
    """Wait until the command handles SIGTERM, and return its process's number.

    Before that it is Python that starts, and not this library: what it prints then is Python's to say.
    """
    async with asyncio.timeout(TIMEOUT):
        while process.returncode is None:
            with contextlib.suppress(OSError, LookupError):
                pid = _inner(process.pid) if way else process.pid
                if _handles_sigterm(pid):
                    return pid
            await asyncio.sleep(0.005)
    raise AssertionError("the command ended before it heard signals")


def _inner(pid: int) -> int:
    """Return the number of a process's only child."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()[0])


def _handles_sigterm(pid: int) -> bool:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
    return bool(int(status["SigCgt"], 16) & 1 << signal.SIGTERM - 1)


async def _without_outputs(folder: Path, streams: str, code: int) -> None:
    async with _desk(folder) as desk:
        ended = await run(["/bin/sh", "-c", f"exec {shlex.join(desk.run)} {streams}"], env=desk.env)
        _check_end(ended, {code})
        await desk.check()


async def _without_home(folder: Path, home: str) -> None:
    """Run where no ledger can be made: nothing is sent, and a sentence says what to set."""
    async with _desk(folder) as desk:
        env = {name: value for name, value in desk.env.items() if name != "CRYNUX_LEDGER"}
        ended = await run([*desk.run, "--json"], env={**env, "HOME": home})
        _check_end(ended, {USAGE})
        assert "CRYNUX_LEDGER" in json.loads(ended.out)["message"], ended.out
        assert not creates(desk.world.bridge), "it sent a job that it cannot remember"


def _check_end(ended: Ended, codes: set[int]) -> None:
    assert ended.code in codes, f"exit code {ended.code} in place of {sorted(codes)}: {ended.out} {ended.err}"
    assert "Traceback" not in ended.out + ended.err, ended.err


CASES = (Case(name="C1", fault="commands ended, their streams closed or full, no home", run=command_line),)
