"""One connection of a ledger to its SQLite file.

Statements are SQLAlchemy expressions, rendered here and handed to aiosqlite at one hop to its thread each. Through
SQLAlchemy's own execution a statement takes three hops, and a commit of one row waits longer for them than for the
disk.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aiosqlite
import attrs
from sqlalchemy import URL, Connection, NullPool
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql.expression import ClauseElement

from crynux_async.ledgers.sql.steps import Row


@attrs.frozen
class _Rendered:
    sql: str
    names: tuple[str, ...]
    values: Mapping[str, Any]

    def fill(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] if name in row else self.values[name] for name in self.names)


class SqliteConnection:
    """A connection on which transactions are begun and ended by hand.

    Every method but ``open`` raises ``sqlite3.Error``. A caller that is cancelled leaves the connection whole: the
    thread finishes what it has begun.
    """

    def __init__(self, engine: AsyncEngine, connection: AsyncConnection, driver: aiosqlite.Connection) -> None:
        self._engine = engine
        self._connection = connection
        self._driver = driver
        self._rendered: dict[ClauseElement, _Rendered] = {}

    @classmethod
    async def open(cls, path: Path, busy_timeout: float) -> Self:
        """Connect to a file that is there.

        Args:
            path: The file.
            busy_timeout: Seconds to wait for the locks of other connections.

        Raises:
            sqlalchemy.exc.DBAPIError: It cannot be opened.
        """
        engine = create_async_engine(
            URL.create("sqlite+aiosqlite", database=f"file:{quote(str(path))}", query={"uri": "true", "mode": "rw"}),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": busy_timeout},
        )
        connection = await engine.connect()
        driver: Any = (await connection.get_raw_connection()).driver_connection
        return cls(engine, connection, driver)

    @property
    def changes(self) -> int:
        """How many rows this connection has changed, >= 0."""
        return self._driver.total_changes

    async def close(self) -> None:
        """Let go of the file; a transaction that is open is undone."""
        await self._connection.close()
        await self._engine.dispose()

    async def command(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a command without parameters, such as a PRAGMA or COMMIT, and return its rows."""
        return [tuple(row) for row in await self._driver.execute_fetchall(sql)]

    async def run(self, statement: ClauseElement, rows: Sequence[Row] | None = None) -> int:
        """Run a statement once for each row, and return how many rows of the database changed.

        Args:
            statement: An INSERT, UPDATE or DELETE.
            rows: Values of its parameters, by name; None where the statement has its values in itself.
        """
        rendered = self._render(statement, keep=rows is not None)
        if rows is None or len(rows) == 1:
            cursor = await self._driver.execute(rendered.sql, rendered.fill(rows[0] if rows else {}))
        else:
            cursor = await self._driver.executemany(rendered.sql, map(rendered.fill, rows))
        return cursor.rowcount

    async def fetch(self, statement: ClauseElement) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT."""
        rendered = self._render(statement, keep=False)
        found: Iterable[Any] = await self._driver.execute_fetchall(rendered.sql, rendered.fill({}))
        return list(found)

    async def run_sync(self, work: Callable[[Connection], None]) -> None:
        """Do something with SQLAlchemy's own connection, inside the transaction that is open.

        Raises:
            sqlalchemy.exc.DBAPIError: The database refused it.
        """
        await self._connection.run_sync(work)

    def _render(self, statement: ClauseElement, *, keep: bool) -> _Rendered:
        rendered = self._rendered.get(statement)
        if rendered is None:
            compiled: Any = statement.compile(dialect=self._engine.dialect, compile_kwargs={"render_postcompile": True})
            rendered = _Rendered(str(compiled), tuple(compiled.positiontup), compiled.params)
            if keep:
                self._rendered[statement] = rendered
        return rendered
