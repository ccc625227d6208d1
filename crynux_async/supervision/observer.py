"""The one seam for whoever watches a session from the inside, such as telemetry.

A listener is told every event of the session's own jobs as it happens, and what is done for them on the way: creates,
requests for results, ends of tasks. It is called where that is done, in the same task, so that what it puts into the
context of the task is there for everything below. Where nobody listens none of it is made, nor is this module loaded:
the doors are the bare ones.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from crynux_async.backends.base import ResultStream, Task
from crynux_async.clock import utc_now
from crynux_async.events import Event
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow
from crynux_async.supervision.accounts import Accounts
from crynux_async.supervision.create import Answer
from crynux_async.supervision.doors import Doors
from crynux_async.supervision.record import Record
from crynux_async.supervision.rows import TaskEnd
from crynux_async.training.config import FineTuneConfig

if TYPE_CHECKING:
    from crynux_async.session import Session

_log = logging.getLogger("crynux_async.supervision.observer")


@attrs.frozen(kw_only=True)
class CreateBegan(Event):
    """One create is about to be sent; its attempt is stored.

    Attributes:
        attempt: Its number among the creates of the job, >= 1.
        try_number: Of which try, >= 1.
    """

    attempt: int
    try_number: int


@attrs.frozen(kw_only=True)
class CreateAnswered(Event):
    """The create that began last for this job was answered, or never will be.

    Attributes:
        outcome: What became of it.
        error: Why, or None where it was accepted.
    """

    outcome: AttemptOutcome
    error: BaseException | None


@attrs.frozen(kw_only=True)
class TransferBegan(Event):
    """The service is asked for a result."""


@attrs.frozen(kw_only=True)
class TransferOpened(Event):
    """The service hands the result out; it is read now.

    Attributes:
        start: Offset in bytes of the first byte that comes, >= 0.
    """

    start: int


@attrs.frozen(kw_only=True)
class TransferEnded(Event):
    """The request for the result is over.

    Attributes:
        error: Why it ended before the result did, or None.
    """

    error: BaseException | None


@attrs.frozen(kw_only=True)
class TaskEnded(Event):
    """A task has ended.

    Attributes:
        spent: What it did cost, in wei, as far as the service tells; else what it may cost at most; None where neither
            is known.
        reason: Why it ended without a model as far as the service tells, or "".
    """

    spent: int | None
    reason: str


class Listener(Protocol):
    """Is told what one session does. Nothing that it raises reaches a job."""

    def opened(self) -> None:
        """Hear that the session opens, on the running event loop; nothing has happened yet."""

    def planned(self, job_id: str, config: FineTuneConfig) -> Mapping[str, str]:
        """Return tags to store with a job that is about to be planned; called where its user asks for it."""

    def happened(self, event: Event) -> None:
        """Hear of an event, or of one of the deeds in this module."""

    def closed(self) -> None:
        """Hear that nothing more will happen: the session is closed."""


class Observer(Protocol):
    """Watches sessions: ``Session(observer=...)``."""

    def watch(self, session: "Session") -> Listener:
        """Return who listens to a session that was made just now, and is not open yet."""


class Ear:
    """Tells a listener, and bears whatever it raises: no job may end because somebody watches it.

    Args:
        listener: The listener.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def begin(self) -> None:
        """Tell that the session opens."""
        self._tell(self._listener.opened)

    def planned(self, job_id: str, config: FineTuneConfig) -> Mapping[str, str]:
        """Return the tags that the listener wants to be stored with a job."""
        tags = self._tell(self._listener.planned, job_id, config)
        return {} if tags is None else tags

    def put(self, event: Event) -> None:
        """Tell an event."""
        self._tell(self._listener.happened, event)

    def end(self) -> None:
        """Tell that the session is closed."""
        self._tell(self._listener.closed)

    def listen_at(self, doors: Doors, accounts: Accounts) -> Doors:
        """Return doors at which the listener hears what goes through them."""
        return _listened_at(doors, accounts, self)

    def _tell(self, tell: Callable[..., Any], *arguments: object) -> Any:
        try:
            return tell(*arguments)
        except Exception:
            _log.exception("the session's observer failed at %s", arguments)
            return None


def _listened_at(bare: Doors, accounts: Accounts, ear: Ear) -> Doors:
    async def create(attempt: AttemptRow) -> Answer:
        ear.put(
            CreateBegan(
                job_id=attempt.job_id,
                task_id=None,
                at=utc_now(),
                attempt=attempt.number,
                try_number=attempt.try_number,
            )
        )
        answer = await bare.create(attempt)
        ear.put(
            CreateAnswered(
                job_id=attempt.job_id,
                task_id=answer.task_id,
                at=utc_now(),
                outcome=answer.outcome,
                error=answer.error,
            )
        )
        return answer

    @asynccontextmanager
    async def open_result(task: Task, **options: Any) -> AsyncIterator[ResultStream]:
        names: dict[str, Any] = {"job_id": task.job_id, "task_id": task.task_id}
        failure: BaseException | None = None
        ear.put(TransferBegan(**names, at=utc_now()))
        try:
            async with bare.open_result(task, **options) as stream:
                ear.put(TransferOpened(**names, at=utc_now(), start=stream.start))
                yield stream
        except BaseException as error:
            failure = error
            raise
        finally:
            ear.put(TransferEnded(**names, at=utc_now(), error=failure))

    def task_ended(record: Record, end: TaskEnd) -> None:
        spent = accounts.price_of(record) if end.spent is None else end.spent
        ear.put(TaskEnded(job_id=record.job_id, task_id=end.task_id, at=end.at, spent=spent, reason=end.reason))
        bare.task_ended(record, end)

    return Doors(create=create, open_result=open_result, task_ended=task_ended)
