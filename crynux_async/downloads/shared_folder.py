"""A folder that several hosts see: what one of them has fetched the others take from there.

A file in it is called after the task that it is the result of, whatever its users call theirs. Nothing in it is
believed: a copy comes from there as it comes from the service, measured, verified and made durable on the way, and
where it is not good or cannot be read the service is asked. On one file system both names are one file and take the
room of one.
"""

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiofiles
import attrs

from crynux_async import files
from crynux_async.backends.base import ResultStream, Validator
from crynux_async.downloads.names import archive_name
from crynux_async.errors import TransportError
from crynux_async.threads import in_thread, to_the_end

if TYPE_CHECKING:
    from crynux_async.downloads.requests import OpenResult

_log = logging.getLogger("crynux_async.downloads.shared_folder")


class SharedFolder:
    """Where hosts leave archives for each other.

    Args:
        folder: The folder as this host sees it. It is never made here: where it is missing, it is not mounted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, owner: str, task_id: str) -> Path:
        """Return where the archive of a task is, if anybody has put it there.

        Args:
            owner: Names the service and the task, in words that other hosts would use too.
            task_id: The task alone, for people who look into the folder.
        """
        digest = hashlib.sha256(owner.encode()).hexdigest()[:16]
        return self._folder / archive_name("{task_id}-{digest}.zip", task_id=task_id, digest=digest)

    async def has(self, place: Path, total_bytes: int | None) -> bool:
        """Whether an archive is there in its whole length.

        Args:
            place: What ``place()`` returned.
            total_bytes: The length, or None where it is not known.
        """
        return await to_the_end(in_thread(_has, place, total_bytes))

    async def keep(self, place: Path, file: Path, *, replace: bool) -> None:
        """Leave an archive for the other hosts; what goes wrong is logged, and no download fails for it.

        Args:
            place: What ``place()`` returned.
            file: The archive, whole and verified.
            replace: Whether what is there was found to be no good.
        """
        try:
            await to_the_end(in_thread(_keep, place, file, replace))
        except OSError as error:
            _log.warning("%s is not left in the shared folder: %s", file, files.explain(error, place))


def _has(place: Path, total_bytes: int | None) -> bool:
    try:
        return place.is_file() and total_bytes in (None, place.stat().st_size)
    except OSError:
        return False


def _keep(place: Path, file: Path, replace: bool) -> None:
    if not replace:
        if _has(place, file.stat().st_size):
            return
        with contextlib.suppress(OSError):  # another file system, one without links, or a copy of another length
            os.link(file, place)
            files.sync_folder(place.parent)
            return
    with file.open("rb") as source, files.new_file(place, replace=True) as copy:
        shutil.copyfileobj(source, copy, 1 << 20)


@attrs.define(eq=False)
class SharedSource:
    """Opens a result: the copy in a shared folder the first time, and the service's from then on.

    Attributes:
        was_refused: Whether the service was asked although a copy was there.
    """

    _copy: Path
    _open_result: "OpenResult"
    _is_used: bool = attrs.field(default=False, init=False)
    was_refused: bool = attrs.field(default=False, init=False)

    @asynccontextmanager
    async def __call__(self, *, start: int = 0, validator: Validator | None = None) -> AsyncIterator[ResultStream]:
        """Open the result; the copy always from its first byte, whatever has come from the service before."""
        file = None if self._is_used else await self._opened()
        self._is_used = True
        if file is None:
            self.was_refused = True
            async with self._open_result(start=start, validator=validator) as stream:
                yield stream
            return
        try:
            yield _FileStream(file, os.fstat(file.fileno()).st_size)
        finally:
            await file.close()

    async def _opened(self) -> Any:
        try:
            return await aiofiles.open(self._copy, "rb", buffering=0)
        except OSError as error:
            _log.warning("%s cannot be read, the service is asked: %s", self._copy, error)
            return None


class _FileStream:
    """A file as the answer to a request for a whole result."""

    start = 0

    def __init__(self, file: Any, size: int) -> None:
        # Without a date: what has come of it is not continued by anything else.
        self.validator = Validator(last_modified=None, total_bytes=size)
        self._file = file

    async def chunks(self, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Yield the file in pieces.

        Raises:
            TransportError: It cannot be read to its end.
        """
        try:
            while piece := await self._file.read(chunk_bytes):
                yield piece
        except OSError as error:
            raise TransportError(f"the copy in the shared folder cannot be read: {error}") from error
