"""Opens a ledger in PostgreSQL: makes or migrates its tables, while any number of other hosts may do the same."""

import attrs

from crynux_async.errors import LedgerError, UsageError
from crynux_async.ledgers.postgres.connection import PostgresConnection
from crynux_async.ledgers.postgres.listener import Listener
from crynux_async.ledgers.postgres.server import Server
from crynux_async.ledgers.postgres.trouble import explain
from crynux_async.ledgers.sql.migrations import SchemaPlan, create, migrate, stored_version
from crynux_async.ledgers.sql.text import Sql
from crynux_async.ledgers.sql.versions import check_version

SERVER_TIME = Sql("CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)")
"""Microseconds since 1970 by the server's clock: of the moment itself, and not of the transaction's beginning."""

SELECT_TIME = Sql("SELECT ") + SERVER_TIME

# From the catalog and not by to_regclass(), which goes on denying what another made while this one waited for the lock.
_TABLES = """
SELECT n.oid, count(c.oid), count(c.oid) FILTER (WHERE c.relname = 'meta') FROM pg_catalog.pg_namespace n
LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relkind = 'r' WHERE n.nspname = $1 GROUP BY n.oid
"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('crynux_async ledger ' || $1, 0))"


@attrs.frozen(kw_only=True)
class OpenDatabase:
    """A ledger's database, ready to use.

    Attributes:
        writes: The connection that writes.
        reads: The connection that reads.
        listener: Hears what others write.
    """

    writes: PostgresConnection
    reads: PostgresConnection
    listener: Listener

    def give_up_at(self, when: float) -> None:
        """Wait for no answer longer than until then, as ``PostgresConnection.give_up_at``."""
        self.reads.give_up_at(when)
        self.writes.give_up_at(when)

    async def close(self) -> None:
        """Let go of the server."""
        await self.listener.close()
        await self.reads.close()
        await self.writes.close()


async def connected(server: Server) -> PostgresConnection:
    """Return a connection.

    Raises:
        LedgerError: It cannot be made.
    """
    try:
        return PostgresConnection(server, await server.connect())
    except Exception as error:
        raise explain(error, server.address.name) from error


async def require_ledger(connection: PostgresConnection, server: Server) -> None:
    """Refuse a place without a ledger, for whoever only looks: a mistyped name must not make a new one.

    Raises:
        UsageError: There is none.
        LedgerError: That cannot be told.
    """
    name = server.address.name
    try:
        found = await _found(connection, server)
    except Exception as error:
        raise explain(error, name) from error
    if not found.is_ledger:
        message = f"there is no ledger in {name}; the first session makes it, or 'crynux-async ledger migrate'"
        raise UsageError(message, field="ledger")


async def bring_up_to_date(connection: PostgresConnection, server: Server, plan: SchemaPlan) -> None:
    """Make or migrate the tables where that is needed; of many who come at once, one does.

    Raises:
        LedgerError: They cannot be used; nothing has been changed.
    """
    name = server.address.name
    try:
        await server.refuse_shared_sessions()
        # Nothing is locked and no right to make anything is needed where all is there already.
        if await _is_current(connection, server, plan):
            return
        await connection.begin()
        await connection.command(_LOCK, server.address.schema)
        await _make(connection, server, plan)
        await connection.commit()
    except BaseException as error:
        await connection.rollback()
        if isinstance(error, Exception):
            raise explain(error, name) from error
        raise


async def _is_current(connection: PostgresConnection, server: Server, plan: SchemaPlan) -> bool:
    if not (await _found(connection, server)).is_ledger:
        return False
    found = await stored_version(connection, server.address.name)
    check_version(found, plan.version, server.address.name)
    return found == plan.version


async def _make(connection: PostgresConnection, server: Server, plan: SchemaPlan) -> None:
    name, found = server.address.name, await _found(connection, server)
    if found.is_ledger:
        ((now,),) = await connection.fetch(SELECT_TIME)
        await migrate(connection, plan, name, now)
    elif found.tables:
        message = f"{name} is not a ledger: its schema holds tables of another program; name another schema"
        raise LedgerError(message, path=name)
    else:
        if not found.has_schema:
            await connection.command(f"CREATE SCHEMA {server.renderer.quoted_schema}")
        await create(connection, plan)


@attrs.frozen(kw_only=True)
class _Found:
    """What is in the database under the schema's name."""

    has_schema: bool = False
    tables: int = 0
    is_ledger: bool = False


async def _found(connection: PostgresConnection, server: Server) -> _Found:
    for _, tables, metas in await connection.command(_TABLES, server.address.schema):
        return _Found(has_schema=True, tables=tables, is_ledger=metas > 0)
    return _Found()
