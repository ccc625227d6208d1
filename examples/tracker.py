"""Each trial of a sweep is written into a tracker when it ends: here a CSV file, yours in the same place.

Run it as is: it uses an emulated service on this machine. docs/sweeps.md has the function for Weights & Biases and
for MLflow.
"""

import asyncio
import csv
from pathlib import Path

from crynux_async import FineTuneConfig, Session
from crynux_async.emulator import Emulator
from crynux_async.sweeps import Sweep, Trial, grid

SWEEP = Sweep(
    "tracked",
    FineTuneConfig(
        model_name="crynux-ai/stable-diffusion-v1-5",
        dataset_url="https://example.com/my-pictures.zip",
        max_train_steps=60,
        timeout=1800,
    ),
    points=grid(rank=[2, 4]),
    folder="crynux-tracked",
)
FILE = Path("trials.csv")


def to_csv(trial: Trial) -> None:
    with FILE.open("a", newline="") as file:
        csv.writer(file).writerow([trial.label, trial.state, trial.norms.total if trial.norms else ""])


async def main() -> None:
    async with (
        Emulator(speed=1000) as emulator,
        Session(**emulator.settings()) as session,
        SWEEP.run(session, on_trial=to_csv) as running,
    ):
        await running.wait()
    print(f"Look at {FILE}")


if __name__ == "__main__":
    asyncio.run(main())
