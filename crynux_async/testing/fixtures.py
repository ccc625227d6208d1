"""What the fixtures of the pytest plugin start. The plugin itself is ``pytest_crynux_async``, beside the package."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from crynux_async.session import Session
from crynux_async.testing.emulators import running_emulator
from crynux_async.testing.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from crynux_async.emulator import Emulator


@asynccontextmanager
async def bridge_of_test(test: pytest.Item, environment: pytest.MonkeyPatch) -> "AsyncIterator[Emulator]":
    """Run the emulated bridge that a test's marks ask for, with an environment that leads to no other.

    A test of a program that opens a session of its own must never reach a bridge that is paid: neither the settings
    file nor a variable of the user counts.
    """
    _check_loop(test)
    async with running_emulator(**_arguments(test, "crynux_bridge")) as bridge:
        for name in [name for name in os.environ if name.startswith("CRYNUX_") and name != "CRYNUX_LOG"]:
            environment.delenv(name)
        environment.setenv("CRYNUX_SETTINGS", os.devnull)
        for name, value in bridge.settings().items():
            environment.setenv(f"CRYNUX_{name.upper()}", str(value))
        yield bridge


@asynccontextmanager
async def session_of_test(test: pytest.Item, bridge: "Emulator") -> AsyncIterator[Session]:
    """Open the session that a test's marks ask for, with the key that is in the test's environment."""
    settings: dict[str, Any] = dict(bridge.settings(api_key=os.environ["CRYNUX_API_KEY"]))
    async with Session(**(settings | _arguments(test, "crynux_session"))) as session:
        yield session


def _arguments(test: pytest.Item, mark: str) -> dict[str, Any]:
    """Return what all marks of a name say about a test; the closest one wins."""
    found: dict[str, Any] = {}
    for each in test.iter_markers(mark):
        found = {**each.kwargs, **found}
    return found


def _check_loop(test: pytest.Item) -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        pytest.fail("crynux_async runs on asyncio: let the fixture anyio_backend return 'asyncio'", pytrace=False)
    if test.get_closest_marker("crynux_virtual_time") is not None and not isinstance(loop, VirtualTimeLoop):
        pytest.fail("the mark crynux_virtual_time needs pytest-asyncio 1.4 or newer, or anyio's plugin", pytrace=False)
