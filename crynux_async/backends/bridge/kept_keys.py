"""Results that belong to another key of one's own bridge than the one in the settings.

The bridge hands a result out to the key that made the job, and to no other. A key that was replaced is kept in the key
file until its jobs are fetched; here it fetches them.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import attrs

from crynux_async.backends.bridge.http import BridgeClient
from crynux_async.backends.bridge.key_book import KeyBook, usual_book
from crynux_async.errors import SettingsError
from crynux_async.secret import Secret
from crynux_async.settings import Settings

_log = logging.getLogger("crynux_async.backends.bridge")


class KeptKeys:
    """Clients for the other keys of a bridge, each made when it is first needed.

    Args:
        settings: Address, timeouts, proxy, and where the keys are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients: dict[Secret, BridgeClient] = {}

    async def clients(self) -> AsyncIterator[BridgeClient]:
        """Yield a client for each key in the key file but the settings' own, those made last first."""
        try:
            keys = await asyncio.to_thread(self._keys)
        except SettingsError as error:
            _log.warning("replaced keys cannot be used: %s", error)
            return
        for key in keys:
            if key not in self._clients:
                self._clients[key] = BridgeClient(attrs.evolve(self._settings, api_key=key))
            yield self._clients[key]

    async def close(self) -> None:
        """Release every connection."""
        for client in self._clients.values():
            await client.close()

    def _keys(self) -> list[Secret]:
        place = Path(self._settings.keys) if self._settings.keys else usual_book()
        known = [key.api_key for key in KeyBook(place).keys(self._settings.base_url)]
        return [key for key in reversed(known) if key != self._settings.api_key]
