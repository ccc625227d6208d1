"""``retry``: jobs are sent again, by name or by what they have come to, once it was said what that costs."""

from collections.abc import Sequence

import attrs
from rich.console import Console
from rich.text import Text

from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit, exit_code, show_error
from crynux_async.cli.job_names import find_jobs
from crynux_async.cli.jobs import job_filter
from crynux_async.cli.ledger_place import LedgerPlace
from crynux_async.cli.questions import agrees
from crynux_async.cli.service import in_doubt, open_session
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.errors import CrynuxError, UsageError
from crynux_async.job import Job, record_of
from crynux_async.ledgers.base import JobFilter
from crynux_async.money import to_cnx
from crynux_async.session import Session
from crynux_async.states import JobState
from crynux_async.supervision.tries import check_are_tried_together, check_may_be_sent, lengthened
from crynux_async.training.config import FineTuneConfig
from crynux_async.wording import counted

_ENDED_BADLY = (JobState.FAILED, JobState.EXPIRED, JobState.REJECTED)


@attrs.frozen(kw_only=True)
class RetryOrder:
    """What ``retry`` was asked for; see the command's help."""

    names: Sequence[str]
    states: Sequence[str]
    label: str | None
    tags: Sequence[str]
    at_most: int | None
    timeout: int | None
    is_agreed: bool
    ledger: LedgerPlace | None
    service: ServiceChoice


async def retry(order: RetryOrder) -> Exit:
    """Send jobs again, and say of each what became of that."""
    console = open_console()
    if bool(order.names) is bool(order.states or order.label is not None or order.tags):
        raise UsageError("name the jobs that are to be sent again, or choose them with --state, --label or --tag")
    where = job_filter(order.states, order.label, order.tags)
    # Refused before the price is shown, and not by the first job of a state that cannot be tried again.
    check_are_tried_together(where.states or _ENDED_BADLY)
    async with open_session(order.ledger, order.service, makes_ledger=False) as session:
        jobs = await _chosen(session, order, where)
        if not jobs:
            console.print("No such job can be sent again.")
            return Exit.DONE
        await _show_price(session, [_more_time(job, order) or job.config for job in jobs], order.service, console)
        for job in await in_doubt(session, jobs):
            said = "may have a task: the same create is sent again, and makes no other task and takes no other fee"
            console.print(Text(f"{job.job_id} {said}"))
        question = f"Send {len(jobs):,} again?"
        if console.is_terminal and not order.is_agreed and not await agrees(console, question):
            return Exit.USAGE
        # Of many that are meant by their state, some may have more time already; one that is named must be able to.
        longer = [job for job in jobs if order.names or _more_time(job, order)]
        others = [job for job in jobs if job not in longer]
        await session.retry(longer, timeout=order.timeout)
        await session.retry(others)
        return await _told(console, jobs)


async def _chosen(session: Session, order: RetryOrder, where: JobFilter) -> list[Job]:
    if order.names:
        named = (await find_jobs(session, order.names))[: order.at_most]
        for job in named:  # before the price is shown
            check_may_be_sent(record_of(job))
            lengthened(record_of(job), order.timeout)
        return named
    found = await session.history(
        states=where.states or _ENDED_BADLY, label=where.label, label_prefix=where.label_prefix, tags=dict(where.tags)
    )
    # What was trained without a config here, an attached task, cannot be sent by anybody.
    return [job for job in found if job.config is not None][: order.at_most]


def _more_time(job: Job, order: RetryOrder) -> FineTuneConfig | None:
    """Return a job's config with the time that was asked for, or None where it has as much already.

    Raises:
        ConfigError: No config can have such a timeout.
    """
    if order.timeout is None or job.config is None or order.timeout <= job.config.timeout:
        return None
    return job.config.evolve(timeout=order.timeout)


async def _show_price(
    session: Session, configs: Sequence[FineTuneConfig | None], service: ServiceChoice, console: Console
) -> None:
    """Say what sending configs again costs; who asks for a job without one is told later why that cannot be."""
    known = [config for config in configs if config is not None]
    if service.relay and known:
        from crynux_async.cli.relay import show_money

        await show_money(session, known, console)
    elif known:
        console.print(Text(f"{counted(len(known), 'job')} to send again: {_price(session, known)}"))


def _price(session: Session, configs: Sequence[FineTuneConfig]) -> str:
    prices = [session.price(config) for config in configs]
    known = [price for price in prices if price is not None]
    if not known:
        return "what they cost is not known."
    others = len(prices) - len(known)
    return f"at most {to_cnx(sum(known))} CNX{f', and what {others:,} others cost is not known' if others else ''}."


async def _told(console: Console, jobs: Sequence[Job]) -> Exit:
    """Wait until each job is sent, or why not, and return the exit code of the first that was not."""
    code = Exit.DONE
    for job in jobs:
        try:
            await job.submitted()
        except CrynuxError as error:
            show_error(error)
            code = code or exit_code(error)
        else:
            console.print(Text(f"{job.job_id} was sent as task {job.task_id}"))
    return code
