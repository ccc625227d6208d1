"""What an archive is called on disk: after a template of ours, never by the server, and never like another one.

A name is taken when the file, its part file or its note is there. Whoever writes the note, under a lock, has the name
until the archive is there or the name is given back.
"""

import contextlib
import itertools
import os
import re
import string
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from crynux_async.downloads import disk
from crynux_async.downloads.part_file import NOTE_SUFFIX, PART_SUFFIX, Note, read_note
from crynux_async.errors import UsageError

MAX_NAME_BYTES = 200  # file systems allow 255; what a download puts beside the file needs the rest
_SUFFIX = ".zip"
_UNSAFE = re.compile(r'[<>:"/\\|?*\s]+')
_SEPARATORS = " ._-"
# Source: Microsoft, "Naming Files, Paths, and Namespaces".
_RESERVED = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|COM[0-9¹²³]|LPT[0-9¹²³])(?=\.|$)", re.IGNORECASE)


def archive_name(template: str, **facts: str | int | None) -> str:
    """Return the file name that a template gives for one job.

    Args:
        template: Text with placeholders in braces, such as ``"{task_id}-{label}.zip"``.
        **facts: The value of each possible placeholder; None and "" leave nothing.

    Returns:
        A name that every common file system takes: at most 200 bytes of UTF-8, without separators, control characters
        and names that Windows reserves, ending in ``.zip``.

    Raises:
        UsageError: The template has a placeholder that is not among the facts, or does not make sense.
    """
    pieces = []
    for text, name in _parse(template):
        pieces.append(text)
        if name is None:
            continue
        if name not in facts:
            possible = ", ".join(f"{{{fact}}}" for fact in sorted(facts))
            raise UsageError(f"{{{name}}} in the file name {template!r} is not known; possible are {possible}")
        value = facts[name]
        pieces.append("" if value is None else str(value))
    return _portable("".join(pieces))


def unused_path(folder: Path, name: str) -> Path:
    """Return ``folder/name``, or the first of ``name-2.zip``, ``name-3.zip`` ... where that is taken.

    This looks and reserves nothing: use ``reserve_path`` where another job may look at the same time.
    """
    return next(path for path in _candidates(folder, name) if not _is_taken(path))


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
        return next(path for path in _candidates(folder, name) if _take(path, owner))
    except OSError as error:
        raise disk.explain(error, folder / name, 0) from error


def release_path(path: Path, *, owner: str = "") -> None:
    """Give a reserved name back, unless something has arrived under it that a later call can continue or finish.

    Where the disk does not allow it, the name stays reserved.

    Args:
        path: What ``reserve_path`` returned.
        owner: The owner that was given there.
    """
    note_path = _beside(path, NOTE_SUFFIX)
    with contextlib.suppress(OSError):
        note = read_note(note_path)
        if note is None or note.owner != owner or os.path.lexists(_beside(path, PART_SUFFIX)):
            return
        if not _is_finished(path, note):
            note_path.unlink()


def _parse(template: str) -> Iterator[tuple[str, str | None]]:
    """Yield pairs of literal text and the name of the placeholder after it, or None."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(f"the file name {template!r} does not make sense: {error}") from error
    for text, name, spec, conversion in parsed:
        if spec or conversion:
            raise UsageError(f"{{{name}}} in the file name {template!r} must be a name alone, without ':' or '!'")
        yield text, name


def _portable(text: str) -> str:
    """Return a file name that is safe everywhere and as close to ``text`` as possible."""
    text = unicodedata.normalize("NFC", text)
    text = "".join("-" if unicodedata.category(character)[0] == "C" else character for character in text)
    text = _UNSAFE.sub("-", text)
    stem = text[: -len(_SUFFIX)] if text.lower().endswith(_SUFFIX) else text
    stem = stem.strip(_SEPARATORS) or "archive"
    if _RESERVED.match(stem):
        stem = f"_{stem}"
    return _cut(stem, MAX_NAME_BYTES - len(_SUFFIX)) + _SUFFIX


def _cut(stem: str, size: int) -> str:
    """Return at most ``size`` bytes of a name, in whole characters."""
    encoded = stem.encode()
    return stem if len(encoded) <= size else encoded[:size].decode(errors="ignore").rstrip(_SEPARATORS)


def _candidates(folder: Path, name: str) -> Iterator[Path]:
    yield folder / name
    stem, suffix = os.path.splitext(name)
    for number in itertools.count(2):
        ending = f"-{number}{suffix}"
        yield folder / (_cut(stem, MAX_NAME_BYTES - len(ending.encode())) + ending)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _is_taken(path: Path) -> bool:
    return any(os.path.lexists(_beside(path, suffix)) for suffix in ("", PART_SUFFIX, NOTE_SUFFIX))


def _is_finished(path: Path, note: Note) -> bool:
    """Whether the file at ``path`` is what the note is about: a process ended just before it could remove the note."""
    size = path.stat().st_size if path.is_file() else None
    return size is not None and note.validator is not None and note.validator.total_bytes == size


def _take(path: Path, owner: str) -> bool:
    """Write the note of a name, or find that the name is taken by somebody else."""
    note_path = _beside(path, NOTE_SUFFIX)
    descriptor = disk.open_locked(str(note_path), wait=True)
    try:
        if os.fstat(descriptor).st_size == 0:  # an empty note is one whose writer was killed
            return _write_note(descriptor, path, owner)
    finally:
        os.close(descriptor)
    note = read_note(note_path)
    if not owner or note is None or note.owner != owner:
        return False
    return not os.path.lexists(path) or _is_finished(path, note)


def _write_note(descriptor: int, path: Path, owner: str) -> bool:
    try:
        # Only now: between a look and the note another job may have finished under this name.
        is_free = not os.path.lexists(path) and not os.path.lexists(_beside(path, PART_SUFFIX))
        if is_free:
            os.write(descriptor, Note(owner=owner).encode())
    except OSError:
        is_free = False
        raise
    finally:
        if not is_free:
            _beside(path, NOTE_SUFFIX).unlink(missing_ok=True)
    return is_free
