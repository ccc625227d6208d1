"""What one tenant may have at a time, so that none of them can take everything."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from typing import Any
from weakref import WeakValueDictionary

import attrs

from crynux_async.budgets import Budget
from crynux_async.errors import UsageError
from crynux_async.integrations.fastapi.problems import ProblemError
from crynux_async.ledgers.base import JobFilter
from crynux_async.money import wei_of
from crynux_async.session import Session
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig

# Nobody knows when a place gets free: about as long as whoever waits does not mind.
_SOON = {"Retry-After": "10"}

_SHARE = 4
"""One part in so many of the room that is left is let in at once: other processes know of it when it is stored."""


def _is_count(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    is_left_out = value is None and attribute.name != "body_bytes"
    if not is_left_out and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UsageError(f"{attribute.name} must be a whole number above 0, not {value!r}", field=attribute.name)


def _is_price(_: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    # Here: a budget made with each submit would refuse every one of them with a 500.
    if value is not None:
        wei_of(value, attribute.name)


@attrs.frozen(kw_only=True)
class Limits:
    """What each tenant may have; without tenants, all callers together.

    Attributes:
        streams: Event streams that may be open at once in one process, >= 1; None for any number.
        queued: Jobs that may wait to be sent, >= 1; None for any number. Each further process may let in one more, or a
            quarter of the number more if that is larger, when several are asked at the same moment.
        spend: What its jobs may cost together, in CNX, in every process on the ledger alike; None for no limit. Where
            the service tells no prices, ``Crynux(price=...)`` must.
        body_bytes: Size of a config's JSON, > 0.

    Raises:
        UsageError: One of them is no such number.
    """

    streams: int | None = attrs.field(default=200, validator=_is_count)
    queued: int | None = attrs.field(default=None, validator=_is_count)
    spend: Decimal | float | str | None = attrs.field(default=None, validator=_is_price)
    body_bytes: int = attrs.field(default=64 * 1024, validator=_is_count)

    def budget(self, tenant: str | None) -> Budget | None:
        """Return what pays for the jobs of a tenant, or None where there is no limit."""
        if self.spend is None:
            return None
        return Budget(f"web: {tenant or ''}", cnx=self.spend)


class _Door:
    """Where the callers of one tenant are let in.

    Attributes:
        lock: Held by the one who is being looked at.
        under_way: How many were let in and have not stored their job yet.
        has_left: Set when one of them has.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.under_way = 0
        self.has_left = asyncio.Event()


class Admission:
    """Lets callers in as far as their limits go.

    Args:
        session: Has the jobs.
        limits: How far.
    """

    def __init__(self, session: Session, limits: Limits) -> None:
        self._session = session
        self._limits = limits
        self._streams: Counter[str | None] = Counter()
        # Whoever is at a door holds it; one without anybody is gone, or every name that ever came would be kept.
        self._doors: WeakValueDictionary[str | None, _Door] = WeakValueDictionary()

    @contextmanager
    def stream(self, tenant: str | None) -> Iterator[None]:
        """Hold a place for one event stream while the block runs.

        Raises:
            ProblemError: There is none left.
        """
        self.enter_stream(tenant)
        try:
            yield
        finally:
            self.leave_stream(tenant)

    def enter_stream(self, tenant: str | None) -> None:
        """Take a place for one event stream.

        Raises:
            ProblemError: There is none left.
        """
        if self._limits.streams is not None and self._streams[tenant] >= self._limits.streams:
            raise ProblemError(429, "streams", "Too many event streams are open; close some.", headers=_SOON)
        self._streams[tenant] += 1

    def leave_stream(self, tenant: str | None) -> None:
        """Give a place back."""
        self._streams[tenant] -= 1
        # A tenant without streams leaves nothing behind, or every name that ever came would be kept.
        if not self._streams[tenant]:
            del self._streams[tenant]

    @asynccontextmanager
    async def job(self, tenant: str | None, config: FineTuneConfig, key: str | None) -> AsyncIterator[None]:
        """Check that one job more may be queued, with all of the tenant's that are about to be, and queue it inside.

        Args:
            tenant: Whose job.
            config: What is trained.
            key: The caller's idempotency key: what was let in once is let in again.

        Raises:
            ProblemError: Too many wait.
            LedgerError: They cannot be counted.
        """
        if self._limits.queued is None and self._limits.spend is None:
            yield
            return
        door = self._doors.setdefault(tenant, _Door())
        # One after another, or all that ask at once would see the same number; what they do then, they do together.
        async with door.lock:
            await self._let_in(door, tenant, config, key)
            door.under_way += 1
        try:
            yield
        finally:
            door.under_way -= 1
            door.has_left.set()

    async def _let_in(self, door: "_Door", tenant: str | None, config: FineTuneConfig, key: str | None) -> None:
        try:
            await self._check_queue(door, tenant)
            await self._check_spend(tenant, config)
        except ProblemError:
            if key is None or not await self._is_known(tenant, key):
                raise

    async def _is_known(self, tenant: str | None, key: str) -> bool:
        where = JobFilter(backend=self._session.service, idempotency_key=key, tenant=tenant or "")
        return bool(await self._session.ledger.jobs(where, limit=1))

    async def _check_queue(self, door: "_Door", tenant: str | None) -> None:
        limit = self._limits.queued
        if limit is None:
            return
        where = JobFilter(backend=self._session.service, states={JobState.PLANNED}, tenant=tenant)
        while True:
            # Before the jobs are counted: one that is stored meanwhile is reckoned twice, and not left out.
            under_way = door.under_way
            door.has_left.clear()
            counts = await self._session.ledger.count(where)
            room = limit - sum(counts.values())
            if under_way < min(room, max(1, room // _SHARE)):
                return
            if not under_way:
                raise ProblemError(429, "queue", f"{limit} jobs wait to be sent already.", headers=_SOON)
            await door.has_left.wait()  # and nobody else is let in until it is known exactly

    async def _check_spend(self, tenant: str | None, config: FineTuneConfig) -> None:
        """Refuse what the budget has no room for now; what is exact is decided when it is sent."""
        budget, price = self._limits.budget(tenant), self._session.price(config)
        if budget is None or budget.limit is None or price is None:
            return
        row = await self._session.ledger.budget(budget.name)
        # What is held for jobs that run counts, too: it may all be spent.
        taken = row.held + row.spent if row is not None else 0
        if taken + price > budget.limit:
            raise ProblemError(402, "budget", "The budget does not allow it; nothing was sent.")
