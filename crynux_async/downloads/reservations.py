"""Who has which name in a folder: taken without a race, found again by its owner, given back when nothing came.

Theory of operation
-------------------
A name is taken when the file, its part file or its note is there. Whoever makes the note, under a lock, has the name
until the archive is there or the name is given back. A name that an owner has a note of is his before any free one:
what an earlier process began is found wherever it is, also where the name before it has become free meanwhile. A note
that was made and never written (its writer was killed, or the power was lost) is taken over, with what lies beside it.

The folder is listed once: to look for one name after another took half a second where there were thousands. A folder
that may not be listed is asked name by name, as far as the first that is free.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from crynux_async import files
from crynux_async.downloads import disk
from crynux_async.downloads.names import number_of, numbered_names
from crynux_async.downloads.notes import (
    NOTE_SUFFIX,
    PART_SUFFIX,
    Note,
    beside,
    is_blank,
    parse_note,
    read_bytes,
    read_note,
    read_open,
)
from crynux_async.errors import DownloadError


@attrs.define(eq=False, kw_only=True)
class Reservation:
    """A name that is taken when it is needed, and given back if nothing arrives under it.

    Attributes:
        folder: Where the archive will be.
        name: What it should be called.
        owner: Whom it is for, such as a job id.
        path: What was taken, or None.
    """

    folder: Path
    name: str
    owner: str
    path: Path | None = attrs.field(default=None, init=False)

    def take(self) -> Path:
        """Take a name, the first time, and return its path; blocks for a few disk accesses.

        Raises:
            DownloadError: The folder cannot be used.
        """
        if self.path is None:
            self.path = reserve_path(self.folder, self.name, owner=self.owner)
        return self.path

    def give_back(self) -> None:
        """Give the name back, unless something has arrived that a later call can go on with; blocks."""
        if self.path is not None:
            release_path(self.path, owner=self.owner)


def reserve_path(folder: Path, name: str, *, owner: str = "") -> Path:
    """Take an unused name in a folder, which is made if it does not exist; blocks for a few disk accesses.

    Args:
        folder: Where the archive will be.
        name: What it should be called.
        owner: Whom it is for, such as a job id. A name that this owner has taken before, and not finished, is returned
            again, so that a download goes on in the next process.

    Returns:
        ``folder/name``, or the first of ``name-2.zip``, ``name-3.zip`` ... that is free.

    Raises:
        DownloadError: The folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = _look(folder, name, owner)
        if there.own is not None:
            return folder / there.own
        # The listing is a hint, the note under its lock decides: another process may take a name in between.
        return next(folder / each for each in there.free(name) if _take(folder / each, owner))
    except OSError as error:
        raise DownloadError(files.explain(error, folder / name, kept=True)) from error


def release_path(path: Path, *, owner: str = "") -> None:
    """Give a reserved name back, unless something has arrived under it that a later call can continue or finish.

    Where the disk does not allow it, the name stays reserved.

    Args:
        path: What ``reserve_path`` returned.
        owner: The owner that was given there.
    """
    with contextlib.suppress(OSError):
        note = read_note(beside(path, NOTE_SUFFIX))
        # A part file that is left has bytes: an empty one was removed before (``tidy_part``).
        if note is None or note.owner != owner or os.path.lexists(beside(path, PART_SUFFIX)):
            return
        # The file is finished and nobody has recorded it yet: the note is the only proof of whose it is.
        if not note.describes(path):
            beside(path, NOTE_SUFFIX).unlink()


def forget_note(path: Path, *, owner: str = "") -> None:
    """Remove the note beside a finished file: where the file is has been recorded elsewhere; blocks.

    A note that stays because the disk does not allow it does no harm.

    Args:
        path: The finished file.
        owner: Whose note it is; that of somebody else stays.
    """
    with contextlib.suppress(OSError):
        note = read_note(beside(path, NOTE_SUFFIX))
        if note is not None and note.owner == owner and note.describes(path):
            beside(path, NOTE_SUFFIX).unlink()


@attrs.frozen(kw_only=True)
class _Look:
    """What was in a folder at one moment, as far as one name and its numbered ones go.

    Attributes:
        listing: The names of everything that was looked at.
        own: The first name of which the owner has a note, and which has no other file; or None.
        blank: Names beside which lies a note that was never written.
    """

    listing: frozenset[str]
    own: str | None
    blank: frozenset[str]

    def free(self, name: str) -> Iterator[str]:
        """Yield the names that nobody had, in their order."""
        for each in numbered_names(name):
            if each not in self.listing and (each in self.blank or self.listing.isdisjoint(_beside(each))):
                yield each


def _look(folder: Path, name: str, owner: str) -> _Look:
    listing = _list(folder, name)
    named = (found.removesuffix(NOTE_SUFFIX) for found in listing if found.endswith(NOTE_SUFFIX))
    numbers = {each: number for each in named if (number := number_of(each, name)) is not None}
    wanted, blank = json.dumps(owner).encode(), set()
    for each in sorted(numbers, key=numbers.__getitem__):
        data = read_bytes(f"{folder}/{each}{NOTE_SUFFIX}")
        # Most notes in a folder are of others: no need to parse them.
        if data is not None and owner and wanted in data and _is_own(folder / each, data, owner):
            return _Look(listing=listing, own=each, blank=frozenset())
        if is_blank(data):
            blank.add(each)
    return _Look(listing=listing, own=None, blank=frozenset(blank))


def _list(folder: Path, name: str) -> frozenset[str]:
    """Return the names of everything in a folder; where it may not be listed, of what is looked for one by one."""
    try:
        return frozenset(os.listdir(folder))
    except PermissionError:
        return frozenset(_probe(folder, name))


def _probe(folder: Path, name: str) -> Iterator[str]:
    for each in numbered_names(name):
        found = [being for being in (each, *_beside(each)) if os.path.lexists(folder / being)]
        if not found:
            return
        yield from found


def _beside(name: str) -> tuple[str, str]:
    return name + PART_SUFFIX, name + NOTE_SUFFIX


def _is_own(path: Path, data: bytes, owner: str) -> bool:
    """Whether the note is this owner's, and what is under the name is what the note is about."""
    note = parse_note(data)
    return note is not None and note.owner == owner and (not os.path.lexists(path) or note.describes(path))


def _take(path: Path, owner: str) -> bool:
    """Write the note of a name, or find that the name is taken by somebody else."""
    try:
        descriptor = disk.open_locked(str(beside(path, NOTE_SUFFIX)))
    except DownloadError:  # somebody takes the name just now, or it is no file that could be a note
        return False
    try:
        return is_blank(read_open(descriptor)) and _write_first_note(descriptor, path, owner)
    finally:
        os.close(descriptor)


def _write_first_note(descriptor: int, path: Path, owner: str) -> bool:
    is_free = False
    try:
        # Only now: between a look and the note another job may have finished under this name.
        is_free = not os.path.lexists(path) and not _is_in_use(beside(path, PART_SUFFIX))
        if is_free:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            files.write_all(descriptor, Note(owner=owner).encode())
    except OSError:
        is_free = False
        raise
    finally:
        if not is_free:
            beside(path, NOTE_SUFFIX).unlink(missing_ok=True)
    return is_free


def _is_in_use(part: Path) -> bool:
    """Whether there is a part file that somebody writes, or that is none."""
    try:
        descriptor = files.open_plain(part, os.O_RDWR)
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        # What cannot be opened is somebody's, for all that is known.
        return True
    try:
        disk.lock(descriptor, str(part))
    except DownloadError:
        return True
    finally:
        os.close(descriptor)
    return False
