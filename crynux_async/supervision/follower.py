"""Watches accepted jobs: ``polling.PollQueue`` says which one to look at, this asks the service.

A job that nobody asks about costs an entry in a heap and no task. A few pollers take the due jobs in turn. A look only
reads; where a task needs something done, ``stepper`` does it in a slot of its own.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crynux_async.backends.base import Backend, Look, Phase, Seen, Task
from crynux_async.clock import monotonic, utc_now
from crynux_async.errors import BackendError, LedgerError, NotFoundError, OwnershipError
from crynux_async.pacing.age_bins import HazardSnapshot
from crynux_async.pacing.poll_queue import PollQueue
from crynux_async.settings import Settings
from crynux_async.states import FOLLOWED, JobState, Signal
from crynux_async.supervision.accounts import Accounts
from crynux_async.supervision.credentials import Credentials
from crynux_async.supervision.driving import HandOn, Spawn
from crynux_async.supervision.reach import Reach
from crynux_async.supervision.record import Record
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.rows import TaskEnd
from crynux_async.supervision.tasks import TaskViews
from crynux_async.training.config import FineTuneConfig

_log = logging.getLogger("crynux_async.supervision.follower")

GONE_FOR = 60.0
"""For so many seconds a service must not know a task before it counts as deleted: one answer may be an accident."""

_LONGEST_SLEEP = 3600.0
_TAKEN_AT_ONCE = 8  # by a poller that has nothing left: to take them one by one costs more
_ENDS = {
    Seen.SUCCEEDED: Signal.SAID_SUCCESS,
    Seen.FAILED: Signal.SAID_FAILED,
    Seen.CANCELLED: Signal.SAID_CANCELLED,
}

OnLook = Callable[[Record, Task, Look], None]
OnEnd = Callable[[Record, TaskEnd], None]


class Follower:
    """Looks at every accepted job until it ends.

    Args:
        backend: Whom to ask.
        settings: Limits and intervals.
        register: Learns the answers.
        spawn: Starts a task.
        tasks: Shows tasks to the backend.
        accounts: Knows why a task ended and what it did cost.
        reach: Hears whether the service answers.
        on_look: Called with each task that runs and what was seen of it.
        on_end: Called with each job whose task has ended, and how, before the job learns it.
        hand_on: Called with each job whose task has ended.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        register: JobRegister,
        spawn: Spawn,
        *,
        tasks: TaskViews,
        credentials: Credentials,
        accounts: Accounts,
        reach: Reach,
        on_look: OnLook,
        on_end: OnEnd,
        hand_on: HandOn,
    ) -> None:
        self._backend = backend
        self._max_polls = settings.max_polls
        self._shows_to_owners = backend.habits.needs_credential_to_look
        self._register = register
        self._spawn = spawn
        self._tasks = tasks
        self._credentials = credentials
        self._accounts = accounts
        self._reach = reach
        self._on_look = on_look
        self._on_end = on_end
        self._hand_on = hand_on
        self._polls: PollQueue = PollQueue(
            target_delay=settings.poll_delay,
            min_interval=settings.min_poll_interval,
            requests_per_second=settings.max_poll_rate,
        )
        self._due: deque[Record] = deque()
        self._missing_since: dict[str, float] = {}
        self._wrong_since: dict[str, float] = {}
        self._stages: dict[str, str] = {}
        self._has_images: set[str] = set()
        self._broken: set[str] = set()
        self._pollers = 0
        self._busy = 0
        self._idle: list[asyncio.Future[None]] = []
        self._sleeps_until = 0.0
        self._wake = asyncio.Event()

    @property
    def polls(self) -> PollQueue:
        """The queue that decides."""
        return self._polls

    def follow(
        self,
        record: Record,
        config: FineTuneConfig | None,
        look_after: float | None = None,
        progress: str = "",
        phases: Sequence[Phase] = (),
    ) -> None:
        """Watch a job from now on; one that is watched already stays as it is.

        Args:
            record: The job.
            config: What it trains, or None where nobody knows.
            look_after: Seconds after which the service wishes to be asked first, or None where polling may choose.
            progress: How far its task is in the service's own word, where the create has told.
            phases: The phases of its task's life, where the create has told.
        """
        # To plan it anew would throw away what was learned of it, and could put a look off for ever.
        if record.job_id in self._polls:
            return
        now = monotonic()
        started_at = now
        if record.is_resumed and record.submitted_at:  # only the date tells how old it is, and a date may be wrong
            started_at -= max(0.0, (utc_now() - record.submitted_at).total_seconds())
        stall_at = None
        longest = self._longest(record, config)
        if longest is not None:
            # What seems overdue at first sight is watched for its full time once more: a clock may have been set.
            stall_at = (started_at if now - started_at < longest else now) + longest
        # A task that was made a moment ago cannot have ended: a look at it would be wasted.
        is_new = record.attempts > 0 and now - started_at <= self._polls.min_interval
        self._polls.add(
            record.job_id,
            kind=kind_of(config),
            started_at=started_at,
            now=now,
            stall_at=stall_at,
            next_at=None if look_after is None else now + look_after,
            phases=phases,
            at_once=not is_new or look_after == 0,  # an attached or resumed task may have ended long ago
        )
        self._wake.set()
        if progress:
            self._came_to(record, progress)

    def usual_ages(self, config: FineTuneConfig) -> tuple[float, float] | None:
        """Return between which ages, in seconds, eight of ten jobs of a config's kind end.

        None where too few of them were seen.
        """
        kind = kind_of(config)
        soon, late = self._polls.age_by(0.1, kind), self._polls.age_by(0.9, kind)
        return None if soon is None or late is None else (soon, late)

    def _longest(self, record: Record, config: FineTuneConfig | None) -> float | None:
        """Return after how many seconds a job's task has certainly ended, or None where nobody knows."""
        try:
            return self._backend.stall_after(config) if config else None
        except Exception as error:  # a job that is never called STALLED is better than one that nobody follows
            self._complain(record, error)
            return None

    def stage(self, record: Record) -> str:
        """Return the service's own word for how far a job's task was at its create or the last look, or ""."""
        return self._stages.get(record.job_id, "")

    def ended(self, record: Record, signal: Signal, end: TaskEnd) -> None:
        """Let a job learn that its task has ended, and let it go on from there."""
        if record.state in FOLLOWED and record.is_ours:
            # Before the job learns it: the ledger writer may take the change at the very next turn.
            self._on_end(record, end)
            self._register.learn(record, signal, self._accounts.error(signal, end))
            self._hand_on(record)

    def is_missing(self, record: Record) -> bool:
        """Whether the service did not know a job's task at the last look, which may be an accident."""
        return record.job_id in self._missing_since

    def forget(self, record: Record) -> None:
        """Watch a job no more."""
        self._missing_since.pop(record.job_id, None)
        self._wrong_since.pop(record.job_id, None)
        self._stages.pop(record.job_id, None)
        self._has_images.discard(record.job_id)
        self._broken.discard(record.job_id)
        self._polls.discard(record.job_id)

    def restore(self, learned: Mapping[str, Any]) -> None:
        """Go on with what earlier processes learned about how long each kind of job takes."""
        for kind, value in learned.items():
            try:
                self._polls.restore(kind, HazardSnapshot.from_json(value))
            except ValueError as error:
                _log.warning("what was learned about %r is not used: %s", kind, error)

    def learned(self) -> dict[str, Any]:
        """Return what was learned since the last call, by kind of job, as JSON values."""
        return {kind: snapshot.to_json() for kind, snapshot in self._polls.snapshots(changed_only=True).items()}

    async def run(self) -> None:
        """Look at what is due, for ever."""
        while True:
            now = monotonic()
            self._take_due(now, self._max_polls - len(self._due) - self._busy)
            self._start_pollers(len(self._due))
            await self._sleep(now)

    def _take_due(self, now: float, at_most: int) -> None:
        for job_id in self._polls.due(now, at_most) if at_most > 0 else ():
            record = self._register.get(job_id)
            if record is not None:
                self._due.append(record)
            else:
                self._polls.discard(job_id)

    def _start_pollers(self, jobs: int) -> None:
        """Wake pollers for so many jobs that are due, and start more where there are too few."""
        if jobs <= 0:
            return
        for waiter in self._idle[:jobs]:
            if not waiter.done():
                waiter.set_result(None)
        while self._pollers < min(self._max_polls, jobs + self._busy):
            self._pollers += 1
            self._spawn(self._poll_due())

    async def _sleep(self, now: float) -> None:
        busy = self._busy + len(self._due) >= self._max_polls
        when = now + _LONGEST_SLEEP if busy else min(self._polls.next_at(now), now + _LONGEST_SLEEP)
        # A timer in the past would be a turn of the loop too, and a costlier one.
        if when <= monotonic() and not busy:
            await asyncio.sleep(0)
            return
        self._wake.clear()
        self._sleeps_until = when
        try:
            async with asyncio.timeout_at(when):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _poll_due(self) -> None:
        """Poll one due job after the other, for ever: to end and begin again costs more than a poll."""
        try:
            while True:
                record = self._due.popleft() if self._due else await self._next_due()
                self._busy += 1
                try:
                    await self._poll(record)
                finally:
                    self._busy -= 1
        finally:
            self._pollers -= 1
            self._wake.set()

    async def _next_due(self) -> Record:
        """Return a job that is due and that no other poller has, waiting until there is one."""
        while True:
            if not self._due:
                self._take_due(monotonic(), _TAKEN_AT_ONCE)
                self._start_pollers(len(self._due) - 1)
                self._look_earlier()
            if self._due:
                return self._due.popleft()
            waiter = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            try:
                await waiter
            finally:
                self._idle.remove(waiter)

    def _look_earlier(self) -> None:
        """Wake ``run`` where an answer has planned a poll before the time until which it sleeps."""
        has_room = self._busy + len(self._due) < self._max_polls
        if has_room and self._polls.next_at(monotonic()) < self._sleeps_until:
            self._wake.set()

    async def _poll(self, record: Record) -> None:
        """Look at one job's task. Whatever goes wrong concerns this job alone."""
        try:
            await self._look(record)
        except Exception as error:
            self._polls.errored(record.job_id, monotonic())
            self._complain(record, error)
            if record.state in FOLLOWED and record.is_ours:  # one whose end could not be told is not forgotten over it
                self.follow(record, record.config, GONE_FOR)
        # Whoever is found overdue by any poll is told at once, also where that poll was about another job.
        for job_id in self._polls.stalled():
            stalled = self._register.get(job_id)
            if stalled is not None:
                self._stalled(stalled)

    async def _look(self, record: Record) -> None:
        """Ask for one job's task, and let the job learn what is seen of it, or why nothing is."""
        try:
            task = self._tasks.known(record) or await self._tasks.recall(record)
            look = await self._backend.look(task)
            self._reach.answered()
            # Asked before the job learns its end, so that state, reason and cost are one write and one truth.
            end = await self._accounts.end(task, look) if look.seen in _ENDS else None
            if (look.stage or look.has_images) and record.job_id not in self._stages:
                await self._remember_told(record)
            if record.task_id == task.task_id:  # else the job has another try by now
                self._saw(record, task, look, end)
        except NotFoundError:
            self._reach.answered()
            self._not_found(record)
        except (BackendError, LedgerError) as error:
            if isinstance(error, OwnershipError) and await self._is_not_ours(record, error):
                return
            if isinstance(error, BackendError):
                self._reach.failed(error)
                self._was_wrong(record, error)
            self._polls.errored(record.job_id, monotonic())
            _log.info("look at task %s: %s", record.task_id, error)

    async def _is_not_ours(self, record: Record, error: OwnershipError) -> bool:
        """Tell whoever waits that a job's task is another credential's, and return whether that is certain."""
        owner = await self._credentials.needed_for(record)
        # A task that was seen or made here is ours and paid for, whatever the service says of it now.
        is_new = record.state is JobState.ATTACHED and not record.is_resumed
        if not is_new and owner is None:
            return False
        known = f"; the ledger has it as one of {owner}" if owner else ""
        told = OwnershipError(f"{error}{known}", job_id=record.job_id, task_id=record.task_id)
        self._reach.answered()
        if is_new:
            self._polls.discard(record.job_id)
            self._register.learn(record, Signal.ABANDON, told)
            self._hand_on(record)
        else:
            # The job is not this session's to end: its owner's next session goes on with it.
            self._polls.errored(record.job_id, monotonic())
            self._register.tell_error(record, told)
        return True

    def _was_wrong(self, record: Record, error: BackendError) -> None:
        """Tell whoever waits of answers that no waiting can mend, when there were two, at least ``GONE_FOR`` apart."""
        # One may be a proxy's bad minute. The task goes on and is paid for, so it is followed all the same.
        now = monotonic()
        if error.is_lasting and now - self._wrong_since.setdefault(record.job_id, now) >= GONE_FOR:
            self._register.fail(record, error)

    def _complain(self, record: Record, error: Exception) -> None:
        """Tell a bug of a backend once for each job, and then quietly: it is met again at every look."""
        is_new = record.job_id not in self._broken
        self._broken.add(record.job_id)
        level = logging.ERROR if is_new else logging.INFO
        _log.log(level, "following task %s: %r", record.task_id, error, exc_info=error if is_new else None)

    def _not_found(self, record: Record) -> None:
        """Believe that a task is gone when the service has said so twice, at least ``GONE_FOR`` apart."""
        now = monotonic()
        # One such answer may be an accident of the service, and EXPIRED is final.
        missing_for = now - self._missing_since.setdefault(record.job_id, now)
        if missing_for >= GONE_FOR:
            del self._missing_since[record.job_id]
            self._polls.ended(record.job_id, now, learn=False)
            self.ended(record, Signal.NOT_FOUND, self._accounts.deleted(str(record.task_id)))
        else:
            self._polls.unclear(record.job_id, now, GONE_FOR - missing_for)
            _log.warning("task %s is not known to the service; it is asked again", record.task_id)

    def _saw(self, record: Record, task: Task, look: Look, end: TaskEnd | None) -> None:
        self._missing_since.pop(record.job_id, None)
        if self._wrong_since.pop(record.job_id, None) is not None and isinstance(record.error, BackendError):
            record.error = None
        if self._shows_to_owners:
            self._has_been_shown(record)
        # While the look was under way the user gave the job up, or another process took it.
        if record.state not in FOLLOWED or not record.is_ours:
            self._polls.discard(record.job_id)
            return
        if look.has_images:
            self._has_come_to_images(record)
        if end is not None:
            is_typical = look.seen is not Seen.CANCELLED  # a user's decision tells nothing of how long trainings take
            is_failure = look.seen is Seen.FAILED
            self._polls.ended(record.job_id, monotonic(), failed=is_failure, learn=is_typical, phases=look.phases)
            self.ended(record, _ENDS[look.seen], end)
        else:
            if record.state is not JobState.RUNNING:
                self._register.learn(record, Signal.SAID_RUNNING)
            self._polls.running(record.job_id, monotonic(), look.again_after, look.phases)
            if look.stage:
                self._came_to(record, look.stage)
            self._on_look(record, task, look)

    def _has_been_shown(self, record: Record) -> None:
        """Enter whose a task is that was only attached: sessions with another credential could not follow it."""
        if record.kept_config is None and not record.is_own and record.is_ours:
            record.is_own = True
            self._register.note(record)

    async def _remember_told(self, record: Record) -> None:
        """Find out what was told of a task before it was looked at here: no reader is told that twice."""
        stage, has_images = await self._tasks.told(record)
        self._stages[record.job_id] = stage
        if has_images:
            self._has_images.add(record.job_id)

    def _came_to(self, record: Record, stage: str) -> None:
        """Tell how far a task is, whenever that is another word."""
        if self._stages.get(record.job_id) != stage:
            from crynux_async.events import JobProgressed

            self._stages[record.job_id] = stage
            self._register.tell(JobProgressed(job_id=record.job_id, task_id=record.task_id, at=utc_now(), stage=stage))

    def _has_come_to_images(self, record: Record) -> None:
        """Tell once that a task has images."""
        if record.job_id not in self._has_images:
            from crynux_async.events import ImagesReady

            self._has_images.add(record.job_id)
            self._register.tell(ImagesReady(job_id=record.job_id, task_id=record.task_id, at=utc_now()))

    def _stalled(self, record: Record) -> None:
        if record.state in FOLLOWED:
            self._register.learn(record, Signal.OVERDUE)
            _log.warning("task %s runs longer than it can; it is watched slowly from now on", record.task_id)


def kind_of(config: FineTuneConfig | None) -> str:
    """Return the name of the kind of job whose durations are alike: model, about so many images, resolution.

    Steps times batch are rounded to a fifth, so that a search over them does not make every trial a kind of its own.
    """
    if config is None:
        return "unknown"
    if config.max_train_steps is None:
        return f"{config.model_name}|{config.max_train_epochs} epochs|{config.resolution}"
    # Time goes with the images that are seen, however steps and batches share them.
    images = config.max_train_steps * config.batch_size * config.gradient_accumulation_steps
    return f"{config.model_name}|1.2^{round(math.log(images, 1.2))}|{config.resolution}"
