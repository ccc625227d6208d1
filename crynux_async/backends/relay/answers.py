"""What the relay answers, as values: what was asked for, or why not.

A refusal is known by its field and its text, never by its status alone: the relay says 500 to a proof that does not
hold and to its own troubles alike. Its texts are matched as a whole; anything else is ``OTHER``.

Source: crynux-relay api/v1/response/response.go, api/v1/inference_tasks, service/validate_task.go; recorded answers.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any

import attrs

from crynux_async.backends.relay.arguments import same_args
from crynux_async.backends.relay.tasks import RelayTask, TaskError, read_task
from crynux_async.backends.relay.wire import CreateRequest


class Why(StrEnum):
    """Why the relay did not do what it was asked."""

    CLOCK_OR_SIGNATURE = "clock or signature"
    NOT_OWNER = "not the owner"
    NOT_LISTED = "not on the list"
    NOT_FOUND = "not found"
    EXISTS = "exists"
    TOO_LITTLE_MONEY = "too little money"
    NOT_QUEUED = "not queued any more"
    NOT_UPLOADED = "not uploaded"
    WRONG_STATE = "wrong state"
    WRONG_PROOF = "wrong proof"
    NEEDS_GROUP = "needs a group"
    NEEDS_NO_GROUP = "needs no group"
    UNABLE = "unable"
    TOO_LARGE = "too large"
    FIELD = "field"
    OTHER = "other"


@attrs.frozen(kw_only=True)
class Refusal:
    """What the relay says no with.

    Attributes:
        why: What that means.
        field: The field that it names, or "".
        message: Its own words.
    """

    why: Why
    field: str = ""
    message: str = ""


_BY_FIELD: Mapping[tuple[str, str], Why] = {
    ("signature", "Invalid signature"): Why.CLOCK_OR_SIGNATURE,
    ("signature", "Signer not allowed"): Why.NOT_OWNER,
    ("address", "Signer not allowed"): Why.NOT_LISTED,
    ("address", "Address mismatch"): Why.NOT_OWNER,
    ("address", "Signature address mismatch"): Why.NOT_OWNER,
    ("task_id_commitment", "Task not found"): Why.NOT_FOUND,
    ("task_id_commitment", "Task already uploaded"): Why.EXISTS,
    ("task_id_commitment", "Task can no longer be cancelled"): Why.NOT_QUEUED,
    ("task_fee", "Insufficient relay account balance"): Why.TOO_LITTLE_MONEY,
    ("task_id", "Task checkpoint not uploaded"): Why.NOT_UPLOADED,
    ("task_id", "Task results not uploaded"): Why.NOT_UPLOADED,
    ("task_id", "Checkpoint file not found"): Why.NOT_FOUND,
    ("index", "File not found"): Why.NOT_FOUND,
    ("", "http: request body too large"): Why.TOO_LARGE,
}
_BY_TEXT: Mapping[str, Why] = {
    # Two creates of one commitment in flight: it exists, and was charged once.
    "duplicated key not allowed": Why.EXISTS,
    "illegal task state": Why.WRONG_STATE,
    "task group validation expired": Why.WRONG_STATE,
    "record not found": Why.NOT_FOUND,
    "task id incorrect": Why.WRONG_PROOF,
    "invalid proof": Why.WRONG_PROOF,
    "invalid vrf proof": Why.WRONG_PROOF,
    "invalid public key": Why.WRONG_PROOF,
    "not task creator": Why.WRONG_PROOF,
    "task group records are incomplete": Why.WRONG_PROOF,
    "task is selected for validation": Why.NEEDS_GROUP,
    "task is not selected for validation": Why.NEEDS_NO_GROUP,
    # Three reports of errors: refused for ever, and each attempt makes the shown balance too high.
    "illegal previous task status": Why.UNABLE,
}
_UNAUTHORIZED = frozenset(
    (
        "Valid JWT or signature required",
        "Authorization header required",
        "Invalid or expired token",
        "Invalid authorization header format. Use 'Bearer <token>'",
    )
)


class AnswerError(ValueError):
    """An answer is none of the relay's, or not of the form that it should have."""


class FeeKind(Enum):
    """What moved money on an account; the numbers are the relay's."""

    INCOME = 0
    PAYMENT = 4
    REFUND = 5


@attrs.frozen(kw_only=True)
class FeeRecord:
    """One payment or refund.

    Attributes:
        number: Its number at the relay.
        kind: Which of both, or what a node earned on the same wallet.
        amount: Wei, >= 0.
        commitment: The task that it is for.
        created_at: When, aware UTC.
    """

    number: int
    kind: FeeKind
    amount: int
    commitment: str
    created_at: datetime


@attrs.frozen(kw_only=True)
class FeePage:
    """A page of the list of payments and refunds, the newest first.

    Attributes:
        total: How many there are on all pages.
        records: Those of this page.
    """

    total: int
    records: tuple[FeeRecord, ...]


@attrs.frozen(kw_only=True)
class Token:
    """What opens the lists of an account.

    Attributes:
        text: The token.
        expires_at: When it ends, in seconds since 1970, by the relay's clock.
    """

    text: str = attrs.field(repr=False)
    expires_at: int


@attrs.frozen(kw_only=True)
class LoadedModel:
    """A base model that nodes have proved to run.

    Attributes:
        name: Its name, in lower case.
        in_memory: Nodes that have it loaded.
        on_disk: Nodes that have it on their disk.
    """

    name: str
    in_memory: int
    on_disk: int


@attrs.frozen(kw_only=True)
class NodeNumbers:
    """How many nodes there are.

    Attributes:
        active: Nodes that take tasks.
        busy: Those of them that have one.
    """

    active: int
    busy: int


def read_refusal(status: int, body: bytes) -> Refusal | None:
    """Return what the relay says no with, or None when the answer is none of its refusals.

    Args:
        status: The status code.
        body: The body.
    """
    document = _json(body)
    if not isinstance(document, Mapping) or not isinstance(document.get("message"), str):
        return None
    message, data = document["message"], document.get("data")
    if status == 400 and isinstance(data, Mapping):
        field, text = data.get("field_name"), data.get("message")
        if isinstance(field, str) and isinstance(text, str):
            return Refusal(why=_BY_FIELD.get((field, text), Why.FIELD), field=field, message=text)
    # Calls about money say so of a wrong time, a wrong signature and an old token alike.
    if status == 401 and message in _UNAUTHORIZED:
        return Refusal(why=Why.CLOCK_OR_SIGNATURE, message=message)
    # Whatever validation refuses is a 500 as well, so that the text alone tells a refusal from the relay's own trouble.
    if status == 500 and "data" not in document:
        return Refusal(why=_BY_TEXT.get(message, Why.OTHER), message=message)
    return None


def read_shown_task(body: bytes) -> RelayTask:
    """Return the task that an answer shows.

    Raises:
        AnswerError: It shows none.
    """
    try:
        return read_task(_data(body))
    except TaskError as error:
        raise AnswerError(f"the relay shows a task that makes no sense: {error}") from error


def read_balance(body: bytes) -> int:
    """Return the wei on an account.

    Raises:
        AnswerError: The answer has none.
    """
    data = _data(body)
    # A failed group validation makes the shown balance too high until a restart: then it may be below zero.
    if not isinstance(data, str) or not _is_digits(data.removeprefix("-")):
        raise AnswerError(f"the balance is not a number of wei: {data!r}")
    return int(data)


def read_now(body: bytes) -> int:
    """Return the relay's time, in seconds since 1970.

    Raises:
        AnswerError: The answer has none.
    """
    return _whole(_mapping(_data(body)), "now")


def read_token(body: bytes) -> Token:
    """Return the token of a login.

    Raises:
        AnswerError: The answer has none.
    """
    data = _mapping(_data(body))
    text = data.get("token")
    if not isinstance(text, str) or not text.isascii() or not text:
        raise AnswerError("the answer to the login has no token")
    return Token(text=text, expires_at=_whole(data, "expires_at"))


def read_fees(body: bytes) -> FeePage:
    """Return a page of payments and refunds.

    Raises:
        AnswerError: The answer has none, or one of them makes no sense.
    """
    data = _mapping(_data(body))
    records = data.get("records")
    if not isinstance(records, list):
        raise AnswerError("the list of fees has no records")
    return FeePage(total=_whole(data, "total"), records=tuple(map(_fee_record, records)))


def read_loaded_models(body: bytes) -> tuple[LoadedModel, ...]:
    """Return the base models that nodes have proved to run.

    Raises:
        AnswerError: The answer has no list of them.
    """
    data = _data(body)
    if not isinstance(data, list):
        raise AnswerError("the list of loaded models is none")
    return tuple(_loaded_model(_mapping(entry)) for entry in data)


def read_node_numbers(body: bytes) -> NodeNumbers:
    """Return how many nodes there are.

    Raises:
        AnswerError: The answer does not say.
    """
    data = _mapping(_data(body))
    return NodeNumbers(active=_whole(data, "active_nodes"), busy=_whole(data, "busy_nodes"))


def read_count(body: bytes) -> int:
    """Return a number that is all of an answer.

    Raises:
        AnswerError: It is none.
    """
    return _whole({"data": _data(body)}, "data")


def difference(task: RelayTask, request: CreateRequest, address: str) -> str:
    """Return in which way a task is not the one that was asked for, for people, or "".

    A wrong signature makes a stranger of the wallet, and a task with another's nonce is another's.

    Args:
        task: What the relay shows.
        request: What was sent.
        address: Who sent it.
    """
    compared = {
        "creator": (task.creator, address),
        "commitment": (task.commitment, request.commitment),
        "nonce": (task.nonce, request.nonce),
        "fee": (task.fee, request.fee),
        "timeout": (task.timeout, request.timeout),
    }
    for name, (shown, sent) in compared.items():
        if shown != sent:
            return f"its {name} is {shown}, and not {sent}"
    return "" if same_args(task.args, request.args) else "its arguments are not those that were sent"


def _fee_record(value: Any) -> FeeRecord:
    entry = _mapping(value)
    kind, amount, reason = _whole(entry, "type"), entry.get("amount"), entry.get("reason")
    known = {member.value: member for member in FeeKind}
    if kind not in known or not isinstance(amount, str) or not _is_digits(amount) or not isinstance(reason, str):
        raise AnswerError(f"a record of the list of fees makes no sense: {entry}")
    number, _, commitment = reason.partition("-")
    if number != str(kind):
        raise AnswerError(f"a record of the list of fees makes no sense: {entry}")
    return FeeRecord(
        number=_whole(entry, "id"),
        kind=known[kind],
        amount=int(amount),
        commitment=commitment.lower(),  # the list has it as it was sent, in any case of letters
        created_at=_time(entry),
    )


def _loaded_model(entry: Mapping[str, Any]) -> LoadedModel:
    name = entry.get("model_id")
    if not isinstance(name, str):
        raise AnswerError(f"a loaded model has no name: {entry}")
    in_memory, on_disk = _whole(entry, "in_memory_node_count"), _whole(entry, "on_disk_node_count")
    return LoadedModel(name=name.lower(), in_memory=in_memory, on_disk=on_disk)


def _data(body: bytes) -> Any:
    document = _json(body)
    if not isinstance(document, Mapping) or document.get("message") != "success" or "data" not in document:
        raise AnswerError("the answer is not of the relay's form")
    return document["data"]


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise AnswerError(f"the answer has {type(value).__name__} where an object should be")
    return value


def _whole(entry: Mapping[str, Any], name: str) -> int:
    value = entry.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise AnswerError(f"{name} is not a whole number: {value!r}")
    return value


def _time(entry: Mapping[str, Any]) -> datetime:
    try:
        return datetime.fromtimestamp(_whole(entry, "created_at"), UTC)
    except (OverflowError, OSError, ValueError) as error:
        raise AnswerError(f"created_at is not a time: {entry['created_at']}") from error


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
