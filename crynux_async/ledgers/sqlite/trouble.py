"""What an error of SQLite means: whose fault it is, whether it passes, and what to do.

Theory of operation. A write is refused (the fault of its values), is busy (it is certain that nothing was stored, and
the same may work later), or shows that nothing can be relied on any more. What is not certain counts as the last:

- SQLITE_BUSY, _LOCKED, _PROTOCOL: another has the lock, or too many fight for it. Busy: no page was written, or the
  transaction is still open and can be undone.
- SQLITE_FULL: the disk is full (ENOSPC while a page was written). Busy, because a commit is a frame that is written
  whole to the log and then synced: a frame that did not fit ends too early, and who reads the log stops before it.
- SQLITE_IOERR with any extension, a failed fsync above all: for good. The pages that it was about may be lost although
  the next fsync succeeds; and where only the log's index could not grow, the commit is in the log already. So is a disk
  quota (EDQUOT), which SQLite tells from a full disk in nothing that we see.
- SQLITE_READONLY, _CANTOPEN, _PERM, _NOMEM, _CORRUPT, _NOTADB: for good; somebody has to do something about it.

Sources: sqlite.org/rescode.html; os_unix.c (``unixWrite`` makes SQLITE_FULL of ENOSPC, ``unixSync`` SQLITE_IOERR_FSYNC
of whatever a sync fails with) and wal.c (``sqlite3WalFrames``) of SQLite 3.40; sqlite.org/fileformat2.html section 4.
"""

import sqlite3
from pathlib import Path

from crynux_async.errors import LedgerBusyError, LedgerError
from crynux_async.ledgers.sql.versions import KEEP_IT

_REQUESTS_FAULT = frozenset(
    {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE}
)
_ANOTHERS_LOCK = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})


def is_refusal(error: Exception) -> bool:
    """Whether an error is the fault of a statement's values: a name that is there already, text that is no text."""
    if isinstance(error, sqlite3.Error):
        return primary_code(error) in _REQUESTS_FAULT
    return isinstance(error, OverflowError | UnicodeError)


def explain(error: Exception, path: Path, busy_timeout: float) -> LedgerError:
    """Return the error that says what an error of SQLite or of the system means, and what to do."""
    if isinstance(error, LedgerError):
        return error
    code = primary_code(error)
    if code in _ANOTHERS_LOCK:
        return locked(path, busy_timeout)
    if code == sqlite3.SQLITE_FULL:
        message = f"{path} cannot be written: the disk is full, and nothing was stored; free some space"
        return LedgerBusyError(message, path=str(path))
    if code in _DAMAGE:
        return damaged(path, error)
    if code == sqlite3.SQLITE_READONLY:
        what = f"it cannot be written ({error}); change the permissions and open the ledger again"
    else:
        what = f"{error}; check the disk and its free space, and open the ledger again"
    return LedgerError(f"{path} cannot be used: {what}", path=str(path))


def primary_code(error: BaseException) -> int | None:
    """Return SQLite's result code without its extension, or None where the error is not SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def damaged(path: Path, detail: object) -> LedgerError:
    """Return the error that says what to do about a damaged file."""
    return LedgerError(f"{path} is damaged: {detail}; {KEEP_IT}", path=str(path))


def locked(path: Path, busy_timeout: float) -> LedgerBusyError:
    """Return the error of a file that another process does not let go."""
    message = (
        f"{path} is locked by another process, which did not let go of it for {busy_timeout:g} s; it works again when "
        "that one lets go or ends"
    )
    return LedgerBusyError(message, path=str(path))


def foreign(path: Path, what: str) -> LedgerError:
    """Return the error of a file that is not ours."""
    message = f"{path} is not a ledger but {what}; choose another place for the ledger. It has not been changed"
    return LedgerError(message, path=str(path))


def replaced(path: Path) -> LedgerError:
    """Return the error of a file that is not where it was."""
    message = (
        f"{path} was deleted or replaced while it was in use, so nothing can be stored in it any more; put it back, or "
        "open a new ledger"
    )
    return LedgerError(message, path=str(path))
