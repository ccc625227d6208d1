"""``ledger``: what is done with a ledger as a whole."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit
from crynux_async.cli.ledger_place import LedgerPlace, existing_place, ledger_place, shown
from crynux_async.clock import utc_now
from crynux_async.errors import UsageError
from crynux_async.ledgers import is_on_a_server, open_ledger
from crynux_async.ledgers.base import Ledger
from crynux_async.wording import counted


async def check(asked: LedgerPlace | None, *, as_json: bool) -> Exit:
    """Say whether a ledger can be used, and what is in it."""
    place = existing_place(asked)
    async with _opened(place) as ledger:
        now = utc_now()
        facts: dict[str, Any] = {
            "ledger": shown(place),
            "jobs": {state.value: number for state, number in (await ledger.count()).items()},
            "attempts_without_outcome": len(await ledger.attempts(unfinished=True)),
            # Leases that have run out are those of processes that are gone.
            "sessions": [holder.fence.owner for holder in await ledger.holders() if holder.until >= now],
        }
    jobs = ", ".join(f"{number} {state}" for state, number in facts["jobs"].items()) or "no jobs"
    open_creates = counted(facts["attempts_without_outcome"], "create")
    lines = [
        f"{facts['ledger']} can be used: {jobs}",
        f"{open_creates} without an outcome, {counted(len(facts['sessions']), 'session')} at work",
        *facts["sessions"],
    ]
    return _said(facts, "\n".join(lines), as_json=as_json)


async def migrate(asked: LedgerPlace | None, *, as_json: bool) -> Exit:
    """Make or migrate the tables of a ledger."""
    from crynux_async.ledgers.sql.schema import VERSION

    place = ledger_place(asked, makes_folder=True)
    # Opening is what migrates.
    async with _opened(place, makes=True):
        pass
    facts = {"ledger": shown(place), "version": VERSION}
    return _said(facts, f"{facts['ledger']} is at version {VERSION} of the schema", as_json=as_json)


async def trim(asked: LedgerPlace | None, *, days: float, keep: int, as_json: bool) -> Exit:
    """Remove old events."""
    place = existing_place(asked)
    async with _opened(place) as ledger:
        removed = await ledger.trim_events(before=utc_now() - timedelta(days=days), keep=keep)
    facts = {"ledger": shown(place), "removed_events": removed}
    return _said(facts, f"{removed} events were removed from {facts['ledger']}", as_json=as_json)


async def copy(source: Path, target: str, *, as_json: bool) -> Exit:
    """Move a ledger from a file into PostgreSQL."""
    existing_place(source)
    if not is_on_a_server(target):
        raise UsageError("the target must be postgresql://user@host/database", field="target")
    into = open_ledger(target)
    # Imported late: a ledger in a file needs no driver of a server.
    from crynux_async.ledgers.postgres.ledger import PostgresLedger
    from crynux_async.ledgers.sqlite.ledger import SqliteLedger
    from crynux_async.ledgers.transfer import move

    assert isinstance(into, PostgresLedger)
    rows = await move(SqliteLedger(source), into)
    facts = {"source": str(source), "target": into.place, "rows": dict(rows)}
    counts = ", ".join(f"{number} {name}" for name, number in rows.items() if number) or "nothing"
    said = f"{source} was moved to {into.place} ({counts}); the file cannot be opened any more"
    return _said(facts, said, as_json=as_json)


@asynccontextmanager
async def _opened(place: LedgerPlace, *, makes: bool = False) -> AsyncIterator[Ledger]:
    ledger = open_ledger(place, makes=makes)
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


def _said(facts: Mapping[str, Any], text: str, *, as_json: bool) -> Exit:
    if as_json:
        print(json.dumps(facts))  # noqa: T201  # the command's output
    else:
        open_console().print(text)
    return Exit.DONE
