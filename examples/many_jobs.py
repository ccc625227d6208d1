"""Twelve jobs at once, and with ``--emulator``, on a bridge on this machine, one that fails and disturbs no other."""

import asyncio
import itertools
import sys

from crynux_async import CrynuxError, FineTuneConfig, Job, Session
from crynux_async.testing import emulated_session

BASE = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5",
    model_variant="fp16",
    dataset_url="https://gateway.irys.xyz/GivF5FBMdJVr6xHT7hi2aE7vH55wVjrtKLpRc2E86icJ",
    max_train_steps=100,
    seed=42,
    timeout=1800,
)


async def finish(job: Job) -> None:
    try:
        path = await job.download("models", name="{label}.zip")
        print(f"{job.label:>16}  {path}")
    except CrynuxError as error:
        print(f"{job.label:>16}  {type(error).__name__}: {error}")


async def main() -> None:
    async with emulated_session(speed=60) if "--emulator" in sys.argv else Session() as session:
        trials = itertools.product((4, 8, 16), (1e-4, 5e-5, 2e-5, 1e-5))
        jobs = [
            session.submit_nowait(BASE.evolve(rank=rank, learning_rate=rate), label=f"rank{rank}-lr{rate:g}")
            for rank, rate in trials
        ]
        if "--emulator" in sys.argv:  # where a model's name may say that its job fails
            jobs.append(session.submit_nowait(BASE.evolve(model_name=f"{BASE.model_name}/fail"), label="failing"))
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(finish(job))


asyncio.run(main())
