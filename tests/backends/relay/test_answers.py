"""What the relay answers, read from what the real one answered."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from crynux_async.backends.relay.answers import (
    AnswerError,
    FeeKind,
    FeePage,
    FeeRecord,
    LoadedModel,
    Refusal,
    Why,
    difference,
    read_balance,
    read_fees,
    read_loaded_models,
    read_now,
    read_refusal,
    read_shown_task,
    read_token,
)
from crynux_async.backends.relay.tasks import read_task
from crynux_async.backends.relay.wire import CreateRequest
from tests.backends.relay.test_tasks import shown
from tests.relay_lab import FEE, task_args

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "relay" / "recorded.json").read_text(encoding="utf-8"))
# Step of a recording to what its refusal means; every other recorded refusal names a field of the create.
MEANINGS = {
    "get by a stranger": Why.NOT_OWNER,
    "get unknown": Why.NOT_FOUND,
    "get, stale timestamp": Why.CLOCK_OR_SIGNATURE,
    "same create again, new timestamp": Why.EXISTS,
    "create with a cancelled commitment": Why.EXISTS,
    "wallet without money": Why.TOO_LITTLE_MONEY,
    "cancel again": Why.NOT_QUEUED,
    "cancel a started task": Why.NOT_QUEUED,
    "result checkpoint while queued": Why.NOT_UPLOADED,
    "image while queued": Why.NOT_UPLOADED,
    "image 2": Why.NOT_FOUND,
    "winner's checkpoint": Why.NOT_UPLOADED,
    "validate while queued": Why.WRONG_STATE,
    "validate again": Why.WRONG_STATE,
    "validate, wrong task id": Why.WRONG_PROOF,
    "validate, proof of another seed": Why.WRONG_PROOF,
    "validate, short proof": Why.WRONG_PROOF,
    "validate, public key of another": Why.WRONG_PROOF,
    "validate, public key with 04": Why.WRONG_PROOF,
    "validate, the same three times": Why.WRONG_PROOF,
    "validate, unknown commitment": Why.NOT_FOUND,
    "validate one although selected": Why.NEEDS_GROUP,
    "balance of another's account": Why.NOT_OWNER,
    "balance, stale timestamp": Why.CLOCK_OR_SIGNATURE,
    "task fee list without token": Why.CLOCK_OR_SIGNATURE,
    "multipart over max_body_bytes": Why.TOO_LARGE,
    "timeout 0 signed as 0": Why.FIELD,
    "task_args schema: steps 0": Why.FIELD,
    "min_vram text": Why.FIELD,
    "task_type 5": Why.OTHER,
}


def answers() -> list[tuple[str, int, bytes]]:
    return [
        (step["name"], step["response"]["status"], step["response"].get("body", "").encode())
        for scenario in RECORDED
        for step in scenario["steps"]
        if step["response"]["status"] is not None
    ]


def first(name: str) -> tuple[int, bytes]:
    return next((status, body) for step, status, body in answers() if step == name)


@pytest.mark.parametrize(("name", "why"), MEANINGS.items())
def test_recorded_refusal_is_understood(name: str, why: Why) -> None:
    refusal = read_refusal(*first(name))
    assert refusal is not None
    assert refusal.why is why


def test_every_recorded_refusal_is_one_and_nothing_else_is() -> None:
    for name, status, body in answers():
        is_refusal = status in (400, 401, 500) and body.startswith(b"{")
        assert (read_refusal(status, body) is not None) is is_refusal, name


def test_three_errors_are_the_refusal_that_stays_for_ever() -> None:
    body = b'{"message":"illegal previous task status"}'
    assert read_refusal(500, body) == Refusal(why=Why.UNABLE, message="illegal previous task status")


def test_two_creates_at_once_are_one_task() -> None:
    refusal = read_refusal(500, b'{"message":"duplicated key not allowed"}')
    assert refusal is not None
    assert refusal.why is Why.EXISTS


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (502, b"<html>"),
        (500, b""),
        (500, b"[]"),
        (400, b'{"message":"validation_error"}'),
        (400, b'{"message":"validation_error","data":{"field_name":1,"message":"x"}}'),
        (401, b'{"message":"who are you"}'),
        (404, b"404 page not found"),
        (200, b'{"message":"success"}'),
    ],
)
def test_answer_of_somebody_else_is_no_refusal(status: int, body: bytes) -> None:
    assert read_refusal(status, body) is None


def envelope(data: Any) -> bytes:
    return json.dumps({"message": "success", "data": data}).encode()


def test_indented_answer_is_read_like_a_compact_one() -> None:
    body = json.dumps({"message": "success", "data": {"now": 5}}, indent=4).encode()
    assert read_now(body) == 5


def test_balance_is_read() -> None:
    assert read_balance(envelope("123456789012345678901234567890")) == 123456789012345678901234567890


def test_token_is_read_and_shows_itself_nowhere() -> None:
    token = read_token(envelope({"token": "eyJ.a.b", "expires_at": 7}))
    assert (token.text, token.expires_at) == ("eyJ.a.b", 7)
    assert "eyJ" not in repr(token)


def test_fees_are_read() -> None:
    record = {"id": 3, "created_at": 60, "address": "0xC", "amount": "15", "type": 5, "reason": "5-0xAB"}
    assert read_fees(envelope({"total": 9, "records": [record]})) == FeePage(
        total=9,
        records=(
            FeeRecord(
                number=3,
                kind=FeeKind.REFUND,
                amount=15,
                commitment="0xab",
                created_at=datetime(1970, 1, 1, 0, 1, tzinfo=UTC),
            ),
        ),
    )


def test_loaded_models_are_read() -> None:
    entry = {
        "model_id": "A/b", "model_type": "sd", "min_vram": 24, "in_memory_node_count": 1, "on_disk_node_count": 3,
    }  # fmt: skip
    assert read_loaded_models(envelope([entry])) == (LoadedModel(name="a/b", in_memory=1, on_disk=3),)


@pytest.mark.parametrize("read", [read_balance, read_now, read_token, read_fees, read_loaded_models, read_shown_task])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"<html>", b'{"message":"success"}', envelope(None), envelope(-1), envelope([1]),
     envelope({"total": 1, "records": [{"id": 1}]}), envelope({"now": "5"}), envelope({"token": 5})],
    ids=range(11),
)  # fmt: skip
def test_answer_of_another_form_is_an_error(read: Any, body: bytes) -> None:
    with pytest.raises(AnswerError):
        read(body)


@pytest.mark.parametrize(
    "changes",
    [{"type": 6}, {"amount": 15}, {"amount": "-15"}, {"reason": "4-0xab"}, {"reason": None}, {"created_at": 10**20}],
)
def test_fee_that_makes_no_sense_is_an_error(changes: dict[str, Any]) -> None:
    record = {"id": 3, "created_at": 60, "address": "0xC", "amount": "15", "type": 5, "reason": "5-0xab", **changes}
    with pytest.raises(AnswerError):
        read_fees(envelope({"total": 1, "records": [record]}))


REQUEST = CreateRequest(
    commitment="0x" + "ab" * 32,
    nonce="0x" + "cd" * 32,
    args=task_args(),
    model_ids=("base:m",),
    timeout=600,
    fee=FEE,
)


def test_task_that_was_asked_for_differs_in_nothing() -> None:
    assert difference(read_task(shown()), REQUEST, "0xC") == ""


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"creator": "0xD"}, "creator"),
        ({"nonce": "0x" + "ce" * 32}, "nonce"),
        ({"task_fee": "0"}, "fee"),
        ({"timeout": 601}, "timeout"),
        ({"task_args": task_args(seed=43)}, "arguments"),
    ],
)
def test_task_of_somebody_else_differs_by_name(changes: dict[str, Any], word: str) -> None:
    assert word in difference(read_task(shown(**changes)), REQUEST, "0xC")


def test_task_with_another_commitment_differs() -> None:
    other = attrs.evolve(REQUEST, commitment="0x" + "ac" * 32)
    assert "commitment" in difference(read_task(shown()), other, "0xC")
