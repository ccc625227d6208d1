"""Which service a command talks to: a bridge, the relay, or an emulated one on this machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from crynux_async.cli.ledger_place import ledger_path
from crynux_async.errors import Problem, SettingsError
from crynux_async.secret import Secret
from crynux_async.session import Session
from crynux_async.settings import Settings

_SPEED = 20.0


@asynccontextmanager
async def open_session(ledger: Path | None, *, relay: bool, needs_key: bool = False) -> AsyncIterator[Session]:
    """Open a session on the ledger of this command.

    Args:
        ledger: Its file, or None for the usual one.
        relay: Whether the jobs are at the relay.
        needs_key: Whether nothing can be done at a bridge without its key.

    Raises:
        SettingsError: There is no key, and it is needed.
    """
    settings = Settings.load()
    if needs_key and not relay and settings.api_key is None:
        message = "is missing: set CRYNUX_API_KEY, or api_key in the settings file; nothing was sent"
        raise SettingsError([Problem(field="api_key", message=message)])
    async with Session(settings, ledger=ledger_path(ledger), backend="relay" if relay else "bridge") as session:
        yield session


@asynccontextmanager
async def emulated_session(*, relay: bool) -> AsyncIterator[Session]:
    """Open a session on an emulated bridge or relay that lives as long, and remember nothing.

    Args:
        relay: Whether it is a relay; a wallet with money is made for it.
    """
    if not relay:
        from crynux_async.emulator import Emulator

        async with Emulator(speed=_SPEED) as bridge, Session(**bridge.settings()) as session:
            yield session
        return
    from crynux_async.emulator.relay import RelayEmulator
    from crynux_async.signing import Wallet

    async with RelayEmulator(speed=_SPEED) as emulator:
        wallet = Wallet(Secret(emulator.new_wallet()))
        async with Session(backend="relay", wallet=wallet, network=emulator.url, trust_env=False) as session:
            yield session
