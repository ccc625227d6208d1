"""From version 2 of the schema to version 3: jobs keep what kind of error they ended with, and its facts."""

from crynux_async.ledgers.sql.connection import Connection
from crynux_async.ledgers.sql.text import Sql

_ADD = Sql("ALTER TABLE jobs ADD COLUMN error_facts TEXT DEFAULT '{}' NOT NULL")


async def migrate_to_version_3(connection: Connection, path: str, now: int) -> None:
    """Bring a ledger of version 2 to version 3 inside the transaction that is open.

    Args:
        connection: To the ledger.
        path: Its name, for messages.
        now: The time in microseconds since 1970.
    """
    await connection.run(_ADD)
