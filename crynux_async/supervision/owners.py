"""Who holds a lease: a name that tells whether its process still lives, where that can be told."""

import os
import secrets
import socket
from pathlib import Path

from crynux_async.pacing.gate import boot_id


def new_owner() -> str:
    """Return a name for a session of this process: host, boot, process, its start, and something of its own."""
    pid = os.getpid()
    return f"{socket.gethostname()}/{boot_id()}/{pid}/{_started(pid)}/{secrets.token_hex(4)}"


def is_gone(owner: str) -> bool:
    """Whether the process of an owner has certainly ended. False where that cannot be told, as on another host."""
    parts = owner.split("/")
    if len(parts) != 5 or parts[0] != socket.gethostname() or not parts[2].isdigit():
        return False
    _, boot, pid, started, _ = parts
    if boot != boot_id():
        return "unknown" not in (boot, boot_id())
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return started != _started(int(pid))


def _started(pid: int) -> str:
    """Return when a process was started, in ticks since the boot, so that a number used again is recognised."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "unknown"
