"""What the relay backend does to tasks, at an emulated relay: validates once, cancels what waits, knows its own."""

import asyncio
from collections.abc import AsyncIterator

import attrs
import pytest

from crynux_async.backends.base import Action, Seen, Task
from crynux_async.backends.relay.backend import RelayBackend
from crynux_async.emulator.relay import RelayEmulator, Status
from crynux_async.errors import BackendError, NotFoundError, OwnershipError, RejectedError, UsageError
from crynux_async.settings import Settings
from tests.relay_lab import CREATOR, FEE, SELECTED_SEED, STRANGER
from tests.relay_sessions import relay_with_money
from tests.relay_tries import ORDER, created, driven, relay_backend, spent, wants

VALIDATE = Action(kind="validate", member=0)


@pytest.fixture
async def relay() -> AsyncIterator[RelayEmulator]:
    async with relay_with_money() as relay:
        yield relay


@pytest.fixture
async def backend(relay: RelayEmulator) -> AsyncIterator[RelayBackend]:
    backend = relay_backend(relay)
    yield backend
    await backend.close()


async def until_scored(backend: RelayBackend) -> Task:
    task, _ = await driven(backend, await created(backend), until=wants("validate"))
    return task


@pytest.mark.parametrize("kind", ["drop_after_accept", "html_502", "broken_json"])
async def test_validation_whose_answer_is_lost_is_not_done_twice(
    relay: RelayEmulator, backend: RelayBackend, kind: str
) -> None:
    task = await until_scored(backend)
    relay.add_fault(kind, on="validate", carried_out=True)
    try:
        assert await backend.act(task, VALIDATE) == ""
    except BackendError:
        assert await backend.act(task, VALIDATE) == ""
    validations = [record for record in relay.requests if record.path.endswith("/validate")]
    assert len(validations) == 1
    _, look = await driven(backend, task)
    assert look.seen is Seen.SUCCEEDED


async def test_phases_are_told_from_the_create_on(backend: RelayBackend) -> None:
    made = await backend.create(backend.intend(ORDER))
    assert [(phase.name, phase.age, phase.took) for phase in made.phases] == [
        ("started", 0.0, None),
        ("validated", 0.0, None),
    ]


async def test_phases_are_not_told_while_a_validation_has_to_be_done_again(backend: RelayBackend) -> None:
    task = await until_scored(backend)
    training, upload = (await backend.look(task)).phases
    assert training.took == pytest.approx(120.0, abs=1.0)
    assert (upload.age, upload.took) == (0.0, None)
    again = await backend.look(attrs.evolve(task, actions=(VALIDATE,)))
    assert again.phases == ()
    assert again.again_after is not None
    assert again.again_after <= 2.0


async def test_selected_task_has_no_phases(relay: RelayEmulator, backend: RelayBackend) -> None:
    relay.put_seed(SELECTED_SEED)
    assert (await backend.create(backend.intend(ORDER))).phases == ()


async def test_two_owners_that_validate_at_once_both_see_that_it_happened(
    relay: RelayEmulator, backend: RelayBackend
) -> None:
    task = await until_scored(backend)
    other = relay_backend(relay)
    outcomes = await asyncio.gather(backend.act(task, VALIDATE), other.act(task, VALIDATE))
    assert outcomes == ["", ""]
    await other.close()


async def test_two_owners_that_create_the_same_sibling_pay_for_one(relay: RelayEmulator, backend: RelayBackend) -> None:
    relay.put_seed(SELECTED_SEED)
    task = await created(backend)
    action = Action(kind="create", member=1)
    other = relay_backend(relay)
    await asyncio.gather(backend.act(task, action), other.act(task, action))
    assert len(relay.tasks) == 2
    assert spent(relay) == 2 * FEE
    await other.close()


async def test_sibling_of_a_task_that_has_ended_is_not_paid_for(relay: RelayEmulator, backend: RelayBackend) -> None:
    relay.put_seed(SELECTED_SEED)
    task = await created(backend)
    await backend.cancel(task)
    assert await backend.act(task, Action(kind="create", member=1)) == ""
    assert len(relay.tasks) == 1


async def test_sibling_without_money_waits_and_the_reason_is_told(relay: RelayEmulator, backend: RelayBackend) -> None:
    relay.put_seed(SELECTED_SEED)
    task = await created(backend)
    relay.fund(CREATOR.address, -relay.balance(CREATOR.address))
    with pytest.raises(BackendError, match="less than the fee"):
        await backend.act(task, Action(kind="create", member=1))
    relay.fund(CREATOR.address, 2 * FEE)
    _, look = await driven(backend, task, until=wants("validate"))
    assert look.seen is Seen.RUNNING
    assert len(relay.tasks) == 3


async def test_group_whose_siblings_are_never_created_is_refunded(relay: RelayEmulator, backend: RelayBackend) -> None:
    relay.put_seed(SELECTED_SEED)
    task = await created(backend)
    relay.fund(CREATOR.address, -relay.balance(CREATOR.address))
    await asyncio.sleep(610)
    look = await backend.look(task)
    assert relay.balance(CREATOR.address) == FEE
    action = backend.next_action(task, look)
    assert action is not None
    assert (action.kind, action.member) == ("create", 3)


async def test_waiting_task_is_cancelled_and_refunded(backend: RelayBackend, relay: RelayEmulator) -> None:
    task = await created(backend)
    assert await backend.cancel(task) == "15 CNX are refunded"
    assert (await backend.look(task)).seen is Seen.CANCELLED
    assert spent(relay) == 0


async def test_waiting_group_is_cancelled_as_a_whole(relay: RelayEmulator, backend: RelayBackend) -> None:
    relay.put_seed(SELECTED_SEED)
    task = await created(backend)
    for member in (1, 2):
        await backend.act(task, Action(kind="create", member=member))
    assert await backend.cancel(task) == "45 CNX are refunded"
    assert (await backend.look(task)).seen is Seen.CANCELLED
    assert spent(relay) == 0


async def test_cancel_of_a_group_that_is_partly_with_nodes_says_when_the_rest_comes_back() -> None:
    async with relay_with_money(nodes=1) as relay:
        relay.put_seed(SELECTED_SEED)
        backend = relay_backend(relay)
        task = await created(backend)
        for member in (1, 2):
            await backend.act(task, Action(kind="create", member=member))
        await asyncio.sleep(5)
        said = await backend.cancel(task)
        assert said == "30 CNX are refunded; 15 CNX more once the timeout ends what nodes have already"
        await asyncio.sleep(610)
        assert spent(relay) == 0
        await backend.close()


async def test_started_task_cannot_be_cancelled_and_what_happens_is_said(
    relay: RelayEmulator, backend: RelayBackend
) -> None:
    task = await created(backend)
    await asyncio.sleep(5)
    with pytest.raises(RejectedError, match=r"abandon the job.*by its timeout at \d\d:\d\d UTC, and refunds it"):
        await backend.cancel(task)
    await asyncio.sleep(600)
    assert spent(relay) == 0


async def test_validated_task_cannot_be_cancelled_because_it_is_paid_for(backend: RelayBackend) -> None:
    task = await until_scored(backend)
    await backend.act(task, VALIDATE)
    with pytest.raises(RejectedError, match="paid for"):
        await backend.cancel(task)


async def test_cancel_whose_answer_is_lost_is_seen(relay: RelayEmulator, backend: RelayBackend) -> None:
    task = await created(backend)
    relay.add_fault("drop_after_accept", on="cancel")
    with pytest.raises(BackendError):
        await backend.cancel(task)
    assert (await backend.look(task)).seen is Seen.CANCELLED


async def test_task_is_recognised_and_validated_without_anything_stored(
    relay: RelayEmulator, backend: RelayBackend
) -> None:
    stored = await created(backend)
    bare = Task(task_id=stored.task_id, job_id="another")
    _, look = await driven(backend, bare)
    assert look.seen is Seen.SUCCEEDED
    assert spent(relay) == FEE


async def test_group_is_recognised_without_anything_stored(relay: RelayEmulator, backend: RelayBackend) -> None:
    relay.put_seed(SELECTED_SEED)
    stored, _ = await driven(backend, await created(backend), until=wants("validate"))
    bare = Task(task_id=stored.task_id, job_id="another")
    _, look = await driven(backend, bare)
    assert look.seen is Seen.SUCCEEDED
    assert len(relay.tasks) == 4, "three of the group, and the one that brings the archive"


async def test_task_of_another_program_on_the_same_wallet_is_followed_and_never_acted_on(
    relay: RelayEmulator, backend: RelayBackend
) -> None:
    others = relay_backend(relay)
    task = await created(others)
    foreign = next(iter(relay.tasks.values()))
    foreign.nonce = "0x" + "77" * 32
    await asyncio.sleep(200)
    look = await backend.look(Task(task_id=task.task_id, job_id="another"))
    assert (look.seen, look.stage) == (Seen.RUNNING, "scored")
    assert backend.next_action(task, look) is None
    assert await backend.act(task, VALIDATE) == ""
    assert foreign.status is Status.SCORE_READY
    await others.close()


async def test_task_of_another_wallet_is_not_shown(relay: RelayEmulator, backend: RelayBackend) -> None:
    task = await created(backend)
    stranger = RelayBackend(Settings(base_url=relay.url, trust_env=False), STRANGER)
    with pytest.raises(OwnershipError, match="another wallet"):
        await stranger.look(task)
    with pytest.raises(OwnershipError, match="another wallet"):
        async with stranger.open_result(task):
            raise AssertionError("a stranger was given the archive")
    await stranger.close()


@pytest.mark.parametrize("stage", ["queued", "started", "scored", "validated"])
async def test_restart_of_the_relay_loses_nothing(relay: RelayEmulator, backend: RelayBackend, stage: str) -> None:
    task, _ = await driven(backend, await created(backend), until=lambda look, _: look.stage == stage)
    relay.restart()
    _, look = await driven(backend, task)
    assert look.seen is Seen.SUCCEEDED
    assert spent(relay) == FEE


async def test_stages_come_in_the_order_of_their_names(backend: RelayBackend) -> None:
    seen: list[str] = []
    await driven(backend, await created(backend), until=lambda look, _: seen.append(look.stage))
    assert list(dict.fromkeys(seen)) == ["queued", "started", "scored", "validated"]


async def test_images_are_those_of_the_group_where_no_archive_ever_comes(
    relay: RelayEmulator, backend: RelayBackend
) -> None:
    relay.sampling = "always"
    task, look = await driven(backend, await created(backend))
    assert look.seen is Seen.FAILED
    assert len(await backend.images(task)) == 2
    why = "the network checked it, and the relay gives the archives of checked tasks to nobody"
    assert look.reason == f"runs 1 to 4: {why}; it has cost 60 CNX"
    assert spent(relay) == 4 * FEE


async def test_images_of_a_task_that_has_none_yet_are_not_found(backend: RelayBackend) -> None:
    with pytest.raises(NotFoundError, match="yet"):
        await backend.images(await created(backend))


@pytest.mark.parametrize("given", ["0x12", "17", "", "0x" + "zz" * 32, "0x" + "11" * 33])
async def test_name_that_no_task_can_have_is_refused(backend: RelayBackend, given: str) -> None:
    with pytest.raises(UsageError, match="commitment"):
        backend.normal_task_id(given)


async def test_task_id_is_in_nothing_that_is_stored_or_shown(relay: RelayEmulator, backend: RelayBackend) -> None:
    task, look = await driven(backend, await created(backend))
    secret = backend._reader.names.ids(ORDER.job_id, 1, 0).task_id[2:]
    (shown,) = relay.tasks.values()
    assert shown.task_id.endswith(secret), "the relay knows it since the validation"
    assert secret not in f"{task!r} {look!r} {task.payload} {task.task_id}"
