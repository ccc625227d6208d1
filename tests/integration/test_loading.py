"""What a session loads from its first submit to its first poll: a program's first request waits for it."""

import asyncio
import sys

import pytest

from crynux_async.emulator import Emulator
from tests.command_line import environment

pytestmark = pytest.mark.real_time

_PROGRAM = """
import asyncio, sys
from crynux_async import FineTuneConfig, Session

async def main():
    config = FineTuneConfig(
        model_name="crynux-ai/stable-diffusion-v1-5", dataset_url="https://example.com/p.zip", max_train_steps=50
    )
    async with Session() as session:
        await (await session.submit(config)).wait()

asyncio.run(main())
print(*sys.modules)
"""


async def test_first_job_loads_nothing_that_it_does_not_need() -> None:
    async with Emulator(speed=1000) as bridge:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _PROGRAM, env=environment(bridge), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await child.communicate()
    loaded = set(said.decode().split())
    assert "crynux_async.supervision.follower" in loaded
    assert not loaded & {
        "cattrs",
        "crynux_async.backends.relay.arguments",
        "crynux_async.datasets.problems",
        "crynux_async.signing",
        "crynux_async.supervision.audit",
        "crynux_async.supervision.observer",
        "difflib",
        "sqlalchemy",
        "tomllib",
    }
