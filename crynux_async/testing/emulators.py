"""Emulated services for tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crynux_async.emulator import Emulator


@asynccontextmanager
async def running_emulator(**options: Any) -> "AsyncIterator[Emulator]":
    """Run an emulated bridge on this loop while the block runs.

    Args:
        **options: For ``crynux_async.emulator.Emulator``.
    """
    from crynux_async.emulator import Emulator

    async with Emulator(**options) as emulator:
        yield emulator
