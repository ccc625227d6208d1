"""Where a file gets its final name, and what is checked before.

A downloaded file has its final name only when all of this holds: it has exactly the length that was announced; whoever
asked for it has verified it (for archives: the ZIP's structure, the checksum of every byte, the LoRA's header); nothing
changed it meanwhile; its bytes are on disk; and nothing else has the name. Then ``files.publish`` gives the name and
makes it durable, and what stood beside the file is removed. A file that is not good gets a name in ``.corrupt``.
"""

import asyncio
import contextlib
import filecmp
import hashlib
import itertools
import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs

from crynux_async import files
from crynux_async.downloads.checking import Stoppable, Verify
from crynux_async.downloads.part_file import PartFile
from crynux_async.errors import ArchiveError, DownloadError
from crynux_async.threads import in_thread

# Ten seconds in which a process that no lock keeps away may finish the same file (case D9).
_MOST_CHECKS, _CHECK_PAUSE = 20, 0.5


@attrs.frozen(kw_only=True)
class _Seen:
    """A file at one moment."""

    path: Path
    changed_ns: int


async def check(
    part: PartFile,
    verify: Verify | None,
    slots: AbstractAsyncContextManager[object],
) -> None:
    """Check the length, then run ``verify`` on the file in a thread.

    A cancelled check ends at once: the thread of ``verify``, which only reads, is told to stop if it can be told, or
    left to end by itself.

    Args:
        part: The file.
        verify: What to run, or None.
        slots: Held while it runs.

    Raises:
        ArchiveError: The file is not what it should be.
        DownloadError: It cannot be read, or something else has replaced it.
    """
    # It is read from disk: what has only gathered would look like a file cut short.
    await part.gatherer.flush()
    for left in reversed(range(_MOST_CHECKS)):
        seen = await part.in_thread(_whole_file, part)
        if verify is None:
            return
        try:
            async with slots:
                with part.disk_errors():
                    await in_thread(_verify, verify, seen.path)
        except asyncio.CancelledError:
            if isinstance(verify, Stoppable):
                verify.stop()
            raise
        except (ArchiveError, DownloadError):
            # A process not kept away by a lock may still write the same bytes, or have given the file its name.
            if not left or seen == await part.in_thread(_whole_file, part):
                raise
            await asyncio.sleep(_CHECK_PAUSE)
        else:
            return


async def publish(part: PartFile, *, keep_note: bool = False) -> None:
    """Make the file durable, give it its final name, remove what is beside it, and close it.

    Args:
        part: The file, checked.
        keep_note: Whether the note stays beside it, until somebody has recorded where the file is.

    Raises:
        DownloadError: The final name is taken, or the disk did not keep the data; then the file is not published.
    """
    await part.in_thread(_publish, part, keep_note)


async def set_aside(part: PartFile) -> Path:
    """Give the file a name ending in ``.corrupt`` that nothing else has, and return its path."""
    return await part.in_thread(_set_aside, part)


async def digest(part: PartFile) -> str:
    """Return the SHA-256 of what is on disk, in hex."""
    return await part.in_thread(_digest, part)


def _whole_file(part: PartFile) -> _Seen:
    where = part.locate()
    # A file that was found under its final name need not be the open one: that is an empty part file then.
    status = where.stat() if part.is_published else os.fstat(part.descriptor)
    if status.st_size != part.total_bytes:
        raise ArchiveError(f"{where} has {status.st_size} bytes in place of {part.total_bytes}")
    return _Seen(path=where, changed_ns=status.st_mtime_ns)


def _verify(verify: Verify, path: Path) -> None:
    """Verify a file; where the machine could not read it, nothing is known of it, and nothing said against it.

    Raises:
        ArchiveError: The file is not what it should be.
        OSError: The disk does not give its bytes.
        DownloadError: There was not enough memory.
    """
    try:
        verify(path)
    except (ArchiveError, MemoryError) as error:
        cause = error.__cause__ if isinstance(error, ArchiveError) else error
        if isinstance(cause, OSError):
            raise cause from None
        if isinstance(cause, MemoryError):
            raise DownloadError(
                f"{path}: there is not enough memory to verify it; what arrived is kept, call again when there is"
            ) from cause
        raise


def _digest(part: PartFile) -> str:
    with part.locate().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(part: PartFile, keep_note: bool) -> None:
    if part.is_published:
        # Whoever gave the name may have died before this: the name need not be durable yet.
        files.sync_folder(part.path.parent)
    else:
        _give_name(part)
        part.is_published = True
    part.forget(keep_note=keep_note)
    part.close()


def _give_name(part: PartFile) -> None:
    try:
        files.publish(part.descriptor, part.part_path, part.path)
    except files.NotDurableError as error:
        outcome = "was deleted" if _discard(part) else "must be deleted by hand"
        raise DownloadError(
            f"{part.part_path} could not be made durable ({error.strerror}) and {outcome}; check the disk and "
            "download again"
        ) from error
    except (FileExistsError, FileNotFoundError) as error:
        if not part.is_at(part.path):  # else a process not kept away by a lock was first, with this very file
            raise DownloadError(
                f"{part.path} was taken while it was fetched; everything is in {part.part_path}: move the other "
                "file away and call again"
            ) from error
        files.sync_folder(part.path.parent)


def _discard(part: PartFile) -> bool:
    """Delete a file whose bytes the disk did not keep, so that nobody goes on with it; return whether it is gone."""
    with contextlib.suppress(OSError):
        if part.is_at(part.part_path):
            part.part_path.unlink()
    return not os.path.lexists(part.part_path)


def _set_aside(part: PartFile) -> Path:
    # Copies that earlier calls put aside are evidence, too: none is overwritten. The same bytes again are none: a
    # command that is run every hour would fill the disk with one damaged result.
    names = itertools.chain([".corrupt"], (f".corrupt-{number}" for number in itertools.count(2)))
    for target in (part.path.with_name(part.path.name + name) for name in names):
        if _has_same_bytes(part.part_path, target):
            part.part_path.unlink()
            break
        with contextlib.suppress(FileExistsError):
            files.move_without_overwriting(part.part_path, target)
            break
    part.forget(keep_note=False)
    return target


def _has_same_bytes(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return filecmp.cmp(one, other, shallow=False)
    return False
