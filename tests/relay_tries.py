"""Tries at an emulated relay, driven without a supervisor, for tests of the relay backend alone."""

import asyncio
from collections.abc import Callable

from crynux_async.backends.base import Action, Look, Order, Seen, Task
from crynux_async.backends.conformance.stage import with_action
from crynux_async.backends.relay.backend import RelayBackend
from crynux_async.emulator.relay import RelayEmulator
from crynux_async.settings import Settings
from tests.relay_lab import CREATOR
from tests.relay_sessions import MONEY, make_config

Until = Callable[[Look, Action | None], object]

ORDER = Order(job_id="j" + "0" * 32, try_number=1, config=make_config())


def relay_backend(relay: RelayEmulator) -> RelayBackend:
    """Return a backend of the tests' wallet; the caller closes it."""
    return RelayBackend(Settings(base_url=relay.url, trust_env=False), CREATOR)


async def created(backend: RelayBackend, order: Order = ORDER) -> Task:
    payload = backend.intend(order)
    made = await backend.create(payload)
    return Task(
        task_id=made.task_id, job_id=order.job_id, try_number=order.try_number, config=order.config, payload=payload
    )


async def driven(backend: RelayBackend, task: Task, *, until: Until | None = None) -> tuple[Task, Look]:
    """Look at a try and do what it needs, as a supervisor does, until it ends or ``until`` holds."""
    for _ in range(2000):
        look = await backend.look(task)
        action = backend.next_action(task, look) if look.seen is Seen.RUNNING else None
        if look.seen is not Seen.RUNNING or (until is not None and until(look, action)):
            return task, look
        if action is not None:
            task = with_action(task, action, await backend.act(task, action))
        assert look.again_after is not None
        await asyncio.sleep(look.again_after)
    raise AssertionError("the try does not end")


def wants(kind: str) -> Until:
    return lambda _, action: action is not None and action.kind == kind


def spent(relay: RelayEmulator) -> int:
    return MONEY - relay.balance(CREATOR.address)
