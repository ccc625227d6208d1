"""The file for accepted tasks that could not be stored: what was paid for while the ledger was away for too long.

One line of JSON for each. The next session on this machine leaves each to whoever has its job, and takes it out.

The file is locked for as long as it takes to read or write it, and never while something is awaited: a session that
waited for the lock then would keep the event loop from the very one that has it. Two sessions that begin at once may so
leave a task twice, which is heard once.
"""

import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crynux_async import files
from crynux_async.errors import LedgerBusyError, LedgerError
from crynux_async.ledgers.base import AttemptRow

_log = logging.getLogger("crynux_async.supervision.spill")

# Seconds; the event loop stands still meanwhile, and whoever has the lock as it should be has it for an fsync.
_PATIENCE = 0.5


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
                _append(file, json.dumps(line).encode() + b"\n")
        except OSError as error:
            _log.error("task %s of job %s is not in %s either: %s", task_id, job_id, self._path, error)

    def write_down(self, attempt: AttemptRow, what: str, failure: Exception, *, task_id: str | None) -> str:
        """Keep what the ledger could not be told wherever it can be kept, and return what is said of it.

        Args:
            attempt: The create.
            what: What came of it, for people.
            failure: Why the ledger does not have it.
            task_id: The task that it made, or None where it made none, or none is known.
        """
        message = f"job {attempt.job_id} ({what}) could not be stored: {failure}; write it down"
        if task_id is not None:
            self.keep(attempt.job_id, attempt.number, task_id)
        # Not through logging: a program may have none, and this line is worth the price of a training.
        with suppress(OSError, ValueError):  # whoever read it may have gone, or the program has closed it
            print(f"crynux_async: {message}", file=sys.stderr, flush=True)  # noqa: T201  # for people
        return message

    async def give_back(self, hand_over: Callable[[str, int, str], Awaitable[object]]) -> bool:
        """Leave every task to whoever has its job, and take it out of the file; what cannot be left now stays.

        Args:
            hand_over: Stores job, attempt and task where the owner of the job finds them.

        Returns:
            Whether there was any that could be left.

        Raises:
            LedgerBusyError: Not now; all of them stay.
        """
        if self._path is None or not self._path.exists():
            return False
        given: list[bytes] = []
        try:
            with _locked(self._path) as file:
                lines = _lines(file)
            given = [line for line in lines if await self._is_given_back(line, hand_over)]
            if given:
                with _locked(self._path) as file:
                    _take_out(file, given)
        except OSError as error:
            _log.error("%s cannot be read back: %s", self._path, error)
        return bool(given)

    async def _is_given_back(self, line: bytes, hand_over: Callable[[str, int, str], Awaitable[object]]) -> bool:
        found = _read(line)
        if found is None or found[0] != self._backend:
            return False
        try:
            await hand_over(*found[1:])
        except LedgerBusyError:
            raise
        except LedgerError as error:
            _log.error("%s: a task stays in it: %s", self._path, error)
            return False
        _log.warning("%s: task %s is left to whoever has job %s", self._path, found[3], found[1])
        return True


def _read(line: bytes) -> tuple[str, str, int, str] | None:
    """Return service, job, attempt and task of a line, or None where it tells of no task."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # a disk that lost its power may hold anything
        return None
    match found:
        case {"backend": str(backend), "job_id": str(job_id), "attempt": int(attempt), "task_id": str(task_id)}:
            return backend, job_id, attempt, task_id
    return None


def _lines(file: int) -> list[bytes]:
    return [line for line in os.pread(file, os.fstat(file).st_size, 0).splitlines() if line.strip()]


def _append(file: int, line: bytes) -> None:
    end = os.lseek(file, 0, os.SEEK_END)
    # What the power or the disk's room did not last for would make one line with the next.
    is_torn = end > 0 and os.pread(file, 1, end - 1) != b"\n"
    try:
        files.write_all(file, b"\n" * is_torn + line)
    except OSError:
        os.ftruncate(file, end)
        raise
    os.fsync(file)


def _take_out(file: int, given: Collection[bytes]) -> None:
    # Read anew: others may have written meanwhile.
    kept = b"".join(line + b"\n" for line in _lines(file) if line not in given)
    # Cut last: who dies in between leaves a line too many, and none too few.
    os.pwrite(file, kept, 0)
    os.ftruncate(file, len(kept))
    os.fsync(file)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            files.lock_within(file, path, _PATIENCE)
        except OSError as error:
            if error.errno not in files.CANNOT_LOCK:  # there, a task is more at risk in no file than in one without
                raise
        yield file
    finally:
        os.close(file)
