"""``reconcile``: what became of creates whose outcome nobody knows, and what a person can do about it."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from crynux_async.backends.base import Verdict
from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit
from crynux_async.cli.job_facts import as_facts
from crynux_async.cli.ledger_place import LedgerPlace, ledger_option
from crynux_async.cli.service import open_session
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.report.units import size
from crynux_async.session import Session
from crynux_async.session_values import Reconciled, Unconfirmed
from crynux_async.wording import counted


async def reconcile(
    ledger: LedgerPlace | None,
    service: ServiceChoice,
    *,
    at_most: int,
    evidence_bytes: int,
    adopt: bool,
    as_json: bool,
) -> Exit:
    """Look for the tasks of unconfirmed jobs, and for tasks without a job, and say of each what was found.

    The exit code says whether a create is left of which nobody knows the outcome.
    """
    console = open_console(stderr=as_json)
    # The relay knows of tasks whose ledger was lost; they are only shown, or a new ledger has them from now on.
    shows = service.relay and not adopt
    async with open_session(ledger, service, makes_ledger=service.relay, only_reads=shows) as session:
        await _say_price(session, console, at_most, evidence_bytes)
        looked_for = await session.reconcile(at_most=at_most, adopt=adopt, evidence_bytes=evidence_bytes)
        lost = await session.unconfirmed()
    for each in looked_for:
        name = each.job.job_id if each.job else each.candidates[0]
        console.print(Text(f"{name}: {each.verdict}; {each.explanation}"))
    again = f"{service.option}{ledger_option(ledger)}"
    found = [each.job for each in looked_for if each.job and each.verdict in (Verdict.FOUND, Verdict.ORPHAN)]
    if found:
        console.print(Text(f"Follow them: crynux-async resume{again}.", "dim"))
    if any(each.job is None for each in looked_for):
        console.print(Text(f"Adopt what has no job: crynux-async reconcile{again} --adopt.", "dim"))
    print_unconfirmed(console, lost, service, ledger)
    if not looked_for:
        console.print("Every create has a known outcome.")
    if as_json:
        facts = {
            "found": [as_facts(job) for job in found],
            "looked_for": [_looked_for(each) for each in looked_for],
            "unconfirmed": [bracket_facts(each) for each in lost],
        }
        print(json.dumps(facts))  # noqa: T201  # the command's output
    return Exit.OUTCOME_UNKNOWN if lost else Exit.DONE


async def _say_price(session: Session, console: Console, at_most: int, evidence_bytes: int) -> None:
    requests = await session.reconcile_requests(at_most=at_most)
    if requests:
        console.print(f"Looking takes up to {counted(requests, 'request')}; --at-most limits the tasks for each job.")
        console.print(
            f"Where several tasks are left, their archives are fetched, {size(evidence_bytes)} at most; "
            "--evidence-bytes bounds that."
        )


def print_unconfirmed(
    console: Console, lost: Sequence[Unconfirmed], service: ServiceChoice, ledger: LedgerPlace | None
) -> None:
    """Print which creates have an unknown outcome, and what can be done about it."""
    for each in lost:
        said = f" {each.job.job_id}  sent {each.began_at:%Y-%m-%d %H:%M:%S} UTC  config {each.digest[:12]}"
        console.print(Text.assemble(("unconfirmed", "bold yellow"), f"{said}  task {_between(each)}"))
    if lost:
        place = ledger_option(ledger)
        look = f"crynux-async reconcile{service.option}{place}"
        pay = f"crynux-async retry JOB{service.paid_option}{place}"
        console.print(Text(f"Look for them: {look}. Pay again: {pay}.", "dim"))


def _between(lost: Unconfirmed) -> str:
    after = f"after {lost.after}" if lost.after is not None else ""
    before = f"before {lost.before}" if lost.before is not None else ""
    return " and ".join(part for part in (after, before) if part) or "of unknown place"


def _looked_for(each: Reconciled) -> dict[str, Any]:
    return {
        "job_id": each.job.job_id if each.job else None,
        "verdict": str(each.verdict),
        "candidates": list(each.candidates),
        "explanation": each.explanation,
    }


def bracket_facts(lost: Unconfirmed) -> dict[str, Any]:
    """Return what a program wants to know of a create whose outcome is not known."""
    return {
        "job_id": lost.job.job_id,
        "began_at": lost.began_at.isoformat(),
        "digest": lost.digest,
        "after": lost.after,
        "before": lost.before,
    }
