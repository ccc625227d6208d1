"""A job at the relay itself, signed and paid by a wallet: its price, its stages, its images, its cost, and a cancel.

Runs on an emulated relay on this machine, with a wallet that is made here: no account, no money, under a minute. On the
real one leave the emulator out: ``network="mainnet"`` (CNX is money there) or "staging", and ``Wallet.from_env()``.
"""

import asyncio
import tempfile
from pathlib import Path

from crynux_async import FineTuneConfig, Job, JobProgressed, RejectedError, Session
from crynux_async.emulator.relay import CNX, RelayEmulator
from crynux_async.secret import Secret
from crynux_async.signing import Wallet

CONFIG = FineTuneConfig(
    model_name="crynux-network/stable-diffusion-v1-5",
    dataset_url="https://example.com/pictures.zip",
    validation_num_images=2,
    max_train_steps=60,
    rank=4,
    timeout=600,
)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with RelayEmulator(speed=4.0, unet="tiny") as relay:
            wallet = Wallet(Secret(relay.new_wallet()))  # yours: Wallet.from_env(), .from_keystore() or .from_file()
            async with Session(backend="relay", wallet=wallet, network=relay.url, trust_env=False) as session:
                await train(session, Path(folder))


async def train(session: Session, folder: Path) -> None:
    most, balance = session.price(CONFIG), await session.balance()
    print(f"A job holds at most {(most or 0) / CNX:g} CNX of the {(balance or 0) / CNX:,.0f} CNX on the account")
    job = await session.submit(CONFIG)
    telling = asyncio.create_task(tell(session, job))
    path = await job.download(folder)  # somebody must live until then: a training that nobody validates is lost
    telling.cancel()
    cost = await job.cost()
    print(f"{path.name}, {len(await job.images())} validation images, {cost.spent / CNX:g} CNX")
    other = await session.submit(CONFIG)
    try:
        print(f"Cancelled while it waits: {await other.cancel()}")
    except RejectedError as error:  # a node was faster
        print(f"Not cancelled: {error}")


async def tell(session: Session, job: Job) -> None:
    async for event in session.events():
        if isinstance(event, JobProgressed) and event.job_id == job.job_id:
            print(f"  {event.stage}")


if __name__ == "__main__":
    asyncio.run(main())
