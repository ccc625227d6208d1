"""``sweep``: a set of points from the command line."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.text import Text

from crynux_async.backends.reading import ReadBackend, facts_behind
from crynux_async.cli.console import LiteralConsole, open_console
from crynux_async.cli.exits import Exit
from crynux_async.cli.ledger_place import LedgerPlace, existing_place, ledger_option, ledger_place
from crynux_async.cli.plain import one_line
from crynux_async.cli.questions import agrees
from crynux_async.cli.service import emulated_session, open_session
from crynux_async.cli.service_choice import PaidService, ServiceChoice
from crynux_async.cli.sweep_board import SweepBoard
from crynux_async.cli.sweep_preview import facts_of, print_preview
from crynux_async.downloads.names import archive_name
from crynux_async.errors import UsageError
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.rows import JobFilter, JobRow
from crynux_async.money import to_cnx
from crynux_async.session import Session
from crynux_async.settings import Settings
from crynux_async.states import GOOD, JobState
from crynux_async.sweeps import Report, RetryAtMost, StopAfter, Sweep, SweepRun, Trial, recall
from crynux_async.sweeps.again import service_options
from crynux_async.sweeps.notes import TAG
from crynux_async.sweeps.page import ReportWriter
from crynux_async.sweeps.running import OnFailure
from crynux_async.sweeps.table import Table
from crynux_async.sweeps.trial import varied_fields
from crynux_async.sweeps.trial_states import counts_of
from crynux_async.wording import counted


@attrs.frozen(kw_only=True)
class RunOrder:
    """What ``sweep run`` was asked for; see the command's help."""

    file: Path
    is_agreed: bool
    is_emulated: bool
    service: PaidService
    force: bool
    retries: int
    stop_after: int | None
    report: Path | None
    images: Path | None
    ledger: LedgerPlace | None
    price: float | None
    as_json: bool

    @property
    def on_failure(self) -> OnFailure:
        """What becomes of failed trials.

        Raises:
            UsageError: Both were asked for, or a number means nothing.
        """
        if self.retries and self.stop_after is not None:
            raise UsageError("give either --retry or --stop-after, not both")
        if self.stop_after is not None:
            return StopAfter(self.stop_after)
        return RetryAtMost(self.retries) if self.retries else "keep"

    @property
    def page(self) -> Report | None:
        """The page to keep up to date, if one is wanted.

        Raises:
            UsageError: Pictures are given for no page.
        """
        if self.report is None and self.images is not None:
            raise UsageError("--images is for the page: give --report, too", field="images")
        # Of an emulated run that remembers nothing, no command could find the jobs: the session knows that.
        asks_session = self.is_emulated and self.ledger is None
        options = None if asks_session else f"{self.service.paid_option}{ledger_option(self.ledger)}".strip()
        return None if self.report is None else Report(self.report, images=self.images, options=options)


async def run(order: RunOrder) -> Exit:
    """Run a sweep to its end, and say what came of it."""
    sweep = Sweep.from_file(order.file)
    on_failure = order.on_failure
    console = open_console(stderr=order.as_json)
    page = order.page
    async with _running_session(order) as session:
        if not await _is_wanted(console, sweep, session, order):
            return Exit.USAGE
        async with sweep.run(session, force=order.force, on_failure=on_failure, report=page) as running:
            code = await _follow(session, running, console, as_json=order.as_json)
    if page is not None:
        console.print(Text(f"Report: {page.path}"))
    return code


def _running_session(order: RunOrder) -> AbstractAsyncContextManager[Session]:
    if order.is_emulated:
        return emulated_session(order.service, ledger=order.ledger, price=order.price)
    return open_session(order.ledger, order.service, needs_key=True, price=order.price)


async def _is_wanted(console: LiteralConsole, sweep: Sweep, session: Session, order: RunOrder) -> bool:
    """Show what will be done, and ask where there is somebody to ask; what a wallet pays is shown to everybody."""
    asks = console.is_terminal and not order.is_agreed
    if not asks and not order.service.relay:
        return True
    found = await sweep.preview(session)
    print_preview(console, found)
    can_run = found.is_workable or order.force  # what cannot run ends by itself, and says why
    return not asks or not found.new or not can_run or await agrees(console, f"Send {len(found.new)}?")


async def show_preview(
    file: Path,
    ledger: LedgerPlace | None,
    *,
    service: ServiceChoice,
    emulated: bool,
    price: float | None,
    as_json: bool,
) -> Exit:
    """Show what running a sweep would do."""
    sweep = Sweep.from_file(file)
    opened = (
        emulated_session(service, ledger=ledger, price=price)
        if emulated
        # Only read: to say what would be sent, no job is taken over.
        else open_session(ledger, service, only_reads=True, follow=False, price=price)
    )
    async with opened as session:
        found = await sweep.preview(session)
    if as_json:
        print(json.dumps(facts_of(found)))  # noqa: T201  # the command's output
    else:
        print_preview(open_console(), found)
    return Exit.DONE if found.is_workable else Exit.USAGE


async def show_status(name: str, ledger: LedgerPlace | None, *, as_json: bool) -> Exit:
    """Show where the trials of a sweep are."""
    async with _reading(ledger, name) as session:
        # Without archives: to read a hundred takes seconds, and none of them is asked about here.
        found = await recall(session, name, read_archives=False)
    if as_json:
        print(json.dumps(_facts(name, found.table)))  # noqa: T201  # the command's output
    else:
        console = open_console()
        console.print(Text(f"{name}: {_said(found.trials)}"))
        _print_failures(console, found.trials)
        _print_best(console, found.table)
    return _code(found.trials)


async def retry(
    name: str, ledger: LedgerPlace | None, service: ServiceChoice, *, is_agreed: bool, as_json: bool
) -> Exit:
    """Send what failed or was stopped again, and follow it."""
    console = open_console(stderr=as_json)
    async with open_session(ledger, service, needs_key=True, makes_ledger=False) as session:
        found = await recall(session, name, read_archives=False)
        chosen = [trial for trial in found.trials if trial.state in ("failed", "stopped")]
        if not chosen:
            console.print("No trial of it has failed or was stopped.")
            if as_json:  # those that are sent again, as ever
                print(json.dumps({"name": name, "trials": []}))  # noqa: T201  # the command's output
            return _code(found.trials)
        question = f"Send {len(chosen)} again{_price_of(session, chosen)}?"
        if console.is_terminal and not is_agreed and not await agrees(console, question):
            return Exit.USAGE
        async with SweepRun.again(found, session, chosen) as running:
            return await _follow(session, running, console, as_json=as_json)


def _price_of(session: Session, trials: Sequence[Trial]) -> str:
    prices = [session.price(trial.point.config) for trial in trials]
    known = [price for price in prices if price is not None]
    return f" for at most {to_cnx(sum(known))} CNX" if len(known) == len(prices) else ""


async def stop(name: str, ledger: LedgerPlace | None, *, as_json: bool) -> Exit:
    """Send nothing more of a sweep."""
    async with _reading(ledger, name) as session:
        found = await recall(session, name, read_archives=False)
        waiting = [trial.job for trial in found.trials if trial.job.state is JobState.PLANNED]
        await session.stop_sending(waiting)
    if as_json:
        print(json.dumps({"name": name, "unsent": len(waiting)}))  # noqa: T201  # the command's output
    else:
        left = counted(len(waiting), "trial")
        open_console().print(f"Left unsent until the sweep is run or retried again: {left}.")
    return Exit.DONE


async def show_table(name: str, ledger: LedgerPlace | None, *, as_json: bool, as_lines: bool, out: Path | None) -> Exit:
    """Print the trials of a sweep as rows."""
    if as_json and as_lines:
        raise UsageError("give either --json or --jsonl, not both")
    async with _reading(ledger, name) as session:
        rows = (await recall(session, name)).table
    text = rows.to_csv()
    if as_json:
        text = json.dumps(list(map(dict, rows.rows))) + "\n"
    elif as_lines:
        text = rows.to_json_lines()
    if out is None:
        sys.stdout.write(text)
    else:
        # In a thread: a folder on the network may take its time.
        await asyncio.to_thread(out.write_text, text, encoding="utf-8")
    return Exit.DONE


async def write_report(name: str, report: Report, ledger: LedgerPlace | None, *, as_json: bool) -> Exit:
    """Write the page of a sweep."""
    # Before the archives are read, which may take long.
    report.prepare()
    async with _reading(ledger, name) as session:
        found = await recall(session, name)
        report.check_parameters(varied_fields(found.trials))
        page = attrs.evolve(report, options=_options_of(session, ledger))
        path = await ReportWriter(page, found.subject, session).write(found.trials)
    if as_json:
        print(json.dumps({"name": name, "report": str(path)}))  # noqa: T201  # the command's output
    else:
        open_console().print(Text(str(path)))
    return Exit.DONE


def _options_of(session: Session, ledger: LedgerPlace | None) -> str:
    """Return what a command must be given that sends trials again: where they are, with the ledger as it was given."""
    return f"{' '.join(service_options(session))}{ledger_option(ledger)}".strip()


def report_file(name: str) -> Path:
    """Return where the page of a sweep is written where nobody says: a file of this folder, whatever the name."""
    return Path(archive_name("{name}", name=name)).with_suffix(".html")


async def _rows(ledger: LedgerPlace | None, name: str | None = None) -> list[JobRow]:
    """Return what a ledger has of the jobs of a sweep, or of all sweeps, at whichever service."""
    # Of the ledger itself: at which service the sweep is, and so which session to open, is not known yet.
    book = open_ledger(existing_place(ledger, made_by="sweep run"), makes=False)
    await book.open()
    try:
        rows = await book.jobs(JobFilter(tags={} if name is None else {TAG: name}))
    finally:
        await book.close()
    return [row for row in rows if TAG in row.tags]


def _services(rows: Sequence[JobRow]) -> list[str]:
    """Return the services of jobs, the latest last."""
    return list(reversed(dict.fromkeys(row.backend for row in reversed(rows))))


def _at(ledger: LedgerPlace | None, rows: Iterable[JobRow], service: str) -> Session:
    """Return a session that only reads what the ledger has of a service, whichever: nothing is asked of it."""
    key_id = next(row.key_id for row in rows if row.backend == service)
    backend = ReadBackend(name=service, facts=facts_behind(key_id))
    return Session(backend=backend, ledger=ledger_place(ledger), follow=False)


@asynccontextmanager
async def _reading(ledger: LedgerPlace | None, name: str) -> AsyncIterator[Session]:
    """Open a session where a sweep is: at the service of the settings if it is there, or where it was last."""
    rows = await _rows(ledger, name)
    services = _services(rows)
    if not services:
        known = ", ".join(dict.fromkeys(repr(row.tags[TAG]) for row in await _rows(ledger))) or "none"
        raise UsageError(f"this ledger has no sweep {name!r}; it has {known}", field="name")
    usual = Settings.load().base_url
    service = usual if usual in services else services[-1]
    async with _at(ledger, rows, service) as session:
        yield session


async def _follow(session: Session, running: SweepRun, console: Console, *, as_json: bool) -> Exit:
    """Show a sweep until its end, and say what came of it."""
    async with SweepBoard(session, console, running).shown():
        await running.wait()
    trials = running.trials
    if as_json:
        print(json.dumps(_facts(running.name, running.table)))  # noqa: T201  # the command's output
    else:
        console.print(f"\n{_said(trials)}.", style="bold")
        _print_failures(console, trials)
        _print_best(console, running.table)
    return _code(trials)


def _said(trials: Sequence[Trial]) -> str:
    return (
        ", ".join(f"{count} {state}" for state, count in counts_of(trial.state for trial in trials).items())
        or "no trials"
    )


def _print_failures(console: Console, trials: Sequence[Trial]) -> None:
    for trial in trials:
        if trial.state in ("failed", "unconfirmed"):
            reason = trial.job.reason or trial.error or "the service gives no reason"
            text = one_line(f"  {trial.number} {trial.label}: {trial.state}: {reason}")
            # A line each in a log, where nothing is cut; on a terminal no word is.
            console.print(Text(text), soft_wrap=not console.is_terminal)


def _print_best(console: Console, table: Table) -> None:
    for row in table.rows:
        if row["standing"] == 1:
            console.print(Text(f"  best: {row['number']} {row['label']}, {row['objective']:.6g}"))


def _facts(name: str, table: Table) -> dict[str, Any]:
    return {"name": name, **counts_of(row["state"] for row in table.rows), "trials": list(map(dict, table.rows))}


def _code(trials: Sequence[Trial]) -> Exit:
    if all(trial.job.state in GOOD and trial.problem is None for trial in trials):
        return Exit.DONE
    # What may have to be paid for twice is the graver news.
    unknown = any(trial.state == "unconfirmed" for trial in trials)
    return Exit.OUTCOME_UNKNOWN if unknown else Exit.JOB_ENDED_BADLY
