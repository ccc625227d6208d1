"""How an older ledger becomes a current one, one version at a time, in the one transaction that opens it.

A new schema needs three things: the tables in ``schema``, ``schema.VERSION`` one higher, and here the step that leads
from the version before to it. A step is never changed once it was released, so it names its tables in words of its own
and does not look into ``schema``. A new ledger is made from ``schema`` at once.
"""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import attrs

from crynux_async.ledgers.sql.connection import Connection
from crynux_async.ledgers.sql.schema import MAKING, VERSION
from crynux_async.ledgers.sql.text import Sql
from crynux_async.ledgers.sql.version_2 import migrate_to_version_2
from crynux_async.ledgers.sql.version_3 import migrate_to_version_3
from crynux_async.ledgers.sql.versions import check_version, parse_version
from crynux_async.values import Value

Migration: TypeAlias = Callable[[Connection, str, int], Awaitable[None]]
"""A step to the next version; it is given the name of the ledger and the time in microseconds since 1970."""


@attrs.frozen(kw_only=True)
class SchemaPlan(Value):
    """A schema and the way to it.

    Attributes:
        version: Where every ledger is brought.
        migrations: For each older version, the step that leads to the next one.
    """

    version: int
    migrations: Mapping[int, Migration]


_ADD_VERSION = Sql("INSERT INTO meta (name, value) VALUES ('version', :version)")
_CHANGE_VERSION = Sql("UPDATE meta SET value = :version WHERE name = 'version'")
_SELECT_VERSION = Sql("SELECT value FROM meta WHERE name = 'version'")

CURRENT = SchemaPlan(version=VERSION, migrations=MappingProxyType({1: migrate_to_version_2, 2: migrate_to_version_3}))


async def create(connection: Connection, plan: SchemaPlan) -> None:
    """Make the tables of a new ledger inside the transaction that is open."""
    for statement in MAKING:
        await connection.run(Sql(statement))
    await connection.run(_ADD_VERSION, [{"version": str(plan.version)}])


async def migrate(connection: Connection, plan: SchemaPlan, path: str, now: int) -> None:
    """Bring a ledger up to date inside the transaction that is open.

    Args:
        connection: To the ledger.
        plan: Where to bring it.
        path: Its name, for messages.
        now: The time in microseconds since 1970.

    Raises:
        LedgerError: It was written by a newer version, or is in use by the older one.
    """
    version = found = await stored_version(connection, path)
    check_version(found, plan.version, path)
    while version < plan.version:
        await plan.migrations[version](connection, path, now)
        version += 1
    if version != found:
        await connection.run(_CHANGE_VERSION, [{"version": str(version)}])


async def stored_version(connection: Connection, path: str) -> int:
    """Return the version of a ledger's schema.

    Raises:
        LedgerError: It has none.
    """
    rows = await connection.fetch(_SELECT_VERSION)
    return parse_version(rows[0][0] if rows else None, path)
