"""The relay backend at an emulated relay that loses answers, keeps another time, restarts, and has odd nodes."""

import json
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest

from crynux_async.backends.base import Seen
from crynux_async.backends.relay.backend import RelayBackend
from crynux_async.backends.relay.wire import CreateRequest
from crynux_async.emulator.relay import Conduct, RelayEmulator, Status
from crynux_async.errors import (
    AuthError,
    ConfigError,
    ProtocolError,
    QuotaError,
    SubmissionUnknownError,
    UnreachableError,
)
from tests.relay_lab import CREATOR, FEE, SELECTED_SEED, STRANGER
from tests.relay_sessions import MONEY, make_config, relay_with_money
from tests.relay_tries import ORDER, created, driven, relay_backend, spent


@pytest.fixture
async def relay() -> AsyncIterator[RelayEmulator]:
    async with relay_with_money() as relay:
        yield relay


@pytest.fixture
async def backend(relay: RelayEmulator) -> AsyncIterator[RelayBackend]:
    backend = relay_backend(relay)
    yield backend
    await backend.close()


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop_after_accept"},
        {"kind": "broken_json"},
        {"kind": "status", "status": 500, "message": "duplicated key not allowed", "carried_out": True},
        {"kind": "status", "status": 500, "message": "database is locked", "carried_out": True},
        {"kind": "html_502"},
        {"kind": "stall"},
    ],
    ids=lambda fault: str(fault.get("message", fault["kind"])),
)
async def test_create_whose_answer_is_lost_is_created_again_and_paid_once(
    relay: RelayEmulator, backend: RelayBackend, fault: dict[str, Any]
) -> None:
    relay.add_fault(**fault, on="create")
    payload = backend.intend(ORDER)
    try:
        first = await backend.create(payload)
    except SubmissionUnknownError:
        first = await backend.create(payload)
    assert list(relay.tasks) == [first.task_id]
    assert spent(relay) == FEE


async def test_create_that_exists_is_not_believed_while_it_cannot_be_seen(
    relay: RelayEmulator, backend: RelayBackend
) -> None:
    payload = backend.intend(ORDER)
    await backend.create(payload)
    relay.add_fault("drop_before", on="look", count=2)  # the second time aiohttp asks by itself
    with pytest.raises(SubmissionUnknownError, match="could not be seen"):
        await backend.create(payload)


@pytest.mark.parametrize("words", ["Task already uploaded", "duplicated key not allowed"])
async def test_existing_task_with_other_arguments_is_not_taken_for_what_was_sent(
    relay: RelayEmulator, backend: RelayBackend, words: str
) -> None:
    await backend.create(backend.intend(ORDER))
    if words != "Task already uploaded":
        relay.add_fault("status", on="create", status=500, message=words)
    other = backend.intend(attrs.evolve(ORDER, config=make_config(rank=16)))
    with pytest.raises(ProtocolError, match="not what was asked for: its arguments"):
        await backend.create(other)


async def test_task_of_another_creator_is_no_success(relay: RelayEmulator, backend: RelayBackend) -> None:
    payload = backend.intend(ORDER)
    request = CreateRequest.from_text(payload)
    shown = {
        "sequence": 1, "task_args": request.args, "task_id_commitment": request.commitment, "nonce": request.nonce,
        "creator": STRANGER.address, "sampling_seed": "0x" + "00" * 32, "status": 0, "task_type": 2,
        "task_version": "3.1.0", "timeout": request.timeout, "min_vram": 24, "required_gpu": "",
        "required_gpu_vram": 0, "task_fee": str(request.fee), "task_size": 1, "model_ids": list(request.model_ids),
        "abort_reason": 0, "task_error": 0, "score": "", "qos_score": 0, "selected_node": "",
    }  # fmt: skip
    body = json.dumps({"message": "success", "data": shown})
    relay.add_fault("body", on="create", status=200, body=body)
    with pytest.raises(ProtocolError, match=f"its creator is {STRANGER.address}, and not {CREATOR.address}"):
        await backend.create(payload)


@pytest.mark.parametrize("skew", [-86_400.0, -61.0, -59.0, 59.0, 61.0, 86_400.0])
async def test_clock_that_differs_from_the_relays_changes_nothing(skew: float) -> None:
    async with relay_with_money(skew=skew) as relay:
        backend = relay_backend(relay)
        _, look = await driven(backend, await created(backend))
        assert look.seen is Seen.SUCCEEDED
        refused = [record for record in relay.requests if record.status != 200]
        assert refused == []
        await backend.close()


@pytest.mark.parametrize(("skew", "refusals"), [(59.0, 0), (61.0, 1), (-61.0, 1), (3600.0, 1)])
async def test_clock_that_is_set_meanwhile_costs_one_refusal(
    relay: RelayEmulator, backend: RelayBackend, skew: float, refusals: int
) -> None:
    task = await created(backend)
    relay.skew = skew
    await backend.look(task)
    await backend.look(task)
    assert [record.status for record in relay.requests].count(400) == refusals


async def test_clock_that_is_wrong_costs_a_create_and_a_download_one_refusal_each(
    relay: RelayEmulator, backend: RelayBackend
) -> None:
    task, _ = await driven(backend, await created(backend))
    relay.skew = 300.0
    async with backend.open_result(task) as stream:
        assert stream.start == 0
    relay.skew = 600.0
    await created(backend, attrs.evolve(ORDER, try_number=2))
    assert [record.status for record in relay.requests].count(400) == 2


async def test_relay_that_does_not_tell_its_time_was_sent_nothing(relay: RelayEmulator, backend: RelayBackend) -> None:
    relay.add_fault("html_502", on="now")
    with pytest.raises(UnreachableError, match="nothing was sent"):
        await backend.create(backend.intend(ORDER))
    assert not relay.tasks


async def test_wallet_without_money_is_told_where_to_send_it(relay: RelayEmulator, backend: RelayBackend) -> None:
    relay.fund(CREATOR.address, -MONEY + FEE - 1)
    with pytest.raises(QuotaError, match="deposit address"):
        await backend.create(backend.intend(ORDER))


async def test_wallet_that_is_not_on_the_relays_list_is_told_so() -> None:
    async with relay_with_money(whitelist=[STRANGER.address]) as relay:
        backend = relay_backend(relay)
        with pytest.raises(AuthError, match="ask its operator"):
            await backend.create(backend.intend(ORDER))
        await backend.close()


async def test_config_of_several_rounds_is_refused_with_the_cure(backend: RelayBackend) -> None:
    order = attrs.evolve(ORDER, config=make_config(num_train_steps=50))
    with pytest.raises(ConfigError, match=r"num_train_steps: .*untrained weights.*leave num_train_steps"):
        backend.intend(order)


GROUPS: list[tuple[tuple[Conduct, ...], list[Status], int]] = [
    (("honest", "honest", "honest"), [Status.END_GROUP_SUCCESS, Status.END_GROUP_REFUND, Status.END_GROUP_REFUND], 1),
    (("honest", "honest", "differs"), [Status.END_GROUP_SUCCESS, Status.END_GROUP_REFUND, Status.END_INVALIDATED], 2),
    (("honest", "honest", "reports_error"),
     [Status.END_GROUP_SUCCESS, Status.END_GROUP_REFUND, Status.END_INVALIDATED], 2),
    (("honest", "reports_error", "reports_error"),
     [Status.END_INVALIDATED, Status.END_ABORTED, Status.END_ABORTED], 1),
    (("reports_error", "reports_error", "reports_error"), [Status.END_ABORTED] * 3, 0),
    (("silent", "silent", "silent"), [Status.END_ABORTED] * 3, 0),
    (("honest", "silent", "silent"), [Status.END_ABORTED] * 3, 0),
    (("withholds", "withholds", "withholds"),
     [Status.END_ABORTED, Status.END_GROUP_REFUND, Status.END_GROUP_REFUND], 0),
]  # fmt: skip


@pytest.mark.parametrize(("conducts", "ends", "fees"), GROUPS, ids=["-".join(group[0]) for group in GROUPS])
async def test_group_ends_as_the_table_says_and_the_try_goes_on_to_an_archive(
    relay: RelayEmulator, backend: RelayBackend, conducts: tuple[Conduct, ...], ends: list[Status], fees: int
) -> None:
    relay.order(*conducts)
    relay.put_seed(SELECTED_SEED)
    task, look = await driven(backend, await created(backend))
    group, (last,) = list(relay.tasks.values())[:3], list(relay.tasks.values())[3:]
    assert sorted(member.status for member in group) == sorted(ends)
    assert (look.seen, last.status) == (Seen.SUCCEEDED, Status.END_SUCCESS)
    assert spent(relay) == (fees + 1) * FEE
    assert await backend.spent(task, look) == (fees + 1) * FEE
    assert len(await backend.images(task)) == 2
