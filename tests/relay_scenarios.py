"""The scenarios of the recordings without groups, played against an emulated relay: the same requests in order."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from tests.relay_lab import (
    CREATOR,
    FINISHED,
    MODEL,
    STRANGER,
    UNFINISHED,
    Answer,
    Ids,
    Lab,
    create_fields,
    proof_of,
    task_args,
)

LIMIT = 32 * 1024 * 1024
ORDER_OF_THE_CURVE = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
UNKNOWN = "0x" + "ab" * 32


async def time_and_balance(lab: Lab) -> None:
    path = f"/v2/relay_account/{CREATOR.address}/balance"
    await lab.send("GET", "/v1/now", name="now")
    await lab.balance(name="balance before any deposit")
    await lab.deposit()
    await lab.balance(name="balance after deposit")
    await lab.send("GET", path, name="balance without signature")
    await lab.balance(STRANGER, name="balance of an account never seen")
    lower = CREATOR.address.lower()
    await lab.ask(f"/v2/relay_account/{lower}/balance", {"address": lower}, name="balance, lower-case address")
    await lab.ask(path, {"address": CREATOR.address}, STRANGER, name="balance of another's account")
    await lab.ask(path, {"address": CREATOR.address}, age=62, name="balance, stale timestamp")
    await lab.send("GET", f"/v1/balance/{CREATOR.address}", name="old balance path")
    await lab.send("GET", "/v1/nowhere", name="unknown path")
    await lab.send("PUT", "/v1/now", name="wrong method")
    await lab.send("GET", "/", name="hello")
    preflight = {"Origin": "http://x", "Access-Control-Request-Method": "GET"}
    await lab.send("OPTIONS", "/v1/now", headers=preflight, name="preflight")


async def create_and_cancel(lab: Lab) -> None:
    ids = Ids()
    task, path = ids.commitment, f"/v1/inference_tasks/{ids.commitment}"
    await lab.create(ids, name="create")
    await lab.create(ids, name="same create again, new timestamp")
    await lab.look(task, name="get by creator")
    await lab.look(task, STRANGER, name="get by a stranger")
    await lab.look(UNKNOWN, name="get unknown")
    await lab.look("0x" + task[2:].upper(), name="get, upper-case commitment")
    await lab.ask(path, {"task_id_commitment": task}, age=62, name="get, stale timestamp")
    await lab.send("GET", path, name="get without signature")
    await lab.send("GET", f"{path}?timestamp=abc&signature=0x00", name="get, timestamp not a number")
    now = await lab.now()
    signature = CREATOR.sign({"task_id_commitment": task}, now)
    recovery = int(signature[-2:], 16)
    high = f"{ORDER_OF_THE_CURVE - int(signature[66:130], 16):064x}"
    for name, sent in (
        ("get, signature 0x00", "0x00"),
        ("get, signature of one character", "0"),
        ("get, v=27/28", f"{signature[:-2]}{recovery + 27:02x}"),
        ("get, upper-case signature", "0x" + signature[2:].upper()),
        ("get, high s", f"{signature[:66]}{high}{recovery ^ 1:02x}"),
    ):
        await lab.send("GET", f"{path}?timestamp={now}&signature={sent}", name=name)
    await lab.selected_node(task, name="selected node while queued")
    await lab.start_checkpoint(task, name="input checkpoint while queued")
    await lab.checkpoint(task, name="result checkpoint while queued")
    await lab.image(task, 0, name="image while queued")
    seed = (await lab.state(ids))["sampling_seed"]
    await lab.validate(ids.task_id, [task], seed, name="validate while queued")
    await lab.balance(name="balance with one task held")
    await lab.cancel(task, STRANGER, name="cancel by a stranger")
    await lab.cancel(task, reason=1, name="cancel with reason 1")
    await lab.cancel(UNKNOWN, name="cancel unknown")
    await lab.cancel(task, name="cancel")
    await lab.look(task, name="get after cancel")
    await lab.cancel(task, name="cancel again")
    await lab.balance(name="balance after cancel (refund)")
    await lab.create(ids, name="create with a cancelled commitment")


async def forms_and_checkpoints(lab: Lab) -> None:
    with_checkpoint = task_args(checkpoint="checkpoint.zip")
    ids = Ids()
    await lab.create(ids, "form", name="form")
    await lab.cancel(ids.commitment, name="cancel")
    ids = Ids()
    fields = create_fields(ids, task_args=with_checkpoint)
    await lab.create(ids, "multipart", fields=fields, files=[UNFINISHED], name="multipart with checkpoint")
    await lab.start_checkpoint(ids.commitment, name="input checkpoint while queued")
    await lab.cancel(ids.commitment, name="cancel")
    await lab.start_checkpoint(ids.commitment, name="input checkpoint after cancel")
    ids = Ids()
    await lab.create(ids, "multipart", name="multipart without file")
    await lab.cancel(ids.commitment, name="cancel")
    ids = Ids()
    await lab.create(ids, "multipart", files=[b"x", b"x"], name="multipart, two files")
    await lab.look(ids.commitment, name="get: nothing was made")
    ids = Ids()
    fields = create_fields(ids, task_args=with_checkpoint)
    await lab.create(ids, "multipart", fields=fields, files=[b"not a zip"], name="multipart, not a zip")
    await lab.cancel(ids.commitment, name="cancel")


class Refused:
    """Creates that are wrong in one thing, each with a commitment of its own."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    async def __call__(self, name: str, signed: dict[str, Any] | None = None, **options: Any) -> Answer:
        ids = Ids()
        fields = create_fields(ids, **{"min_vram": 999, **(signed or {})})
        answer = await self._lab.create(ids, fields=fields, name=name, **options)
        if answer.status == 200:
            await self._lab.cancel(ids.commitment)
        return answer

    async def signed(self, name: str, **signed: Any) -> Answer:
        return await self(name, signed)

    async def changed(self, name: str, **changed: Any) -> Answer:
        return await self(name, changed=changed)


async def refused_creates(lab: Lab) -> None:
    bad = Refused(lab)
    await _missing_fields(lab, bad)
    await bad.signed("timeout 0 signed as 0", timeout=0)
    await bad.changed("signature 0x00", signature="0x00")
    await bad.changed("signature one character", signature="x")
    await bad.changed("signature not hex", signature="0x" + "zz" * 65)
    for age in (62, -62, 59, -59):
        await bad(f"timestamp {-age:+d}", age=age)
    await bad("wallet without money", wallet=STRANGER)
    number = 15000000000000000000
    # Beyond 2**53 the wallet does not sign numbers, so somebody else has signed these other bytes.
    await bad("signed over other bytes (fee signed as number)", wallet=STRANGER)
    await bad.changed("fee as number in the body, signed as string", task_fee=number)
    await bad.signed("fee above balance", task_fee=str(10**30))
    await bad.changed("fee not a number", task_fee="12x")
    await bad.signed("fee zero", task_fee="0")
    await _bad_arguments(bad)
    await bad.changed("min_vram text", min_vram="24")
    await bad.changed("min_vram 24.0 written as float", min_vram=24.5)
    await bad.changed("timeout text", timeout="600")
    await bad.changed("model ids a string", task_model_ids="base:x")
    await bad.signed("model ids empty", task_model_ids=[])
    await _bad_bodies(lab)
    await bad("form, missing min_vram", drop=("min_vram",), how="form")
    await bad("form, bad int", changed={"min_vram": "x"}, how="form")
    await bad("form, bad fee", changed={"task_fee": "x"}, how="form")
    await bad("form, signature missing", drop=("signature",), how="form")
    upper = MODEL.title()
    await bad.signed(
        "upper-case model name and id are lowered",
        task_args=task_args(model={"name": "Crynux-Network/Stable-Diffusion-V1-5"}),
        task_model_ids=[f"base:{upper}"],
    )
    await bad.signed("seed above 2^53 in task_args", task_args=task_args(seed=9007199254740993))
    unicode = {"prompt": "a<b>&c \u2028 é漢😀", "num_images": 1}
    await bad.signed("unicode and html in task_args", task_args=task_args(validation=unicode))
    short = create_fields(Ids(), task_id_commitment="0xabc", min_vram=999)
    await lab.create(Ids(), fields=short, name="commitment not 32 bytes")
    await lab.cancel("0xabc", name="cancel it")
    fields, other = create_fields(Ids()), Ids().commitment
    body = {name: value for name, value in fields.items() if name != "task_id_commitment"}
    await lab.tell(f"/v1/inference_tasks/{other}", fields, body=body, name="signed for another commitment")


async def _missing_fields(lab: Lab, bad: Refused) -> None:
    for name in ("task_args", "nonce", "task_model_ids", "task_version", "task_fee", "timestamp", "signature"):
        await bad(f"without {name}", drop=(name,))
    for name in ("task_type", "min_vram", "required_gpu", "required_gpu_vram", "task_size", "timeout"):
        await bad(f"without {name} (signed with it)", drop=(name,))
    for name in ("min_vram", "required_gpu", "required_gpu_vram", "task_size"):
        await bad(f"without {name} (signed as null)", {name: None}, drop=(name,))
    ids = Ids()
    fields = {name: value for name, value in create_fields(ids).items() if name != "timeout"}
    await lab.create(ids, fields=fields, name="without timeout (signed without)")


async def _bad_arguments(bad: Refused) -> None:
    await bad.signed("task_version 3.1", task_version="3.1")
    await bad.signed("task_version v3.1.0", task_version="v3.1.0")
    await bad.signed("task_type 5", task_type=5)
    await bad.signed("task_args not json", task_args="{")
    await bad.signed("task_args schema: steps 0", task_args=task_args(train_args={"num_train_steps": 0}))
    without_model = '{"dataset":{},"validation":{},"train_args":{}}'
    await bad.signed("task_args without model", task_args=without_model)
    await bad.signed("task_args no dataset", task_args=task_args(dataset={}))
    await bad.signed("task_args empty", task_args="")
    await bad.signed("validation images 11", task_args=task_args(validation={"num_images": 11}))
    await bad.signed("checkpoint empty string", task_args=task_args(checkpoint=""))


async def _bad_bodies(lab: Lab) -> None:
    ids = Ids()
    path, as_json = f"/v1/inference_tasks/{ids.commitment}", {"Content-Type": "application/json"}
    await lab.send("POST", path, b"{}", {}, name="no content type")
    await lab.send("POST", path, b'{"a"', as_json, name="cut json")
    await lab.send("POST", path, b"", as_json, name="empty json body")
    await lab.send("POST", path, b"[]", as_json, name="json list")
    large = b'{"x":"' + b"a" * LIMIT + b'"}'
    await lab.send("POST", path, large, as_json, name="json body over max_body_bytes (32 MiB)")
    await lab.create(ids, "multipart", files=[bytes(LIMIT)], name="multipart over max_body_bytes")
    await lab.create(ids, "multipart", files=[bytes(LIMIT - 8192)], name="multipart just under")
    await lab.cancel(ids.commitment)


async def network(lab: Lab) -> None:
    # What the numbers count: twenty-two creates, of which two still wait.
    for _ in range(2):
        await lab.create(Ids(), fields=create_fields(Ids(), min_vram=999))
    for _ in range(20):
        ids = Ids()
        await lab.create(ids, fields=create_fields(ids, min_vram=999))
        await lab.cancel(ids.commitment)
    nodes = await lab.nodes(1)
    for name, path in (
        ("nodes number", "/v1/network/nodes/number"),
        ("nodes data v1, no page", "/v1/network/nodes/data"),
        ("nodes data v1", "/v1/network/nodes/data?start=0&total=10"),
        ("nodes data v2", "/v2/network/nodes/data?page=1&page_size=10"),
        ("queue count", "/v1/stats/queue/count"),
        ("tasks number", "/v1/network/tasks/number"),
        ("withdraw config", "/v1/network/withdraw_config"),
        ("loaded models", "/v2/models/loaded_models"),
        ("models", "/v2/models?x=1"),
        ("node v1", f"/v1/node/{nodes[0].wallet.address}"),
    ):
        await lab.send("GET", path, name=name)


async def started(lab: Lab, name: str | None = None, **changes: Any) -> tuple[Ids, str]:
    """Create a task that is not selected, and return its seed."""
    lab.relay.sampling = "never"
    ids = Ids()
    answer = await lab.create(ids, fields=create_fields(ids, **changes), name=name)
    return ids, answer.data["sampling_seed"]


async def one_task(lab: Lab) -> None:
    nodes = await lab.nodes(1)
    ids, seed = await started(lab, "create")
    task = ids.commitment
    node = await lab.holder(nodes, ids)
    await lab.look(task, name="get, started")
    await lab.selected_node(task, name="selected node")
    await lab.cancel(task, name="cancel a started task")
    await lab.validate(ids.task_id, [task], seed, name="validate before the score")
    await lab.start_checkpoint(task, name="input checkpoint (none)")
    await node.score(ids)
    await lab.look(task, name="get, score ready")
    await _wrong_validations(lab, ids, seed)
    await lab.checkpoint(task, name="result checkpoint before validation")
    await lab.validate(ids.task_id, [task], seed, name="validate")
    await lab.look(task, name="get, validated")
    await lab.validate(ids.task_id, [task], seed, name="validate again")
    await lab.checkpoint(task, name="result checkpoint before upload")
    await lab.image(task, 0, name="image before upload")
    await node.upload(ids)
    await lab.look(task, name="get, success")
    await lab.validate(ids.task_id, [task], seed, name="validate after success")
    await lab.cancel(task, name="cancel after success")
    await _files(lab, task)
    await lab.balance(name="balance")
    await lab.create(ids, name="create with a finished commitment")


async def _wrong_validations(lab: Lab, ids: Ids, seed: str) -> None:
    async def validate(name: str, commitments: Sequence[str] = (ids.commitment,), **options: Any) -> None:
        task_id = options.pop("task_id", ids.task_id)
        await lab.validate(task_id, commitments, options.pop("seed", seed), name=f"validate, {name}", **options)

    task = ids.commitment
    await validate("wrong task id", task_id=Ids().task_id)
    await validate("proof of another seed", seed="0x" + "12" * 32)
    await validate("short proof", proof="0x00")
    await validate("public key of another", key=STRANGER.public_key)
    await validate("public key with 04", key="0x04" + CREATOR.public_key[2:])
    await lab.validate(ids.task_id, [task], seed, STRANGER, name="validate by a stranger")
    await validate("two commitments", [task, task])
    await validate("the same three times", [task, task, task])
    await validate("none", [])
    await validate("unknown commitment", [UNKNOWN])
    fields = {
        "task_id": ids.task_id,
        "task_id_commitments": [task],
        "vrf_proof": proof_of(seed),
        "public_key": CREATOR.public_key,
    }
    path = "/v1/inference_tasks/validate"
    for missing in fields:
        body = {name: value for name, value in fields.items() if name != missing}
        await lab.tell(path, fields, body=body, name=f"validate without {missing}")
    await lab.tell(path, fields, age=62, name="validate, stale")


async def _files(lab: Lab, task: str) -> None:
    answer = await lab.checkpoint(task, name="result checkpoint")
    assert answer.content == FINISHED
    written, earlier = answer.headers["Last-Modified"], "Mon, 01 Jan 2024 00:00:00 GMT"
    for name, headers in (
        ("range 100-199", {"Range": "bytes=100-199"}),
        ("open range", {"Range": "bytes=317000-"}),
        ("range past the end", {"Range": "bytes=999999-"}),
        ("If-Range equal", {"Range": "bytes=100-199", "If-Range": written}),
        ("If-Range other", {"Range": "bytes=0-9", "If-Range": earlier}),
        ("If-Modified-Since", {"If-Modified-Since": written}),
        ("If-Unmodified-Since old", {"If-Unmodified-Since": earlier}),
        ("gzip offered", {"Accept-Encoding": "gzip"}),
    ):
        await lab.checkpoint(task, headers=headers, name=name)
    path = f"/v1/inference_tasks/{task}/results/checkpoint"
    await lab.send("HEAD", path, name="HEAD")
    await lab.checkpoint(task, STRANGER, name="result checkpoint by a stranger")
    await lab.send("GET", path, name="result checkpoint without signature")
    await lab.checkpoint(UNKNOWN, name="result checkpoint of an unknown task")
    for index in (0, 1, 2, "x", "-1", "../checkpoint"):
        await lab.image(task, index, name=f"image {index}")
    await lab.image(task, 0, STRANGER, name="image by a stranger")


async def two_rounds(lab: Lab) -> None:
    nodes = await lab.nodes(1)
    ids, seed = await started(lab)
    node = await lab.holder(nodes, ids)
    await node.score(ids)
    await lab.validate(ids.task_id, [ids.commitment], seed, name="validate step 1")
    await node.upload(ids, UNFINISHED)
    archive = (await lab.checkpoint(ids.commitment, name="checkpoint of step 1")).content
    ids = Ids()
    fields = create_fields(ids, task_args=task_args(checkpoint="checkpoint.zip"))
    answer = await lab.create(ids, "multipart", fields=fields, files=[archive], name="create step 2 (multipart)")
    seed = answer.data["sampling_seed"]
    node = await lab.holder(nodes, ids)
    assert (await lab.start_checkpoint(ids.commitment, node.wallet)).content == archive
    await lab.start_checkpoint(ids.commitment, name="input checkpoint by the creator")
    await node.score(ids)
    await lab.validate(ids.task_id, [ids.commitment], seed, name="validate step 2")
    await node.upload(ids)
    await lab.checkpoint(ids.commitment, name="checkpoint of step 2")


async def reported_error(lab: Lab) -> None:
    nodes = await lab.nodes(1)
    ids, seed = await started(lab)
    await (await lab.holder(nodes, ids)).report_error(ids)
    await lab.look(ids.commitment, name="get, error reported")
    await lab.validate(ids.task_id, [ids.commitment], seed, name="validate")
    await lab.look(ids.commitment, name="get, aborted")
    await lab.checkpoint(ids.commitment, name="checkpoint")


async def deadlines(lab: Lab) -> None:
    nodes = await lab.nodes(1)
    ids, seed = await started(lab, timeout=6)
    await lab.holder(nodes, ids)
    await lab.until(ids, 9)
    await lab.look(ids.commitment, name="get")
    ids, seed = await started(lab, timeout=6)
    await (await lab.holder(nodes, ids)).score(ids)
    await lab.until(ids, 9)
    await lab.look(ids.commitment, name="get")
    await lab.validate(ids.task_id, [ids.commitment], seed, name="validate too late")
    ids, seed = await started(lab, timeout=6)
    await (await lab.holder(nodes, ids)).score(ids)
    await lab.validate(ids.task_id, [ids.commitment], seed, name="validate")
    await lab.until(ids, 9)
    await lab.look(ids.commitment, name="get")


async def queue_deadline(lab: Lab) -> None:
    ids = Ids()
    await lab.create(ids, fields=create_fields(ids, min_vram=999, timeout=1))
    await asyncio.sleep(180)
    assert (await lab.status(ids)) == (0, 0)
    await asyncio.sleep(3)
    await lab.look(ids.commitment, name="get after the queue deadline")


async def restart(lab: Lab) -> None:
    nodes = await lab.nodes(1)
    ids, seed = await started(lab)
    await lab.holder(nodes, ids)
    await lab.relay.outage(5, kind="refused")
    await lab.send("GET", "/v1/now", name="now while the relay is away")
    await asyncio.sleep(6)
    lab.relay.restart()
    await lab.look(ids.commitment, name="get after restart (start was picked before or after)")
    node = await lab.holder(nodes, ids)
    await node.score(ids)
    lab.relay.restart()
    await lab.look(ids.commitment, name="get, score ready, after restart")
    await lab.validate(ids.task_id, [ids.commitment], seed, name="validate after restart")
    await node.upload(ids)
    lab.relay.restart()
    await lab.look(ids.commitment, name="get, success")
    await lab.checkpoint(ids.commitment, name="checkpoint")
    other = Ids()
    await lab.create(other, fields=create_fields(other, min_vram=999))
    lab.relay.restart()
    await lab.cancel(other.commitment, name="cancel after restart")


async def login(lab: Lab) -> None:
    for _ in range(3):
        ids = Ids()
        await lab.create(ids, fields=create_fields(ids, min_vram=999))
        await lab.cancel(ids.commitment)
    await asyncio.sleep(11)
    token = (await _connect(lab, "connect wallet")).data["token"]
    await _connect(lab, "connect wallet, stale", age=122)
    await _connect(lab, "connect wallet, other action text", action="Withdraw")
    ids, headers = Ids(), {"Authorization": f"Bearer {token}"}
    account = f"/v1/relay_account/{CREATOR.address}"
    await lab.create(ids, fields=create_fields(ids, min_vram=999), name="create")
    page = f"{account}/task_fee?page=1&page_size=3"
    await lab.send("GET", page, headers=headers, name="task fee list at once")
    await lab.cancel(ids.commitment, name="cancel")
    await asyncio.sleep(12)
    await lab.send("GET", page, headers=headers, name="task fee list 12 s after the cancel")
    await lab.send("GET", f"{account}/task_fee", name="task fee list without token")
    stranger = f"/v1/relay_account/{STRANGER.address}/task_fee"
    await lab.send("GET", stranger, headers=headers, name="another's task fee list")
    await lab.send("GET", f"{account}/deposit/list", headers=headers, name="deposit list")
    balance = f"/v2/relay_account/{CREATOR.address}/balance"
    await lab.send("GET", balance, headers=headers, name="balance with the token")
    look = f"/v1/inference_tasks/{ids.commitment}"
    await lab.send("GET", look, headers=headers, name="get task with the token only")


async def _connect(lab: Lab, name: str, *, age: int = 0, action: str = "Connect Wallet") -> Answer:
    timestamp = await lab.now() - age
    text = f"Crynux Relay\nAction: {action}\nAddress: {CREATOR.address}\nTimestamp: {timestamp}"
    fields = {"address": CREATOR.address, "signature": CREATOR.sign_personal(text), "timestamp": timestamp}
    return await lab.post("/v1/client/connect_wallet", json.loads(json.dumps(fields)), name=name)
