"""Brings archives to disk: asks the transfer book, and tells register, ledger and listeners what came of it."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from crynux_async.archive.lora_archive import verify_archive
from crynux_async.archive.zip_members import ArchiveLimits
from crynux_async.backends.base import Backend, ResultStream, Validator
from crynux_async.clock import utc_now
from crynux_async.downloads.book import Order, TransferBook
from crynux_async.downloads.finished import FinishedFile
from crynux_async.downloads.names import archive_name
from crynux_async.downloads.pace import DownloadOptions, Progress
from crynux_async.errors import CrynuxError, DownloadError, JobExpiredError, LedgerError, NotFoundError, UsageError
from crynux_async.events import ArchiveReady, DownloadFailed, DownloadProgressed
from crynux_async.settings import Settings
from crynux_async.states import Signal
from crynux_async.supervision.record import Record, StoredArchive
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.tasks import TaskViews

_log = logging.getLogger("crynux_async.supervision.fetcher")


class Fetcher:
    """Runs the downloads of a session.

    Args:
        backend: Who hands out the results.
        settings: Limits and time-outs.
        register: Learns what is on disk.
        tasks: Shows tasks to the backend.
        spawn: Starts a task.
        save: Stores what changed about jobs, or raises LedgerError.
        save_later: Does so as soon as it is possible, or raises LedgerError when it never will be.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        register: JobRegister,
        tasks: TaskViews,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        save: Callable[[], Awaitable[None]],
        save_later: Callable[[], Awaitable[None]],
    ) -> None:
        self._backend = backend
        self._register = register
        self._tasks = tasks
        self._spawn = spawn
        self._save = save
        self._save_later = save_later
        self._book = TransferBook(
            spawn,
            slots=settings.max_downloads,
            verify=verify_archive if settings.verify_archives else None,
            options=DownloadOptions(chunk_bytes=settings.chunk_bytes, stall_timeout=settings.read_timeout),
            most_bytes=ArchiveLimits().file_bytes,
        )

    @property
    def active(self) -> int:
        """How many transfers run or wait for a slot."""
        return self._book.active

    def is_fetching(self, record: Record) -> bool:
        """Whether a transfer of this job runs or waits for a slot."""
        return self._book.is_fetching(self._owner(record))

    async def fetch(self, record: Record, folder: Path, name: str) -> Path:
        """Return the path of a job's archive when it is whole and checked.

        The transfer ends early only when every caller has given up; what has arrived stays for the next time.

        Raises:
            UsageError: The name is not a template, no folder can be called so, or the session was closed.
            DownloadError, OwnershipError, AuthError, QuotaError, JobExpiredError: It could not be had.
        """
        known = record.archive
        order = Order(
            owner=self._owner(record),
            folder=folder,
            name=_name(record, name),
            open_result=partial(self._open_result, record),
            known=(FinishedFile(path=known.path, total_bytes=known.total_bytes),) if known else (),
            record=partial(self._stored, record),
            failed=partial(self._failed, record),
            on_progress=partial(self._progressed, record),
        )
        return (await self._book.fetch(order)).path

    async def check(self, record: Record, folder: Path, name: str) -> None:
        """Refuse a folder or a name to which no archive could come, before anything is paid for.

        Raises:
            UsageError: The name is not a template, or the folder is none or cannot be written.
        """
        _name(record, name)
        await asyncio.to_thread(_check_folder, folder)

    def _owner(self, record: Record) -> str:
        return f"{self._backend.name} task {record.task_id}"

    @asynccontextmanager
    async def _open_result(
        self, record: Record, *, start: int = 0, validator: Validator | None = None
    ) -> AsyncIterator[ResultStream]:
        task = await self._tasks.recall(record)
        try:
            async with self._backend.open_result(task, start=start, validator=validator) as stream:
                yield stream
        except NotFoundError as error:
            raise await self._missing(record, error) from error

    async def _missing(self, record: Record, error: NotFoundError) -> CrynuxError:
        """Return what it means that the service has no result for a job that succeeded."""
        try:
            await self._backend.look(await self._tasks.recall(record))
        except NotFoundError:
            self._register.learn(record, Signal.NOT_FOUND)
            return JobExpiredError("the service has deleted the task and its result")
        return DownloadError(f"the service says that the task succeeded and has no result for it: {error}")

    async def _stored(self, record: Record, file: FinishedFile) -> bool:
        """Enter where an archive is, and return whether the ledger has it: only then may its note go."""
        assert file.total_bytes is not None, "a file that was just finished has a size"
        self._register.tell(
            ArchiveReady(
                job_id=record.job_id,
                task_id=record.task_id,
                at=utc_now(),
                path=file.path,
                total_bytes=file.total_bytes,
            )
        )
        self._register.stored(record, StoredArchive(path=file.path, total_bytes=file.total_bytes))
        try:
            await self._save()
        except LedgerError as error:
            _log.warning("where the archive of task %s is cannot be stored now: %s", record.task_id, error)
            self._spawn(self._settle(record, file))
            return False
        return record.is_ours

    async def _settle(self, record: Record, file: FinishedFile) -> None:
        """Remove the note of an archive once the ledger could be told where it is."""
        try:
            await self._save_later()
        except LedgerError as error:
            _log.info("the note beside %s stays: %s", file.path, error)
        else:
            if record.is_ours:
                await self._book.forget_note(file, self._owner(record))

    def _failed(self, record: Record, error: Exception) -> None:
        if not isinstance(error, CrynuxError):
            _log.error("download of task %s", record.task_id, exc_info=error)
            return
        error.job_id, error.task_id = record.job_id, record.task_id
        self._register.tell(
            DownloadFailed(job_id=record.job_id, task_id=record.task_id, at=utc_now(), message=str(error))
        )
        _log.warning("download of task %s: %s", record.task_id, error)

    def _progressed(self, record: Record, progress: Progress) -> None:
        if self._register.is_heard(record):
            self._register.tell(
                DownloadProgressed(
                    job_id=record.job_id,
                    task_id=record.task_id,
                    at=utc_now(),
                    received_bytes=progress.received_bytes,
                    total_bytes=progress.total_bytes,
                )
            )


def _check_folder(folder: Path) -> None:
    existing = folder.absolute()
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UsageError(f"{folder} cannot be a folder: {existing} is something else", field="folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"{folder} cannot take a model: {existing} is not writable", field="folder")


def _name(record: Record, template: str) -> str:
    return archive_name(
        template,
        task_id=record.task_id,
        job_id=record.job_id,
        label=record.label,
        model=record.config.model_name if record.config else None,
        digest=record.config.digest()[:12] if record.config else None,
    )
