"""``emulator``: a bridge on this machine."""

import asyncio
import json
from pathlib import Path

from rich.console import Console

from crynux_async.cli.exits import Exit
from crynux_async.emulator import Emulator
from crynux_async.errors import UsageError


async def serve(host: str, port: int, speed: float, rate_limit: int, folder: Path | None, *, as_json: bool) -> Exit:
    """Serve until interrupted."""
    try:
        emulator = Emulator(host=host, port=port, speed=speed, rate_limit=rate_limit, folder=folder)
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        await emulator.start()
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}; try --port 0") from error
    try:
        _announce(emulator, emulator.new_key(), as_json=as_json)
        await asyncio.Event().wait()
    finally:
        await emulator.close()
    return Exit.DONE


def _announce(emulator: Emulator, key: str, *, as_json: bool) -> None:
    token = emulator.control_token
    if as_json:
        facts = {"base_url": emulator.url, "api_key": key, "control_token": token}
        print(json.dumps(facts), flush=True)  # noqa: T201  # the command's output
        return
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print("An emulated bridge is running; Ctrl-C stops it. In another terminal:\n", style="dim")
    console.print(f"export CRYNUX_BASE_URL={emulator.url}")
    console.print(f"export CRYNUX_API_KEY={key}")
    if token is not None:
        console.print("\nOther machines can reach it, so its control plane wants this header:\n", style="dim")
        console.print(f"X-Emulator-Token: {token}")
