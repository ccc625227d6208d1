"""What tasks need beyond their create: each step is a row before it is done, and is done in a slot of its own.

``Stepped.next_action`` decides from what is stored and seen; nothing here knows what a step is. A step that did not
succeed is decided anew at the next look, so that how often it was tried is never a variable that a crash forgets. A
session that loses a job in the middle of a step finishes that one and begins no other.
"""

import asyncio
import logging
from collections import Counter

import attrs

from crynux_async.backends.base import Action, Backend, Look, Stepped, Task
from crynux_async.errors import BackendError, LeaseLostError, LedgerError
from crynux_async.ledgers.base import JobChange, StepRow
from crynux_async.states import FOLLOWED
from crynux_async.supervision.ledger_writer import LedgerWriter
from crynux_async.supervision.record import Record
from crynux_async.supervision.submitter import Spawn
from crynux_async.supervision.tasks import TaskViews, action_of

_log = logging.getLogger("crynux_async.supervision.stepper")

_AT_ONCE = 4


class Stepper:
    """Does what tasks need next, at most one thing at a time for each job.

    Args:
        backend: The service.
        tasks: Shows tasks to it.
        writer: Stores steps under the session's fence.
        spawn: Starts a task.
    """

    def __init__(self, backend: Backend, tasks: TaskViews, writer: LedgerWriter, spawn: Spawn) -> None:
        self._backend = backend if isinstance(backend, Stepped) else None
        self._tasks = tasks
        self._writer = writer
        self._spawn = spawn
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._busy: set[str] = set()
        self._failures: Counter[tuple[str, str]] = Counter()

    def looked(self, record: Record, task: Task, look: Look) -> None:
        """Begin what a task needs next, unless something is being done for it already."""
        if self._backend is None or record.job_id in self._busy:
            return
        action = self._backend.next_action(task, look)
        if action is not None:
            self._busy.add(record.job_id)
            self._spawn(self._step(record, action))

    async def _step(self, record: Record, action: Action) -> None:
        """Store an action, do it, and store what became of it. Whatever goes wrong concerns this job alone."""
        try:
            async with self._slots:
                if record.is_ours and record.state in FOLLOWED:
                    await self._do(record, action)
        except LeaseLostError as error:
            _log.info("%s of task %s is left to another process: %s", action.kind, record.task_id, error)
        except (BackendError, LedgerError) as error:
            self._failed(record, action, error)
        except Exception as error:
            _log.exception("%s of task %s", action.kind, record.task_id)
            self._failed(record, action, error)
        else:
            self._failures.pop((record.job_id, action.kind), None)
        finally:
            self._busy.discard(record.job_id)

    def _failed(self, record: Record, action: Action, error: Exception) -> None:
        """Say that a step failed: once in a warning, and then quietly, for it is done again after every look."""
        key = (record.job_id, action.kind)
        self._failures[key] += 1
        level = logging.WARNING if self._failures[key] == 1 else logging.INFO
        message = "%s of task %s failed %d times: %s; it is done again after the next look"
        _log.log(level, message, action.kind, record.task_id, self._failures[key], error)

    async def _do(self, record: Record, action: Action) -> None:
        assert self._backend is not None
        stored = await self._writer.plan_step(self._row(record, action))
        task = self._tasks.enter(record, action_of(stored))
        outcome = await self._backend.act(task, action_of(stored))
        done = attrs.evolve(stored, done_at=self._writer.date(stored.planned_at), outcome=outcome)
        await self._writer.change(JobChange(job_id=record.job_id, steps=(done,)))
        self._tasks.enter(record, action_of(done))

    def _row(self, record: Record, action: Action) -> StepRow:
        return StepRow(
            job_id=record.job_id,
            try_number=record.tries,
            member=action.member,
            kind=action.kind,
            arguments=action.arguments,
            fee=action.fee,
            planned_at=self._writer.date(record.planned_at),
        )
