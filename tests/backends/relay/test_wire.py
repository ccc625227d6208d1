"""Requests to the relay, against signatures that were made with the Go code, and against the emulated relay."""

import json
import re
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.backends.relay import wire
from crynux_async.backends.relay.arguments import RELAY_FACTS
from crynux_async.backends.relay.ids import TaskIds, TaskNames
from crynux_async.backends.relay.wire import CreateRequest, PayloadError, Request
from crynux_async.signing import canonical_json
from crynux_async.training.config import FineTuneConfig
from tests.relay_lab import CREATOR, FEE, Ids
from tests.signing.vectors import TIMESTAMP, text, vectors
from tests.strategies import configs

SIGNATURES = {vector.name: vector for vector in vectors()}
# The ids of the vectors: a task id of ones and a nonce of twos.
IDS = TaskIds(commitment=Ids("0x" + "11" * 32, "0x" + "22" * 32).commitment, nonce="0x" + "22" * 32,
              task_id="0x" + "11" * 32, place=0)  # fmt: skip
SEED = bytes([0x33]) * 32
NAMES = TaskNames(CREATOR)


def vector_request() -> CreateRequest:
    match = re.search(r"^task_args sent in the form: (.*?)\s*$", text(), re.MULTILINE)
    assert match is not None
    return CreateRequest(
        commitment=IDS.commitment,
        nonce=IDS.nonce,
        args=match[1],
        model_ids=("base:crynux-network/stable-diffusion-v1-5+fp16",),
        timeout=1800,
        fee=FEE,
    )


def signature_of(request: Request) -> str:
    if request.body is not None:
        return str(json.loads(request.body)["signature"])
    return request.query["signature"]


def test_create_is_signed_as_the_go_code_signs_it() -> None:
    request = vector_request()
    vector = SIGNATURES["relay create"]
    assert canonical_json(request.fields()) + str(TIMESTAMP).encode() == vector.message
    sent = wire.create_task(request, CREATOR, TIMESTAMP)
    assert (sent.method, sent.path) == ("POST", f"/v1/inference_tasks/{IDS.commitment}")
    assert signature_of(sent) == vector.signature


@pytest.mark.parametrize(
    ("name", "request_", "path"),
    [
        ("relay get task / checkpoint", wire.look_at_task(IDS.commitment, CREATOR, TIMESTAMP), ""),
        ("relay get task / checkpoint", wire.fetch_archive(IDS.commitment, CREATOR, TIMESTAMP), "/results/checkpoint"),
        ("relay get result 0", wire.fetch_image(IDS.commitment, 0, CREATOR, TIMESTAMP), "/results/0"),
        ("relay abort", wire.cancel_task(IDS.commitment, CREATOR, TIMESTAMP), "/abort_reason"),
    ],
)
def test_request_about_a_task_is_signed_as_the_go_code_signs_it(name: str, request_: Request, path: str) -> None:
    assert request_.path == f"/v1/inference_tasks/{IDS.commitment}{path}"
    assert signature_of(request_) == SIGNATURES[name].signature


def test_validation_shows_proof_and_task_id_as_the_go_code_does() -> None:
    request = wire.validate_tasks([IDS], SEED, CREATOR, TIMESTAMP)
    assert request.body is not None
    body = json.loads(request.body)
    assert body["vrf_proof"] in text()
    assert body["signature"] == SIGNATURES["relay validate"].signature
    assert body["task_id_commitments"] == [IDS.commitment]


def test_balance_is_asked_for_as_the_go_code_asks() -> None:
    request = wire.ask_balance(CREATOR, TIMESTAMP)
    assert request.path == f"/v2/relay_account/{CREATOR.address}/balance"
    assert signature_of(request) == SIGNATURES["relay balance"].signature


@pytest.mark.parametrize(
    "changes",
    [{"fee": 0}, {"fee": -1}, {"timeout": 0}, {"min_vram": -1}, {"commitment": "0xabc"}, {"nonce": "0x" + "AB" * 32}],
)
def test_create_that_the_relay_would_take_amiss_cannot_be_made(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        attrs.evolve(vector_request(), **changes)


@given(configs(), st.integers(1, 10**30))
def test_stored_create_comes_back_as_it_was(config: FineTuneConfig, fee: int) -> None:
    effective = config.effective(mapping=RELAY_FACTS.mapping).config
    request = CreateRequest.of(NAMES.ids("job", 1, 0), effective, fee=fee)
    assert CreateRequest.from_text(request.as_text()) == request


def test_stored_create_holds_no_secret() -> None:
    ids = NAMES.ids("job", 1, 0)
    request = CreateRequest.of(ids, FineTuneConfig(model_name="m", dataset_name="d", max_train_steps=1), fee=FEE)
    assert ids.task_id[2:] not in request.as_text()


def test_sibling_does_the_same_under_another_name() -> None:
    request = vector_request()
    ids = NAMES.ids("job", 1, 1)
    sibling = request.sibling(ids)
    assert (sibling.commitment, sibling.nonce) == (ids.commitment, ids.nonce)
    assert attrs.evolve(sibling, commitment=request.commitment, nonce=request.nonce) == request


STORED = vector_request().as_text()


@pytest.mark.parametrize(
    "stored",
    [
        "", "{", "[]", "null", "1", "{}", '{"version":1}',
        STORED.replace('"fee":15000000000000000000', '"fee":"15"'),
        STORED.replace('"fee":15000000000000000000', '"fee":0'),
        STORED.replace('"timeout":1800', '"time":1800'),
    ],
    ids=range(10),
)  # fmt: skip
def test_text_that_is_no_stored_create_is_refused(stored: str) -> None:
    with pytest.raises(PayloadError):
        CreateRequest.from_text(stored)


def test_create_of_a_newer_version_says_so() -> None:
    with pytest.raises(PayloadError, match="newer version"):
        CreateRequest.from_text(vector_request().as_text().replace('"version":1', '"version":2'))
