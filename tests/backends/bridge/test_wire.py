"""The bridge's JSON: what each answer means, and what a create sends."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.backends.base import CreatedTask
from crynux_async.backends.bridge import wire
from crynux_async.backends.http.answer import Answer, parse_content_range
from crynux_async.emulator.bridge.binding import bind
from crynux_async.emulator.bridge.schema import violation
from crynux_async.emulator.nodes.task_args import with_defaults
from crynux_async.errors import (
    AuthError,
    BackendError,
    ConfigError,
    CrynuxError,
    NotFoundError,
    OwnershipError,
    ProtocolError,
    QuotaError,
    RangeError,
    RateLimitedError,
    RejectedError,
    ServerError,
    SubmissionUnknownError,
)
from crynux_async.training.config import FineTuneConfig
from tests.strategies import OPTIONAL_FIELDS, config_fields, configs

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "bridge" / "recorded.json").read_text(encoding="utf-8"))
URL = "https://bridge.example/v1/images/models"
CREATED_AT = "2026-11-22T19:34:55.368806245Z"
INTEGER_FIELDS = {
    *("validation_num_images", "rank", "batch_size", "gradient_accumulation_steps", "num_train_epochs"),
    *("num_train_steps", "max_train_epochs", "max_train_steps", "resolution", "lr_warmup_steps", "seed", "timeout"),
}

TASK = CreatedTask(task_id="17", created_at=datetime(2026, 11, 22, 19, 34, 55, 368806, tzinfo=UTC))
AUTH = (AuthError, "Authorization")
NO_RESULT = (NotFoundError, "id")
SCHEMA = (RejectedError, "task_args")
NO_ROUTE = (ProtocolError, None)
STREAM = "bytes"  # a result, which the transport hands on without reading it

# What each recorded answer means, by scenario and step: a task, a status, an error with its field, or a result.
MEANING: dict[str, dict[str, Any]] = {
    "whole job, two rounds": {
        "create": TASK,
        "status at once": "running",
        "result too early": NO_RESULT,
        "status until success": "success",
        "result": STREAM,
        "range": STREAM,
        "range past the end": (RangeError, None),
        "if-modified-since": (ProtocolError, None),
        "if-range that does not match": STREAM,
        "result without key": AUTH,
    },
    "job that fails": {"create": TASK, "status until failed": "failed", "result": NO_RESULT},
    "first job of a fresh key": {
        "create": TASK,
        "status until success": "success",
        "result": (OwnershipError, "api_key"),
        "second": TASK,
        "second until success": "success",
        "second result": STREAM,
    },
    "rate limit of one a minute": {
        "first": TASK,
        "second": (RateLimitedError, "rate_limit"),
        "third": (RateLimitedError, "rate_limit"),
        "fourth": (RateLimitedError, "rate_limit"),
    },
    "rate limit is spent by an invalid request": {
        "bad timeout": (RejectedError, "timeout"),
        "good": (RateLimitedError, "rate_limit"),
    },
    "a request that does not bind spends no token": {
        "bad type": (RejectedError, "rank"),
        "no model": (RejectedError, "model_name"),
        "good": TASK,
    },
    "authorization": {
        "none": AUTH,
        "basic": AUTH,
        "lower case": AUTH,
        "unknown key": AUTH,
        "not base64": AUTH,
        "short key": (SubmissionUnknownError, None),
    },
    "no role": {"create": AUTH},
    "binding": {
        "rank text": (RejectedError, "rank"),
        "rank float": (RejectedError, "rank"),
        "rank 8.0": (RejectedError, "rank"),
        "lr text": (RejectedError, "learning_rate"),
        "bool text": (RejectedError, "center_crop"),
        "model null": (RejectedError, "model_name"),
        "model empty": (RejectedError, "model_name"),
        "array": (RejectedError, ""),
        "cut": (RejectedError, ""),
        "empty": (RejectedError, "model_name"),
        "null": (RejectedError, "model_name"),
        "no content type": (RejectedError, "model_name"),
        "negative timeout": (RejectedError, "timeout"),
        "unknown field": TASK,
        "upper case key": TASK,
    },
    "schema": {
        "num steps 0": SCHEMA,
        "max steps negative": SCHEMA,
        "scheduler": SCHEMA,
        "precision": SCHEMA,
        "images 11": SCHEMA,
        "prediction": SCHEMA,
        "init": SCHEMA,
        "dataset url empty": SCHEMA,
        "dataset url no url": SCHEMA,
        "dataset name empty": SCHEMA,
        "no dataset": TASK,
        "timeout 0": (RejectedError, "timeout"),
        "modules null": TASK,
        "modules text": TASK,
    },
    "ids": {
        "unknown status": (NotFoundError, None),
        "unknown result": NO_RESULT,
        "text id": (RejectedError, "ID"),
        "zero id": NO_RESULT,
        "negative": (RejectedError, "ID"),
        "huge": (RejectedError, "ID"),
    },
    "routes": {"no such path": NO_ROUTE, "put": NO_ROUTE, "list": NO_ROUTE, "delete": NO_ROUTE},
    "quota": {"create": TASK},
}
STEPS = [(scenario["name"], step) for scenario in RECORDED for step in scenario["steps"]]


def answer(
    status: int, body: str | bytes | dict[str, Any], content_type: str = "application/json", **facts: Any
) -> Answer:
    if isinstance(body, dict):
        body = json.dumps(body)
    data = body.encode() if isinstance(body, str) else body
    return Answer(status=status, content_type=content_type, body=data, url=URL, **facts)


def refusal(field: Any, message: Any) -> Answer:
    return answer(400, {"message": "validation_error", "data": {"field_name": field, "message": message}})


def created(data: Any, **facts: Any) -> Answer:
    return answer(200, {"message": "success", "data": data}, **facts)


def recorded_answer(step: dict[str, Any]) -> Answer:
    """Return a recorded answer with plausible values in place of what differs from run to run."""
    response = step["response"]
    body = response["body"].replace('"<JOB>"', "17").replace('"<INT>"', "3").replace("<TIME>", CREATED_AT)
    headers = {name: value.replace("<N>", "1000") for name, value in response["headers"].items()}
    return answer(
        response["status"],
        re.sub(r"~(\d+) seconds", r"\1.00 seconds", body),
        headers.get("Content-Type", "").partition(";")[0],
        content_range=headers.get("Content-Range", ""),
    )


def meaning_of(step: dict[str, Any]) -> Any:
    """Return what the library makes of a recorded answer, in the words of ``MEANING``."""
    try:
        if step["method"] == "POST":
            return wire.read_created(recorded_answer(step))
        if step["path"].endswith("/status"):
            return wire.read_status(recorded_answer(step))
        wire.raise_for(recorded_answer(step))
    except CrynuxError as error:
        return type(error), error.field


def error_of(read: Any, got: Answer) -> Any:
    with pytest.raises(CrynuxError) as caught:
        read(got)
    return caught.value


# Recorded answers


def test_recorded_answers_all_have_a_meaning() -> None:
    assert len(STEPS) == 75
    assert {name: set(steps) for name, steps in MEANING.items()} == {
        scenario["name"]: {step["name"] for step in scenario["steps"]} for scenario in RECORDED
    }


@pytest.mark.parametrize(
    ("scenario", "step"),
    [pair for pair in STEPS if MEANING[pair[0]][pair[1]["name"]] != STREAM],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_recorded_answer_means_what_it_should(scenario: str, step: dict[str, Any]) -> None:
    assert meaning_of(step) == MEANING[scenario][step["name"]]


@pytest.mark.parametrize(
    "step", [step for name, step in STEPS if MEANING[name][step["name"]] == STREAM], ids=lambda step: step["name"]
)
def test_recorded_result_read_as_json_is_a_protocol_error(step: dict[str, Any]) -> None:
    assert type(error_of(wire.read_status, recorded_answer(step))) is ProtocolError


@pytest.mark.parametrize(("name", "wait"), [("second", 60.0), ("third", 120.0), ("fourth", 177.0)])
def test_recorded_refusal_says_how_long_to_wait(name: str, wait: float) -> None:
    (step,) = (step for scenario, step in STEPS if (scenario, step["name"]) == ("rate limit of one a minute", name))
    assert error_of(wire.read_created, recorded_answer(step)).wait == wait


def test_recorded_range_is_read() -> None:
    (step,) = (step for _, step in STEPS if step["name"] == "range")
    assert parse_content_range(recorded_answer(step).content_range) == (100, 199, 1000)


def test_recorded_range_past_the_end_says_the_size() -> None:
    (step,) = (step for _, step in STEPS if step["name"] == "range past the end")
    assert error_of(wire.raise_for, recorded_answer(step)).total_bytes == 1000


# Refusals


@pytest.mark.parametrize(
    ("field", "text", "cls"),
    [
        ("Authorization", "Authorization is required", AuthError),
        ("Authorization", "required", AuthError),
        ("Authorization", "Authorization header must start with 'Bearer '", AuthError),
        ("Authorization", "invalid API key", AuthError),
        ("Authorization", "unauthorized", AuthError),
        ("Authorization", "API key has expired", AuthError),
        ("Authorization", "expired", AuthError),
        ("Authorization", "API key does not have required role: admin or chat", AuthError),
        ("Authorization", "API key quota exceeded", QuotaError),
        ("Authorization", "use limit exceeded", QuotaError),
        ("api_key", "invalid api key", OwnershipError),
        ("id", "Task not found", NotFoundError),
        ("id", "Task result not found", NotFoundError),
        ("rate_limit", "rate limit exceeded, please wait 59.94 seconds", RateLimitedError),
        ("rate_limit", "too many requests", RateLimitedError),
        ("model_name", "required", RejectedError),
        ("task_args", "jsonschema: '/train_args' does not validate", RejectedError),
        ("task_args", "invalid task_args: jsonschema: '/train_args' does not validate", RejectedError),
        ("timeout", "timeout must be greater than 0 for SD finetune tasks", RejectedError),
        ("", "http: request body too large", RejectedError),
        ("checkpoint", "More than one checkpoint file uploaded", RejectedError),
    ],
)
@pytest.mark.parametrize("read", [wire.read_created, wire.read_status, wire.raise_for])
def test_refusal_of_an_old_or_new_bridge_is_told_apart_by_its_field(
    read: Any, field: str, text: str, cls: type[BackendError]
) -> None:
    error = error_of(read, refusal(field, text))
    assert type(error) is cls
    assert (error.field, error.status, error.url) == (field, 400, URL)
    assert text in str(error)


@pytest.mark.parametrize(
    ("text", "cure"), [("API key has expired", "get another one"), ("invalid API key", "check CRYNUX_API_KEY")]
)
def test_refused_key_comes_with_what_helps(text: str, cure: str) -> None:
    error = error_of(wire.raise_for, refusal("Authorization", text))
    assert cure in str(error)


@pytest.mark.parametrize(
    "field", ["SDFinetuneLoraTaskParams.rank", "SDFinetuneLoraRequest.SDFinetuneLoraTaskParams.rank"]
)
def test_refusal_of_a_newer_go_names_the_plain_field(field: str) -> None:
    error = error_of(wire.read_created, refusal(field, "json: cannot unmarshal string into ..."))
    assert type(error) is RejectedError
    assert error.field == "rank"


@pytest.mark.parametrize("message", [None, 5, ["x"]])
def test_refusal_whose_message_is_no_text_still_counts(message: Any) -> None:
    error = error_of(wire.read_created, refusal("rate_limit", message))
    assert type(error) is RateLimitedError
    assert error.wait is None
    assert "None" not in str(error)


def test_refusal_is_masked_html_and_read_as_text() -> None:
    body = rb'{"message":"validation_error","data":{"field_name":"task_args","message":"must be \u003c= 10"}}'
    assert "must be <= 10" in str(error_of(wire.read_created, answer(400, body)))


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("rate limit exceeded, please wait 59.94 seconds", 59.94),
        ("rate limit exceeded, please wait 0.00 seconds", 0.0),
        ("please wait 7 seconds", 7.0),
        ("wait 1 second", 1.0),
        ("rate limit exceeded, please wait 9223372036.85 seconds", 9223372036.85),
        ("rate limit exceeded", None),
        ("please wait a minute", None),
        ("please wait -5.00 seconds", None),
        ("please wait 1m30s", None),
        ("bitte 60 Sekunden warten", None),
        ("", None),
        (f"please wait {'9' * 400} seconds", None),
    ],
)
def test_wait_is_read_where_the_wording_is_known(text: str, wait: float | None) -> None:
    assert wire.parse_wait(text) == wait
    assert error_of(wire.read_created, refusal("rate_limit", text)).wait == wait


@given(st.floats(0, 1e7))
@settings(max_examples=50)
def test_wait_of_any_length_is_read_to_the_hundredth(seconds: float) -> None:
    assert wire.parse_wait(f"rate limit exceeded, please wait {seconds:.2f} seconds") == pytest.approx(
        seconds, abs=0.0051
    )


# Creates


@pytest.mark.parametrize("task_id", [1, 17, 2**53 + 1, 2**63 - 1])
def test_create_with_a_positive_id_is_a_task(task_id: int) -> None:
    assert wire.read_created(created({"id": task_id, "status": "running"})) == CreatedTask(task_id=str(task_id))


@pytest.mark.parametrize("task_id", [True, "1", 0, -1, 1.0, 2**63, 2**70, None, [1], {}], ids=repr)
def test_create_with_an_id_that_no_task_has_is_unknown(task_id: Any) -> None:
    assert type(error_of(wire.read_created, created({"id": task_id}))) is SubmissionUnknownError


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"success"',
        b"\xff\xfe",
        b'{"message":"success"}',
        b'{"message":"success","data":null}',
        b'{"message":"success","data":[{"id":1}]}',
        b'{"message":"success","data":{"id":1',
        b'{"id":1}',
        b"[" * 500_000,
        b'{"data":' * 100_000,
        b'{"data":{"id":' + b"9" * 5000 + b"}}",
        b"<html><body>Welcome</body></html>",
    ],
    ids=lambda body: body[:30].decode("latin-1"),
)
def test_create_answered_with_something_else_is_unknown(body: bytes) -> None:
    error = error_of(wire.read_created, answer(200, body))
    assert type(error) is SubmissionUnknownError
    assert (error.status, error.url) == (200, URL)


def test_create_whose_answer_is_too_long_is_unknown() -> None:
    assert type(error_of(wire.read_created, created({"id": 1}, truncated=True))) is SubmissionUnknownError


def test_create_that_is_unknown_keeps_the_beginning_of_the_answer_and_a_short_text() -> None:
    error = error_of(wire.read_created, answer(502, "x" * 200_000, "text/html"))
    assert error.answer == "x" * 65_536
    assert len(str(error)) < 400
    assert "HTTP 502 (text/html" in str(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CREATED_AT, TASK.created_at),
        ("2026-11-22T19:34:55Z", datetime(2026, 11, 22, 19, 34, 55, tzinfo=UTC)),
        ("2026-11-23T03:34:55.5+08:00", datetime(2026, 11, 22, 19, 34, 55, 500_000, tzinfo=UTC)),
        ("2026-11-22T19:34:55", None),
        ("0001-01-01T00:00:00+08:00", None),
        ("yesterday", None),
        ("", None),
        (1826912094, None),
        (None, None),
    ],
)
def test_create_time_is_read_as_utc_or_left_out(text: Any, expected: datetime | None) -> None:
    task = wire.read_created(created({"id": 1, "created_at": text}))
    assert task.created_at == expected
    assert expected is None or (task.created_at and task.created_at.utcoffset() == timedelta(0))


@given(st.text())
@settings(max_examples=50)
def test_time_of_any_text_never_raises(text: str) -> None:
    time = wire.parse_time(text)
    assert time is None or time.utcoffset() == timedelta(0)


# Proxies and broken answers

HTML = b"<html><head><title>Sorry</title></head></html>"
NOT_THE_BRIDGES = [HTML, b"", b"{", b"[]", b'{"message":"error"}']


@pytest.mark.parametrize("body", NOT_THE_BRIDGES)
@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (401, AuthError),
        (403, AuthError),
        (404, ProtocolError),
        (413, ProtocolError),
        (511, ProtocolError),  # the network's own: no request leaves it before somebody has logged in
        *[(status, SubmissionUnknownError) for status in (200, 201, 204, 301, 307, 308, 400, 409, 429)],
        *[(status, SubmissionUnknownError) for status in (500, 502, 503, 504, 520)],
    ],
)
def test_create_answered_by_a_proxy_is_refused_only_where_that_is_certain(
    status: int, cls: type[CrynuxError], body: bytes
) -> None:
    assert type(error_of(wire.read_created, answer(status, body, "text/html"))) is cls


@pytest.mark.parametrize("read", [wire.read_status, wire.raise_for])
@pytest.mark.parametrize("body", NOT_THE_BRIDGES)
@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (401, AuthError),
        (403, AuthError),
        (416, RangeError),
        *[(status, ProtocolError) for status in (200, 201, 204, 301, 307, 308, 400, 404, 409, 413, 429, 511)],
        *[(status, ServerError) for status in (500, 502, 503, 504, 520)],
    ],
)
def test_question_answered_by_a_proxy_gets_its_class(
    read: Any, status: int, cls: type[BackendError], body: bytes
) -> None:
    error = error_of(read, answer(status, body, "text/html"))
    assert type(error) is cls
    assert (error.status, error.url) == (status, URL)


@pytest.mark.parametrize(
    "data", [None, [], {}, {"id": 1}, {"status": None}, {"status": 1}, {"status": ["running"]}, "running"], ids=repr
)
def test_status_without_a_word_is_a_protocol_error(data: Any) -> None:
    assert type(error_of(wire.read_status, created(data))) is ProtocolError


@pytest.mark.parametrize("word", ["running", "success", "failed", "paused"])
def test_status_word_comes_back_as_it_is(word: str) -> None:
    assert wire.read_status(created({"id": 1, "status": word})) == word


def test_status_whose_answer_is_too_long_is_a_protocol_error() -> None:
    assert type(error_of(wire.read_status, created({"status": "running"}, truncated=True))) is ProtocolError


@pytest.mark.parametrize("body", [b"[" * 500_000, b'{"data":' * 100_000])
def test_status_nested_too_deep_is_a_protocol_error(body: bytes) -> None:
    assert type(error_of(wire.read_status, answer(200, body))) is ProtocolError


@pytest.mark.parametrize(
    ("body", "cls"),
    [
        ({"message": "record not found"}, NotFoundError),
        ({"message": "Record not found in cache, try later"}, ServerError),
        ({"message": "database is locked"}, ServerError),
        ({}, ServerError),
    ],
)
def test_error_500_means_not_found_only_in_the_bridges_own_words(body: dict[str, Any], cls: type[BackendError]) -> None:
    assert type(error_of(wire.read_status, answer(500, body))) is cls


def test_error_of_a_proxy_that_quotes_the_bridge_is_not_the_bridges() -> None:
    assert type(error_of(wire.read_status, answer(503, {"message": "record not found"}))) is ServerError


def test_create_answered_record_not_found_is_unknown() -> None:
    got = answer(500, {"message": "record not found"})
    assert type(error_of(wire.read_created, got)) is SubmissionUnknownError


def test_key_is_fresh_only_when_its_client_is_missing() -> None:
    assert wire.means_fresh_key(error_of(wire.raise_for, answer(500, {"message": "record not found"})))
    assert not wire.means_fresh_key(error_of(wire.raise_for, refusal("id", "Task not found")))
    assert not wire.means_fresh_key(error_of(wire.raise_for, answer(500, b"")))


@given(st.binary(max_size=200), st.integers(100, 599))
@settings(max_examples=100)
def test_answer_of_any_bytes_is_an_error_of_the_library(body: bytes, status: int) -> None:
    got = answer(status, body)
    assert isinstance(error_of(wire.raise_for, got), BackendError)
    assert error_of(wire.read_created, got).url == URL


def test_not_utf8_answer_is_kept_readable() -> None:
    assert error_of(wire.raise_for, answer(502, b"caf\xe9", "text/plain")).answer == "caf\ufffd"


@pytest.mark.parametrize(
    ("text", "total"), [("bytes */100", 100), ("", None), ("bytes */*", None), (f"bytes */{'9' * 5000}", None)]
)
def test_range_that_is_not_satisfied_says_the_size_where_it_is_known(text: str, total: int | None) -> None:
    got = answer(416, "invalid range: failed to overlap\n", "text/plain", content_range=text)
    assert error_of(wire.raise_for, got).total_bytes == total


# Args


@given(configs())
@settings(max_examples=60)
def test_args_of_any_config_give_it_back(config: FineTuneConfig) -> None:
    assert wire.from_wire(wire.to_wire(config)) == config


@given(configs())
@settings(max_examples=60)
def test_args_of_any_config_as_json_have_no_null_and_no_float_for_an_int(config: FineTuneConfig) -> None:
    args = json.loads(wire.encode_args(wire.to_wire(config)))
    assert None not in args.values()
    assert {name: type(args[name]) for name in INTEGER_FIELDS & set(args)} == dict.fromkeys(
        INTEGER_FIELDS & set(args), int
    )


@given(configs())
@settings(max_examples=60)
def test_args_of_any_config_run_on_the_bridge_as_they_were_sent(config: FineTuneConfig) -> None:
    body = wire.create_body(config)
    assert body == wire.encode_args(wire.to_wire(config.effective().config))
    bound = bind(body, "application/json", authorization="Bearer k").values
    filled = with_defaults(bound, seed=0)
    assert violation(filled) is None
    assert filled == {name: bound[name] for name in filled}


@given(config_fields(), st.lists(st.fixed_dictionaries({}, optional=OPTIONAL_FIELDS), min_size=1, max_size=4))
@settings(max_examples=60)
def test_body_of_a_config_says_the_same_whatever_it_has_in_common_with_others(
    fields: dict[str, Any], changes: list[dict[str, Any]]
) -> None:
    """A sweep's configs have most of their text in common, also where they differ in what decides what is sent."""
    for change in [{}, *changes]:
        config = FineTuneConfig(**{**fields, **dict(list(change.items())[:5])})
        assert wire.create_body(config) == wire.encode_args(wire.to_wire(config.sent()))


def test_body_that_only_a_value_of_its_own_makes_too_large_names_that() -> None:
    base = FineTuneConfig(model_name="m", dataset_name="d")
    wire.create_body(base)
    with pytest.raises(RejectedError, match="shorten validation_prompt"):
        wire.create_body(base.evolve(validation_prompt="x" * 2**21))


def test_args_that_nobody_sends_are_a_config_error() -> None:
    with pytest.raises(ConfigError):
        wire.from_wire({"model_name": "m", "dataset_name": "d", "task_fee": 15})


def test_args_as_large_as_the_bridge_takes_are_encoded() -> None:
    empty = len(wire.encode_args({"validation_prompt": ""}))
    assert len(wire.encode_args({"validation_prompt": "x" * (2 * 1024 * 1024 - empty)})) == 2 * 1024 * 1024


@pytest.mark.parametrize(
    ("args", "longest"),
    [
        ({"model_name": "m", "validation_prompt": "x" * 2**21}, "validation_prompt"),
        ({"model_name": "m", "target_modules": ["to_k"] * 300_000, "validation_prompt": "x" * 2**20}, "target_modules"),
        ({"model_name": "m" * 900_000, "validation_prompt": "😀" * 600_000}, "validation_prompt"),
    ],
)
def test_args_larger_than_the_bridge_takes_name_the_longest_field(args: dict[str, Any], longest: str) -> None:
    with pytest.raises(RejectedError, match=f"shorten {longest}") as caught:
        wire.encode_args(args)
    assert caught.value.field == longest


def test_priming_args_pass_the_binding_and_break_the_schema() -> None:
    bound = bind(wire.encode_args(wire.priming_args()), "application/json", authorization="Bearer k").values
    assert bound["model_name"]
    assert "must be >= 1 but found 0" in (violation(with_defaults(bound, seed=1)) or "")


def test_priming_args_break_the_rule_after_the_schema_too() -> None:
    assert wire.priming_args()["timeout"] == 0


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (answer(404, "404 page not found"), "base_url"),
        (answer(308, "", location="https://bridge.example/v1"), "https://bridge.example/v1"),
        (answer(407, ""), "user and password"),
        (answer(200, "<html>Welcome to the hotel</html>", "text/html"), "login page"),
        (answer(511, "<html>Welcome to the hotel</html>", "text/html"), "log in to it first"),
    ],
    ids=["no such page", "sent elsewhere", "proxy login", "captive portal", "captive portal that says so"],
)
def test_answer_that_no_waiting_can_mend_says_what_to_do(reply: Answer, said: str) -> None:
    with pytest.raises(ProtocolError, match=said) as caught:
        wire.read_status(reply)
    assert caught.value.is_lasting


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_answer_that_may_be_better_later_is_not_lasting(status: int) -> None:
    with pytest.raises(BackendError) as caught:
        wire.read_status(answer(status, "<html>busy</html>"))
    assert not caught.value.is_lasting


@pytest.mark.parametrize(("field", "is_counted"), [("task_args", True), ("timeout", True), ("model_name", False)])
def test_refusal_after_the_rate_limit_counts_against_it(field: str, is_counted: bool) -> None:
    with pytest.raises(RejectedError) as caught:
        wire.read_created(refusal(field, "no"))
    assert caught.value.is_counted is is_counted
