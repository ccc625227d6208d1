"""Taking in jobs that have an idempotency key: the same key is the same job, whoever asks, from whichever process.

Theory of operation. The key is unique in the ledger, so that of any number who store a job under it at once one
succeeds, and all others get that job. What then happens is decided by its state alone: it is sent only where certainly
no task was ever made for it. So one intention is never two creates, whatever dies between any two steps: a job that
was stored and not sent is PLANNED, and is sent when its key is asked for again.

What is asked for while the ledger writes goes into the next write together, by a task that no caller's cancellation
reaches.
"""

import asyncio
import copy
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs

from crynux_async.errors import (
    ConflictError,
    CrynuxError,
    LeaseLostError,
    LedgerBusyError,
    LedgerError,
    SubmissionUnknownError,
    UsageError,
)
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

if TYPE_CHECKING:
    from crynux_async.events import JobQueued

_log = logging.getLogger("crynux_async.supervision.intake")

_TIMES = 3

_NEVER_SENT = frozenset({JobState.PLANNED, JobState.REJECTED})


@attrs.frozen(eq=False)
class _Ask:
    """What one caller asks for.

    Attributes:
        records: New jobs; where their keys have jobs already, those are meant.
        answer: The jobs that are meant; cancelled where the caller has gone.
    """

    records: Sequence[Record]
    answer: "asyncio.Future[list[Record]]"

    @property
    def place(self) -> tuple[str, str]:
        """Where it stands in a write: hosts that wrote the same keys in different orders would wait for each other."""
        return min((record.filing.tenant, record.idempotency_key or "") for record in self.records)

    def fulfil(self, found: list[Record]) -> None:
        """Tell the caller which jobs are meant, if there is one still."""
        if not self.answer.done():
            self.answer.set_result(found)

    def refuse(self, error: Exception) -> None:
        """Tell the caller why not. Each gets an exception of its own, because raising one changes it."""
        if not self.answer.done():
            self.answer.set_exception(copy.copy(error) if isinstance(error, CrynuxError) else error)


class Intake:
    """Stores jobs under their keys, or finds those that their keys have already.

    Args:
        register: Takes new jobs in.
        onlookers: Has the jobs of others.
        writer: Stores them.
        submitter: Withdraws what is not to be sent after all.
        tries: Sends them.
        spawn: Starts a task that outlives its caller.
    """

    def __init__(
        self,
        register: JobRegister,
        onlookers: Onlookers,
        *,
        writer: LedgerWriter,
        submitter: Submitter,
        tries: Tries,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._register = register
        self._onlookers = onlookers
        self._writer = writer
        self._submitter = submitter
        self._tries = tries
        self._spawn = spawn
        self._waiting: list[_Ask] = []
        self._takes_in = False
        self._storing: dict[str, Record] = {}

    async def ask(self, records: Sequence[Record]) -> list[Record]:
        """Return the jobs that the keys of new records stand for, in their order, when they are durable and queued.

        Raises:
            ConflictError: A key stands for something else already; none of the new jobs is sent.
            LedgerError: They could not be stored; none is sent.
            UsageError: The session is closed.
        """
        if not records:
            return []
        ask = _Ask(records, asyncio.get_running_loop().create_future())
        if len(records) > SLICE:
            self._spawn(self._take_in([ask]))  # or a caller with one job would wait for thousands to be encoded
        elif self._takes_in:
            self._waiting.append(ask)
        else:
            self._spawn(self._take_in_all())
            self._takes_in = True
            self._waiting.append(ask)
        return await ask.answer

    async def _take_in_all(self) -> None:
        """Take in what waits, until nothing does."""
        try:
            while self._waiting:
                asks, self._waiting = self._waiting, []
                await self._take_in(sorted(asks, key=lambda ask: ask.place))
        finally:
            self._takes_in = False
            left, self._waiting = self._waiting, []
            _refuse(left, _closed())

    async def _take_in(self, asks: Sequence[_Ask]) -> None:
        """Store what callers ask for, and see to it that each of them hears of it."""
        try:
            await self._take_in_together(asks)
        except Exception as error:
            _refuse(asks, error)
        except BaseException:
            _refuse(asks, _closed())
            raise

    async def _take_in_together(self, asks: Sequence[_Ask]) -> None:
        records = [record for ask in asks for record in ask.records]
        queued = {record.job_id: self._submitter.queued(record, ahead) for ahead, record in enumerate(records)}
        try:
            stored = iter(await self._store(records, queued))
        except LedgerError as error:
            if len(asks) == 1 or isinstance(error, LedgerBusyError):
                raise
            # One row may be at fault, and the write stored none of them: the others must not be refused with it.
            for ask in asks:
                await self._take_in([ask])
        else:
            for ask in asks:
                self._settle(ask, list(islice(stored, len(ask.records))), queued)

    async def _store(self, records: Sequence[Record], queued: "Mapping[str, JobQueued]") -> list[JobRow]:
        """Store new records with the events that tell of them, and return the rows that their keys stand for."""
        self._storing |= {record.job_id: record for record in records}
        try:
            stored = await self._writer.add(records, queued)
            # Whoever asks at once may read a row before the one who has stored it: there is one record of it all the
            # same, or the job would be queued twice.
            for row in stored:
                if row.job_id in self._storing:
                    self._enter(self._storing[row.job_id], row)
        finally:
            for record in records:
                del self._storing[record.job_id]
            if not self._storing:
                self._storing = {}  # or the table stays as large as for the largest sweep
        return stored

    def _enter(self, record: Record, row: JobRow) -> None:
        if not record.is_saved:
            record.is_saved = True
            self._register.add(record)
            self._writer.added(record, row)

    def _settle(self, ask: _Ask, rows: Sequence[JobRow], queued: "Mapping[str, JobQueued]") -> None:
        """Queue what was stored just now; what is more than that is done by a task of its own."""
        if len(rows) <= SLICE and all(map(_is_just_stored, ask.records, rows)):
            for record in ask.records:
                self._submitter.enqueue(record, queued[record.job_id])
            ask.fulfil(list(ask.records))
        else:
            self._spawn(self._find(ask, rows, queued))

    async def _find(self, ask: _Ask, rows: Sequence[JobRow], queued: "Mapping[str, JobQueued]") -> None:
        try:
            ask.fulfil(await self._found(ask.records, rows, queued))
        except Exception as error:
            ask.refuse(error)
        except BaseException:
            ask.refuse(_closed())
            raise

    async def _found(
        self, asked: Sequence[Record], rows: Sequence[JobRow], queued: "Mapping[str, JobQueued]"
    ) -> list[Record]:
        """Return the jobs that the keys of new records stand for, each of them queued where it is to be sent."""
        new = {record.job_id: record for record in asked}
        found = [new.get(row.job_id) or self._onlookers.enter(row) for row in rows]
        clash = await _first_conflict(asked, rows)
        if clash is not None:
            for row in rows:
                if row.job_id in new:
                    self._submitter.withdraw(new[row.job_id])
            raise clash
        for number, record in enumerate(dict.fromkeys(found), start=1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            if record.job_id in new and record.is_ours and record.state is JobState.PLANNED:
                # It was stored as one to be sent just now; to write that again would make a thousand callers wait for
                # one another.
                self._submitter.enqueue(record, queued[record.job_id])
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
    clash = conflict(new.idempotency_key, row.config, new.config, asked_digest=row.first_asked)
    if clash is not None:
        clash.job_id, clash.task_id = row.job_id, row.task_id
    return clash


def _is_just_stored(record: Record, row: JobRow) -> bool:
    return row.job_id == record.job_id and record.is_ours and record.state is JobState.PLANNED


def _refuse(asks: Iterable[_Ask], error: Exception) -> None:
    for ask in asks:
        ask.refuse(error)


def _closed() -> UsageError:
    return UsageError("the session was closed meanwhile; ask again in another session")
