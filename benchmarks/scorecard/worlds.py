"""An emulated bridge and clients on virtual time, as the cases need them."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import attrs

from benchmarks.scorecard.accounting import JobClass, check_nothing_lost, remember
from crynux_async.emulator import Emulator
from crynux_async.ledgers.base import Ledger
from crynux_async.session import Session
from crynux_async.settings import Settings
from crynux_async.testing import virtual_time_run
from crynux_async.training.config import FineTuneConfig

T = TypeVar("T")

CREATES = ("POST", "/v1/images/models")


@attrs.frozen(kw_only=True)
class World:
    """One emulated bridge with one key.

    Attributes:
        bridge: The emulator.
        key: A key for it.
    """

    bridge: Emulator
    key: str

    def settings(self, **changes: Any) -> Settings:
        """Return settings for the bridge and the key."""
        return Settings(**{"base_url": self.bridge.url, "api_key": self.key, "trust_env": False, **changes})

    def session(self, *, ledger: Any = None, **settings: Any) -> Session:
        """Return a session on the bridge, not open yet."""
        return Session(self.settings(**settings), ledger=ledger)


def on_virtual_time(
    work: Callable[[World], Awaitable[T]], *, rate_limit: int, primed: bool = True, **options: Any
) -> T:
    """Run ``work`` with a fresh emulator and a fresh key on virtual time, and return its result."""

    async def main() -> T:
        async with Emulator(rate_limit=rate_limit, **options) as bridge:
            world = World(bridge=bridge, key=bridge.new_key(rate_limit=rate_limit, primed=primed))
            return await work(world)

    result: T = virtual_time_run(main)
    return result


def config(seed: int = 1, **changes: Any) -> FineTuneConfig:
    """Return a config whose job takes 120 s of training."""
    base: dict[str, Any] = {
        "model_name": "crynux-ai/stable-diffusion-v1-5",
        "dataset_url": "https://example.com/pictures.zip",
        "max_train_steps": 100,
        "rank": 1,
        "target_modules": ["to_k"],
        "timeout": 1800,
    }
    return FineTuneConfig(**{**base, "seed": seed, **changes})


def creates(bridge: Emulator) -> list[Any]:
    """Return the creates that a bridge has seen, in order."""
    return [request for request in bridge.requests if (request.method, request.path) == CREATES]


async def submit_all(session: Session, count: int) -> float:
    """Submit jobs through one session and return the seconds until the last was accepted."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    jobs = [session.submit_nowait(config(seed)) for seed in range(1, count + 1)]
    await asyncio.gather(*(job.submitted() for job in jobs))
    return loop.time() - began


async def accounts(world: World, ledger: Ledger, told: list[str]) -> Counter[JobClass]:
    """Check that nothing is lost of what one bridge and one ledger have seen."""
    known = await remember(ledger)
    return check_nothing_lost(
        world.bridge.journal, known.jobs, known.attempts, creates(world.bridge), brackets=known.brackets, told=told
    )
