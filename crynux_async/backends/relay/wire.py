"""What is sent to the relay: creates as text that is durable before it is sent, and the signed fields of every call.

The relay signs nothing: it writes the fields that it has read once more and recovers an address from the signature. So
all fields of a create are always sent, and with the types here; one byte of difference is a stranger's signature, and a
stranger's create of a task that costs nothing would even be accepted. Hence no fee of 0 can be expressed.

Source: crynux-relay api/v1/inference_tasks (the structs), api/v2/relay_account/get_balance.go, blockchain/signature.go.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import attrs

from crynux_async.backends.relay.arguments import model_ids, task_args
from crynux_async.backends.relay.ids import TaskIds
from crynux_async.backends.relay.tasks import RelayTask
from crynux_async.signing import Wallet
from crynux_async.training.config import FineTuneConfig

MIN_VRAM = 24
"""GB that the node must have at least, as a bridge asks for."""

TASK_VERSION = "3.1.0"
"""The least version of a node."""

CANCEL_REASON = 7
"""The only reason for which an owner may abort a task."""

# Without a type the relay takes a task for one of images, and judges the arguments by that schema.
_FINE_TUNING = 2
_TASK_SIZE = 1
_COMMITMENT = re.compile(r"0x[0-9a-f]{64}", re.ASCII)
# Of the stored text: a create of an older process must still be sent as it was agreed to.
_VERSION = 1


class PayloadError(ValueError):
    """A text is no payload that this library has made; the message says why."""


@attrs.frozen(kw_only=True)
class CreateRequest:
    """A create: what the relay is asked for, without task id and signature.

    Attributes:
        commitment: What the task is called: 0x and 64 hexadecimal digits.
        nonce: Its owner's part of that, in the same form.
        args: Its arguments as JSON.
        model_ids: The models that a node must have.
        timeout: Seconds for run, score, validation and upload together, > 0.
        fee: Wei, > 0.
        min_vram: GB that the node must have, >= 0.
    """

    commitment: str = attrs.field(validator=attrs.validators.matches_re(_COMMITMENT))
    nonce: str = attrs.field(validator=attrs.validators.matches_re(_COMMITMENT))
    args: str
    model_ids: tuple[str, ...]
    timeout: int = attrs.field(validator=attrs.validators.gt(0))
    fee: int = attrs.field(validator=attrs.validators.gt(0))
    min_vram: int = attrs.field(default=MIN_VRAM, validator=attrs.validators.ge(0))

    @classmethod
    def of(cls, ids: TaskIds, config: FineTuneConfig, *, fee: int) -> Self:
        """Return the create of a task that trains ``config``.

        Args:
            ids: What the task is called.
            config: What is trained, with what cannot be sent already replaced.
            fee: Wei, > 0.
        """
        return cls(
            commitment=ids.commitment,
            nonce=ids.nonce,
            args=task_args(config),
            model_ids=model_ids(config),
            timeout=config.timeout,
            fee=fee,
        )

    @classmethod
    def again(cls, task: RelayTask) -> Self:
        """Return the create that a task came from, as far as the relay shows it.

        Args:
            task: One of this wallet's own.
        """
        return cls(
            commitment=task.commitment,
            nonce=task.nonce,
            args=task.args,
            model_ids=task.model_ids,
            timeout=task.timeout,
            fee=task.fee,
            min_vram=task.min_vram,
        )

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the create whose ``as_text`` gave ``text``.

        Raises:
            PayloadError: It is none.
        """
        try:
            values = json.loads(text)
            if values.pop("version") != _VERSION:
                raise PayloadError("this create was stored by a newer version of crynux_async")
            return cls(**{**values, "model_ids": tuple(values["model_ids"])})
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise PayloadError(f"no stored create: {error}") from error

    @property
    def model(self) -> str:
        """The name of the base model."""
        return self.model_ids[0].removeprefix("base:").partition("+")[0] if self.model_ids else ""

    def as_text(self) -> str:
        """Return it as text for a ledger. There is no secret in it."""
        return json.dumps({"version": _VERSION, **attrs.asdict(self)}, sort_keys=True, separators=(",", ":"))

    def sibling(self, ids: TaskIds) -> Self:
        """Return the create of another task that does the same for the same fee."""
        return attrs.evolve(self, commitment=ids.commitment, nonce=ids.nonce)

    def fields(self) -> dict[str, Any]:
        """Return what is signed: every field, wei as text."""
        return {
            "task_id_commitment": self.commitment,
            "task_args": self.args,
            "task_type": _FINE_TUNING,
            "nonce": self.nonce,
            "task_model_ids": list(self.model_ids),
            "min_vram": self.min_vram,
            # Empty and zero, and never left out: signed as null, these make the relay's create end in a panic.
            "required_gpu": "",
            "required_gpu_vram": 0,
            "task_version": TASK_VERSION,
            "task_size": _TASK_SIZE,
            # The relay's big integers are texts in what is signed; a number here is another signature.
            "task_fee": str(self.fee),
            "timeout": self.timeout,
        }


@attrs.frozen(kw_only=True)
class Request:
    """One signed request, ready to be sent once.

    Attributes:
        method: "GET" or "POST".
        path: The path.
        query: What goes into the address behind it; the signature of a GET is in there.
        body: JSON, or None for a GET.
    """

    method: str
    path: str
    query: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes | None = attrs.field(default=None, repr=False)


def is_commitment(text: str) -> bool:
    """Return whether a task can be called so: the relay takes other names, and could never validate their tasks."""
    return _COMMITMENT.fullmatch(text) is not None


def create_task(request: CreateRequest, wallet: Wallet, timestamp: int) -> Request:
    """Return the request that creates a task.

    Args:
        request: The task.
        wallet: Who pays for it.
        timestamp: The relay's time, in seconds since 1970, as in all requests here.
    """
    fields = request.fields()
    # The commitment stands in the path, and is signed all the same.
    body = {name: value for name, value in fields.items() if name != "task_id_commitment"}
    return _post(_task_path(request.commitment), fields, body, wallet, timestamp)


def look_at_task(commitment: str, wallet: Wallet, timestamp: int) -> Request:
    """Return the request that shows a task."""
    return _get(_task_path(commitment), {"task_id_commitment": commitment}, wallet, timestamp)


def validate_tasks(ids: Sequence[TaskIds], seed: bytes, wallet: Wallet, timestamp: int) -> Request:
    """Return the request that validates one task, or the three of a group.

    Args:
        ids: What they are called; they share a task id.
        seed: The sampling seed of the first of them, 32 bytes.
        wallet: Whose they are.
        timestamp: The relay's time.
    """
    fields = {
        "task_id": ids[0].task_id,
        "task_id_commitments": [member.commitment for member in ids],
        "vrf_proof": f"0x{wallet.prove(seed).proof.hex()}",
        "public_key": wallet.public_key,
    }
    return _post("/v1/inference_tasks/validate", fields, fields, wallet, timestamp)


def cancel_task(commitment: str, wallet: Wallet, timestamp: int) -> Request:
    """Return the request that cancels a task while it waits for a node."""
    fields = {"task_id_commitment": commitment, "abort_reason": CANCEL_REASON}
    path = f"{_task_path(commitment)}/abort_reason"
    return _post(path, fields, {"abort_reason": CANCEL_REASON}, wallet, timestamp)


def fetch_archive(commitment: str, wallet: Wallet, timestamp: int) -> Request:
    """Return the request for the archive of a task, or for a part of it."""
    path = f"{_task_path(commitment)}/results/checkpoint"
    return _get(path, {"task_id_commitment": commitment}, wallet, timestamp)


def fetch_image(commitment: str, index: int, wallet: Wallet, timestamp: int) -> Request:
    """Return the request for a validation image of a task, the first of which is 0."""
    # Text, as it stands in the path: the relay signs what it has read from there.
    fields = {"index": str(index), "task_id_commitment": commitment}
    return _get(f"{_task_path(commitment)}/results/{index}", fields, wallet, timestamp)


def ask_balance(wallet: Wallet, timestamp: int) -> Request:
    """Return the request for what is on a wallet's account."""
    path = f"/v2/relay_account/{wallet.address}/balance"
    return _get(path, {"address": wallet.address}, wallet, timestamp)


def log_in(wallet: Wallet, timestamp: int) -> Request:
    """Return the request for a token that opens the lists of a wallet's account."""
    text = f"Crynux Relay\nAction: Connect Wallet\nAddress: {wallet.address}\nTimestamp: {timestamp}"
    body = {"address": wallet.address, "signature": wallet.sign_personal(text), "timestamp": timestamp}
    return Request(method="POST", path="/v1/client/connect_wallet", body=_json(body))


def list_fees(address: str, page: int, page_size: int) -> Request:
    """Return the request for a page of payments and refunds, the newest first; it needs a token.

    Args:
        address: Whose.
        page: Which page, >= 1.
        page_size: How many to a page, >= 1.
    """
    query = {"page": str(page), "page_size": str(page_size)}
    return Request(method="GET", path=f"/v1/relay_account/{address}/task_fee", query=query)


def ask_time() -> Request:
    """Return the request for the relay's time, which nobody signs."""
    return Request(method="GET", path="/v1/now")


def list_models() -> Request:
    """Return the request for the base models that nodes have, which nobody signs."""
    return Request(method="GET", path="/v2/loaded-models")


def count_nodes() -> Request:
    """Return the request for how many nodes there are, which nobody signs."""
    return Request(method="GET", path="/v1/network/nodes/number")


def count_queue() -> Request:
    """Return the request for how many tasks wait, which nobody signs."""
    return Request(method="GET", path="/v1/stats/queue/count")


def _task_path(commitment: str) -> str:
    return f"/v1/inference_tasks/{commitment}"


def _get(path: str, fields: Mapping[str, Any], wallet: Wallet, timestamp: int) -> Request:
    query = {"timestamp": str(timestamp), "signature": wallet.sign(fields, timestamp)}
    return Request(method="GET", path=path, query=query)


def _post(path: str, fields: Mapping[str, Any], body: Mapping[str, Any], wallet: Wallet, timestamp: int) -> Request:
    signed = {**body, "timestamp": timestamp, "signature": wallet.sign(fields, timestamp)}
    return Request(method="POST", path=path, body=_json(signed))


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
