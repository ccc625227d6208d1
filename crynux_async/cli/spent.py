"""``spent``: what jobs have cost, by the ledger and by the relay's own list.

It neither follows nor changes any job, so that it can be asked beside a process that does.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
from rich.text import Text

from crynux_async.backends.base import Payment
from crynux_async.backends.opening import open_backend
from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit
from crynux_async.cli.ledger_place import LedgerPlace, existing_place, ledger_option
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.base import JobFilter, Ledger
from crynux_async.money import to_cnx
from crynux_async.settings import Settings
from crynux_async.supervision.audit import Audit, Orphan, audit
from crynux_async.wording import counted


async def spent(ledger: LedgerPlace | None, *, as_json: bool) -> Exit:
    """Show what the ledger has of money; nobody is asked."""
    async with _opened(ledger) as book:
        held, gone = await book.spent(JobFilter())
    if as_json:
        _print({"spent_wei": str(gone), "held_wei": str(held)})
    else:
        open_console().print(f"{to_cnx(gone)} CNX spent, {to_cnx(held)} CNX held by what has not ended")
    return Exit.DONE


async def audited(ledger: LedgerPlace | None, service: ServiceChoice, *, as_json: bool) -> Exit:
    """Hold the ledger against the relay's list."""
    found = await _audit(ledger, service.settings())
    if as_json:
        _print({**_facts(found), "adds_up": found.adds_up})
    else:
        console = open_console()
        for line in _lines(found, f"{service.option}{ledger_option(ledger)}"):
            console.print(Text(line))
    return Exit.DONE if found.adds_up else Exit.JOB_ENDED_BADLY


@asynccontextmanager
async def _opened(ledger: LedgerPlace | None) -> AsyncIterator[Ledger]:
    book = open_ledger(existing_place(ledger), makes=False)
    await book.open()
    try:
        yield book
    finally:
        await book.close()


async def _audit(ledger: LedgerPlace | None, settings: Settings) -> Audit:
    async with _opened(ledger) as book:
        # The list is asked of the relay alone: no session is opened, which would take jobs over.
        backend = await open_backend("relay", settings)
        try:
            return await audit(backend, backend.key_id, book)
        finally:
            await backend.close()


def _lines(found: Audit, again: str) -> Iterator[str]:
    """Yield what a person wants to know, what does not add up last.

    Args:
        found: What was found.
        again: What a command about the same jobs must be given, with a space before it, or "".
    """
    yield f"{to_cnx(found.spent)} CNX are gone for jobs of this ledger, {to_cnx(found.held)} CNX of them for what runs"
    others = sum(payment.gone for payment in found.foreign)
    if found.foreign:
        tasks = counted(len(found.foreign), "task")
        yield f"{to_cnx(others)} CNX are gone for {tasks} of other programs, or deleted since"
    for mismatch in found.mismatches:
        yield (
            f"{mismatch.job_id}: the ledger has {to_cnx(mismatch.known)} CNX and the relay {to_cnx(mismatch.listed)} "
            f"for task {mismatch.task_id}"
        )
    for task_id in found.unlisted:
        yield f"task {task_id} is in the ledger and not (yet) in the relay's list, which is seconds late"
    yield from _orphan_lines(found, again)
    if found.adds_up:
        yield "Everything adds up."


def _orphan_lines(found: Audit, again: str) -> Iterator[str]:
    # An orphan is paid for and unknown here: while there is an archive to fetch, adopting it saves the money.
    for orphan in found.orphans:
        cure = (
            f"adopt it: crynux-async reconcile{again} --adopt"
            if orphan.task.can_have_model
            else "it has ended without an archive that could be fetched"
        )
        yield (
            f"task {orphan.task_id} was paid for at {orphan.at:%Y-%m-%d %H:%M} UTC and is not in the ledger: "
            f"{to_cnx(orphan.gone)} CNX; {cure}"
        )


def _facts(found: Audit) -> dict[str, Any]:
    """Return an audit as JSON values: wei as text, because many readers of JSON round numbers."""
    return {
        "spent_wei": str(found.spent),
        "held_wei": str(found.held),
        "mismatches": [
            {**attrs.asdict(each), "known": str(each.known), "listed": str(each.listed)} for each in found.mismatches
        ],
        "unlisted": list(found.unlisted),
        "orphans": [_payment(payment) for payment in found.orphans],
        "foreign": [_payment(payment) for payment in found.foreign],
    }


def _payment(payment: Payment | Orphan) -> dict[str, str]:
    return {
        "task_id": payment.task_id,
        "paid_wei": str(payment.paid),
        "refunded_wei": str(payment.refunded),
        "at": payment.at.isoformat(),
    }


def _print(facts: dict[str, Any]) -> None:
    print(json.dumps(facts))  # noqa: T201  # the command's output
