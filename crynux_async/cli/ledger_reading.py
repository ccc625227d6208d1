"""How commands read a ledger of which they change nothing."""

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from crynux_async.cli.exits import Exit, execute, guard
from crynux_async.cli.ledger_place import LedgerPlace
from crynux_async.ledgers import is_on_a_server, open_ledger
from crynux_async.supervision.cut_off import Remembered

T = TypeVar("T")
Look: TypeAlias = Callable[[Remembered], Coroutine[Any, Any, T]]


def read_and_show(place: LedgerPlace, look: Look[T], show: Callable[[T], Exit], *, as_json: bool = False) -> int:
    """Read a ledger, show what was read, and return the exit code.

    A file that is ready is read without an event loop: to load one takes longer than all the rest.

    Args:
        place: Where the ledger is.
        look: Reads it, and waits for nothing else.
        show: Shows what was read, when the ledger is closed again: a pager that waits must not hold it open.
        as_json: Whether errors go to standard output as one JSON object, too.
    """
    if isinstance(place, str) and is_on_a_server(place):
        return execute(_opened(place, look, show), as_json=as_json)
    return guard(lambda: _read_file(place, look, show, as_json=as_json), as_json=as_json)


def _read_file(place: LedgerPlace, look: Look[T], show: Callable[[T], Exit], *, as_json: bool) -> int:
    from crynux_async.ledgers.sqlite.reader import at_once, open_reader  # here: a server is read without SQLite

    reader = open_reader(place)
    if reader is None:
        return execute(_opened(place, look, show), as_json=as_json)
    with contextlib.closing(reader):
        found = at_once(look(reader))
    return show(found)


async def _opened(place: LedgerPlace, look: Look[T], show: Callable[[T], Exit]) -> Exit:
    book = open_ledger(place, makes=False)
    await book.open()
    try:
        found = await look(book)
    finally:
        await book.close()
    return show(found)
