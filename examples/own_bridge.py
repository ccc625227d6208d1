"""Your own bridge: a wallet makes a key, the key makes a job, and the bridge says why a job failed.

Runs on an emulated bridge on this machine, with a wallet that is drawn here: no account, no money, a few seconds. On a
real one, ``crynux-async bridge init`` and ``bridge up`` do the first part; leave the emulator out and give its address.
"""

import asyncio
import secrets
import tempfile
from pathlib import Path

from crynux_async import FineTuneConfig, JobFailedError, Session, Settings
from crynux_async.backends.bridge.admin import BridgeAdmin
from crynux_async.emulator import Emulator, Owner
from crynux_async.secret import Secret
from crynux_async.signing import Wallet

CONFIG = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5",
    dataset_url="https://example.com/pictures.zip",
    max_train_steps=20,
    rank=4,
    timeout=1800,
)


async def main() -> None:
    wallet = Wallet(Secret(secrets.token_hex(32)))  # yours: Wallet.from_env(), .from_keystore() or .from_file()
    token = Secret(secrets.token_urlsafe(24))  # admin.auth_token in the bridge's config.yml
    owner = Owner(address=wallet.address, admin_token=token.reveal())
    with tempfile.TemporaryDirectory() as folder:
        async with Emulator(speed=100.0, unet="tiny", owner=owner) as bridge:
            async with BridgeAdmin(bridge.url, wallet, keys=Path(folder) / "keys.json") as admin:
                key = await admin.create_key(rate_limit=120)  # roles, limits, primed; safe to repeat after a crash
                print(f"{key.prefix}... is ready until {key.expires_at:%Y-%m-%d}")
                print(f"The bridge's account holds {(await admin.account()).cnx:,.0f} CNX")
            settings = Settings(**bridge.settings(api_key=key.api_key.reveal()), admin_token=token)
            await train(settings, Path(folder))


async def train(settings: Settings, folder: Path) -> None:
    async with Session(settings) as session:
        print(f"The first model of the new key: {(await session.run(CONFIG, folder)).name}")
        job = await session.submit(CONFIG.evolve(model_name=f"{CONFIG.model_name}/fail"))
        try:
            await job.wait()
        except JobFailedError as error:
            print(f"Why the second one failed: {error.reason}")


if __name__ == "__main__":
    asyncio.run(main())
