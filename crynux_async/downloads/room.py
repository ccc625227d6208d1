"""Whether a file fits where it is to go, together with those that are already on their way there.

A download that begins is promised the room for the whole of its file; what the others still have to write is not free.
A promise is kept from when the size is known until the download ends, pauses included. Downloads that share one
:class:`Room` see each other's promises. Where the file system can keep room for a file (``disk.keep_room``), what is
promised is taken at once, so that sessions, processes and whoever else writes to the disk see it as well.
"""

import errno
import os
import random
import shutil
import threading
import time
from pathlib import Path

import attrs

from crynux_async.downloads import disk
from crynux_async.errors import DownloadError

_LOOKS = 20
_TRIES, _LONGEST_PAUSE = 8, 0.02
_BLOCK = 512  # bytes of ``st_blocks``, whatever the file system's own are. Source: stat(2)


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

    def promise(self, part: Path, *, total_bytes: int, margin: int, descriptor: int | None = None) -> None:
        """Promise the room for a whole file, in place of what was promised for it before.

        Args:
            part: The file in which it grows; what it has taken of the disk already needs no more room.
            total_bytes: Its size when it is complete, >= 0.
            margin: Bytes, >= 0, that must stay free on the disk.
            descriptor: The open file, for which the disk is asked to keep the room; or None.

        Raises:
            DownloadError: There is not enough; names the bytes needed, free and promised to others.
            OSError: The disk failed, or a quota is used up.
        """
        wanted = _Promise(part.parent.stat().st_dev, total_bytes)
        for _ in range(_TRIES):
            with self._lock:
                # Its own earlier promise must not stand in its way.
                self._promises.pop(part, None)
                self._require(part, wanted, margin)
                if descriptor is None or self._keep(part, wanted, margin, descriptor):
                    self._promises[part] = wanted
                    return
            # Somebody who does not share these promises was as fast, and both gave way: one of the two shall be first.
            time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - no secret
        raise DownloadError(f"{part.parent} is full: others take what {part.stem} needs; free space and call again")

    def release(self, part: Path) -> None:
        """Take back what was promised for a file, if anything was; before it is complete and gets another name."""
        with self._lock:
            self._promises.pop(part, None)

    def _require(self, part: Path, wanted: _Promise, margin: int) -> None:
        """Refuse a file that does not fit.

        In this order, what another download writes between the two looks counts twice, and never not at all. So a
        refusal is certain only when nothing was written meanwhile.
        """
        for _ in range(_LOOKS):
            needed, promised = _missing(part, wanted), self._missing_of_others(wanted.device)
            usage = shutil.disk_usage(part.parent)
            # A total of 0: the file system does not tell.
            if not usage.total or needed + margin + promised <= usage.free:
                return
            if (needed, promised) == (_missing(part, wanted), self._missing_of_others(wanted.device)):
                break
        raise DownloadError(_refusal(part, needed, margin, usage.free, promised))

    def _keep(self, part: Path, wanted: _Promise, margin: int, descriptor: int) -> bool:
        """Have the disk keep the room where it can; return whether all of it, and the margin, could be had."""
        try:
            if not disk.keep_room(descriptor, str(part), wanted.total_bytes):
                return True
        except OSError as error:
            # A quota that is used up stays so, whoever gives way: told at once.
            if error.errno != errno.ENOSPC:
                raise
            return False
        usage = shutil.disk_usage(part.parent)
        if not usage.total or usage.free >= margin + self._missing_of_others(wanted.device):
            return True
        disk.give_room_back(descriptor)
        return False

    def _missing_of_others(self, device: int) -> int:
        promises = self._promises.items()
        return sum(_missing(part, promise) for part, promise in promises if promise.device == device)


def _missing(part: Path, promise: _Promise) -> int:
    """Return how many bytes of the disk a file will still take."""
    try:
        status = os.stat(part, follow_symlinks=False)
    except OSError:
        return promise.total_bytes  # nothing has come yet, or nothing that could be kept
    blocks = getattr(status, "st_blocks", 0)
    # Blocks kept beyond the end are taken already; compressed files have fewer blocks than their length.
    return max(0, promise.total_bytes - max(status.st_size, blocks * _BLOCK))


def _refusal(part: Path, needed: int, margin: int, free: int, promised: int) -> str:
    spare = f" and {margin} to spare" if margin else ""
    others = f", {promised} of them promised to other downloads" if promised else ""
    return (
        f"{part.parent} is full: {part.stem} needs {needed} more bytes{spare}, {free} are free{others}; "
        "what arrived is kept: free some space and call again"
    )
