"""Tasks as a backend is shown them: made from what the ledger has of a job's steps, where the service needs any."""

from typing import TYPE_CHECKING

import attrs

from crynux_async.backends.base import Backend, Stepped, Task
from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import Ledger
from crynux_async.supervision.record import Record

if TYPE_CHECKING:
    from crynux_async.backends.base import Action
    from crynux_async.ledgers.base import StepRow

_NEWEST = 1000  # events that are read


class TaskViews:
    """What a backend is shown of each job's newest task.

    A backend without steps is shown what the record says, and nothing is kept. For one with steps the payload and the
    steps are read once for each try, when its task is first looked at.

    Args:
        backend: The service.
        ledger: Has the steps, payloads and events.
    """

    def __init__(self, backend: Backend, ledger: Ledger) -> None:
        self._backend = backend
        self._ledger = ledger
        self._has_steps = isinstance(backend, Stepped)
        self._tasks: dict[str, Task] = {}

    def known(self, record: Record) -> Task | None:
        """Return a job's task, or None where it must be recalled first."""
        # A hundred thousand tasks of a bridge would be 30 MB, and say nothing that the record does not say.
        if not self._has_steps:
            return _plain(record)
        task = self._tasks.get(record.job_id)
        return task if task is not None and task.task_id == record.task_id else None

    async def recall(self, record: Record) -> Task:
        """Return a job's task with everything that is stored about it.

        Raises:
            LedgerError: It cannot be read.
        """
        task = self.known(record)
        if task is None:
            steps = await self._ledger.steps([record.job_id])
            attempts = await self._ledger.attempts(job_ids=[record.job_id])
            # An earlier try's payload names another task.
            payloads = [row.payload for row in attempts if row.try_number == record.tries]
            actions = tuple(action_of(row) for row in steps if row.try_number == record.tries)
            task = attrs.evolve(_plain(record), payload=payloads[-1] if payloads else "", actions=actions)
            # Of another's job it is read anew each time: steps that its owner does meanwhile must not be missing when
            # it is taken over, or they would be decided and done again.
            if record.is_ours:
                self._tasks[record.job_id] = task
        return task

    async def enter(self, record: Record, action: "Action") -> Task:
        """Enter a step that was stored, and return the task with it and with everything else that is stored.

        Raises:
            LedgerError: It cannot be read.
        """
        # Never begun anew from the record: a job that was lost and claimed again meanwhile was forgotten here, and a
        # backend that is shown a task without its payload and earlier steps would do them a second time.
        task = await self.recall(record)
        others = [other for other in task.actions if (other.member, other.kind) != (action.member, action.kind)]
        task = self._tasks[record.job_id] = attrs.evolve(task, actions=(*others, action))
        return task

    async def told(self, record: Record) -> tuple[str, bool]:
        """Return the last stage that the events of a job's task tell of, or "", and whether they tell of images.

        Raises:
            LedgerError: They cannot be read.
        """
        from crynux_async.events import ImagesReady, JobProgressed
        from crynux_async.supervision.event_rows import event_of

        rows = await self._ledger.events(record.job_id, after=max(0, record.last_event - _NEWEST))
        events = [event for event in map(event_of, rows) if event.task_id == record.task_id]
        stages = [event.stage for event in events if isinstance(event, JobProgressed)]
        return stages[-1] if stages else "", any(isinstance(event, ImagesReady) for event in events)

    def forget(self, record: Record) -> None:
        """Forget a job whose task has ended."""
        self._tasks.pop(record.job_id, None)


def action_of(row: "StepRow") -> "Action":
    """Return a step as the backend is shown it."""
    from crynux_async.backends.base import Action

    return Action(
        kind=row.kind,
        member=row.member,
        arguments=row.arguments,
        fee=row.fee,
        done_at=row.done_at,
        outcome=row.outcome,
    )


def _plain(record: Record) -> Task:
    if record.task_id is None:
        message = f"the ledger has no task of {record!r}, which must have one: it is damaged, or was changed by hand"
        raise LedgerError(message, job_id=record.job_id)
    return Task(
        task_id=record.task_id,
        job_id=record.job_id,
        try_number=record.tries,
        config=record.kept_config,
        made_at=record.submitted_at,
    )
