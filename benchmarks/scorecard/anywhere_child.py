"""One of several processes on one ledger: submits its part of the jobs, and awaits and reads all of them.

``python -m benchmarks.scorecard.anywhere_child LEDGER FOLDER NUMBER``. It may be killed at any moment and started again
all the same: the number of the last event that it has read of each job stands in a file of its own. Standard output has
one line of JSON at the end: name and end of every job, by its key.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs

from benchmarks.scorecard.worlds import config
from crynux_async.backends.base import Habits
from crynux_async.backends.bridge.backend import BridgeBackend
from crynux_async.errors import JobError, SubmissionUnknownError
from crynux_async.job import Job
from crynux_async.session import Session
from crynux_async.settings import Settings

PROCESSES = 3
JOBS = 200
LEASE = 9.0
_LOOK_EVERY = 0.5


class Notebook:
    """Remembers which events were read, also across deaths.

    Args:
        path: The file; one line for each event, which is written at once.
    """

    def __init__(self, path: Path) -> None:
        self._last = dict(read_notes(path))
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def last(self, job: Job) -> int:
        """Return the number of the last event of a job that was read, or 0."""
        return self._last.get(job.job_id, 0)

    def enter(self, job: Job, number: int) -> None:
        """Remember an event."""
        os.write(self._file, f"{job.job_id} {number}\n".encode())


def read_notes(path: Path) -> Iterator[tuple[str, int]]:
    """Yield job and number of every event that was read, in order."""
    for line in path.read_text().splitlines() if path.is_file() else ():
        job_id, _, number = line.partition(" ")
        yield job_id, int(number)


class _ShortLeases(BridgeBackend):
    """A bridge whose jobs are taken over sooner than usual."""

    @property
    def habits(self) -> Habits:
        """Leases of some seconds."""
        return attrs.evolve(super().habits, lease=LEASE)


async def work(ledger: Path, notebook: Notebook, number: int) -> dict[str, list[str]]:
    """Submit every third job, and follow all of them to their ends."""
    settings = Settings.load()
    backend = _ShortLeases(settings)
    async with Session(settings, ledger=ledger, backend=backend, send_planned=True) as session:
        await asyncio.gather(*(_submit(session, seed) for seed in range(1 + number, 1 + JOBS, PROCESSES)))
        while len(jobs := await session.history()) < JOBS:
            await asyncio.sleep(_LOOK_EVERY)
        ends = await asyncio.gather(*(_follow(job, notebook) for job in jobs))
    await backend.close()
    return {job.idempotency_key or "": [job.job_id, end] for job, end in zip(jobs, ends, strict=True)}


async def _submit(session: Session, seed: int) -> None:
    try:
        await session.enqueue(config(seed), idempotency_key=str(seed))
    except SubmissionUnknownError:
        return  # it was under way when this process was killed


async def _follow(job: Job, notebook: Notebook) -> str:
    async for event in job.events(after=notebook.last(job)):
        notebook.enter(job, event.number)
    with contextlib.suppress(JobError, SubmissionUnknownError):
        await job.wait()
    return str(job.state)


def main() -> int:
    """Run the program and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int)
    options = parser.parse_args()
    notebook = Notebook(options.folder / f"read-by-{options.number}")
    print(json.dumps(asyncio.run(work(options.ledger, notebook, options.number))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
