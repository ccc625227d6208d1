"""Moves a whole ledger from a SQLite file into PostgreSQL.

Theory of operation. Two live copies of a ledger would both send what it plans. So the source is marked first, and from
that moment on it opens no more; then everything is copied in one transaction of the target and counted there. Where
that is cut off in the middle, the source stays marked and the target is empty: the same again begins anew. Where it is
cut off behind the target's commit, the same again finds everything there.
"""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, bindparam, func, insert, select, tuple_

from crynux_async.errors import LedgerError
from crynux_async.ledgers.postgres.connection import PostgresConnection
from crynux_async.ledgers.postgres.ledger import PostgresLedger
from crynux_async.ledgers.sql import queries, statements
from crynux_async.ledgers.sql.connection import Connection
from crynux_async.ledgers.sql.schema import leases, meta, metadata
from crynux_async.ledgers.sqlite.connection import SqliteConnection
from crynux_async.ledgers.sqlite.ledger import SqliteLedger

_PAGE = 1000
_TABLES: tuple[Table, ...] = tuple(table for table in metadata.sorted_tables if table is not meta)


async def move(source: SqliteLedger, target: PostgresLedger) -> Mapping[str, int]:
    """Copy everything from one ledger into an empty one, let the first one open no more, and return the rows by table.

    Args:
        source: A ledger, not open.
        target: An empty ledger, not open; or the one into which ``source`` was moved before.

    Raises:
        LedgerError: Somebody is at work on the source, the target is not empty, or one of them cannot be used. Where
            the source is marked as moved by then, the message says so, and the same call goes on.
    """
    source.opens_moved = True
    await source.open()
    try:
        await target.open()
        try:
            return await _move(source, target)
        finally:
            await target.close()
    finally:
        await source.close()


async def _move(source: SqliteLedger, target: PostgresLedger) -> Mapping[str, int]:
    reads = source.database.reads
    assert isinstance(reads, SqliteConnection)
    wanted = await count_rows(reads)
    # Before the source is marked: nobody wants to be left with a ledger that opens no more because of a mistyped name.
    _require_room(await count_rows(target.database.reads), wanted, await source.moved_to() == target.place)
    await source.alone(partial(_mark, target=target.place, now=source.now()))
    wanted = await count_rows(reads)
    try:
        return await target.alone(partial(_copy, source=reads, wanted=wanted))
    except LedgerError as error:
        message = f"{source.place} is marked as moved to {target.place}, but the copy ended early: {error}; do it again"
        raise LedgerError(message, path=source.place) from error


async def count_rows(connection: Connection) -> dict[str, int]:
    """Return how many rows each table has."""
    return {table.name: (await connection.fetch(select(func.count()).select_from(table)))[0][0] for table in _TABLES}


def _require_room(found: Mapping[str, int], wanted: Mapping[str, int], is_moved: bool) -> None:
    if any(found.values()) and not (is_moved and found == wanted):
        raise LedgerError("the target holds rows already; name an empty schema")


async def _mark(connection: Connection, *, target: str, now: ColumnElement[int]) -> tuple[None, bool]:
    """Let a ledger open no more, unless somebody is at work on it or it was moved elsewhere."""
    marked = await connection.fetch(queries.SELECT_MOVED, {})
    if marked:
        if marked != [(target,)]:
            raise LedgerError(f"the ledger was moved to {marked[0][0]} already")
        return None, False
    living = await connection.fetch(select(leases.c.owner).where(leases.c.until >= now).order_by(leases.c.id))
    if living:
        owners = ", ".join(owner for (owner,) in living[:3])
        message = f"the ledger is in use ({len(living)}: {owners}): end these sessions, or wait until their leases end"
        raise LedgerError(message)
    await connection.run(statements.MARK_MOVED, [{"value": target}])
    return None, True


async def _copy(
    connection: Connection, *, source: SqliteConnection, wanted: Mapping[str, int]
) -> tuple[Mapping[str, int], bool]:
    found = await count_rows(connection)
    if any(found.values()):  # the answer to an earlier copy was lost
        _require_room(found, wanted, is_moved=True)
        return found, False
    for table in _TABLES:
        add = insert(table).values({column.name: bindparam(column.name) for column in table.columns})
        async for rows in _pages(source, table):
            await connection.run(add, rows)
    assert isinstance(connection, PostgresConnection)
    for name, number in (await _last_numbers(source)).items():
        await connection.continue_numbers(name, number)
    copied = await count_rows(connection)
    if copied != wanted:
        raise LedgerError(f"not everything was copied: {copied} of {wanted}")
    return copied, True


async def _pages(source: SqliteConnection, table: Table) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the rows of a table in the order of its key, so that no page is read by skipping all before it."""
    key = tuple(table.primary_key.columns)
    names = [column.name for column in table.columns]
    last: tuple[Any, ...] | None = None
    while True:
        page: Select[Any] = select(table).order_by(*key).limit(_PAGE)
        if last is not None:
            page = page.where(tuple_(*key) > tuple_(*last))
        rows = [dict(zip(names, row, strict=True)) for row in await source.fetch(page)]
        if not rows:
            return
        yield rows
        last = tuple(rows[-1][column.name] for column in key)


async def _last_numbers(source: SqliteConnection) -> dict[str, int]:
    """Return the last number that each numbered table has given, also where its row is gone: none is given twice."""
    last: dict[str, int] = {}
    for table in _TABLES:
        number = table.autoincrement_column
        if number is not None:
            ((largest,),) = await source.fetch(select(func.coalesce(func.max(number), 0)))
            last[table.name] = int(largest)
    for name, largest in await source.command("SELECT name, seq FROM sqlite_sequence"):
        last[name] = max(last.get(name, 0), int(largest))
    return {name: number for name, number in last.items() if number}
