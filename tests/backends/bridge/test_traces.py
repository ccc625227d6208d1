"""Why jobs failed, read from traces of the bridge's own form."""

import json
from typing import Any

import pytest

from crynux_async.backends.bridge.traces import Course, read_courses
from crynux_async.backends.http.answer import Answer
from crynux_async.errors import AuthError, ProtocolError, ServerError


def answer(status: int, content: Any) -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Answer(status=status, content_type="application/json", body=body, url="http://b/v1/admin/tasks?auth=***")


def event(name: str, second: int, **details: Any) -> dict[str, Any]:
    return {
        "name": name,
        "timestamp": f"2026-11-28T18:{second // 60:02d}:{second % 60:02d}.123456789+09:00",
        "task_status": "x",
        "task_status_code": 0,
        **({"details": details} if details else {}),
    }


def ended(chain_status: int, abort_reason: int, task_error: int) -> dict[str, int]:
    return {"chain_status": chain_status, "abort_reason": abort_reason, "task_error": task_error}


def task(*events: dict[str, Any], status: str = "end_aborted", role: str = "primary", job: int = 7) -> dict[str, Any]:
    return {
        "local_id": 1,
        "client_task_id": job,
        "task_id": "0x01",
        "task_id_commitment": "0x02",
        "role": role,
        "status": status,
        "created_at": "2026-11-28T18:00:00+09:00",
        "updated_at": "2026-11-28T18:00:00+09:00",
        "events": list(events),
    }


STARTED = event("task_started", 5, **ended(1, 0, 0))
SILENT = task(STARTED, event("end_aborted", 65, **ended(9, 1, 0)))
QUEUED = task(event("relay_task_created", 1), event("end_aborted", 65, **ended(9, 1, 0)))
REFUSED = task(
    STARTED,
    event("error_reported", 20, **ended(3, 0, 1)),
    event("validation_submitted", 21, task_group_size=1),
    event("end_aborted", 25, **ended(9, 6, 1)),
)
POOR = task(
    event("relay_task_create_submitted", 1),
    event("relay_task_create_rejected", 2, error="RelayError: 400\nInsufficient relay account balance"),
)
GOOD = task(STARTED, event("result_downloaded", 60), status="result_downloaded")


def course(*tasks: dict[str, Any], response: Any = {"data": {"id": 7}}) -> Course:  # noqa: B006
    trace = {"source": "image_finetune", "response": response, "parallel_tasks": list(tasks)}
    return read_courses(answer(200, {"message": "success", "data": [trace]}))["7"]


def test_node_that_refuses_the_arguments_is_said_with_the_relays_numbers() -> None:
    assert course(*[REFUSED] * 4).reason == (
        "4 tries failed after 25 s: the node did not accept the arguments [abort reason 6, task error 1] "
        "(UTC: " + ", ".join(["2026-11-28 09:00:00 to 09:00:25"] * 4) + ")"
    )


def test_silent_node_is_told_from_an_empty_network() -> None:
    assert "the node gave no result until its time was up" in course(SILENT).reason
    assert "no node took it before its time was up" in course(QUEUED).reason


def test_different_causes_are_counted_and_durations_are_a_range() -> None:
    reason = course(SILENT, REFUSED, REFUSED).reason
    assert reason.startswith("3 tries failed after 25 to 65 s: the node gave no result")
    assert "; 2 times the node did not accept the arguments [" in reason


def test_refusal_of_the_relay_is_repeated_in_one_line() -> None:
    reason = course(POOR).reason
    assert "the relay refused it (RelayError: 400 Insufficient relay account balance)" in reason
    assert "\n" not in reason


def test_rounds_that_came_before_are_told() -> None:
    reason = course(GOOD, SILENT).reason
    assert reason.startswith("1 try failed after 1 round with a result after 65 s")
    first, second = "2026-11-28 09:00:00 to 09:01:00 with a result", "2026-11-28 09:00:00 to 09:01:05"
    assert reason.endswith(f" (UTC: {first}, {second})")


def test_try_over_midnight_says_both_days() -> None:
    late = {**SILENT, "created_at": "2026-11-28T08:59:59+09:00"}
    assert course(late).reason.endswith("(UTC: 2026-11-27 23:59:59 to 2026-11-28 09:01:05)")


def test_job_without_a_failure_has_no_reason() -> None:
    assert course(GOOD).reason == ""
    assert course(task(STARTED, status="started")).reason == ""


def test_tries_say_when_and_what() -> None:
    (one,) = course(REFUSED).tries
    assert (one.commitment, one.status, one.role) == ("0x02", "end_aborted", "primary")
    assert one.started_at is not None
    assert one.started_at.isoformat() == "2026-11-28T09:00:05.123456+00:00"
    assert (one.abort_reason, one.task_error, one.seconds) == (6, 1, pytest.approx(25.12, abs=0.01))


@pytest.mark.parametrize("reason", range(2, 11))
def test_every_abort_reason_of_the_relay_has_words(reason: int) -> None:
    one = course(task(STARTED, event("end_aborted", 9, **ended(9, reason, 0))))
    assert f"[abort reason {reason}, task error 0]" in one.reason
    assert one.tries[0].cause


def test_job_is_found_by_its_node_tasks_where_the_response_is_missing() -> None:
    assert course(SILENT, response=None).task_id == "7"


@pytest.mark.parametrize(
    "odd",
    [
        "x",
        {"source": "image_finetune", "parallel_tasks": "x"},
        {"source": "image_finetune", "parallel_tasks": [5]},
        {"source": "image_finetune", "response": 5},
        {"source": "image_finetune", "parallel_tasks": [{"client_task_id": [], "events": []}]},
    ],
)
def test_trace_of_another_form_hides_no_other_job(odd: Any) -> None:
    good = {"source": "image_finetune", "response": {"data": {"id": 7}}, "parallel_tasks": [SILENT]}
    for traces in ([odd, good], [good, odd]):
        assert read_courses(answer(200, {"data": traces}))["7"].reason


def test_traces_of_other_kinds_are_passed_over() -> None:
    others = [{"source": "openai_completions", "parallel_tasks": [SILENT]}, {"source": "image_finetune"}]
    assert read_courses(answer(200, {"data": others})) == {}


def test_trace_that_lacks_parts_is_read_as_far_as_it_goes() -> None:
    bare = {"client_task_id": 7, "events": None}
    assert course(bare, {**SILENT, "created_at": "soon", "events": [{"name": "end_aborted"}]}).reason == ""


@pytest.mark.parametrize("content", [b"<html>", {"data": None}, {"data": 5}, {}, [], {"data": ["x"]}])
def test_answer_of_another_form_is_no_bridges(content: Any) -> None:
    with pytest.raises(ProtocolError, match="no bridge answers traces like this"):
        read_courses(answer(200, content))


def test_refused_token_and_failing_bridge_are_told_apart() -> None:
    with pytest.raises(AuthError):
        read_courses(answer(401, {"message": "unauthorized"}))
    with pytest.raises(ServerError):
        read_courses(answer(500, {"message": "x"}))
