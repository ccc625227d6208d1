"""Small things that are stored in a transaction of their own: wishes and notes.

Every function returns its result and whether it changed anything.
"""

from collections.abc import Mapping
from types import EllipsisType

from crynux_async.errors import LedgerError
from crynux_async.ledgers.columns import Column
from crynux_async.ledgers.sql import queries, statements
from crynux_async.ledgers.sql.connection import Connection


async def add_wish(connection: Connection, row: Mapping[str, Column]) -> tuple[int, bool]:
    """Store a wish, and return its number.

    Raises:
        LedgerError: There is no such job.
    """
    try:
        return await connection.insert(statements.ADD_WISH, row), True
    except Exception as error:
        if not connection.is_refusal(error):
            raise
        raise LedgerError(f"there is no job {row['job_id']!r}", job_id=str(row["job_id"])) from error


async def put_note(
    connection: Connection, *, scope: str, name: str, value: str | None, expected: str | EllipsisType | None
) -> tuple[bool, bool]:
    """Store a note where what is expected is there, and return whether it was stored.

    Each case is one statement, so that of many who expect the same one is right.

    Args:
        connection: To the ledger.
        scope: What kind of note.
        name: Its name.
        value: Its JSON text, or None to remove it.
        expected: The JSON text that must be there, None for nothing, ``...`` for anything.
    """
    key = {"key_scope": scope, "key_name": name}
    row = {"scope": scope, "name": name, "value": value}
    if value is None:
        if expected is ...:
            await connection.run(statements.REMOVE_NOTE, [key])
            return True, True
        if expected is None:
            is_there = bool(await connection.fetch(queries.SELECT_NOTE, row))
            return not is_there, False
        changed = await connection.run(statements.REMOVE_EXPECTED_NOTE, [{**key, "key_value": expected}])
    elif expected is ...:
        changed = await connection.run(statements.PUT_NOTE, [row])
    elif expected is None:
        changed = await connection.run(statements.ADD_NOTE, [row])
    else:
        changed = await connection.run(statements.REPLACE_NOTE, [{**key, "key_value": expected, "set_value": value}])
    return changed > 0, changed > 0
