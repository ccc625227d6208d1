"""What keeps a session among others: its leases, what others leave and wish, and how long jobs are known to take."""

import asyncio
import logging
from typing import Any

from crynux_async.backends.base import Backend
from crynux_async.clock import monotonic, utc_now
from crynux_async.errors import LedgerBusyError, LedgerError
from crynux_async.ledgers.base import Ledger
from crynux_async.supervision.follower import Follower
from crynux_async.supervision.ledger_writer import LedgerWriter
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.take_over import TakeOver

_log = logging.getLogger("crynux_async.supervision.upkeep")

_RENEWALS = 3  # of a lease while it lasts
_HEAR_WISHES_EVERY = 5.0


class Upkeep:
    """Does it, each part in a task that the supervisor gives it.

    Args:
        backend: Says how long a lease lasts.
        ledger: Where leases and what was learned are.
        register: Has this session's jobs.
        writer: Holds the lease.
        take_over: Takes over, and grants wishes.
        follower: Learns how long jobs take.
        follows: Whether jobs of others are taken over.
    """

    def __init__(
        self,
        backend: Backend,
        ledger: Ledger,
        register: JobRegister,
        *,
        writer: LedgerWriter,
        take_over: TakeOver,
        follower: Follower,
        follows: bool,
    ) -> None:
        self._backend = backend
        self._ledger = ledger
        self._register = register
        self._writer = writer
        self._take_over = take_over
        self._follower = follower
        self._follows = follows
        self._unsaved: dict[str, Any] = {}

    async def begin(self) -> None:
        """Take over what earlier processes left; those that have certainly ended hold nothing any more."""
        await self._writer.enter()
        has_left_tasks = await self._writer.read_back()
        self._follower.restore(await self._ledger.load_hazards(self._backend.name))
        if self._follows:
            await self._take_over.begin()
        # At once: before that their creates look as if their outcome was not known, and might be paid for again.
        if has_left_tasks:
            await self._take_over.grant_wishes()

    async def keep_leases(self) -> None:
        """Hold what is ours, take over what nobody holds, and keep what was learned, for ever."""
        lease = self._backend.habits.lease
        trusted_from = monotonic()
        while True:
            before = utc_now()
            await asyncio.sleep(lease / _RENEWALS)
            if (utc_now() - before).total_seconds() > lease:
                # The machine slept or its clock was set, and every lease seems to have ended: those who live renew
                # theirs within a lease, by the clock that cannot be set.
                trusted_from = monotonic() + lease
            try:
                await self._writer.renew()
                if self._follows and monotonic() >= trusted_from:
                    await self._take_over.run()
                await self.save_hazards()
            except LedgerBusyError as error:
                _log.info("leases are renewed later: %s", error)
            except LedgerError as error:
                _log.error("leases cannot be renewed: %s", error)

    async def hear_wishes(self) -> None:
        """Do what others wish of this session's jobs, for ever."""
        while True:
            await asyncio.sleep(_HEAR_WISHES_EVERY)
            if not len(self._register):  # who only looks on has nothing to be wished of
                continue
            try:
                await self._take_over.grant_wishes()
            except LedgerError as error:
                _log.info("what other processes ask for cannot be read now: %s", error)

    async def save_hazards(self) -> bool:
        """Store what was learned of how long jobs take, and say whether there was anything."""
        # The follower tells it once: what the ledger does not take is kept for the next time.
        learned = self._unsaved = self._unsaved | self._follower.learned()
        if learned:
            await self._ledger.save_hazards(self._backend.name, learned)
            if self._unsaved is learned:
                self._unsaved = {}
        return bool(learned)
