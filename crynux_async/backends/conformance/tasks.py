"""Checks of how tasks are looked at and how their results are handed out."""

import attrs

from crynux_async.backends.base import Seen, Stepped
from crynux_async.backends.conformance.stage import (
    CONFIG,
    BackendCheck,
    Stage,
    created,
    error_of,
    followed,
    read,
    version_of,
)
from crynux_async.errors import NotFoundError, RangeError, UnreachableError


async def new_task_is_running(stage: Stage) -> None:
    """A task that was just accepted has not ended."""
    look = await stage.backend.look(await created(stage))
    assert look.seen is Seen.RUNNING, f"a new task is seen as {look.seen}"


async def looking_changes_nothing(stage: Stage) -> None:
    """Any number of onlookers may look: only the owner acts."""
    task = await created(stage)
    looks = [await stage.backend.look(task) for _ in range(3)]
    assert len({look.seen for look in looks}) == 1, f"three looks in a row saw {[look.seen for look in looks]}"
    assert stage.tasks_made() == 1, "looking made a task"


async def task_that_succeeds_is_seen(stage: Stage) -> None:
    """The end of a good task is told."""
    _, look = await followed(stage, await created(stage))
    assert look.seen is Seen.SUCCEEDED, f"a task that succeeded is seen as {look.seen}"


async def task_that_fails_is_seen(stage: Stage) -> None:
    """The end of a bad task is told."""
    _, look = await followed(stage, await created(stage), fails=True)
    assert look.seen is Seen.FAILED, f"a task that failed is seen as {look.seen}"


async def unknown_task_is_not_found(stage: Stage) -> None:
    """A task that does not exist is told from one that cannot be asked about."""
    task = attrs.evolve(await created(stage), task_id=stage.missing_task_id())
    await error_of(NotFoundError, stage.backend.look(task))
    await error_of(NotFoundError, read(stage, task))


async def wish_to_look_again_is_a_time(stage: Stage) -> None:
    """Polling honours the wish, so it must be one, and what is told of phases must be what it learns from."""
    look = await stage.backend.look(await created(stage))
    assert look.again_after is None or look.again_after > 0, f"asked to look again after {look.again_after!r} s"
    assert not look.phases or look.again_after is not None, "phases are told beside a wish alone"
    assert len({phase.name for phase in look.phases}) == len(look.phases), "each phase has a name of its own"
    wrong = [phase for phase in look.phases if not (phase.late > 0 and phase.age >= 0 and (phase.within or 1) > 0)]
    assert not wrong, f"phases whose numbers are out of range: {wrong}"


async def result_of_an_unfinished_task_is_not_found(stage: Stage) -> None:
    """There is nothing to fetch before the end."""
    await error_of(NotFoundError, read(stage, await created(stage)))


async def result_comes_whole_and_in_parts(stage: Stage) -> None:
    """A transfer that was cut goes on where it was cut, and gives the same bytes."""
    task, _ = await followed(stage, await created(stage))
    start, whole = await read(stage, task)
    version = await version_of(stage, task)
    assert start == 0, f"the whole result was asked for, and byte {start} came first"
    assert version.total_bytes in (None, len(whole)), f"{version.total_bytes} bytes announced, {len(whole)} came"
    middle = len(whole) // 2
    start, rest = await read(stage, task, start=middle, validator=version)
    assert start in (0, middle), f"byte {middle} was asked for, and byte {start} came first"
    assert rest == whole[start:], "a part of the result differs from the whole"


async def result_past_its_end_is_a_range_error(stage: Stage) -> None:
    """A part file that is longer than the result must be told from a result that is gone."""
    task, _ = await followed(stage, await created(stage))
    _, whole = await read(stage, task)
    version = await version_of(stage, task)
    error = await error_of(RangeError, read(stage, task, start=len(whole) + 1, validator=version))
    assert error.total_bytes in (None, len(whole)), f"the result has {len(whole)} bytes, not {error.total_bytes}"


async def next_action_decides_from_what_is_stored_and_seen_alone(stage: Stage) -> None:
    """The owner of a job may change between any two steps."""
    backend = stage.backend
    if not isinstance(backend, Stepped):
        return
    task = await created(stage)
    look = await backend.look(task)
    assert backend.next_action(task, look) == backend.next_action(task, look), "the same rows gave two actions"


async def service_that_is_away_is_unreachable(stage: Stage) -> None:
    """Looking at a service that is away is told from looking at a task that is gone."""
    task = await created(stage)
    await stage.disappear()
    await error_of(UnreachableError, stage.backend.look(task))


async def deadline_is_later_than_the_time_out(stage: Stage) -> None:
    """A task that still trains must not be called stalled."""
    seconds = stage.backend.stall_after(CONFIG)
    assert seconds > CONFIG.timeout, f"a task may train {CONFIG.timeout} s and is overdue after {seconds} s"


TASK_CHECKS: tuple[BackendCheck, ...] = (
    new_task_is_running,
    looking_changes_nothing,
    task_that_succeeds_is_seen,
    task_that_fails_is_seen,
    unknown_task_is_not_found,
    wish_to_look_again_is_a_time,
    result_of_an_unfinished_task_is_not_found,
    result_comes_whole_and_in_parts,
    result_past_its_end_is_a_range_error,
    next_action_decides_from_what_is_stored_and_seen_alone,
    service_that_is_away_is_unreachable,
    deadline_is_later_than_the_time_out,
)
