"""Brings archives to disk, a few at a time; callers who want the same one share its transfer.

A transfer ends early only when nobody wants it any more. Whoever comes while it is ending waits until it has ended and
begins anew: a caller is told of a cancellation only if it was cancelled itself.
"""

import asyncio
import logging
import os
from functools import partial
from pathlib import Path

import anyio
import attrs

from crynux_async.archive.lora_archive import verify_archive
from crynux_async.archive.zip_members import ArchiveLimits
from crynux_async.backends.base import Backend
from crynux_async.clock import utc_now
from crynux_async.downloads.names import archive_name
from crynux_async.downloads.pace import DownloadOptions, Progress
from crynux_async.downloads.reservations import Reservation
from crynux_async.downloads.room import Room
from crynux_async.downloads.transfer import DownloadedFile, download
from crynux_async.errors import CrynuxError, DownloadError, JobExpiredError, NotFoundError, UsageError
from crynux_async.events import ArchiveReady, DownloadFailed, DownloadProgressed
from crynux_async.settings import Settings
from crynux_async.states import Signal
from crynux_async.supervision.record import Record, StoredArchive
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.submitter import Spawn
from crynux_async.supervision.tasks import TaskViews

_log = logging.getLogger("crynux_async.supervision.fetcher")


_Key = tuple[str, Path, str]


@attrs.define(eq=False)
class _Transfer:
    """One transfer and those who wait for it."""

    done: "asyncio.Future[Path]"
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)
    callers: int = 0
    has_ended: asyncio.Event = attrs.field(factory=asyncio.Event)

    @property
    def is_ending(self) -> bool:
        """Whether nobody has wanted it any more, so that it will not be finished."""
        return self.scope.cancel_called


class Fetcher:
    """Runs the downloads of a session.

    Args:
        backend: Who hands out the results.
        settings: Limits and time-outs.
        register: Learns what is on disk.
        tasks: Shows tasks to the backend.
        spawn: Starts a task.
    """

    def __init__(
        self, backend: Backend, settings: Settings, register: JobRegister, tasks: TaskViews, spawn: Spawn
    ) -> None:
        self._backend = backend
        self._register = register
        self._tasks = tasks
        self._spawn = spawn
        self._options = DownloadOptions(chunk_bytes=settings.chunk_bytes, stall_timeout=settings.read_timeout)
        self._verify = verify_archive if settings.verify_archives else None
        self._slots = asyncio.Semaphore(settings.max_downloads)
        self._check_slots = check_slots()
        self._room = Room()
        self._transfers: dict[_Key, _Transfer] = {}

    @property
    def active(self) -> int:
        """How many transfers run or wait for a slot."""
        return len(self._transfers)

    def is_fetching(self, record: Record) -> bool:
        """Whether a transfer of this job runs or waits for a slot."""
        return any(job_id == record.job_id for job_id, _, _ in self._transfers)

    async def fetch(self, record: Record, folder: Path, name: str) -> Path:
        """Return the path of a job's archive when it is whole and checked.

        The transfer ends early only when every caller has given up; what has arrived stays for the next time.

        Raises:
            UsageError: The name is not a template, or the session was closed.
            DownloadError, OwnershipError, AuthError, QuotaError, JobExpiredError: It could not be had.
        """
        key = (record.job_id, folder, _name(record, name))
        while (transfer := self._transfers.get(key)) is not None and transfer.is_ending:
            await transfer.has_ended.wait()
        transfer = transfer or self._start(record, key)
        transfer.callers += 1
        try:
            return await asyncio.shield(transfer.done)
        finally:
            transfer.callers -= 1
            if not transfer.callers and not transfer.done.done():
                transfer.scope.cancel()

    def _start(self, record: Record, key: _Key) -> _Transfer:
        transfer = _Transfer(asyncio.get_running_loop().create_future())
        self._spawn(self._run(transfer, record, key))
        self._transfers[key] = transfer
        return transfer

    async def _run(self, transfer: _Transfer, record: Record, key: _Key) -> None:
        error: Exception = UsageError(
            "the session was closed before the archive was there; what arrived is kept for the next download"
        )
        try:
            with transfer.scope:
                transfer.done.set_result(await self._have(record, key))
        except CrynuxError as failure:
            failure.job_id, failure.task_id = record.job_id, record.task_id
            self._register.tell(
                DownloadFailed(job_id=record.job_id, task_id=record.task_id, at=utc_now(), message=str(failure))
            )
            _log.warning("download of task %s: %s", record.task_id, failure)
            error = failure
        except Exception as failure:
            _log.exception("download of task %s", record.task_id)
            error = failure
        finally:
            del self._transfers[key]
            if transfer.callers and not transfer.done.done():
                transfer.done.set_exception(error)
            transfer.has_ended.set()

    async def _have(self, record: Record, key: _Key) -> Path:
        """Return the archive's path, fetching it unless this job has it there already."""
        _, folder, name = key
        known = record.archive
        if known is not None and known.path.parent == folder and await asyncio.to_thread(known.path.is_file):
            return known.path
        owner = f"{self._backend.name} task {record.task_id}"
        file = await self._transfer(record, Reservation(folder=folder, name=name, owner=owner))
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
        return file.path

    async def _transfer(self, record: Record, place: Reservation) -> DownloadedFile:
        def progressed(progress: Progress) -> None:
            if not self._register.is_heard(record):
                return
            self._register.tell(
                DownloadProgressed(
                    job_id=record.job_id,
                    task_id=record.task_id,
                    at=utc_now(),
                    received_bytes=progress.received_bytes,
                    total_bytes=progress.total_bytes,
                )
            )

        try:
            return await download(
                partial(self._backend.open_result, await self._tasks.recall(record)),
                place,
                options=self._options,
                verify=self._verify,
                on_progress=progressed,
                most_bytes=ArchiveLimits().file_bytes,
                room=self._room,
                slots=self._slots,
                check_slots=self._check_slots,
            )
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


def check_slots() -> asyncio.Semaphore:
    """Return what downloads share so that checking takes half of the processors at most, and at least one."""
    return asyncio.Semaphore(max(1, (os.cpu_count() or 1) // 2))


def _name(record: Record, template: str) -> str:
    return archive_name(
        template,
        task_id=record.task_id,
        job_id=record.job_id,
        label=record.label,
        model=record.config.model_name if record.config else None,
        digest=record.config.digest()[:12] if record.config else None,
    )
