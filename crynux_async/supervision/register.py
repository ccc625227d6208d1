"""Which jobs there are and what is believed of them: the one place where a job changes."""

import asyncio
import copy
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Hashable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from crynux_async.clock import utc_now
from crynux_async.errors import CrynuxError, UsageError
from crynux_async.event_stream import EventStream
from crynux_async.events import Event, JobStateChanged, JobSubmitted
from crynux_async.job import Job
from crynux_async.ledgers.base import JobRow
from crynux_async.states import ENDED, JobState, Signal, advance


class JobRegister:
    """All jobs of a session, by their own name and by the bridge's number.

    Args:
        backend: Which service the jobs belong to.
        key_id: Fingerprint of the key that submits them.
    """

    def __init__(self, backend: str, key_id: str) -> None:
        self._backend = backend
        self._key_id = key_id
        self._changed: dict[str, Job] = {}
        self.has_changes = asyncio.Event()
        self._jobs: dict[Hashable, Job] = {}
        self._by_task: dict[int, Job] = {}
        self._streams: tuple[EventStream, ...] = ()
        self._end_watchers: list[Callable[[Job | None], None]] = []
        self._closed = False
        self.counts: Counter[JobState] = Counter()

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._jobs

    def add(self, job: Job) -> None:
        """Take in a job."""
        self._jobs[job.job_id] = job
        self.counts[job.state] += 1
        if job.task_id is not None:
            self._by_task[job.task_id] = job

    def get(self, job_id: Hashable) -> Job:
        """Return the job with this name.

        Raises:
            KeyError: There is none.
        """
        return self._jobs[job_id]

    def by_task(self, task_id: int) -> Job | None:
        """Return the job that has the bridge's number ``task_id``, or None."""
        return self._by_task.get(task_id)

    def select(self, states: Iterable[JobState] | None = None) -> list[Job]:
        """Return the jobs in any of ``states``, or all of them, in the order in which they came."""
        if states is None:
            return list(self._jobs.values())
        wanted = frozenset(states)
        return [job for job in self._jobs.values() if job.state in wanted]

    def row(self, job: Job) -> JobRow:
        """Return a job as a ledger remembers it."""
        return JobRow(
            job_id=job.job_id,
            backend=self._backend,
            key_id=self._key_id if job.config else "",
            config=job.config,
            label=job.label,
            task_id=job.task_id,
            planned_at=job.planned_at,
            submitted_at=job.submitted_at,
            **_changing(job),
        )

    def saved(self, job: Job) -> None:
        """Take note that the ledger has the job."""
        job.is_saved = True

    def note(self, job: Job) -> None:
        """Take note that the ledger is to be told about a job."""
        self._changed[job.job_id] = job
        self.has_changes.set()

    def take_changes(self) -> dict[str, dict[str, Any]]:
        """Return what the ledger is to be told since the last call: job id -> columns -> values."""
        changes = {job_id: _changing(job) for job_id, job in self._changed.items() if job.is_saved}
        self._changed = {job_id: job for job_id, job in self._changed.items() if not job.is_saved}
        self.has_changes.clear()
        return changes

    def accepted(self, job: Job, task_id: int, submitted_at: datetime) -> None:
        """Take note that the bridge has accepted a job; from here on it costs money."""
        job.task_id, job.submitted_at, job.error = task_id, submitted_at, None
        self._by_task[task_id] = job
        self.tell(JobSubmitted(job_id=job.job_id, task_id=task_id, at=submitted_at))
        self.learn(job, Signal.ACCEPTED)

    def stored(self, job: Job, path: Path, total_bytes: int) -> None:
        """Take note that a job's archive is safe on disk."""
        job.path, job.total_bytes = path, total_bytes
        self.learn(job, Signal.STORED)

    def learn(self, job: Job, signal: Signal, error: CrynuxError | None = None) -> None:
        """Move a job along the table of states and let everybody know."""
        previous, job.state = job.state, advance(job.state, signal)
        if error is not None:
            job.error = copy.copy(error)  # the same error may concern many jobs
            job.error.job_id, job.error.task_id = job.job_id, job.task_id
        if job.state is not previous:
            self._moved(job, previous)
        if job.state is not previous or error is not None:
            job.wake()

    def is_heard(self, job: Job) -> bool:
        """Whether anybody listens to the events of a job."""
        return bool(self._streams) or job.is_heard

    def tell(self, event: Event) -> None:
        """Hand an event to the listeners of its job and of the session."""
        self._jobs[event.job_id].tell(event)
        for stream in self._streams:
            stream.put(event)

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens to any job from now on, until the session is closed."""
        stream = EventStream(self._unlisten)
        self._streams = (*self._streams, stream)
        try:
            async for event in stream:
                yield event
        finally:
            stream.close()

    async def as_completed(self, jobs: Collection[Job]) -> AsyncGenerator[Job, None]:
        """Yield each of ``jobs`` once when nothing more can be seen of its task, in the order of their ends."""
        waiting = {job.job_id for job in jobs if not job.done}
        ended = deque(job for job in jobs if job.done)
        wake = asyncio.Event()

        def note(job: Job | None) -> None:
            if job is None:
                wake.set()
            elif job.job_id in waiting:
                waiting.discard(job.job_id)
                ended.append(job)
                wake.set()

        self._end_watchers.append(note)
        try:
            while ended or waiting:
                while ended:
                    yield ended.popleft()
                if waiting and self._closed:
                    raise UsageError(
                        f"the session is closed, so the end of {len(waiting)} jobs cannot be seen any more"
                    )
                if waiting:
                    wake.clear()
                    await wake.wait()
        finally:
            self._end_watchers.remove(note)

    def close(self) -> None:
        """Let every waiter and reader finish: nothing will happen any more."""
        self._closed = True
        for note in self._end_watchers:
            note(None)
        for stream in self._streams:
            stream.end()
        for job in self._jobs.values():
            job.wake()
            job.end_streams()

    def _moved(self, job: Job, previous: JobState) -> None:
        now = utc_now()
        self.note(job)
        self.counts[previous] -= 1
        self.counts[job.state] += 1
        if job.state not in ENDED:
            job.ended_at = None
        elif previous not in ENDED:
            # A clock may have been set back meanwhile; the ledger's times never go back.
            job.ended_at = max(now, job.submitted_at or job.planned_at)
            for note in self._end_watchers:
                note(job)
        self.tell(JobStateChanged(job_id=job.job_id, task_id=job.task_id, at=now, previous=previous, state=job.state))

    def _unlisten(self, stream: EventStream) -> None:
        self._streams = tuple(other for other in self._streams if other is not stream)


def _changing(job: Job) -> dict[str, Any]:
    """Return the columns of a job that change after it was planned, but for those that a create sets."""
    folder, name = job.wanted or (None, None)
    return {
        "state": job.state,
        "ended_at": job.ended_at,
        "error": str(job.error) if job.error else "",
        "folder": str(folder) if folder is not None else None,
        "file_name": name,
        "path": str(job.path) if job.path else None,
        "total_bytes": job.total_bytes,
        "resubmitted_as": job.resubmitted_as,
    }
