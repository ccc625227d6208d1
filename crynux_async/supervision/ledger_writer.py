"""``LedgerWriter``: everything that a session writes to its ledger about jobs, under the session's own fence.

Theory of operation
-------------------
*Ownership.* The session holds one lease; its fence goes with every write. What the ledger says was lost is another
session's from that moment on: its record becomes an onlooker's (``is_ours``), and this session goes on with the others.
A lost job is never taken back with what is believed of it here: it comes back through ``claim``, with its row.

*Trouble.* A ledger that is busy (another's lock, a full disk) is waited out: the trouble is logged once, the write is
tried again, and the end of it is logged. A ledger that has failed for good is told to whoever waits, and nothing is
sent any more. Neither changes the state of a job.

*Cancellation.* A single write is never cut off: a caller that gave up in the middle of one could not tell what is
stored, and what it had taken from a queue would be lost. Between two writes cancellation is heard.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import attrs

from crynux_async.clock import monotonic, utc_now
from crynux_async.errors import LeaseLostError, LedgerBusyError, LedgerError, UsageError
from crynux_async.ledgers.base import AttemptRow, Fence, JobChange, JobRow, Ledger, TaskRow
from crynux_async.slices import in_slices
from crynux_async.states import JobState
from crynux_async.supervision.event_log import EventLog
from crynux_async.supervision.record import Record
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.rows import TaskEnd, attached_task, columns_of, new_row
from crynux_async.supervision.spending import Spending, with_end
from crynux_async.supervision.spill import Spill

if TYPE_CHECKING:
    from crynux_async.events import Event
    from crynux_async.ledgers.base import EventRow, Reservation, Settlement, StepRow, WishRow

_log = logging.getLogger("crynux_async.supervision.ledger_writer")

ADOPT = "adopt"
"""The kind of a wish: a task was made for a job after its owner had lost it."""

ANSWERS = "answers to wishes"
"""The scope of the notes that answer wishes, by the number of the wish."""

_TRY_AGAIN = 1.0

T = TypeVar("T")


class LedgerWriter:
    """Writes about the jobs of one session.

    Args:
        ledger: Where; open.
        register: Knows what changed.
        backend: Which service the jobs belong to.
        key_id: Fingerprint of the credential that submits them.
        owner: The session's name among those who hold leases.
        lease: Seconds for which it holds its jobs unless it renews.
        spending: Knows what becomes of what was held for a try.
        keeps_events: Whether the events of every job are stored (see ``EventLog``).

    Attributes:
        events: What happened to jobs and is not stored yet.
        spill: Where accepted tasks go that could not be stored.
    """

    def __init__(
        self,
        ledger: Ledger,
        register: JobRegister,
        *,
        backend: str,
        key_id: str,
        owner: str,
        lease: float,
        spending: Spending,
        keeps_events: bool,
    ) -> None:
        self._spending = spending
        self._ledger = ledger
        self._register = register
        self._backend = backend
        self._key_id = key_id
        self._owner = owner
        self._lease = lease
        self._fence: Fence | None = None
        self._held = 0
        self._unsaved: dict[str, Record] = {}
        self._saved = asyncio.Event()
        self._storing: set[str] = set()
        self._flushed: frozenset[str] = frozenset()
        self._one_is_free = asyncio.Event()
        self._ends: dict[str, TaskEnd] = {}
        self.spill = Spill(getattr(ledger, "spill", None), backend)
        self.events = EventLog(keeps_all=keeps_events)
        self._flushing = anyio.Lock()
        self._renewing = anyio.Lock()
        self._latest = utc_now()
        self._trouble: LedgerBusyError | None = None
        self._give_up_at = math.inf
        self._is_closed = False
        self.on_lost: Callable[[Record], None] = lambda _: None
        self.on_saved: Callable[[], None] = lambda: None
        self.on_open: Callable[[Record], None] = lambda _: None

    @property
    def fence(self) -> Fence:
        """The proof of the session's lease."""
        assert self._fence is not None
        return self._fence

    def date(self, after: datetime) -> datetime:
        """Return the time for the ledger: never before ``after`` or what it was told last, whatever a clock says."""
        # Case S10: a clock that was set back made jobs end before they were submitted.
        self._latest = max(self._latest, after, utc_now())
        return self._latest

    def check(self) -> None:
        """Raise LedgerError when nothing can be remembered any more."""
        failure = self._ledger.failure
        if failure is not None:
            raise LedgerError(f"nothing is sent any more: {failure}", path=failure.path)

    def give_up_after(self, seconds: float) -> None:
        """Wait for a busy ledger no longer than this from now on: the session ends."""
        self._give_up_at = monotonic() + seconds
        # One in a database may be in the middle of a commit of which it hears nothing any more.
        give_up: Callable[[float], None] = getattr(self._ledger, "give_up_after", lambda _: None)
        give_up(seconds)

    def close(self) -> None:
        """Let whoever waits for a write finish: nothing is written any more."""
        self._is_closed = True
        self._saved.set()

    async def enter(self) -> None:
        """Begin to hold jobs."""
        self._fence = await self._ledger.enter(self._owner, seconds=self._lease)

    async def read_back(self) -> bool:
        """Leave tasks that an earlier session could not store to whoever has their jobs; say whether there were any.

        Raises:
            LedgerBusyError: Not now. It is not waited for: this session is not open yet.
        """

        def leave(job_id: str, attempt: int, task_id: str) -> Awaitable[object]:
            return self._ledger.wish(self._asked(job_id, ADOPT, task_id=task_id, attempt=attempt))

        return await self.spill.give_back(leave)

    async def renew(self) -> None:
        """Hold the jobs for another lease, and let go of those that were lost meanwhile."""
        # One at a time: where two find the lease gone, the second would lose what was stored under the first's new one.
        async with self._renewing:
            held = await self._ledger.renew(self.fence, seconds=self._lease)
            if held is None:
                _log.warning("the lease is gone: this process was away for too long, or was taken for dead")
                self._held = 0
                await self.enter()
                self._lose(self._register.select())
            elif held < self._held:
                await self._lose_what_is_not_held()

    async def claim(
        self,
        states: Collection[JobState],
        wanted: Collection[JobState],
        at_most: int | None,
        *,
        key_ids: Collection[str] | None = None,
        wanted_key_ids: Collection[str] | None = None,
        spared: Collection[str] = (),
    ) -> list[JobRow]:
        """Take jobs that nobody holds (any more), and return their rows.

        Args:
            states: Those in one of these,
            wanted: and those in one of these whose archive is wanted.
            at_most: How many, >= 0; None for all.
            key_ids: Of those in ``states``, only jobs of these credentials; None for those of all.
            wanted_key_ids: Likewise, of those in ``wanted``.
            spared: Names of jobs that are left alone.
        """
        if at_most == 0:
            return []
        rows = await self._ledger.claim(
            self.fence,
            backend=self._backend,
            states=states,
            wanted=wanted,
            key_ids=key_ids,
            wanted_key_ids=wanted_key_ids,
            spared=spared,
            at_most=at_most,
        )
        self._held += len(rows)
        return rows

    async def leave(self) -> None:
        """Give back every job."""
        if self._fence is not None:
            await self._ledger.leave(self._fence)

    def remember(self, record: Record) -> None:
        """Store a new job soon; it must not be sent before it ``is_saved``."""
        self._unsaved[record.job_id] = record
        self._register.has_changes.set()

    def enter_event(self, record: Record, event: "Event") -> None:
        """Store something that happened to a job, soon."""
        if self.events.enter(record, event):
            self._register.note(record)

    def task_ended(self, record: Record, end: TaskEnd) -> None:
        """Store how a job's task ended, in one step with the job's new state."""
        self._ends[record.job_id] = end
        if end.is_open:
            self.on_open(record)

    async def save_new(self) -> bool:
        """Store every job that the ledger does not have yet, a few writes for all of them; say whether there was any.

        Raises:
            LedgerBusyError: Not now; they stay remembered.
            LedgerError: They could not be stored; whoever waits for one of them is told.
        """
        is_any = bool(self._unsaved)
        while self._unsaved:
            waiting = list(self._unsaved.values())
            planned = [record for record in waiting if record.task_id is None]
            # One by one: an attached task that the ledger has under another name must not keep others out.
            for batch in (planned, *([record] for record in waiting if record.task_id is not None)):
                with anyio.CancelScope(shield=True):
                    await self._save(batch)
        return is_any

    async def all_saved(self, records: Sequence[Record]) -> None:
        """Wait until the ledger has every one of these jobs.

        Raises:
            LedgerError: One of them could not be stored; it will not be sent.
        """
        while any(not record.is_saved and record.error is None for record in records):
            self.check()
            if self._is_closed:
                raise UsageError("the session was closed before the jobs were in the ledger; they are not sent")
            self._saved.clear()
            await self._saved.wait()
        for record in records:
            if not record.is_saved and record.error is not None:
                raise record.error

    async def add(self, records: Sequence[Record], news: "Mapping[str, Event]") -> list[JobRow]:
        """Store new jobs at once, and return what is stored: an earlier job where an idempotency key has one.

        Args:
            records: The jobs, which nobody else knows yet.
            news: The first event of each, by its name, which is stored with it. ``added`` lets readers have it.

        Raises:
            LedgerError: They could not be stored.
        """
        stored: list[JobRow] = []
        try:
            for record in records:
                self.events.enter(record, news[record.job_id])
            rows = await in_slices(self._new_row, records)
            with anyio.CancelScope(shield=True):
                stored = await self.persist(lambda: self._add(records, rows))
        finally:
            names = {row.job_id for row in stored}
            for record in records:
                if record.job_id not in names:
                    self.events.drop(record)
        self._held += sum(record.job_id in names for record in records)
        return stored

    def added(self, record: Record, row: JobRow) -> None:
        """Let readers have the events of a job with which it was stored."""
        self._tell_readers((record,), self._first_events(row))

    async def take(self, job_id: str) -> bool:
        """Take a certain job where nobody holds it (any more), and return whether it is this session's now.

        Raises:
            LedgerError: It could not be taken.
        """
        with anyio.CancelScope(shield=True):
            taken = await self.persist(lambda: self._ledger.take(self.fence, [job_id]))
        self._held += len(taken)
        return bool(taken)

    async def let_go(self, records: Sequence[Record]) -> None:
        """Give jobs back, so that others can take them.

        Raises:
            LedgerError: They could not be given back.
        """
        async with self.settled():
            with anyio.CancelScope(shield=True):
                await self.persist(lambda: self._ledger.drop(self.fence, [record.job_id for record in records]))
            for record in records:
                if record.is_ours:
                    self._part_with(record)

    async def wish(self, job_id: str, kind: str, **arguments: Any) -> "WishRow":
        """Ask whoever holds a job to do something with it, and return what was asked, with its number.

        Raises:
            LedgerError: The wish could not be stored.
        """
        stored = asked = self._asked(job_id, kind, **arguments)
        with anyio.CancelScope(shield=True):
            stored = await self.persist(lambda: self._ledger.wish(asked))
        return stored  # noqa: RET504  # for a type checker, a cancel scope may end early

    async def answer(self, wish: "WishRow", said: Any) -> None:
        """Leave an answer for whoever has wished something; None takes it away again.

        Raises:
            LedgerError: It could not be stored.
        """
        with anyio.CancelScope(shield=True):
            await self.persist(lambda: self._ledger.put_note(ANSWERS, str(wish.number), said))

    async def begin(self, attempt: AttemptRow, reservation: "Reservation | None") -> None:
        """Store an attempt before it is sent, and hold what it may cost.

        Raises:
            LeaseLostError: Another has the job; its record is an onlooker's now.
            LedgerBusyError: Not now.
            BudgetExceededError: Its budget does not allow it.
            LedgerError: The attempt must not be sent.
        """
        try:
            await self._ledger.begin(self.fence, attempt, reservation=reservation)
        except LeaseLostError:
            self._lose_named([attempt.job_id])
            raise
        self.trouble_has_passed()

    async def change(self, change: JobChange, *, news: "Sequence[Event]" = ()) -> bool:
        """Store what happened to one job, waiting while the ledger is busy; return whether the job is ours.

        Args:
            change: What happened.
            news: The events that tell of it, in order: stored in the same step, so that whatever dies, neither is there
                without the other. Listeners are told of them by the caller, as of events that are stored.

        Raises:
            LedgerError: It could not be stored.
        """
        is_ours = False
        with anyio.CancelScope(shield=True):
            is_ours = await self.decide(change.job_id, lambda: (change, news))
        return is_ours  # noqa: RET504  # for a type checker, a cancel scope may end early

    async def decide(self, job_id: str, decision: "Callable[[], tuple[JobChange, Sequence[Event]]]") -> bool:
        """Store what is decided about one job as soon as nothing else is being stored of it (see ``change``).

        Callers shield it.

        Raises:
            LedgerError: It could not be stored.
        """
        # The numbers of events are part of a write's condition, so each has to know what became of the one before it.
        while job_id in self._storing or job_id in self._flushed:
            self._one_is_free.clear()
            await self._one_is_free.wait()
        self._storing.add(job_id)
        try:
            lost = await self._change(*decision())
        finally:
            self._storing.discard(job_id)
            self._one_is_free.set()
            self._register.may_be_told(job_id)
        self._lose_named(lost)
        self._register.drop_ended()
        return not lost

    async def hand_over(self, job_id: str, attempt: int, task_id: str) -> None:
        """Leave the answer to a create of a job that was lost meanwhile to whoever has it.

        Its owner has found an attempt without an outcome and holds the job for unconfirmed; a wish is the only thing
        that may be written about another's job.
        """
        _log.warning("task %s of job %s was made for another process, which is told", task_id, job_id)
        await self.wish(job_id, ADOPT, task_id=task_id, attempt=attempt)

    async def wishes(self) -> "list[WishRow]":
        """Return what others wish of the jobs of this session."""
        return await self._ledger.wishes(self.fence)

    async def plan_step(self, step: "StepRow") -> "StepRow":
        """Store a step before it is done, and return it as it is stored.

        Raises:
            LeaseLostError: Another has the job; its record is an onlooker's now.
            LedgerError: It must not be done now.
        """
        try:
            return await self._ledger.plan_step(self.fence, step)
        except LeaseLostError:
            self._lose_named([step.job_id])
            raise

    async def run(self) -> None:
        """Store what changes about jobs, until the ledger has failed for good."""
        while self._ledger.failure is None:
            await self._register.has_changes.wait()
            self._register.has_changes.clear()
            try:
                await self.persist(self.flush)
            except LedgerError as error:
                _log.error("what changes about jobs cannot be stored any more: %s", error)
            except Exception:
                self._register.has_changes.set()  # whoever begins this again finds what was not stored
                raise

    async def flush(self) -> bool:
        """Store everything that the ledger is to be told, and say whether there was anything.

        Raises:
            LedgerBusyError: Not now; it stays to be written.
            LedgerError: The ledger has failed for good.
        """
        async with self._flushing:
            return await self._flush()

    @asynccontextmanager
    async def settled(self) -> AsyncIterator[None]:
        """A block before which everything was stored, and in which only the block itself stores what changes.

        What is written in it about a job can so not be overtaken by what was believed of the job before.

        Raises:
            LedgerError: It could not be stored.
        """
        async with self._flushing:
            await self.persist(self._flush)
            yield

    async def write_changes(self) -> bool:
        """Store everything that changed about jobs, and say whether there was anything.

        Raises:
            LedgerBusyError: Not now; it stays to be written.
            LedgerError: The ledger has failed for good; it stays to be written.
        """
        # A job whose answer is being stored is left out: its columns would be written from a record that is behind.
        records = self._register.take_changed(but_for=self._storing)
        self._flushed = frozenset(record.job_id for record in records)
        try:
            with anyio.CancelScope(shield=True):
                await self._write(records)
        except BaseException:  # a bug too: what is not stored stays to be written
            for record in records:
                self._register.note(record)
            raise
        finally:
            self._flushed = frozenset()
            self._one_is_free.set()
        return bool(records)

    async def persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write, and try again while the ledger is busy. Callers that cannot be cut off shield it.

        A write that returns False had nothing to write, so that it proves nothing of the ledger.

        Raises:
            LedgerError: It has failed, or the session ends and it is busy still.
        """
        while True:
            try:
                result = await write()
            except LedgerBusyError as error:
                await self.wait_out(error)
            else:
                if result is not False:
                    self.trouble_has_passed()
                return result

    async def wait_out(self, error: LedgerBusyError) -> None:
        """Wait a moment before a write is tried again, and say why once for all writes together.

        Raises:
            LedgerBusyError: The session ends, and there was time enough.
        """
        # A session that closes must end, also where another process never lets the file go.
        if monotonic() >= self._give_up_at:
            raise error
        if self._trouble is None:
            _log.warning("the ledger cannot be written now, so sending pauses; it is tried again: %s", error)
        self._trouble = error
        await asyncio.sleep(_TRY_AGAIN)

    def trouble_has_passed(self) -> None:
        """Say that the ledger can be written again, where it could not."""
        if self._trouble is not None:
            self._trouble = None
            _log.warning("the ledger can be written again, and sending goes on")

    def _asked(self, job_id: str, kind: str, **arguments: Any) -> "WishRow":
        from crynux_async.ledgers.base import WishRow

        return WishRow(job_id=job_id, kind=kind, arguments=arguments, at=self.date(utc_now()))

    async def _change(self, change: JobChange, news: "Sequence[Event]") -> list[str]:
        """Store a change with its events, behind those that wait already; return the name of the job if it is lost."""
        record = self._register.get(change.job_id)
        if record is None or not news or not (rows := self.events.enter_together(record, news)):
            return await self.persist(lambda: self._ledger.change(self.fence, [change]))
        events = self.events.waiting(record.job_id)
        numbered = attrs.evolve(change, columns={**change.columns, "last_event": events[-1].number}, events=events)
        try:
            lost = await self.persist(lambda: self._ledger.change(self.fence, [numbered]))
        except BaseException:
            self.events.retract(record, rows)
            raise
        if lost:
            self.events.retract(record, rows)
        else:
            self._tell_readers((record,), events)
        return lost

    async def _flush(self) -> bool:
        is_any = await self.save_new()
        return await self.write_changes() or is_any

    async def _save(self, batch: list[Record]) -> None:
        """Store new jobs and strike them off the list; where the ledger is busy they stay on it."""
        try:
            rows = [self._new_row(record) for record in batch]
            if batch:
                await self._add(batch, rows)
        except LedgerBusyError:
            raise
        except LedgerError as error:
            if self._ledger.failure is None and len(batch) > 1:
                # One row may be at fault, and the write stored none of them: the others must not be refused with it.
                for record in batch:
                    await self._save([record])
                return
            self._strike_off(batch)
            self._not_saved(batch, error)
            if self._ledger.failure is not None:
                raise
            return
        self._strike_off(batch)
        self._held += len(batch)
        for record, row in zip(batch, rows, strict=True):
            self.added(record, row)
            self._register.saved(record)
        self._saved.set()
        self.on_saved()

    def _new_row(self, record: Record) -> JobRow:
        return new_row(record, backend=self._backend, key_id=self._key_id)

    def _first_events(self, row: JobRow) -> "list[EventRow]":
        """Return the events of a new job that its row counts; more may have happened since that was made."""
        waiting = self.events.waiting(row.job_id) if row.last_event else ()
        return [event for event in waiting if event.number <= row.last_event]

    def _tell_readers(self, records: Iterable[Record], events: "Sequence[EventRow]") -> None:
        self.events.stored(events)
        if events:
            for record in records:
                record.call_readers()

    async def _add(self, records: Sequence[Record], rows: Sequence[JobRow]) -> list[JobRow]:
        """Store the rows of new jobs with their first events and tasks, and return what is stored."""
        await self._spending.note_limits(records)
        events = [event for row in rows for event in self._first_events(row)]
        tasks = [attached_task(row) for row in rows if row.task_id is not None]
        try:
            return await self._ledger.add(rows, fence=self.fence, events=events, tasks=tasks)
        except LeaseLostError:
            await self.renew()
            return await self._ledger.add(rows, fence=self.fence, events=events, tasks=tasks)

    def _strike_off(self, batch: list[Record]) -> None:
        for record in batch:
            self._unsaved.pop(record.job_id, None)
        if not self._unsaved:
            self._unsaved = {}  # or a table that has held a hundred thousand jobs stays as large as it was

    def _not_saved(self, batch: list[Record], error: LedgerError) -> None:
        for record in batch:
            if record.task_id is None:
                record.queue_number = 0
                self._register.fail(record, error)
            else:
                _log.info("attached task %s is not stored again: %s", record.task_id, error)
        self._saved.set()

    async def _write(self, records: Sequence[Record]) -> None:
        ended = await self._ended_tasks(records)
        changes = [self._change_of(record, ended.get(record.job_id)) for record in records]
        refused: set[str] = set()
        try:
            lost = await self._ledger.change(self.fence, changes) if changes else []
        except LedgerBusyError:
            raise
        except LedgerError as error:
            if self._ledger.failure is not None:
                raise
            lost, refused = await self._write_apart(changes, error)
        for job_id in ended:
            self._ends.pop(job_id, None)
        # An event that was not stored must not count as one: its number is the next owner's.
        stored = [change for change in changes if change.job_id not in refused.union(lost)]
        self._tell_readers(records, [event for change in stored for event in change.events])
        self._lose_named(lost)
        self._register.drop_ended()

    def _change_of(self, record: Record, ended: TaskRow | None) -> JobChange:
        tasks: tuple[TaskRow, ...] = ()
        settlement: Settlement | None = None
        if ended is not None:
            task, settlement = with_end(record, ended, self._ends[record.job_id])
            tasks = (task,)
        events = self.events.waiting(record.job_id)
        columns = columns_of(record)
        if record.is_own:
            columns["key_id"] = self._key_id
        if events:
            columns["last_event"] = events[-1].number
        return JobChange(job_id=record.job_id, columns=columns, tasks=tasks, events=events, settlement=settlement)

    async def _ended_tasks(self, records: Sequence[Record]) -> dict[str, TaskRow | None]:
        """Return what the ledger has of the tasks that have ended, by job; None where it has none."""
        ends = {record.job_id: self._ends[record.job_id] for record in records if record.job_id in self._ends}
        rows: dict[str, TaskRow | None] = dict.fromkeys(ends)
        for row in await self._ledger.tasks(list(ends)) if ends else ():
            # Another try may have begun meanwhile, and its task has not ended.
            if row.task_id == ends[row.job_id].task_id:
                rows[row.job_id] = row
        return rows

    async def _write_apart(self, changes: Sequence[JobChange], error: LedgerError) -> tuple[list[str], set[str]]:
        """Write what is good of a batch that was refused because of one of them.

        Returns:
            The names of lost jobs, and those of jobs whose change cannot be stored.
        """
        if len(changes) <= 1:
            for change in changes:
                self._not_stored(change, error)
            return [], {change.job_id for change in changes}
        lost, bad = [], set()
        for change in changes:
            try:
                lost += await self._ledger.change(self.fence, [change])
            except LedgerBusyError:
                raise
            except LedgerError as refused:
                self._not_stored(change, refused)
                bad.add(change.job_id)
        return lost, bad

    def _not_stored(self, change: JobChange, error: LedgerError) -> None:
        _log.error("what changed about job %s cannot be stored: %s", change.job_id, error)
        record = self._register.get(change.job_id)
        if record is not None:
            self.events.drop(record)

    async def _lose_what_is_not_held(self) -> None:
        """Lose what was taken while this process slept (case S13); which jobs those are, the ledger says."""
        # Chosen before it is asked: a job that is stored meanwhile is ours, and not in the answer.
        mine = [record for record in self._register.select() if record.is_ours and record.is_saved]
        still = await self._ledger.held(self.fence)
        self._lose(record for record in mine if record.job_id not in still)

    def _lose_named(self, job_ids: Iterable[str]) -> None:
        self._lose(filter(None, map(self._register.get, job_ids)))

    def _lose(self, records: Iterable[Record]) -> None:
        """Make onlookers of records whose jobs another session has now."""
        for record in records:
            # What the ledger has never had cannot have been taken from us.
            if record.is_ours and record.is_saved:
                _log.warning("%r is not held by this process any more", record)
                self._part_with(record)

    def _part_with(self, record: Record) -> None:
        """Make an onlooker's of a record: what is not stored of it has not happened, and its next owner sees it."""
        record.is_ours = False
        self.events.drop(record)
        self._ends.pop(record.job_id, None)
        self._held = max(0, self._held - 1)
        self.on_lost(record)
