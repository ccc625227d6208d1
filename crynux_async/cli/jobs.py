"""``jobs``, ``abandon``, ``reconcile``: what the ledger remembers and what to do about it."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from crynux_async.backends.base import Verdict
from crynux_async.cli.board import as_facts
from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit
from crynux_async.cli.job_facts import Detail, facts_of, write_csv
from crynux_async.cli.job_names import find_jobs
from crynux_async.cli.ledger_place import LedgerPlace, existing_place, ledger_option, shown
from crynux_async.cli.listing import print_jobs
from crynux_async.cli.service import open_session
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.clock import utc_now
from crynux_async.downloads.images import images_beside
from crynux_async.errors import UsageError
from crynux_async.job import Job
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.base import JobFilter, JobRow
from crynux_async.report.units import count
from crynux_async.session import Session
from crynux_async.session_values import Reconciled, Unconfirmed
from crynux_async.states import JobState, Signal, may
from crynux_async.supervision.cut_off import find_as_left

_HEARD_WITHIN = 15.0  # seconds: processes look for wishes every five
_LOOK_EVERY = 0.2


async def show_jobs(
    ledger: LedgerPlace | None,
    states: Sequence[str],
    label: str | None,
    tags: Sequence[str],
    *,
    as_json: bool,
    as_csv: bool,
    detail: Detail,
) -> Exit:
    """List what the ledger remembers; asks the bridge nothing."""
    place = existing_place(ledger)
    where = job_filter(states, label, tags)
    book = open_ledger(place)
    await book.open()
    try:
        # Read and closed before anything is printed: a pager that waits must not hold the ledger open.
        rows = await find_as_left(book, where)
        images = await asyncio.to_thread(_counted_images, rows)
        facts = await facts_of(book, rows, detail) if as_json or as_csv else []
    finally:
        await book.close()
    if as_json:
        print(json.dumps(facts))  # noqa: T201  # the command's output
    elif as_csv:
        write_csv(facts, sys.stdout)
    else:
        _print(rows, shown(place), images)
    return Exit.DONE


def _counted_images(rows: Sequence[JobRow]) -> dict[str, int]:
    """Return how many validation images lie beside the archives of jobs, by job."""
    return {row.job_id: len(images_beside(Path(row.path))) for row in rows if row.path}


def job_filter(states: Sequence[str], label: str | None, tags: Sequence[str]) -> JobFilter:
    """Return which jobs are meant by what was written on a command line.

    Args:
        states: Names of states.
        label: A label, or the beginning of one and a "*".
        tags: As name=value.

    Raises:
        UsageError: There is no such state, or a tag has no "=".
    """
    wrong = [tag for tag in tags if "=" not in tag]
    if wrong:
        raise UsageError(f"a tag is given as name=value, not {wrong[0]!r}", field="tag")
    is_prefix = label is not None and label.endswith("*")
    return JobFilter(
        states=parse_states(states),
        label=None if is_prefix else label,
        label_prefix=label[:-1] if is_prefix and label is not None else None,
        tags=dict(tag.split("=", 1) for tag in tags),
    )


async def abandon(ledger: LedgerPlace | None, names: Sequence[str], service: ServiceChoice) -> Exit:
    """Give jobs up, and say of each what became of that."""
    console, code = open_console(), Exit.DONE
    async with open_session(ledger, service) as session:
        for job in await find_jobs(session, names):
            # The command goes on to the next: one that cannot be given up is no reason to leave the others.
            if not may(job.state, Signal.ABANDON):
                console.print(f"{job.job_id} is {job.state} already: there is nothing to give up")
                continue
            job.abandon()
            if await _is_given_up(session, job):
                console.print(f"{job.job_id} is {JobState.ABANDONED}")
            else:
                code = Exit.TIMED_OUT
                console.print(f"{job.job_id} is {job.state}: the process that holds it was asked to give it up")
    return code


async def _is_given_up(session: Session, job: Job) -> bool:
    """Wait a while for a job to be given up by whoever holds it, and return whether it was."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_HEARD_WITHIN):
            while job.state is not JobState.ABANDONED:
                await asyncio.sleep(_LOOK_EVERY)
                await session.find(job.job_id)  # reads again what its owner has written
    return job.state is JobState.ABANDONED


async def reconcile(
    ledger: LedgerPlace | None, service: ServiceChoice, *, at_most: int, adopt: bool, as_json: bool
) -> Exit:
    """Look for the tasks of unconfirmed jobs, and for tasks without a job, and say of each what was found."""
    console = open_console(stderr=as_json)
    async with open_session(ledger, service) as session:
        await _say_price(session, console, at_most)
        looked_for = await session.reconcile(at_most=at_most, adopt=adopt)
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
    return Exit.DONE


async def _say_price(session: Session, console: Console, at_most: int) -> None:
    requests = await session.reconcile_requests(at_most=at_most)
    if requests:
        console.print(f"Looking takes up to {count(requests, 'request')}; --at-most bounds the tasks for each job.")


async def show_costs(session: Session, jobs: Sequence[Job], service: ServiceChoice, console: Console) -> None:
    """Say what jobs will cost one's own wallet, before they are sent."""
    configs = [job.config for job in jobs if job.config is not None]
    if service.relay and configs:
        from crynux_async.cli.relay import show_money

        await show_money(session, configs, console)


def parse_states(names: Sequence[str]) -> frozenset[JobState] | None:
    """Return the states with these names, or None for no names.

    Raises:
        UsageError: There is no such state.
    """
    known = {str(state): state for state in JobState}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"there is no state {', '.join(unknown)}; there are {', '.join(known)}", field="state")
    return frozenset(known[name] for name in names) or None


def _print(rows: Sequence[JobRow], place: str, images: Mapping[str, int]) -> None:
    console = open_console()
    if rows:
        print_jobs(console, rows, utc_now(), images)
    else:
        console.print(f"No jobs in {place}.")


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
