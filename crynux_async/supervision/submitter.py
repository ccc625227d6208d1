"""Sends jobs: in order, each exactly once, and only when the rate limit has room.

This is the rate-limit-aware semaphore that every create passes. The gate decides when; here is the queue before it and
what becomes of each answer. The order of a submission is fixed, so that a crash between any two steps can be told:

1. the job is durable in the ledger, PLANNED;
2. the gate gives a ticket;
3. the attempt is durable in the ledger, without outcome;
4. one POST, in a task of its own that no caller's cancellation reaches;
5. the outcome is durable in the ledger;
6. whoever waits is told.

Where the ledger cannot store (1) or (3) nothing is sent; where it cannot store (5) the task id is printed on standard
error and is in the exception. Either way no further job is sent.
"""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any

import anyio
import attrs

from crynux_async.backends.base import Backend
from crynux_async.clock import monotonic, utc_now
from crynux_async.errors import (
    AuthError,
    BackendError,
    CrynuxError,
    LedgerError,
    ProtocolError,
    QuotaError,
    RateLimitedError,
    RejectedError,
    SubmissionUnknownError,
    UnreachableError,
)
from crynux_async.events import JobQueued
from crynux_async.job import Job
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, JobRow, Ledger
from crynux_async.pacing.gate import Gate
from crynux_async.pacing.token_bucket import Outcome
from crynux_async.settings import Settings
from crynux_async.states import JobState, Signal
from crynux_async.supervision.register import JobRegister

_log = logging.getLogger("crynux_async.supervision.submitter")

_FIRST_RETRY = 1.0
_LONGEST_RETRY = 60.0
_SPENT_FIELDS = frozenset({"task_args", "timeout"})
_FOREVER = 1e15

Spawn = Callable[[Coroutine[Any, Any, None]], None]


@attrs.frozen(kw_only=True)
class _Answer:
    """What became of one POST.

    Attributes:
        outcome: For the ledger.
        spent: For the gate.
        task_id: The task that was made, or None.
        error: What to tell whoever waits, or None.
        interrupt: What ends the program, and may go on once all of this is stored; or None.
    """

    outcome: AttemptOutcome
    spent: Outcome
    task_id: int | None = None
    error: CrynuxError | None = None
    interrupt: BaseException | None = None


class Submitter:
    """The queue of jobs to send.

    Args:
        backend: Where to send them.
        settings: Limits and time-outs.
        register: Learns what becomes of them.
        ledger: Remembers what is sent.
        add: Stores new jobs in the ledger, as this session's.
        gate: Decides when.
        spawn: Starts a task that outlives its caller.
        on_accepted: Called with each job that the bridge has accepted.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        register: JobRegister,
        *,
        ledger: Ledger,
        add: Callable[[Sequence[JobRow]], Awaitable[None]],
        gate: Gate,
        spawn: Spawn,
        on_accepted: Callable[[Job], None],
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._key_id = settings.key_id  # one text for all attempts
        self._register = register
        self._ledger = ledger
        self._add = add
        self._gate = gate
        self._spawn = spawn
        self._on_accepted = on_accepted
        self._queue: deque[Job] = deque()
        self._unsaved: deque[Job] = deque()
        self._queued = 0
        self._under_way: set[str] = set()
        self._key_is_ready = not settings.prime_key
        self._not_before = 0.0
        self._retry = _FIRST_RETRY
        self._heard_at = 0.0
        self._broken: LedgerError | None = None
        self._latest = utc_now()
        self._saved = asyncio.Event()
        self._wake = asyncio.Event()
        gate.watch(self._wake)

    @property
    def gate(self) -> Gate:
        """The gate before the key."""
        return self._gate

    @property
    def waiting(self) -> int:
        """How many jobs wait to be sent, those given up meanwhile included."""
        return len(self._queue)

    @property
    def creating(self) -> int:
        """How many creates are under way."""
        return len(self._under_way)

    def date(self, after: datetime) -> datetime:
        """Return the time for the ledger: never before ``after`` or what it was told last, whatever a clock says."""
        self._latest = max(self._latest, after, utc_now())
        return self._latest

    def check_ledger(self) -> None:
        """Raise LedgerError when nothing may be sent any more because it could not be remembered."""
        if self._broken is not None:
            raise LedgerError(f"nothing is sent any more: {self._broken}", path=self._broken.path)

    def enqueue(self, job: Job, *, is_saved: bool = False) -> None:
        """Put a planned job at the end of the queue.

        Args:
            job: The job.
            is_saved: Whether the ledger has it already.
        """
        self._queued += 1
        job.queue_number = self._queued
        self._queue.append(job)
        if not is_saved:
            self.remember(job)
        self._wake.set()
        position = self.position(job)
        self._register.tell(
            JobQueued(
                job_id=job.job_id, task_id=None, at=utc_now(), position=position, expected_at=self.expected_at(job)
            )
        )

    def remember(self, job: Job) -> None:
        """Store a job in the ledger soon, and in any case before it is sent."""
        self._unsaved.append(job)
        self._wake.set()

    def withdraw(self, job: Job) -> None:
        """Give a job up that nobody has sent yet; one that is under way stays."""
        if job.state is JobState.PLANNED and job.job_id not in self._under_way:
            self._register.learn(job, Signal.ABANDON)

    def is_under_way(self, job: Job) -> bool:
        """Whether a create of this job is under way."""
        return job.job_id in self._under_way

    def position(self, job: Job) -> int:
        """Return how many jobs go before this one, >= 0; those given up meanwhile are counted."""
        return max(0, job.queue_number - self._queue[0].queue_number) if self._queue else 0

    def expected_at(self, job: Job) -> datetime | None:
        """Return when a planned job will be sent as far as is known, or None."""
        if job.state is not JobState.PLANNED or job.error is not None:
            return None
        seconds = max(self._gate.expected_at(self.position(job)), self._not_before) - monotonic()
        return utc_now() + timedelta(seconds=max(0.0, seconds)) if seconds < _FOREVER else None

    async def run(self) -> None:
        """Send what is queued, for ever."""
        while True:
            try:
                await self._step()
            except LedgerError as error:
                self._stop_sending(error)

    async def save_planned(self) -> None:
        """Make every planned job durable.

        Raises:
            LedgerError: They could not be stored.
        """
        while self._unsaved:
            jobs = list(self._unsaved)
            await self._add([self._register.row(job) for job in jobs if job.task_id is None])
            for job in jobs:
                self._unsaved.popleft()
                if job.task_id is None or await self._save_attached(job):
                    self._register.saved(job)
        self._saved.set()

    async def all_saved(self) -> None:
        """Wait until the ledger has every planned job.

        Raises:
            LedgerError: It cannot be told any more.
        """
        while self._unsaved and self._broken is None:
            self._saved.clear()
            await self._saved.wait()
        self.check_ledger()

    async def _save_attached(self, job: Job) -> bool:
        """Remember an attached task, unless the ledger has it under another name."""
        try:
            await self._add([self._register.row(job)])
        except LedgerError as error:
            _log.info("attached task %d is not stored again: %s", job.task_id, error)
            return False
        return True

    async def _step(self) -> None:
        """Do the next thing, or wait until there is one."""
        await self.save_planned()
        job = self._head()
        if job is None or len(self._under_way) >= self._settings.max_creates:
            await self._sleep_until(None)
        elif self._not_before > monotonic():
            await self._sleep_until(self._not_before)
        elif not self._key_is_ready:
            await self._make_key_ready(job)
        elif (ticket := await self._ticket()) is not None:
            await self._send_head(ticket)

    async def _ticket(self) -> int | None:
        """Return a ticket, or None after having waited until there may be one."""
        self._wake.clear()
        entry = await self._gate.enter()
        if entry.ticket is None:
            await self._sleep_until(entry.when, clear=False)
        return entry.ticket

    async def _send_head(self, ticket: int) -> None:
        job = self._head()
        if job is None:  # given up while the gate was asked
            await self._gate.leave(ticket, Outcome.RELEASED)
            return
        self._queue.popleft()
        self._under_way.add(job.job_id)
        self._spawn(self._create(job, ticket))

    def _head(self) -> Job | None:
        """Return the next job to send, dropping those that were given up."""
        while self._queue and self._queue[0].state is not JobState.PLANNED:
            self._queue.popleft()
        return self._queue[0] if self._queue else None

    async def _sleep_until(self, when: float | None, *, clear: bool = True) -> None:
        """Wait until ``when`` or until something changes."""
        if clear:
            self._wake.clear()
        try:
            async with asyncio.timeout_at(when if when is None or when < _FOREVER else None):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _create(self, job: Job, ticket: int) -> None:
        """Send one job, exactly once, and take note of what became of it before anybody is told."""
        try:
            attempt = self._attempt(job)
            try:
                await self._ledger.begin(attempt)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._gate.leave(ticket, Outcome.RELEASED)
                raise
            answer = await self._send(job)
            with anyio.CancelScope(shield=True):
                await self._take_note(job, ticket, attempt, answer)
            if answer.interrupt is not None:
                raise answer.interrupt
        except LedgerError as error:
            self._requeue(job)
            self._stop_sending(error)
        finally:
            self._under_way.discard(job.job_id)
            self._wake.set()

    def _attempt(self, job: Job) -> AttemptRow:
        job.attempts += 1
        return AttemptRow(
            job_id=job.job_id,
            number=job.attempts,
            backend=self._settings.base_url,
            key_id=self._key_id,
            began_at=self.date(job.planned_at),
        )

    async def _send(self, job: Job) -> _Answer:
        """Make the POST. Never raises: once bytes may have left, every end has a meaning."""
        assert job.config is not None
        try:
            created = await self._backend.create(job.config.effective().config)
        except RateLimitedError as error:
            return _Answer(outcome=AttemptOutcome.REFUSED, spent=Outcome.LIMITED, error=error)
        except UnreachableError as error:
            return _Answer(outcome=AttemptOutcome.NOT_SENT, spent=Outcome.RELEASED, error=error)
        except SubmissionUnknownError as error:
            return _Answer(outcome=AttemptOutcome.UNKNOWN, spent=Outcome.CHARGED, error=error)
        except CrynuxError as error:
            spent = isinstance(error, RejectedError) and error.field in _SPENT_FIELDS
            return _Answer(
                outcome=AttemptOutcome.REJECTED, spent=Outcome.CHARGED if spent else Outcome.RELEASED, error=error
            )
        except BaseException as error:
            _log.debug("create cut off", exc_info=True)
            interrupt = error if isinstance(error, KeyboardInterrupt | SystemExit) else None
            return _Answer(
                outcome=AttemptOutcome.UNKNOWN, spent=Outcome.CHARGED, error=_cut_off(error), interrupt=interrupt
            )
        return _Answer(outcome=AttemptOutcome.ACCEPTED, spent=Outcome.ACCEPTED, task_id=created.task_id)

    async def _take_note(self, job: Job, ticket: int, attempt: AttemptRow, answer: _Answer) -> None:
        """Store an outcome, then tell the gate and whoever waits."""
        now, error = self.date(attempt.began_at), answer.error
        finished = attrs.evolve(
            attempt,
            answered_at=now,
            outcome=answer.outcome,
            task_id=answer.task_id,
            wait=error.wait if isinstance(error, RateLimitedError) else None,
            status=getattr(error, "status", None),
            answer=getattr(error, "answer", "") if answer.outcome is AttemptOutcome.UNKNOWN else "",
        )
        try:
            await self._ledger.finish(finished, **self._changes(job, answer, now))
            await self._gate.leave(ticket, answer.spent, finished.wait)
        except LedgerError as failure:
            self._could_not_store(job, answer, failure)
            return
        self._conclude(job, answer, now)

    def _changes(self, job: Job, answer: _Answer, now: datetime) -> dict[str, Any]:
        """Return how an outcome changes the job's row."""
        if answer.outcome is AttemptOutcome.ACCEPTED:
            return {"state": JobState.RUNNING, "task_id": answer.task_id, "submitted_at": now, "error": ""}
        if answer.outcome in (AttemptOutcome.REJECTED, AttemptOutcome.UNKNOWN):
            is_unknown = answer.outcome is AttemptOutcome.UNKNOWN
            state = JobState.UNCONFIRMED if is_unknown else JobState.REJECTED
            return {"state": state, "ended_at": now, "error": str(answer.error)}
        return {}

    def _conclude(self, job: Job, answer: _Answer, now: datetime) -> None:
        """Move the job on; everything is durable."""
        error = answer.error
        if answer.outcome is AttemptOutcome.ACCEPTED:
            assert answer.task_id is not None
            self._answered()
            _log.info("job %s accepted as task %d", job.job_id, answer.task_id)
            job.queue_number = 0
            self._register.accepted(job, answer.task_id, now)
            self._on_accepted(job)
        elif answer.outcome is AttemptOutcome.REFUSED:
            self._answered()
            _log.info("create refused by the rate limit, queued again: %s", error)
            self._requeue(job)
        elif answer.outcome is AttemptOutcome.NOT_SENT:
            assert isinstance(error, BackendError)
            if self._try_again(job, error):
                self._requeue(job)
            else:
                self._register.learn(job, Signal.REFUSED, error)
        elif answer.outcome is AttemptOutcome.UNKNOWN:
            _log.error("outcome unknown, not sent again: job %s: %s", job.job_id, error)
            self._register.learn(job, Signal.LOST_SIGHT, error)
        else:
            self._answered()
            _log.warning("job %s was refused: %s", job.job_id, error)
            if isinstance(error, AuthError | QuotaError):
                self._key_is_ready = not self._settings.prime_key  # ask about the key before the next job
            self._register.learn(job, Signal.REFUSED, error)

    def _could_not_store(self, job: Job, answer: _Answer, failure: LedgerError) -> None:
        """Say on standard error, and to whoever waits, what the ledger could not be told."""
        task = f"task {answer.task_id}" if answer.task_id else f"outcome: {answer.outcome}"
        message = f"job {job.job_id} ({task}) could not be stored: {failure}; write it down, nothing else is sent"
        print(f"crynux_async: {message}", file=sys.stderr, flush=True)  # noqa: T201  # the last place where it can be kept
        error = LedgerError(message, path=failure.path, task_id=answer.task_id)
        if answer.outcome is AttemptOutcome.ACCEPTED and answer.task_id is not None:
            self._register.accepted(job, answer.task_id, self.date(job.planned_at))
            self._on_accepted(job)
            error.job_id, job.error = job.job_id, error
            job.wake()
        else:
            self._register.learn(job, Signal.LOST_SIGHT, error)
        self._stop_sending(failure)

    def _stop_sending(self, error: LedgerError) -> None:
        """Fail everything that waits: what cannot be remembered must not be sent."""
        _log.error("nothing is sent any more: %s", error)
        self._broken = self._broken or error
        self._unsaved.clear()
        self._saved.set()
        self._fail_all(error)

    def _requeue(self, job: Job) -> None:
        """Put a job that was not accepted yet back to its place."""
        index = 0
        while index < len(self._queue) and self._queue[index].queue_number < job.queue_number:
            index += 1
        self._queue.insert(index, job)

    def _answered(self) -> None:
        self._retry = _FIRST_RETRY
        self._not_before = 0.0
        self._heard_at = monotonic()

    def _hold(self) -> None:
        """Let nothing go for a while, longer each time."""
        self._not_before = monotonic() + self._retry
        self._retry = min(2 * self._retry, _LONGEST_RETRY)

    def _try_again(self, job: Job, error: BackendError) -> bool:
        """Whether a job that was certainly not sent is to be tried again; if so, nothing goes for a while."""
        now = monotonic()
        if job.unreachable_at is None or job.unreachable_at < self._heard_at:
            job.unreachable_for = 0.0
        else:
            # No two tries lie further apart than this, unless the machine slept or the gate was shut.
            job.unreachable_for += min(now - job.unreachable_at, self._retry + self._settings.connect_timeout)
        job.unreachable_at = now
        self._hold()
        _log.warning("job %s was not sent: %s", job.job_id, error)
        return job.unreachable_for < self._settings.unreachable_timeout

    async def _make_key_ready(self, job: Job) -> None:
        """Find out whether the key was ever used, and use it once if not, before the first real job.

        The bridge files a key's first task under two clients and then never hands out its result (crynux-bridge
        models/client.go, api/v1/image/finetune.go). A create that the schema refuses comes far enough to prevent that.
        """
        try:
            if not await self._backend.key_is_fresh():
                self._key_is_ready = True
            elif (ticket := await self._ticket()) is not None:
                await self._prime(ticket)
        except (AuthError, QuotaError) as error:
            self._fail_all(error)
        except BackendError as error:
            if not self._try_again(job, error):
                self._queue.remove(job)
                self._register.learn(job, Signal.REFUSED, error)

    async def _prime(self, ticket: int) -> None:
        _log.info("the key was never used: sending one create that is bound to be refused, so that results can be had")
        spent, wait = Outcome.CHARGED, None
        try:
            await self._backend.prime_key()
            self._key_is_ready = True
        except RateLimitedError as error:
            spent, wait = Outcome.LIMITED, error.wait
        except (SubmissionUnknownError, ProtocolError) as error:
            self._hold()
            _log.warning("priming the key: %s", error)
        except BackendError:
            spent = Outcome.RELEASED
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._gate.leave(ticket, spent, wait)

    def _fail_all(self, error: CrynuxError) -> None:
        """Refuse every queued job: the same would happen to each of them."""
        while (job := self._head()) is not None:
            self._queue.popleft()
            self._register.learn(job, Signal.REFUSED, error)


def _cut_off(error: BaseException) -> SubmissionUnknownError:
    said = "the session was closed" if isinstance(error, asyncio.CancelledError) else repr(error)
    return SubmissionUnknownError(
        f"the create was under way when {said}; the task may exist and is not sent again by itself"
    )
