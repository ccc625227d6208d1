"""The private file in which a download grows, and the note beside it that says which version it holds.

Theory of operation
-------------------
A download to ``name.zip`` owns two files beside it: ``name.zip.part`` with the bytes [0, n) of one version of the
result, and ``name.zip.part.json``, the note that says which version and whose. A note without a version reserves the
name. The final name appears once, by a hard link to the complete part file, and nothing that has it is ever replaced.

What makes a crash at any point harmless:

- The note of a version is in place before the first byte of that version is written.
- A part file with bytes in it is never emptied: beginning again means a new file that takes its name. So a file that
  another process has just made final cannot be emptied through a descriptor that is still open, and bytes of two
  versions never meet in one file.
- The note goes last, after the folder is on disk: a final file with a note beside it is ours, and complete.

``flock`` keeps a second download of the same name away and is only a convenience. Where it does not work, both write
the same bytes to the same places of the same file, and the second one finds its own file under the final name.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import attrs
from aiofiles.threadpool import wrap
from aiofiles.threadpool.binary import AsyncFileIO

from crynux_async.backends.base import Validator
from crynux_async.downloads import disk
from crynux_async.errors import ArchiveError, CrynuxError, DownloadError

_T = TypeVar("_T")

PART_SUFFIX = ".part"
NOTE_SUFFIX = ".part.json"
GATHERED_BYTES = 3 << 18
WORTH_A_WRITE = 1 << 16
# Seconds that less than that waits for more: a thousand slow downloads must not write four thousand times.
_LINGER = 2.0
_MOST_CHECKS, _CHECK_PAUSE = 20, 0.5


@attrs.frozen(kw_only=True)
class Note:
    """What is written beside a part file.

    Attributes:
        owner: Whom the name belongs to, in the caller's words, or "".
        validator: Which version the part file holds, or None where the name is only reserved.
    """

    owner: str = ""
    validator: Validator | None = None

    def encode(self) -> bytes:
        """Return the bytes that ``read_note`` understands."""
        version = attrs.asdict(self.validator) if self.validator else {}
        return json.dumps({"owner": self.owner, **version}).encode()


def read_note(path: Path) -> Note | None:
    """Return the note at ``path``, or None where there is none that can be understood."""
    try:
        data = json.loads(path.read_bytes())
        owner, last_modified, total = data["owner"], data.get("last_modified"), data.get("total_bytes")
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return None
    if not isinstance(owner, str) or not isinstance(last_modified, str | None) or not _is_size(total):
        return None
    known = last_modified is not None or total is not None
    return Note(owner=owner, validator=Validator(last_modified=last_modified, total_bytes=total) if known else None)


def _is_size(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


@attrs.frozen(kw_only=True)
class _Seen:
    """A file at one moment."""

    path: Path
    changed_ns: int


class PartFile:
    """A part file that is open, locked and ready to be continued: ``async with PartFile(path) as part``.

    Every disk error comes out as a ``DownloadError`` that says what to do. What a thread has begun is waited for, even
    by a caller who is cancelled.

    Args:
        path: The final name.
        owner: Whom the name belongs to, such as a job id. A part file of another owner is not touched.
        adopt: Whether a file that already has the final name is known to be this owner's.
        free_space_margin: Bytes, >= 0, that must stay free in the folder.

    Attributes:
        path: The final name.
        part_path: The private name.
        validator: The version that the bytes belong to, or None where they cannot be continued.
        written: Bytes on disk, >= 0, without those that are appended and not flushed.
        is_published: Whether the file has its final name.

    Raises:
        DownloadError: When entered: another download has the file, or the disk does not allow it.
    """

    __slots__ = (
        "_adopt",
        "_draft_path",
        "_file",
        "_fresh_path",
        "_lingering",
        "_margin",
        "_note_path",
        "_owner",
        "_room",
        "_waiting",
        "_waiting_bytes",
        "_writer",
        "_writing",
        "is_published",
        "part_path",
        "path",
        "validator",
        "written",
    )

    def __init__(self, path: Path, *, owner: str = "", adopt: bool = False, free_space_margin: int = 0) -> None:
        self.path = path
        self.part_path = path.with_name(path.name + PART_SUFFIX)
        self.validator: Validator | None = None
        self.written = 0
        self.is_published = False
        self._note_path = path.with_name(path.name + NOTE_SUFFIX)
        self._fresh_path = path.with_name(path.name + PART_SUFFIX + ".new")
        self._draft_path = path.with_name(path.name + NOTE_SUFFIX + ".new")
        self._owner = owner
        self._adopt = adopt
        self._margin = free_space_margin
        self._file: disk.RawFile | None = None
        self._writer: AsyncFileIO | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._writing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        total = "?" if self.total_bytes is None else self.total_bytes
        return f"<PartFile {self.part_path}: {self.written} of {total} bytes>"

    async def __aenter__(self) -> Self:
        try:
            await self._in_thread(self._open)
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave()

    @property
    def total_bytes(self) -> int | None:
        """Size of the whole result in bytes, or None where it is not known."""
        return self.validator.total_bytes if self.validator else None

    @property
    def is_complete(self) -> bool:
        """Whether every byte that was announced is on disk."""
        return self.total_bytes == self.written

    @property
    def resumable_from(self) -> int:
        """Offset in bytes from which the transfer can go on, 0 where it must begin again."""
        dated = self.validator is not None and self.validator.last_modified is not None
        return self.written if dated or self.is_complete else 0

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be written that nothing more should be appended before ``make_room``."""
        return self._waiting_bytes >= GATHERED_BYTES

    async def restart(self, validator: Validator) -> None:
        """Begin again at byte 0, with another version or the same, if all of it fits into the folder.

        Raises:
            DownloadError: It does not; names the bytes needed and the bytes free.
        """
        await self.flush()
        await self._in_thread(self._restart, validator)

    async def learn(self, validator: Validator) -> None:
        """Note what became known about the version that the bytes belong to."""
        if validator != self.validator:
            await self._in_thread(self._write_note, validator)
            self.validator = validator

    def append(self, piece: bytes) -> None:
        """Have ``piece`` written after everything before it, without waiting for that.

        Pieces that come while one write is under way gather for the next one, and small ones gather for up to two
        seconds: reading goes on and writes are few. ``is_full`` bounds the memory.

        Raises:
            DownloadError: A write failed.
        """
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        if self._writing is None or self._writing.done():
            self._raise_failure()
            if self._waiting_bytes >= WORTH_A_WRITE:
                self._begin_write()
            elif self._lingering is None:
                self._lingering = asyncio.get_running_loop().call_later(_LINGER, self._begin_write)

    async def make_room(self) -> None:
        """Wait until what has gathered is being written.

        Raises:
            DownloadError: A write failed.
        """
        self._room.clear()
        await self._room.wait()
        self._raise_failure()

    async def flush(self) -> None:
        """Wait until every appended piece is written.

        Raises:
            DownloadError: A write failed.
        """
        self._begin_write()
        if self._writing is not None:
            await asyncio.wait((self._writing,))
            self._raise_failure()

    async def require_space(self) -> None:
        """Check that what is still missing fits into the folder.

        Raises:
            DownloadError: It does not; names the bytes needed and the bytes free.
        """
        await self._in_thread(self._require_space)

    async def check(
        self, verify: Callable[[Path], object] | None, slots: AbstractAsyncContextManager[object] | None = None
    ) -> None:
        """Check the length, then run ``verify`` on the file in a thread.

        A cancelled check leaves the thread of ``verify`` to end by itself: it only reads.

        Args:
            verify: What to run, or None.
            slots: Held while it runs.

        Raises:
            ArchiveError: The file is not what it should be.
            DownloadError: It cannot be read, or something else has replaced it.
        """
        await self.flush()
        for left in reversed(range(_MOST_CHECKS)):
            seen = await self._in_thread(self._whole_file)
            if verify is None:
                return
            try:
                async with slots or contextlib.nullcontext():
                    with self._disk_errors():
                        await asyncio.get_running_loop().run_in_executor(None, verify, seen.path)
            except (ArchiveError, DownloadError):
                # A process not kept away by a lock may still write the same bytes, or have given the file its name.
                if not left or seen == await self._in_thread(self._whole_file):
                    raise
                await asyncio.sleep(_CHECK_PAUSE)
            else:
                return

    async def digest(self) -> str:
        """Return the SHA-256 of what is on disk, in hex."""
        return await self._in_thread(self._digest)

    async def publish(self) -> None:
        """Make the file durable, give it its final name, remove what is beside it, and close it.

        Raises:
            DownloadError: The final name is taken, or the disk did not keep the data; then the file is not published.
        """
        await self._in_thread(self._publish)

    async def set_aside(self) -> Path:
        """Give the file a name ending in ``.corrupt`` that nothing else has, and return its path."""
        return await self._in_thread(self._set_aside)

    @property
    def _missing(self) -> int:
        return max(0, (self.total_bytes or 0) - self.written)

    @property
    def _opened(self) -> disk.RawFile:
        if self._file is None:
            raise RuntimeError("the part file is not open")
        return self._file

    async def _in_thread(self, work: Callable[..., _T], *arguments: Any) -> _T:
        with self._disk_errors():
            return await _to_the_end(_in_thread(work, *arguments))

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk.explain(error, self.path, self._missing) from error

    async def _leave(self) -> None:
        try:
            self._begin_write()
            if self._writing is not None:
                with contextlib.suppress(CrynuxError):  # whoever leaves without a flush has an error of his own
                    await _to_the_end(self._writing)
        finally:
            if self._file is not None:
                await _to_the_end(_in_thread(self._close))

    def _begin_write(self) -> None:
        """Start to write what has gathered, unless a write is under way (then it is next) or has failed."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        is_free = self._writing is None or (self._writing.done() and self._writing.exception() is None)
        if self._waiting and is_free:
            self._writing = asyncio.create_task(self._write_waiting())

    def _raise_failure(self) -> None:
        if self._writing is not None and self._writing.done():
            self._writing.result()

    async def _write_waiting(self) -> None:
        try:
            while self._waiting:
                pieces, self._waiting, self._waiting_bytes = self._waiting, [], 0
                self._room.set()
                await self._write(pieces)
        finally:
            self._room.set()

    async def _write(self, pieces: list[bytes]) -> None:
        file = self._opened
        if self._writer is None:
            self._writer = wrap(file, loop=asyncio.get_running_loop())
        with self._disk_errors():
            try:
                await self._writer.writelines(pieces)
            finally:
                self.written = file.end

    # From here on, everything runs in a thread.

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = disk.RawFile(self.part_path, disk.open_locked)
        self._take_stock()

    def _restart(self, validator: Validator) -> None:
        if self.written:
            old = self._opened
            self._file = disk.RawFile(self._fresh_path, self._open_fresh)
            self._writer = None
            self.written, self.validator = 0, None
            old.close()
        self._write_note(validator)
        self.validator = validator
        self._require_space()

    def _close(self) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # all that matters was synced, or will be fetched again
            if self._size() == 0 and self._is_at(self.part_path):
                os.unlink(self.part_path)
        self._file.close()
        self._file = None

    def _require_space(self) -> None:
        if self.total_bytes is not None:
            disk.require_space(self.path, self._missing, self._margin)

    def _size(self) -> int:
        return os.fstat(self._opened.fileno()).st_size

    def _take_stock(self) -> None:
        """Find out what is on disk from earlier."""
        size = self._size()
        note = read_note(self._note_path)
        if note is not None and note.owner and self._owner and note.owner != self._owner:
            raise DownloadError(f"{self.path} is reserved by {note.owner}; choose another name")
        validator = note.validator if note else None
        if os.path.lexists(self.path):
            size = self._recognise(validator, size)
            validator = Validator(last_modified=validator.last_modified if validator else None, total_bytes=size)
            self.is_published = True
        total = validator.total_bytes if validator else None
        self.validator = None if total is not None and size > total else validator
        self.written = size
        self._opened.end = self._opened.seek(size)

    def _recognise(self, noted: Validator | None, part_bytes: int) -> int:
        """Return the size of the file that has the final name already, or refuse to touch it."""
        size = self.path.stat().st_size if self.path.is_file() else None
        crashed_late = part_bytes == 0 and noted is not None and noted.total_bytes == size
        if size is None or not (self._adopt or crashed_late or self._is_at(self.path)):
            what = "is a folder" if self.path.is_dir() else "exists already and is not touched"
            raise DownloadError(f"{self.path} {what}; move it away or choose another name")
        return size

    def _open_fresh(self, draft: str, flags: int) -> int:
        del flags
        return disk.open_in_place_of(self.part_path, draft)

    def _write_note(self, validator: Validator) -> None:
        earlier = read_note(self._note_path)
        owner = self._owner or (earlier.owner if earlier else "")
        for _ in range(3):
            self._draft_path.write_bytes(Note(owner=owner, validator=validator).encode())
            with contextlib.suppress(FileNotFoundError):  # a process not kept away by a lock moved this very draft
                os.replace(self._draft_path, self._note_path)
                return
        raise DownloadError(f"another process is writing {self._note_path}; call again")

    def _is_at(self, path: Path) -> bool:
        return disk.is_at(self._opened.fileno(), path)

    def _locate(self) -> Path:
        """Return where the file is now, if it is still ours."""
        # In this order: the final name is given before the private one is taken away.
        if not self.is_published and self._is_at(self.part_path):
            return self.part_path
        if self.is_published or self._is_at(self.path):
            return self.path
        raise DownloadError(f"{self.part_path} was replaced or removed by something else; call again")

    def _whole_file(self) -> _Seen:
        where = self._locate()
        status = where.stat() if self.is_published else os.fstat(self._opened.fileno())
        if status.st_size != self.total_bytes:
            raise ArchiveError(f"{where} has {status.st_size} bytes in place of {self.total_bytes}")
        return _Seen(path=where, changed_ns=status.st_mtime_ns)

    def _digest(self) -> str:
        with self._locate().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _publish(self) -> None:
        if not self.is_published:
            self._sync_or_discard()
            self._take_final_name()
            self.is_published = True
        disk.sync_folder(self.path.parent)
        self._forget()
        self._close()

    def _sync_or_discard(self) -> None:
        """Make the bytes durable, or delete them.

        After a failed fsync Linux takes the lost pages for clean, and the next fsync reports success.
        Source: Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
        """
        try:
            os.fsync(self._opened.fileno())
        except OSError as error:
            outcome = "was deleted" if self._discard() else "must be deleted by hand"
            raise DownloadError(
                f"{self.part_path} could not be made durable ({error.strerror}) and {outcome}; check the disk and "
                "download again"
            ) from error

    def _discard(self) -> bool:
        with contextlib.suppress(OSError):
            if self._is_at(self.part_path):
                os.unlink(self.part_path)
        return not os.path.lexists(self.part_path)

    def _take_final_name(self) -> None:
        try:
            disk.move_without_overwriting(self.part_path, self.path)
        except (FileExistsError, FileNotFoundError) as error:
            if not self._is_at(self.path):  # else a process not kept away by a lock was first, with this very file
                raise DownloadError(
                    f"{self.path} was taken while it was fetched; everything is in {self.part_path}: move the other "
                    "file away and call again"
                ) from error

    def _set_aside(self) -> Path:
        names = itertools.chain([".corrupt"], (f".corrupt-{number}" for number in itertools.count(2)))
        for target in (self.path.with_name(self.path.name + name) for name in names):
            with contextlib.suppress(FileExistsError):
                disk.move_without_overwriting(self.part_path, target)
                break
        self._forget()
        return target

    def _forget(self) -> None:
        """Remove everything beside the final file, the note last."""
        if self._is_at(self.part_path):
            self.part_path.unlink(missing_ok=True)
        for path in (self._fresh_path, self._draft_path, self._note_path):
            path.unlink(missing_ok=True)


def _in_thread(work: Callable[..., _T], *arguments: Any) -> asyncio.Future[_T]:
    return asyncio.get_running_loop().run_in_executor(None, work, *arguments)


async def _to_the_end(work: asyncio.Future[_T]) -> _T:
    """Await ``work`` to its end even when the caller is cancelled meanwhile; then pass the cancellation on."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not work.cancelled():
            work.exception()  # the caller wants to leave, not to hear of it
        raise cancelled
    return work.result()
