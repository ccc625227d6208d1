"""Going on with what other processes left: jobs that nobody holds, and answers that came too late for their owners."""

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import attrs

from crynux_async.backends.base import Backend
from crynux_async.clock import utc_now
from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, Holder, JobChange, JobFilter, JobRow, Ledger
from crynux_async.states import FOLLOWED, STAGES, UNFETCHED, UNFINISHED, WITHOUT_TASK, JobState, Stage
from crynux_async.supervision.credentials import Credentials
from crynux_async.supervision.cut_off import CUT_OFF
from crynux_async.supervision.doubt import doubtful_attempt, lost_attempt
from crynux_async.supervision.driving import HandOn
from crynux_async.supervision.ledger_writer import ADOPT, LedgerWriter
from crynux_async.supervision.lost_creates import LostCreates
from crynux_async.supervision.onlookers import Onlookers
from crynux_async.supervision.owners import is_gone, may_follow
from crynux_async.supervision.record import Record
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.rows import record_from_row, restore
from crynux_async.supervision.shares import room_for, surplus_of
from crynux_async.supervision.submitter import Submitter
from crynux_async.wording import counted

if TYPE_CHECKING:
    from crynux_async.ledgers.base import EventRow, WishRow

_SHARED = UNFINISHED - UNFETCHED

_log = logging.getLogger("crynux_async.supervision.take_over")


class TakeOver:
    """Takes over jobs, and grants wishes.

    Args:
        backend: The service.
        ledger: Where the jobs are.
        register: Where they go.
        onlookers: Has the jobs of others on which somebody here has a handle.
        writer: Holds the lease.
        submitter: Knows which creates of this session are under way.
        lost: Adopts tasks.
        credentials: Knows what this session can open.
        hand_on: Called with each job that is this session's from now on.
        sends_planned: Whether jobs that may be sent by any session, and were not sent yet, are sent by this one.

    Attributes:
        grants: How further kinds of wishes are granted, by kind; each removes its wish.
    """

    def __init__(
        self,
        backend: Backend,
        ledger: Ledger,
        register: JobRegister,
        onlookers: Onlookers,
        *,
        writer: LedgerWriter,
        submitter: Submitter,
        lost: LostCreates,
        credentials: Credentials,
        hand_on: HandOn,
        sends_planned: bool,
    ) -> None:
        self._backend = backend
        self._ledger = ledger
        self._register = register
        self._writer = writer
        self._submitter = submitter
        self._lost = lost
        self._credentials = credentials
        self._hand_on = hand_on
        self._onlookers = onlookers
        self._sends_planned = sends_planned
        self._looks = 0
        self._known: set[int] = set()
        self._may_be_left = False
        self._taking = anyio.Lock()
        self.grants: dict[str, Callable[[Record, WishRow], Awaitable[None]]] = {}

    async def begin(self) -> None:
        """Take in a share of what earlier processes have left, and of what those hold that have certainly ended.

        Raises:
            LedgerError: The ledger cannot be read or written.
        """
        self._may_be_left = await self._has_anybody_left()
        await self.run()

    async def hear_leavers(self) -> None:
        """Go on with what processes have left that were there at the last call, or that have certainly ended.

        Raises:
            LedgerError: The ledger cannot be read or written.
        """
        # To claim is a write, of which a ledger bears few: only where somebody has left.
        # Everybody takes a share when somebody leaves; what one of them did not take, who may just have begun or cannot
        # follow it, is anybody's at the next call, and not only after some more lease.
        if await self._has_anybody_left():
            self._may_be_left = True
            await self.run()
        elif self._may_be_left:
            await self._claim(None)
            self._may_be_left = False

    async def _has_anybody_left(self) -> bool:
        """Whether the jobs of a process have become free since the last call, or, at the first one, do so now.

        What processes hold that have certainly ended is given back here, without waiting for the end of their leases.
        """
        is_freed = False
        for holder in await self._ledger.holders():
            # Only what has certainly ended: the lease of a process that is slow ends by itself (see ``owners``).
            if not self._is_me(holder) and is_gone(holder.fence.owner):
                await self._ledger.leave(holder.fence)
                is_freed = True
        now = utc_now()
        present = {holder.fence.number for holder in await self._ledger.holders() if holder.until > now}
        has_left, self._known = self._known - present, present
        return is_freed or bool(has_left)

    async def run(self) -> None:
        """Take in a fair share of the unfinished jobs that nobody holds (any more), and give back what is too much.

        A model that nobody wants is left where it is: a month-old ledger is full of them.
        """
        total, followers, mine = await self._standing()
        await self._give_back(surplus_of(total, followers, mine))
        room = room_for(total, followers, mine, self._looks)
        self._looks += 1
        await self._claim(room)

    async def _claim(self, room: int | None) -> None:
        """Take in so many unfinished jobs that nobody holds, or all of them."""
        async with self._taking:
            openable = await self._credentials.openable()
            # Whoever took a model that another credential must fetch would keep it from that one.
            followable = openable if self._backend.habits.needs_credential_to_look else None
            rows = await self._writer.claim(
                _SHARED,
                UNFETCHED,
                room,
                key_ids=followable,
                wanted_key_ids=openable,
                spared=self._credentials.refused,
            )
            if rows:
                try:
                    await self._take_all_in(rows)
                except LedgerError:
                    raise
                except Exception:  # one job's bug must not keep a session from being opened
                    _log.exception("unexpected")
                finally:
                    await self._give_up_unknown([row.job_id for row in rows])
                _log.info("took over %s", counted(len(rows), "unfinished job"))

    async def _give_up_unknown(self, taken: Sequence[str]) -> None:
        """Give back what was taken and could not be taken in: it would be held here, and followed by nobody."""
        unknown = [job_id for job_id in taken if not self._is_followed(job_id)]
        if unknown:
            _log.error("%s cannot be taken over now; another session may", counted(len(unknown), "unfinished job"))
            with anyio.CancelScope(shield=True):
                await self._writer.persist(lambda: self._ledger.drop(self._writer.fence, unknown))

    def _is_followed(self, job_id: str) -> bool:
        record = self._register.get(job_id)
        return record is not None and record.is_ours

    async def _standing(self) -> tuple[int, int, int]:
        """Return how many unfinished jobs there are, how many sessions follow jobs, and how many this one holds."""
        now = utc_now()
        holders = [holder for holder in await self._ledger.holders() if holder.until > now]
        followers = max(1, sum(self._is_me(holder) or may_follow(holder.fence.owner) for holder in holders))
        if followers == 1:
            return 0, followers, 0
        counts = await self._ledger.count(JobFilter(backend=self._backend.name, states=_SHARED))
        mine = sum(record.is_ours for record in self._register.select(_SHARED))
        return sum(counts.values()), followers, mine

    def _is_me(self, holder: Holder) -> bool:
        # To ask the system whether an owner lives costs more than all else that a session does three times a lease.
        return holder.fence == self._writer.fence

    async def _give_back(self, count: int) -> None:
        """Give back the newest of the jobs that only need to be followed, where anybody can follow them."""
        if count and not self._backend.habits.needs_credential_to_look:
            followed = [record for record in self._register.select(FOLLOWED) if record.is_ours and record.is_saved]
            given = followed[-count:]
            if given:
                await self._writer.let_go(given)
                _log.info("gave %d of %s to other sessions", len(given), counted(len(followed), "job"))

    async def take(self, record: Record) -> bool:
        """Take a certain job where nobody holds it, and return whether it is this session's now.

        Raises:
            LedgerError: It could not be taken or read.
        """
        # One after another: whoever took a job in twice would take its create, sent in between, for cut off.
        async with self._taking:
            if not record.is_ours and await self._writer.take(record.job_id):
                try:
                    row = await self._writer.persist(lambda: self._ledger.get(record.job_id))
                    assert row is not None, "a job that was taken is there"
                    await self._take_all_in([row])
                finally:
                    await self._give_up_unknown([record.job_id])
        return record.is_ours

    async def grant_wishes(self) -> None:
        """Do what others wish of jobs that this session holds."""
        for wish in await self._writer.wishes():
            try:
                record = self._register.get(wish.job_id) or await self._remembered(wish.job_id)
                if record is not None and record.is_ours:
                    await self._grant(record, wish)
            except LedgerError as error:
                _log.error(
                    "another process asked for %r of job %s, which cannot be done: %s", wish.kind, wish.job_id, error
                )

    async def adopt_left(self, record: Record) -> None:
        """Give a job of this session the task that another session has left for it, where there is one.

        Raises:
            LedgerError: The ledger cannot be read or written.
        """
        for wish in await self._writer.wishes():
            if (wish.job_id, wish.kind) == (record.job_id, ADOPT):
                await self._grant(record, wish)

    async def _remembered(self, job_id: str) -> Record | None:
        """Return the record of a job that this session holds and has forgotten, because it ended long ago."""
        row, holder = await self._ledger.get(job_id), await self._ledger.holder(job_id)
        if row is None or holder is None or not self._is_me(holder):
            return None
        await self._take_all_in([row])
        return self._register.get(job_id)

    async def _take_all_in(self, rows: Sequence[JobRow]) -> None:
        """Take jobs in that are held here already, and let them go on; one that cannot be keeps no other from that.

        Raises:
            LedgerError: The ledger cannot be read or written.
        """
        # What is held here is followed by nobody else, so a ledger that is busy is waited for.
        attempts = await self._writer.persist(lambda: self._attempts_of(rows))
        taken: list[tuple[JobRow, Record]] = []
        failed: list[Exception] = []
        for row in rows:
            try:
                taken.append((row, await self._take_in(row, attempts[row.job_id])))
            except Exception as error:
                failed.append(error)
        # Oldest first: a service deletes what is too old.
        for _, record in sorted(taken, key=lambda one: one[1].ended_at or one[1].planned_at):
            self._hand_on(record)
        for row, record in taken:
            if self._is_to_be_sent(row, record):
                self._submitter.enqueue(record)
        if failed:
            raise failed[0]

    def _is_to_be_sent(self, row: JobRow, record: Record) -> bool:
        """Whether a job goes on being sent here: its user is not there, so only a name of its own makes that safe."""
        is_planned = STAGES[record.state] is Stage.SUBMIT and row.is_sent_by_any and not row.is_stopped
        is_known = record.kept_config is not None  # a later version may have written it
        return self._sends_planned and is_planned and is_known and row.key_id == self._backend.key_id

    async def _take_in(self, row: JobRow, attempts: Sequence[AttemptRow]) -> Record:
        left_as = row.state
        known = self._onlookers.get(row.job_id)
        if known is None or not self._submitter.is_under_way(known):
            row, attempts = await self._close_attempts(row, attempts)
        self._writer.date(max(filter(None, (row.planned_at, row.submitted_at, row.ended_at))))
        is_cut_off = not self._backend.creates_are_repeatable and lost_attempt(attempts, row.tries) is not None
        if known is not None:
            if self._register.get(known.job_id) is None:
                self._register.add(known)
            self._refresh(known, row, is_cut_off=is_cut_off)
            known.is_ours = True
            # Whoever has it fetches it, as the one before would have done: nobody need be waiting for it here any more.
            if known.wanted is not None:
                known.wanted = attrs.evolve(known.wanted, is_standing=True)
            record = known
        else:
            record = record_from_row(row, is_ours=True, is_cut_off=is_cut_off)
            self._register.add(record)
        # Numbers go on where any owner stopped: one that was begun is never begun again.
        record.attempts = max((record.attempts, *(attempt.number for attempt in attempts)))
        if self._backend.creates_are_repeatable:
            lost = doubtful_attempt(attempts, row.tries)
            self._submitter.repeat(record, None if lost is None else lost.payload)
        # The next process must find what was concluded here, not conclude it again from less.
        if record.state is not row.state:
            self._register.note(record)
            self._register.tell_moved(record, row.state)
        elif row.state is not left_as:
            self._register.tell_moved(record, left_as, is_stored=True)
        return record

    async def _close_attempts(self, row: JobRow, attempts: Sequence[AttemptRow]) -> tuple[JobRow, Sequence[AttemptRow]]:
        """Say of a create that was under way when its process ended that its outcome is not known.

        Only now does its bracket get an upper end: a task that is made after this has a larger id. Job and attempt
        change in one step: a process that dies between two would leave a job that looks as if it was never sent.
        Where a create may be repeated, the job stays as it is and can be sent again.

        Returns:
            The row and the attempts as they are now.
        """
        closed = []
        for attempt in attempts:
            if attempt.outcome is not None:
                closed.append(attempt)
                continue
            ended = self._writer.date(attempt.began_at)
            lost = attrs.evolve(attempt, outcome=AttemptOutcome.UNKNOWN, answered_at=ended)
            columns: dict[str, Any] = {}
            events: tuple[EventRow, ...] = ()
            if not self._backend.creates_are_repeatable:
                columns = {"state": JobState.UNCONFIRMED, "ended_at": ended, "error": CUT_OFF, "error_facts": {}}
                if row.state is not JobState.UNCONFIRMED:
                    events = (_cut_off_row(row),)
                    columns["last_event"] = events[-1].number
            change = JobChange(job_id=row.job_id, columns=dict(columns), finished=lost, events=events)
            if not await self._writer.change(change):
                columns.pop("last_event", None)
            row = attrs.evolve(row, **columns)
            closed.append(lost)
        return row, closed

    async def _attempts_of(self, rows: Iterable[JobRow]) -> dict[str, list[AttemptRow]]:
        """Return the attempts of the jobs that may not have been accepted, by job.

        They are not looked for by their times: a clock that was set back would hide a create that was under way.
        """
        found: dict[str, list[AttemptRow]] = defaultdict(list)
        unsent = [row.job_id for row in rows if row.state in WITHOUT_TASK]
        for attempt in await self._ledger.attempts(job_ids=unsent) if unsent else ():
            found[attempt.job_id].append(attempt)
        return found

    async def _grant(self, record: Record, wish: "WishRow") -> None:
        if wish.kind in self.grants:
            await self.grants[wish.kind](record, wish)
            return
        if wish.kind != ADOPT:
            _log.warning("job %s: nobody here knows how to %r", wish.job_id, wish.kind)
            await self._writer.change(JobChange(job_id=wish.job_id, granted=(wish.number,)))
            return
        attempts = await self._ledger.attempts(job_ids=[wish.job_id])
        # The create that was answered is one of several: its number says which.
        attempt = next((one for one in attempts if one.number == wish.arguments.get("attempt")), None)
        if attempt is None or record.task_id is not None or attempt.try_number != record.tries:
            task_id = wish.arguments.get("task_id")
            # Heard before, where two sessions have left it at once.
            if task_id is None or task_id != record.task_id:
                _log.error("task %s was made for job %s too, and nothing follows it", task_id, wish.job_id)
            await self._writer.change(JobChange(job_id=wish.job_id, granted=(wish.number,)))
            return
        await self._lost.adopt(record, attempt, str(wish.arguments["task_id"]), granted=(wish.number,))
        self._hand_on(record)

    def _refresh(self, record: Record, row: JobRow, *, is_cut_off: bool = False) -> None:
        self._register.replace(record, lambda: restore(record, row, is_cut_off=is_cut_off))


def _cut_off_row(row: JobRow) -> "EventRow":
    """Return the next event of a job whose create was cut off; its row says of what it is the next."""
    from crynux_async.events import JobStateChanged
    from crynux_async.supervision.event_rows import row_of

    moved = JobStateChanged(
        job_id=row.job_id, task_id=row.task_id, at=utc_now(), previous=row.state, state=JobState.UNCONFIRMED
    )
    return row_of(moved, row.last_event + 1)
