"""``resume``: going on with everything that is unfinished, whoever began it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import attrs
from rich.console import Console
from rich.text import Text

from crynux_async.cli.board import Board, summary
from crynux_async.cli.console import LiteralConsole, open_console
from crynux_async.cli.exits import Exit, exit_code
from crynux_async.cli.job_facts import as_facts
from crynux_async.cli.jobs import in_doubt_text
from crynux_async.cli.ledger_place import LedgerPlace, ledger_option
from crynux_async.cli.plain import one_line
from crynux_async.cli.reconcile import bracket_facts, print_unconfirmed
from crynux_async.cli.service import in_doubt, open_session
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.cli.waiting import while_answered
from crynux_async.clock import utc_now
from crynux_async.downloads.target import check_folder
from crynux_async.errors import CrynuxError, WaitTimeoutError
from crynux_async.job import Job, record_of
from crynux_async.ledgers.base import Holder
from crynux_async.session import Session
from crynux_async.states import FOLLOWED, GOOD, UNFINISHED, JobState
from crynux_async.supervision.owners import Place
from crynux_async.wording import counted


@attrs.frozen(kw_only=True)
class ResumeOrder:
    """What ``resume`` was asked for; see the command's help."""

    ledger: LedgerPlace | None
    service: ServiceChoice
    out: Path | None
    timeout: float | None
    patience: float | None
    send: bool
    as_json: bool

    @property
    def again(self) -> str:
        """What a command that goes on with the same jobs must be given, with a space before it, or ""."""
        return f"{self.service.option}{ledger_option(self.ledger)}"


@attrs.frozen(kw_only=True)
class Outcome:
    """What came of it.

    Attributes:
        jobs: The jobs that were unfinished.
        failed: Why archives could not be fetched, by job.
        unsent: Why jobs were not sent that were to be.
        left: Jobs that another process held until the end, and those that were planned and are not to be sent.
        has_lost: Whether there are creates whose outcome is not known.
    """

    jobs: Sequence[Job]
    failed: Mapping[str, CrynuxError]
    unsent: Mapping[str, CrynuxError]
    left: Sequence[Job]
    has_lost: bool

    @property
    def exit(self) -> Exit:
        """The exit code: what may have to be paid for twice first, then what has no model, why, then what waits."""
        if self.has_lost:
            return Exit.OUTCOME_UNKNOWN
        if any(job.done and job.state not in GOOD for job in self.jobs):
            return Exit.JOB_ENDED_BADLY
        if self.unsent:
            return exit_code(next(iter(self.unsent.values())))
        if self.failed:
            return Exit.DOWNLOAD
        return Exit.TIMED_OUT if self.left else Exit.DONE


async def resume(order: ResumeOrder) -> Exit:
    """Follow every unfinished job to its end and fetch the models that were asked for."""
    console = open_console(stderr=order.as_json)
    # Before the session: what cannot be written is found out before anything is followed.
    if order.out is not None:
        check_folder(order.out)
    async with open_session(order.ledger, order.service, makes_ledger=False) as session:
        jobs = await _unfinished(session, order, console)
        lost = await session.unconfirmed()
        print_unconfirmed(console, lost, order.service, order.ledger)
        await _say_who_holds(session, console, jobs)
        try:
            async with Board(session, console, jobs).shown(), _fetching(_waiting(jobs, order), order.out) as fetches:
                left = await while_answered(session, _wait(session, jobs, order), order.again)
                failed = await fetches.ended(jobs, left)
        finally:
            _say_what_goes_on(console, jobs, order)
        await _say_who_holds(session, console, left)
        # Asked of the ledger again: what others were sending may have become unclear meanwhile.
        has_lost = bool(await session.history(states=[JobState.UNCONFIRMED], limit=1))
        doubtful = [job.job_id for job in await in_doubt(session, jobs)]
    planned = [job for job in jobs if order.send and job.state is JobState.PLANNED]
    unsent = {job.job_id: job.error for job in planned if job.error is not None}
    kept_back = [job for job in jobs if not order.send and job.state is JobState.PLANNED]
    outcome = Outcome(jobs=jobs, failed=failed, unsent=unsent, left=[*left, *kept_back], has_lost=has_lost)
    if order.as_json:
        facts = {"jobs": [_facts(job, failed) for job in jobs], "unconfirmed": [bracket_facts(each) for each in lost]}
        print(json.dumps(facts))  # noqa: T201  # the command's output
    else:
        _print(console, outcome)
    if kept_back:
        send = f"crynux-async resume --send{order.service.paid_option}{ledger_option(order.ledger)}"
        console.print(Text(f"Send what was only planned: {send}.", "dim"))
    if doubtful:
        console.print(Text(in_doubt_text(doubtful, ledger_option(order.ledger))))
    return outcome.exit


async def _unfinished(session: Session, order: ResumeOrder, console: LiteralConsole) -> list[Job]:
    """Return what is unfinished, whoever holds it; planned jobs are queued where they are to be sent."""
    states = UNFINISHED - {JobState.UNCONFIRMED}
    jobs = session.jobs(states)
    # Those of other processes, too: they are waited for and taken over when their lease ends.
    jobs += [job for job in await session.history(states=states) if job not in jobs]
    # Models of which nobody has wanted anything are left where they are.
    jobs = [job for job in jobs if job.state not in GOOD or job.folder is not None or order.out is not None]
    planned = [job for job in jobs if order.send and job.state is JobState.PLANNED]
    await _show_costs(session, planned, order.service, console)
    for job in planned:
        await job.retry()
    return jobs


async def _show_costs(session: Session, jobs: Sequence[Job], service: ServiceChoice, console: Console) -> None:
    """Say what jobs will cost one's own wallet, before they are sent."""
    configs = [job.config for job in jobs if job.config is not None]
    if service.relay and configs:
        from crynux_async.cli.relay import show_money

        await show_money(session, configs, console)


async def _wait(session: Session, jobs: Sequence[Job], order: ResumeOrder) -> list[Job]:
    """Wait for the ends of jobs, and return those that others held for longer than there was patience."""
    waiting = _waiting(jobs, order)
    if order.patience is None or not _held_by_others(waiting):
        await session.wait_all(waiting, timeout=order.timeout)
        return []
    patience = order.patience if order.timeout is None else min(order.patience, order.timeout)
    try:
        await session.wait_all(waiting, timeout=patience)
    except WaitTimeoutError:
        # The user's own limit came first: that is a timeout, and no lack of patience.
        if patience == order.timeout:
            raise
    left = _held_by_others(waiting)
    rest = None if order.timeout is None else order.timeout - patience
    await session.wait_all([job for job in waiting if job not in left], timeout=rest)
    return left


def _waiting(jobs: Sequence[Job], order: ResumeOrder) -> list[Job]:
    """Return the jobs that will end; what is only planned is not sent, unless that was said."""
    return [job for job in jobs if job.state is not JobState.PLANNED or order.send]


def _held_by_others(jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if not job.done and not record_of(job).is_ours]


class _Fetches:
    """Brings each model to disk as soon as it is there, while others still train.

    Args:
        jobs: Whose.
        out: Where to, for those of which nobody has said so before; None leaves these where they are.
    """

    def __init__(self, jobs: Sequence[Job], out: Path | None) -> None:
        self.tasks = {job.job_id: asyncio.create_task(_fetched(job, out)) for job in jobs}

    async def ended(self, jobs: Sequence[Job], left: Sequence[Job]) -> dict[str, CrynuxError]:
        """Wait for the models of jobs, but those that are left to others, and return why some did not come."""
        awaited = {job.job_id: self.tasks[job.job_id] for job in jobs if job not in left and job.job_id in self.tasks}
        errors = dict(zip(awaited, await asyncio.gather(*awaited.values()), strict=True))
        return {job_id: error for job_id, error in errors.items() if error is not None}


@asynccontextmanager
async def _fetching(jobs: Sequence[Job], out: Path | None) -> AsyncIterator[_Fetches]:
    """Fetch models in this block; what is not here at its end is continued by the next command."""
    fetches = _Fetches(jobs, out)
    try:
        yield fetches
    finally:
        for task in fetches.tasks.values():
            task.cancel()
        await asyncio.gather(*fetches.tasks.values(), return_exceptions=True)


async def _fetched(job: Job, out: Path | None) -> CrynuxError | None:
    """Fetch a job's model once there is one, into the folder that was asked for then, or now; return why it failed."""
    with contextlib.suppress(CrynuxError):  # how the job ended is told with it
        await job.wait()
    folder = job.folder or out
    if job.state is not JobState.SUCCEEDED or folder is None:
        return None
    try:
        await job.download(folder, name=job.file_name)
    except CrynuxError as error:
        return error  # the model stays where it is, and the others come
    return None


async def _say_who_holds(session: Session, console: LiteralConsole, jobs: Sequence[Job]) -> None:
    """Say which process holds jobs that this one does not, and until when."""
    holders: dict[int, tuple[Holder, list[str]]] = {}
    for job in _held_by_others(jobs):
        holder = await session.ledger.holder(job.job_id)
        if holder is not None:
            holders.setdefault(holder.fence.number, (holder, []))[1].append(job.label or job.job_id)
    for holder, names in holders.values():
        console.print(one_line(held_text(holder, names, utc_now())))


def held_text(holder: Holder, names: Sequence[str], now: datetime) -> str:
    """Return who holds jobs and until when, in words.

    Args:
        holder: Who.
        names: What the jobs are called.
        now: The time.
    """
    place = Place.of(holder.fence.owner)
    who = "another process" if place is None else f"process {place.pid} on {place.host}"
    seconds = max(0.0, (holder.until - now).total_seconds())
    return (
        f"{counted(len(names), 'job')} held by {who} ({', '.join(names)}): its lease ends in {seconds:.0f} s, at "
        f"{holder.until:%H:%M:%S} UTC, unless it lives and renews it; limit the waiting with --patience"
    )


def _say_what_goes_on(console: LiteralConsole, jobs: Sequence[Job], order: ResumeOrder) -> None:
    """Tell the numbers of the tasks that are left running when waiting ends early."""
    left = [job for job in jobs if job.task_id and job.state in FOLLOWED]
    seen = [job.task_id for job in left if job.task_id and job.state is not JobState.ATTACHED]
    # Nothing is said to be at a service that has not said so.
    unseen = [job.task_id for job in left if job.task_id and job.state is JobState.ATTACHED]
    place, said = order.service.place, []
    if seen:
        said.append(f"The task{'s are' if len(seen) > 1 else ' is'} at the {place} still: {', '.join(seen)}.")
    if unseen:
        said.append(f"Not seen at the {place} yet: {', '.join(unseen)}.")
    if said:
        console.print(Text(f"{' '.join(said)} To go on: ").append(f"crynux-async resume{order.again}", "bold"))


def _facts(job: Job, failed: Mapping[str, CrynuxError]) -> dict[str, object]:
    facts: dict[str, object] = {**as_facts(job)}
    return facts | {"error": str(failed[job.job_id])} if job.job_id in failed else facts


def _print(console: LiteralConsole, outcome: Outcome) -> None:
    for job in outcome.jobs:
        ended_badly = job.error if job.done and job.state not in GOOD else None
        error = outcome.failed.get(job.job_id) or outcome.unsent.get(job.job_id) or ended_badly
        if error is not None:
            console.print(Text.assemble((one_line(job.label or job.job_id), "bold"), f": {error}"))
    said = ", ".join(f"{number} {state}" for state, number in summary(outcome.jobs).items())
    console.print(said or ("Nothing else is unfinished." if outcome.has_lost else "Nothing is unfinished."))
