"""Brings archives to disk, a few at a time; callers who want the same one share its transfer."""

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
from crynux_async.errors import CrynuxError, DownloadError, JobExpiredError, NotFoundError
from crynux_async.events import ArchiveReady, DownloadFailed, DownloadProgressed
from crynux_async.job import Job
from crynux_async.settings import Settings
from crynux_async.states import Signal, may
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.submitter import Spawn

_log = logging.getLogger("crynux_async.supervision.fetcher")


_Key = tuple[str, Path, str]


@attrs.define(eq=False)
class _Transfer:
    """One transfer and those who wait for it."""

    done: "asyncio.Future[Path]"
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)
    callers: int = 0


class Fetcher:
    """Runs the downloads of a session.

    Args:
        backend: Who hands out the results.
        settings: Limits and time-outs.
        register: Learns what is on disk.
        spawn: Starts a task.
    """

    def __init__(self, backend: Backend, settings: Settings, register: JobRegister, spawn: Spawn) -> None:
        self._backend = backend
        self._settings = settings
        self._register = register
        self._spawn = spawn
        self._options = DownloadOptions(chunk_bytes=settings.chunk_bytes, stall_timeout=settings.read_timeout)
        self._slots = asyncio.Semaphore(settings.max_downloads)
        self._check_slots = check_slots()
        self._room = Room()
        self._transfers: dict[_Key, _Transfer] = {}

    @property
    def active(self) -> int:
        """How many transfers run or wait for a slot."""
        return len(self._transfers)

    def is_fetching(self, job: Job) -> bool:
        """Whether a transfer of this job runs or waits for a slot."""
        return any(job_id == job.job_id for job_id, _, _ in self._transfers)

    async def fetch(self, job: Job, folder: Path, name: str) -> Path:
        """Return the path of a job's archive when it is whole and checked.

        The transfer ends early only when every caller has given up; what has arrived stays for the next time.

        Raises:
            UsageError: The name is not a template.
            DownloadError, OwnershipError, AuthError, QuotaError, JobExpiredError: It could not be had.
        """
        key = (job.job_id, folder, _name(job, name))
        transfer = self._transfers.get(key) or self._start(job, key)
        transfer.callers += 1
        try:
            return await asyncio.shield(transfer.done)
        finally:
            transfer.callers -= 1
            if not transfer.callers and not transfer.done.done():
                transfer.scope.cancel()

    def _start(self, job: Job, key: _Key) -> _Transfer:
        transfer = self._transfers[key] = _Transfer(asyncio.get_running_loop().create_future())
        self._spawn(self._run(transfer, job, key))
        return transfer

    async def _run(self, transfer: _Transfer, job: Job, key: _Key) -> None:
        try:
            with transfer.scope:
                transfer.done.set_result(await self._have(job, key))
        except CrynuxError as error:
            error.job_id, error.task_id = job.job_id, job.task_id
            self._register.tell(
                DownloadFailed(job_id=job.job_id, task_id=job.task_id, at=utc_now(), message=str(error))
            )
            _log.warning("download of task %s: %s", job.task_id, error)
            if transfer.callers:
                transfer.done.set_exception(error)
        finally:
            del self._transfers[key]
            transfer.done.cancel()

    async def _have(self, job: Job, key: _Key) -> Path:
        """Return the archive's path, fetching it unless this job has it there already."""
        _, folder, name = key
        if job.path is not None and job.path.parent == folder and await asyncio.to_thread(job.path.is_file):
            return job.path
        owner = f"{self._settings.base_url} task {job.task_id}"
        file = await self._transfer(job, Reservation(folder=folder, name=name, owner=owner))
        self._register.tell(
            ArchiveReady(
                job_id=job.job_id, task_id=job.task_id, at=utc_now(), path=file.path, total_bytes=file.total_bytes
            )
        )
        if may(job.state, Signal.STORED):
            self._register.stored(job, file.path, file.total_bytes)
        return file.path

    async def _transfer(self, job: Job, place: Reservation) -> DownloadedFile:
        def progressed(progress: Progress) -> None:
            if not self._register.is_heard(job):
                return
            self._register.tell(
                DownloadProgressed(
                    job_id=job.job_id,
                    task_id=job.task_id,
                    at=utc_now(),
                    received_bytes=progress.received_bytes,
                    total_bytes=progress.total_bytes,
                )
            )

        try:
            return await download(
                partial(self._backend.open_result, _task_id(job)),
                place,
                options=self._options,
                verify=verify_archive if self._settings.verify_archives else None,
                on_progress=progressed,
                most_bytes=ArchiveLimits().file_bytes,
                room=self._room,
                slots=self._slots,
                check_slots=self._check_slots,
            )
        except NotFoundError as error:
            raise await self._missing(job, error) from error

    async def _missing(self, job: Job, error: NotFoundError) -> CrynuxError:
        """Return what it means that the bridge has no result for a job that succeeded."""
        try:
            await self._backend.status(_task_id(job))
        except NotFoundError:
            if may(job.state, Signal.NOT_FOUND):
                self._register.learn(job, Signal.NOT_FOUND)
            return JobExpiredError("the bridge has deleted the task and its result")
        return DownloadError(f"the bridge says that the task succeeded and has no result for it: {error}")


def check_slots() -> asyncio.Semaphore:
    """Return what downloads share so that checking takes half of the processors at most, and at least one."""
    return asyncio.Semaphore(max(1, (os.cpu_count() or 1) // 2))


def _task_id(job: Job) -> int:
    assert job.task_id is not None
    return job.task_id


def _name(job: Job, template: str) -> str:
    return archive_name(
        template,
        task_id=job.task_id,
        job_id=job.job_id,
        label=job.label,
        model=job.config.model_name if job.config else None,
        digest=job.config.digest()[:12] if job.config else None,
    )
