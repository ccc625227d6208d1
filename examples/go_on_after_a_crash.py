"""A session is left while its jobs run; the next one on the same ledger goes on, and every model arrives.

Run it as is: it uses an emulated service on this machine. For the real one, open ``Session(ledger="jobs.db")``.
"""

import asyncio
import tempfile
from pathlib import Path

from crynux_async import FineTuneConfig, Session
from crynux_async.emulator import Emulator

BASE = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5",
    dataset_url="https://example.com/my-pictures.zip",
    max_train_steps=60,
    timeout=1800,
)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder, "jobs.db")
        async with Emulator(speed=100) as emulator:
            settings = emulator.settings()
            async with Session(ledger=ledger, **settings) as session:
                for job in await session.submit_many([BASE.evolve(rank=rank) for rank in (4, 8)]):
                    await job.submitted()
                    print(f"{job.state}: task {job.task_id}")
            async with Session(ledger=ledger, **settings) as session:  # after a crash: the same
                for job in session.jobs():
                    print(f"{(await job.download(folder)).name}: task {job.task_id}")


if __name__ == "__main__":
    asyncio.run(main())
