"""Which jobs there are and what is believed of them: the one place where a job changes."""

import asyncio
import copy
import itertools
import logging
import weakref
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Hashable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from crynux_async.clock import utc_now
from crynux_async.errors import CrynuxError, UsageError
from crynux_async.event_stream import EventStream
from crynux_async.states import ENDED, STAGES, UNFETCHED, UNFINISHED, JobState, Signal, Stage, advance, may
from crynux_async.supervision.record import Record, StoredArchive
from crynux_async.wording import counted

if TYPE_CHECKING:
    from crynux_async.events import Event, JobStateChanged

_log = logging.getLogger("crynux_async.supervision.register")


class Hears(Protocol):
    """Is handed everything that happens, at once and by whoever did it; must neither wait nor raise."""

    def put(self, event: "Event") -> None:
        """Take an event."""

    def end(self) -> None:
        """Hear that nothing more will happen."""


class JobRegister:
    """All jobs of a session, by their own name and by their task.

    A session may live for months, so of the jobs that have ended only the newest are kept here. An older one goes as
    soon as the ledger has everything about it, and is then known by whoever has a handle on it, and by the ledger.

    Args:
        keeps: How many jobs that have ended are kept, >= 0.
        keeps_events: Whether the events of every job are stored.
        ear: Is handed whatever happens to any job, or None.
    """

    def __init__(self, keeps: int = 1000, *, keeps_events: bool = False, ear: Hears | None = None) -> None:
        self._keeps = keeps
        self._ended: dict[str, Record] = {}
        self._dropped: WeakValueDictionary[Hashable, Record] = WeakValueDictionary()
        self._jobs: dict[Hashable, Record] = {}
        # Only tasks of earlier tries, until somebody asks: nearly nobody does.
        self._by_task: dict[str, Record] = {}
        self._is_indexed = False
        self._changed: dict[str, Record] = {}
        self._streams: tuple[Hears, ...] = () if ear is None else (ear,)
        self._end_watchers: list[Callable[[Record | None], None]] = []
        self._closed = False
        self.on_event: Callable[[Record, Event], None] = lambda _, __: None
        """Called with everything that happens to a job of this session."""
        self.keeps_events = keeps_events
        self.has_changes = asyncio.Event()
        """Set when the ledger is to be told something; whoever tells it clears it."""
        self.counts: Counter[JobState] = Counter()

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, record: Record) -> None:
        """Take in a job."""
        self._jobs[record.job_id] = record
        self.counts[record.state] += 1
        self._index(record, record.task_id)
        if record.done:
            self._ended[record.job_id] = record

    def get(self, job_id: Hashable) -> Record | None:
        """Return the job with this name, or None."""
        return self._jobs.get(job_id) or self._dropped.get(job_id)

    def drop_ended(self) -> None:
        """Forget the oldest jobs that have ended, where there are too many; called when the ledger was told of them."""
        # From the oldest on, and no further than the excess: jobs that must stay are few, and are met again next time.
        excess = len(self._ended) - self._keeps
        if excess <= 0:
            return
        for record in list(itertools.islice(self._ended.values(), excess)):
            if self._may_go(record):
                del self._ended[record.job_id], self._jobs[record.job_id]
                if record.task_id is not None and self._by_task.get(record.task_id) is record:
                    del self._by_task[record.task_id]
                self._dropped[record.job_id] = record

    def by_task(self, task_id: str) -> Record | None:
        """Return the job that has a task, or None."""
        if not self._is_indexed:
            self._is_indexed = True
            for record in self._jobs.values():
                self._index(record, record.task_id)
        return self._by_task.get(task_id)

    def _index(self, record: Record, task_id: str | None, *, is_earlier: bool = False) -> None:
        """Enter that a job has a task, or had it."""
        if task_id is not None and (self._is_indexed or is_earlier):
            self._by_task[task_id] = record

    def select(self, states: Iterable[JobState] | None = None) -> list[Record]:
        """Return the jobs in any of ``states``, or all of them, in the order in which they came."""
        if states is None:
            return list(self._jobs.values())
        wanted = frozenset(states)
        return [record for record in self._jobs.values() if record.state in wanted]

    def note(self, record: Record) -> None:
        """Remember that the ledger is to be told about a job."""
        if record.is_ours:
            self._changed[record.job_id] = record
            self.has_changes.set()

    def saved(self, record: Record) -> None:
        """Enter that the ledger has a job: from now on it can be told what changes about it."""
        record.is_saved = True
        self.may_be_told(record.job_id)

    def may_be_told(self, job_id: str) -> None:
        """Enter that nothing keeps the ledger from being told what changed about a job meanwhile."""
        if job_id in self._changed:
            self.has_changes.set()

    def take_changed(self, but_for: Collection[str] = ()) -> list[Record]:
        """Return the jobs that the ledger is to be told about since the last call.

        Args:
            but_for: Names of jobs that stay noted, as those do that the ledger does not have yet.
        """
        kept = {
            job_id: record
            for job_id, record in self._changed.items()
            if record.is_ours and (not record.is_saved or job_id in but_for)
        }
        taken = [record for job_id, record in self._changed.items() if record.is_ours and job_id not in kept]
        self._changed = kept
        return taken

    def accepted(self, record: Record, task_id: str, submitted_at: datetime, *, is_stored: bool = True) -> None:
        """Enter that the service has accepted a job; from here on it costs money.

        Args:
            record: The job.
            task_id: Its task.
            submitted_at: When that was known.
            is_stored: Whether the ledger has it, and the events that tell of it.
        """
        record.task_id, record.submitted_at, record.error = task_id, submitted_at, None
        self._index(record, task_id)
        try:
            if self.is_listened_to(record):
                from crynux_async.events import JobSubmitted

                self.tell(JobSubmitted(job_id=record.job_id, task_id=task_id, at=submitted_at), is_stored=is_stored)
        finally:  # no listener's bug leaves a paid job looking unsent
            self.learn(record, Signal.ACCEPTED, at=submitted_at, is_stored=is_stored)
            record.wake()  # also where the user has given the job up meanwhile

    def try_again(self, record: Record, try_number: int) -> None:
        """Enter that a job is sent again because its user says so; the ledger has it.

        Args:
            record: The job.
            try_number: The try that begins or goes on.
        """
        record.tries = try_number
        self._index(record, record.task_id, is_earlier=True)
        record.task_id = record.submitted_at = record.error = None
        self.learn(record, Signal.TRY_AGAIN, is_stored=True)

    def tell_error(self, record: Record, error: CrynuxError) -> None:
        """Let whoever waits for a job know why it cannot be followed here; it stays what it is."""
        record.error = error
        record.wake()

    def stored(self, record: Record, archive: StoredArchive) -> None:
        """Enter that a job's archive is safe on disk."""
        record.archive = archive
        self.note(record)
        self.learn(record, Signal.STORED)

    def learn(
        self,
        record: Record,
        signal: Signal,
        error: CrynuxError | None = None,
        *,
        at: datetime | None = None,
        is_stored: bool = False,
    ) -> None:
        """Move a job along the table of states and let everybody know.

        Never raises: an answer may come after the user has given the job up, or after another process took it over. The
        table does not know such pairs, and they change nothing.

        Args:
            record: The job.
            signal: What was learned.
            error: Why, for whoever waits.
            at: When, or None for now.
            is_stored: Whether the ledger has it already, and the event that tells of it.
        """
        if not record.is_ours or not may(record.state, signal):
            _log.debug("%r cannot learn %s any more", record, signal)
            return
        previous, record.state = record.state, advance(record.state, signal)
        if record.state is not previous:
            self._moved(record, previous, at or utc_now(), is_stored=is_stored)
        if error is not None:
            self.fail(record, error)
        elif record.state is not previous:
            record.wake()

    def fail(self, record: Record, error: CrynuxError) -> None:
        """Tell whoever waits for a job why it does not go on, whatever its state."""
        record.error = copy.copy(error)  # the same error may concern many jobs
        record.error.job_id, record.error.task_id = record.job_id, record.task_id or error.task_id
        record.wake()
        self._tell_set_aside(record)

    def replace(self, record: Record, restore: Callable[[], None]) -> None:
        """Bring a job up to date with what others wrote about it, and let everybody know.

        Args:
            record: The job.
            restore: Changes the record.
        """
        previous, task_id, error = record.state, record.task_id, str(record.error)
        told, wanted = record.last_event, record.wanted
        restore()
        if record.task_id != task_id and record.job_id in self._jobs:
            self._index(record, task_id, is_earlier=True)
            self._index(record, record.task_id)
        if record.state is not previous:
            self._count_move(record, previous)
            record.wake()
        elif str(record.error) != error:
            record.wake()
            self._tell_set_aside(record)
        # Whoever brings a record up to date calls its readers: nobody sees a difference any more who looks later.
        if (record.last_event, record.state, record.wanted) != (told, previous, wanted):
            record.call_readers()

    @property
    def has_end_watchers(self) -> bool:
        """Whether anybody waits for the ends of many jobs."""
        return bool(self._end_watchers)

    def is_listened_to(self, record: Record) -> bool:
        """Whether anybody listens to the events of a job, or may read them later."""
        return self.keeps_events or bool(self._streams) or record.has_been_heard

    def tell(self, event: "Event", *, is_stored: bool = False) -> None:
        """Hand an event to the listeners of its job and of the session.

        Args:
            event: What happened.
            is_stored: Whether the ledger has the event already, in one step with what it tells of.
        """
        record = None if is_stored else self.get(event.job_id)
        if record is not None and record.is_ours:
            self.on_event(record, event)
        for stream in self._streams:
            stream.put(event)

    def tell_moved(self, record: Record, previous: JobState, *, is_stored: bool = False) -> None:
        """Tell that a job is in another state than before."""
        if not self.is_listened_to(record):
            return
        from crynux_async.events import JobStateChanged

        moved = JobStateChanged(
            job_id=record.job_id, task_id=record.task_id, at=utc_now(), previous=previous, state=record.state
        )
        self.tell(moved, is_stored=is_stored)

    def events(self) -> "AsyncIterator[Event]":
        """Return what happens to any job from this call on, until the session is closed."""
        stream = EventStream(self._unlisten)
        self._streams = (*self._streams, stream)
        reader = _read(stream)
        weakref.finalize(reader, stream.close).atexit = False  # a reader that never began to read has no other end
        return reader

    async def as_completed(self, records: Collection[Record]) -> AsyncGenerator[Record, None]:
        """Yield each of ``records`` once when nothing more comes of it by itself, in the order in which that was so."""
        waiting = {record.job_id for record in records if not record.rests}
        ended = deque(record for record in records if record.rests)
        wake = asyncio.Event()

        def notice(record: Record | None) -> None:
            if record is None:
                wake.set()
            elif record.job_id in waiting:
                waiting.discard(record.job_id)
                ended.append(record)
                wake.set()

        self._end_watchers.append(notice)
        try:
            while ended or waiting:
                while ended:
                    yield ended.popleft()
                if waiting and self._closed:
                    raise UsageError(
                        f"the session is closed, so the end of {counted(len(waiting), 'job')} cannot be seen any more"
                    )
                if waiting:
                    wake.clear()
                    await wake.wait()
        finally:
            self._end_watchers.remove(notice)

    def close(self) -> None:
        """Let every waiter and reader finish: nothing will happen any more."""
        self._closed = True
        for notice in self._end_watchers:
            notice(None)
        for stream in self._streams:
            stream.end()
        for record in (*self._jobs.values(), *self._dropped.values()):
            record.wake()

    def _moved(self, record: Record, previous: JobState, at: datetime, *, is_stored: bool) -> None:
        if not is_stored:
            self.note(record)
        if record.state not in ENDED:
            record.ended_at = None
        elif previous not in ENDED:
            # A clock may have been set back meanwhile; the ledger's times never go back.
            record.ended_at = max(at, record.submitted_at or record.planned_at)
        self._count_move(record, previous, is_stored=is_stored)

    def _may_go(self, record: Record) -> bool:
        is_decided = record.state not in UNFINISHED or (record.state in UNFETCHED and record.wanted is None)
        # What the ledger does not have exists nowhere else.
        is_stored = record.is_saved and record.job_id not in self._changed
        return is_decided and is_stored and not record.is_awaited

    def _count_move(self, record: Record, previous: JobState, *, is_stored: bool = False) -> None:
        if self._dropped.pop(record.job_id, None) is record:  # its user goes on with it
            self._jobs[record.job_id] = record
        is_known = record.job_id in self._jobs  # else an onlooker's, which is no job of this session
        if is_known and record.done:
            self._ended.setdefault(record.job_id, record)
        else:
            self._ended.pop(record.job_id, None)
        if is_known:
            self.counts[previous] -= 1
            self.counts[record.state] += 1
        if STAGES[record.state] is not Stage.SUBMIT:
            record.queue_number = 0
        if record.state in ENDED and previous not in ENDED:
            for notice in self._end_watchers:
                notice(record)
        if is_known:
            self.tell_moved(record, previous, is_stored=is_stored)

    def _tell_set_aside(self, record: Record) -> None:
        """Let whoever waits for the ends of many jobs know of one that is left unsent."""
        if record.is_set_aside:
            for notice in self._end_watchers:
                notice(record)

    def _unlisten(self, stream: EventStream) -> None:
        self._streams = tuple(other for other in self._streams if other is not stream)


async def _read(stream: EventStream) -> "AsyncIterator[Event]":
    try:
        async for event in stream:
            yield event
    finally:
        stream.close()


def news_of_move(record: Record, state: JobState, task_id: str | None = None) -> "tuple[JobStateChanged, ...]":
    """Return the event of a move that a job is about to make, to be stored with it; none where it stays where it is.

    Args:
        record: The job, still in the state that it leaves.
        state: The state that it comes to.
        task_id: The task that it then has, or None.
    """
    if state is record.state:
        return ()
    from crynux_async.events import JobStateChanged

    moved = JobStateChanged(job_id=record.job_id, task_id=task_id, at=utc_now(), previous=record.state, state=state)
    return (moved,)


def news_of_task(record: Record, state: JobState, task_id: str, at: datetime) -> "tuple[Event, ...]":
    """Return the events of a task that a job is about to have, to be stored with it.

    Args:
        record: The job, as it is before.
        state: The state that it comes to.
        task_id: The task.
        at: When that was known.
    """
    from crynux_async.events import JobSubmitted

    return (JobSubmitted(job_id=record.job_id, task_id=task_id, at=at), *news_of_move(record, state, task_id))
