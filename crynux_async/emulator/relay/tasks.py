"""One task of the relay: its states, its deadline, and how it is shown.

Source: crynux-relay models/inference_task.go, service/start_task.go (GetTaskDeadline), api/v1/inference_tasks/
task_response.go.
"""

from enum import IntEnum
from typing import Any

import attrs

from crynux_async.emulator.go_text import rfc3339

FINE_TUNING = 2
"""The type of a fine-tuning task; 0 makes images and 1 is for language models."""

QUEUE_SECONDS = 180.0
"""How much longer than its own timeout a task may wait in the queue."""


class Status(IntEnum):
    """Where a task is."""

    QUEUED = 0
    STARTED = 1
    PARAMETERS_UPLOADED = 2
    ERROR_REPORTED = 3
    SCORE_READY = 4
    VALIDATED = 5
    GROUP_VALIDATED = 6
    END_INVALIDATED = 7
    END_SUCCESS = 8
    END_ABORTED = 9
    END_GROUP_REFUND = 10
    END_GROUP_SUCCESS = 11


class AbortReason(IntEnum):
    """Why a task was aborted."""

    NONE = 0
    TIMEOUT = 1
    MODEL_DOWNLOAD_FAILED = 2
    INCORRECT_RESULT = 3
    FEE_TOO_LOW = 4
    GROUP_TIMEOUT = 5
    ERROR_REPORTED = 6
    CREATOR_CANCELLED = 7


RUNNING = frozenset(
    (Status.STARTED, Status.ERROR_REPORTED, Status.SCORE_READY, Status.VALIDATED, Status.GROUP_VALIDATED)
)
"""States in which a node holds the task."""

SPENT = frozenset((Status.END_SUCCESS, Status.END_GROUP_SUCCESS, Status.END_INVALIDATED))
"""States in which the fee is gone for good."""

FINISHED_BY_NODE = frozenset((Status.ERROR_REPORTED, Status.SCORE_READY))
"""States in which a task can be validated by itself."""

AWAITING_UPLOAD = frozenset((Status.VALIDATED, Status.GROUP_VALIDATED))
"""States in which a result is taken and kept."""


@attrs.define(eq=False, kw_only=True)
class Task:
    """One task.

    Attributes:
        sequence: Its number, from 1.
        commitment: What it is called; found again without regard to case.
        creator: The address that pays.
        nonce: The creator's part of the commitment.
        seed: What decides whether it is validated by a group.
        args: Its arguments as normalised JSON.
        task_type: 2 for fine-tuning.
        version: The least version of a node, "3.1.0".
        timeout: Seconds for run, score, validation and upload together.
        min_vram: GB that the node needs at least.
        required_gpu: The card that it needs; "" for any.
        required_gpu_vram: That card's GB.
        size: What the creator said.
        fee: Wei.
        model_ids: The models that it needs.
        created: When it was created, in seconds since 1970, as all times here.
        status: Where it is.
        abort_reason: Why it was aborted.
        task_error: What the node reported.
        score: The node's score, hexadecimal.
        qos_score: How fast it was in its group, 10, 5 or 2; None outside of groups.
        selected_node: The address of its node, or "".
        task_id: What the creator revealed when it was validated, or "".
        started: When a node took it.
        score_ready: When the node was done with it.
        validated: When it was validated.
        uploaded: When its result arrived.
    """

    sequence: int
    commitment: str
    creator: str
    nonce: str
    seed: str
    args: str
    task_type: int
    version: str
    timeout: int
    min_vram: int
    required_gpu: str
    required_gpu_vram: int
    size: int
    fee: int
    model_ids: tuple[str, ...]
    created: float
    status: Status = Status.QUEUED
    abort_reason: AbortReason = AbortReason.NONE
    task_error: int = 0
    score: str = ""
    qos_score: int | None = None
    selected_node: str = ""
    task_id: str = ""
    started: float | None = None
    score_ready: float | None = None
    validated: float | None = None
    uploaded: float | None = None

    @property
    def key(self) -> str:
        """What it is found by."""
        # The relay finds tasks whatever the case of the letters, and shows the commitment as it was sent.
        return self.commitment.lower()

    @property
    def deadline(self) -> float | None:
        """When it is aborted unless it gets further; None once it has ended."""
        if self.status is Status.QUEUED:
            # The timeout counts in the queue as well, and begins anew when a node has taken the task.
            return self.created + QUEUE_SECONDS + self.timeout
        # Validated is still running: an upload that is late ends the task, and the fee goes back.
        if self.status in RUNNING and self.started is not None:
            return self.started + self.timeout
        return None

    @property
    def run_seconds(self) -> float:
        """How long the node took until its score; infinite without one."""
        if self.started is None or self.score_ready is None:
            return float("inf")
        return self.score_ready - self.started

    @property
    def spent(self) -> int:
        """Wei that the creator has lost to it: nothing while it goes on, and nothing when it was refunded."""
        return self.fee if self.status in SPENT else 0

    @property
    def base_models(self) -> tuple[str, ...]:
        """The models that a node must have on its disk."""
        return tuple(dict.fromkeys(name for name in self.model_ids if name.startswith("base:")))

    def as_answer(self) -> dict[str, Any]:
        """Return what a request for the task gets, in the order of the relay's."""
        times = {
            "create_time": self.created,
            "start_time": self.started,
            "score_ready_time": self.score_ready,
            "validated_time": self.validated,
            "result_uploaded_time": self.uploaded,
        }
        return {
            "sequence": self.sequence,
            "task_args": self.args,
            "task_id_commitment": self.commitment,
            "creator": self.creator,
            "sampling_seed": self.seed,
            "nonce": self.nonce,
            "status": int(self.status),
            "task_type": self.task_type,
            "task_version": self.version,
            "timeout": self.timeout,
            "min_vram": self.min_vram,
            "required_gpu": self.required_gpu,
            "required_gpu_vram": self.required_gpu_vram,
            "task_fee": str(self.fee),
            "task_size": self.size,
            "model_ids": list(self.model_ids),
            "abort_reason": int(self.abort_reason),
            "task_error": self.task_error,
            "score": self.score,
            "qos_score": self.qos_score or 0,
            "selected_node": self.selected_node,
            # Left out while they are not set, and not null: a client must do without each of them.
            **{name: rfc3339(wall) for name, wall in times.items() if wall is not None},
        }
