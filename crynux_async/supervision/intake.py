"""Taking in jobs that have an idempotency key: the same key is the same job, whoever asks, from whichever process.

Theory of operation. The key is unique in the ledger, so that of any number who store a job under it at once one
succeeds, and all others get that job. What then happens is decided by its state alone: it is sent only where certainly
no task was ever made for it. So one intention is never two creates, whatever dies between any two steps: a job that
was stored and not sent is PLANNED, and is sent when its key is asked for again.
"""

import asyncio
import logging
from collections.abc import Sequence

from crynux_async.errors import ConflictError, LeaseLostError, SubmissionUnknownError
from crynux_async.ledgers.base import JobRow
from crynux_async.slices import SLICE, in_slices
from crynux_async.states import JobState
from crynux_async.supervision.filing import conflict
from crynux_async.supervision.ledger_writer import LedgerWriter
from crynux_async.supervision.onlookers import Onlookers
from crynux_async.supervision.record import Record
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.submitter import Submitter
from crynux_async.supervision.tries import Tries

_log = logging.getLogger("crynux_async.supervision.intake")

_TIMES = 3

_NEVER_SENT = frozenset({JobState.PLANNED, JobState.REJECTED})


class Intake:
    """Stores jobs under their keys, or finds those that their keys have already.

    Args:
        register: Takes new jobs in.
        onlookers: Has the jobs of others.
        writer: Stores them.
        submitter: Withdraws what is not to be sent after all.
        tries: Sends them.
    """

    def __init__(
        self,
        register: JobRegister,
        onlookers: Onlookers,
        *,
        writer: LedgerWriter,
        submitter: Submitter,
        tries: Tries,
    ) -> None:
        self._register = register
        self._onlookers = onlookers
        self._writer = writer
        self._submitter = submitter
        self._tries = tries
        self._storing: dict[str, Record] = {}

    async def ask(self, asked: Sequence[Record]) -> list[Record]:
        """Return the jobs that the keys of new records stand for, in their order, when they are durable and queued.

        Raises:
            ConflictError: A key stands for something else already; none of the new jobs is sent.
            LedgerError: They could not be stored; none is sent.
        """
        new = {record.job_id: record for record in asked}
        self._storing |= new
        try:
            stored = await self._writer.add(asked)
            # Whoever asks at once may read a row before the one who has stored it: there is one record of it all the
            # same, or the job would be queued twice.
            for row in stored:
                if row.job_id in self._storing:
                    self._enter(self._storing[row.job_id])
        finally:
            for job_id in new:
                del self._storing[job_id]
        found = [new.get(row.job_id) or self._onlookers.enter(row) for row in stored]
        clash = await _first_conflict(asked, stored)
        if clash is not None:
            for row in stored:
                if row.job_id in new:
                    self._submitter.withdraw(new[row.job_id])
            raise clash
        for number, record in enumerate(dict.fromkeys(found), start=1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            if record.job_id in new and record.is_ours and record.state is JobState.PLANNED:
                # It was stored as one to be sent just now; to write that again would make a thousand callers wait for
                # one another.
                self._submitter.enqueue(record)
            else:
                await self._send(record)
        return found

    async def _send(self, record: Record) -> None:
        """Have a job sent that is to be sent, by whoever holds it when that is stored."""
        for _ in range(_TIMES):
            try:
                if await self._is_to_be_sent(record):
                    await self._tries.send(record)
            except LeaseLostError as error:
                _log.info("asked again: %s", error)
                await self._onlookers.catch_up((record,))
            else:
                return
        raise LeaseLostError(
            f"job {record.job_id!r} goes from one process to the next; ask again",
            job_ids=[record.job_id],
            job_id=record.job_id,
        )

    def _enter(self, record: Record) -> None:
        if not record.is_saved:
            record.is_saved = True
            self._register.add(record)

    async def _is_to_be_sent(self, record: Record) -> bool:
        """Whether a job that was asked for is to be sent now: nothing was ever paid for it, and it waits for nobody."""
        if record.is_ours and record.queue_number:
            return False
        if record.state in _NEVER_SENT:
            return True
        return record.state is JobState.ABANDONED and not await self._tries.was_sent(record)


def unconfirmed(record: Record) -> SubmissionUnknownError:
    """Return what to tell whoever asks for a job whose create has an unknown outcome."""
    return SubmissionUnknownError(
        f"{record!r} was sent under this key and the outcome is not known, so it is not sent again by itself: "
        "session.reconcile() looks for its task, job.retry() sends it again (both may be paid for), job.abandon() "
        "gives it up",
        job_id=record.job_id,
        task_id=record.task_id,
    )


async def _first_conflict(asked: Sequence[Record], stored: Sequence[JobRow]) -> ConflictError | None:
    clashes = await in_slices(_conflict_of, list(zip(asked, stored, strict=True)))
    return next((clash for clash in clashes if clash is not None), None)


def _conflict_of(pair: tuple[Record, JobRow]) -> ConflictError | None:
    new, row = pair
    # What was stored just now is what was asked, and needs no digest.
    if row.job_id == new.job_id:
        return None
    clash = conflict(new.filing.idempotency_key, row.config, new.config, asked_digest=row.asked_digest)
    if clash is not None:
        clash.job_id, clash.task_id = row.job_id, row.task_id
    return clash
