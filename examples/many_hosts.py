"""Two hosts and one ledger: one submits, the other knows the job, hears of its end and fetches the model.

Run it as is: it uses an emulated service and a file on this machine. With the address of a PostgreSQL database the
hosts may be two machines: python examples/many_hosts.py postgresql://app@db.example/crynux
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from crynux_async import FineTuneConfig, Session
from crynux_async.emulator import Emulator

CONFIG = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5",
    dataset_url="https://example.com/my-pictures.zip",
    max_train_steps=60,
    timeout=1800,
)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        given = [
            word for word in sys.argv[1:] if word != "--emulator"
        ]  # without it, too, the service is an emulated one
        ledger = given[0] if given else Path(folder, "jobs.db")
        async with Emulator(speed=100) as emulator:
            settings = emulator.settings()
            async with Session(ledger=ledger, **settings) as one, Session(ledger=ledger, **settings) as other:
                submitted = await one.submit(CONFIG)
                job = await other.find(submitted.job_id)
                assert job is not None
                print(f"The other host knows task {job.task_id}: {job.state}")
                print(f"The other host has {(await job.download(folder)).name}")


if __name__ == "__main__":
    asyncio.run(main())
