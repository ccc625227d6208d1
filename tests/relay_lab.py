"""Calls of creators and scripted nodes to an emulated relay, with every answer kept as the recordings keep them."""

import asyncio
import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import attrs
from yarl import URL

from crynux_async.emulator.relay import RelayEmulator
from crynux_async.secret import Secret
from crynux_async.signing import Wallet
from crynux_async.signing.addresses import keccak256

DATA = Path(__file__).parent / "data"
IMAGES = [(DATA / "relay" / "validation" / f"{index}.png").read_bytes() for index in range(2)]
FINISHED = (DATA / "archive" / "result.zip").read_bytes()
UNFINISHED = (DATA / "archive" / "checkpoint_unfinished.zip").read_bytes()
SCORE = "0x90f162cd3f1e516c8d6667f2d409c927"  # what the real relay's own code makes of the two images
MODEL = "crynux-network/stable-diffusion-v1-5"
FEE = 15 * 10**18

CREATOR_KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
CREATOR = Wallet(Secret(CREATOR_KEY))
SELECTED_SEED = (40).to_bytes(32)  # the first that selects a task of that wallet, by the vectors
STRANGER = Wallet(Secret("33" * 32))
_SHOWN = 6000


@attrs.frozen
class Ids:
    """Task id, nonce and commitment of a task."""

    task_id: str = attrs.field(factory=lambda: "0x" + secrets.token_hex(32))
    nonce: str = attrs.field(factory=lambda: "0x" + secrets.token_hex(32))

    @property
    def commitment(self) -> str:
        return "0x" + keccak256(bytes.fromhex(self.task_id[2:]) + bytes.fromhex(self.nonce[2:])).hex()

    def sibling(self) -> "Ids":
        return Ids(self.task_id)


def task_args(**changes: Any) -> str:
    args = {
        "model": {"name": MODEL, "variant": "fp16", "revision": "main"},
        "dataset": {
            "url": "https://example.com/d?a=1&b=2",
            "image_column": "image",
            "caption_column": "text",
        },
        "validation": {"num_images": 2},
        "train_args": {
            "learning_rate": 0.0001,
            "batch_size": 1,
            "num_train_steps": 100,
            "max_train_steps": 200,
            "scale_lr": True,
            "lr_scheduler": {"lr_scheduler": "cosine", "lr_warmup_steps": 0},
        },
        "lora": {"rank": 4, "init_lora_weights": "gaussian", "target_modules": ["to_k", "to_q", "to_v", "to_out.0"]},
        "mixed_precision": "fp16",
        "seed": 42,
    }
    return json.dumps({**args, **changes})


def create_fields(ids: Ids, **changes: Any) -> dict[str, Any]:
    """Return the signed fields of a create."""
    fields = {
        "task_id_commitment": ids.commitment,
        "task_args": task_args(),
        "task_type": 2,
        "nonce": ids.nonce,
        "task_model_ids": [f"base:{MODEL}+fp16"],
        "min_vram": 24,
        "required_gpu": "",
        "required_gpu_vram": 0,
        "task_version": "3.1.0",
        "task_size": 1,
        "task_fee": str(FEE),
        "timeout": 600,
    }
    return {**fields, **changes}


class Answer:
    """What came back."""

    def __init__(self, status: int | None, headers: dict[str, str], content: bytes, error: str = "") -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self._error = error

    @property
    def document(self) -> Any:
        return json.loads(self.content)

    @property
    def data(self) -> Any:
        return self.document["data"]

    @property
    def error(self) -> tuple[str, str]:
        return self.data["field_name"], self.data["message"]

    def recorded(self) -> dict[str, Any]:
        """Return it as the recordings have it."""
        base: dict[str, Any] = {"status": self.status}
        base |= {"error": self._error} if self.status is None else {"headers": self.headers}
        if self.content[:4] in (b"PK\3\4", b"\x89PNG") or len(self.content) > _SHOWN:
            digest = hashlib.sha256(self.content).hexdigest()
            return {**base, "body_bytes": len(self.content), "body_sha256": digest}
        return {**base, "body": self.content.decode("utf-8", "replace")}


class Lab:
    """One emulated relay, the creator's wallet, and a list of what was sent and came back."""

    def __init__(self, relay: RelayEmulator, session: aiohttp.ClientSession) -> None:
        self.relay = relay
        self.steps: list[dict[str, Any]] = []
        self._session = session

    async def now(self) -> int:
        return int((await self.send("GET", "/v1/now")).data["now"])

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        name: str | None = None,
        **shown: Any,
    ) -> Answer:
        """Send a request as it is, and record it when it has a name."""
        # aiohttp does not like to send megabytes from bytes.
        data = BytesIO(body) if body is not None and len(body) > _SHOWN else body
        request = {"data": data, "headers": headers, "skip_auto_headers": ["Content-Type", "Accept-Encoding"]}
        url = URL(f"{self.relay.url}{path}", encoded=True)
        try:
            async with self._session.request(method, url, allow_redirects=False, **request) as response:
                answer = Answer(response.status, dict(response.headers), await response.read())
        except aiohttp.ClientConnectorError as error:
            answer = Answer(None, {}, b"", repr(ConnectionRefusedError(error.errno, os.strerror(error.errno or 0))))
        if name is not None:
            text = None if body is None else body[:_SHOWN].decode("utf-8", "replace")
            step = {"name": name, "method": method, "path": path, "request_headers": headers or {}}
            self.steps.append({**step, "request_body": text, **shown, "response": answer.recorded()})
        return answer

    async def ask(
        self, path: str, fields: dict[str, Any], wallet: Wallet = CREATOR, *, age: int = 0, **options: Any
    ) -> Answer:
        """Send a GET that is signed in its query."""
        timestamp = await self.now() - age
        query = urlencode({"timestamp": timestamp, "signature": wallet.sign(fields, timestamp)})
        return await self.send("GET", f"{path}?{query}", **options)

    async def tell(
        self,
        path: str,
        fields: dict[str, Any],
        wallet: Wallet = CREATOR,
        *,
        body: dict[str, Any] | None = None,
        age: int = 0,
        **options: Any,
    ) -> Answer:
        """Send a POST whose JSON is signed; ``body`` has the fields that are sent, if they are others."""
        timestamp = await self.now() - age
        sent = {**(fields if body is None else body), "timestamp": timestamp}
        sent["signature"] = wallet.sign(fields, timestamp)
        return await self.post(path, sent, **options)

    async def post(self, path: str, document: dict[str, Any], **options: Any) -> Answer:
        content = json.dumps(document).encode()
        return await self.send("POST", path, content, {"Content-Type": "application/json"}, **options)

    async def create(
        self,
        ids: Ids,
        how: str = "json",
        *,
        fields: dict[str, Any] | None = None,
        wallet: Wallet = CREATOR,
        age: int = 0,
        changed: dict[str, Any] | None = None,
        drop: Sequence[str] = (),
        files: Sequence[bytes] = (),
        **options: Any,
    ) -> Answer:
        """Create a task; ``changed`` and ``drop`` differ from what was signed."""
        fields = create_fields(ids) if fields is None else fields
        timestamp = await self.now() - age
        body = {**fields, "timestamp": timestamp, "signature": wallet.sign(fields, timestamp), **(changed or {})}
        path = f"/v1/inference_tasks/{body.pop('task_id_commitment')}"
        body = {name: value for name, value in body.items() if name not in drop}
        if how == "json":
            return await self.post(path, body, **options)
        flat = [(name, str(item)) for name, value in body.items() for item in listed(value)]
        if how == "form":
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            return await self.send("POST", path, urlencode(flat).encode(), form, **options)
        parts = [("checkpoint", "checkpoint.zip", content) for content in files]
        content, headers = multipart(flat, parts)
        return await self.send("POST", path, content, headers, request_body={"multipart": flat}, **options)

    async def look(self, commitment: str, wallet: Wallet = CREATOR, **options: Any) -> Answer:
        fields = {"task_id_commitment": commitment}
        return await self.ask(f"/v1/inference_tasks/{commitment}", fields, wallet, **options)

    async def state(self, ids: Ids) -> dict[str, Any]:
        return dict((await self.look(ids.commitment)).data)

    async def status(self, ids: Ids) -> tuple[int, int]:
        """Return status and reason of a task."""
        state = await self.state(ids)
        return state["status"], state["abort_reason"]

    async def cancel(self, commitment: str, wallet: Wallet = CREATOR, reason: int = 7, **options: Any) -> Answer:
        fields = {"task_id_commitment": commitment, "abort_reason": reason}
        path = f"/v1/inference_tasks/{commitment}/abort_reason"
        return await self.tell(path, fields, wallet, body={"abort_reason": reason}, **options)

    async def validate(
        self,
        task_id: str,
        commitments: Sequence[str],
        seed: str,
        wallet: Wallet = CREATOR,
        *,
        proof: str | None = None,
        key: str | None = None,
        **options: Any,
    ) -> Answer:
        return await self.tell(
            "/v1/inference_tasks/validate",
            {
                "task_id": task_id,
                "task_id_commitments": list(commitments),
                "vrf_proof": proof or proof_of(seed, wallet),
                "public_key": key or wallet.public_key,
            },
            wallet,
            **options,
        )

    async def balance(self, wallet: Wallet = CREATOR, **options: Any) -> Answer:
        fields = {"address": wallet.address}
        return await self.ask(f"/v2/relay_account/{wallet.address}/balance", fields, wallet, **options)

    async def checkpoint(self, commitment: str, wallet: Wallet = CREATOR, **options: Any) -> Answer:
        path = f"/v1/inference_tasks/{commitment}/results/checkpoint"
        return await self.ask(path, {"task_id_commitment": commitment}, wallet, **options)

    async def start_checkpoint(self, commitment: str, wallet: Wallet = CREATOR, **options: Any) -> Answer:
        path = f"/v1/inference_tasks/{commitment}/checkpoint"
        return await self.ask(path, {"task_id_commitment": commitment}, wallet, **options)

    async def selected_node(self, commitment: str, **options: Any) -> Answer:
        path = f"/v1/inference_tasks/{commitment}/selected_node"
        return await self.ask(path, {"task_id_commitment": commitment}, **options)

    async def image(self, commitment: str, index: object, wallet: Wallet = CREATOR, **options: Any) -> Answer:
        fields = {"index": str(index), "task_id_commitment": commitment}
        return await self.ask(f"/v1/inference_tasks/{commitment}/results/{index}", fields, wallet, **options)

    async def chain(self, **order: Any) -> None:
        """Do something on the chain."""
        async with self._session.post(f"{self.relay.control_url}/ctl", data=json.dumps(order)) as response:
            assert response.status == 200, await response.text()

    async def deposit(self, coins: int = 1000) -> None:
        await self.chain(deposit={"from": CREATOR.address, "to": "0x0", "value": coins * 10**18})
        await asyncio.sleep(5)

    async def nodes(self, first: int, count: int = 3) -> list["Node"]:
        """Let nodes join."""
        nodes = [Node(self, number) for number in range(first, first + count)]
        for node in nodes:
            answer = await node.join()
            assert answer.status == 200, answer.content
        return nodes

    async def holder(self, nodes: Sequence["Node"], ids: Ids) -> "Node":
        """Return the node of a task, as soon as it has one."""
        while not (address := (await self.state(ids))["selected_node"]):
            await asyncio.sleep(0.3)
        return next(node for node in nodes if node.wallet.address == address)

    async def until(self, ids: Ids, status: int) -> None:
        while (await self.status(ids))[0] != status:
            await asyncio.sleep(0.3)


class Node:
    """A scripted node."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.wallet = Wallet(Secret(f"{0xA0 + number:02x}" * 32))
        self._lab = lab

    async def join(self) -> Answer:
        address = self.wallet.address
        await self._lab.chain(stake={address: 10**18})
        fields = {
            "network": "dymension",
            "address": address,
            "gpu_name": "NVIDIA GeForce RTX 4090",
            "gpu_vram": 24,
            "version": "3.1.0",
            "model_ids": [f"base:{MODEL}+fp16"],
            "staking": str(10**18),
        }
        return await self._lab.tell(f"/v2/node/{address}/join", fields, self.wallet)

    async def quit(self) -> Answer:
        address = self.wallet.address
        return await self._lab.tell(f"/v1/node/{address}/quit", {"address": address}, self.wallet)

    async def score(self, ids: Ids, score: str = SCORE) -> Answer:
        fields = {"task_id_commitment": ids.commitment, "score": score}
        return await self._lab.tell(f"/v1/inference_tasks/{ids.commitment}/score", fields, self.wallet)

    async def report_error(self, ids: Ids) -> Answer:
        fields = {"task_id_commitment": ids.commitment, "task_error": 1}
        return await self._lab.tell(f"/v1/inference_tasks/{ids.commitment}/task_error", fields, self.wallet)

    async def upload(self, ids: Ids, archive: bytes = FINISHED) -> Answer:
        timestamp = await self._lab.now()
        signature = self.wallet.sign({"task_id_commitment": ids.commitment}, timestamp)
        files = [("files", f"{index}.png", image) for index, image in enumerate(IMAGES)]
        files.append(("checkpoint", "checkpoint.zip", archive))
        body, headers = multipart([("timestamp", str(timestamp)), ("signature", signature)], files)
        return await self._lab.send("POST", f"/v1/inference_tasks/{ids.commitment}/results", body, headers)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def proof_of(seed: str, wallet: Wallet = CREATOR) -> str:
    return "0x" + wallet.prove(bytes.fromhex(seed[2:])).proof.hex()


def multipart(
    fields: Sequence[tuple[str, str]], files: Sequence[tuple[str, str, bytes]]
) -> tuple[bytes, dict[str, str]]:
    boundary = "lab" + secrets.token_hex(8)
    parts = [(f'name="{name}"', value.encode()) for name, value in fields]
    parts += [
        (f'name="{name}"; filename="{file}"\r\nContent-Type: application/octet-stream', content)
        for name, file, content in files
    ]
    head = f"--{boundary}\r\nContent-Disposition: form-data; "
    body = b"".join(head.encode() + about.encode() + b"\r\n\r\n" + content + b"\r\n" for about, content in parts)
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}
