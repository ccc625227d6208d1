"""Watches accepted jobs: ``polling.PollQueue`` says which one to look at, this asks the bridge.

A job that nobody asks about costs an entry in a heap and no task. A few pollers take the due jobs in turn.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from crynux_async.backends.base import Backend, RemoteStatus
from crynux_async.clock import monotonic, utc_now
from crynux_async.errors import BackendError, NotFoundError
from crynux_async.job import Job
from crynux_async.pacing.age_bins import HazardSnapshot
from crynux_async.pacing.poll_queue import PollQueue
from crynux_async.settings import Settings
from crynux_async.states import FOLLOWED, Signal
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.submitter import Spawn
from crynux_async.training.lengths import stall_seconds

_log = logging.getLogger("crynux_async.supervision.follower")

_LONGEST_SLEEP = 3600.0
_TAKEN_AT_ONCE = 8  # by a poller that has nothing left: to take them one by one costs more


class Follower:
    """Asks for the status of every accepted job until it ends.

    Args:
        backend: Whom to ask.
        settings: Limits and intervals.
        register: Learns the answers.
        spawn: Starts a task.
        on_success: Called with each job whose model is there.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        register: JobRegister,
        spawn: Spawn,
        on_success: Callable[[Job], None],
    ) -> None:
        self._backend = backend
        self._on_success = on_success
        self._settings = settings
        self._register = register
        self._spawn = spawn
        self._polls: PollQueue = PollQueue(
            target_delay=settings.poll_delay,
            min_interval=settings.min_poll_interval,
            requests_per_second=settings.max_poll_rate,
        )
        self._due: deque[Job] = deque()
        self._pollers = 0
        self._busy = 0
        self._idle: list[asyncio.Future[None]] = []
        self._sleeps_until = 0.0
        self._wake = asyncio.Event()

    @property
    def polls(self) -> PollQueue:
        """The queue that decides."""
        return self._polls

    def follow(self, job: Job) -> None:
        """Watch a job from now on."""
        now = monotonic()
        started_at = now
        if job.is_resumed and job.submitted_at:  # only the date tells how old it is, and a date may be wrong
            started_at -= max(0.0, (utc_now() - job.submitted_at).total_seconds())
        stall_at = None
        if job.config:
            longest = stall_seconds(job.config)
            # What seems overdue at first sight is watched for its full time once more: a clock may have been set.
            stall_at = (started_at if now - started_at < longest else now) + longest
        self._polls.add(job.job_id, kind=kind_of(job), started_at=started_at, now=now, stall_at=stall_at)
        self._wake.set()

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

    def forget(self, job: Job) -> None:
        """Watch a job no more."""
        self._polls.discard(job.job_id)

    async def run(self) -> None:
        """Look at what is due, for ever."""
        while True:
            now = monotonic()
            self._take_due(now, self._settings.max_polls - len(self._due) - self._busy)
            self._start_pollers(len(self._due))
            await self._sleep(now)

    def _take_due(self, now: float, at_most: int) -> None:
        for job_id in self._polls.due(now, at_most) if at_most > 0 else ():
            self._due.append(self._register.get(job_id))

    def _start_pollers(self, jobs: int) -> None:
        """Wake pollers for so many jobs that are due, and start more where there are too few."""
        if jobs <= 0:
            return
        for waiter in self._idle[:jobs]:
            if not waiter.done():
                waiter.set_result(None)
        while self._pollers < min(self._settings.max_polls, jobs + self._busy):
            self._pollers += 1
            self._spawn(self._poll_due())

    async def _sleep(self, now: float) -> None:
        busy = self._busy + len(self._due) >= self._settings.max_polls
        when = now + _LONGEST_SLEEP if busy else min(self._polls.next_at(now), now + _LONGEST_SLEEP)
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
                job = await self._next_due()
                self._busy += 1
                try:
                    await self._poll(job)
                finally:
                    self._busy -= 1
        finally:
            self._pollers -= 1
            self._wake.set()

    async def _next_due(self) -> Job:
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
        has_room = self._busy + len(self._due) < self._settings.max_polls
        if has_room and self._polls.next_at(monotonic()) < self._sleeps_until:
            self._wake.set()

    async def _poll(self, job: Job) -> None:
        """Ask for one job's status. Whatever goes wrong concerns this job alone."""
        task_id = job.task_id
        assert task_id is not None
        try:
            status = await self._backend.status(task_id)
        except NotFoundError:
            self._ended(job, Signal.NOT_FOUND, learn=False)
        except BackendError as error:
            self._polls.errored(job.job_id, monotonic())
            _log.info("status of task %d: %s", task_id, error)
        except Exception:
            self._polls.errored(job.job_id, monotonic())
            _log.exception("status of task %d", task_id)
        else:
            self._said(job, status)
        for job_id in self._polls.stalled():
            self._stalled(self._register.get(job_id))

    def _said(self, job: Job, status: RemoteStatus | str) -> None:
        if job.state not in FOLLOWED:
            self._polls.discard(job.job_id)
        elif status == RemoteStatus.SUCCESS:
            self._ended(job, Signal.SAID_SUCCESS)
        elif status == RemoteStatus.FAILED:
            self._ended(job, Signal.SAID_FAILED)
        else:
            if status != RemoteStatus.RUNNING:
                _log.warning("task %d has the status %r, which is not known; it is still followed", job.task_id, status)
            self._polls.running(job.job_id, monotonic())

    def _ended(self, job: Job, signal: Signal, *, learn: bool = True) -> None:
        self._polls.ended(job.job_id, monotonic(), failed=signal is Signal.SAID_FAILED, learn=learn)
        if job.state in FOLLOWED:
            self._register.learn(job, signal)
            if signal is Signal.SAID_SUCCESS:
                self._on_success(job)

    def _stalled(self, job: Job) -> None:
        if job.state in FOLLOWED:
            self._register.learn(job, Signal.OVERDUE)
            _log.warning("task %s runs longer than it can; it is watched slowly from now on", job.task_id)


def kind_of(job: Job) -> str:
    """Return the name of the kind of job whose durations are alike: model, about so many images, resolution.

    Steps times batch are rounded to a fifth, so that a search over them does not make every trial a kind of its own.
    """
    config = job.config
    if config is None:
        return "unknown"
    if config.max_train_steps is None:
        return f"{config.model_name}|{config.max_train_epochs} epochs|{config.resolution}"
    images = config.max_train_steps * config.batch_size * config.gradient_accumulation_steps
    return f"{config.model_name}|1.2^{round(math.log(images, 1.2))}|{config.resolution}"
