"""Which versions of the schema a ledger may have, as its ``meta`` table names them."""

from crynux_async.errors import LedgerError

KEEP_IT = (
    "restore it from a backup, or move it aside and begin a new ledger "
    "(keep the damaged file: it names what was paid for). It has not been changed"
)
"""What to do about a damaged ledger."""


def parse_version(text: str | None, path: str) -> int:
    """Return the version that a ledger's ``meta`` table names.

    Raises:
        LedgerError: It names none.
    """
    if text is None or not text.isdecimal():
        raise LedgerError(f"{path} is damaged: it does not say the version of its schema; {KEEP_IT}", path=path)
    return int(text)


def check_version(found: int, known: int, path: str) -> None:
    """Check that a ledger is not newer than this program.

    Args:
        found: Its version.
        known: The newest one that this program knows.
        path: Its name, for messages.

    Raises:
        LedgerError: It is.
    """
    if found > known:
        message = (
            f"{path} was written by a newer version of crynux_async: its schema has version {found}, and this one "
            f"knows versions up to {known}; upgrade crynux_async. The file has not been changed"
        )
        raise LedgerError(message, path=path)
