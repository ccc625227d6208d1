"""The program that is killed while it runs a sweep: ``python -m benchmarks.scorecard.sweep_child LEDGER FOLDER``.

Settings come from the environment, as a user's would. Standard output has one line of JSON at the end: the states of
all trials by their seed, which is what tells them apart here.
"""

import argparse
import asyncio
import itertools
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from benchmarks.scorecard.worlds import config
from crynux_async.session import Session
from crynux_async.sweeps import Sweep, SweepRun, Trial, choice, grid, random_search
from crynux_async.sweeps.optuna import OptunaSweep
from crynux_async.training.config import FineTuneConfig

POINTS = 60
TRIALS = 24
FAILING = (7, 23, 51)
"""Seeds of the points that fail at the service."""


class MortalConnection(sqlite3.Connection):
    """A connection of a process that dies just before one of the statements of all of its connections.

    Args:
        come: Called before each statement.
    """

    def __init__(self, *args: Any, come: Callable[[], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._come = come

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        """Run a statement, or die."""
        self._come()
        return super().execute(sql, *rest)

    def executemany(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        """Run a statement for many rows, or die."""
        self._come()
        return super().executemany(sql, *rest)


class Statements:
    """Counts the statements of this process, and lets it die just before one of them.

    Args:
        fatal: Which, from 1; 0 for none.
    """

    def __init__(self, fatal: int) -> None:
        self._fatal = fatal
        self._numbers = itertools.count(1)  # several threads run statements
        self.begun = 0
        mortal = partial(MortalConnection, come=self.come)
        sqlite3.connect = partial(sqlite3.connect, factory=mortal)  # type: ignore[assignment]  # it takes the same

    def come(self) -> None:
        """Let one statement begin."""
        self.begun = next(self._numbers)
        if self.begun == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def sweep(folder: Path) -> Sweep:
    """Return a sweep of a grid and a random search, three points of which fail."""
    planned = grid(rank=[1, 2], learning_rate=[1e-4, 5e-5, 2e-5])
    found = [*planned, *random_search(POINTS - len(planned), seed=3, rank=choice(1, 2))]
    points = [
        {**point, "seed": seed, **({"model_name": "x/fail"} if seed in FAILING else {})}
        for seed, point in enumerate(found, start=1)
    ]
    return Sweep("cats", config(), points=points, folder=folder)


async def work(ledger: Path, folder: Path, *, retry: bool, on_start: Callable[[], None] = lambda: None) -> list[Trial]:
    """Run the sweep to its end, and try again what failed where that is asked."""
    async with Session(ledger=ledger, trust_env=False) as session, sweep(folder).run(session) as running:
        on_start()
        trials = await _all(running)
        if retry:
            await running.retry()
            trials = await _all(running)
        return trials


def study(folder: Path) -> optuna.Study:
    """Return the study of a folder, in a file that outlives the process."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = f"sqlite:///{folder.parent / 'study.db'}"
    return optuna.create_study(study_name="cats", storage=storage, load_if_exists=True)


async def work_of_a_study(ledger: Path, folder: Path) -> None:
    """Run a study to its end. Each trial has a seed of its own, which is what tells them apart here."""
    chosen = OptunaSweep(study(folder), _config_of, lambda trial: float(trial.params["learning_rate"]), folder=folder)
    async with Session(ledger=ledger, trust_env=False) as session:
        await chosen.optimize(session, n_trials=TRIALS, n_jobs=8)


def _config_of(trial: optuna.Trial) -> FineTuneConfig:
    return config(trial.number + 1, learning_rate=trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True))


async def _all(running: SweepRun) -> list[Trial]:
    return list(await running.wait())


def main(arguments: list[str] | None = None) -> int:
    """Run the program and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--retry", action="store_true")
    parser.add_argument("--optuna", action="store_true", help="let Optuna choose 24 trials, 8 at once")
    parser.add_argument(
        "--die-at", type=int, help="the ledger's statement before which it dies; 0 to say how many its start has"
    )
    options = parser.parse_args(arguments)
    if options.optuna:
        asyncio.run(work_of_a_study(options.ledger, options.folder))
        return 0
    on_start = partial(_say_how_many, Statements(options.die_at)) if options.die_at is not None else lambda: None
    trials = asyncio.run(work(options.ledger, options.folder, retry=options.retry, on_start=on_start))
    told = {str(trial.params["seed"]): [trial.state, str(trial.job.path or ""), trial.job.task_id] for trial in trials}
    print(json.dumps(told))
    return 0


def _say_how_many(statements: Statements) -> None:
    print(json.dumps({"statements": statements.begun}))


if __name__ == "__main__":
    sys.exit(main())
