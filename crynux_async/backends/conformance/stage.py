"""What the conformance checks of backends are made of."""

from collections.abc import Awaitable
from typing import Protocol, TypeVar

import attrs

from crynux_async.backends.base import Action, Backend, Look, Order, ResultStream, Seen, Stepped, Task, Validator
from crynux_async.clock import utc_now
from crynux_async.errors import CrynuxError
from crynux_async.training.config import FineTuneConfig

_E = TypeVar("_E", bound=CrynuxError)

_MOST_LOOKS = 200

CONFIG = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5", dataset_name="a/b", max_train_steps=10, seed=1, timeout=600
)


class Stage(Protocol):
    """A backend, and a hand in the service behind it."""

    @property
    def backend(self) -> Backend:
        """The backend; the stage closes it."""

    async def succeed(self, task_id: str) -> None:
        """Let a task end well, or go on to its next step where it has several."""

    async def fail(self, task_id: str) -> None:
        """Let a task end badly, or the present one of several runs where a failure is repeated."""

    async def lose_next_answer(self) -> None:
        """Let the service do what the next create asks, and lose its answer."""

    async def refuse_next_create(self) -> None:
        """Let the service refuse the next create for good, without making anything."""

    async def disappear(self) -> None:
        """Let nothing listen where the service was."""

    def tasks_made(self) -> int:
        """Return how many tasks the service has ever made (and would bill)."""

    def missing_task_id(self) -> str:
        """Return a task id that is well formed and that the service does not know."""


class BackendCheck(Protocol):
    """One check; its name says what must hold."""

    __name__: str

    async def __call__(self, stage: Stage) -> None:
        """Run the check on a stage that nothing was done on yet."""


def order(job_id: str = "j0123456789abcdef0123456789abcdef", try_number: int = 1) -> Order:
    """Return an order for a small config."""
    return Order(job_id=job_id, try_number=try_number, config=CONFIG)


async def created(stage: Stage, what: Order | None = None) -> Task:
    """Create a task and return it as the supervisor would show it to the backend."""
    wanted = what or order()
    payload = stage.backend.intend(wanted)
    made = await stage.backend.create(payload)
    return Task(
        task_id=made.task_id,
        job_id=wanted.job_id,
        try_number=wanted.try_number,
        config=wanted.config,
        payload=payload,
        made_at=made.created_at,
    )


async def followed(stage: Stage, task: Task, *, fails: bool = False) -> tuple[Task, Look]:
    """Look at a task until it ends, doing what it needs, and return it with the last look.

    Args:
        stage: Where it runs.
        task: The task.
        fails: Whether it is to end badly.
    """
    for _ in range(_MOST_LOOKS):
        look = await stage.backend.look(task)
        if look.seen is not Seen.RUNNING:
            return task, look
        task = await _step(stage, task, look)
        await (stage.fail if fails else stage.succeed)(task.task_id)
    raise AssertionError(f"the task has not ended after {_MOST_LOOKS} looks")


async def _step(stage: Stage, task: Task, look: Look) -> Task:
    backend = stage.backend
    action = backend.next_action(task, look) if isinstance(backend, Stepped) else None
    if action is None or not isinstance(backend, Stepped):
        return task
    return with_action(task, action, await backend.act(task, action))


def with_action(task: Task, action: Action, outcome: str) -> Task:
    """Return a task with an action that was done, as the ledger would give it back."""
    done = attrs.evolve(action, outcome=outcome, done_at=utc_now())
    kept = [one for one in task.actions if (one.kind, one.member) != (action.kind, action.member)]
    return attrs.evolve(task, actions=(*kept, done))


async def read(stage: Stage, task: Task, *, start: int = 0, validator: Validator | None = None) -> tuple[int, bytes]:
    """Return where the result's body begins, and the body."""
    async with stage.backend.open_result(task, start=start, validator=validator) as stream:
        return stream.start, await _all_of(stream)


async def version_of(stage: Stage, task: Task) -> Validator:
    """Return the version of a result, without reading its body."""
    async with stage.backend.open_result(task) as stream:
        return stream.validator


async def _all_of(stream: ResultStream) -> bytes:
    return b"".join([piece async for piece in stream.chunks(1 << 16)])


async def error_of(kind: type[_E], awaited: Awaitable[object]) -> _E:
    """Return the error of this kind that an awaitable raises.

    Raises:
        AssertionError: It raises none.
    """
    try:
        result = await awaited
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected, and {result!r:.100} came")
