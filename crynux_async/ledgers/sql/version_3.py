"""From version 2 of the schema to version 3: jobs keep what kind of error they ended with, and its facts."""

from typing import Any

from sqlalchemy import Column, MetaData, Table, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement

from crynux_async.ledgers.sql.connection import Connection


class _AddColumn(ExecutableDDLElement):
    """Adds the one column of a table to the table that has this name already."""

    def __init__(self, table: Table) -> None:
        self.table = table
        (self.column,) = table.columns


def _add_column(element: _AddColumn, compiler: Any, **_: Any) -> str:
    table = compiler.preparer.format_table(element.table)
    return f"ALTER TABLE {table} ADD COLUMN {compiler.get_column_specification(element.column)}"


_compiles: Any = compiles  # it has no types
_compiles(_AddColumn)(_add_column)

# Through a table of SQLAlchemy, which knows the schema that the ledger has in PostgreSQL, and the order of its texts.
_TEXT = Text().with_variant(Text(collation="C"), "postgresql")
_ADD = _AddColumn(Table("jobs", MetaData(), Column("error_facts", _TEXT, server_default="{}", nullable=False)))


async def migrate_to_version_3(connection: Connection, path: str, now: int) -> None:
    """Bring a ledger of version 2 to version 3 inside the transaction that is open.

    Args:
        connection: To the ledger.
        path: Its name, for messages.
        now: The time in microseconds since 1970.
    """
    await connection.run(_ADD)
