"""A sweep that can be started again and again: what is done is done, and only what is missing is sent.

Run it as is: it uses an emulated service on this machine. For the real one, open ``Session(ledger="jobs.db")``.
"""

import asyncio

from crynux_async import FineTuneConfig
from crynux_async.sweeps import Sweep, Trial, grid, log_uniform, random_search
from crynux_async.testing import emulated_session


def strength(trial: Trial) -> float:
    """What trials are ranked by: how much the model changes."""
    assert trial.norms is not None
    return trial.norms.total


SWEEP = Sweep(
    "cats",
    FineTuneConfig(
        model_name="crynux-ai/stable-diffusion-v1-5",
        dataset_url="https://example.com/my-pictures.zip",
        max_train_steps=60,
        timeout=1800,
    ),
    points=[
        *grid(rank=[2, 4], learning_rate=[1e-4, 5e-5]),
        *random_search(2, seed=1, learning_rate=log_uniform(1e-5, 1e-3)),
    ],
    derive=lambda point: {"lr_warmup_steps": 6} if point["learning_rate"] > 1e-4 else {},
    folder="crynux-sweep",
    objective=strength,
)


async def main() -> None:
    async with emulated_session(speed=1000) as session:
        async with SWEEP.run(session) as running:
            async for trial in running:
                print(f"{trial.state:8} {trial.label:40} {trial.objective or 0:.4g}")
        print(running.table.to_csv())


if __name__ == "__main__":
    asyncio.run(main())
