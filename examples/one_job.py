"""The public how-to's job in a dozen lines. ``--emulator`` runs it on a bridge on this machine."""

import asyncio
import sys

from crynux_async import FineTuneConfig, Session
from crynux_async.testing import emulated_session

CONFIG = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5",
    model_variant="fp16",
    dataset_url="https://gateway.irys.xyz/GivF5FBMdJVr6xHT7hi2aE7vH55wVjrtKLpRc2E86icJ",
    max_train_steps=200,
    lr_scheduler="cosine",
    rank=4,
    center_crop=True,
    random_flip=True,
    seed=42,
    timeout=1800,
)


async def main() -> None:
    async with emulated_session(speed=60) if "--emulator" in sys.argv else Session() as session:
        job = await session.submit(CONFIG)
        print(f"task {job.task_id} is {job.state}")
        print(await job.download("models"))


asyncio.run(main())
