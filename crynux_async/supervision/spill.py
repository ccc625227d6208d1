"""The file for accepted tasks that could not be stored: what was paid for while the ledger was away for too long.

One line of JSON for each. The next session on this machine leaves each to whoever has its job, and takes it out.
"""

import fcntl
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crynux_async.errors import LedgerError

_log = logging.getLogger("crynux_async.supervision.spill")


class Spill:
    """Keeps tasks in a file, durably.

    Args:
        path: The file, made when it is needed; None to keep nothing.
        backend: Whose tasks; those of other services are left alone.
    """

    def __init__(self, path: Path | None, backend: str) -> None:
        self._path = path
        self._backend = backend

    def keep(self, job_id: str, attempt: int, task_id: str) -> None:
        """Append a task; trouble with the file is logged, because there is nobody left to raise it to."""
        if self._path is None:
            return
        line = {"backend": self._backend, "job_id": job_id, "attempt": attempt, "task_id": task_id}
        try:
            with _locked(self._path) as file:
                os.lseek(file, 0, os.SEEK_END)
                os.write(file, json.dumps(line).encode() + b"\n")
                os.fsync(file)
        except OSError as error:
            _log.error("task %s of job %s is not in %s either: %s", task_id, job_id, self._path, error)

    async def give_back(self, hand_over: Callable[[str, int, str], Awaitable[None]]) -> None:
        """Leave every task to whoever has its job, and take it out of the file; what cannot be left now stays.

        Args:
            hand_over: Stores job, attempt and task where the owner of the job finds them.
        """
        if self._path is None or not self._path.exists():
            return
        try:
            # Held meanwhile: two sessions that begin at once would both give the same task back.
            with _locked(self._path) as file:
                kept = [line for line in _lines(file) if not await self._is_given_back(line, hand_over)]
                os.ftruncate(file, 0)
                os.pwrite(file, b"".join(line + b"\n" for line in kept), 0)
                os.fsync(file)
        except OSError as error:
            _log.error("%s cannot be read back: %s", self._path, error)

    async def _is_given_back(self, line: bytes, hand_over: Callable[[str, int, str], Awaitable[None]]) -> bool:
        found = _read(line)
        if found is None or found.get("backend") != self._backend:
            return False
        try:
            await hand_over(str(found["job_id"]), int(found["attempt"]), str(found["task_id"]))
        except (LedgerError, KeyError, ValueError) as error:
            _log.error("%s: a task stays in it: %s", self._path, error)
            return False
        return True


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _lines(file: int) -> list[bytes]:
    return [line for line in os.pread(file, os.fstat(file).st_size, 0).splitlines() if line.strip()]


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)
