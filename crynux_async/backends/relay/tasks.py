"""A task as the relay shows it: its states, why it was aborted, and what that means for people and money.

Source: crynux-relay models/inference_task.go, service/task_status.go (who is paid), api/v1/inference_tasks/
task_response.go; measured with the real relay.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, TypeVar

import attrs

_E = TypeVar("_E", bound=IntEnum)

_SEED_DIGITS = 64


class Status(IntEnum):
    """Where a task is; the numbers are the relay's."""

    QUEUED = 0
    STARTED = 1
    PARAMETERS_UPLOADED = 2
    ERROR_REPORTED = 3
    SCORE_READY = 4
    VALIDATED = 5
    GROUP_VALIDATED = 6
    INVALIDATED = 7
    SUCCEEDED = 8
    ABORTED = 9
    GROUP_REFUNDED = 10
    GROUP_SUCCEEDED = 11


class AbortReason(IntEnum):
    """Why a task was aborted; the numbers are the relay's."""

    NONE = 0
    TIMEOUT = 1
    MODEL_DOWNLOAD_FAILED = 2
    INCORRECT_RESULT = 3
    FEE_TOO_LOW = 4
    GROUP_TIMEOUT = 5
    ERROR_REPORTED = 6
    CREATOR_CANCELLED = 7
    CREATOR_VALIDATION_TIMEOUT = 8
    RESULT_UPLOAD_TIMEOUT = 9
    NODE_SLASHED = 10


REASONS: Mapping[AbortReason, str] = {
    AbortReason.NONE: "the relay gave no reason: retry it",
    # The relay has one number for both; a node that cannot load its data set says nothing until its time is up, too.
    AbortReason.TIMEOUT: (
        "the time was up: no node took it (raise fee), or one was not done (raise timeout, or check the data set)"
    ),
    AbortReason.MODEL_DOWNLOAD_FAILED: "no node could load {model}: check model_name and model_variant",
    AbortReason.INCORRECT_RESULT: "the nodes that checked each other did not agree: retry it",
    AbortReason.FEE_TOO_LOW: "the fee was too low: raise fee",
    AbortReason.GROUP_TIMEOUT: (
        "fewer than two of the three nodes that check each other were done in time: raise timeout"
    ),
    AbortReason.ERROR_REPORTED: (
        "the node could not run the task with these arguments: look at them with 'crynux-async check'"
    ),
    AbortReason.CREATOR_CANCELLED: "cancelled",
    AbortReason.CREATOR_VALIDATION_TIMEOUT: (
        "nobody validated the result in time: keep a session of the wallet open until a job has ended"
    ),
    AbortReason.RESULT_UPLOAD_TIMEOUT: "the node did not upload its result in time: raise timeout",
    AbortReason.NODE_SLASHED: "the node was thrown out of the network: retry it",
}
"""Each reason in words for people, with what to do behind a colon; ``{model}`` stands for the base model."""


def reason_text(reason: AbortReason, model: str = "") -> str:
    """Return a reason in words for people.

    Args:
        reason: The reason.
        model: The base model's name, or "" where it is not known.
    """
    # Not ``format``: a model's name may have braces of its own.
    return REASONS[reason].replace("{model}", f"the base model {model}" if model else "the base model")


ENDED = frozenset((Status.INVALIDATED, Status.SUCCEEDED, Status.ABORTED, Status.GROUP_REFUNDED, Status.GROUP_SUCCEEDED))
"""States that a task never leaves."""

SPENT = frozenset((Status.INVALIDATED, Status.SUCCEEDED, Status.GROUP_SUCCEEDED))
"""States in which the fee is gone; in the other two that end, it was given back."""

# Source: crynux-relay service/task_status.go, which gives the fee back for every other reason.
UNREFUNDED = frozenset((AbortReason.CREATOR_VALIDATION_TIMEOUT,))
"""Reasons for which an aborted task is not refunded; the relay has none of them for fine-tuning."""


class TaskError(ValueError):
    """What the relay shows is no task; the message names what is wrong."""


@attrs.frozen(kw_only=True)
class RelayTask:
    """One task as the relay shows it.

    Attributes:
        commitment: What it is called.
        creator: The address that pays for it.
        nonce: Its owner's part of the commitment.
        seed: Its sampling seed, 32 bytes.
        args: Its arguments as JSON.
        status: Where it is.
        abort_reason: Why it was aborted.
        fee: Wei.
        timeout: Seconds for run, score, validation and upload together.
        created_at: When it was created, aware UTC, or None where that is not shown.
        started_at: When a node took it, or None while none has.
        scored_at: When the node had a score or reported an error, or None.
        validated_at: When its owner validated it, or None.
        uploaded_at: When its result had arrived, or None.
        node: The address of its node, or "".
        model_ids: The models that its node must have, as the relay names them.
        min_vram: GB that its node must have.
    """

    commitment: str
    creator: str
    nonce: str
    seed: bytes
    args: str
    status: Status
    abort_reason: AbortReason
    fee: int
    timeout: int
    created_at: datetime | None = None
    started_at: datetime | None = None
    scored_at: datetime | None = None
    validated_at: datetime | None = None
    uploaded_at: datetime | None = None
    node: str = ""
    model_ids: tuple[str, ...] = ()
    min_vram: int = 0

    @property
    def model(self) -> str:
        """The base model, with its variant in brackets; "" where it is not shown."""
        name, _, variant = next(iter(self.model_ids), "").removeprefix("base:").partition("+")
        return f"{name} ({variant})" if variant else name

    @property
    def deadline(self) -> float | None:
        """Seconds since 1970 at which it is aborted unless it is done, or None while no node has it."""
        return None if self.started_at is None else self.started_at.timestamp() + self.timeout

    @property
    def spent(self) -> int:
        """Wei that are gone for good: nothing while it goes on, and nothing when it was refunded."""
        is_kept = self.status is Status.ABORTED and self.abort_reason in UNREFUNDED
        return self.fee if self.status in SPENT or is_kept else 0


def read_task(data: Any) -> RelayTask:
    """Return the task that a JSON object shows.

    Raises:
        TaskError: It is no task, or one in a state that this library does not know.
    """
    if not isinstance(data, Mapping):
        raise TaskError("it is not a JSON object")
    return RelayTask(
        commitment=_text(data, "task_id_commitment").lower(),
        creator=_text(data, "creator"),
        nonce=_text(data, "nonce").lower(),
        seed=_seed(data),
        args=_text(data, "task_args"),
        status=_member(Status, data, "status"),
        abort_reason=_member(AbortReason, data, "abort_reason"),
        fee=_fee(data),
        timeout=_whole(data, "timeout"),
        created_at=read_time(data.get("create_time")),
        started_at=read_time(data.get("start_time")),
        scored_at=read_time(data.get("score_ready_time")),
        validated_at=read_time(data.get("validated_time")),
        uploaded_at=read_time(data.get("result_uploaded_time")),
        node=_text(data, "selected_node"),
        model_ids=_texts(data, "model_ids"),
        min_vram=_whole(data, "min_vram"),
    )


def read_time(value: Any) -> datetime | None:
    """Return a time as Go writes it (with up to 9 digits behind the point) in UTC, or None where it is none."""
    if not isinstance(value, str):
        return None
    try:
        # Python reads any number of digits and keeps six.
        time = datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str):
        raise TaskError(f"{name} is not text: {value!r}")
    return value


def _texts(data: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = data.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TaskError(f"{name} is not a list of texts: {value!r}")
    return tuple(value)


def _whole(data: Mapping[str, Any], name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TaskError(f"{name} is not a whole number: {value!r}")
    return value


def _fee(data: Mapping[str, Any]) -> int:
    text = _text(data, "task_fee")
    if not (text.isascii() and text.isdigit()):
        raise TaskError(f"task_fee is not a number of wei: {text!r}")
    return int(text)


def _seed(data: Mapping[str, Any]) -> bytes:
    text = _text(data, "sampling_seed").removeprefix("0x")
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(text) != _SEED_DIGITS or len(seed) * 2 != _SEED_DIGITS:
        raise TaskError(f"sampling_seed is not 32 bytes: {text!r}")
    return seed


def _member(kind: type[_E], data: Mapping[str, Any], name: str) -> _E:
    value = _whole(data, name)
    try:
        return kind(value)
    except ValueError:
        raise TaskError(f"{name} has an unknown value: {value}") from None
