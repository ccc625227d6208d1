"""Tests of a program that trains: a model arrives, and what fails is tried again."""

from pathlib import Path

import pytest

from crynux_async import FineTuneConfig, JobFailedError, JobState, Session
from crynux_async.archive import LoraArchive
from crynux_async.emulator import Emulator

CONFIG = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5",
    dataset_url="https://example.com/pictures.zip",
    max_train_steps=200,
    rank=4,
    timeout=1800,
)
pytestmark = [pytest.mark.asyncio, pytest.mark.crynux_virtual_time]


async def train(folder: Path) -> Path:
    """The program under test: it opens a session of its own."""
    async with Session() as session:
        return await session.run(CONFIG, folder)


async def test_program_stores_a_model_of_the_rank_that_was_asked_for(crynux_bridge: Emulator, tmp_path: Path) -> None:
    path = await train(tmp_path)
    assert LoraArchive.open(path).rank == 4
    assert len(crynux_bridge.jobs) == 1


async def test_failed_job_is_retried(crynux_bridge: Emulator, crynux_session: Session, tmp_path: Path) -> None:
    crynux_bridge.add_fault("word", on="status", text="failed")
    job = await crynux_session.submit(CONFIG)
    with pytest.raises(JobFailedError):
        await job.wait()
    await job.retry()
    path = await job.download(tmp_path)
    assert job.state is JobState.DOWNLOADED
    assert LoraArchive.open(path).rank == 4
    assert len(crynux_bridge.jobs) == 2
