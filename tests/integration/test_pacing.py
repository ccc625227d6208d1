"""Pacing through a whole session, on the emulated bridge and virtual time."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from crynux_async import FineTuneConfig, Session
from crynux_async.emulator import Emulator
from crynux_async.settings import Settings

CONFIG = FineTuneConfig(model_name="a/b", dataset_url="https://host.example/data.zip", max_train_steps=20, timeout=1800)


@pytest.fixture
async def bridge() -> AsyncIterator[Emulator]:
    async with Emulator(rate_limit=20, unet="tiny") as emulator:
        yield emulator


@pytest.mark.parametrize(("max_creates", "passing"), [(2, 0), (3, 4), (8, 4)])
async def test_creates_that_hang_let_others_pass_as_far_as_max_creates_allows(
    bridge: Emulator, max_creates: int, passing: int
) -> None:
    bridge.add_fault("delay", on="create", seconds=50.0, count=2)
    settings = Settings(
        base_url=bridge.url,
        api_key=bridge.new_key(),
        rate_limit=20,
        max_creates=max_creates,
        prime_key=False,
        trust_env=False,
    )
    async with Session(settings) as session:
        jobs = [session.submit_nowait(CONFIG.evolve(rank=rank)) for rank in range(1, 7)]
        await asyncio.sleep(30.0)
        assert sum(job.task_id is not None for job in jobs) == passing
        await asyncio.gather(*(job.submitted() for job in jobs))
        assert session.statistics().refusals == 0
