"""What some services can do besides training: cancel tasks, show images. Where they cannot, that is said in words."""

from collections.abc import Callable

from crynux_async.backends.base import Backend, Cancels, HasImages, Look, Seen, Task
from crynux_async.errors import BackendError, JobAbandonedError, UsageError
from crynux_async.states import FOLLOWED, STAGES, JobState, Signal, Stage
from crynux_async.supervision.accounts import CANCELLED, Accounts
from crynux_async.supervision.follower import Follower
from crynux_async.supervision.record import Record
from crynux_async.supervision.submitter import Submitter
from crynux_async.supervision.tasks import TaskViews

_UNSENT = "it was not sent, so nothing is paid"


class Abilities:
    """Cancels jobs and fetches their images, where the service can.

    Args:
        backend: The service.
        tasks: Shows tasks to it.
        accounts: Knows what a cancelled task did cost.
        submitter: Has the jobs that were not sent yet.
        follower: Lets jobs learn that their task has ended.
        check_open: Raises when nothing will change any more.
    """

    def __init__(
        self,
        backend: Backend,
        tasks: TaskViews,
        accounts: Accounts,
        *,
        submitter: Submitter,
        follower: Follower,
        check_open: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._tasks = tasks
        self._accounts = accounts
        self._submitter = submitter
        self._follower = follower
        self._check_open = check_open

    async def cancel(self, record: Record) -> str:
        """Cancel a job of this session, and return what that means for the money, for people.

        Raises:
            UsageError: The service cannot cancel tasks, or the job has none that runs.
            BackendError: The task cannot be cancelled (any more).
        """
        # What was sent may be paid for already: only the answer says what there is to cancel.
        await record.until(lambda: not self._submitter.awaits_answer(record), self._check_open)
        if self._submitter.withdraw(record, JobAbandonedError(f"{CANCELLED}: {_UNSENT}", reason=CANCELLED)):
            return _UNSENT
        backend = self._canceller(record)
        task = await self._tasks.recall(record)
        said = await backend.cancel(task)
        look = await self._look(task)
        self._follower.ended(record, Signal.SAID_CANCELLED, await self._accounts.end(task, look))
        return said

    def check_can_cancel(self, record: Record) -> None:
        """Raise UsageError where a job certainly cannot be cancelled, whoever holds it."""
        if STAGES[record.state] is not Stage.SUBMIT:
            self._canceller(record)

    async def images(self, record: Record) -> list[bytes]:
        """Return the validation images of a job's task as PNG files, in order.

        Raises:
            UsageError: The service hands out none, or the job has no task.
            BackendError: They could not be had.
        """
        if not isinstance(self._backend, HasImages):
            raise UsageError(f"{self._backend.name} hands out no validation images", job_id=record.job_id)
        if record.task_id is None:
            raise UsageError(f"{record!r} has no task, so there are no images of it", job_id=record.job_id)
        return list(await self._backend.images(await self._tasks.recall(record)))

    def _canceller(self, record: Record) -> Cancels:
        """Return who can cancel a job.

        Raises:
            UsageError: Nobody, and why not.
        """
        facts = {"job_id": record.job_id, "task_id": record.task_id}
        if record.state is JobState.UNCONFIRMED or self._submitter.is_fixed(record):
            # At the stage of sending, the same create is sent again, and makes no second task.
            found = "retry() asks" if STAGES[record.state] is Stage.SUBMIT else "reconcile() looks"
            message = f"whether {record!r} has a task is not known; {found} for it, and then it can be cancelled"
            raise UsageError(message, **facts)
        if record.state not in FOLLOWED:
            raise UsageError(f"{record!r} has no task that runs, so there is nothing to cancel", **facts)
        if not isinstance(self._backend, Cancels):
            raise UsageError(
                f"{self._backend.name} cannot cancel tasks; abandon() stops following it, and the task goes on and is "
                "paid for",
                **facts,
            )
        return self._backend

    async def _look(self, task: Task) -> Look:
        """Look once at a task that was cancelled: what it did cost stands there."""
        try:
            look = await self._backend.look(task)
        except BackendError:
            return Look(seen=Seen.CANCELLED)
        return look if look.seen is Seen.CANCELLED else Look(seen=Seen.CANCELLED)
