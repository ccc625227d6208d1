"""What tasks need beyond their create: each step is a row before it is done, and is done in a slot of its own.

``Stepped.next_action`` decides from what is stored and seen; nothing here knows what a step is. What one look asks for
is done one after another, each a row of its own. A step that did not succeed is decided anew at the next look, so that
how often it was tried is never a variable that a crash forgets. A session that loses a job in the middle of a step
finishes that one and begins no other.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Container
from typing import TYPE_CHECKING

import attrs

from crynux_async.backends.base import Backend, Look, Stepped, Task
from crynux_async.clock import utc_now
from crynux_async.errors import BackendError, LeaseLostError, LedgerError
from crynux_async.ledgers.base import JobChange
from crynux_async.states import FOLLOWED
from crynux_async.supervision.driving import Spawn
from crynux_async.supervision.ledger_writer import LedgerWriter
from crynux_async.supervision.record import Record
from crynux_async.supervision.tasks import TaskViews, action_of

if TYPE_CHECKING:
    from crynux_async.backends.base import Action
    from crynux_async.events import Event
    from crynux_async.ledgers.base import StepRow

_log = logging.getLogger("crynux_async.supervision.stepper")

_AT_ONCE = 4
_DECIDING = "the decision what is done next"


class Stepper:
    """Does what tasks need next, at most one thing at a time for each job.

    Args:
        backend: The service.
        tasks: Shows tasks to it.
        writer: Stores steps under the session's fence.
        spawn: Starts a task.
        tell: Called with each step that was taken and is stored.
    """

    def __init__(
        self,
        backend: Backend,
        tasks: TaskViews,
        writer: LedgerWriter,
        spawn: Spawn,
        *,
        tell: "Callable[[Event], None]",
    ) -> None:
        self._backend = backend if isinstance(backend, Stepped) else None
        self._tasks = tasks
        self._writer = writer
        self._spawn = spawn
        self._tell = tell
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._busy: set[str] = set()
        self._failures: dict[str, Counter[str]] = {}

    def looked(self, record: Record, task: Task, look: Look) -> None:
        """Begin what a task needs next, unless something is being done for it already."""
        # Looks go on while a step is being done; two steps of one task at once would race each other.
        if self._backend is None or record.job_id in self._busy:
            return
        try:
            action = self._backend.next_action(task, look)
        except Exception as error:
            self._failed(record, _DECIDING, error)
            return
        if action is not None:
            self._busy.add(record.job_id)
            self._spawn(self._steps(record, task, look, action))

    def forget(self, record: Record) -> None:
        """Forget what failed of a job whose task needs nothing more here."""
        self._failures.pop(record.job_id, None)

    async def _steps(self, record: Record, task: Task, look: Look, first: "Action") -> None:
        """Do what one look asks for: an action and those that go with it. What goes wrong concerns this job alone."""
        action: Action | None = first
        taken: set[tuple[str, int]] = set()
        try:
            async with self._slots:
                # What was decided for one task is not done to another: the job may be lost meanwhile, and tried anew.
                while action is not None and self._is_to_be_done(record, task):
                    taken.add((action.kind, action.member))
                    task = await self._do(record, task, action)
                    action = self._following(task, look, taken)
        except LeaseLostError as error:
            _log.info("%s of task %s is left to another process: %s", first.kind, record.task_id, error)
        except Exception as error:
            self._failed(record, first.kind if action is None else action.kind, error)
        else:
            self.forget(record)
        finally:
            self._busy.discard(record.job_id)

    def _failed(self, record: Record, what: str, error: Exception) -> None:
        """Say that a step failed: once in a warning, and then quietly, for it is done again after every look."""
        failures = self._failures.setdefault(record.job_id, Counter())
        failures[what] += 1
        is_first = failures[what] == 1
        is_bug = not isinstance(error, BackendError | LedgerError)
        _log.log(
            logging.WARNING if is_first else logging.INFO,
            "%s of task %s failed %d times: %r; it is done again after the next look",
            what,
            record.task_id,
            failures[what],
            error,
            exc_info=error if is_first and is_bug else None,
        )

    @staticmethod
    def _is_to_be_done(record: Record, task: Task) -> bool:
        return record.is_ours and record.state in FOLLOWED and record.task_id == task.task_id

    def _following(self, task: Task, look: Look, taken: Container[tuple[str, int]]) -> "Action | None":
        """Return what the same look asks for besides what was done: both siblings of a selected task, at once.

        Each waited for a look of its own once, and a second of a training that has one deadline for everything is gone
        with each.
        """
        assert self._backend is not None
        action = self._backend.next_action(task, look)
        return None if action is None or (action.kind, action.member) in taken else action

    async def _do(self, record: Record, task: Task, action: "Action") -> Task:
        """Store an action, do it, and store what became of it; return the task with it."""
        from crynux_async.events import StepTaken

        assert self._backend is not None
        # The row that is there wins: the arguments of a step that another process began are not decided again.
        stored = await self._writer.plan_step(self._row(record, action))
        task = await self._tasks.enter(record, action_of(stored))
        outcome = await self._backend.act(task, action_of(stored))
        done = attrs.evolve(stored, done_at=self._writer.date(stored.planned_at), outcome=outcome)
        # Of a job that was lost meanwhile nothing is kept here: its new owner looks for itself.
        taken = StepTaken(
            job_id=record.job_id,
            task_id=task.task_id,
            at=utc_now(),
            step=action.kind,
            member=action.member,
            outcome=outcome,
        )
        if await self._writer.change(JobChange(job_id=record.job_id, steps=(done,)), news=(taken,)):
            task = await self._tasks.enter(record, action_of(done))
            self._tell(taken)
        return task

    def _row(self, record: Record, action: "Action") -> "StepRow":
        from crynux_async.ledgers.base import StepRow

        return StepRow(
            job_id=record.job_id,
            try_number=record.tries,
            member=action.member,
            kind=action.kind,
            arguments=action.arguments,
            fee=action.fee,
            planned_at=self._writer.date(record.planned_at),
        )
