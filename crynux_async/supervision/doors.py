"""Through which a session goes to its service: bare doors here, and where somebody listens, those of ``observer``."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import attrs

from crynux_async.backends.base import Backend, ResultStream, Task
from crynux_async.ledgers.base import AttemptRow
from crynux_async.supervision.create import Answer, post
from crynux_async.supervision.record import Record
from crynux_async.supervision.rows import TaskEnd
from crynux_async.values import Value


class OpenResult(Protocol):
    """Asks a backend for a result, as ``Backend.open_result``."""

    def __call__(self, task: Task, **options: Any) -> AbstractAsyncContextManager[ResultStream]:
        """Open the result of a task."""


@attrs.frozen(kw_only=True)
class Doors(Value):
    """Through which a session goes to its service.

    Attributes:
        create: Sends one create that is stored; never raises.
        open_result: Asks for a result.
        task_ended: Called with each job whose task has ended, and how, before the job learns it.
    """

    create: Callable[[AttemptRow], Awaitable[Answer]]
    open_result: OpenResult
    task_ended: Callable[[Record, TaskEnd], None]


def doors_of(backend: Backend, task_ended: Callable[[Record, TaskEnd], None]) -> Doors:
    """Return the bare doors to a backend."""

    def create(attempt: AttemptRow) -> Awaitable[Answer]:
        return post(backend, attempt.payload)

    def open_result(task: Task, **options: Any) -> AbstractAsyncContextManager[ResultStream]:
        return backend.open_result(task, **options)

    return Doors(create=create, open_result=open_result, task_ended=task_ended)
