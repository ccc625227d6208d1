"""Sends jobs: in order, each exactly once, and only when the rate limit has room.

This is the rate-limit-aware semaphore that every create passes. The gate decides when; ``send_queue`` says which job;
``preparation`` makes the service ready; ``create`` says what an answer means; ``patience`` for how long a service that
is away is tried again; ``ledger_writer`` makes every step durable. The order of a submission is fixed, so that a crash
between any two steps can be told:

1. the job is durable in the ledger, PLANNED;
2. the gate gives a ticket;
3. the attempt is durable in the ledger with its payload, without outcome;
4. one POST, in a task that no caller's cancellation reaches;
5. the outcome is durable in the ledger;
6. whoever waits is told.

Where the ledger is busy at (1) or (3), sending pauses and goes on later; at (5) the answer waits for the ledger. Where
it has failed for good, nothing more is sent, and an answer that cannot be stored is printed on standard error and is in
the exception. None of this changes what is believed of a job.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio

from crynux_async.backends.base import Backend, Order, Stepped
from crynux_async.clock import monotonic, utc_now
from crynux_async.errors import (
    AuthError,
    BackendError,
    BudgetExceededError,
    CrynuxError,
    LeaseLostError,
    LedgerBusyError,
    LedgerError,
    QuotaError,
    RateLimitedError,
    UnreachableError,
)
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, JobChange, TaskRow
from crynux_async.pacing.gate import Gate
from crynux_async.pacing.token_bucket import Outcome
from crynux_async.settings import Settings
from crynux_async.states import STAGES, Signal, Stage
from crynux_async.supervision.accounts import Accounts
from crynux_async.supervision.create import Answer, columns_after, finished, in_doubt, of_repeated, signal_of
from crynux_async.supervision.driving import HandOn, Spawn
from crynux_async.supervision.ledger_writer import LedgerWriter
from crynux_async.supervision.patience import Patience
from crynux_async.supervision.preparation import Preparation
from crynux_async.supervision.reach import Reach
from crynux_async.supervision.record import UNKNOWN_CONFIG, Record
from crynux_async.supervision.register import JobRegister, news_of_move, news_of_task
from crynux_async.supervision.send_queue import SendQueue
from crynux_async.supervision.spending import Spending
from crynux_async.training.config import FineTuneConfig

if TYPE_CHECKING:
    from crynux_async.events import Event, JobQueued

_log = logging.getLogger("crynux_async.supervision.submitter")

_FOREVER = 1e15


class Submitter:
    """Sends the jobs that are queued.

    Args:
        backend: Where to send them.
        settings: Limits and timeouts.
        register: Learns what becomes of them.
        writer: Remembers what is sent.
        accounts: Knows what it may cost.
        spending: Holds what they may cost.
        reach: Hears whether the service answers.
        gate: Decides when.
        create: Sends one create that is stored, exactly once; never raises.
        spawn: Starts a task that outlives its caller.
        hand_on: Called with each job that the service has accepted.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        register: JobRegister,
        *,
        writer: LedgerWriter,
        accounts: Accounts,
        spending: Spending,
        reach: Reach,
        gate: Gate,
        create: Callable[[AttemptRow], Awaitable[Answer]],
        spawn: Spawn,
        hand_on: HandOn,
    ) -> None:
        self._backend = backend
        self._key_id = backend.key_id  # one text for all attempts
        self._keeps_payloads = isinstance(backend, Stepped) and backend.habits.needs_payload
        self._max_creates = settings.max_creates
        self._register = register
        self._writer = writer
        self._accounts = accounts
        self._spending = spending
        self._reach = reach
        self._gate = gate
        self._send = create
        self._spawn = spawn
        self._hand_on = hand_on
        self._queue = SendQueue()
        self._patience = Patience(settings.unreachable_timeout, settings.connect_timeout)
        self._preparation = Preparation(backend, self._ticket, self._leave)
        self._under_way: set[str] = set()
        self._handed: deque[tuple[Record, int]] = deque()
        self._resting: list[asyncio.Future[None]] = []
        self._has_ended = False
        self._payloads: dict[str, str] = {}
        self._busy: LedgerBusyError | None = None
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

    def enqueue(self, record: Record, told: "JobQueued | None" = None) -> None:
        """Put a planned job at the end of the queue; one that is there already stays where it is.

        Args:
            record: The job.
            told: The event that tells of it, where the ledger has that already.
        """
        record.error = None
        # To ask twice is no second place in the queue.
        if record.queue_number:
            return
        event = told or (self.queued(record) if self._register.is_listened_to(record) else None)
        self._queue.add(record)
        self._wake.set()
        if event is not None:
            self._register.tell(event, is_stored=told is not None)

    def queued(self, record: Record, ahead: int = 0) -> "JobQueued":
        """Return the event of a job that is about to be queued.

        Args:
            record: The job.
            ahead: How many more are queued before it, >= 0.
        """
        from crynux_async.events import JobQueued

        position = self._queue.next_position + ahead
        expected_at = self._expected(position)
        return JobQueued(job_id=record.job_id, task_id=None, at=utc_now(), position=position, expected_at=expected_at)

    def go_on(self, record: Record) -> None:
        """Queue a planned job anew that was queued here before another process had it for a while."""
        if record.queue_number and not self.is_under_way(record):
            record.queue_number = 0
            self.enqueue(record)

    def repeat(self, record: Record, payload: str | None) -> None:
        """Send exactly this when the job is sent again: an earlier create of it has an unknown outcome.

        Args:
            record: The job.
            payload: What was sent, or None where no create of it has an unknown outcome (any more).
        """
        if payload is None:
            self._payloads.pop(record.job_id, None)
        else:
            self._payloads[record.job_id] = payload

    def look_again(self) -> None:
        """Look at the queue again: a job was saved."""
        self._wake.set()

    def set_aside(self, record: Record, error: CrynuxError) -> None:
        """Tell whoever waits for a job that it is not sent for now; it stays planned, and may be queued again."""
        record.queue_number = 0
        self._patience.forget(record)
        self._register.fail(record, error)
        self._register.note(record)

    def withdraw(self, record: Record, error: CrynuxError | None = None) -> bool:
        """Give a job up that nobody has sent yet, and say whether that was so; one that may have a task stays.

        Args:
            record: The job.
            error: Why, for whoever waits.
        """
        is_unsent = STAGES[record.state] is Stage.SUBMIT and not self.is_fixed(record)
        if is_unsent:
            self._register.learn(record, Signal.ABANDON, error)
        return is_unsent

    def is_under_way(self, record: Record) -> bool:
        """Whether a create of this job is under way."""
        return record.job_id in self._under_way

    def awaits_answer(self, record: Record) -> bool:
        """Whether a create of this job is under way, or will be, to learn what became of an earlier one."""
        is_repeated = record.job_id in self._payloads and STAGES[record.state] is Stage.SUBMIT
        return self.is_under_way(record) or (is_repeated and record.queue_number > 0)

    def is_fixed(self, record: Record) -> bool:
        """Whether a job is being sent, or will be sent exactly as an earlier create of unknown outcome was."""
        return self.is_under_way(record) or record.job_id in self._payloads

    def expected_at(self, record: Record) -> datetime | None:
        """Return when a queued job will be sent as far as is known, or None."""
        if STAGES[record.state] is not Stage.SUBMIT or not record.queue_number:
            return None
        return self._expected(self._queue.position(record))

    def expected_after(self, count: int) -> datetime | None:
        """Return when the last of some more jobs would be sent, were they queued now, or None if nobody can tell.

        Args:
            count: How many, >= 1.
        """
        limit = self._gate.bucket.limit_per_minute if self._gate.bucket else None
        return None if limit is None else self._expected(len(self._queue) + count - 1)

    def _expected(self, position: int) -> datetime | None:
        seconds = max(self._gate.expected_at(position), self._patience.not_before) - monotonic()
        return utc_now() + timedelta(seconds=max(0.0, seconds)) if seconds < _FOREVER else None

    async def run(self) -> None:
        """Send what is queued, until the session ends."""
        try:
            while not self._has_ended and await self._pause():
                await self._bear_step()
        finally:
            self.end()

    def end(self) -> None:
        """Begin no create any more, from now on; those that have begun go on to their answers."""
        self._has_ended = True
        # Whoever closes the session waits for the tasks of creates, of which one may have begun to rest a moment ago.
        while self._resting:
            _wake_up(self._resting.pop())

    async def _bear_step(self) -> None:
        """Do the next thing; nothing that goes wrong with it ends the sending."""
        try:
            await self._step()
        except LedgerBusyError as error:
            self._busy = error
        except LedgerError as error:
            self._in_trouble(error)
        except Exception as error:
            _log.exception("unexpected")
            self._in_trouble(BackendError(f"the job could not be sent: {error!r}"))

    async def _pause(self) -> bool:
        """Wait a moment where the ledger is busy, and say whether sending goes on after that."""
        error, self._busy = self._busy, None
        if error is not None:
            try:
                await self._writer.wait_out(error)
            except LedgerBusyError:  # the session ends; to go round at once would never let it
                return False
        return True

    async def _step(self) -> None:
        """Do the next thing, or wait until there is one."""
        record = self._queue.first()
        # Not saved means that a crash now would leave a paid task of which nobody knows (case S1).
        if record is None or not record.is_saved or len(self._under_way) >= self._max_creates:
            await self._sleep_until(None)
        elif self._patience.not_before > monotonic():
            await self._sleep_until(self._patience.not_before)
        elif not self._preparation.is_done:
            await self._prepare(record)
        elif (ticket := await self._try_gate()) is not None:
            await self._send_first(ticket)

    async def _try_gate(self) -> int | None:
        """Return a ticket, or None after having waited until there may be one."""
        self._wake.clear()
        entry = await self._gate.enter()
        if entry.ticket is None:
            await self._sleep_until(entry.when, clear=False)
        return entry.ticket

    async def _ticket(self) -> int:
        while (ticket := await self._try_gate()) is None:
            pass
        return ticket

    async def _sleep_until(self, when: float | None, *, clear: bool = True) -> None:
        """Wait until ``when`` or until something changes."""
        if clear:
            self._wake.clear()
        try:
            async with asyncio.timeout_at(when if when is None or when < _FOREVER else None):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _prepare(self, record: Record) -> None:
        """Make the service ready for creates; ``record`` is the job that waits for it first."""
        try:
            self._assume(await self._preparation.run())
        except (LedgerError, asyncio.CancelledError):
            raise
        except (AuthError, QuotaError) as error:
            self._turn_all_away(error)
        except RateLimitedError as error:
            _log.info("preparing for the first create was refused by the rate limit: %s", error)
        except CrynuxError as error:
            # It may have failed before it asked for a ticket, and so seen no answer to others.
            with suppress(LedgerError):
                await self._gate.look()
            self._not_sent(record, error)

    def _assume(self, limit: float | None) -> None:
        """Let the first create of a credential wait as its first limit wants it, where nobody has named another one.

        To prepare it has cost a token. A create that is refused costs another, and so another such wait.
        """
        bucket = self._gate.bucket
        if limit is not None and bucket is not None and bucket.limit_per_minute is None:
            self._patience.wait_until(monotonic() + 60 / limit)

    async def _send_first(self, ticket: int) -> None:
        record = None if self._has_ended else self._queue.take_first()
        # The gate was asked before the job was chosen, or a job could be given up while it holds a ticket.
        if record is None:  # given up while the gate was asked, or the session is being closed
            with anyio.CancelScope(shield=True):
                await self._leave(ticket, Outcome.RELEASED, None)
            return
        # From here until the answer the job is nobody's to withdraw: bytes may leave at any moment.
        self._under_way.add(record.job_id)
        self._handed.append((record, ticket))
        if not self._resting or not _wake_up(self._resting.pop()):
            self._spawn(self._create_in_turn())

    async def _create_in_turn(self) -> None:
        """Send one job after the other: to end a task and begin another costs a tenth of a create."""
        with anyio.CancelScope() as scope:  # one for all of them: each is shielded from its answer on
            while True:
                while not self._handed:
                    # Whoever closes the session waits for the creates that are under way, and so for their tasks.
                    if self._has_ended:
                        return
                    await self._rest()
                try:
                    await self._create(*self._handed.popleft(), scope)
                except Exception:  # no failure of one job's create keeps another from being sent
                    _log.exception("unexpected")
                finally:
                    scope.shield = False

    async def _rest(self) -> None:
        """Wait until there may be a job to send."""
        waiter = asyncio.get_running_loop().create_future()
        self._resting.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._resting:  # cut off
                self._resting.remove(waiter)

    async def _create(self, record: Record, ticket: int, scope: anyio.CancelScope) -> None:
        """Send one job, exactly once, and store what became of it before anybody is told.

        Args:
            record: The job.
            ticket: Its ticket of the gate.
            scope: That of the task which does it; shielded when this returns.
        """
        try:
            config = record.config  # made anew each time, so once for the whole create
            attempt = await self._begin(record, ticket, config)
            if attempt is None:
                return
            # The only POST of this attempt. Its number was stored first, so that two processes cannot both send it
            # (case S9).
            answer = await self._send(attempt)
            if record.job_id in self._payloads:
                answer = of_repeated(answer)
            scope.shield = True
            await self._conclude(record, ticket, attempt, answer, config)
            # Ctrl-C in the middle of a create was swallowed once; it goes on when the answer is safe (case S5).
            if answer.interrupt is not None:
                raise answer.interrupt
        finally:
            self._under_way.discard(record.job_id)
            self._wake.set()
            record.wake()

    async def _begin(self, record: Record, ticket: int, config: FineTuneConfig | None) -> AttemptRow | None:
        """Store the attempt and return it, or give the ticket back and return None: then nothing may be sent."""
        if self._has_ended:  # after it was handed on
            with anyio.CancelScope(shield=True):
                await self._leave(ticket, Outcome.RELEASED, None)
            return None
        attempt: AttemptRow | None = None
        try:
            attempt = self._attempt(record, config)
            is_repeated = record.job_id in self._payloads  # what it may cost is held already
            reservation = None if is_repeated else await self._spending.reservation(record)
            await self._writer.begin(attempt, reservation)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._leave(ticket, Outcome.RELEASED, None)
                if attempt is not None and isinstance(error, asyncio.CancelledError):
                    await self._take_back(record, attempt)
            self._not_begun(record, error)
            return None
        record.attempts = attempt.number
        return attempt

    async def _take_back(self, record: Record, attempt: AttemptRow) -> None:
        """Say of an attempt that may be stored that nothing was sent: to the next process it looks cut off."""
        not_sent = Answer(outcome=AttemptOutcome.NOT_SENT, spent=Outcome.RELEASED)
        change = self._change(record, attempt, not_sent, {}, self._writer.date(attempt.began_at))
        try:
            await self._writer.change(change)
        except LedgerError as error:
            _log.info("attempt %d of job %s was not stored: %s", attempt.number, record.job_id, error)

    def _attempt(self, record: Record, config: FineTuneConfig | None) -> AttemptRow:
        # A payload is made once: a service that knows a create by what it says must be told the same again.
        payload = self._payloads.get(record.job_id)
        if payload is None:
            if config is None:
                raise LedgerError(f"{record!r}: {UNKNOWN_CONFIG}", job_id=record.job_id)
            order = Order(job_id=record.job_id, try_number=record.tries, config=config)
            payload = self._backend.intend(order)
        return AttemptRow(
            job_id=record.job_id,
            number=record.attempts + 1,
            try_number=record.tries,
            backend=self._backend.name,
            key_id=self._key_id,
            payload=payload,
            began_at=self._writer.date(record.planned_at),
        )

    def _not_begun(self, record: Record, error: BaseException) -> None:
        """Say what becomes of a job whose create was not begun."""
        if isinstance(error, LedgerBusyError):
            self._busy = error
            self._queue.put_back(record)
        elif isinstance(error, LeaseLostError):
            _log.info("job %s is not sent: %s", record.job_id, error)
        elif isinstance(error, LedgerError):
            self.set_aside(record, error)
            self._stop_if_failed()
        elif isinstance(error, BudgetExceededError):
            _log.warning("job %s is not sent: %s", record.job_id, error)
            self.set_aside(record, error)
        elif isinstance(error, CrynuxError):
            self._register.learn(record, Signal.TURNED_DOWN, error)
        elif isinstance(error, Exception):
            _log.error("job %s could not be sent", record.job_id, exc_info=error)
            self.set_aside(record, BackendError(f"the job could not be sent: {error!r}"))
        else:
            raise error

    async def _conclude(
        self, record: Record, ticket: int, attempt: AttemptRow, answer: Answer, config: FineTuneConfig | None
    ) -> None:
        """Store an answer, tell whoever waits, then the gate, and let the job go on."""
        at = self._writer.date(attempt.began_at)
        signal = signal_of(answer, is_repeatable=self._backend.creates_are_repeatable)
        columns: dict[str, Any] = {}

        def decide() -> "tuple[JobChange, Sequence[Event]]":
            # Not before its turn: the user may give the job up while something else is being stored of it.
            columns.update(columns_after(record.state, signal, answer, at))
            if answer.outcome is AttemptOutcome.ACCEPTED:
                # Whoever planned it may have had another credential; its model is only handed out to the one that paid.
                columns["key_id"] = attempt.key_id
            return self._change(record, attempt, answer, columns, at), self._news(record, answer, columns)

        try:
            is_ours = await self._writer.decide(record.job_id, decide)
        except Exception as failure:
            self._could_not_store(record, attempt, answer, failure)
        else:
            if is_ours:
                self._tell(record, signal, answer, at)
                if columns.get("state", record.state) is not record.state:
                    self._register.note(record)  # the user has decided something while the answer was being stored
            elif answer.task_id is not None:
                await self._hand_over(record, attempt, answer.task_id)
        await self._leave(ticket, answer.spent, answer.wait)
        try:
            self._go_on(record, attempt, answer, config)
        except Exception as error:
            self._go_on_all_the_same(record, attempt, answer, error)

    async def _hand_over(self, record: Record, attempt: AttemptRow, task_id: str) -> None:
        """Leave a task that was made for a job which was lost meanwhile to whoever has the job, and tell who waits."""
        try:
            await self._writer.hand_over(record.job_id, attempt.number, task_id)
        except Exception as failure:
            self._writer.spill.write_down(attempt, f"task {task_id}", failure, task_id=task_id)
        record.task_id = task_id
        record.wake()

    def _change(
        self, record: Record, attempt: AttemptRow, answer: Answer, columns: dict[str, Any], at: datetime
    ) -> JobChange:
        tasks: tuple[TaskRow, ...] = ()
        if answer.task_id is not None:
            made = TaskRow(
                job_id=record.job_id,
                try_number=attempt.try_number,
                backend=attempt.backend,
                task_id=answer.task_id,
                made_at=at,
                fee=self._accounts.price_of(record),
            )
            tasks = (made,)
        ended = finished(attempt, answer, at, keeps_payload=self._keeps_payloads)
        return JobChange(
            job_id=record.job_id,
            columns=columns,
            finished=ended,
            tasks=tasks,
            # What was held is held for an earlier create, too, as long as nobody knows what became of that.
            settlement=None if self._is_in_doubt(record, answer) else self._spending.release(record, answer.outcome),
        )

    def _news(self, record: Record, answer: Answer, columns: Mapping[str, Any]) -> "tuple[Event, ...]":
        """Return the events of an answer that changes a row so, where anybody listens."""
        if not self._register.is_listened_to(record):
            return ()
        state = columns.get("state", record.state)
        if answer.task_id is not None:
            return news_of_task(record, state, answer.task_id, columns["submitted_at"])
        return news_of_move(record, state)

    def _tell(self, record: Record, signal: Signal | None, answer: Answer, at: datetime) -> None:
        """Let whoever waits know an answer; everything is durable. A bug in that keeps nothing from going on."""
        error = answer.error
        try:
            if answer.task_id is not None:
                _log.info("job %s accepted as task %s", record.job_id, answer.task_id)
                self._register.accepted(record, answer.task_id, at)
            elif signal is Signal.LOST_SIGHT:
                _log.error("outcome unknown, not sent again: job %s: %s", record.job_id, error)
                self._register.learn(record, signal, error, at=at, is_stored=True)
            elif signal is Signal.TURNED_DOWN:
                _log.warning("job %s was refused: %s", record.job_id, error)
                self._register.learn(record, signal, error, at=at, is_stored=True)
        except Exception:
            _log.exception("unexpected")

    def _go_on(self, record: Record, attempt: AttemptRow, answer: Answer, config: FineTuneConfig | None) -> None:
        """Let a job whose create was answered go where it belongs, and the queue with it."""
        error, outcome = answer.error, answer.outcome
        # What is sent next time is a new intention, unless the outcome is (below) or stays unknown.
        is_in_doubt = self._is_in_doubt(record, answer)
        if not is_in_doubt:
            self._payloads.pop(record.job_id, None)
        # Any answer at all shows that the service lives, also one that refuses.
        if outcome not in (AttemptOutcome.NOT_SENT, AttemptOutcome.UNKNOWN):
            self._patience.heard(record)
            self._reach.answered()
        if outcome is AttemptOutcome.ACCEPTED:
            self._hand_on(
                record, config=config, look_after=answer.look_after, progress=answer.progress, phases=answer.phases
            )
        elif outcome is AttemptOutcome.LIMITED:
            _log.info("create refused by the rate limit, queued again: %s", error)
            self._queue.put_back(record)
        elif outcome is AttemptOutcome.NOT_SENT:
            assert error is not None
            self._queue.put_back(record)
            self._not_sent(record, error, Signal.LOST_SIGHT if is_in_doubt else Signal.TURNED_DOWN)
        elif outcome is AttemptOutcome.UNKNOWN and self._backend.creates_are_repeatable:
            assert error is not None
            self._payloads[record.job_id] = attempt.payload
            self._queue.put_back(record)
            self._not_sent(record, error, Signal.LOST_SIGHT)
        elif answer.concerns_all:
            assert error is not None
            # A key that was refused may be a new one the next time, and new keys must be made known again.
            self._preparation.undo()
            self.set_aside(record, error)
            self._turn_all_away(error)

    def _go_on_all_the_same(self, record: Record, attempt: AttemptRow, answer: Answer, error: Exception) -> None:
        """Let a job go on over whose stored answer something unforeseen has failed: it is followed, or set aside."""
        _log.error("after the answer to a create of job %s", record.job_id, exc_info=error)
        if STAGES[record.state] is not Stage.SUBMIT:
            self._hand_on(record)  # without what the service has told besides: that may be what cannot be used
            return
        trouble: CrynuxError = BackendError(f"the job could not be sent: {error!r}")
        if answer.outcome is AttemptOutcome.UNKNOWN:
            self._payloads[record.job_id] = attempt.payload
            trouble = in_doubt(trouble)
        self.set_aside(record, trouble)

    def _is_in_doubt(self, record: Record, answer: Answer) -> bool:
        """Whether this answer says nothing of an earlier create of unknown outcome, which it was to repeat."""
        # A service that refuses the credential has not looked at what was asked for.
        is_silent = answer.concerns_all or answer.outcome in (AttemptOutcome.NOT_SENT, AttemptOutcome.LIMITED)
        return is_silent and record.job_id in self._payloads

    def _could_not_store(self, record: Record, attempt: AttemptRow, answer: Answer, failure: Exception) -> None:
        """Say on standard error, and to whoever waits, what the ledger could not be told."""
        what = f"task {answer.task_id}" if answer.task_id else f"outcome: {answer.outcome}"
        message = self._writer.spill.write_down(attempt, what, failure, task_id=answer.task_id)
        error = LedgerError(message, path=getattr(failure, "path", ""), task_id=answer.task_id)
        if answer.task_id is not None:
            at = self._writer.date(record.planned_at)
            self._register.accepted(record, answer.task_id, at, is_stored=False)
            self._register.fail(record, error)
        else:
            self._register.learn(record, Signal.LOST_SIGHT, error)
        self._stop_if_failed()

    def _not_sent(self, record: Record, error: CrynuxError, last_word: Signal = Signal.TURNED_DOWN) -> None:
        """Let a job that is in the queue, and was not sent, be tried again, or say that it was tried for too long.

        What no waiting can mend is told to everybody who waits at once.
        """
        self._reach.failed(error)
        is_unsent = last_word is Signal.TURNED_DOWN
        if isinstance(error, BackendError) and error.is_lasting:
            # A wrong address or certificate is none of the job's faults: it stays planned, as with a wrong key.
            self._turn_all_away(error)
        elif self._is_patient(record):
            said = "was not sent" if is_unsent else "has no task that is known yet"
            _log.warning("job %s %s: %s", record.job_id, said, error)
        else:
            self._register.learn(record, last_word, error if is_unsent else in_doubt(error))

    def _is_patient(self, record: Record) -> bool:
        """Enter that a job was tried in vain, and say whether it is to be tried again."""
        bucket = self._gate.bucket
        return self._patience.is_left(record, monotonic(), 0 if bucket is None else bucket.answers)

    def _in_trouble(self, error: CrynuxError) -> None:
        """Bear what nobody has thought of: everything waits a while, and the first job does so for a bounded time."""
        if self._stop_if_failed():
            return
        record = self._queue.first()
        if record is None:
            self._patience.hold(monotonic())
        elif self._is_patient(record):
            _log.warning("job %s was not sent: %s", record.job_id, error)
        else:
            self.set_aside(record, error)

    def _stop_if_failed(self) -> bool:
        """Set every queued job aside where the ledger has failed for good, and say whether it has."""
        try:
            self._writer.check()
        except LedgerError as failure:
            _log.error("%s", failure)
            self._turn_all_away(failure)
            return True
        return False

    def _turn_all_away(self, error: CrynuxError) -> None:
        """Set every queued job aside: the same would happen to each of them."""
        while (record := self._queue.take_first()) is not None:
            # "Nothing was sent" is true of the others alone.
            is_in_doubt = isinstance(error, UnreachableError) and record.job_id in self._payloads
            self.set_aside(record, in_doubt(error) if is_in_doubt else error)

    async def _leave(self, ticket: int, spent: Outcome, wait: float | None) -> None:
        """Tell the gate what became of a create. Never raises: whoever waits for the answer must have it."""
        try:
            await self._writer.persist(lambda: self._gate.leave(ticket, spent, wait))
        except Exception as error:
            _log.warning("the gate could not be told of a create: %r", error)


def _wake_up(waiter: "asyncio.Future[None]") -> bool:
    """Let a task go on that rests, and say whether it does: it may have been cut off a moment ago."""
    if waiter.done():
        return False
    waiter.set_result(None)
    return True
