"""Moves a whole ledger from a SQLite file into PostgreSQL.

Theory of operation. Two live copies of a ledger would both send what it plans. So the source is marked first, and from
that moment on it opens no more; then everything is copied in one transaction of the target and counted there. Where
that is cut off in the middle, the source stays marked and the target is empty: the same again begins anew. Where it is
cut off behind the target's commit, the same again finds everything there.
"""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import attrs

from crynux_async.errors import LedgerError
from crynux_async.ledgers.postgres.connection import PostgresConnection
from crynux_async.ledgers.postgres.ledger import PostgresLedger
from crynux_async.ledgers.sql import queries, statements
from crynux_async.ledgers.sql.connection import Connection
from crynux_async.ledgers.sql.schema import TABLES
from crynux_async.ledgers.sql.text import Sql, insert, limited, listed, parameters
from crynux_async.ledgers.sqlite.connection import SqliteConnection
from crynux_async.ledgers.sqlite.ledger import SqliteLedger

_PAGE = 1000
_TABLES = tuple(name for name in TABLES if name != "meta")


@attrs.frozen(kw_only=True)
class _Table:
    """A table of the source.

    Attributes:
        name: Its name.
        columns: Those of its columns.
        key: The columns that tell a row from any other, in order.
        number: The column whose values SQLite gives, or "".
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    number: str


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
    return {name: (await connection.fetch(Sql(f"SELECT count(*) FROM {name}")))[0][0] for name in _TABLES}


def _require_room(found: Mapping[str, int], wanted: Mapping[str, int], is_moved: bool) -> None:
    if any(found.values()) and not (is_moved and found == wanted):
        raise LedgerError("the target holds rows already; name an empty schema")


async def _mark(connection: Connection, *, target: str, now: Sql) -> tuple[None, bool]:
    """Let a ledger open no more, unless somebody is at work on it or it was moved elsewhere."""
    marked = await connection.fetch(queries.SELECT_MOVED)
    if marked:
        if marked != [(target,)]:
            raise LedgerError(f"the ledger was moved to {marked[0][0]} already")
        return None, False
    living = await connection.fetch(Sql("SELECT owner FROM leases WHERE until >= ") + now + " ORDER BY id")
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
    tables = [await _table(source, name) for name in _TABLES]
    for table in tables:
        async for rows in _pages(source, table):
            await connection.run(insert(table.name, table.columns), rows)
    assert isinstance(connection, PostgresConnection)
    for table in tables:
        last = await _last_number(source, table)
        if last:
            await connection.continue_numbers(table.name, table.number, last)
    copied = await count_rows(connection)
    if copied != wanted:
        raise LedgerError(f"not everything was copied: {copied} of {wanted}")
    return copied, True


async def _table(source: SqliteConnection, name: str) -> _Table:
    columns = await source.command(f"PRAGMA table_info({name})")
    keys = sorted((place, column) for _, column, _, _, _, place in columns if place)
    return _Table(
        name=name,
        columns=tuple(column for _, column, *_ in columns),
        key=tuple(column for _, column in keys),
        number=next((column for _, column, kind, *_ in columns if kind == "INTEGER"), ""),
    )


async def _pages(source: SqliteConnection, table: _Table) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the rows of a table in the order of its key, so that no page is read by skipping all before it."""
    every, key = Sql(f"SELECT {listed(table.columns)} FROM {table.name}"), listed(table.key)
    after = f" WHERE ({key}) > ({parameters(table.key)})"
    last = Sql("")
    while True:
        page = every + last + f" ORDER BY {key}" + limited(_PAGE)
        rows = [dict(zip(table.columns, row, strict=True)) for row in await source.fetch(page)]
        if not rows:
            return
        yield rows
        last = Sql(after, {column: rows[-1][column] for column in table.key})


async def _last_number(source: SqliteConnection, table: _Table) -> int:
    """Return the last number that a table has given, also where its row is gone: none is given twice."""
    if not table.number:
        return 0
    largest = await source.fetch(Sql(f"SELECT max({table.number}) FROM {table.name}"))
    given = await source.fetch(Sql("SELECT seq FROM sqlite_sequence WHERE name = :name", {"name": table.name}))
    return max(int(number or 0) for (number,) in [*largest, *given])
