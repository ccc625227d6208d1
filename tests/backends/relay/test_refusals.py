"""What the relay says no with, as errors that tell what to do."""

import json
from typing import Any

import pytest

from crynux_async.backends.http.answer import Answer
from crynux_async.backends.relay.refusals import error_of, refusal_in
from crynux_async.errors import (
    AuthError,
    BackendError,
    NotFoundError,
    OwnershipError,
    ProtocolError,
    QuotaError,
    RejectedError,
    ServerError,
)


def answer(status: int, body: object, content_type: str = "application/json", **facts: Any) -> Answer:
    text = body if isinstance(body, str) else json.dumps(body)
    return Answer(status=status, content_type=content_type, body=text.encode(), url="http://relay/v1", **facts)


def field(name: str, message: str) -> Answer:
    return answer(400, {"message": "validation_error", "data": {"field_name": name, "message": message}})


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (field("task_fee", "Insufficient relay account balance"), QuotaError, "send CNX"),
        (field("address", "Signer not allowed"), AuthError, "ask its operator"),
        (field("signature", "Invalid signature"), AuthError, "signature"),
        (field("signature", "Signer not allowed"), OwnershipError, "another wallet"),
        (field("task_id_commitment", "Task not found"), NotFoundError, "no such task"),
        (field("task_id", "Task checkpoint not uploaded"), NotFoundError, "not uploaded"),
        (field("task_id_commitment", "Task can no longer be cancelled"), RejectedError, "cannot be cancelled"),
        (field("task_args", "rank: 0 is less than 1"), RejectedError, "rank: 0 is less than 1"),
        (answer(500, {"message": "illegal task state"}), RejectedError, "illegal task state"),
        (answer(500, {"message": "dial tcp: connection refused"}), ServerError, "dial tcp"),
    ],
)
def test_refusal_is_a_typed_error_that_says_what_to_do(said: Answer, kind: type[BackendError], words: str) -> None:
    error = error_of(refusal_in(said), said)
    assert type(error) is kind
    assert words in str(error)
    assert error.status == said.status


def test_error_names_the_field() -> None:
    said = field("task_args", "no")
    assert error_of(refusal_in(said), said).field == "task_args"


@pytest.mark.parametrize(
    ("said", "kind", "is_lasting"),
    [
        (answer(502, "<html>Bad gateway</html>", "text/html"), ServerError, False),
        (answer(500, ""), ServerError, False),  # the relay broke down over the request
        (answer(404, "<html>nothing here</html>", "text/html"), ProtocolError, True),
        (answer(301, "", location="https://elsewhere"), ProtocolError, True),
        (answer(511, "<html>Welcome to the hotel</html>", "text/html"), ProtocolError, True),
    ],
)
def test_answer_of_somebody_else_is_no_refusal(said: Answer, kind: type[BackendError], is_lasting: bool) -> None:
    with pytest.raises(kind) as caught:
        refusal_in(said)
    assert caught.value.is_lasting is is_lasting
    assert said.location in str(caught.value)
