"""Every backend of this library, and one that is nothing like them, does what the seam asks for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest

from crynux_async.backends.base import Backend, Seen
from crynux_async.backends.bridge.backend import BridgeBackend
from crynux_async.backends.relay.backend import RelayBackend
from crynux_async.emulator import Emulator
from crynux_async.emulator.relay import CNX, RelayEmulator
from crynux_async.settings import Settings
from crynux_async.testing import BACKEND_CHECKS, BackendCheck, Stage
from tests.relay_lab import CREATOR, CREATOR_KEY, SELECTED_SEED
from tests.second_backend import Studio, StudioBackend


class BridgeStage:
    """The bridge backend before an emulated bridge."""

    def __init__(self, emulator: Emulator, backend: BridgeBackend) -> None:
        self._emulator = emulator
        self.backend: Backend = backend

    async def succeed(self, task_id: str) -> None:
        await asyncio.sleep(3600)

    async def fail(self, task_id: str) -> None:
        self._emulator.add_fault("word", on="status", text="failed")

    async def lose_next_answer(self) -> None:
        self._emulator.add_fault("drop_after_accept", on="create")

    async def refuse_next_create(self) -> None:
        self._emulator.add_fault("status", on="create", status=400, field="model_name", message="no cats")

    async def disappear(self) -> None:
        await self._emulator.outage(1e6, kind="refused")

    def tasks_made(self) -> int:
        return len(self._emulator.jobs)

    def missing_task_id(self) -> str:
        return "4711"


class RelayStage:
    """The relay backend before an emulated relay."""

    def __init__(self, emulator: RelayEmulator, backend: RelayBackend) -> None:
        self._emulator = emulator
        self.backend: Backend = backend

    async def succeed(self, task_id: str) -> None:
        await asyncio.sleep(60)

    async def fail(self, task_id: str) -> None:
        self._emulator.order("reports_error")
        await asyncio.sleep(30)

    async def lose_next_answer(self) -> None:
        self._emulator.add_fault("drop_after_accept", on="create")

    async def refuse_next_create(self) -> None:
        self._emulator.add_fault("status", on="create", status=400, field="task_args", message="no cats")

    async def disappear(self) -> None:
        await self._emulator.outage(1e6, kind="refused")

    def tasks_made(self) -> int:
        return len(self._emulator.tasks)

    def missing_task_id(self) -> str:
        return "0x" + "47" * 32


class StudioStage:
    """The studio's backend before a studio."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.backend: Backend = StudioBackend(studio)

    async def succeed(self, task_id: str) -> None:
        await asyncio.sleep(self._studio.seconds_per_stage)

    async def fail(self, task_id: str) -> None:
        self._studio.tasks[task_id].end = Seen.FAILED

    async def lose_next_answer(self) -> None:
        self._studio.loses_answers += 1

    async def refuse_next_create(self) -> None:
        self._studio.refuses += 1

    async def disappear(self) -> None:
        self._studio.is_away = True

    def tasks_made(self) -> int:
        return len(self._studio.tasks)

    def missing_task_id(self) -> str:
        return "drawing-of-nobody"


@asynccontextmanager
async def bridge_stage() -> AsyncIterator[Stage]:
    async with Emulator(unet="tiny", durable=False, rate_limit=600) as emulator:
        settings = Settings(api_key=emulator.new_key(), base_url=emulator.url, trust_env=False)
        backend = BridgeBackend(settings)
        try:
            yield BridgeStage(emulator, backend)
        finally:
            await backend.close()


@asynccontextmanager
async def relay_stage(*, selected: int = 0) -> AsyncIterator[Stage]:
    """Open a stage whose first tasks are selected to be checked by three nodes, and no later ones."""
    async with RelayEmulator(unet="tiny", durable=False, sampling="never") as emulator:
        emulator.fund(emulator.know_wallet(CREATOR_KEY), 1000 * CNX)
        for _ in range(selected):
            emulator.put_seed(SELECTED_SEED)
        backend = RelayBackend(Settings(base_url=emulator.url, trust_env=False), CREATOR)
        try:
            yield RelayStage(emulator, backend)
        finally:
            await backend.close()


@asynccontextmanager
async def studio_stage() -> AsyncIterator[Stage]:
    yield StudioStage(Studio())


STAGES: dict[str, Callable[[], AbstractAsyncContextManager[Stage]]] = {
    "bridge": bridge_stage,
    "relay": relay_stage,
    "relay, first task selected": partial(relay_stage, selected=1),
    "studio": studio_stage,
}


@pytest.mark.parametrize("open_stage", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("check", [check for _, check in BACKEND_CHECKS], ids=[name for name, _ in BACKEND_CHECKS])
async def test_backend_conforms(
    open_stage: Callable[[], AbstractAsyncContextManager[Stage]], check: BackendCheck
) -> None:
    async with open_stage() as stage:
        await check(stage)
