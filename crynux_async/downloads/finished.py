"""Whether a result is on disk already, whole, where it is asked for.

A file that was finished once may have been moved, cut or replaced since: it is looked at each time. What is known of a
result is one place or a few; a second copy, made by an earlier process, is recognised by its bytes.
"""

import contextlib
import filecmp
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from crynux_async import files
from crynux_async.downloads.names import number_of, numbered_names
from crynux_async.values import Value


@attrs.frozen(kw_only=True)
class FinishedFile(Value):
    """A result that was brought to disk.

    Attributes:
        path: Where it was put.
        total_bytes: Its size, or None where that was not remembered.
    """

    path: Path
    total_bytes: int | None

    def is_intact(self) -> bool:
        """Whether it is still there in its whole length; blocks for a moment."""
        try:
            size = self.path.stat().st_size if self.path.is_file() else None
        except OSError:
            return False
        # Its bytes were verified before it got its name, so the length is enough.
        return size is not None and self.total_bytes in (None, size)


def find_finished(folder: Path, name: str, known: Sequence[FinishedFile]) -> FinishedFile | None:
    """Find a result where it is asked for; blocks, and may read files to compare them.

    Args:
        folder: Where it is asked for, without symbolic links.
        name: What it should be called; a numbered one is the same.
        known: Places where the result was put.

    Returns:
        A file that has all of its bytes, or None.
    """
    intact = [file for file in known if file.is_intact()]
    for file in intact:
        if _is_there(file, folder, name):
            return file
    return next((twin for file in intact for twin in _twins(file, folder, name)), None)


def _is_there(file: FinishedFile, folder: Path, name: str) -> bool:
    return number_of(file.path.name, name) is not None and files.resolve(file.path.parent) == folder


def _twins(file: FinishedFile, folder: Path, name: str) -> Iterator[FinishedFile]:
    """Yield files of this name that have the same bytes as a known one."""
    # Numbers are given in their order: the first that is free ends the row.
    for each in numbered_names(name):
        path = folder / each
        if not os.path.lexists(path):
            return
        with contextlib.suppress(OSError):
            # By their bytes; by default filecmp takes two files of one size and time for equal.
            if path.is_file() and filecmp.cmp(file.path, path, shallow=False):
                yield FinishedFile(path=path, total_bytes=path.stat().st_size)
