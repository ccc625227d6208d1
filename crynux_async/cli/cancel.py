"""``cancel``: jobs are called back where their service can, once it was said what that means for the money."""

import json
from collections.abc import Sequence
from typing import Any

import attrs
from rich.console import Console
from rich.text import Text

from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit, exit_code, show_error
from crynux_async.cli.job_names import find_jobs
from crynux_async.cli.ledger_place import LedgerPlace, ledger_option
from crynux_async.cli.questions import agrees
from crynux_async.cli.service import in_doubt, open_session
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.errors import CrynuxError
from crynux_async.job import Job
from crynux_async.money import to_cnx
from crynux_async.states import FOLLOWED, JobState
from crynux_async.wording import counted


@attrs.frozen(kw_only=True)
class CancelOrder:
    """What ``cancel`` was asked for; see the command's help."""

    names: Sequence[str]
    is_agreed: bool
    ledger: LedgerPlace | None
    service: ServiceChoice
    as_json: bool


async def cancel(order: CancelOrder) -> Exit:
    """Cancel jobs, and say of each what became of that."""
    console = open_console(stderr=order.as_json)
    async with open_session(order.ledger, order.service, makes_ledger=False) as session:
        jobs = await find_jobs(session, order.names)
        doubtful = await in_doubt(session, jobs)
        for job in jobs:
            console.print(Text(f"{job.job_id}: {await _meaning(job, order.service, is_in_doubt=job in doubtful)}"))
        question = f"Cancel {counted(len(jobs), 'job')}?"
        if console.is_terminal and not order.is_agreed and not await agrees(console, question):
            return Exit.USAGE
        code, facts = Exit.DONE, []
        for job in jobs:
            outcome, said = await _cancelled(job, console)
            facts.append(_facts(job, outcome, said))
            code = code or outcome
    if order.as_json:
        print(json.dumps({"jobs": facts}))  # noqa: T201  # the command's output
    elif any(job.state in FOLLOWED for job in jobs) and not order.service.relay:
        give_up = f"crynux-async abandon JOB{order.service.option}{ledger_option(order.ledger)}"
        console.print(Text(f"To stop following a task that goes on: {give_up}.", "dim"))
    return code


async def _meaning(job: Job, service: ServiceChoice, *, is_in_doubt: bool) -> str:
    """Return what cancelling a job costs and gives back, before it is done."""
    if job.state is JobState.PLANNED:
        if is_in_doubt:
            return "may have a task, because the answer to its create was lost: it stays until that is known"
        return "is not sent yet, so it costs nothing"
    if job.state is JobState.UNCONFIRMED:
        return (
            "is unconfirmed: it may have a task that is paid for, and none that could be cancelled before it is found"
        )
    if job.state not in FOLLOWED:
        return f"is {job.state}, so there is nothing to cancel and nothing to refund"
    if not service.relay:
        return "its task runs at the bridge, which cancels none: it goes on and is paid for"
    cost = await job.cost()
    spent = f", but for {to_cnx(cost.spent)} CNX of earlier tries" if cost.spent else ""
    return (
        f"its task is {job.progress or job.state}: all fees are refunded as long as it waits for a node{spent}; what a "
        "node has runs on, and nothing changes"
    )


async def _cancelled(job: Job, console: Console) -> tuple[Exit, str]:
    """Cancel a job, and return the exit code of that and what was said."""
    try:
        said = await job.cancel()
    except CrynuxError as error:
        show_error(error)
        return exit_code(error), str(error)
    console.print(Text(f"{job.job_id} is cancelled: {said}"))
    return Exit.DONE, said


def _facts(job: Job, outcome: Exit, said: str) -> dict[str, Any]:
    """Return what a program wants to know of a job that was to be cancelled."""
    return {
        "job_id": job.job_id,
        "task_id": job.task_id,
        "state": job.state.value,
        "is_cancelled": outcome is Exit.DONE,
        "message": said,
    }
