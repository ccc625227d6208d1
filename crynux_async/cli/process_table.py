"""What the system knows of processes that another command has started, so that a number used again is recognised.

Where there is no ``/proc`` the numbers alone must do.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_ENDED = "ZX"  # a process that has ended and that nobody has waited for is no process


def boot() -> str:
    """Return what names the system's run since its start."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def started(pid: int) -> str:
    """Return when a process was started, in ticks since the boot, or "" where there is none of this number."""
    if not _PROC.is_dir():
        return "unknown"
    fields = _fields(_PROC / str(pid))
    return fields[19] if fields else ""


def group_lives(group: int) -> bool:
    """Return whether a process group has a process that has not ended."""
    if not _PROC.is_dir():
        with contextlib.suppress(OSError):
            os.killpg(group, 0)
            return True
        return False
    return any(fields[2] == str(group) and fields[0] not in _ENDED for fields in _table())


def _table() -> Iterator[list[str]]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _fields(entry)):
            yield fields


def _fields(entry: Path) -> list[str]:
    """Return the fields of a process from its state on, or none where it is gone. Source: proc_pid_stat(5)."""
    try:
        stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return stat.rpartition(")")[2].split()  # the name before it may hold anything
