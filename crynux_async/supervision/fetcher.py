"""Brings archives to disk: asks the transfer book, and tells register, ledger and listeners what came of it."""

import importlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crynux_async.backends.base import Backend, ResultStream, Validator
from crynux_async.clock import monotonic, utc_now
from crynux_async.downloads.names import check_template, job_archive_name
from crynux_async.downloads.target import check_folder
from crynux_async.errors import (
    CrynuxError,
    DownloadError,
    JobExpiredError,
    LedgerError,
    NotFoundError,
    OwnershipError,
)
from crynux_async.files import resolve
from crynux_async.settings import Settings
from crynux_async.states import Signal
from crynux_async.supervision.credentials import Credentials
from crynux_async.supervision.doors import OpenResult
from crynux_async.supervision.follower import GONE_FOR
from crynux_async.supervision.image_keeper import ImageKeeper
from crynux_async.supervision.record import Record, StoredArchive
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.tasks import TaskViews
from crynux_async.threads import in_thread, to_the_end
from crynux_async.training.simulation import archive_bytes

if TYPE_CHECKING:
    from crynux_async.downloads.book import TransferBook
    from crynux_async.downloads.finished import FinishedFile
    from crynux_async.downloads.pace import Progress
    from crynux_async.downloads.shared_folder import SharedFolder

_log = logging.getLogger("crynux_async.supervision.fetcher")


class Fetcher:
    """Runs the downloads of a session.

    Args:
        backend: Who hands out the results.
        settings: Limits and timeouts.
        register: Learns what is on disk.
        tasks: Shows tasks to the backend.
        credentials: Knows what this session cannot open.
        open_result: Asks the backend for a result.
        spawn: Starts a task.
        save: Stores what changed about jobs, or raises LedgerError.
        save_later: Does so as soon as it is possible, or raises LedgerError when it never will be.
        places: Returns where earlier jobs of a job's task were put, as far as the ledger knows.
        images: Keeps validation images beside the archives.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        register: JobRegister,
        tasks: TaskViews,
        *,
        credentials: Credentials,
        open_result: OpenResult,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        save: Callable[[], Awaitable[object]],
        save_later: Callable[[], Awaitable[object]],
        places: Callable[[Record], Awaitable[tuple[StoredArchive, ...]]],
        images: ImageKeeper,
    ) -> None:
        self._backend = backend
        self._ask_for_result = open_result
        self._register = register
        self._host = settings.host_name
        self._shared = _shared_folder(settings.archives) if settings.archives else None
        self._tasks = tasks
        self._credentials = credentials
        self._spawn = spawn
        self._save = save
        self._save_later = save_later
        self._places = places
        self._images = images
        self._missing_since: dict[str, float] = {}
        self._settings = settings
        self._book: TransferBook | None = None

    @property
    def active(self) -> int:
        """How many transfers run or wait for a slot."""
        return self._book.active if self._book else 0

    def is_fetching(self, record: Record) -> bool:
        """Whether a transfer of this job runs or waits for a slot."""
        return self._book is not None and self._book.is_fetching(self._owner(record))

    async def check_may_have(self, record: Record, folder: Path, name: str) -> None:
        """Refuse a job whose archive could never come here, because its task was made with another credential.

        Raises:
            OwnershipError: It was, and there is no archive of it that could be used.
        """
        was_planned_here = record.is_ours and not record.is_resumed and record.kept_config is not None
        # What this session holds and sends is sent with its own credential, whoever planned it.
        if was_planned_here or (record.is_ours and record.task_id is None):
            return
        needed = await self._credentials.needed_for(record)
        if needed is not None and not await self._is_at_hand(record, folder, name):
            message = (
                f"{record!r} was made with another credential ({needed:.16}), and its model is handed out to that one "
                "alone: download it in a session that has it; wait() and events() work in any"
            )
            raise OwnershipError(message, job_id=record.job_id, task_id=record.task_id)

    async def _is_at_hand(self, record: Record, folder: Path, name: str) -> bool:
        """Whether a job's archive is where it is asked for already, or in the shared folder."""
        if record.task_id is None:
            return False
        is_shared = await self._shared_copy(record, await self._known(record)) is not None
        return is_shared or await self.file_at_hand(record, folder, name) is not None

    async def file_at_hand(self, record: Record, folder: Path, name: str) -> Path | None:
        """Return where a job's archive is, if it is where it is asked for already, whoever holds the job."""
        files = _files(await self._known(record))
        return await to_the_end(in_thread(_found_among, files, folder, file_name(record, name)))

    async def _known(self, record: Record) -> tuple[StoredArchive, ...]:
        """Return where a job's archive was put; one whose task ended and was attached anew may have an earlier one."""
        return (record.archive,) if record.archive else await self._places(record)

    async def fetch(self, record: Record, folder: Path, name: str) -> Path:
        """Return the path of a job's archive when it is whole and checked.

        The transfer ends early only when every caller has given up; what has arrived stays for the next time.

        Raises:
            UsageError: The name is not a template, no folder can be called so, or the session was closed.
            DownloadError, OwnershipError, AuthError, QuotaError, JobExpiredError: It could not be had.
        """
        if self._book is None:
            await in_thread(_load_what_downloads_need)
        from crynux_async.downloads.book import Order
        from crynux_async.downloads.shared_folder import SharedSource

        known = await self._known(record)
        copy = await self._shared_copy(record, known)
        await self._tell_where_it_is(record, known, copy)
        open_result = partial(self._open_result, record)
        source = None if copy is None else SharedSource(copy, open_result)
        order = Order(
            owner=self._owner(record),
            folder=folder,
            name=file_name(record, name),
            open_result=source or open_result,
            known=_files(known),
            record=partial(self._stored, record),
            failed=partial(self._failed, record),
            on_progress=partial(self._progressed, record),
        )
        file = await self._opened_book().fetch(order)
        if record.archive is None:
            await self._stored(record, file)
        if self._shared is not None:
            await self._shared.keep(self._shared_place(record), file.path, replace=bool(source and source.was_refused))
        self._images.keep(record, file.path)
        return file.path

    def _shared_place(self, record: Record) -> Path:
        assert self._shared is not None
        return self._shared.place(self._owner(record), str(record.task_id))

    async def _shared_copy(self, record: Record, known: tuple[StoredArchive, ...]) -> Path | None:
        """Return a copy of a job's archive that some host has left in the shared folder, or None."""
        if self._shared is None:
            return None
        place = self._shared_place(record)
        return place if await self._shared.has(place, known[-1].total_bytes if known else None) else None

    async def _tell_where_it_is(self, record: Record, known: tuple[StoredArchive, ...], copy: Path | None) -> None:
        """Log that an archive is on another host, and where it comes from in its stead."""
        foreign = [each for each in known if each.host not in ("", self._host)]
        if not foreign or len(foreign) < len(known):
            return
        place = foreign[-1]
        # A folder is a host's own, unless all of them mount it at the same place; a mount may take its time.
        if not await to_the_end(in_thread(os.path.exists, place.path)):
            _log.info(
                "the archive of task %s is on %s (%s) and not here; it is %s",
                record.task_id,
                place.host,
                place.path,
                f"taken from {copy}" if copy else "fetched again from the service",
            )

    def _opened_book(self) -> "TransferBook":
        if self._book is None:
            from crynux_async.archive.arriving import ArchiveVerifier
            from crynux_async.archive.zip_members import ArchiveLimits
            from crynux_async.downloads.book import TransferBook
            from crynux_async.downloads.pace import DownloadOptions

            settings = self._settings
            self._book = TransferBook(
                self._spawn,
                slots=settings.max_downloads,
                verify=ArchiveVerifier() if settings.verify_archives else None,
                options=DownloadOptions(chunk_bytes=settings.chunk_bytes, stall_timeout=settings.read_timeout),
                most_bytes=ArchiveLimits().file_bytes,
            )
        return self._book

    def _owner(self, record: Record) -> str:
        return f"{self._backend.name} task {record.task_id}"

    @asynccontextmanager
    async def _open_result(
        self, record: Record, *, start: int = 0, validator: Validator | None = None
    ) -> AsyncIterator[ResultStream]:
        task = await self._tasks.recall(record)
        try:
            async with self._ask_for_result(task, start=start, validator=validator) as stream:
                self._missing_since.pop(record.job_id, None)
                yield stream
        except NotFoundError as error:
            raise await self._missing(record, error) from error

    async def _missing(self, record: Record, error: NotFoundError) -> CrynuxError:
        """Return what it means that the service has no result for a job that succeeded.

        A service may say "not found" of any trouble with its database, so two looks must say so, some time apart.
        """
        try:
            # No result can mean that the task is gone, or that the bridge lost the file: a look tells them apart.
            await self._backend.look(await self._tasks.recall(record))
        except NotFoundError:
            return self._not_known(record)
        self._missing_since.pop(record.job_id, None)
        return DownloadError(f"the service says that the task succeeded and has no result for it: {error}")

    def _not_known(self, record: Record) -> CrynuxError:
        """Return what it means that the service did not know a task just now."""
        now = monotonic()
        from crynux_async.downloads.requests import AskLaterError

        left = self._missing_since.setdefault(record.job_id, now) + GONE_FOR - now
        if left > 0:
            return AskLaterError("the service did not know the task just now", wait=left)
        del self._missing_since[record.job_id]
        self._register.learn(record, Signal.NOT_FOUND)
        return JobExpiredError("the service has deleted the task and its result")

    async def _stored(self, record: Record, file: "FinishedFile") -> bool:
        """Enter where an archive is, and return whether the ledger has it: only then may its note go."""
        from crynux_async.events import ArchiveReady

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
        stored = StoredArchive(path=file.path, total_bytes=file.total_bytes, host=self._host)
        self._register.stored(record, stored)
        try:
            await self._save()
        except LedgerError as error:
            _log.warning("where the archive of task %s is cannot be stored now: %s", record.task_id, error)
            self._spawn(self._settle(record, file))
            return False
        # A note beside the file is the only memory of it where another process owns the job by now.
        return record.is_ours

    async def _settle(self, record: Record, file: "FinishedFile") -> None:
        """Remove the note of an archive once the ledger could be told where it is."""
        try:
            await self._save_later()
        except LedgerError as error:
            _log.info("the note beside %s stays: %s", file.path, error)
        else:
            if record.is_ours:
                await self._opened_book().forget_note(file, self._owner(record))

    def _failed(self, record: Record, error: Exception) -> None:
        if isinstance(error, CrynuxError):
            error.job_id, error.task_id = record.job_id, record.task_id
            message = str(error)
            _log.warning("download of task %s: %s", record.task_id, error)
        else:  # what nobody has thought of is logged with its traceback
            message = f"{type(error).__name__}: {error}"
            _log.error("download of task %s", record.task_id, exc_info=error)
        from crynux_async.events import DownloadFailed

        # Told of every error: whoever reads the job's events would wait for more of them for ever.
        self._register.tell(DownloadFailed(job_id=record.job_id, task_id=record.task_id, at=utc_now(), message=message))

    def _progressed(self, record: Record, progress: "Progress") -> None:
        if self._register.is_listened_to(record):
            from crynux_async.events import DownloadProgressed

            self._register.tell(
                DownloadProgressed(
                    job_id=record.job_id,
                    task_id=record.task_id,
                    at=utc_now(),
                    received_bytes=progress.received_bytes,
                    total_bytes=progress.total_bytes,
                )
            )


def _load_what_downloads_need() -> None:
    """Import, in a thread, what a session that has nothing to fetch yet does without: a third of its imports."""
    importlib.import_module("crynux_async.archive.lora_archive")
    importlib.import_module("crynux_async.downloads.book")
    importlib.import_module("crynux_async.downloads.shared_folder")


def _shared_folder(place: str) -> "SharedFolder":
    from crynux_async.downloads.shared_folder import SharedFolder

    return SharedFolder(Path(place))


def _files(known: Iterable[StoredArchive]) -> "tuple[FinishedFile, ...]":
    from crynux_async.downloads.finished import FinishedFile

    return tuple(FinishedFile(path=each.path, total_bytes=each.total_bytes) for each in known)


def _found_among(known: "Sequence[FinishedFile]", folder: Path, name: str) -> Path | None:
    """Return one of the known files that is where it is asked for, or one with the same bytes; blocks."""
    from crynux_async.downloads.finished import find_finished

    try:
        found = find_finished(resolve(folder), name, known)
    except (ValueError, RuntimeError, OSError):
        return None  # no folder can be called so, and whoever makes it says why
    return None if found is None else found.path


def check_target(record: Record, folder: Path, name: str, *, has_room: bool = False) -> None:
    """Refuse a folder or a name to which a job's archive could not come; blocks for a few disk accesses.

    Args:
        record: The job.
        folder: Where its archive is wanted.
        name: The template of its name.
        has_room: Whether it is known that the archive fits.

    Raises:
        UsageError: The name is not a template, or the folder is none, cannot be written or has too little room.
    """
    check_template(name)
    config = None if has_room else record.config
    needed = None if config is None else archive_bytes(config)
    check_folder(folder, needed=needed or 0)


def file_name(record: Record, template: str) -> str:
    """Return what a job's archive is called.

    Raises:
        UsageError: The name is not a template.
    """
    return job_archive_name(template, record.config, task_id=record.task_id, job_id=record.job_id, label=record.label)
