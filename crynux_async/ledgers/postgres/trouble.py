"""What an error of PostgreSQL means: whose fault it is, whether it passes, and what to do.

Theory of operation. A server that is asked over a network fails in more ways than a disk, and nearly all of them pass:
it restarts, it is replaced by its standby, it has no connection or no room left. All of that is busy, because it is
certain that nothing was stored: a transaction whose connection ends is undone by the server, and where a COMMIT was
under way the ledger's writer asks for its mark. For good is only what somebody has to mend: missing rights, missing
tables, damaged pages.

Source: postgresql.org/docs/current/errcodes-appendix.html.
"""

import psycopg
from psycopg import errors

from crynux_async.errors import LedgerBusyError, LedgerError

_REFUSED = ("22", "23")  # data exception; integrity constraint violation
_PASSING = (
    "08",  # connection exception
    "40",  # transaction rollback: deadlock, serialization
    "53",  # insufficient resources: disk full, out of memory, too many connections
    "55P03",  # lock not available
    "57",  # operator intervention: shutdown, cannot connect now, statement timeout
    "26000",  # a prepared statement that the server has forgotten: somebody has told it to (DEALLOCATE ALL)
    "25006",  # read-only transaction: a standby
    "25P03",  # idle in a transaction for too long
    "25P04",  # a transaction that took too long
    "54000",  # the queue of notifications is full
)
_COLLISIONS = (errors.DeadlockDetected, errors.SerializationFailure)


def is_refusal(error: Exception) -> bool:
    """Whether an error is the fault of a statement's values alone: a name that is there already, say."""
    if isinstance(error, psycopg.Error):
        return (error.sqlstate or "").startswith(_REFUSED) or isinstance(error, psycopg.DataError)
    return isinstance(error, OverflowError | UnicodeError)


def is_collision(error: Exception) -> bool:
    """Whether a transaction was undone only because others did the same at the same moment: again, and it works."""
    return isinstance(error, _COLLISIONS)


def explain(error: Exception, place: str) -> LedgerError:
    """Return the error that says what an error of PostgreSQL or of the network means, and what to do.

    Args:
        error: What was raised.
        place: The ledger, without its password.
    """
    if isinstance(error, LedgerError):
        return error
    # libpq asks the reader a question on a line of its own: in one sentence with the rest it would be no sentence.
    lines = (" ".join(line.split()) for line in str(error).splitlines())
    what = " ".join(line for line in lines if line and not line.startswith("Is the server ")) or type(error).__name__
    state = getattr(error, "sqlstate", None) or ""
    if state == "25006":
        message = f"{place} is read-only (a standby?), and nothing was stored; it works again when it takes writes"
        return LedgerBusyError(message, path=place)
    if _passes(error, state):
        message = (
            f"{place} cannot be used now, and nothing was stored: {what}; it works again when that has passed or is "
            "put right"
        )
        return LedgerBusyError(message, path=place)
    if is_refusal(error):
        message = f"{place} was changed by another process at the same moment, and nothing was stored: {what}"
        return LedgerBusyError(message, path=place)
    if isinstance(error, errors.InsufficientPrivilege):
        message = (
            f"{place} cannot be used by this role: {what}; GRANT it what 'crynux-async ledger migrate --help' names"
        )
    else:
        message = f"{place} cannot be used: {what}; look at the server's log, and open the ledger again"
    return LedgerError(message, path=place)


def _passes(error: Exception, state: str) -> bool:
    if state:
        return state.startswith(_PASSING)
    # Without a code it is the connection that failed, and not a statement.
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | OSError | TimeoutError)
