"""Emulated services for tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crynux_async.emulator import Emulator
    from crynux_async.emulator.relay import RelayEmulator


@asynccontextmanager
async def running_emulator(**options: Any) -> "AsyncIterator[Emulator]":
    """Run an emulated bridge on this loop while the block runs.

    Args:
        **options: For ``crynux_async.emulator.Emulator``.
    """
    from crynux_async.emulator import Emulator

    async with Emulator(**options) as emulator:
        yield emulator


@asynccontextmanager
async def running_relay(**options: Any) -> "AsyncIterator[RelayEmulator]":
    """Run an emulated relay on this loop while the block runs; it needs the extra ``wallet``.

    Args:
        **options: For ``crynux_async.emulator.relay.RelayEmulator``.
    """
    from crynux_async.emulator.relay import RelayEmulator

    async with RelayEmulator(**options) as relay:
        yield relay
