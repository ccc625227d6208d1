"""``run`` and ``download``: one job from the command line."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
from rich.console import Console
from rich.text import Text

from crynux_async.cli.board import Board
from crynux_async.cli.changes import parse_changes
from crynux_async.cli.console import LiteralConsole, open_console
from crynux_async.cli.exits import Exit
from crynux_async.cli.job_facts import as_facts
from crynux_async.cli.job_names import find_jobs
from crynux_async.cli.ledger_place import LedgerPlace, ledger_option
from crynux_async.cli.plain import one_line
from crynux_async.cli.service import emulated_session, open_session
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.cli.waiting import while_answered
from crynux_async.errors import UsageError
from crynux_async.job import Job
from crynux_async.session import Session
from crynux_async.states import GOOD, STAGES, JobState, Stage
from crynux_async.training import advice
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.service import ServiceFacts


async def run(
    config_path: Path,
    changes: Sequence[str],
    out: Path,
    name: str | None,
    timeout: float | None,
    *,
    service: ServiceChoice,
    ledger: LedgerPlace | None,
    emulated: bool,
    force: bool,
    as_json: bool,
) -> Exit:
    """Submit the config in a file, follow the job and download its model."""
    config = FineTuneConfig.from_file(config_path).evolve(**parse_changes(changes))
    console = open_console(stderr=as_json)

    async def begin(session: Session) -> Job:
        await session.check_target(config, out, name=name, label=config_path.stem, has_room=force)
        if service.relay:
            from crynux_async.cli.relay import show_money

            await show_money(session, [config], console)
        _warn(config, session.service_facts, console)
        return session.submit_nowait(config, label=config_path.stem, force=force)

    opened = emulated_session(service, ledger=ledger) if emulated else open_session(ledger, service, needs_key=True)
    following = _Following(out=out, name=name, timeout=timeout, service=service, ledger=ledger, as_json=as_json)
    return await following.follow(opened, begin, console)


def _warn(config: FineTuneConfig, service: ServiceFacts, console: Console) -> None:
    """Say what ``check`` warns of, before it is paid for."""
    for item in advice.check(config, service=service):
        if item.severity == "warning":
            where = f" {item.field}" if item.field else ""
            console.print(
                Text.assemble(("warning", "yellow"), f" {item.code}{where}: {item.message} {item.action}"),
            )


async def download(
    task_id: str,
    out: Path,
    name: str | None,
    timeout: float | None,
    *,
    service: ServiceChoice,
    ledger: LedgerPlace | None,
    as_json: bool,
) -> Exit:
    """Follow a task that the service has already and download its model."""

    async def begin(session: Session) -> Job:
        return await _job_of(session, await _task_of(session, task_id))

    following = _Following(out=out, name=name, timeout=timeout, service=service, ledger=ledger, as_json=as_json)
    opened = open_session(ledger, service, needs_key=True, makes_ledger=not _is_of_job(task_id))
    return await following.follow(opened, begin, open_console(stderr=as_json))


def _is_of_job(name: str) -> bool:
    """Whether a name is that of a job, and of no task of any service."""
    return name.startswith("j")


async def _task_of(session: Session, name: str) -> str:
    """Return the task that is meant: its own name, or that of its job in the ledger or the beginning of that.

    Raises:
        UsageError: No job is called so, or it has no task.
    """
    if not _is_of_job(name):
        return name
    (job,) = await find_jobs(session, [name])
    if job.task_id is None:
        raise UsageError(f"{job.job_id} is {job.state} and has no task that could be downloaded", field="task_id")
    return job.task_id


async def _job_of(session: Session, task_id: str) -> Job:
    """Return the job of a task: the ledger's own where that has ended, so that it learns where its model is."""
    known = await session.find(task_id=task_id)
    # What was given up, or was not known to the service, is looked at anew; so is a task of an earlier try.
    is_over = known is not None and known.state in (*GOOD, JobState.FAILED) and known.task_id == task_id
    return known if known is not None and is_over else session.attach(task_id)


@attrs.frozen(kw_only=True)
class _Following:
    """What is wanted of a job that is followed; see the commands' help."""

    out: Path
    name: str | None
    timeout: float | None
    service: ServiceChoice
    ledger: LedgerPlace | None
    as_json: bool

    async def follow(
        self,
        opened: AbstractAsyncContextManager[Session],
        begin: Callable[[Session], Awaitable[Job]],
        console: LiteralConsole,
    ) -> Exit:
        """Show a job until its model is on disk.

        Args:
            opened: The session, closed here.
            begin: Submits or finds the job.
            console: Where to print.
        """
        job = None
        try:
            async with opened as session:
                job = await begin(session)
                await self._show(session, job, console)
        finally:
            # After the session: closing it awaits a create under way, and a task may have come of that.
            if job is not None:
                _say_what_goes_on(job, console, self.service, self.ledger)
        return Exit.DONE

    async def _show(self, session: Session, job: Job, console: LiteralConsole) -> None:
        async with _repeats_shown(self.service, console), Board(session, console, [job]).shown():
            downloading = job.download(self.out, name=self.name, timeout=self.timeout)
            await while_answered(session, downloading, f"{self.service.option}{ledger_option(self.ledger)}")
        if self.service.relay:
            from crynux_async.cli.relay import show_end

            await show_end(job, console)
        if self.as_json:
            print(json.dumps(as_facts(job)))  # noqa: T201  # the command's output
        else:
            console.print(one_line(str(job.path)))


@asynccontextmanager
async def _repeats_shown(service: ServiceChoice, console: Console) -> AsyncIterator[None]:
    if not service.relay:
        yield
        return
    from crynux_async.cli.relay import repeats_shown

    with repeats_shown(console):
        yield


def _say_what_goes_on(job: Job, console: Console, service: ServiceChoice, ledger: LedgerPlace | None) -> None:
    """Tell the number of a task that is left running: without it a paid model cannot be found again."""
    place = ledger_option(ledger)
    if job.state is JobState.PLANNED:
        go_on = f"crynux-async resume --send{service.paid_option}{place}"
        give_up = f"crynux-async abandon {job.job_id}{service.option}{place}"
        said = Text(f"Job {job.job_id} is planned. To go on: ").append(go_on, "bold")
        console.print(said.append(". To give it up: ").append(give_up, "bold"))
        return
    if STAGES[job.state] not in (Stage.FOLLOW, Stage.FETCH):
        return
    # There this side has steps to take, and within time limits; a bridge takes all of them by itself.
    if service.relay:
        said = Text(f"Task {job.task_id} is {job.state} at the relay, and is lost unless somebody goes on in time: ")
        console.print(said.append(f"crynux-async resume{service.option}{place}", "bold"))
        return
    is_heard_of = job.state is not JobState.ATTACHED
    fact = f"Task {job.task_id} is {job.state} at the bridge" if is_heard_of else f"Task {job.task_id} was not seen yet"
    said = Text(f"{fact}. To go on: ")
    console.print(said.append(f"crynux-async download {job.task_id}{service.option}{place}", "bold"))
