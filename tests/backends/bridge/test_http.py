"""What the bridge backend sends, and what it makes of answers, without a network."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import crynux_async
from crynux_async.backends.bridge import wire
from crynux_async.backends.bridge.http import BridgeClient
from crynux_async.backends.bridge.wire import RemoteStatus
from crynux_async.backends.http.answer import KEPT_ANSWER_CHARS
from crynux_async.errors import (
    AuthError,
    BackendError,
    CrynuxError,
    NotFoundError,
    OwnershipError,
    ProtocolError,
    QuotaError,
    RangeError,
    RateLimitedError,
    RejectedError,
    ServerError,
    SettingsError,
    SubmissionUnknownError,
    UsageError,
)
from crynux_async.settings import Settings
from tests.aiohttp_mocks import MockedHttp, mocked_http
from tests.transport_probe import CALLS, CONFIG, CREATED, KEY, Call, body_of, bridge, every_call, failure_of, fetch

BASE = "http://bridge.test/base"
MODELS = f"{BASE}/v1/images/models"
COMMON_HEADERS = {"User-Agent": f"crynux-async/{crynux_async.__version__}", "Accept-Encoding": "identity"}
HTML = "<html><body><h1>Bad gateway</h1></body></html>"


def refusal(field: str, message: str) -> dict[str, Any]:
    return {"message": "validation_error", "data": {"field_name": field, "message": message}}


@pytest.fixture
def http() -> Iterator[MockedHttp]:
    with mocked_http() as mocked:
        yield mocked


@pytest.fixture
async def backend() -> AsyncIterator[BridgeClient]:
    async with bridge(BASE) as made:
        yield made


def result_of_unknown_task(http: MockedHttp, **answer: Any) -> None:
    http.get(f"{MODELS}/{2**62}/result", **answer)


async def test_create_accepted_returns_the_id_and_the_time(http: MockedHttp, backend: BridgeClient) -> None:
    http.post(MODELS, body=CREATED)
    created = await backend.create(body_of(CONFIG))
    assert created.task_id == "17"
    assert created.created_at == datetime(2026, 11, 22, 19, 34, 55, 368806, UTC)


async def test_create_sends_one_json_post_with_the_key_and_no_redirects(
    http: MockedHttp, backend: BridgeClient
) -> None:
    http.post(MODELS, body=CREATED)
    await backend.create(body_of(CONFIG))
    [(method, url, sent)] = http.calls()
    assert (method, url) == ("POST", MODELS)
    assert sent["headers"] == {**COMMON_HEADERS, "Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    assert sent["allow_redirects"] is False


async def test_create_sends_every_field_that_is_set_and_no_other(http: MockedHttp, backend: BridgeClient) -> None:
    http.post(MODELS, body=CREATED)
    await backend.create(body_of(CONFIG))
    [(_, _, sent)] = http.calls()
    expected = {name: value for name, value in CONFIG.to_dict().items() if value is not None}
    assert json.load(sent["data"]) == expected


REFUSALS: list[tuple[int, dict[str, Any] | str, type[BackendError], dict[str, Any]]] = [
    (
        400,
        refusal("rate_limit", "rate limit exceeded, please wait 59.94 seconds"),
        RateLimitedError,
        {"wait": 59.94, "field": "rate_limit"},
    ),
    (400, refusal("rate_limit", "slow down"), RateLimitedError, {"wait": None}),
    (400, refusal("Authorization", "invalid API key"), AuthError, {"field": "Authorization"}),
    (400, refusal("Authorization", "API key has expired"), AuthError, {}),
    (400, refusal("Authorization", "unauthorized"), AuthError, {}),
    (400, refusal("Authorization", "API key quota exceeded"), QuotaError, {}),
    (400, refusal("Authorization", "use limit exceeded"), QuotaError, {}),
    (400, refusal("task_args", "invalid task_args: jsonschema: ..."), RejectedError, {"field": "task_args"}),
    (400, refusal("timeout", "timeout must be greater than 0"), RejectedError, {"field": "timeout"}),
    (400, refusal("", "unexpected EOF"), RejectedError, {"field": ""}),
    (401, HTML, AuthError, {"field": None}),
    (403, HTML, AuthError, {}),
    (404, "404 page not found", ProtocolError, {}),
    (413, HTML, ProtocolError, {}),
]


@pytest.mark.parametrize(("status", "body", "kind", "facts"), REFUSALS)
async def test_create_refused_raises_the_error_that_the_field_names(
    http: MockedHttp,
    backend: BridgeClient,
    status: int,
    body: dict[str, Any] | str,
    kind: type[BackendError],
    facts: dict[str, Any],
) -> None:
    http.post(MODELS, status=status, body=body if isinstance(body, str) else json.dumps(body))
    error = await failure_of(backend.create(body_of(CONFIG)))
    assert type(error) is kind
    assert {name: getattr(error, name) for name in facts} == facts
    assert isinstance(error, BackendError)
    assert (error.status, error.url) == (status, MODELS)
    assert len(http.calls()) == 1


UNKNOWN: list[tuple[int, str]] = [
    *((status, HTML) for status in (500, 502, 503, 504, 400, 405, 408, 409, 422, 425, 429, 499, 520)),
    *((status, '{"message":"record not found"}') for status in (500, 502, 503, 504)),
    *((status, "") for status in (500, 204, 301, 302, 303, 307, 308)),
    (201, CREATED),
    (202, CREATED),
    (200, ""),
    (200, CREATED[:-1]),
    (200, HTML),
    (200, "null"),
    (200, "[]"),
    (200, "17"),
    (200, '{"message":"success"}'),
    (200, '{"message":"success","data":null}'),
    (200, '{"message":"success","data":[17]}'),
    (200, '{"message":"success","data":{}}'),
    *((200, f'{{"message":"success","data":{{"id":{word}}}}}') for word in ("0", "-1", "17.0", '"17"', "true", "null")),
    (200, "[" * 100_000),
    (200, f'{{"data":{{"id":{"9" * 5000}}}}}'),
    (400, '{"message":"validation_error"}'),
    (400, '{"message":"validation_error","data":{"field_name":7}}'),
]


@pytest.mark.parametrize(("status", "body"), UNKNOWN, ids=[f"{status}-{body[:30]}" for status, body in UNKNOWN])
async def test_create_answered_with_anything_else_is_unknown_and_not_sent_again(
    http: MockedHttp, backend: BridgeClient, status: int, body: str
) -> None:
    http.post(MODELS, status=status, body=body, headers={"Location": MODELS}, repeat=True)
    error = await failure_of(backend.create(body_of(CONFIG)))
    assert type(error) is SubmissionUnknownError
    assert (error.status, error.url) == (status, MODELS)
    assert error.answer == body[:KEPT_ANSWER_CHARS]
    assert len(http.calls()) == 1


ECHOES = {
    "plain": KEY,
    "json": KEY.replace("=", "\\u003D").replace("-", "\\u002d"),
    "url": KEY.replace("=", "%3D"),
    "html": KEY.replace("=", "&#61;").replace("-", "&#x2d;"),
    "lower case": KEY.lower(),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("status", [400, 500])
async def test_answer_that_shows_the_key_is_masked_in_the_error(
    http: MockedHttp, backend: BridgeClient, status: int, echo: str
) -> None:
    body = f'{{"message":"validation_error","data":{{"field_name":"Authorization","message":"no {echo}!"}}}}'
    http.post(MODELS, status=status, body=body)
    error = await failure_of(backend.create(body_of(CONFIG)))
    assert isinstance(error, AuthError | SubmissionUnknownError)
    assert "no ***!" in error.answer


async def test_content_type_that_shows_the_key_is_masked_in_the_error(http: MockedHttp, backend: BridgeClient) -> None:
    http.post(MODELS, status=502, body="x", content_type=f"text/{KEY}")
    error = await failure_of(backend.create(body_of(CONFIG)))
    assert "text/***" in str(error)


async def test_status_with_the_words_of_a_running_task_and_another_code_is_no_status(
    http: MockedHttp, backend: BridgeClient
) -> None:
    http.get(f"{MODELS}/17/status", status=500, body=wire.running_answer("17"))
    assert type(await failure_of(backend.status("17"))) is ServerError


def test_running_answer_is_the_recorded_one() -> None:
    recorded = json.loads((Path(__file__).parents[2] / "data" / "bridge" / "recorded.json").read_text(encoding="utf-8"))
    assert wire.running_answer("4711").decode().replace("4711", '"<JOB>"') in json.dumps(recorded).replace('\\"', '"')


@pytest.mark.parametrize("word", ["running", "success", "failed"])
async def test_status_known_word_is_a_remote_status(http: MockedHttp, backend: BridgeClient, word: str) -> None:
    http.get(f"{MODELS}/17/status", body=f'{{"message":"success","data":{{"id":17,"status":"{word}"}}}}')
    status = await backend.status("17")
    assert isinstance(status, RemoteStatus)
    assert status == word


async def test_status_unknown_word_comes_back_as_it_is(http: MockedHttp, backend: BridgeClient) -> None:
    http.get(f"{MODELS}/17/status", payload={"message": "success", "data": {"id": 17, "status": "queued"}})
    status = await backend.status("17")
    assert status == "queued"
    assert not isinstance(status, RemoteStatus)


async def test_status_request_carries_no_key_and_follows_no_redirect(http: MockedHttp, backend: BridgeClient) -> None:
    http.get(f"{MODELS}/17/status", payload={"message": "success", "data": {"id": 17, "status": "running"}})
    await backend.status("17")
    [(_, _, sent)] = http.calls()
    assert sent["headers"] == COMMON_HEADERS
    assert sent["allow_redirects"] is False


STATUS_FAILURES: list[tuple[int, str, type[BackendError]]] = [
    (500, '{"message":"record not found"}', NotFoundError),
    (500, '{"message":"database is locked"}', ServerError),
    (500, "", ServerError),
    (502, HTML, ServerError),
    (503, "", ServerError),
    (504, HTML, ServerError),
    (400, json.dumps(refusal("id", "id is required")), NotFoundError),
    (400, json.dumps(refusal("ID", "strconv.ParseUint")), RejectedError),
    (400, HTML, ProtocolError),
    (401, HTML, AuthError),
    (403, HTML, AuthError),
    (404, "404 page not found", ProtocolError),
    (429, HTML, ProtocolError),
    (302, "", ProtocolError),
    (200, "", ProtocolError),
    (200, HTML, ProtocolError),
    (200, '{"message":"success"}', ProtocolError),
    (200, '{"message":"success","data":{"id":17}}', ProtocolError),
    (200, '{"message":"success","data":{"id":17,"status":null}}', ProtocolError),
    (200, '{"message":"success","data":{"id":17,"status":["running"]}}', ProtocolError),
    (204, "", ProtocolError),
]


@pytest.mark.parametrize(
    ("status", "body", "kind"), STATUS_FAILURES, ids=[f"{status}-{body[:30]}" for status, body, _ in STATUS_FAILURES]
)
async def test_status_without_a_word_raises_what_the_answer_means(
    http: MockedHttp, backend: BridgeClient, status: int, body: str, kind: type[BackendError]
) -> None:
    http.get(f"{MODELS}/17/status", status=status, body=body, headers={"Location": "http://other.test/"})
    error = await failure_of(backend.status("17"))
    assert type(error) is kind
    assert isinstance(error, BackendError)
    assert (error.status, error.task_id, error.url) == (status, "17", f"{MODELS}/17/status")


RESULT_FAILURES: list[tuple[int, str, type[BackendError]]] = [
    (400, json.dumps(refusal("id", "Task not found")), NotFoundError),
    (400, json.dumps(refusal("id", "Task result not found")), NotFoundError),
    (400, json.dumps(refusal("api_key", "invalid api key")), OwnershipError),
    (400, json.dumps(refusal("Authorization", "API key has expired")), AuthError),
    (400, json.dumps(refusal("Authorization", "API key quota exceeded")), QuotaError),
    (400, json.dumps(refusal("rate_limit", "please wait 3 seconds")), RateLimitedError),
    (500, '{"message":"record not found"}', NotFoundError),
    (500, "", ServerError),
    (502, HTML, ServerError),
    (302, "", ProtocolError),
    (304, "", ProtocolError),
    (404, "404 page not found", ProtocolError),
    (416, "invalid range", RangeError),
]


@pytest.mark.parametrize(
    ("status", "body", "kind"), RESULT_FAILURES, ids=[f"{status}-{body[:60]}" for status, body, _ in RESULT_FAILURES]
)
async def test_result_refused_raises_what_the_answer_means(
    http: MockedHttp, backend: BridgeClient, status: int, body: str, kind: type[BackendError]
) -> None:
    http.get(f"{MODELS}/17/result", status=status, body=body, headers={"Location": "http://other.test/"})
    error = await failure_of(fetch(backend))
    assert type(error) is kind
    assert isinstance(error, BackendError)
    assert (error.status, error.task_id) == (status, "17")


async def test_key_is_fresh_when_the_bridge_has_no_client_of_the_key(http: MockedHttp, backend: BridgeClient) -> None:
    result_of_unknown_task(http, status=500, body='{"message":"record not found"}')
    assert await backend.key_is_fresh() is True


async def test_key_is_fresh_when_only_the_task_is_missing_is_false(http: MockedHttp, backend: BridgeClient) -> None:
    result_of_unknown_task(http, status=400, payload=refusal("id", "Task not found"))
    assert await backend.key_is_fresh() is False
    [(method, _, sent)] = http.calls()
    assert method == "GET"
    assert sent["headers"] == {**COMMON_HEADERS, "Authorization": f"Bearer {KEY}"}


FRESH_FAILURES: list[tuple[int, str, type[CrynuxError]]] = [
    (400, json.dumps(refusal("Authorization", "invalid API key")), AuthError),
    (400, json.dumps(refusal("Authorization", "API key quota exceeded")), QuotaError),
    (500, '{"message":"database is locked"}', ServerError),
    (502, HTML, ServerError),
    (400, HTML, ProtocolError),
    (200, "PK", ProtocolError),
    (302, "", ProtocolError),
]


@pytest.mark.parametrize(("status", "body", "kind"), FRESH_FAILURES)
async def test_key_is_fresh_without_an_answer_that_counts_raises(
    http: MockedHttp, backend: BridgeClient, status: int, body: str, kind: type[CrynuxError]
) -> None:
    result_of_unknown_task(http, status=status, body=body)
    assert type(await failure_of(backend.key_is_fresh())) is kind


@pytest.mark.parametrize("field", ["task_args", "timeout"])
async def test_prime_key_refused_by_the_schema_is_done(http: MockedHttp, backend: BridgeClient, field: str) -> None:
    http.post(MODELS, status=400, payload=refusal(field, "must be >= 1 but found 0"))
    await backend.prime_key()
    assert len(http.calls()) == 1


async def test_prime_key_sends_args_that_no_schema_allows(http: MockedHttp, backend: BridgeClient) -> None:
    http.post(MODELS, status=400, payload=refusal("task_args", "no"))
    await backend.prime_key()
    [(_, _, sent)] = http.calls()
    args = json.load(sent["data"])
    assert args["model_name"]
    assert args["num_train_steps"] == 0
    assert args["timeout"] == 0


async def test_prime_key_accepted_as_a_task_says_which(http: MockedHttp, backend: BridgeClient) -> None:
    http.post(MODELS, body=CREATED)
    error = await failure_of(backend.prime_key())
    assert type(error) is ProtocolError
    assert error.task_id == "17"


PRIME_FAILURES: list[tuple[int, str, type[CrynuxError]]] = [
    (400, json.dumps(refusal("model_name", "model_name is required")), RejectedError),
    (400, json.dumps(refusal("", "unexpected EOF")), RejectedError),
    (400, json.dumps(refusal("rate_limit", "please wait 60 seconds")), RateLimitedError),
    (400, json.dumps(refusal("Authorization", "invalid API key")), AuthError),
    (400, json.dumps(refusal("Authorization", "API key quota exceeded")), QuotaError),
    (413, HTML, ProtocolError),
    (500, '{"message":"schema cannot be loaded"}', SubmissionUnknownError),
    (502, HTML, SubmissionUnknownError),
    (307, "", SubmissionUnknownError),
    (200, "{}", SubmissionUnknownError),
]


@pytest.mark.parametrize(("status", "body", "kind"), PRIME_FAILURES)
async def test_prime_key_stopped_before_the_schema_raises(
    http: MockedHttp, backend: BridgeClient, status: int, body: str, kind: type[CrynuxError]
) -> None:
    http.post(MODELS, status=status, body=body)
    assert type(await failure_of(backend.prime_key())) is kind
    assert len(http.calls()) == 1


@pytest.mark.parametrize("name", [name for name in CALLS if name != "status"])
async def test_call_that_needs_a_key_without_one_raises_before_anything_is_sent(http: MockedHttp, name: str) -> None:
    async with bridge(BASE, api_key=None) as backend:
        error = await failure_of(CALLS[name](backend))
    assert type(error) is AuthError
    assert error.field == "api_key"
    assert http.calls() == []


async def test_status_without_a_key_is_asked_all_the_same(http: MockedHttp) -> None:
    http.get(f"{MODELS}/17/status", payload={"message": "success", "data": {"id": 17, "status": "failed"}})
    async with bridge(BASE, api_key=None) as backend:
        assert await backend.status("17") is RemoteStatus.FAILED


@every_call
async def test_call_on_a_closed_backend_raises_usage_error(call: Call) -> None:
    async with bridge(BASE) as backend:
        await backend.close()
        assert type(await failure_of(call(backend))) is UsageError


async def test_create_that_breaks_in_an_unforeseen_way_before_it_is_sent_raises_that(
    http: MockedHttp, backend: BridgeClient
) -> None:
    http.post(MODELS, exception=ZeroDivisionError("a defect"))
    with pytest.raises(ZeroDivisionError):
        await backend.create(body_of(CONFIG))


async def test_ca_bundle_that_is_no_pem_file_is_a_settings_error(tmp_path: Any) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("nothing of the kind")
    with pytest.raises(SettingsError) as caught:
        BridgeClient(Settings(ca_bundle=str(path), trust_env=False))
    assert caught.value.field == "ca_bundle"


ENVIRONMENTS: list[tuple[dict[str, str], str | None]] = [
    ({}, None),
    ({"HTTP_PROXY": "http://proxy.test:3128"}, "http://proxy.test:3128"),
    ({"http_proxy": "proxy.test:3128"}, "http://proxy.test:3128"),
    ({"HTTPS_PROXY": "http://proxy.test:3128"}, None),
    ({"HTTP_PROXY": "http://proxy.test:3128", "NO_PROXY": "bridge.test"}, None),
    ({"HTTP_PROXY": "http://proxy.test:3128", "NO_PROXY": ".test"}, None),
    ({"HTTP_PROXY": "http://proxy.test:3128", "no_proxy": "other.test"}, "http://proxy.test:3128"),
    ({"HTTP_PROXY": "http://proxy.test:3128", "NO_PROXY": "*"}, None),
    ({"HTTP_PROXY": ""}, None),
]


def clean_environment(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


async def proxy_used(http: MockedHttp, **settings: Any) -> Any:
    http.get(f"{MODELS}/17/status", status=502)
    async with bridge(BASE, **settings) as backend:
        await failure_of(backend.status("17"))
    [(_, _, sent)] = http.calls()
    return sent["proxy"]


@pytest.mark.parametrize(("values", "proxy"), ENVIRONMENTS)
async def test_proxy_of_the_environment_counts_with_trust_env(
    http: MockedHttp, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], proxy: str | None
) -> None:
    clean_environment(monkeypatch, values)
    assert await proxy_used(http, trust_env=True) == proxy


async def test_proxy_of_the_environment_without_trust_env_is_ignored(
    http: MockedHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean_environment(monkeypatch, {"HTTP_PROXY": "http://proxy.test:3128"})
    assert await proxy_used(http, trust_env=False) is None


async def test_proxy_setting_wins_over_the_environment(http: MockedHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch, {"HTTP_PROXY": "http://proxy.test:3128", "NO_PROXY": "*"})
    assert await proxy_used(http, trust_env=True, proxy="http://mine.test:1") == "http://mine.test:1"


async def test_proxy_of_the_environment_for_an_ipv6_bridge_respects_no_proxy(
    http: MockedHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean_environment(monkeypatch, {"HTTP_PROXY": "http://proxy.test:3128", "NO_PROXY": "::1"})
    http.get("http://[::1]:5028/v1/images/models/17/status", status=502)
    async with bridge("http://[::1]:5028", trust_env=True) as backend:
        await failure_of(backend.status("17"))
    [(_, _, sent)] = http.calls()
    assert sent["proxy"] is None


async def test_proxy_of_the_environment_that_speaks_no_http_is_a_settings_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clean_environment(monkeypatch, {"HTTP_PROXY": "socks5://user:canaryOfTheProxy@proxy.test:1080"})
    with pytest.raises(SettingsError) as caught:
        BridgeClient(Settings(base_url=BASE, trust_env=True))
    assert caught.value.field == "proxy"
    assert "canaryOfTheProxy" not in str(caught.value)
