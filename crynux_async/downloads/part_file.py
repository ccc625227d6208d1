"""The private file in which a download grows, and the note beside it that says which version it holds.

Theory of operation
-------------------
A download to ``name.zip`` owns two files beside it: ``name.zip.part`` with the bytes [0, n) of one version of the
result, and ``name.zip.part.json``, the note that says which version and whose. A note without a version reserves the
name. The final name appears once, by a hard link to the complete part file (``final_name``), and nothing that has it is
ever replaced.

What makes a crash at any point harmless:

- The note of a version is in place before the first byte of that version is written.
- A part file with bytes in it is never emptied: beginning again means a new file that takes its name. So a file that
  another process has just made final cannot be emptied through a descriptor that is still open, and bytes of two
  versions never meet in one file.
- The note goes last, after the folder is on disk: a final file with a note beside it is ours, and complete.

``flock`` keeps a second download of the same name away and is only a convenience. Where it does not work, both write
the same bytes to the same places of the same file, and the second one finds its own file under the final name.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from crynux_async import files
from crynux_async.backends.base import Validator
from crynux_async.downloads import disk
from crynux_async.downloads.gathering import Gatherer
from crynux_async.downloads.notes import NOTE_SUFFIX, PART_SUFFIX, Note, beside, draft_of_note, read_note, write_note
from crynux_async.downloads.room import Room
from crynux_async.errors import DownloadError
from crynux_async.threads import clean_up, in_thread, to_the_end

_T = TypeVar("_T")

_FRESH_SUFFIX = ".part.new"


class PartFile:
    """A part file that is open, locked and ready to be continued: ``async with PartFile(path) as part``.

    Every disk error comes out as a ``DownloadError`` that says what to do. What a thread has begun is waited for, even
    by a caller who is cancelled.

    Args:
        path: The final name.
        owner: Whom the name belongs to, such as a job id. A part file of another owner is not touched.
        adopt: Whether a file that already has the final name is known to be this owner's.
        room: Promises room in the folder.
        free_space_margin: Bytes, >= 0, that must stay free in the folder.

    Attributes:
        path: The final name.
        part_path: The private name.
        validator: The version that the bytes belong to, or None where they cannot be continued.
        is_published: Whether the file has its final name.

    Raises:
        DownloadError: When entered: another download has the file, or the disk does not allow it.
    """

    __slots__ = (
        "_adopt",
        "_file",
        "_gatherer",
        "_margin",
        "_owner",
        "_room",
        "is_published",
        "part_path",
        "path",
        "validator",
    )

    def __init__(
        self,
        path: Path,
        *,
        owner: str = "",
        adopt: bool = False,
        room: Room | None = None,
        free_space_margin: int = 0,
    ) -> None:
        self.path = path
        self.part_path = beside(path, PART_SUFFIX)
        self.validator: Validator | None = None
        self.is_published = False
        self._owner = owner
        self._adopt = adopt
        self._room = room or Room()
        self._margin = free_space_margin
        self._file: disk.RawFile | None = None
        self._gatherer: Gatherer | None = None

    def __repr__(self) -> str:
        total = "?" if self.total_bytes is None else self.total_bytes
        return f"<PartFile {self.part_path}: {self.written} of {total} bytes>"

    async def __aenter__(self) -> Self:
        try:
            await self.in_thread(self._open)
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
    def written(self) -> int:
        """Bytes on disk, >= 0, without those that are appended and not flushed."""
        return self._gatherer.written if self._gatherer else 0

    @property
    def is_complete(self) -> bool:
        """Whether every byte that was announced is on disk."""
        return self.total_bytes == self.written

    @property
    def resumable_from(self) -> int:
        """Offset in bytes from which the transfer can go on, 0 where it must begin again."""
        # Without a date nothing keeps another version out: If-Range needs one where there is no ETag, as with the
        # bridge.
        dated = self.validator is not None and self.validator.last_modified is not None
        return self.written if dated or self.is_complete else 0

    @property
    def gatherer(self) -> Gatherer:
        """What appends to the file; another one after ``restart``."""
        assert self._gatherer is not None, "the part file is not open"
        return self._gatherer

    @property
    def descriptor(self) -> int:
        """The open file's number."""
        return self._opened.fileno()

    async def restart(self, validator: Validator) -> None:
        """Begin again at byte 0, with another version or the same, if all of it fits into the folder.

        Raises:
            DownloadError: It does not; names the bytes needed and the bytes free.
        """
        await self.gatherer.flush()
        await self.in_thread(self._restart, validator)

    async def learn(self, validator: Validator) -> None:
        """Note what became known about the version that the bytes belong to."""
        if validator != self.validator:
            await self.in_thread(self._write_note, validator)
            self.validator = validator

    async def require_space(self) -> None:
        """Have what is still missing promised room in the folder.

        Raises:
            DownloadError: It does not fit; names the bytes needed and the bytes free.
        """
        await self.in_thread(self._require_space)

    def release_room(self) -> None:
        """Give back what was promised: the file is complete, and is about to get another name."""
        self._room.release(self.part_path)

    async def in_thread(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """Run ``work`` in a thread and wait for its end, even when cancelled; disk errors come out as DownloadError."""
        with self.disk_errors():
            return await to_the_end(in_thread(work, *arguments))

    @contextlib.contextmanager
    def disk_errors(self) -> Iterator[None]:
        """Turn what the file system says into a DownloadError that says what to do."""
        try:
            yield
        except OSError as error:
            needed = max(0, (self.total_bytes or 0) - self.written)
            raise DownloadError(files.explain(error, self.path, needed=needed, kept=True)) from error

    def locate(self) -> Path:
        """Return where the file is now, if it is still ours; blocks for a moment.

        Raises:
            DownloadError: Something else has replaced or removed it.
        """
        # In this order: the final name is given before the private one is taken away.
        if not self.is_published and self.is_at(self.part_path):
            return self.part_path
        if self.is_published or self.is_at(self.path):
            return self.path
        raise DownloadError(f"{self.part_path} was replaced or removed by something else; call again")

    def is_at(self, path: Path) -> bool:
        """Whether the open file is the one that has this name; blocks for a moment."""
        return files.is_at(self.descriptor, path)

    def forget(self, *, keep_note: bool) -> None:
        """Remove everything beside the final file, the note last; blocks.

        Args:
            keep_note: Whether the note stays, as proof of whose the final file is.
        """
        # Only while it is ours: where locks do not work, another download may have begun a new one of that name.
        if self.is_at(self.part_path):
            self.part_path.unlink(missing_ok=True)
        for draft in (beside(self.path, _FRESH_SUFFIX), draft_of_note(self.path)):
            # A folder of that name, or somebody else's file that must not be removed: the final file is there anyhow.
            with contextlib.suppress(OSError):
                draft.unlink()
        if not keep_note:
            beside(self.path, NOTE_SUFFIX).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; blocks."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _opened(self) -> disk.RawFile:
        assert self._file is not None, "the part file is not open"
        return self._file

    async def _leave(self) -> None:
        try:
            if self._gatherer is not None:
                await self._gatherer.leave()
        finally:
            if self._file is not None:
                await clean_up(self.close)

    # From here on, everything runs in a thread.

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._take(disk.RawFile(self.part_path, disk.open_locked))
        self._take_stock()

    def _take(self, file: disk.RawFile) -> None:
        self._file = file
        self._gatherer = Gatherer(file, self.disk_errors)

    def _restart(self, validator: Validator) -> None:
        if self.written:
            old = self._opened
            # If a step below fails, the bytes of the old version must not be continued.
            self.validator = None
            self._take(disk.RawFile(beside(self.path, _FRESH_SUFFIX), self._open_fresh))
            old.close()
        # Before the first byte of this version: a crash in between leaves no bytes that nobody can place (fault case
        # D2).
        self._write_note(validator)
        self.validator = validator
        self._require_space()

    def _open_fresh(self, draft: str, flags: int) -> int:
        del flags
        # Locked before it has the name: nobody can find it there without its lock.
        return disk.open_in_place_of(self.part_path, Path(draft), lambda fresh: disk.lock(fresh, str(self.part_path)))

    def _require_space(self) -> None:
        if self.total_bytes:
            self._room.promise(
                self.part_path, total_bytes=self.total_bytes, margin=self._margin, descriptor=self.descriptor
            )

    def _take_stock(self) -> None:
        """Find out what is on disk from earlier."""
        size = os.fstat(self.descriptor).st_size
        note = read_note(beside(self.path, NOTE_SUFFIX))
        if note is not None and note.owner and self._owner and note.owner != self._owner:
            raise DownloadError(f"{self.path} is reserved by {note.owner}; choose another name")
        validator = note.validator if note else None
        if os.path.lexists(self.path):
            size = self._recognise(note, size)
            validator = Validator(last_modified=validator.last_modified if validator else None, total_bytes=size)
            self.is_published = True
        total = validator.total_bytes if validator else None
        # More bytes than the version has are not its first ones, and cannot be continued.
        self.validator = None if total is not None and size > total else validator
        self._opened.end = self.gatherer.written = self._opened.seek(size)

    def _recognise(self, note: Note | None, part_bytes: int) -> int:
        """Return the size of the file that has the final name already, or refuse to touch it."""
        # The name was given and the process died before the note went (case D5): ours, and complete.
        crashed_late = part_bytes == 0 and note is not None and note.describes(self.path)
        if not self.path.is_file() or not (self._adopt or crashed_late or self.is_at(self.path)):
            what = "is a folder" if self.path.is_dir() else "exists already and is not touched"
            raise DownloadError(f"{self.path} {what}; move it away or choose another name")
        return self.path.stat().st_size

    def _write_note(self, validator: Validator) -> None:
        earlier = read_note(beside(self.path, NOTE_SUFFIX))
        owner = self._owner or (earlier.owner if earlier else "")
        write_note(self.path, Note(owner=owner, validator=validator))


def tidy_part(path: Path) -> None:
    """Give back the room that was kept for more, or remove the part file of ``path`` when nothing has come; blocks.

    Only when nobody writes it, and not each time it is closed: a download that waits to ask again keeps its room, and
    where locks do not work, another one may be about to write to it.
    """
    part_path = beside(path, PART_SUFFIX)
    # Tidying only: the download has its own outcome to tell.
    with contextlib.suppress(OSError, ValueError, disk.LockedError):
        descriptor = files.open_plain(part_path, os.O_RDWR)
        try:
            is_locked = disk.lock(descriptor, str(part_path))
            is_ours = files.is_at(descriptor, part_path)
            if is_ours and os.fstat(descriptor).st_size == 0:
                part_path.unlink()
            elif is_ours and is_locked:
                disk.give_room_back(descriptor)
        finally:
            os.close(descriptor)
