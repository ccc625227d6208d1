"""``emulator --config``: an emulated bridge that starts in a bridge's folder as the real program does."""

import asyncio
from pathlib import Path

from crynux_async.cli.exits import Exit
from crynux_async.emulator import Emulator, Owner
from crynux_async.emulator.bridge import startup


async def serve(folder: Path, speed: float, balance_cnx: float) -> int:
    """Start, serve until interrupted, and return the exit code."""
    config = None
    try:
        config = await asyncio.to_thread(startup.read_config, folder)
        wei = await startup.check_surroundings(config, round(balance_cnx * startup.WEI))
    except startup.StartError as error:
        startup.say(config, error)
        return error.exit_code
    emulator = _emulator(config, folder, speed, wei)
    startup.log(config, "info", "Starting application server...")
    try:
        await emulator.start()
    except OSError:
        place = f"{config.text('http.host')}:{config.text('http.port')}"
        # Word for word what the real program says, which 'bridge up' and 'doctor' know how to explain.
        startup.log(config, "fatal", f"listen tcp {place}: bind: address already in use")
        return 1
    try:
        await asyncio.Event().wait()
    finally:
        await emulator.close()
    return Exit.DONE


def _emulator(config: startup.StartConfig, folder: Path, speed: float, wei: int) -> Emulator:
    owner = Owner(
        address=config.text("blockchain.account.address"),
        admin_token=config.text("admin.auth_token"),
        most_traces=int(config.text("admin.task_trace_max_tasks") or "0"),
        wei=wei,
    )
    return Emulator(
        host=config.text("http.host"),
        port=int(config.text("http.port")),
        speed=speed,
        folder=folder / "data" / "emulator",
        owner=owner,
    )
