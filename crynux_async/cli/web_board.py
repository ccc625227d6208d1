"""``board``: the watching page of a ledger, for whoever sits at this machine."""

import asyncio
import os
import secrets
import socket
import sys
import webbrowser
from typing import TYPE_CHECKING

from rich.text import Text

from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit
from crynux_async.cli.ledger_place import LedgerPlace, existing_place, shown
from crynux_async.errors import UsageError
from crynux_async.settings import Settings

if TYPE_CHECKING:
    import uvicorn

_HOST = "127.0.0.1"
_PATIENCE = 3  # seconds that open connections get at the end


async def serve(ledger: LedgerPlace | None, *, port: int, opens_browser: bool) -> Exit:
    """Serve the page until the process is told to stop."""
    try:
        import uvicorn

        from crynux_async.integrations.fastapi.page.stand_alone import PATH, stand_alone
    except ImportError as error:
        raise UsageError("the board needs more: pip install 'crynux-async[board]'") from error
    place = existing_place(ledger)
    listening = _listening(port)
    with listening:
        number, token = listening.getsockname()[1], secrets.token_urlsafe(24)
        app = stand_alone(place, Settings.load(), port=number, token=token)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=_PATIENCE
        )
        address = f"http://{_HOST}:{number}{PATH}?token={token}"
        console = open_console()
        console.print(Text(f"The board of {shown(place)}; it only reads. Ctrl-C ends it."))
        console.print(Text(address), soft_wrap=True)
        if opens_browser and _has_browser():
            await asyncio.to_thread(webbrowser.open, address)
        await _run(uvicorn.Server(config), listening)
    return Exit.DONE


async def _run(server: "uvicorn.Server", listening: socket.socket) -> None:
    """Serve until a signal comes, which the server and this command both hear."""
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        # To its end, or the ledger would not be closed.
        server.should_exit = True
        await serving
        raise


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((_HOST, port))
    except OSError as error:
        message = f"cannot listen on port {port} ({error.strerror}); give another one, or none for any that is free"
        raise UsageError(message, field="port") from error


def _has_browser() -> bool:
    """Whether there is one in a window; one in this terminal would take its place."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
