"""``demo``: what the library does, on an emulated bridge, in under a minute."""

import asyncio
import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from crynux_async.cli.board import Board, as_facts, summary
from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit
from crynux_async.cli.units import size
from crynux_async.emulator import Emulator
from crynux_async.job import Job
from crynux_async.session import Session
from crynux_async.states import GOOD
from crynux_async.training.config import FineTuneConfig

_RATE_LIMIT = 5
_SPEED = 20.0
_STEPS = 60
_TRIALS = ((4, 1e-4), (4, 5e-5), (8, 1e-4), (8, 5e-5), (16, 1e-4))


async def demo(out: Path, *, as_json: bool) -> Exit:
    """Run a small sweep, one job of which fails, and show what came of it."""
    console = open_console(stderr=as_json)
    async with Emulator(speed=_SPEED, rate_limit=_RATE_LIMIT) as emulator:
        key = emulator.new_key(rate_limit=_RATE_LIMIT, primed=False)
        _introduce(console)
        async with Session(**emulator.settings(api_key=key)) as session:
            async with Board(session, console).shown():
                jobs = [session.submit_nowait(config, label=label) for label, config in _sweep()]
                await asyncio.gather(*(_finish(job, out) for job in jobs), return_exceptions=True)
            refusals = session.statistics().refusals
    if as_json:
        print(json.dumps({"jobs": [as_facts(job) for job in jobs], "refusals": refusals}))  # noqa: T201
    else:
        _conclude(console, jobs, refusals)
    return Exit.DONE


def _sweep() -> list[tuple[str, FineTuneConfig]]:
    base = FineTuneConfig(
        model_name="crynux-ai/stable-diffusion-v1-5",
        model_variant="fp16",
        dataset_url="https://example.com/my-pictures.zip",
        max_train_steps=_STEPS,
        lr_scheduler="cosine",
        seed=42,
        timeout=1800,
    )
    trials = [(f"rank{rank}-lr{rate:g}", base.evolve(rank=rank, learning_rate=rate)) for rank, rate in _TRIALS]
    return [*trials, ("bad-data-set", base.evolve(model_name=f"{base.model_name}/fail"))]


async def _finish(job: Job, out: Path) -> None:
    await job.submitted()
    await job.download(out, name="{label}.zip")


def _introduce(console: Console) -> None:
    about = (
        f" on an emulated bridge: new key, {_RATE_LIMIT} creates a minute,\n"
        f"training {_SPEED:g} times faster than a GPU. One job has a bad data set.\n"
    )
    console.print(Text.assemble(("Six fine-tuning jobs", "bold"), about))


def _conclude(console: Console, jobs: list[Job], refusals: int) -> None:
    good = [job for job in jobs if job.state in GOOD and job.path]
    total = sum(job.path.stat().st_size for job in good if job.path)
    folder = good[0].path.parent if good and good[0].path else Path()
    states = ", ".join(f"{count} {state}" for state, count in summary(jobs).items())
    console.print(Text.assemble((f"\n{states}.", "bold"), f" {size(total)} in {folder}/, every byte checked."))
    console.print(
        f"Creates refused by the rate limit: {refusals}. A plain script on this new key would\n"
        "not have been able to download its first model at all: the bridge files it\n"
        "under two clients. The session saw that the key was new and dealt with it."
    )
    console.print(
        Text.assemble("\nNext: ", ("crynux-async emulator", "bold"), " and the quickstart in README.md", style="dim")
    )
