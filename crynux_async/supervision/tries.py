"""Trying again: a job gets another try, or goes on with the one that it has, because its user says so."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

import attrs

from crynux_async.errors import LeaseLostError, UsageError
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, Fence, JobChange, Ledger, TaskRow
from crynux_async.states import STAGES, JobState, Signal, Stage, may
from crynux_async.supervision.ledger_writer import LedgerWriter
from crynux_async.supervision.onlookers import Onlookers
from crynux_async.supervision.record import UNKNOWN_CONFIG, Record
from crynux_async.supervision.register import JobRegister, news_of_move
from crynux_async.supervision.stored_errors import columns_of_error
from crynux_async.supervision.submitter import Submitter
from crynux_async.supervision.take_over import TakeOver
from crynux_async.training.config import FineTuneConfig
from crynux_async.values import Value

if TYPE_CHECKING:
    from crynux_async.ledgers.base import WishRow

SEND = "send"
"""The kind of a wish: send a job again, where it is still as the wisher saw it."""

STOP = "stop"
"""The kind of a wish: leave a job unsent."""

TRIED_BY_STATE = frozenset(
    state for state in JobState if STAGES[state] is Stage.SUBMIT or may(state, Signal.TRY_AGAIN)
) - {JobState.UNCONFIRMED}
"""The states whose jobs may be sent again all together. A create of unknown outcome may be paid for, so that its user
decides about each."""

_MADE_A_TASK = (None, AttemptOutcome.UNKNOWN, AttemptOutcome.ACCEPTED)


@attrs.frozen(kw_only=True)
class Sight(Value):
    """What somebody knew of a job who wants it sent again.

    Attributes:
        state: Its state.
        tries: How many tries it had.
    """

    state: JobState
    tries: int

    @classmethod
    def of(cls, record: Record) -> Self:
        """Return what is known of a job now."""
        return cls(state=record.state, tries=record.tries)

    def was_sent_since(self, record: Record) -> bool:
        """Whether a job was sent again by another since it was seen, so that the wish is fulfilled, however it went."""
        if not _is_sendable(self.state):
            return False
        is_in_doubt = record.state is JobState.UNCONFIRMED and self.state is not JobState.UNCONFIRMED
        return record.tries != self.tries or is_in_doubt or not _is_sendable(record.state)


class Tries:
    """Sends jobs again.

    A job of another session is taken where it is free; where it is not, its owner is asked to send it.

    Args:
        ledger: Has the attempts.
        register: Learns that a job is tried again.
        onlookers: Hears what the owners of jobs do.
        writer: Makes a new try durable before it is sent.
        submitter: Sends it.
        take_over: Takes jobs that nobody holds.
    """

    def __init__(
        self,
        ledger: Ledger,
        register: JobRegister,
        onlookers: Onlookers,
        *,
        writer: LedgerWriter,
        submitter: Submitter,
        take_over: TakeOver,
    ) -> None:
        self._ledger = ledger
        self._register = register
        self._onlookers = onlookers
        self._writer = writer
        self._submitter = submitter
        self._take_over = take_over

    async def send_all(self, records: Sequence[Record], *, timeout: int | None, keeps_longer: bool) -> None:
        """Send jobs as ``send`` does, all together; where one of them cannot be sent, none is.

        Args:
            records: The jobs, each once.
            timeout: The config's timeout from now on; None leaves it.
            keeps_longer: Whether a job that has more time already keeps it; if not, that is an error.

        Raises:
            UsageError: One of them cannot be sent, or cannot have this timeout; none is sent.
            ConfigError: No config can have such a timeout; none is sent.
            LedgerError: Not all could be stored.
        """
        seen = {record.job_id: Sight.of(record) for record in records}
        await self._onlookers.catch_up(records)
        left = [record for record in records if not seen[record.job_id].was_sent_since(record)]
        wished = {record.job_id: _longer(record, timeout) if keeps_longer else timeout for record in left}
        for record in left:
            check_may_be_sent(record)
            lengthened(record, wished[record.job_id])
        # Side by side, because the owners of others' jobs hear of all wishes at once, every few seconds.
        sending = [self.send(record, timeout=wished[record.job_id]) for record in left]
        failed = [error for error in await asyncio.gather(*sending, return_exceptions=True) if error is not None]
        if failed:
            raise failed[0]

    async def send(self, record: Record, *, timeout: int | None = None) -> None:
        """Queue a planned job; give one that has ended another try and queue it. Returns when that is durable.

        Args:
            record: The job.
            timeout: The config's timeout from now on, not shorter than before; None leaves it.

        Raises:
            UsageError: The job runs or has a model, its config is not known, a create of it is under way, or the
                timeout cannot be changed so.
            ConfigError: No config can have such a timeout.
            LedgerError: It could not be stored; nothing is sent.
        """
        check_may_be_sent(record)
        lengthened(record, timeout)
        seen = Sight.of(record)
        if not record.is_ours and not await self._take_over.take(record):
            arguments = {"state": str(record.state), "try_number": record.tries, "timeout": timeout}
            wish = await self._writer.wish(record.job_id, SEND, **arguments)
            is_queued_there = STAGES[record.state] is Stage.SUBMIT and record.error is None
            if is_queued_there or not await self._is_ours_after_all(record, wish):
                return
        await self._adopt_left(record)
        async with self._writer.settled():
            # What was sent meanwhile, by the queue, another caller or another process, is not sent again, however it
            # went.
            if STAGES[record.state] is Stage.SUBMIT or seen == Sight.of(record):
                await self._send(record, timeout)

    async def stop(self, records: Iterable[Record]) -> None:
        """Take planned jobs out of the queue, and leave them unsent until their user says so.

        Raises:
            LedgerError: It could not be stored.
        """
        for record in records:
            if STAGES[record.state] is not Stage.SUBMIT or self._submitter.is_under_way(record):
                continue
            if not record.is_ours and not await self._take_over.take(record):
                await self._writer.wish(record.job_id, STOP)
                continue
            await self._stop(record)

    async def was_sent(self, record: Record) -> bool:
        """Whether a job has a task, or may have one."""
        return _has_made_a_task(record, await self._attempts(record))

    async def grant(self, record: Record, wish: "WishRow") -> None:
        """Send a job because another session wishes it, unless more has happened than the wisher had seen.

        Raises:
            LedgerError: It could not be stored; the wish stays.
        """
        if self._submitter.is_under_way(record):
            return  # only its answer tells whether there is anything to be sent
        await self._adopt_left(record)
        seen = wish.arguments.get("state"), wish.arguments.get("try_number")
        # A wish that was heard late must not send what its wisher has seen sent meanwhile.
        if seen == (str(record.state), record.tries) and may_be_sent(record):
            async with self._writer.settled():
                if seen == (str(record.state), record.tries):
                    await self._send(record, _longer(record, wish.arguments.get("timeout")))
            # Before the wish goes: where it is gone, its wisher reads what has become of the job.
            await self._writer.persist(self._writer.flush)
        await self._writer.change(JobChange(job_id=record.job_id, granted=(wish.number,)))

    async def grant_stop(self, record: Record, wish: "WishRow") -> None:
        """Leave a job unsent because another session wishes it.

        Raises:
            LedgerError: It could not be stored; the wish stays.
        """
        if STAGES[record.state] is Stage.SUBMIT and not self._submitter.is_under_way(record):
            await self._stop(record)
        await self._writer.change(JobChange(job_id=record.job_id, granted=(wish.number,)))

    async def _adopt_left(self, record: Record) -> None:
        """Find out whether the create of a job that is to be sent again has been answered elsewhere meanwhile."""
        if record.state is JobState.UNCONFIRMED:
            await self._take_over.adopt_left(record)

    async def _stop(self, record: Record) -> None:
        self._submitter.set_aside(record, UsageError("sending it was stopped; job.retry() sends it"))
        await self._writer.change(JobChange(job_id=record.job_id, columns={"is_stopped": True}))

    async def _is_ours_after_all(self, record: Record, wish: "WishRow") -> bool:
        """Wait until the owner of a job has done what was wished, and return False; or True where it never will.

        Only the wish itself tells: states, tries and events change for other reasons, too, or look as before when the
        same happens to the job again.
        """
        heard = 0
        while not record.is_ours:
            holder = await self._ledger.holder(record.job_id)
            if holder is None:
                await self._take_over.take(record)  # it has left, or a process that dies writes nothing
            elif await self._is_granted(record, wish, holder.fence):
                await self._onlookers.catch_up((record,))
                return False
            else:
                heard = await self._onlookers.next_write(heard)
        return True

    async def _is_granted(self, record: Record, wish: "WishRow", fence: Fence) -> bool:
        """Whether whoever holds a job under a fence has done what was wished."""
        if wish.number in {one.number for one in await self._ledger.wishes(fence)}:
            return False
        # A job that went on to another meanwhile has taken its wishes along.
        holder = await self._ledger.holder(record.job_id)
        return holder is not None and holder.fence == fence

    async def _send(self, record: Record, timeout: int | None = None) -> None:
        if STAGES[record.state] is Stage.SUBMIT:
            await self._go_on(record, timeout)
            return
        if self._submitter.is_under_way(record):
            raise UsageError(f"a create of {record!r} is under way; wait for its answer", job_id=record.job_id)
        config = lengthened(record, timeout, self._submitter)
        attempts = await self._attempts(record)
        # Of a job that ended before this session took it, the register has never seen the creates.
        record.attempts = max((record.attempts, *(attempt.number for attempt in attempts)))
        # A try that certainly made no task goes on; else a service that knows creates by job and try would see an old
        # one. So does one whose create is repeated, because it is in doubt: as another try, a process that went on with
        # it would pay for another task, and hold for both.
        is_repeated = record.task_id is None and self._submitter.is_fixed(record)
        number = record.tries + (not is_repeated and _has_made_a_task(record, attempts))
        # Durable before it is queued: a crash between the two must not leave a try that no process knows.
        await self._store(self._change(record, number, await self._ledger.tasks([record.job_id])), record, config)
        self._register.try_again(record, number)
        self._submitter.enqueue(record)

    async def _go_on(self, record: Record, timeout: int | None) -> None:
        """Queue a planned job, where it is not queued, with the config that is wished for."""
        config = lengthened(record, timeout, self._submitter)
        if config is not None or not record.queue_number:
            await self._store(JobChange(job_id=record.job_id, columns={"is_stopped": False}), record, config)
        if not record.queue_number:
            self._submitter.enqueue(record)

    async def _store(self, change: JobChange, record: Record, config: FineTuneConfig | None) -> None:
        """Store what changes about a job, with its new config where there is one.

        Raises:
            LedgerError: It could not be stored; the record is what it was.
        """
        if config is not None:
            asked = await self._first_asked(record)
            change = attrs.evolve(change, columns={**change.columns, "config": config, "asked_digest": asked})
        state = change.columns.get("state", record.state)
        if not await self._writer.change(change, news=news_of_move(record, state)):
            message = f"job {change.job_id!r} is held by another process by now; ask again"
            raise LeaseLostError(message, job_ids=[change.job_id], job_id=change.job_id)
        if config is not None:
            record.config = config

    async def _first_asked(self, record: Record) -> str:
        """Return what a job's key stands for, which its config tells no more once it is another one."""
        row = await self._ledger.get(record.job_id)
        return row.first_asked if row is not None else ""

    async def _attempts(self, record: Record) -> Sequence[AttemptRow]:
        return await self._ledger.attempts(job_ids=[record.job_id])

    def _change(self, record: Record, number: int, tasks: Iterable[TaskRow]) -> JobChange:
        return JobChange(
            job_id=record.job_id,
            columns={
                "state": JobState.PLANNED,
                "tries": number,
                "task_id": None,
                "submitted_at": None,
                "ended_at": None,
                **columns_of_error(None),
                "reason": "",
                "is_stopped": False,
            },
            tasks=[_ended(task, record) for task in tasks if task.ended_at is None],
        )


def may_be_sent(record: Record) -> bool:
    """Whether a job can be sent (again) at all."""
    return record.kept_config is not None and _is_sendable(record.state)


def _is_sendable(state: JobState) -> bool:
    return STAGES[state] is Stage.SUBMIT or may(state, Signal.TRY_AGAIN)


def check_may_be_sent(record: Record) -> None:
    """Raise UsageError where a job cannot be sent (again)."""
    if record.config is None:
        raise UsageError(f"{record!r}: {UNKNOWN_CONFIG}", job_id=record.job_id)
    if not may_be_sent(record):
        message = f"{record!r} runs or has a model; submit its config as a new job if you want another"
        raise UsageError(message, job_id=record.job_id)


def check_are_tried_together(states: Iterable[JobState]) -> None:
    """Raise UsageError where the jobs of a state cannot be sent again all together."""
    wrong = [state for state in states if state not in TRIED_BY_STATE]
    if JobState.UNCONFIRMED in wrong:
        raise UsageError(
            "jobs that are unconfirmed may be paid for already, so they are sent again one by one: look for their "
            "tasks with session.reconcile(), and name those that are to be sent again",
            field="states",
        )
    if wrong:
        able = ", ".join(sorted(TRIED_BY_STATE))
        raise UsageError(f"jobs that are {wrong[0]} cannot be sent again; these can: {able}", field="states")


def lengthened(record: Record, timeout: int | None, submitter: Submitter | None = None) -> FineTuneConfig | None:
    """Return a job's config with a longer timeout, or None where it stays as it is.

    Args:
        record: The job, which has a config.
        timeout: Seconds for one round; None leaves what is there.
        submitter: Knows whose create can only be repeated as it was; None where that is no matter yet.

    Raises:
        ConfigError: No config can have such a timeout.
        UsageError: It is shorter than before, or the job is or will be sent with what it has.
    """
    known = record.config
    assert known is not None
    if timeout is None or timeout == known.timeout:
        return None
    config = known.evolve(timeout=timeout)
    facts = {"field": "timeout", "job_id": record.job_id}
    if timeout < known.timeout:
        # Shorter ones end a training in the middle that was asked for whole.
        message = f"the timeout of {record!r} is {known.timeout} s and may only be raised, not to {timeout} s"
        raise UsageError(message, **facts)
    if submitter is not None and submitter.is_fixed(record):
        raise UsageError(f"{record!r} can only be sent as it was before: a create of it has no known outcome", **facts)
    return config


def _longer(record: Record, timeout: int | None) -> int | None:
    """Return a timeout that another session wishes, or None where the job has that much by now."""
    config = record.config
    return timeout if timeout is not None and config is not None and timeout > config.timeout else None


def _ended(task: TaskRow, record: Record) -> TaskRow:
    """Return a task with the end that its job has come to."""
    return attrs.evolve(task, ended_at=record.ended_at, end=str(record.state), reason=record.reason)


def _has_made_a_task(record: Record, attempts: Iterable[AttemptRow]) -> bool:
    return record.task_id is not None or any(
        attempt.try_number == record.tries and attempt.outcome in _MADE_A_TASK for attempt in attempts
    )
