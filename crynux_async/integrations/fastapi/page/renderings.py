"""Pages that many look at are rendered once."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable

import attrs

from crynux_async.clock import monotonic
from crynux_async.report.live import Rendered

_FRESH = 1.0  # seconds
_MOST = 64


@attrs.define(eq=False)
class _Entry:
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    page: Rendered | None = None
    began_at: float = 0.0
    change: int = -1


class Renderings:
    """The pages that were rendered last, by what they show and to whom."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[Rendered]], *, change: int | None) -> Rendered:
        """Return a page as it is now.

        Args:
            key: What it shows, and to whom.
            make: Renders it.
            change: The change of the ledger that it must show (see ``Ledger.changed``); None for one that is a second
                old at most.
        """
        entry = self._entry(key)
        async with entry.lock:
            now = monotonic()
            is_fresh = now - entry.began_at < _FRESH if change is None else entry.change >= change
            if entry.page is None or not is_fresh:
                entry.page, entry.began_at = await make(), now
                entry.change = -1 if change is None else change
            return entry.page

    def _entry(self, key: Hashable) -> _Entry:
        entry = self._entries.pop(key, None) or _Entry()
        self._entries[key] = entry
        while len(self._entries) > _MOST:
            self._entries.pop(next(iter(self._entries)))
        return entry
