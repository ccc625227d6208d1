"""Where jobs are remembered.

Read ``base`` first: the protocol that every ledger follows, with the values in ``rows`` and, where a first job needs
none of them, in ``seldom_rows``. ``columns`` says how the rows become plain values, ``checks`` what every ledger
refuses, ``bell`` how waiters in one process hear of a change, ``credentials`` which jobs still need an API key.
``memory/`` is a ledger that lasts as long as its process; ``sql/`` is what ledgers in a database share, ``sqlite/``
what a file needs beyond that, and ``postgres/`` what a server does. ``conformance/`` holds every one of them to the
protocol; a ledger of one's own should pass it, too.
"""

import os
from typing import TYPE_CHECKING

from crynux_async.errors import UsageError

if TYPE_CHECKING:
    from crynux_async.ledgers.base import Ledger

__all__ = ["is_on_a_server", "open_ledger"]


def open_ledger(where: "str | os.PathLike[str] | Ledger | None", *, makes: bool = True) -> "Ledger":
    """Return the ledger that ``where`` means; it is opened by ``await ledger.open()``.

    Args:
        where: A path or "sqlite:///jobs.db" for a file, "postgresql://user@host/database" for a server, None for
            memory, or a ledger, which is returned as it is.
        makes: Whether its tables are made where there is a server and no ledger; else opening it is refused there.

    Raises:
        UsageError: ``where`` means none of these.
    """
    if where is None:
        from crynux_async.ledgers.memory import MemoryLedger

        return MemoryLedger()
    if isinstance(where, str | os.PathLike):
        if isinstance(where, str) and is_on_a_server(where):
            return _postgres_ledger(where, makes)
        from crynux_async.ledgers.sqlite.ledger import SqliteLedger

        return SqliteLedger(where)
    if callable(getattr(where, "begin", None)) and callable(getattr(where, "claim", None)):
        return where
    raise UsageError(f"{where!r:.100} is not a ledger: give a path, 'sqlite:///jobs.db', None or a Ledger")


def is_on_a_server(where: str) -> bool:
    """Whether a text is the address of a ledger in PostgreSQL, which may hold a password, and no path."""
    # Also with a slash too few: what has a password in it must not be taken for the name of a file, and shown.
    scheme, found, _ = where.partition(":")
    return bool(found) and scheme.lower().partition("+")[0] in ("postgresql", "postgres")


def _postgres_ledger(where: str, makes: bool) -> "Ledger":
    try:
        from crynux_async.ledgers.postgres.ledger import PostgresLedger
    except ModuleNotFoundError as error:
        message = "a ledger in PostgreSQL needs psycopg: pip install 'crynux-async[postgres]'"
        raise UsageError(message, field="ledger") from error
    return PostgresLedger(where, makes=makes)
