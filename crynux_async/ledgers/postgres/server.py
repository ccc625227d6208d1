"""Connects to the server of a ledger."""

from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.adapt import Dumper

from crynux_async.errors import LedgerError
from crynux_async.ledgers.postgres.address import Address
from crynux_async.ledgers.postgres.rendering import Renderer

Raw: TypeAlias = AsyncConnection[tuple[Any, ...]]

_OLDEST = 120000
_TRIALS = 5  # other clients of the pooler may come in between
_IDLE_IN_TRANSACTION = 15_000  # ms; longer than any decision, shorter than a network's own patience

# A host that is cut off in the middle of a transaction must not keep its rows locked for hours.
_PREPARE = f"SET idle_in_transaction_session_timeout = {_IDLE_IN_TRANSACTION}"


class _WholeNumber(Dumper):
    """Leaves the type of a number to the statement, so that large and small ones share a prepared statement."""

    oid = 0

    def dump(self, obj: int) -> bytes:
        return b"%d" % obj


class Server:
    """The way to one database.

    Args:
        address: Where it is.

    Attributes:
        address: Where it is.
        renderer: Puts statements into its words.
        is_pooled: Whether a pooler stands before it; known after the first connection.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.renderer = Renderer(address.schema)
        self.is_pooled = False

    @property
    def channel(self) -> str:
        """On which the ledger's writers tell that something was written."""
        return f"crynux_async_{self.address.schema}"

    async def connect(self) -> Raw:
        """Return a connection on which every statement is a transaction of its own, until one is begun by hand.

        Raises:
            psycopg.Error: It cannot be made.
            LedgerError: The server is too old, or keeps its texts in another encoding than UTF-8.
        """
        raw = await self._raw_connection()
        try:
            raw.adapters.register_dumper(int, _WholeNumber)
            self._check(raw)
            await self._prepare(raw)
        except BaseException:
            await raw.close()
            raise
        return raw

    async def _raw_connection(self) -> Raw:
        try:
            return await AsyncConnection.connect(
                **self.address.parameters, autocommit=True, cursor_factory=AsyncRawCursor
            )
        except psycopg.Error as error:
            # What psycopg raises holds the password twice, in ``pgconn`` and in the variables of its frames, which
            # some programs show or send away with a traceback.
            failed = type(error)(*error.args)
        raise failed

    async def refuse_shared_sessions(self) -> None:
        """Find out whether a pooler gives one session of the server to several of its clients, by turns.

        While one client is in a transaction, another one that asks is given another session than before.

        Raises:
            psycopg.Error: The server cannot be asked.
            LedgerError: It does: LISTEN, settings and prepared statements of a session do not hold there.
        """
        if not self.is_pooled:
            return
        async with await self.connect() as one, await self.connect() as other:
            for _ in range(_TRIALS):
                before = await _session_of(one)
                async with other.transaction():
                    if await _session_of(other) == before:
                        name = self.address.name
                        message = (
                            f"{name} is reached through a pooler in transaction mode (PgBouncer?), which keeps no "
                            "session; name the server's own address, or a pool with pool_mode=session"
                        )
                        raise LedgerError(message, path=name)

    async def _prepare(self, raw: Raw) -> None:
        number = await _session_of(raw)
        # A pooler gives its clients numbers of its own. Prepared statements do not survive every one.
        if number != raw.info.backend_pid:
            self.is_pooled = True
            raw.prepare_threshold = None
        await raw.execute(_PREPARE)

    def _check(self, raw: Raw) -> None:
        name = self.address.name
        if raw.info.server_version < _OLDEST:
            message = f"{name} is PostgreSQL {raw.info.server_version // 10000}; 12 or newer is needed"
            raise LedgerError(message, path=name)
        encoding = raw.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            message = f"{name} keeps its texts as {encoding}; make a database with ENCODING 'UTF8'"
            raise LedgerError(message, path=name)


async def _session_of(raw: Raw) -> int:
    ((number,),) = await (await raw.execute("SELECT pg_backend_pid()")).fetchall()
    return int(number)
