"""The note beside a part file: which version of a result it holds, and whose it is.

A note alone reserves a name. It comes from a disk that others may write to, and that may have lost its power: a note
that cannot be understood says nothing, and costs nothing but itself.
"""

import json
import os
from pathlib import Path

import attrs

from crynux_async import files
from crynux_async.backends.base import Validator
from crynux_async.downloads import disk

PART_SUFFIX = ".part"
NOTE_SUFFIX = ".part.json"
_DRAFT_SUFFIX = ".part.json.new"
# Ours have a few hundred; what is longer was put there by somebody else, and is not read into memory.
_MOST_BYTES = 1 << 16


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

    def describes(self, path: Path) -> bool:
        """Whether the file at ``path`` has the size of this version: then it is the finished one."""
        size = path.stat().st_size if path.is_file() else None
        return size is not None and self.validator is not None and self.validator.total_bytes == size


def beside(path: Path, suffix: str) -> Path:
    """Return the path of what a download puts beside its file."""
    return path.with_name(path.name + suffix)


def draft_of_note(path: Path) -> Path:
    """Return where the next note of ``path`` is written before it takes the note's name."""
    return beside(path, _DRAFT_SUFFIX)


def read_note(note_path: Path) -> Note | None:
    """Return the note at ``note_path``, or None where there is none that can be understood."""
    return parse_note(read_bytes(note_path))


def read_bytes(note_path: str | Path) -> bytes | None:
    """Return what is written in a note; None where there is no file, none of ours, or one too long for a note.

    Raises:
        OSError: The disk failed.
    """
    try:
        descriptor = files.open_plain(note_path)
    except (FileNotFoundError, PermissionError, ValueError):
        return None
    except OSError:
        # A link, a pipe or a socket says ELOOP, ENXIO and others: no note is there. EIO of a file is the disk's
        # failure.
        if os.path.islink(note_path) or not os.path.isfile(note_path):
            return None
        raise
    try:
        return read_open(descriptor)
    finally:
        os.close(descriptor)


def read_open(descriptor: int) -> bytes | None:
    """Return what is written in an open note, or None where that is too long for one."""
    data = os.pread(descriptor, _MOST_BYTES, 0)
    return data if len(data) < _MOST_BYTES else None


def is_blank(data: bytes | None) -> bool:
    """Whether a note was made and never written: its writer was killed, or the power was lost."""
    # After a power cut a file may have its length and none of its bytes: file systems fill in zeros.
    return data is not None and not data.strip(b"\0")


def parse_note(data: bytes | None) -> Note | None:
    """Return what the bytes of a note say, or None where they say nothing."""
    if data is None:
        return None
    try:
        found = json.loads(data)
        owner, last_modified, total = found["owner"], found.get("last_modified"), found.get("total_bytes")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        # Deeply nested brackets, in a file that anybody may have written.
        return None
    if not isinstance(owner, str) or not isinstance(last_modified, str | None) or not _is_size(total):
        return None
    known = last_modified is not None or total is not None
    return Note(owner=owner, validator=Validator(last_modified=last_modified, total_bytes=total) if known else None)


def write_note(path: Path, note: Note) -> None:
    """Put a note beside ``path``, in place of the one that is there, whole or not at all."""
    descriptor = disk.open_in_place_of(
        beside(path, NOTE_SUFFIX), draft_of_note(path), lambda draft: files.write_all(draft, note.encode())
    )
    os.close(descriptor)


def _is_size(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
