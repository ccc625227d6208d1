"""The emulated relay over HTTP: automatic nodes, switches, faults, steering, and what it finds again."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crynux_async.backends.relay import wire
from crynux_async.emulator.relay import CNX, AbortReason, Conduct, RelayEmulator, Status
from crynux_async.secret import Secret
from crynux_async.signing import Wallet
from tests.relay_lab import CREATOR, CREATOR_KEY, FEE, MODEL, STRANGER, Ids, Lab, create_fields, task_args

FINISHED = {
    "pytorch_lora_weights.safetensors", "random_states_0.pkl", "global_step.txt", "optimizer.bin", "scaler.pt",
    "FINISH", "scheduler.bin",
}  # fmt: skip
STEPS = task_args(train_args={"num_train_steps": 100, "max_train_steps": 100})
# A round of 100 steps takes 120 seconds of training, and the upload 5.
SCORED, UPLOADED = 120, 125


@asynccontextmanager
async def laboratory(**options: Any) -> AsyncIterator[Lab]:
    """Run a relay whose nodes work by themselves, with money for the creator."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        RelayEmulator(**{"unet": "tiny", "chance": 1, **options}) as relay,
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session,
    ):
        relay.know_wallet(CREATOR_KEY)
        if not relay.balance(CREATOR.address):
            relay.fund(CREATOR.address, 1000 * CNX)
        yield Lab(relay, session)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with laboratory(sampling="never") as lab:
        yield lab


async def created(lab: Lab, ids: Ids | None = None, **changes: Any) -> tuple[Ids, str]:
    ids = ids or Ids()
    answer = await lab.create(ids, fields=create_fields(ids, task_args=STEPS, **changes))
    assert answer.status == 200, answer.content
    return ids, answer.data["sampling_seed"]


async def finished(lab: Lab, **changes: Any) -> Ids:
    """Take a task to its end, as far as it goes."""
    ids, seed = await created(lab, **changes)
    await asyncio.sleep(SCORED + 3)
    assert (await lab.validate(ids.task_id, [ids.commitment], seed)).status == 200
    await asyncio.sleep(UPLOADED - SCORED + 1)
    return ids


async def grouped(lab: Lab, *conducts: Conduct) -> list[Ids]:
    """Take a selected task and its siblings to the validation of their group."""
    lab.relay.sampling = "always"
    lab.relay.order(*conducts)
    first, seed = await created(lab)
    members = [first, first.sibling(), first.sibling()]
    for ids in members[1:]:
        await created(lab, ids)
    await asyncio.sleep(SCORED + 3)
    answer = await lab.validate(first.task_id, [ids.commitment for ids in members], seed)
    assert answer.status == 200, answer.content
    await asyncio.sleep(UPLOADED - SCORED + 1)
    return members


async def test_job_of_automatic_nodes_ends_with_archive_and_images(lab: Lab) -> None:
    ids = await finished(lab)
    assert await lab.status(ids) == (Status.END_SUCCESS, 0)
    archive = await lab.checkpoint(ids.commitment)
    with zipfile.ZipFile(io.BytesIO(archive.content)) as members:
        assert members.testzip() is None
        assert set(members.namelist()) == FINISHED
        assert members.read("global_step.txt") == b"100"
    images = [await lab.image(ids.commitment, index) for index in range(3)]
    assert [image.content[:4] for image in images[:2]] == [b"\x89PNG"] * 2
    assert images[2].error == ("index", "File not found")
    assert lab.relay.balance(CREATOR.address) == 1000 * CNX - FEE


async def test_round_before_the_last_has_no_finish(lab: Lab) -> None:
    ids = Ids()
    answer = await lab.create(ids)  # 100 of 200 steps, and one more in each of the twelve epochs that are left
    await asyncio.sleep(20 + 112 + 3)
    await lab.validate(ids.task_id, [ids.commitment], answer.data["sampling_seed"])
    await asyncio.sleep(6)
    with zipfile.ZipFile(io.BytesIO((await lab.checkpoint(ids.commitment)).content)) as members:
        assert set(members.namelist()) == FINISHED - {"FINISH"}


async def test_speed_shortens_training_and_not_the_deadline() -> None:
    async with laboratory(sampling="never", speed=60) as lab:
        ids, _ = await created(lab)
        await asyncio.sleep(2 + SCORED / 60)
        assert (await lab.status(ids))[0] == Status.SCORE_READY
        await asyncio.sleep(590)
        assert (await lab.status(ids))[0] == Status.SCORE_READY
        await asyncio.sleep(10)
        assert await lab.status(ids) == (Status.END_ABORTED, AbortReason.TIMEOUT)


async def test_nobody_validates_and_the_money_comes_back(lab: Lab) -> None:
    await created(lab)
    await asyncio.sleep(605)
    assert lab.relay.balance(CREATOR.address) == 1000 * CNX


@pytest.mark.parametrize(
    ("conduct", "status", "reason"),
    [
        ("reports_error", Status.ERROR_REPORTED, AbortReason.NONE),
        ("silent", Status.STARTED, AbortReason.NONE),
        ("honest", Status.SCORE_READY, AbortReason.NONE),
    ],
)
async def test_node_does_what_was_ordered(lab: Lab, conduct: Conduct, status: Status, reason: AbortReason) -> None:
    lab.relay.order(conduct)
    ids, _ = await created(lab)
    await asyncio.sleep(SCORED + 3)
    assert await lab.status(ids) == (status, reason)


@pytest.mark.parametrize(
    ("ending", "status"), [("fail", Status.ERROR_REPORTED), ("stall", Status.STARTED), ("nan", Status.SCORE_READY)]
)
async def test_ending_of_the_model_name_asks_for_trouble(lab: Lab, ending: str, status: Status) -> None:
    ids = Ids()
    name = f"{MODEL}/{ending}"
    args = task_args(model={"name": name}, train_args={"max_train_steps": 100})
    await lab.create(ids, fields=create_fields(ids, task_args=args, task_model_ids=[f"base:{name}"]))
    await asyncio.sleep(SCORED + 3)
    assert (await lab.status(ids))[0] == status


async def test_result_that_is_withheld_is_refunded(lab: Lab) -> None:
    lab.relay.order("withholds")
    ids = await finished(lab)
    assert (await lab.status(ids))[0] == Status.VALIDATED
    await asyncio.sleep(600)
    assert await lab.status(ids) == (Status.END_ABORTED, AbortReason.TIMEOUT)
    assert lab.relay.balance(CREATOR.address) == 1000 * CNX


async def test_archive_above_the_body_limit_never_arrives() -> None:
    async with laboratory(sampling="never", body_limit_bytes=100_000) as lab:
        ids = await finished(lab)
        assert (await lab.status(ids))[0] == Status.VALIDATED


@pytest.mark.parametrize(
    ("conducts", "states", "spent"),
    [
        (("honest", "honest", "honest"), [11, 10, 10], 1),
        (("honest", "differs", "honest"), [11, 7, 10], 2),
        (("differs", "differs", "differs"), [9, 9, 9], 0),
        (("honest", "honest", "reports_error"), [11, 10, 7], 2),
        (("honest", "reports_error", "reports_error"), [7, 9, 9], 1),
    ],
)
async def test_group_of_automatic_nodes_ends_as_ordered(
    lab: Lab, conducts: tuple[Conduct, ...], states: list[int], spent: int
) -> None:
    members = await grouped(lab, *conducts)
    assert [(await lab.status(ids))[0] for ids in members] == states
    assert lab.relay.balance(CREATOR.address) == 1000 * CNX - spent * FEE
    assert sum(entry.spent for entry in lab.relay.journal) == spent * FEE


async def test_archive_of_a_groups_winner_cannot_be_fetched_and_its_images_can(lab: Lab) -> None:
    winner = (await grouped(lab, "honest", "honest", "honest"))[0]
    assert (await lab.checkpoint(winner.commitment)).error == ("task_id", "Task checkpoint not uploaded")
    assert (await lab.image(winner.commitment, 0)).content[:4] == b"\x89PNG"


async def test_node_that_is_thrown_out_is_replaced(lab: Lab) -> None:
    await grouped(lab, "honest", "differs", "honest")
    members = await grouped(lab, "honest", "honest", "honest")
    assert [(await lab.status(ids))[0] for ids in members] == [11, 10, 10]


async def test_unknown_model_waits_until_the_nodes_have_it() -> None:
    async with laboratory(sampling="never", model_seconds=600) as lab:
        ids, _ = await created(lab)
        await asyncio.sleep(599)
        assert (await lab.status(ids))[0] == Status.QUEUED
        await asyncio.sleep(3)
        assert (await lab.status(ids))[0] == Status.STARTED


async def test_loaded_models_are_those_that_a_task_has_proved(lab: Lab) -> None:
    assert (await lab.send("GET", "/v2/loaded-models")).data == []
    await finished(lab)
    assert (await lab.send("GET", "/v2/loaded-models")).data == [
        {"model_id": MODEL, "model_type": "sd", "min_vram": 24, "in_memory_node_count": 1, "on_disk_node_count": 3}
    ]


async def test_whitelist_lets_only_its_addresses_create() -> None:
    async with laboratory(whitelist=[STRANGER.address]) as lab:
        ids = Ids()
        assert (await lab.create(ids)).error == ("address", "Signer not allowed")
        lab.relay.fund(STRANGER.address, FEE)
        assert (await lab.create(ids, wallet=STRANGER)).status == 200


async def test_indent_is_that_of_the_template() -> None:
    async with laboratory(indent=True) as lab:
        answer = await lab.send("GET", "/v1/stats/queue/count")
        assert answer.content == b'{\n    "message": "success",\n    "data": 0\n}'
        path = f"/v1/relay_account/{CREATOR.address}/task_fee"
        assert (await lab.send("GET", path)).content == b'{"message":"Authorization header required"}'


@pytest.mark.parametrize(("skew", "is_good"), [(59, True), (61, False), (-59, True), (-61, False)])
async def test_relays_clock_may_be_a_minute_off(lab: Lab, skew: int, is_good: bool) -> None:
    ids, _ = await created(lab)
    now = await lab.now()
    lab.relay.skew = skew
    fields = {"task_id_commitment": ids.commitment}
    signature = CREATOR.sign(fields, now)
    answer = await lab.send("GET", f"/v1/inference_tasks/{ids.commitment}?timestamp={now}&signature={signature}")
    assert (answer.status == 200) is is_good
    assert (await lab.look(ids.commitment)).status == 200  # by the time that the relay tells


async def test_lost_answer_of_a_create_leaves_a_task_that_is_paid_once(lab: Lab) -> None:
    fault = lab.relay.add_fault("drop_after_accept", on="create")
    ids = Ids()
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await lab.create(ids)
    assert (await lab.create(ids)).error == ("task_id_commitment", "Task already uploaded")
    assert (fault.hits, [entry.commitment for entry in lab.relay.journal]) == (1, [ids.commitment])
    assert lab.relay.balance(CREATOR.address) == 1000 * CNX - FEE


async def test_fault_waits_for_its_call_and_its_task(lab: Lab) -> None:
    first, second = (await created(lab))[0], (await created(lab))[0]
    message = "duplicated key not allowed"
    lab.relay.add_fault("status", on="look", task_id=second.commitment, status=500, message=message)
    assert (await lab.look(first.commitment)).status == 200
    answer = await lab.look(second.commitment)
    assert (answer.status, answer.document) == (500, {"message": message})


async def test_restart_keeps_tasks_and_money(lab: Lab) -> None:
    ids, _ = await created(lab)
    lab.relay.restart()
    assert (await lab.look(ids.commitment)).status == 200
    assert lab.relay.balance(CREATOR.address) == 1000 * CNX - FEE


async def test_next_relay_on_the_folder_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    async with laboratory(sampling="never", folder=tmp_path) as lab:
        done = await finished(lab)
        running, seed = await created(lab)
        await asyncio.sleep(60)
        waiting, _ = await created(lab, min_vram=999)
        journal = lab.relay.journal
    async with laboratory(sampling="never", folder=tmp_path) as lab:
        assert [(entry.commitment, entry.status) for entry in lab.relay.journal] == [
            (entry.commitment, entry.status) for entry in journal
        ]
        assert lab.relay.balance(CREATOR.address) == 1000 * CNX - 3 * FEE
        assert (await lab.checkpoint(done.commitment)).content[:2] == b"PK"
        await asyncio.sleep(SCORED)
        assert (await lab.validate(running.task_id, [running.commitment], seed)).status == 200
        await asyncio.sleep(6)
        assert (await lab.status(running))[0] == Status.END_SUCCESS
        assert (await lab.cancel(waiting.commitment)).status == 200
        assert lab.relay.balance(CREATOR.address) == 1000 * CNX - 2 * FEE


async def test_deposit_on_the_chain_arrives_with_a_block() -> None:
    async with laboratory(control_port=0, nodes=0) as lab:
        await asyncio.sleep(1)
        await lab.chain(deposit={"from": STRANGER.address, "to": "0x0", "value": 7})
        assert lab.relay.balance(STRANGER.address) == 0
        await asyncio.sleep(4)
        assert lab.relay.balance(STRANGER.address) == 7


async def test_node_with_another_stake_cannot_join() -> None:
    async with laboratory(control_port=0, nodes=0) as lab:
        await lab.nodes(1, 1)
        address = (await lab.send("GET", "/v2/network/nodes/data")).data[0]["address"]
        assert (await lab.send("GET", f"/v1/node/{address}")).data["status"] == 1
        fields = {"network": "n", "address": STRANGER.address, "gpu_name": "g", "gpu_vram": 1, "version": "3.1.0"}
        fields |= {"model_ids": [], "staking": "5"}
        answer = await lab.tell(f"/v2/node/{STRANGER.address}/join", fields, STRANGER)
        assert (answer.status, answer.document) == (500, {"message": "staking amount mismatch"})


async def control(lab: Lab, method: str, name: str, document: dict[str, Any] | None = None) -> Any:
    content = None if document is None else json.dumps(document).encode()
    answer = await lab.send(method, f"/_emulator/{name}", content, {"Content-Type": "application/json"})
    assert answer.status == 200, answer.content
    return answer.document


async def test_control_plane_makes_wallets_with_money(lab: Lab) -> None:
    made = await control(lab, "POST", "wallets", {"balance": 20})
    wallet = Wallet(Secret(made["secret_key"]))
    assert (wallet.address, (await lab.balance(wallet)).data) == (made["address"], str(20 * CNX))
    await control(lab, "POST", "fund", {"address": wallet.address, "amount": 1})
    assert (await lab.balance(wallet)).data == str(21 * CNX)


async def test_control_plane_orders_conducts_and_sampling(lab: Lab) -> None:
    await control(lab, "POST", "sampling", {"sampling": "always"})
    await control(lab, "POST", "conducts", {"conducts": ["reports_error"]})
    ids, seed = await created(lab)
    await asyncio.sleep(10)
    answer = await lab.validate(ids.task_id, [ids.commitment], seed)
    assert answer.document == {"message": "task is selected for validation"}
    assert (await control(lab, "GET", "journal"))[0]["status"] == Status.ERROR_REPORTED


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("conducts", {"conducts": ["lazy"]}),
        ("sampling", {"sampling": "often"}),
        ("fund", {"address": "0x", "amount": -1}),
        ("faults", {"kind": "drop_before", "on": "status"}),
    ],
)
async def test_control_plane_refuses_what_makes_no_sense(lab: Lab, name: str, document: dict[str, Any]) -> None:
    content = json.dumps(document).encode()
    answer = await lab.send("POST", f"/_emulator/{name}", content, {"Content-Type": "application/json"})
    assert answer.status == 400


@pytest.mark.parametrize(
    "options", [{"speed": 0}, {"nodes": -1}, {"threshold": 1.5}, {"sampling": "often"}, {"whitelist": "0x12"}]
)
def test_option_that_makes_no_sense_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: "):
        RelayEmulator(**options)


async def test_token_of_another_account_opens_no_balance(lab: Lab) -> None:
    login = wire.log_in(CREATOR, await lab.now())
    token = (await lab.send("POST", login.path, login.body, {"Content-Type": "application/json"})).data["token"]
    path = f"/v2/relay_account/{STRANGER.address}/balance"
    answer = await lab.send("GET", path, headers={"Authorization": f"Bearer {token}"})
    assert answer.error == ("address", "Address mismatch")


async def test_page_of_another_origin_may_read_answers(lab: Lab) -> None:
    answer = await lab.send("GET", "/v1/now", headers={"Origin": "http://x"})
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
