"""``emulator``: a bridge or a relay on this machine."""

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
from rich.console import Console

from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit
from crynux_async.emulator import Emulator
from crynux_async.errors import UsageError

if TYPE_CHECKING:
    from crynux_async.emulator.relay import RelayEmulator

# The real bridge's port, and one beside it, so that both can run at once.
_BRIDGE_PORT = 5028
_RELAY_PORT = 5029
_NODES = 3
_OWNER_ONLY = 0o600


@attrs.frozen(kw_only=True)
class Options:
    """What both emulators take.

    Attributes:
        host: Address to listen on.
        port: Port, 0 for any that is free, or None for the usual one.
        speed: Seconds of training per second.
        folder: Where things are kept, or None.
        as_json: Whether to print JSON.
    """

    host: str
    port: int | None
    speed: float
    folder: Path | None
    as_json: bool


async def refuse(message: str) -> NoReturn:
    """Refuse options that do not go together."""
    raise UsageError(message)


async def serve(options: Options, rate_limit: int) -> Exit:
    """Serve a bridge until interrupted."""
    port = _BRIDGE_PORT if options.port is None else options.port
    try:
        emulator = Emulator(
            host=options.host, port=port, speed=options.speed, rate_limit=rate_limit, folder=options.folder
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    await _start(emulator, f"{options.host}:{port}")
    try:
        _announce(emulator, emulator.new_key(), as_json=options.as_json)
        # For ever: a signal cancels it, and the emulator is closed.
        await asyncio.Event().wait()
    finally:
        await emulator.close()
    return Exit.DONE


async def serve_relay(options: Options, control_port: int | None, nodes: int | None) -> Exit:
    """Serve a relay until interrupted.

    Args:
        options: What both emulators take.
        control_port: A port for ``POST /ctl``, or None.
        nodes: How many nodes work by themselves, or None for what is usual.
    """
    try:
        from crynux_async.emulator.relay import RelayEmulator
    except ImportError as error:
        raise UsageError(
            "a relay needs libraries that are not installed: pip install 'crynux-async[wallet]'"
        ) from error
    port = _RELAY_PORT if options.port is None else options.port
    if nodes is None:
        # Whoever controls a relay by hand wants its nodes to do nothing by themselves.
        nodes = _NODES if control_port is None else 0
    try:
        emulator = RelayEmulator(
            host=options.host,
            port=port,
            control_port=control_port,
            nodes=nodes,
            speed=options.speed,
            folder=options.folder,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    await _start(emulator, f"{options.host}:{port}")
    try:
        _announce_relay(emulator, _wallet_file(emulator), as_json=options.as_json)
        await asyncio.Event().wait()
    finally:
        await emulator.close()
    return Exit.DONE


async def _start(emulator: "Emulator | RelayEmulator", place: str) -> None:
    try:
        await emulator.start()
    except OSError as error:
        # Where the address is not this machine's, no port is free.
        cure = "; try --port 0" if error.errno in (errno.EADDRINUSE, errno.EACCES) else ""
        raise UsageError(f"cannot listen on {place}: {error.strerror}{cure}") from error


def _wallet_file(emulator: "RelayEmulator") -> Path:
    """Return the file of a wallet with money, made with the folder and kept in it."""
    path = emulator.folder / "wallet.key"
    if path.exists():
        emulator.know_wallet(path.read_text(encoding="ascii").strip())
        return path
    # With its mode from the start: the key must be readable for nobody else, not even for a moment.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(emulator.new_wallet() + "\n")
    return path


def _announce(emulator: Emulator, key: str, *, as_json: bool) -> None:
    token = emulator.control_token
    if as_json:
        _print_facts({"base_url": emulator.url, "api_key": key, "control_token": token})
        return
    console = open_console()
    console.print("An emulated bridge is running; Ctrl-C stops it. In another terminal:\n", style="dim")
    console.print(f"export CRYNUX_BASE_URL={emulator.url}")
    console.print(f"export CRYNUX_API_KEY={key}")
    _print_token(console, token)


def _announce_relay(emulator: "RelayEmulator", wallet: Path, *, as_json: bool) -> None:
    token = emulator.control_token
    if as_json:
        facts = {"network": emulator.url, "wallet": str(wallet), "control_url": emulator.control_url}
        _print_facts({**facts, "control_token": token})
        return
    console = open_console()
    console.print("An emulated relay is running; Ctrl-C stops it. In another terminal:\n", style="dim")
    console.print(f"export CRYNUX_NETWORK={emulator.url}")
    console.print(f"export CRYNUX_WALLET={wallet}")
    if emulator.control_url is not None:
        console.print(f"\nDeposits and stakes: POST {emulator.control_url}/ctl", style="dim")
    _print_token(console, token)


def _print_facts(facts: dict[str, Any]) -> None:
    # Flushed: a script that reads it through a pipe waits for it while the emulator runs on.
    print(json.dumps(facts), flush=True)  # noqa: T201  # the command's output


def _print_token(console: Console, token: str | None) -> None:
    if token is not None:
        console.print("\nOther machines can reach it, so its control plane wants this header:\n", style="dim")
        console.print(f"X-Emulator-Token: {token}")
