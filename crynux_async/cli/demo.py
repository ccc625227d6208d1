"""``demo``: what the library does, on an emulated bridge, in under a minute."""

import json
from pathlib import Path

from rich.text import Text

from crynux_async.cli.console import LiteralConsole, open_console
from crynux_async.cli.exits import Exit
from crynux_async.cli.sweep_board import SweepBoard
from crynux_async.emulator import Emulator
from crynux_async.errors import UsageError
from crynux_async.report.units import size
from crynux_async.session import Session
from crynux_async.sweeps import Report, Sweep, SweepRun, grid
from crynux_async.sweeps.trial_states import counts_of
from crynux_async.training.config import FineTuneConfig

# A bridge gives a new key 1 a minute: with it six trainings would take five minutes to be sent.
_RATE_LIMIT = 5
_SPEED = 20.0
_STEPS = 60


async def demo(out: Path, *, as_json: bool) -> Exit:
    """Run a small sweep, one trial of which fails, and show what came of it.

    Args:
        out: Folder for the models and the page.
        as_json: Whether to print JSON on standard output.
    """
    console = open_console(stderr=as_json)
    report = _report(out)
    async with Emulator(speed=_SPEED, rate_limit=_RATE_LIMIT) as emulator:
        # Not primed, as a bridge hands it out: the session has to find that out, as it would with a real one.
        key = emulator.new_key(rate_limit=_RATE_LIMIT, primed=False)
        _introduce(console)
        async with Session(**emulator.settings(api_key=key)) as session:
            async with (
                _sweep(out).run(session, report=report) as running,
                SweepBoard(session, console, running).shown(),
            ):
                await running.wait()
            refusals = session.statistics().refusals
    if as_json:
        trials = list(map(dict, running.table.rows))
        page = str(report.path) if report else None
        print(json.dumps({"trials": trials, "refusals": refusals, "report": page}))  # noqa: T201
    else:
        _conclude(console, running, refusals, report)
    return Exit.DONE


def _report(out: Path) -> Report | None:
    """Return the page of the demo, or None where what pages need is not installed."""
    report = Report(out / "report.html")
    try:
        report.prepare()
    except UsageError as error:
        if error.field is not None:  # it is the folder that cannot be used
            raise
        return None
    return report


def _sweep(out: Path) -> Sweep:
    base = FineTuneConfig(
        model_name="crynux-ai/stable-diffusion-v1-5",
        model_variant="fp16",
        dataset_url="https://example.com/my-pictures.zip",
        max_train_steps=_STEPS,
        lr_scheduler="cosine",
        timeout=1800,
    )
    points = [
        *grid(rank=[4, 8], learning_rate=[1e-4, 5e-5]),
        {"rank": 16, "learning_rate": 1e-4},
        # The emulator's word for a model that fails: one page should show what a failure looks like.
        {"rank": 8, "learning_rate": 1e-4, "model_name": f"{base.model_name}/fail"},
    ]
    return Sweep("demo", base, points=points, folder=out, name_template="{label}.zip")


def _introduce(console: LiteralConsole) -> None:
    console.print_page(
        Text.assemble(
            ("A sweep of six trainings", "bold"),
            f" on an emulated bridge: new key, {_RATE_LIMIT} creates a minute,\n"
            f"training {_SPEED:g} times faster than a GPU. One trial has a bad model.\n",
        )
    )


def _conclude(console: LiteralConsole, running: SweepRun, refusals: int, report: Report | None) -> None:
    paths = [trial.job.path for trial in running.trials if trial.job.path is not None]
    total = sum(path.stat().st_size for path in paths)
    states = ", ".join(f"{n} {state}" for state, n in counts_of(trial.state for trial in running.trials).items())
    folder = paths[0].parent if paths else Path()
    console.print(Text.assemble((f"\n{states}.", "bold"), f" {size(total)} in {folder}/, every byte checked."))
    console.print_page(
        f"Creates refused by the rate limit: {refusals}. A plain script on this new key would\n"
        "not have been able to download its first model at all: the bridge files it\n"
        "under two clients. The session saw that the key was new and dealt with it."
    )
    if report is None:
        console.print("\nWith 'crynux-async[report]' there would be a page about it, too.", style="dim")
    else:
        console.print(Text.assemble("\nOpen its page in a browser: ", (str(report.path), "bold")))
    console.print(
        Text.assemble("\nNext: ", ("crynux-async emulator", "bold"), " and the quickstart in README.md"), style="dim"
    )
