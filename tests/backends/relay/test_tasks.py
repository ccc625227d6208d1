"""Tasks as the relay shows them, read from what the real one answered."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crynux_async.backends.relay.tasks import (
    REASONS,
    AbortReason,
    RelayTask,
    Status,
    TaskError,
    read_task,
    read_time,
    reason_text,
)
from tests.relay_lab import FEE, task_args

RECORDED = Path(__file__).parents[2] / "data" / "relay" / "recorded.json"
SEED = "0x" + "12" * 32


def shown(**changes: Any) -> dict[str, Any]:
    """Return a task in the form that the relay shows."""
    task = {
        "sequence": 1,
        "task_args": task_args(),
        "task_id_commitment": "0x" + "AB" * 32,
        "creator": "0xC",
        "sampling_seed": SEED,
        "nonce": "0x" + "CD" * 32,
        "status": 1,
        "task_type": 2,
        "task_version": "3.1.0",
        "timeout": 600,
        "min_vram": 24,
        "required_gpu": "",
        "required_gpu_vram": 0,
        "task_fee": str(FEE),
        "task_size": 1,
        "model_ids": ["base:m"],
        "abort_reason": 0,
        "task_error": 0,
        "score": "",
        "qos_score": 0,
        "selected_node": "0xN",
        "create_time": "2026-11-28T16:11:05.123456789+01:00",
        "start_time": "2026-11-28T15:11:06Z",
    }
    return {**task, **changes}


def recorded_tasks() -> list[dict[str, Any]]:
    """Return every task in the recordings, with values in the place of the placeholders."""
    found = []
    for scenario in json.loads(RECORDED.read_text(encoding="utf-8")):
        for step in scenario["steps"]:
            body = step["response"].get("body", "")
            if '"sampling_seed"' in body and body.endswith("}"):
                found.append(json.loads(body)["data"])
    for task in found:
        task["sampling_seed"] = SEED
    return found


def test_every_recorded_task_is_read() -> None:
    tasks = [read_task(data) for data in recorded_tasks()]
    assert len(tasks) > 50
    assert {task.status for task in tasks} == {Status(number) for number in (0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11)}
    assert {task.timeout for task in tasks} >= {1, 6, 14, 600}


def test_task_is_read_field_by_field() -> None:
    assert read_task(shown()) == RelayTask(
        commitment="0x" + "ab" * 32,
        creator="0xC",
        nonce="0x" + "cd" * 32,
        seed=bytes([0x12]) * 32,
        args=task_args(),
        status=Status.STARTED,
        abort_reason=AbortReason.NONE,
        fee=FEE,
        timeout=600,
        created_at=datetime(2026, 11, 28, 15, 11, 5, 123456, tzinfo=UTC),
        started_at=datetime(2026, 11, 28, 15, 11, 6, tzinfo=UTC),
        node="0xN",
        model_ids=("base:m",),
        min_vram=24,
    )


def test_instants_of_a_task_are_read_as_far_as_they_are_shown() -> None:
    times = {"score_ready_time": "2026-11-28T15:13:06Z", "validated_time": "2026-11-28T15:13:09.5Z"}
    task = read_task(shown(status=5, **times))
    assert task.scored_at == datetime(2026, 11, 28, 15, 13, 6, tzinfo=UTC)
    assert task.validated_at == datetime(2026, 11, 28, 15, 13, 9, 500_000, tzinfo=UTC)
    assert task.uploaded_at is None
    assert read_task(shown(result_uploaded_time="2026-11-28T15:13:20Z")).uploaded_at == datetime(
        2026, 11, 28, 15, 13, 20, tzinfo=UTC
    )


def test_deadline_counts_from_the_start() -> None:
    assert read_task(shown()).deadline == datetime(2026, 11, 28, 15, 21, 6, tzinfo=UTC).timestamp()
    assert read_task(shown(start_time=None)).deadline is None


@pytest.mark.parametrize(
    ("status", "reason", "spent"),
    [(0, 0, 0), (1, 0, 0), (5, 0, 0), (6, 0, 0), (7, 0, FEE), (8, 0, FEE), (11, 0, FEE), (10, 0, 0), (9, 1, 0),
     (9, 3, 0), (9, 7, 0), (9, 8, FEE)],
)  # fmt: skip
def test_money_is_spent_as_the_relay_says(status: int, reason: int, spent: int) -> None:
    assert read_task(shown(status=status, abort_reason=reason)).spent == spent


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": 12}, "status has an unknown value: 12"),
        ({"status": True}, "status is not a whole number: True"),
        ({"status": "1"}, "status is not a whole number: '1'"),
        ({"abort_reason": 11}, "abort_reason has an unknown value: 11"),
        ({"sampling_seed": "0x12"}, "sampling_seed is not 32 bytes: '12'"),
        ({"sampling_seed": "0x" + "zz" * 32}, "sampling_seed is not 32 bytes"),
        ({"sampling_seed": " 1" * 32}, "sampling_seed is not 32 bytes"),
        ({"task_fee": 15}, "task_fee is not text: 15"),
        ({"task_fee": "-1"}, "task_fee is not a number of wei: '-1'"),
        ({"task_fee": "٣"}, "task_fee is not a number of wei"),
        ({"timeout": -1}, "timeout is not a whole number: -1"),
        ({"creator": None}, "creator is not text: None"),
    ],
)
def test_what_is_no_task_names_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message.replace("(", r"\(")):
        read_task(shown(**changes))


@pytest.mark.parametrize("data", [None, [], "task", 1])
def test_other_json_is_no_task(data: object) -> None:
    with pytest.raises(TaskError):
        read_task(data)


@pytest.mark.parametrize("text", [None, 5, "", "today", "2026-11-28T15:11:06", "9999-12-31T23:59:59-23:59"])
def test_time_without_an_instant_is_none(text: object) -> None:
    assert read_time(text) is None


def test_every_reason_has_words() -> None:
    assert set(REASONS) == set(AbortReason)


@pytest.mark.parametrize(
    ("reason", "cure"),
    [
        (AbortReason.TIMEOUT, "raise fee"),
        (AbortReason.TIMEOUT, "raise timeout"),
        (AbortReason.MODEL_DOWNLOAD_FAILED, "check model_name and model_variant"),
        (AbortReason.INCORRECT_RESULT, "retry it"),
        (AbortReason.FEE_TOO_LOW, "raise fee"),
        (AbortReason.GROUP_TIMEOUT, "raise timeout"),
        (AbortReason.ERROR_REPORTED, "crynux-async check"),
        (AbortReason.CREATOR_VALIDATION_TIMEOUT, "keep a session of the wallet open"),
        (AbortReason.RESULT_UPLOAD_TIMEOUT, "raise timeout"),
        (AbortReason.NODE_SLASHED, "retry it"),
        (AbortReason.NONE, "retry it"),
    ],
)
def test_reason_says_what_to_do_and_is_short(reason: AbortReason, cure: str) -> None:
    text = reason_text(reason, "sd-1.5 (fp16)")
    assert cure in text.partition(": ")[2]
    assert len(text) <= 110


def test_cancelled_task_says_that_alone() -> None:
    assert reason_text(AbortReason.CREATOR_CANCELLED) == "cancelled"  # there is nothing to mend


def test_base_model_that_no_node_could_load_is_named() -> None:
    reason = AbortReason.MODEL_DOWNLOAD_FAILED
    task = read_task(shown(model_ids=["base:acme/sd{1}+fp16"]))
    assert "load the base model acme/sd{1} (fp16):" in reason_text(reason, task.model)
    assert "load the base model:" in reason_text(reason, read_task(shown(model_ids=[])).model)
    assert read_task(shown(model_ids=["base:acme/sd"])).model == "acme/sd"
