"""Trying again: a job gets another try, or goes on with the one that it has, because its user says so."""

from collections.abc import Iterable, Sequence

import attrs

from crynux_async.errors import LeaseLostError, UsageError
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, JobChange, Ledger, TaskRow, WishRow
from crynux_async.states import STAGES, JobState, Signal, Stage, may
from crynux_async.supervision.ledger_writer import LedgerWriter
from crynux_async.supervision.record import Record
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.submitter import Submitter
from crynux_async.supervision.take_over import TakeOver

SEND = "send"
"""The kind of a wish: send a job again, where it is still as the wisher saw it."""

STOP = "stop"
"""The kind of a wish: leave a job unsent."""

_MADE_A_TASK = (None, AttemptOutcome.UNKNOWN, AttemptOutcome.ACCEPTED)


class Tries:
    """Sends jobs again.

    A job of another session is taken where it is free; where it is not, its owner is asked to send it.

    Args:
        ledger: Has the attempts.
        register: Learns that a job is tried again.
        writer: Makes a new try durable before it is sent.
        submitter: Sends it.
        take_over: Takes jobs that nobody holds.
    """

    def __init__(
        self, ledger: Ledger, register: JobRegister, *, writer: LedgerWriter, submitter: Submitter, take_over: TakeOver
    ) -> None:
        self._ledger = ledger
        self._register = register
        self._writer = writer
        self._submitter = submitter
        self._take_over = take_over

    async def send(self, record: Record) -> None:
        """Queue a planned job; give one that has ended another try and queue it. Returns when that is durable.

        Raises:
            UsageError: The job runs or has a model, its config is not known, or a create of it is under way.
            LedgerError: It could not be stored; nothing is sent.
        """
        check_may_be_sent(record)
        if not record.is_ours and not await self._take_over.take(record):
            await self._writer.wish(record.job_id, SEND, state=str(record.state), try_number=record.tries)
            return
        seen = record.state, record.tries
        async with self._writer.settled():
            # What was sent meanwhile, by the queue or another caller, is not sent again, however it went.
            if STAGES[record.state] is Stage.SUBMIT or seen == (record.state, record.tries):
                await self._send(record)

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

    async def grant(self, record: Record, wish: WishRow) -> None:
        """Send a job because another session wishes it, unless more has happened than the wisher had seen.

        Raises:
            LedgerError: It could not be stored; the wish stays.
        """
        seen = wish.arguments.get("state"), wish.arguments.get("try_number")
        # A wish that was heard late must not send what its wisher has seen sent meanwhile.
        if seen == (str(record.state), record.tries) and may_be_sent(record):
            async with self._writer.settled():
                if seen == (str(record.state), record.tries):
                    await self._send(record)
        await self._writer.change(JobChange(job_id=record.job_id, granted=(wish.number,)))

    async def grant_stop(self, record: Record, wish: WishRow) -> None:
        """Leave a job unsent because another session wishes it.

        Raises:
            LedgerError: It could not be stored; the wish stays.
        """
        if STAGES[record.state] is Stage.SUBMIT and not self._submitter.is_under_way(record):
            await self._stop(record)
        await self._writer.change(JobChange(job_id=record.job_id, granted=(wish.number,)))

    async def _stop(self, record: Record) -> None:
        self._submitter.set_aside(record, UsageError("sending it was stopped; job.retry() sends it"))
        await self._writer.change(JobChange(job_id=record.job_id, columns={"is_stopped": True}))

    async def _send(self, record: Record) -> None:
        if STAGES[record.state] is Stage.SUBMIT:
            if not record.queue_number:
                await self._store(JobChange(job_id=record.job_id, columns={"is_stopped": False}))
                self._submitter.enqueue(record)
            return
        if self._submitter.is_under_way(record):
            raise UsageError(f"a create of {record!r} is under way; wait for its answer", job_id=record.job_id)
        attempts = await self._attempts(record)
        # Of a job that ended before this session took it, the register has never seen the creates.
        record.attempts = max((record.attempts, *(attempt.number for attempt in attempts)))
        # A try that certainly made no task goes on; else a service that knows creates by job and try would see an old
        # one.
        number = record.tries + _has_made_a_task(record, attempts)
        # Durable before it is queued: a crash between the two must not leave a try that no process knows.
        await self._store(self._change(record, number, await self._ledger.tasks([record.job_id])))
        self._register.try_again(record, number)
        self._submitter.enqueue(record)

    async def _store(self, change: JobChange) -> None:
        if not await self._writer.change(change):
            message = f"job {change.job_id!r} is held by another process by now; ask again"
            raise LeaseLostError(message, job_ids=[change.job_id], job_id=change.job_id)

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
                "error": "",
                "reason": "",
                "is_stopped": False,
            },
            tasks=[_ended(task, record) for task in tasks if task.ended_at is None],
        )


def may_be_sent(record: Record) -> bool:
    """Whether a job can be sent (again) at all."""
    return record.config is not None and (STAGES[record.state] is Stage.SUBMIT or may(record.state, Signal.TRY_AGAIN))


def check_may_be_sent(record: Record) -> None:
    """Raise UsageError where a job cannot be sent (again)."""
    if record.config is None:
        message = "the config of an attached task is not known, so it cannot be sent again"
        raise UsageError(message, job_id=record.job_id)
    if not may_be_sent(record):
        message = f"{record!r} runs or has a model; submit its config as a new job if you want another"
        raise UsageError(message, job_id=record.job_id)


def _ended(task: TaskRow, record: Record) -> TaskRow:
    """Return a task with the end that its job has come to."""
    return attrs.evolve(task, ended_at=record.ended_at, end=str(record.state), reason=record.reason)


def _has_made_a_task(record: Record, attempts: Iterable[AttemptRow]) -> bool:
    return record.task_id is not None or any(
        attempt.try_number == record.tries and attempt.outcome in _MADE_A_TASK for attempt in attempts
    )
