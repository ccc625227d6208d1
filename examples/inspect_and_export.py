"""A job, its result, and a file for diffusers. ``--emulator`` runs it on a bridge on this machine."""

import asyncio
import sys

from crynux_async import FineTuneConfig, Session
from crynux_async.archive import LoraArchive
from crynux_async.testing import emulated_session

CONFIG = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5",
    model_variant="fp16",
    dataset_url="https://gateway.irys.xyz/GivF5FBMdJVr6xHT7hi2aE7vH55wVjrtKLpRc2E86icJ",
    max_train_steps=100,
    rank=4,
    target_modules=["to_k", "to_v", "proj_in"],
    seed=42,
    timeout=1800,
)


async def main() -> None:
    async with emulated_session(speed=60) if "--emulator" in sys.argv else Session() as session:
        path = await session.run(CONFIG, "models")

    archive = LoraArchive.open(path)
    print(f"rank {archive.rank} on {', '.join(archive.target_modules)}, {archive.global_step} steps")
    print(archive.health(CONFIG))
    for block, norm in archive.norms().blocks.items():
        print(f"  {block:<16} {norm:8.3f}")

    file = archive.export(
        path.with_suffix(".safetensors"),
        base_model=CONFIG.model_name,
        config=CONFIG.to_dict(),
        digest=CONFIG.digest(),
        overwrite=True,
    )
    print(f"pipe.load_lora_weights({str(file.parent)!r}, weight_name={file.name!r})")


asyncio.run(main())
