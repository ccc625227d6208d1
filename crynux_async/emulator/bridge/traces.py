"""Traces: what the bridge remembers of the course of a task, and shows to whoever has its admin token.

Source: crynux-bridge tasktrace/store.go (the form), tasks/process_tasks.go and process_sd_ft_tasks.go (the events).
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from crynux_async.emulator.bridge.jobs import Job
from crynux_async.emulator.go_text import rfc3339
from crynux_async.emulator.nodes.node import Round

_TYPE = {"task_type": "sd_finetune_lora", "task_type_code": 2}
# The bridge's own numbers, which are not the relay's.
_STATUSES = {
    "created": 1, "started": 2, "score_ready": 4, "error_reported": 5, "validated": 6, "end_aborted": 7,
    "end_success": 10, "result_downloaded": 11,
}  # fmt: skip
_START = (
    ("worker_processing_started", "pending", None),
    ("relay_task_create_submitted", "pending", None),
    ("relay_task_created", "created", None),
    ("task_started", "started", (1, 0, 0)),
)
_ENDS: Mapping[str, tuple[tuple[str, str, Any], ...]] = {
    "trains": (
        ("score_ready", "score_ready", (4, 0, 0)),
        ("validation_submitted", "score_ready", {"task_group_size": 1}),
        ("validation_passed", "validated", (5, 0, 0)),
        ("end_success", "end_success", (8, 0, 0)),
        ("result_download_started", "end_success", None),
        ("result_downloaded", "result_downloaded", None),
    ),
    "fails": (
        ("error_reported", "error_reported", (3, 0, 1)),
        ("validation_submitted", "error_reported", {"task_group_size": 1}),
        ("end_aborted", "end_aborted", (9, 6, 1)),
    ),
    "silent": (("end_aborted", "end_aborted", (9, 1, 0)),),
}


def trace(job: Job, *, now: float, speed: float) -> dict[str, Any]:
    """Return the trace of a job.

    Args:
        job: A job that was accepted.
        now: Seconds on the server's steady clock.
        speed: Seconds of training time per second, > 0.
    """
    assert job.course is not None
    rounds = job.course.rounds(max(0.0, now - job.created) * speed)
    tasks = [_task(job, number, one, speed, last=number == len(rounds)) for number, one in enumerate(rounds)]
    at = rfc3339(job.created_wall)
    row = {"id": job.task_id, "created_at": at, "updated_at": at, "deleted_at": None, "client_id": job.client}
    return {
        "source": "image_finetune",
        "endpoint": "/v1/images/models",
        "client_id": str(job.client),
        "model": job.args.model_name,
        **_TYPE,
        "request_time": at,
        "response_time": at,
        "duration_seconds": 0.01,
        "request": {**attrs.asdict(job.args), "Authorization": ""},
        "response": {"message": "", "data": {**row, "status": "running", "failed_count": 0}},
        "primary_task_id_commitment": tasks[0]["task_id_commitment"],
        "parallel_tasks": tasks,
        "validation_groups": [],
        "missing_data": [],
    }


def _task(job: Job, number: int, one: Round, speed: float, *, last: bool) -> dict[str, Any]:
    began, ended = (None if at is None else job.created_wall + at / speed for at in (one.began, one.ended))
    assert began is not None
    events = list(_events(one, began, ended))
    if ended is not None and not last:
        events.append(_event("finetune_retry_task_created", events[-1]["task_status"], None, ended))
    if ended is not None and last and one.fate == "trains":
        events.append(_event("finetune_result_ready", "result_downloaded", None, ended))
    return {
        "local_id": job.task_id * 1000 + number,
        "client_task_id": job.task_id,
        "task_id": _hex(job, number, "task"),
        "task_id_commitment": _hex(job, number, "commitment"),
        "role": "retry" if number else "primary",
        **_TYPE,
        "status": events[-1]["task_status"],
        "status_code": events[-1]["task_status_code"],
        "created_at": rfc3339(began),
        "updated_at": events[-1]["timestamp"],
        "sequence": job.task_id * 1000 + number,
        "events": events,
    }


def _events(one: Round, began: float, ended: float | None) -> Iterator[dict[str, Any]]:
    for name, status, details in _START:
        yield _event(name, status, details, began)
    if ended is not None:
        for name, status, details in _ENDS[one.fate]:
            yield _event(name, status, details, ended)


def _event(name: str, status: str, details: Any, at: float) -> dict[str, Any]:
    event = {
        "name": name,
        "timestamp": rfc3339(at),
        "task_status": status,
        "task_status_code": _STATUSES.get(status, 0),
    }
    if isinstance(details, tuple):
        details = dict(zip(("chain_status", "abort_reason", "task_error"), details, strict=True))
    return event if details is None else {**event, "details": details}


def _hex(job: Job, number: int, what: str) -> str:
    return "0x" + hashlib.sha256(f"{what} {job.task_id} {number} {job.created_wall}".encode()).hexdigest()
