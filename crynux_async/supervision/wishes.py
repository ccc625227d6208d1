"""What is done with jobs of others: take them where they are free, else ask whoever has them.

An onlooker writes nothing about another's job but a wish. Its owner hears wishes every few seconds and carries them
out; a job that nobody holds, as most that have ended, is taken by whoever wishes something of it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from crynux_async.clock import utc_now
from crynux_async.ledgers.base import JobChange, Ledger, WishRow
from crynux_async.states import FOLLOWED, JobState, Signal
from crynux_async.supervision.fetcher import Fetcher
from crynux_async.supervision.ledger_writer import LedgerWriter
from crynux_async.supervision.onlookers import Onlookers
from crynux_async.supervision.record import Record
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.rows import TaskEnd
from crynux_async.supervision.submitter import HandOn, Submitter
from crynux_async.supervision.take_over import TakeOver

ABANDON = "abandon"
"""The kind of a wish: give the job up."""

LET_GO = "let go"
"""The kind of a wish: give the job back as soon as nothing is done with it: the wisher wants its archive."""

_ASK_AGAIN = 30.0
_LOOK_EVERY = 0.5


class Wishes:
    """Acts on jobs of others, and grants what others wish of this session's.

    Args:
        ledger: Where the jobs are.
        register: Learns what was decided.
        onlookers: Has the jobs of others.
        writer: Stores wishes.
        take_over: Takes jobs that nobody holds.
        submitter: Knows what is being sent.
        fetcher: Knows what is being fetched.
        hand_on: Called with each job that was given up.
    """

    def __init__(
        self,
        ledger: Ledger,
        register: JobRegister,
        onlookers: Onlookers,
        *,
        writer: LedgerWriter,
        take_over: TakeOver,
        submitter: Submitter,
        fetcher: Fetcher,
        hand_on: HandOn,
    ) -> None:
        self._ledger = ledger
        self._register = register
        self._onlookers = onlookers
        self._writer = writer
        self._take_over = take_over
        self._submitter = submitter
        self._fetcher = fetcher
        self._hand_on = hand_on

    @property
    def grants(self) -> dict[str, Callable[[Record, WishRow], Awaitable[None]]]:
        """How each kind of wish is granted."""
        return {ABANDON: self._grant_abandon, LET_GO: self._grant_let_go}

    def give_up(self, record: Record) -> None:
        """Give a job of this session up. What its task may cost counts as spent: nobody will hear of its end."""
        if record.filing.budget is not None and record.task_id is not None and record.state in FOLLOWED:
            self._writer.task_ended(record, TaskEnd(task_id=record.task_id, at=utc_now(), word=str(JobState.ABANDONED)))
        self._register.learn(record, Signal.ABANDON)
        self._hand_on(record)

    async def abandon(self, record: Record) -> None:
        """Give another's job up: here where it is free, else by its owner.

        Raises:
            LedgerError: The wish could not be stored.
        """
        if await self._take_over.take(record):
            self.give_up(record)
        else:
            await self._writer.wish(record.job_id, ABANDON, try_number=record.tries)

    async def take_to_fetch(self, record: Record) -> None:
        """Wait until another's job, which has a model, is this session's.

        Its owner finishes a transfer that is under way; then it gives the job back, and the file that it has brought
        is found in its place.

        Raises:
            LedgerError: It could not be asked for.
        """
        asked, heard = 0, 0
        while not record.is_ours:
            holder = await self._ledger.holder(record.job_id)
            if holder is None:
                await self._take_over.take(record)
                continue
            # Each new owner is asked once: wishes are kept, and hundreds of one kind would help nobody.
            if holder.fence.number != asked:
                await self._writer.wish(record.job_id, LET_GO)
                asked = holder.fence.number
            with contextlib.suppress(TimeoutError):  # a process that ends without a word writes nothing
                async with asyncio.timeout(_ASK_AGAIN):
                    heard = await self._ledger.changed(heard)
            await asyncio.sleep(_LOOK_EVERY)

    async def _grant_abandon(self, record: Record, wish: WishRow) -> None:
        # Whoever gave up an earlier try said nothing of the one that runs now.
        if wish.arguments.get("try_number") == record.tries:
            self.give_up(record)
        await self._granted(record, wish)

    async def _grant_let_go(self, record: Record, wish: WishRow) -> None:
        """Give a job back, unless something is being done with it: then the wish waits for the end of that."""
        is_busy = self._fetcher.is_fetching(record) or self._submitter.is_under_way(record)
        if is_busy or record.state not in _FETCHABLE:
            return
        await self._granted(record, wish)
        await self._writer.let_go([record])

    async def _granted(self, record: Record, wish: WishRow) -> None:
        await self._writer.change(JobChange(job_id=record.job_id, granted=(wish.number,)))


_FETCHABLE = frozenset({JobState.SUCCEEDED, JobState.DOWNLOADED})
