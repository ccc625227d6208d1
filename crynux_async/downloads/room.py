"""Whether a file fits where it is to go, together with those that are already on their way there.

A download that begins is promised the room for the whole of its file; what the others still have to write is not free.
A promise is kept from when the size is known until the download ends, pauses included. It covers downloads that share
one :class:`Room`; what other programs write is only seen when it is there.
"""

import os
import shutil
import threading
from pathlib import Path

import attrs

from crynux_async.errors import DownloadError


@attrs.frozen
class _Promise:
    """Room for one file, on one disk."""

    device: int
    total_bytes: int


@attrs.define(eq=False)
class Room:
    """What downloads that run were promised, by disk. Its methods block and may be called from any thread."""

    _promises: dict[Path, _Promise] = attrs.field(factory=dict, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def promise(self, part: Path, *, total_bytes: int, margin: int) -> None:
        """Promise the room for a whole file, in place of what was promised for it before.

        Args:
            part: The file in which it grows; what is in it already needs no more room.
            total_bytes: Its size when it is complete, >= 0.
            margin: Bytes, >= 0, that must stay free on the disk.

        Raises:
            DownloadError: There is not enough; names the bytes needed, free and promised to others.
        """
        device = part.parent.stat().st_dev
        with self._lock:
            self._promises.pop(part, None)
            needed = max(0, total_bytes - _size(part))
            promised = sum(
                max(0, promise.total_bytes - _size(other))
                for other, promise in self._promises.items()
                if promise.device == device
            )
            # After the sizes: what another download writes in between then counts twice, and never not at all.
            usage = shutil.disk_usage(part.parent)
            # A total of 0: the file system does not tell.
            if usage.total and needed + margin + promised > usage.free:
                raise DownloadError(_refusal(part, needed, margin, usage.free, promised))
            self._promises[part] = _Promise(device, total_bytes)

    def release(self, part: Path) -> None:
        """Take back what was promised for a file, if anything was; before it is complete and gets another name."""
        with self._lock:
            self._promises.pop(part, None)


def _size(part: Path) -> int:
    try:
        return os.stat(part, follow_symlinks=False).st_size
    except OSError:
        return 0  # nothing has come yet, or nothing that could be kept


def _refusal(part: Path, needed: int, margin: int, free: int, promised: int) -> str:
    spare = f" and {margin} to spare" if margin else ""
    others = f", {promised} of them promised to other downloads" if promised else ""
    return (
        f"{part.parent} is full: {part.stem} needs {needed} more bytes{spare}, {free} are free{others}; "
        "what arrived is kept: free some space and call again"
    )
