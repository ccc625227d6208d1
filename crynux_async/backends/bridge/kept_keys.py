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
        self._told = ""

    async def clients(self) -> AsyncIterator[BridgeClient]:
        """Yield a client for each key in the key file but the settings' own, those made last first."""
        for key in await self._readable():
            if key not in self._clients:
                self._clients[key] = BridgeClient(attrs.evolve(self._settings, api_key=key))
            yield self._clients[key]

    async def close(self) -> None:
        """Release every connection."""
        for client in self._clients.values():
            await client.close()

    async def key_ids(self) -> frozenset[str]:
        """Return the fingerprints of the keys in the key file but the settings' own."""
        return frozenset(attrs.evolve(self._settings, api_key=key).key_id for key in await self._readable())

    async def _readable(self) -> list[Secret]:
        """Return the keys, or none where they cannot be read."""
        try:
            keys = await asyncio.to_thread(self._keys)
        except SettingsError as error:
            # They are asked for all day: told once, and again when it is something else.
            if str(error) != self._told:
                _log.warning("replaced keys cannot be used: %s", error)
            self._told = str(error)
            return []
        self._told = ""
        return keys

    def _keys(self) -> list[Secret]:
        place = Path(self._settings.keys) if self._settings.keys else usual_book()
        known = [key.api_key for key in KeyBook(place).keys(self._settings.base_url)]
        return [key for key in reversed(known) if key != self._settings.api_key]
