"""Emulated services for tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from crynux_async import Session
    from crynux_async.emulator import Emulator
    from crynux_async.emulator.relay import RelayEmulator


@asynccontextmanager
async def running_emulator(
    *, speed: float = 10_000.0, unet: Literal["sd15", "tiny"] = "tiny", **options: Any
) -> "AsyncIterator[Emulator]":
    """Run an emulated bridge on this loop while the block runs, for ``Session(**bridge.settings())``.

    Args:
        speed: Seconds of training that pass in one second, > 0. On virtual time 1 does as well.
        unet: "tiny" makes archives of half a megabyte with all tensors, "sd15" real ones of 9 MB at rank 4.
        **options: Further ones for ``crynux_async.emulator.Emulator``.
    """
    from crynux_async.emulator import Emulator

    async with Emulator(speed=speed, unet=unet, **options) as emulator:
        yield emulator


@asynccontextmanager
async def emulated_session(**options: Any) -> "AsyncIterator[Session]":
    """Open a session on an emulated bridge that runs meanwhile, in place of ``Session()``.

    Args:
        **options: For ``running_emulator``.
    """
    from crynux_async.session import Session

    async with running_emulator(**options) as bridge, Session(**bridge.settings()) as session:
        yield session


@asynccontextmanager
async def running_relay(**options: Any) -> "AsyncIterator[RelayEmulator]":
    """Run an emulated relay on this loop while the block runs; it needs the extra ``wallet``.

    Args:
        **options: For ``crynux_async.emulator.relay.RelayEmulator``.
    """
    from crynux_async.emulator.relay import RelayEmulator

    async with RelayEmulator(**options) as relay:
        yield relay
