"""Emulated services for tests, with a session as a user's test has it."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from crynux_async import FineTuneConfig, Session, Settings
from crynux_async.archive import LoraArchive
from crynux_async.clock import monotonic
from crynux_async.emulator import Emulator
from crynux_async.testing import running_emulator
from tests.documents import block_with

CONFIG = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5",
    dataset_url="https://a.example/cats.zip",
    max_train_steps=200,
    seed=5,
)
TRAINING = 220  # seconds at speed 1


def printed_test() -> tuple[FineTuneConfig, Callable[[Path], Awaitable[Path]]]:
    """Return the config and the program of the test that docs/testing.md prints."""
    names: dict[str, Any] = {"__name__": "printed"}
    exec(block_with("virtual_time_run(").text, names)
    return names["CONFIG"], names["train"]


async def test_printed_test_is_done_in_less_than_a_second(tmp_path: Path) -> None:
    # It took 69 s. Here the time is virtual: what a machine computes is not counted, every wait is.
    _, train = printed_test()
    before = monotonic()
    path = await train(tmp_path)
    assert monotonic() - before < 1
    assert LoraArchive.open(path).rank == 4
    assert path.stat().st_size < 1_000_000


@pytest.mark.real_time
async def test_printed_test_works_in_real_time(tmp_path: Path) -> None:
    config, train = printed_test()
    path = await train(tmp_path)
    assert not LoraArchive.open(path).health(config).problems


@pytest.mark.parametrize(("speed", "delay"), [(1, 75), (20, 2), (1000, 0.5), (1e6, 0.5)])
async def test_session_with_the_emulators_settings_hears_of_an_end_in_step_with_its_speed(
    speed: float, delay: float, tmp_path: Path
) -> None:
    async with Emulator(unet="tiny", speed=speed) as bridge, Session(**bridge.settings()) as session:
        before = monotonic()
        await session.run(CONFIG, tmp_path)
        assert monotonic() - before <= TRAINING / speed + delay


async def test_settings_have_a_key_of_their_own_each_time() -> None:
    async with running_emulator(rate_limit=7) as bridge:
        first, second = bridge.settings(), bridge.settings()
    assert first["api_key"] != second["api_key"]
    assert (first["rate_limit"], first["base_url"], first["trust_env"]) == (7, bridge.url, False)


async def test_settings_for_a_key_have_its_limit() -> None:
    async with running_emulator() as bridge:
        key, closed = bridge.new_key(rate_limit=3), bridge.new_key(rate_limit=-1)
        bridge.set_rate_limit(key, 5)
        assert bridge.settings(api_key=key)["api_key"] == key
        assert bridge.settings(api_key=key)["rate_limit"] == 5
        assert "rate_limit" not in bridge.settings(api_key=closed)
        with pytest.raises(KeyError, match="no such API key"):
            bridge.settings(api_key="AAAA")


@pytest.mark.parametrize("speed", [0.1, 1])
async def test_settings_for_real_speed_are_a_sessions_own(speed: float) -> None:
    async with running_emulator(speed=speed) as bridge, Session(**bridge.settings()) as session:
        own, mine = Settings(), session.settings
    assert (mine.min_poll_interval, mine.poll_delay) == (own.min_poll_interval, own.poll_delay)


async def test_running_emulator_passes_its_options_on(tmp_path: Path) -> None:
    async with running_emulator(unet="sd15", speed=5, folder=tmp_path, images=3) as bridge:
        assert (bridge.settings()["min_poll_interval"], (tmp_path / "journal.jsonl").exists()) == (1, True)
