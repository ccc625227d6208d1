"""From version 2 of the schema to version 3: jobs keep what kind of error they ended with, and its facts."""

from typing import Any

from sqlalchemy import DDL, MetaData, Table

from crynux_async.ledgers.sql.connection import Connection

# Through a table of SQLAlchemy, which knows the schema that the ledger has in PostgreSQL.
_ddl: Any = DDL  # it has no types
_ADD = _ddl("ALTER TABLE %(fullname)s ADD COLUMN error_facts TEXT DEFAULT '{}' NOT NULL").against(
    Table("jobs", MetaData())
)


async def migrate_to_version_3(connection: Connection, path: str, now: int) -> None:
    """Bring a ledger of version 2 to version 3 inside the transaction that is open.

    Args:
        connection: To the ledger.
        path: Its name, for messages.
        now: The time in microseconds since 1970.
    """
    await connection.run(_ADD)
