"""What admin calls sign and what their answers mean, without a network."""

import json
from typing import Any

import pytest

from crynux_async.backends.bridge import admin_wire as wire
from crynux_async.backends.http.answer import Answer
from crynux_async.errors import AuthError, BackendError, ProtocolError, RejectedError, ServerError, UsageError
from crynux_async.secret import Secret
from crynux_async.signing import Wallet
from tests.signing.vectors import ADDRESS, TIMESTAMP, vectors
from tests.signing.vectors import KEY as WALLET_KEY

KEY = Secret("qI_ZWTFcCsn91oEe66Pfpp1Mnw0f4UwfFLofftTMPBk=")
SIGNATURES = {vector.name: vector.signature for vector in vectors()}


def answer(status: int, content: Any) -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Answer(status=status, content_type="application/json", body=body, url="http://bridge.test/v1/api_key")


def refusal(field: str, message: str) -> Answer:
    return answer(400, {"message": "validation_error", "data": {"field_name": field, "message": message}})


@pytest.mark.parametrize(
    ("call", "vector"),
    [
        (wire.create_key(), "create api key"),
        (wire.add_role(KEY, "chat"), "add role"),
        (wire.set_use_limit(KEY, 1000), "use limit"),
        (wire.set_rate_limit(KEY, 60), "rate limit"),
        (wire.delete_key(KEY), "delete"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_call_signs_what_the_bridge_checks(call: wire.AdminCall, vector: str) -> None:
    assert Wallet(Secret(WALLET_KEY)).sign(call.fields, TIMESTAMP) == SIGNATURES[vector]


@pytest.mark.parametrize(
    ("call", "method", "path", "carried", "in_query"),
    [
        (wire.create_key(), "POST", "/v1/api_key", {}, False),
        (wire.add_role(KEY, "admin"), "POST", f"/v1/api_key/{KEY.reveal()}/role", {"role": "admin"}, False),
        (wire.set_use_limit(KEY, -1), "POST", f"/v1/api_key/{KEY.reveal()}/use_limit", {"use_limit": -1}, False),
        (wire.set_rate_limit(KEY, 1), "POST", f"/v1/api_key/{KEY.reveal()}/rate_limit", {"rate_limit": 1}, False),
        (wire.delete_key(KEY), "DELETE", f"/v1/api_key/{KEY.reveal()}", {}, True),
    ],
    ids=["create", "role", "use limit", "rate limit", "delete"],
)
def test_call_puts_the_rest_where_the_bridge_looks(
    call: wire.AdminCall, method: str, path: str, carried: dict[str, Any], in_query: bool
) -> None:
    assert (call.method, call.path, call.carried, call.in_query) == (method, path, carried, in_query)


@pytest.mark.parametrize("limit", [0, -1, -60, True, 1.0, "60"])
def test_rate_limit_that_would_refuse_everything_is_not_sent(limit: Any) -> None:
    with pytest.raises(UsageError, match="rate_limit is a whole number") as caught:
        wire.set_rate_limit(KEY, limit)
    assert caught.value.field == "rate_limit"


@pytest.mark.parametrize("limit", [0, -2, True, 1.0, "20"])
def test_use_limit_that_cannot_be_set_is_not_sent(limit: Any) -> None:
    with pytest.raises(UsageError, match="use_limit is a whole number >= 1, or -1") as caught:
        wire.set_use_limit(KEY, limit)
    assert caught.value.field == "use_limit"


@pytest.mark.parametrize("role", ["image", "", "chat,admin", "Chat"])
def test_role_that_opens_nothing_is_not_sent(role: str) -> None:
    with pytest.raises(UsageError, match="a role is one of chat, admin"):
        wire.add_role(KEY, role)


@pytest.mark.parametrize("key", ["", "abcd", KEY.reveal()[:-1], KEY.reveal() + "=", "/" * 43 + "=", "a" * 44])
def test_text_that_is_no_key_is_not_sent_because_the_bridge_crashes_on_it(key: str) -> None:
    for call in (lambda k: wire.add_role(k, "chat"), wire.delete_key, lambda k: wire.set_rate_limit(k, 1)):
        with pytest.raises(UsageError, match="that is not a bridge's key"):
            call(Secret(key))


def test_new_key_is_read_with_the_day_it_expires() -> None:
    made = wire.read_made_key(
        answer(200, {"message": "success", "data": {"api_key": KEY.reveal(), "expires_at": 1826912094}})
    )
    assert (made.api_key, made.expires_at.isoformat()) == (KEY, "2027-11-22T19:34:54+00:00")


@pytest.mark.parametrize(
    ("expires", "year"),
    [(10**30, 9999), (-(10**30), 1970), (10**400, 9999), (float("nan"), 9999), (1826912094.7, 2027)],
)
def test_key_with_an_impossible_last_day_is_not_lost(expires: float, year: int) -> None:
    made = wire.read_made_key(answer(200, {"data": {"api_key": KEY.reveal(), "expires_at": expires}}))
    assert (made.api_key, made.expires_at.year) == (KEY, year)


@pytest.mark.parametrize("balance", [-1, 2**256, 10**400, "5", 1.5, None])
def test_balance_that_no_account_can_hold_is_no_bridges(balance: Any) -> None:
    with pytest.raises(ProtocolError):
        wire.read_account(answer(200, {"data": {"address": ADDRESS, "balance": balance}}))


def test_mean_time_that_no_number_can_hold_is_no_bridges() -> None:
    counts = dict.fromkeys(("total_task_count", "success_task_count", "aborted_task_count", "unfinished_task_count"), 1)
    with pytest.raises(ProtocolError):
        wire.read_counts(answer(200, {"data": {**counts, "avg_task_time": 10**400}}))


@pytest.mark.parametrize(
    "data", [None, {}, {"api_key": "short", "expires_at": 1}, {"api_key": KEY.reveal()}, [KEY.reveal()]]
)
def test_answer_without_a_key_is_none_and_shows_nothing(data: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        wire.read_made_key(answer(200, {"message": "success", "data": data}))
    assert KEY.reveal() not in f"{caught.value} {caught.value.answer}"


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (refusal("signature", "Invalid signer"), AuthError, f"belongs to another wallet than {ADDRESS}"),
        (refusal("client_id", "Invalid signer"), AuthError, "blockchain.account.address"),
        (refusal("signature", "Invalid signature"), AuthError, "although the clocks agree"),
        (refusal("api_key", "invalid API key"), AuthError, "does not know this key"),
        (refusal("api_key", "API key has expired"), AuthError, "expired; make another one"),
        (refusal("api_key", "invalid"), AuthError, "does not know this key"),  # the old bridge's texts
        (refusal("api_key", "expired"), AuthError, "does not know this key"),
        (refusal("use_limit", "use_limit is required"), RejectedError, "use_limit is required"),
        (refusal("timestamp", "timestamp is required"), RejectedError, "timestamp is required"),
        (refusal("ChangeUseLimitInput.use_limit", "json: cannot unmarshal"), RejectedError, "use_limit"),
        (answer(500, b""), ServerError, "HTTP 500"),
        (answer(500, {"message": "Error 1205: Lock wait timeout"}), ServerError, "HTTP 500"),
        (answer(404, b"404 page not found"), ProtocolError, "is base_url right?"),
        (answer(401, b"<html>"), AuthError, "proxy"),
        (answer(200, b"<html>"), ProtocolError, "is base_url right?"),
        (answer(302, b""), ProtocolError, "is base_url right?"),
    ],
)
def test_answer_means_what_its_field_says(reply: Answer, error: type[BackendError], words: str) -> None:
    with pytest.raises(error) as caught:
        wire.check_done(reply, ADDRESS)
    assert words in str(caught.value)
    assert type(caught.value) is error


def test_done_is_accepted() -> None:
    wire.check_done(answer(200, {"message": "success"}), ADDRESS)


def test_refused_signature_blames_the_clock_where_the_bridge_tells_no_time() -> None:
    with pytest.raises(AuthError, match="set this machine's clock"):
        wire.check_done(refusal("signature", "Invalid signature"), ADDRESS, clock_is_known=False)


def test_balance_is_read_to_the_last_wei() -> None:
    data = b'{"message":"success","data":{"address":"0x1","balance":123456789012345678901234}}'
    account = wire.read_account(answer(200, data))
    assert (account.address, account.wei) == ("0x1", 123456789012345678901234)
    assert account.cnx == pytest.approx(123456.789)


def test_counts_nodes_and_models_are_read() -> None:
    counts = {"total_task_count": 24, "success_task_count": 0, "aborted_task_count": 12, "unfinished_task_count": 12,
              "avg_task_time": 3}  # fmt: skip
    read = wire.read_counts(answer(200, {"data": counts}))
    assert (read.total, read.succeeded, read.aborted, read.unfinished, read.mean_seconds) == (24, 0, 12, 12, 3.0)
    nodes = wire.read_nodes(answer(200, {"data": {"num_total_nodes": 10, "num_available_nodes": 5}}))
    assert (nodes.total, nodes.available) == (10, 5)
    assert wire.read_models(answer(200, {"data": [{"name": "a", "key": "b/c"}, {"name": "d"}]})) == ("b/c", "d")


@pytest.mark.parametrize("read", [wire.read_account, wire.read_nodes, wire.read_counts, wire.read_models])
@pytest.mark.parametrize("content", [b"<html>", {"data": None}, {"data": {}}, {"data": 7}, {"data": "text"}])
def test_answer_of_another_form_is_no_bridges(read: Any, content: Any) -> None:
    if read is wire.read_models and content == {"data": {}}:
        content = {}
    with pytest.raises(ProtocolError):
        read(answer(200, content))


@pytest.mark.parametrize("read", [wire.read_account, wire.read_nodes, wire.read_counts, wire.read_models])
def test_server_that_cannot_ask_the_relay_is_a_server_error(read: Any) -> None:
    with pytest.raises(ServerError):
        read(answer(500, {"message": "response status code is not 200"}))
