"""Who holds a lease: a name that tells whether its process still lives, where that can be told.

To take a live process for dead is the worst that can happen here: its create is taken for cut off, and sent again. So
whatever leaves a doubt counts as alive; a lease that nobody renews ends by itself.
"""

import functools
import hashlib
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import attrs

from crynux_async.clock import boot_id
from crynux_async.values import Value

_UNKNOWN = "unknown"
_ONLOOKER = "onlooker-"
_FIRST_NAMESPACE = "4026531836"  # of every machine. Source: PROC_PID_INIT_INO in Linux' include/linux/proc_ns.h
_ENDED = "ZX"  # a zombie runs no more, though its parent has not asked for it yet. Source: proc_pid_stat(5)


@attrs.frozen(kw_only=True)
class Place(Value):
    """Where a process is, as precisely as it takes to tell whether it lives.

    Attributes:
        host: The host's name.
        machine: Fingerprint of the machine, or "unknown".
        boot: The boot of the kernel.
        namespace: The PID namespace: in another one the same number is another process.
        pid: Its number there.
        started: When it was started, in ticks since the boot, so that a number that was used again is recognised.
    """

    host: str
    machine: str
    boot: str
    namespace: str
    pid: str
    started: str

    @classmethod
    def here(cls) -> Self:
        """Return the place of this process."""
        return cls(**_here(os.getpid(), socket.gethostname()))

    @classmethod
    def of(cls, owner: str) -> Self | None:
        """Return the place that an owner's name tells, or None where it tells none."""
        parts = owner.split("/")
        return cls(**dict(zip(_PLACE, parts, strict=False))) if len(parts) == len(_PLACE) + 1 else None

    def is_rebooted_as(self, here: Self) -> bool:
        """Whether this is an earlier boot of the very machine of ``here``.

        Two containers may share name, image and machine id and run on two machines: outside containers only.
        """
        is_same = self.host == here.host and self.machine == here.machine != _UNKNOWN
        is_outside = self.namespace == here.namespace == _FIRST_NAMESPACE
        return is_same and is_outside and self.boot != here.boot and _UNKNOWN not in (self.boot, here.boot)

    def shares_numbers_with(self, here: Self) -> bool:
        """Whether a process number here and there is one and the same process."""
        mine = (self.host, self.boot, self.namespace)
        return mine == (here.host, here.boot, here.namespace) and _UNKNOWN not in mine


# It stays the same while the process lives, and every visit of a gate asks for it: read anew each time, for each create
# of others that is under way, it took a third of all that a busy session did.
@functools.lru_cache(maxsize=1)
def _here(pid: int, host: str) -> Mapping[str, str]:
    """Return the fields of the place of this process, whose number is another one after a fork."""
    return {
        "host": host.replace("/", "-"),
        "machine": _machine(),
        "boot": boot_id(),
        "namespace": _namespace(),
        "pid": str(pid),
        "started": _stat(str(pid))[1],
    }


_PLACE = tuple(field.name for field in attrs.fields(Place))


def new_owner(*, follows: bool = True) -> str:
    """Return a name for a session of this process: its place, and something of its own.

    Args:
        follows: Whether it takes jobs over that nobody holds.
    """
    return "/".join((*attrs.astuple(Place.here()), f"{'' if follows else _ONLOOKER}{secrets.token_hex(4)}"))


def may_follow(owner: str) -> bool:
    """Whether the session of an owner may live, and takes jobs over that nobody holds."""
    return not owner.rpartition("/")[2].startswith(_ONLOOKER) and not is_gone(owner)


def is_gone(owner: str) -> bool:
    """Whether the process of an owner has certainly ended. False where that cannot be told, as on another host."""
    place, here = Place.of(owner), Place.here()
    if place is None:
        return False
    if place.is_rebooted_as(here):
        return True
    if not place.shares_numbers_with(here) or not place.pid.isdigit():
        return False
    return _has_ended(place)


def _has_ended(place: Place) -> bool:
    try:
        os.kill(int(place.pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    state, started = _stat(place.pid)
    return state in _ENDED or (_UNKNOWN not in (started, place.started) and started != place.started)


def _stat(pid: str) -> tuple[str, str]:
    """Return the state of a process (a letter) and when it was started, or "unknown" for both."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()  # a name may hold anything, brackets and spaces too
        return fields[0], fields[19]
    except (OSError, IndexError):
        return _UNKNOWN, _UNKNOWN


def _namespace() -> str:
    try:
        # A /proc of another namespace ("unshare --pid" without --mount-proc) shows other processes under the numbers of
        # this one: what it says of the end of one would be said of another.
        if os.readlink("/proc/self") != str(os.getpid()):
            return _UNKNOWN
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return _UNKNOWN


def _machine() -> str:
    """Return a fingerprint of the machine's id, which itself is not to be shown. Source: machine-id(5)."""
    try:
        identity = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return _UNKNOWN
    return hashlib.sha256(f"crynux_async {identity}".encode()).hexdigest()[:12] if identity else _UNKNOWN
