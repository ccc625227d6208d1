"""Tasks that are known without a ledger: by the name that a create must have, and by a nonce."""

from collections.abc import AsyncIterator
from datetime import timedelta

import attrs
import pytest

from crynux_async.backends.base import LostCreate, Seen, Task, Verdict
from crynux_async.backends.relay.backend import RelayBackend
from crynux_async.clock import utc_now
from crynux_async.emulator.relay import RelayEmulator, Status
from tests.relay_lab import SELECTED_SEED
from tests.relay_sessions import relay_with_money
from tests.relay_tries import ORDER, created, driven, relay_backend, wants


@pytest.fixture
async def relay() -> AsyncIterator[RelayEmulator]:
    async with relay_with_money() as relay:
        yield relay


@pytest.fixture
async def backend(relay: RelayEmulator) -> AsyncIterator[RelayBackend]:
    backend = relay_backend(relay)
    yield backend
    await backend.close()


def lost(payload: str, *, seconds_ago: float = 600.0) -> LostCreate:
    began_at = utc_now() - timedelta(seconds=seconds_ago)
    return LostCreate(job_id=ORDER.job_id, payload=payload, began_at=began_at, before=(), after=(), is_closed=True)


async def verdict_on(backend: RelayBackend, create: LostCreate) -> tuple[Verdict, str | None]:
    (found,) = await backend.find_lost([create], known=frozenset(), at_most=50)
    return found.verdict, found.task_id


async def test_lost_create_whose_task_is_there_is_found(backend: RelayBackend) -> None:
    task = await created(backend)
    assert await verdict_on(backend, lost(task.payload)) == (Verdict.FOUND, task.task_id)


@pytest.mark.parametrize(("seconds", "expected"), [(10.0, Verdict.OPEN), (600.0, Verdict.NOT_CREATED)])
async def test_lost_create_without_a_task_may_be_under_way_for_some_minutes(
    backend: RelayBackend, seconds: float, expected: Verdict
) -> None:
    create = lost(backend.intend(ORDER), seconds_ago=seconds)
    assert await verdict_on(backend, create) == (expected, None)


async def test_task_that_is_not_what_was_sent_is_not_given_to_the_job(
    relay: RelayEmulator, backend: RelayBackend
) -> None:
    task = await created(backend)
    relay.tasks[task.task_id].timeout += 1
    assert await verdict_on(backend, lost(task.payload)) == (Verdict.AMBIGUOUS, None)


async def test_create_of_a_newer_version_stays_open(backend: RelayBackend) -> None:
    assert await verdict_on(backend, lost('{"version":2}')) == (Verdict.OPEN, None)


async def test_looking_takes_one_request_for_each_lost_create(relay: RelayEmulator, backend: RelayBackend) -> None:
    creates = [lost(backend.intend(attrs.evolve(ORDER, try_number=number))) for number in (1, 2, 3)]
    promised = backend.search_requests(creates, known=frozenset(), at_most=1)
    await backend.find_lost(creates, known=frozenset(), at_most=1)
    assert promised == sum("/inference_tasks/" in record.path for record in relay.requests) == 3


async def test_own_task_shows_what_it_trains(backend: RelayBackend) -> None:
    task = await created(backend)
    own = await backend.recognise(task.task_id)
    assert own is not None
    assert (own.task_id, own.stage, own.can_have_model) == (task.task_id, "queued", True)
    assert own.config == backend.effective(ORDER.config).config


async def test_each_member_of_a_group_stands_for_its_first(relay: RelayEmulator, backend: RelayBackend) -> None:
    relay.put_seed(SELECTED_SEED)
    task, _ = await driven(backend, await created(backend), until=wants("validate"))
    assert len(relay.tasks) == 3
    for member in relay.tasks:
        own = await backend.recognise(member)
        assert own is not None
        assert (own.task_id, own.stage, own.can_have_model) == (task.task_id, "scored", True)


async def test_group_that_has_ended_has_no_model_to_offer(relay: RelayEmulator, backend: RelayBackend) -> None:
    relay.put_seed(SELECTED_SEED)
    task, _ = await driven(backend, await created(backend), until=wants("create"))
    task, _ = await driven(backend, task, until=lambda _, action: action is not None and action.member == 3)
    assert Status.END_GROUP_SUCCESS in [member.status for member in relay.tasks.values()]
    own = await backend.recognise(task.task_id)
    assert own is not None
    assert (own.stage, own.can_have_model) == ("uploaded", False)


async def test_task_of_another_program_is_not_recognised(relay: RelayEmulator, backend: RelayBackend) -> None:
    task = await created(backend)
    relay.tasks[task.task_id].nonce = "0x" + "77" * 32
    assert await backend.recognise(task.task_id) is None


async def test_sibling_that_is_attached_says_which_task_it_checks(relay: RelayEmulator, backend: RelayBackend) -> None:
    relay.put_seed(SELECTED_SEED)
    first, _ = await driven(backend, await created(backend), until=wants("validate"))
    sibling = next(name for name in relay.tasks if name != first.task_id)
    look = await backend.look(Task(task_id=sibling, job_id="j" + "1" * 32))
    assert look.seen is Seen.FAILED
    assert f"it only checks the task {first.task_id}" in look.reason
    assert all(task.status is not Status.END_ABORTED for task in relay.tasks.values())


async def test_first_name_of_a_try_is_that_of_its_create(backend: RelayBackend) -> None:
    task = await created(backend)
    assert backend.first_task_id(ORDER.job_id, 1) == task.task_id
    assert backend.first_task_id(ORDER.job_id, 2) != task.task_id
