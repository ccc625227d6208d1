"""Whether a creator may have tasks validated: the task id behind the commitments, and the proof for the seed.

Source: crynux-relay service/validate_task.go, api/v1/inference_tasks/validate_task.go; go-ethereum common/hexutil.
"""

import re
from collections.abc import Sequence

import attrs

from crynux_async.emulator.relay.refusals import failed
from crynux_async.emulator.relay.relay import Relay
from crynux_async.emulator.relay.tasks import FINISHED_BY_NODE, Status, Task
from crynux_async.emulator.relay.vrf import PROOF_BYTES, ProofError, is_selected, verified_output
from crynux_async.emulator.signatures import address_of_point, keccak256

GROUP_SIZE = 3

_KEY_BYTES = 64
_DIGITS = re.compile("[0-9a-fA-F]*", re.ASCII)


class HexError(ValueError):
    """A text is not hexadecimal with 0x; the message is go-ethereum's."""


def from_hex(text: str) -> bytes:
    """Return the bytes of a text like 0x1234.

    Raises:
        HexError: If it is none.
    """
    if not text:
        raise HexError("empty hex string")
    if not text.startswith(("0x", "0X")):
        raise HexError("hex string without 0x prefix")
    digits = text[2:]
    if len(digits) % 2:
        raise HexError("hex string of odd length")
    if not _DIGITS.fullmatch(digits):
        raise HexError("invalid hex string")
    return bytes.fromhex(digits)


@attrs.frozen(kw_only=True)
class Proof:
    """What a creator shows.

    Attributes:
        task_id: The secret behind the commitments.
        vrf_proof: The proof for the first task's seed, hexadecimal.
        public_key: The creator's key, hexadecimal, without the leading 04.
    """

    task_id: str
    vrf_proof: str
    public_key: str


def validate(relay: Relay, tasks: Sequence[Task], proof: Proof, now: float) -> None:
    """Validate one task, or three as a group.

    Raises:
        RefusedError: In the relay's words.
    """
    if len(tasks) == 1:
        _validate_one(relay, tasks[0], proof, now)
    else:
        _validate_group(relay, tasks, proof, now)


def _validate_one(relay: Relay, task: Task, proof: Proof, now: float) -> None:
    if task.status not in FINISHED_BY_NODE:
        raise failed("illegal task state")
    _check_task_id(task, proof.task_id)
    # From here on the task id is known to the relay, whatever the proof turns out to be.
    relay.reveal([task], proof.task_id)
    if _is_selected(task.seed, task.creator, proof):
        raise failed("task is selected for validation")
    relay.validate_one(task, now)


def _validate_group(relay: Relay, tasks: Sequence[Task], proof: Proof, now: float) -> None:
    # In the order of the creates, whatever the order of the commitments: the first one's seed decides.
    members = sorted({task.sequence: task for task in tasks}.values(), key=lambda task: task.sequence)
    if len(members) != GROUP_SIZE:
        raise failed("task group records are incomplete")
    for task in members:
        if task.status not in FINISHED_BY_NODE and task.status is not Status.END_ABORTED:
            raise failed("illegal task state")
        _check_task_id(task, proof.task_id)
    # Published before the proof is looked at, as for one task: a wrong proof gives the secret away all the same.
    relay.reveal(members, proof.task_id)
    if not _is_selected(members[0].seed, members[0].creator, proof):
        raise failed("task is not selected for validation")
    relay.validate_group(members, now)


def _check_task_id(task: Task, task_id: str) -> None:
    try:
        digest = keccak256(from_hex(task_id) + from_hex(task.nonce))
    except HexError as error:
        raise failed(str(error)) from None
    if f"0x{digest.hex()}" != task.commitment:
        raise failed("task id incorrect")


def _is_selected(seed: str, creator: str, proof: Proof) -> bool:
    """Return whether the seed selects its task, after checking the proof for it."""
    public_key = _sized(proof.public_key, _KEY_BYTES, "invalid public key")
    content = _sized(proof.vrf_proof, PROOF_BYTES, "invalid vrf proof")
    # The key comes with the request: only that its address is the creator's makes the proof count.
    if address_of_point(public_key) != creator:
        raise failed("not task creator")
    try:
        return is_selected(verified_output(public_key, from_hex(seed), content))
    except ProofError as error:
        raise failed(str(error)) from None


def _sized(text: str, size: int, refusal: str) -> bytes:
    try:
        content = from_hex(text)
    except HexError:
        raise failed(refusal) from None
    if len(content) != size:
        raise failed(refusal)
    return content
