"""Jobs that this session does not hold: handles on them, and how those who wait for one hear of what its owner wrote.

Theory of operation. A handle on another's job shows what was read last. As long as nobody waits, nothing is read and
nothing is kept but what handles hold. While somebody waits, one loop for the whole session listens to the ledger and
reads those rows again whose state is another one; whoever waits is told as if the job were this session's.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from weakref import WeakValueDictionary

from crynux_async.clock import monotonic
from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import JobFilter, JobRow, Ledger
from crynux_async.states import JobState
from crynux_async.supervision.cut_off import find_as_left
from crynux_async.supervision.record import OnlookerRecord, Record
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.rows import record_from_row, restore

_log = logging.getLogger("crynux_async.supervision.onlookers")

_LOOK_EVERY = 0.5
_TRY_AGAIN = 1.0
_ASK_AGAIN = 30.0
_LOOKS_TAKE = 10  # a look that takes a while is followed by so many times as long without one


class Onlookers:
    """One record for each job of others that anybody here has a handle on; it goes when the last handle goes.

    Args:
        ledger: Where the jobs are.
        register: Has the jobs that this session holds or has held.
        is_under_way: Whether a create of a job is under way here: its answer tells whoever waits, and nothing else.
    """

    def __init__(self, ledger: Ledger, register: JobRegister, is_under_way: Callable[[Record], bool]) -> None:
        self._ledger = ledger
        self._register = register
        self._is_under_way = is_under_way
        # A page that lists a month of jobs must not keep each of them for ever.
        self._records: WeakValueDictionary[str, OnlookerRecord] = WeakValueDictionary()
        self._watched: dict[str, Record] = {}
        self._regrouped = asyncio.Event()
        self._is_in_trouble = False

    def get(self, job_id: str) -> Record | None:
        """Return the record of a job, held here or not, or None."""
        return self._register.get(job_id) or self._records.get(job_id)

    def enter(self, row: JobRow) -> Record:
        """Return the record of a job, brought up to date with its row where another may have changed it."""
        known = self.get(row.job_id)
        if known is not None:
            self._refresh(known, row)
            return known
        record = record_from_row(row, is_ours=False)
        assert isinstance(record, OnlookerRecord)
        self._records[row.job_id] = record
        return record

    async def find(self, where: JobFilter, *, limit: int | None, newest_first: bool) -> list[Record]:
        """Return the records of jobs.

        Raises:
            LedgerError: They cannot be read.
        """
        rows = await find_as_left(self._ledger, where, limit=limit, newest_first=newest_first)
        return [self.enter(row) for row in rows]

    async def catch_up(self, records: Iterable[Record]) -> None:
        """Read again what others may have written about jobs: a handle shows what was read last, however long ago.

        Raises:
            LedgerError: They cannot be read.
        """
        others = [record.job_id for record in records if not record.is_ours and not self._is_under_way(record)]
        if others:
            await self.find(JobFilter(job_ids=others), limit=None, newest_first=False)

    async def next_write(self, heard: int) -> int:
        """Wait until the ledger was written, or for so long that somebody may have ended without a word.

        Args:
            heard: What the last call returned; 0 at first.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ASK_AGAIN):
                heard = await self._ledger.changed(heard)
        await asyncio.sleep(_LOOK_EVERY)
        return heard

    def watch(self, records: Iterable[Record]) -> None:
        """Hear of what others write about jobs, for as long as somebody waits for them."""
        for record in records:
            if not record.is_ours:
                self._watched[record.job_id] = record
                self._regrouped.set()

    def let_be(self) -> None:
        """Note that somebody does not wait any more: what nobody waits for is not listened to."""
        if self._watched:
            is_any_end_awaited = self._register.has_end_watchers
            self._watched = {
                job_id: record
                for job_id, record in self._watched.items()
                if not record.is_ours and (record.is_awaited or is_any_end_awaited)
            }
            if not self._watched:
                self._regrouped.set()

    def close(self) -> None:
        """Let whoever waits for another's job look again: nothing will be heard any more."""
        for record in list(self._records.values()):
            record.wake()

    async def run(self) -> None:
        """Listen to the ledger while somebody waits, for ever."""
        heard = 0
        while True:
            while not self._watched:
                self._regrouped.clear()
                await self._regrouped.wait()
                heard = 0
            try:
                heard = await self._next_change(heard)
                # Only now: whoever comes while rows are read, or before the next wait, is looked at in the next round.
                self._regrouped.clear()
                took = await self._look()
            except LedgerError as error:
                if not self._is_in_trouble:
                    _log.warning("what others do cannot be read now; it is tried again: %s", error)
                self._is_in_trouble = True
                heard = 0  # what is written meanwhile is looked at as soon as it can be read
                await asyncio.sleep(_TRY_AGAIN)
                continue
            if self._is_in_trouble:
                _log.warning("what others do can be read again")
                self._is_in_trouble = False
            await asyncio.sleep(max(_LOOK_EVERY, _LOOKS_TAKE * took))

    async def _next_change(self, heard: int) -> int:
        """Wait until the ledger was written, or others wait than at the last look."""
        listening = asyncio.ensure_future(self._ledger.changed(heard))
        regrouping = asyncio.ensure_future(self._regrouped.wait())
        try:
            await asyncio.wait((listening, regrouping), return_when=asyncio.FIRST_COMPLETED)
            return listening.result() if listening.done() else heard
        finally:
            for waiter in (listening, regrouping):
                waiter.cancel()
            await asyncio.gather(listening, regrouping, return_exceptions=True)

    async def _look(self) -> float:
        """Read again what has another state by now, and return how many seconds that took."""
        began = monotonic()
        by_state: dict[JobState, list[str]] = defaultdict(list)
        heard: list[str] = []
        for record in self._watched.values():
            if not self._is_under_way(record):
                (heard if record.is_heard else by_state[record.state]).append(record.job_id)
        await self._read(JobFilter(job_ids=heard))
        for state, names in by_state.items():
            await self._read(JobFilter(job_ids=names, states=set(JobState) - {state}))
        # A job that its owner has set aside is planned still, and whoever waits for it must hear why.
        planned = by_state.get(JobState.PLANNED, [])
        await self._read(JobFilter(job_ids=planned, states={JobState.PLANNED}, has_error=True))
        return monotonic() - began

    async def _read(self, where: JobFilter) -> None:
        for row in await find_as_left(self._ledger, where) if where.job_ids else ():
            record = self._watched.get(row.job_id)
            if record is not None and not self._is_under_way(record):
                self._refresh(record, row)

    def _refresh(self, record: Record, row: JobRow) -> None:
        """Bring a record up to date with its row, unless this session knows better."""
        if not record.is_ours:
            self._register.replace(record, lambda: restore(record, row))
