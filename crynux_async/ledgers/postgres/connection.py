"""One connection of a ledger to its database in PostgreSQL.

Theory of operation. Statements of a transaction go out together (libpq's pipeline), so that ten rows cost one trip.
COMMIT is sent only after every step has been seen to be taken: until then a connection that breaks has stored nothing,
whatever of it is still under way in some router, because the server undoes what it has heard no COMMIT for. With COMMIT
goes the one notification of the transaction, but not in it: commits with a NOTIFY wait for each other, each for its own
fsync (``PreCommit_Notify`` in async.c holds one lock for the whole database until the commit is done). A process that
dies between the two leaves a commit that is heard of at the next slow look.

A connection that is found dead before anything was asked of it is made anew, once, without a word.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncCursor
from psycopg.errors import InvalidSqlStatementName, PipelineAborted
from psycopg.pq import TransactionStatus

from crynux_async.clock import monotonic
from crynux_async.errors import LedgerError
from crynux_async.ledgers.postgres.server import Raw, Server
from crynux_async.ledgers.postgres.trouble import explain, is_collision, is_refusal
from crynux_async.ledgers.sql.connection import StepRefusedError
from crynux_async.ledgers.sql.steps import Step
from crynux_async.ledgers.sql.text import Row, Sql

_T = TypeVar("_T")
_Cursor = AsyncCursor[tuple[Any, ...]]
_log = logging.getLogger("crynux_async.ledgers")

ANSWER_WITHIN = 60.0
"""Seconds after which a server that says nothing counts as away."""

LAST_ANSWERS_WITHIN = 2.0
"""Seconds that it has for each answer once the time is over for which whoever ends waits."""

# Where a statement was run before without being prepared, psycopg does not notice that preparing it failed because one
# before it in its pipeline was refused, and calls it by a name that the server has never heard. So what goes out
# together is another text than what goes out alone.
_TOGETHER = " "

_OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE)


class PostgresConnection:
    """A connection on which transactions are begun and ended by hand; a ``Connection``.

    Args:
        server: The way to the database.
        raw: A connection to it.
    """

    def __init__(self, server: Server, raw: Raw) -> None:
        self._server = server
        self._raw = raw
        self._connecting = asyncio.Lock()
        self._is_in_transaction = False
        self._is_commit_open = False
        self._asked: set[asyncio.Task[Any]] = set()
        self._limits: set[asyncio.Timeout] = set()
        self._give_up_at = math.inf

    @property
    def leaves_marks(self) -> bool:
        """True: a server that is asked again says what it has stored."""
        return True

    @property
    def backend_pid(self) -> int:
        """The number by which notifications name their sender."""
        return self._raw.info.backend_pid if not self._raw.closed else 0

    def give_up_at(self, when: float) -> None:
        """Wait for no answer longer than until then (of ``clock.monotonic``), but for ``LAST_ANSWERS_WITHIN``."""
        self._give_up_at = when
        last = max(when, monotonic() + LAST_ANSWERS_WITHIN)
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(min(limit.when() or math.inf, last))

    async def close(self) -> None:
        """Let go of the server; a transaction that is open is undone."""
        for task in self._asked:  # of callers that were cut off
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)
        await self._raw.close()

    async def write(self, steps: Sequence[Step]) -> None:
        """Do all steps in a transaction of their own, and commit it.

        Raises:
            StepRefusedError: One was refused; the transaction was undone.
        """
        self._is_commit_open = False
        try:
            await self._again_if_dead(lambda: self._do_steps(steps))
        except Exception:
            await self.rollback()
            raise
        await self.commit()

    async def begin(self) -> None:
        """Begin a transaction; what is decided in it locks the rows that it is about."""
        self._is_commit_open = False
        await self._again_if_dead(lambda: self._execute("BEGIN"))
        self._is_in_transaction = True

    async def commit(self) -> None:
        """Make the transaction durable, and tell everybody who listens."""
        self._is_commit_open = True
        cursor, notify = self._raw.cursor(), self._raw.cursor()
        try:
            async with self._in_time(), self._together():
                await cursor.execute("COMMIT", prepare=False)
                await notify.execute("SELECT pg_notify($1, '')", [self._server.channel], prepare=True)
        except Exception as error:
            if cursor.statusmessage != "COMMIT":
                await self._dropped_if_useless(error)
                # With a word from a server that is still there it is certain; any other end leaves it open.
                self._is_commit_open = self._raw.closed
                self._is_in_transaction = not self._raw.closed  # a question about it goes to a new connection
                raise
            await self._dropped_if_useless(error)
            _log.debug("a write was not told to others: %s", error)
        self._is_commit_open = self._is_in_transaction = False
        if cursor.statusmessage != "COMMIT":  # the answer to the commit of a transaction that had failed before
            raise psycopg.InternalError(f"a transaction ended with {cursor.statusmessage} in place of COMMIT")

    async def rollback(self) -> None:
        """Undo the transaction, if one is open; a server that is gone undoes it by itself."""
        self._is_in_transaction = False
        if not self._raw.closed and self._raw.info.transaction_status in _OPEN:
            try:
                await self._execute("ROLLBACK")
            except psycopg.Error:
                await self._raw.close()

    async def savepoint(self) -> None:
        """Mark a place in the transaction."""
        await self._execute("SAVEPOINT request")

    async def back_to_savepoint(self) -> None:
        """Undo everything since the place that was marked."""
        await self._execute("ROLLBACK TO request")

    async def release_savepoint(self) -> None:
        """Forget the place that was marked."""
        await self._execute("RELEASE request")

    async def run(self, statement: Sql, rows: Sequence[Row] | None = None) -> int:
        """Run a statement once for each row, and return how many rows of the database changed."""
        rendered = self._server.renderer.render(statement.text)
        if rows is None or len(rows) == 1:
            cursor = await self._execute(rendered.sql, rendered.fill(rows[0] if rows else statement.values))
            return cursor.rowcount
        cursor = self._raw.cursor()
        await self._answered(partial(cursor.executemany, rendered.sql, list(map(rendered.fill, rows))))
        return cursor.rowcount

    async def insert(self, statement: Sql, row: Row) -> int:
        """Add a row, and return the number that PostgreSQL gave it."""
        rendered = self._server.renderer.render(statement.text)
        cursor = await self._execute(rendered.sql, rendered.fill(row))
        ((number,),) = await cursor.fetchall()
        return int(number)

    async def fetch(self, statement: Sql, row: Row | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT."""
        rendered = self._server.renderer.render(statement.text)
        parameters = rendered.fill(statement.values if row is None else row)
        if self._is_in_transaction:
            cursor = await self._execute(rendered.sql, parameters)
        else:
            cursor = await self._again_if_dead(lambda: self._execute(rendered.sql, parameters))
        return await cursor.fetchall()

    async def command(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a command, and return its rows, if it has any."""
        cursor = await self._execute(sql, parameters)
        return await cursor.fetchall() if cursor.description else []

    async def continue_numbers(self, table: str, column: str, last: int) -> None:
        """Let the numbers in a column go on behind one that was given before, in the transaction that is open."""
        name = f"{self._server.renderer.quoted_schema}.{table}"
        await self.command("SELECT setval(pg_get_serial_sequence($1, $2), $3)", name, column, last)

    async def tend(self) -> None:
        """Do nothing: the server tends itself."""

    def explain(self, error: Exception) -> LedgerError:
        """Return what an error means and what to do."""
        return explain(error, self._server.address.name)

    def is_lost_answer(self, _: Exception) -> bool:
        """Whether a COMMIT was sent of which nothing was heard."""
        return self._is_commit_open

    def is_refusal(self, error: Exception) -> bool:
        """Whether an error is the fault of a statement's values alone."""
        return is_refusal(error)

    def is_collision(self, error: Exception) -> bool:
        """Whether a transaction was undone only because others did the same at the same moment."""
        return is_collision(error)

    # How it is done

    async def _do_steps(self, steps: Sequence[Step]) -> None:
        """Begin a transaction and do all steps in it; raises unless every one of them was taken."""
        cursors: list[_Cursor] = []
        try:
            async with self._in_time(), self._together():
                await self._raw.execute("BEGIN")
                self._is_in_transaction = True
                for step in steps:
                    cursors.append(self._raw.cursor())
                    await self._send(cursors[-1], step)
        except Exception as error:
            await self._dropped_if_useless(error)
            if is_refusal(error):
                raise StepRefusedError(_refused(steps, cursors), error) from error
            raise
        for step, cursor in zip(steps, cursors, strict=True):
            if step.is_exact and cursor.rowcount != len(step.rows):
                raise StepRefusedError(step)

    @asynccontextmanager
    async def _together(self) -> AsyncIterator[None]:
        """A block whose statements go out together; raises what the server has refused first."""
        refusal: psycopg.Error | None = None
        try:
            async with self._raw.pipeline():
                try:
                    yield
                except psycopg.Error as error:
                    # Where a pipeline is left by an error, psycopg logs that nothing was done behind the refused
                    # statement, for every idempotency key that is asked for twice.
                    refusal = error
        except psycopg.Error as error:
            refusal = refusal or _first(error)
        if refusal is not None:
            raise refusal

    async def _send(self, cursor: _Cursor, step: Step) -> None:
        rendered = self._server.renderer.render(step.statement.text)
        sql = rendered.sql + _TOGETHER
        if len(step.rows) == 1:
            await cursor.execute(sql, rendered.fill(step.rows[0]), prepare=True)
        else:
            await cursor.executemany(sql, list(map(rendered.fill, step.rows)))

    async def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> _Cursor:
        return await self._answered(partial(self._raw.execute, sql, parameters or None))

    async def _answered(self, asking: Callable[[], Awaitable[_T]]) -> _T:
        """Wait for an answer; where whoever waits is cut off, it comes all the same, before the one to the next."""
        # Cut off in the middle, psycopg would have the server cancel the query, through a connection of its own; and,
        # cut off in that, as cancel scopes do, log it and close this connection.
        task = asyncio.create_task(self._answered_in_time(asking))
        self._asked.add(task)
        task.add_done_callback(self._forget)
        await asyncio.wait([task])
        return task.result()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._asked.discard(task)
        if not task.cancelled():
            task.exception()  # seen, because nobody may be left to see it

    async def _answered_in_time(self, asking: Callable[[], Awaitable[_T]]) -> _T:
        try:
            async with self._in_time():
                return await asking()
        except (TimeoutError, InvalidSqlStatementName) as error:
            await self._dropped_if_useless(error)
            raise

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """A block that ends with TimeoutError where the server says nothing, or is locked, for too long."""
        seconds = min(ANSWER_WITHIN, max(LAST_ANSWERS_WITHIN, self._give_up_at - monotonic()))
        async with asyncio.timeout(seconds) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    async def _dropped_if_useless(self, error: Exception) -> None:
        """Let go of a connection that is of no more use.

        Of a silent server the answer would be taken for that to the next question; one that has forgotten what was
        prepared (``DEALLOCATE ALL``) would refuse it for ever.
        """
        if isinstance(error, TimeoutError | InvalidSqlStatementName):
            await self._raw.close()

    async def _again_if_dead(self, asking: Callable[[], Awaitable[_T]]) -> _T:
        """Ask outside of a transaction; where the connection turns out to be dead, connect and ask once more."""
        await self._reconnect()
        asked = self._raw
        try:
            return await asking()
        except psycopg.Error:
            # Of many readers that wait for one that dies, the first connects anew: the others have another one by now.
            if not asked.closed:
                raise
        await self._reconnect()
        return await asking()

    async def _reconnect(self) -> None:
        """Connect anew where the connection is gone."""
        async with self._connecting:
            if self._raw.closed:
                self._is_in_transaction = False
                self._raw = await self._server.connect()


def _first(error: psycopg.Error) -> psycopg.Error:
    """Return what was refused, where the end of a pipeline raises that nothing was done behind it."""
    before = error.__context__
    return before if isinstance(error, PipelineAborted) and isinstance(before, psycopg.Error) else error


def _refused(steps: Sequence[Step], cursors: Sequence[_Cursor]) -> Step:
    """Return the first step without a result: that one was refused."""
    for step, cursor in zip(steps, cursors, strict=False):
        if cursor.statusmessage is None:
            return step
    return steps[-1]
