"""``abandon``: giving jobs up, whoever holds them."""

import asyncio
import contextlib
from collections.abc import Sequence

from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit
from crynux_async.cli.job_names import find_jobs
from crynux_async.cli.ledger_place import LedgerPlace
from crynux_async.cli.service import open_session
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.job import Job
from crynux_async.session import Session
from crynux_async.states import JobState, Signal, may

_HEARD_WITHIN = 15.0  # seconds: processes look for wishes every five
_LOOK_EVERY = 0.2


async def abandon(ledger: LedgerPlace | None, names: Sequence[str], service: ServiceChoice) -> Exit:
    """Give jobs up, and say of each what became of that."""
    console, code = open_console(), Exit.DONE
    async with open_session(ledger, service, makes_ledger=False) as session:
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
