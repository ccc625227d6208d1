"""Tests of a program that trains, without a network: a model arrives, and a failed job is an error."""

from pathlib import Path

import pytest

from crynux_async import FineTuneConfig, JobFailedError, Session
from crynux_async.archive import LoraArchive
from crynux_async.testing import running_emulator, virtual_time_run

CONFIG = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5",
    dataset_url="https://example.com/pictures.zip",
    max_train_steps=200,
    rank=4,
    timeout=1800,
)


async def train(folder: Path, config: FineTuneConfig = CONFIG) -> Path:
    async with running_emulator() as bridge, Session(**bridge.settings()) as session:
        return await session.run(config, folder)


def test_model_has_the_rank_that_was_asked_for(tmp_path: Path) -> None:
    path = virtual_time_run(lambda: train(tmp_path))
    assert LoraArchive.open(path).rank == 4


def test_failed_job_is_an_error(tmp_path: Path) -> None:
    config = CONFIG.evolve(model_name=f"{CONFIG.model_name}/fail")
    with pytest.raises(JobFailedError):
        virtual_time_run(lambda: train(tmp_path, config))
