"""``sweep``: a set of points from the command line."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.text import Text

from crynux_async.cli.exits import Exit
from crynux_async.cli.ledger_place import ledger_path
from crynux_async.cli.sweep_board import SweepBoard, counted
from crynux_async.cli.sweep_preview import facts_of, print_preview
from crynux_async.errors import UsageError
from crynux_async.session import Session
from crynux_async.states import GOOD, JobState
from crynux_async.sweeps import RememberedSweep, RetryAtMost, StopAfter, Sweep, SweepRun, Trial, recall, sweep_names
from crynux_async.sweeps.page import PageChoice, collect_pictures, write_page
from crynux_async.sweeps.running import OnFailure
from crynux_async.sweeps.table import Table, table_of
from crynux_async.sweeps.view import view_of

_PAGE_EVERY = 10.0  # seconds between two versions of a page while a sweep runs


@attrs.frozen(kw_only=True)
class RunOrder:
    """What ``sweep run`` was asked for; see the command's help."""

    file: Path
    is_agreed: bool
    is_emulated: bool
    force: bool
    retries: int
    stop_after: int | None
    page: Path | None
    ledger: Path | None
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


@attrs.frozen(kw_only=True)
class PageOrder:
    """What ``sweep report`` was asked for; see the command's help."""

    name: str
    out: Path
    images: Path | None
    across: str | None
    down: str | None


async def run(order: RunOrder) -> Exit:
    """Run a sweep to its end, and say what came of it."""
    sweep = Sweep.from_file(order.file)
    on_failure = order.on_failure
    console = Console(stderr=order.as_json, highlight=False)
    async with _session(order.ledger, emulated=order.is_emulated, price=order.price) as session:
        if console.is_terminal and not order.is_agreed:
            found = await sweep.preview(session)
            print_preview(console, found)
            if found.new and not await _is_agreed(console, f"Send {len(found.new)}?"):
                return Exit.USAGE
        async with sweep.run(session, force=order.force, on_failure=on_failure) as running:
            return await _follow(session, sweep, running, console, page=order.page, as_json=order.as_json)


async def show_preview(file: Path, ledger: Path | None, *, emulated: bool, as_json: bool) -> Exit:
    """Show what running a sweep would do."""
    sweep = Sweep.from_file(file)
    async with _session(ledger, emulated=emulated, follow=False) as session:
        found = await sweep.preview(session)
    if as_json:
        print(json.dumps(facts_of(found)))  # noqa: T201  # the command's output
    else:
        print_preview(Console(highlight=False), found)
    return Exit.DONE if found.is_workable else Exit.USAGE


async def show_list(ledger: Path | None, *, as_json: bool) -> Exit:
    """List the sweeps of a ledger."""
    async with _reading(ledger) as session:
        sweeps = [await recall(session, name, read_archives=False) for name in await sweep_names(session)]
    if as_json:
        print(json.dumps([{"name": each.name, **counted(each.trials)} for each in sweeps]))  # noqa: T201
        return Exit.DONE
    console = Console(highlight=False)
    for each in sweeps:
        console.print(Text(f"{each.name}: {_said(each.trials)}"), soft_wrap=True)
    if not sweeps:
        console.print("No sweep was run yet: crynux-async sweep run sweep.toml")
    return Exit.DONE


async def show_status(name: str, ledger: Path | None, *, as_json: bool) -> Exit:
    """Show where the trials of a sweep are."""
    async with _reading(ledger) as session:
        found = await recall(session, name, read_archives=False)
    if as_json:
        print(json.dumps(_facts(name, found.trials)))  # noqa: T201  # the command's output
    else:
        console = Console(highlight=False)
        console.print(Text(f"{name}: {_said(found.trials)}"), soft_wrap=True)
        _print_failures(console, found.trials)
    return _code(found.trials)


async def retry(name: str, ledger: Path | None, *, is_agreed: bool, as_json: bool) -> Exit:
    """Send what failed or was stopped again, and follow it."""
    console = Console(stderr=as_json, highlight=False)
    async with _session(ledger, emulated=False) as session:
        found = await recall(session, name, read_archives=False)
        chosen = [trial for trial in found.trials if trial.state in ("failed", "stopped")]
        if not chosen:
            console.print("Nothing of it has failed or was stopped.")
            return _code(found.trials)
        if console.is_terminal and not is_agreed and not await _is_agreed(console, f"Send {len(chosen)} again?"):
            return Exit.USAGE
        async with SweepRun.again(name, session, chosen) as running:
            return await _follow(session, found, running, console, page=None, as_json=as_json)


async def stop(name: str, ledger: Path | None) -> Exit:
    """Send nothing more of a sweep."""
    async with _session(ledger, emulated=False, follow=False) as session:
        found = await recall(session, name, read_archives=False)
        waiting = [trial.job for trial in found.trials if trial.job.state is JobState.PLANNED]
        await session.stop_sending(waiting)
    Console(highlight=False).print(f"{len(waiting)} trials stay unsent until the sweep is run or retried again.")
    return Exit.DONE


async def show_table(name: str, ledger: Path | None, *, as_lines: bool, out: Path | None) -> Exit:
    """Print the trials of a sweep as rows."""
    async with _reading(ledger) as session:
        rows: Table = table_of((await recall(session, name)).trials)
    text = rows.to_json_lines() if as_lines else rows.to_csv()
    if out is None:
        sys.stdout.write(text)
    else:
        await asyncio.to_thread(out.write_text, text, encoding="utf-8")
    return Exit.DONE


async def write_report(order: PageOrder, ledger: Path | None) -> Exit:
    """Write the page of a sweep."""
    async with _reading(ledger) as session:
        found = await recall(session, order.name)
        pictures = await collect_pictures(found.trials, order.images)
    view = view_of(found.name, found.base, found.trials, images=pictures)
    await write_page(order.out, view, PageChoice(across=order.across, down=order.down))
    Console(highlight=False).print(Text(str(order.out)), soft_wrap=True)
    return Exit.DONE


@asynccontextmanager
async def _session(
    ledger: Path | None, *, emulated: bool, follow: bool = True, price: float | None = None
) -> AsyncIterator[Session]:
    if not emulated:
        async with Session(ledger=ledger_path(ledger), follow=follow, price=price) as session:
            yield session
        return
    from crynux_async.emulator import Emulator

    async with Emulator(speed=20.0) as emulator, Session(**emulator.settings(), ledger=ledger, price=price) as session:
        yield session


@asynccontextmanager
async def _reading(ledger: Path | None) -> AsyncIterator[Session]:
    path = ledger_path(ledger)
    if not path.is_file():
        raise UsageError(f"there is no ledger at {path}; it is made by the first 'crynux-async sweep run'")
    async with _session(path, emulated=False, follow=False) as session:
        yield session


async def _follow(
    session: Session,
    sweep: Sweep | RememberedSweep,
    running: SweepRun,
    console: Console,
    *,
    page: Path | None,
    as_json: bool,
) -> Exit:
    """Show a sweep until its end, and say what came of it."""
    async with SweepBoard(session, console, running).shown(), _written(page, sweep, running):
        await running.wait()
    trials = running.trials
    if as_json:
        print(json.dumps(_facts(sweep.name, trials)))  # noqa: T201  # the command's output
    else:
        console.print(f"\n[bold]{_said(trials)}.[/]")
        _print_failures(console, trials)
        if page is not None:
            console.print(Text(f"Report: {page}"), soft_wrap=True)
    return _code(trials)


@asynccontextmanager
async def _written(page: Path | None, sweep: Sweep | RememberedSweep, running: SweepRun) -> AsyncIterator[None]:
    """Write a page, if one is wanted, now and then while the block runs, and once more at its end."""
    if page is None:
        yield
        return
    base: Mapping[str, Any] = sweep.asked()["base"] if isinstance(sweep, Sweep) else sweep.base

    async def write() -> None:
        await write_page(page, view_of(sweep.name, base, running.trials), PageChoice())

    async def go_on() -> None:
        while True:
            await write()
            await asyncio.sleep(_PAGE_EVERY)

    writer = asyncio.create_task(go_on())
    try:
        yield
    finally:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        await write()


async def _is_agreed(console: Console, question: str) -> bool:
    answer = await asyncio.to_thread(console.input, f"{question} [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def _said(trials: Sequence[Trial]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counted(trials).items()) or "no trials"


def _print_failures(console: Console, trials: Sequence[Trial]) -> None:
    for trial in trials:
        if trial.state in ("failed", "unconfirmed"):
            reason = trial.job.reason or trial.error or "the service gives no reason"
            console.print(Text(f"  {trial.number} {trial.label}: {trial.state}: {reason}"), soft_wrap=True)


def _facts(name: str, trials: Sequence[Trial]) -> dict[str, Any]:
    return {"name": name, **counted(trials), "trials": list(map(dict, table_of(trials).rows))}


def _code(trials: Sequence[Trial]) -> Exit:
    if all(trial.job.state in GOOD and trial.problem is None for trial in trials):
        return Exit.DONE
    unknown = any(trial.state == "unconfirmed" for trial in trials)
    return Exit.OUTCOME_UNKNOWN if unknown else Exit.JOB_ENDED_BADLY
