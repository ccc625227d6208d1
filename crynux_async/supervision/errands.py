"""Fetching what is wanted: for whoever waits here, and for those who asked earlier and wait nowhere.

A model that can only be had elsewhere is left to other sessions: this one gives the job back, and says nothing of a
failed download that would keep the others from it.
"""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from crynux_async.errors import CrynuxError, LedgerError, OwnershipError
from crynux_async.supervision.credentials import Credentials
from crynux_async.supervision.fetcher import Fetcher
from crynux_async.supervision.ledger_writer import LedgerWriter
from crynux_async.supervision.record import Record, Wanted

_log = logging.getLogger("crynux_async.supervision.errands")


class Errands:
    """Fetches, or leaves to others.

    Args:
        fetcher: Fetches.
        credentials: Tells what cannot be had here.
        writer: Gives jobs back.
        take_to_fetch: Takes a job, which has a model, from whoever has it.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        credentials: Credentials,
        *,
        writer: LedgerWriter,
        take_to_fetch: Callable[[Record], Awaitable[None]],
    ) -> None:
        self._fetcher = fetcher
        self._credentials = credentials
        self._writer = writer
        self._take_to_fetch = take_to_fetch

    async def fetch(self, record: Record, wanted: Wanted, want: Callable[[], object]) -> Path:
        """Bring a job's archive to disk for somebody who waits, taking the job from whoever has it.

        Args:
            record: The job.
            wanted: Where the archive is wanted.
            want: Remembers that, of a job that was another's until now.

        Raises:
            CrynuxError: It could not be had.
        """
        # Asked again: whoever began to wait before the job was sent could not know with which credential it would be.
        await self._fetcher.check_may_have(record, wanted.folder, wanted.name)
        self._credentials.try_again(record)
        if not record.is_ours:
            # What is there needs nobody: whoever holds the job would be heard only after some seconds.
            found = await self._fetcher.file_at_hand(record, wanted.folder, wanted.name)
            if found is not None:
                return found
            await self._take_to_fetch(record)
            want()
        return await self._fetch(record, wanted)

    async def fetch_wanted(self, record: Record, wanted: Wanted) -> None:
        """Bring a job's archive to disk for whoever asked for it, or leave that to a session that can."""
        if record.job_id in self._credentials.refused:
            await self._let_go(record)
            return
        try:
            await self._fetcher.check_may_have(record, wanted.folder, wanted.name)
        except OwnershipError as error:
            _log.info("left to whoever may fetch it: %s", error)
            await self._let_go(record)
            return
        try:
            await self._fetch(record, wanted)
        except CrynuxError as error:
            _log.warning("download of task %s: %s", record.task_id, error)

    async def _fetch(self, record: Record, wanted: Wanted) -> Path:
        try:
            return await self._fetcher.fetch(record, wanted.folder, wanted.name)
        except OwnershipError:
            # Whose an attached task is shows only here: others may do better, and this session does not try it again
            # by itself.
            if await self._is_of_nobody(record):
                self._credentials.refuse(record)
                await self._let_go(record)
            raise

    async def _is_of_nobody(self, record: Record) -> bool:
        try:
            return not await self._credentials.owners(record)
        except LedgerError:
            return False

    async def _let_go(self, record: Record) -> None:
        try:
            await self._writer.let_go([record])
        except LedgerError as error:
            _log.warning("%r stays with this session until it is closed: %s", record, error)
