"""Opens the services that this library knows by name."""

import asyncio
from typing import TYPE_CHECKING, Literal

import attrs

from crynux_async.backends.base import Backend
from crynux_async.errors import UsageError
from crynux_async.settings import RELAYS, Settings

if TYPE_CHECKING:
    from crynux_async.signing import Wallet

ServiceName = Literal["bridge", "relay"]
"""A service by name."""


async def open_backend(name: ServiceName, settings: Settings, wallet: "Wallet | None" = None) -> Backend:
    """Return a backend of a service.

    Args:
        name: "bridge" for the one at ``settings.base_url``, "relay" for the one of ``settings.network``.
        settings: How the client behaves.
        wallet: Signs at the relay; None for the one that ``CRYNUX_WALLET`` is the path of.

    Raises:
        SettingsError: The wallet cannot be used.
        UsageError: There is no such service, a wallet is given to a bridge, or signing is not installed.
    """
    if name == "relay":
        return await _relay(settings, wallet)
    if name != "bridge":
        raise UsageError(f"backend must be 'bridge', 'relay' or a backend of your own, not {name!r}", field="backend")
    if wallet is not None:
        raise UsageError(
            "a bridge takes an API key and no wallet; add backend='relay', or leave it out", field="wallet"
        )
    from crynux_async.backends.bridge.backend import BridgeBackend

    return BridgeBackend(settings)


async def _relay(settings: Settings, wallet: "Wallet | None") -> Backend:
    from crynux_async.backends.relay.backend import RelayBackend
    from crynux_async.signing import Wallet

    if wallet is None:
        wallet = await asyncio.to_thread(Wallet.from_env)  # a keystore's password is stretched for about a second
    address = RELAYS.get(settings.network, settings.network)
    # Neither the bridge's key nor its token is any business of a relay.
    return RelayBackend(attrs.evolve(settings, base_url=address, api_key=None, admin_token=None), wallet)
