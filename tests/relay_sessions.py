"""Sessions at an emulated relay, for tests of the relay backend with everything above it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from crynux_async import FineTuneConfig, Session
from crynux_async.emulator.relay import CNX, RelayEmulator
from crynux_async.ledgers.base import Ledger
from tests.relay_lab import CREATOR, CREATOR_KEY, MODEL

MONEY = 1000 * CNX


def make_config(**changes: Any) -> FineTuneConfig:
    """Return a config that emulated nodes train in 120 seconds."""
    values: dict[str, Any] = {"model_name": MODEL, "dataset_name": "a/b", "max_train_steps": 100, "timeout": 600}
    return FineTuneConfig(**{**values, "seed": 1, "validation_num_images": 2, **changes})


@asynccontextmanager
async def relay_with_money(**options: Any) -> AsyncIterator[RelayEmulator]:
    """Run a relay whose nodes work by themselves, with money for the tests' wallet, and no task selected by chance."""
    settings = {"unet": "tiny", "durable": False, "sampling": "never", "chance": 1, **options}
    async with RelayEmulator(**settings) as relay:
        relay.fund(relay.know_wallet(CREATOR_KEY), MONEY)
        yield relay


def relay_session(relay: RelayEmulator, ledger: Ledger | str | None = None, **settings: Any) -> Session:
    """Return a session of the tests' wallet."""
    return Session(backend="relay", wallet=CREATOR, network=relay.url, ledger=ledger, trust_env=False, **settings)
