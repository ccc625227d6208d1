"""The bridge's JSON, both ways: args out, answers in. Nothing here waits or keeps anything.

An answer is judged by what it says and never by its status code alone: the bridge answers 400 to everything that is the
client's fault, from a bad field over a wrong key to the rate limit, and only ``field_name`` tells them apart.
Source: crynux-bridge api/v1/response/response.go, api/v1/image/finetune.go, api/v1/tools/api_key.go.
"""

import functools
import json
import math
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NoReturn

from crynux_async.backends.base import CreatedTask
from crynux_async.backends.http.answer import LOGIN_WANTED, Answer
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
    SubmissionUnknownError,
)
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.keeping import Pattern, kept
from crynux_async.training.service import BRIDGE_MAPPING

MAX_BODY_BYTES = 2 * 1024 * 1024
MAX_TASK_ID = 2**63 - 1  # Go's database/sql stores no larger uint

_WAIT = r"wait\s+(\d+(?:\.\d+)?)\s*seconds?"
_QUOTA = r"(?i)quota|use limit"
_EXPIRED = r"(?i)expired"


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
# In which one config's value decides what is sent in place of it, or of another.
_DECIDING = frozenset(
    {rule.field for rule in BRIDGE_MAPPING.replaced}
    | {name for rule in BRIDGE_MAPPING.omitted for name in (rule.field, rule.beside)}
)
_COUNTED_FIELDS = frozenset({"task_args", "timeout"})  # looked at after the rate limit has taken its token


class RemoteStatus(StrEnum):
    """The bridge's words for where a task is."""

    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


def to_wire(config: FineTuneConfig) -> dict[str, Any]:
    """Return the args of a create: every field that is not None, as plain JSON values."""
    return _given(config.to_dict())


def create_body(config: FineTuneConfig) -> bytes:
    """Return the body of a create of what was asked for, with the values that the bridge can be sent.

    Raises:
        RejectedError: It is larger than the bridge's limit of 2 MiB.
    """
    head, *own = kept(config)
    if not _DECIDING.isdisjoint(head.names):
        return encode_args(_given(config.sent_dict()))
    # The configs of a sweep have nearly all of their text in common, and it is written once.
    members = _members(head.pattern).copy()
    for name, value in zip(head.names, own, strict=True):
        if name in members:  # whether a seed was drawn is no argument
            members[name] = _member(name, value)
    body = f"{{{''.join(members.values())[1:]}}}".encode()
    return body if len(body) <= MAX_BODY_BYTES else encode_args(_given(config.sent_dict()))  # which says what to do


@functools.lru_cache(maxsize=64)
def _members(pattern: Pattern) -> dict[str, str]:
    """Return what stands in the body of a pattern's config of each field."""
    return {name: _member(name, value) for name, value in pattern.config().sent_dict().items()}


def _member(name: str, value: object) -> str:
    """Return what stands in a body of a field, with the comma before it; nothing where it is not sent."""
    return "" if value is None else f',"{name}":{_ENCODER.encode(value)}'


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def from_wire(args: dict[str, Any]) -> FineTuneConfig:
    """Return the config whose ``to_wire`` gives ``args``.

    Raises:
        ConfigError: These are not args that this library would send.
    """
    return FineTuneConfig.from_dict(args)


def encode_args(args: dict[str, Any]) -> bytes:
    """Return the body of a create.

    Raises:
        RejectedError: It is larger than the bridge's limit of 2 MiB, so the bridge would cut the connection.
    """
    body = _ENCODER.encode(args).encode()
    if len(body) <= MAX_BODY_BYTES:
        return body
    # The bridge cuts the connection without an answer, which would look like a create of unknown outcome.
    longest = max(args, key=lambda name: len(json.dumps(args[name], ensure_ascii=False).encode()))
    raise RejectedError(
        f"the config makes {len(body)} bytes, and the bridge takes {MAX_BODY_BYTES}; shorten {longest}", field=longest
    )


def priming_args() -> dict[str, Any]:
    """Return args that pass the key checks and are then refused by every bridge: nothing can be created with them.

    ``num_train_steps`` breaks the schema (checked by every version), ``timeout`` breaks the rule after it.
    """
    return {"model_name": "none", "num_train_steps": 0, "timeout": 0}


def read_created(answer: Answer) -> CreatedTask:
    """Return the task that a create made.

    Raises:
        RateLimitedError, AuthError, QuotaError, RejectedError, ProtocolError: Refused; nothing was created.
        SubmissionUnknownError: Anything else: the task may exist.
    """
    if answer.status == 200:
        data = _success_data(answer)
        task_id = data.get("id") if isinstance(data, dict) else None
        # An id of 0 names no task: the answer does not say what was made (case S4).
        if isinstance(task_id, int) and not isinstance(task_id, bool) and 0 < task_id <= MAX_TASK_ID:
            return CreatedTask(task_id=str(task_id), created_at=parse_time(data.get("created_at")))
    # No bridge answers a create so, it says 400 to everything: the create did not come through.
    if answer.status in (401, 403, 404, 413):
        raise _proxy_refusal(answer)
    if answer.status == LOGIN_WANTED:
        raise ProtocolError(_say_foreign(answer), is_lasting=True, **answer.facts)
    if answer.status == 400 and (error := _validation_error(answer)):
        raise error
    raise SubmissionUnknownError(
        f"the create was sent and answered with {answer.summary}, which does not say whether the task exists; "
        "it is not sent again by itself, because that could pay twice",
        **answer.facts,
    )


def running_answer(task_id: str) -> bytes:
    """Return the body of the answer that a task still runs, to the letter."""
    # What Go's encoder writes, byte by byte; any other spelling is read the long way.
    return b'{"message":"success","data":{"id":%s,"status":"running"}}' % task_id.encode()


def read_status(answer: Answer) -> str:
    """Return the status word of a task.

    Raises:
        NotFoundError: The bridge has no such task, or not any more.
        RejectedError, ServerError, ProtocolError: No status.
    """
    data = _success_data(answer) if answer.status == 200 else None
    status = data.get("status") if isinstance(data, dict) else None
    if not isinstance(status, str):
        raise_for(answer)
    return status


def raise_for(answer: Answer) -> NoReturn:
    """Raise what an answer to a repeatable request means, when it is not what was asked for.

    Raises:
        NotFoundError, OwnershipError, AuthError, QuotaError, RateLimitedError, RejectedError, RangeError, ServerError,
        ProtocolError: As the answer says.
    """
    if answer.status == 416:
        raise RangeError("the result does not reach that far", total_bytes=answer.whole_bytes, **answer.facts)
    if answer.status == 400 and (error := _validation_error(answer)):
        raise error
    # Gorm's error, passed on as it is; every other 500 says nothing about the task.
    if answer.status == 500 and answer.json == {"message": "record not found"}:
        raise NotFoundError(
            "the bridge has no such task, or has deleted it (by default 7 days after its end)", **answer.facts
        )
    if answer.status >= 500 and answer.status != LOGIN_WANTED:
        raise ServerError(f"the bridge answered {answer.summary}; ask again later", **answer.facts)
    if answer.status in (401, 403, 404, 413, 429):
        raise _proxy_refusal(answer)
    raise ProtocolError(_say_foreign(answer), is_lasting=True, **answer.facts)


def means_fresh_key(error: BackendError) -> bool:
    """Whether a refused result means that the key has never created anything.

    The bridge looks for the key's client row before it looks for the task, and says which one is missing by its status.
    """
    return isinstance(error, NotFoundError) and error.status == 500


def parse_wait(text: str) -> float | None:
    """Return the seconds in "rate limit exceeded, please wait 59.94 seconds", or None where there are none."""
    match = re.search(_WAIT, text)
    # A number of any length may come from outside, and "inf" seconds would wait for ever.
    wait = float(match[1]) if match else math.inf
    return wait if math.isfinite(wait) else None


def parse_time(value: Any) -> datetime | None:
    """Return an RFC 3339 time (Go writes up to 9 fraction digits) in UTC, or None where ``value`` is none."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value))
        return time.astimezone(UTC) if time.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _success_data(answer: Answer) -> Any:
    envelope = answer.json
    return envelope.get("data") if isinstance(envelope, dict) else None


def _validation_error(answer: Answer) -> BackendError | None:
    """Return the error that a 400 of the bridge names, or None when the answer is not the bridge's."""
    envelope = answer.json
    data = envelope.get("data") if isinstance(envelope, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("field_name"), str):
        return None
    # Newer Go puts the embedded struct before a field that does not bind: "SDFinetuneLoraTaskParams.rank".
    field = data["field_name"].rpartition(".")[2]
    return _named_error(field, str(data.get("message") or ""), answer)


def _named_error(field: str, text: str, answer: Answer) -> BackendError:
    facts = {**answer.facts, "field": field}
    lasting = {**facts, "is_lasting": True}
    # A 400 like every other refusal: only the field tells it from a config that is wrong.
    if field == "rate_limit":
        return RateLimitedError(f"too many creates: {text}", wait=parse_wait(text), **facts)
    # One field for an unknown key and for a used-up one; only the text tells them apart.
    if field == "Authorization" and re.search(_QUOTA, text):
        return QuotaError(
            f"the key is used up ({text}); finished models cannot be downloaded with it either", **lasting
        )
    if field == "Authorization":
        cure = (
            "a key lives for a year: get another one ('crynux-async bridge up' makes it on your own bridge)"
            if re.search(_EXPIRED, text)
            else "check CRYNUX_API_KEY"
        )
        return AuthError(f"the bridge does not accept the key: {text}; {cure}", **lasting)
    if field == "api_key":
        return OwnershipError(
            f"the task does not belong to this key ({text}). If it does: the first task that a new key ever makes can "
            "never be downloaded, because the bridge files it under two clients",
            **facts,
        )
    if field == "id":
        return NotFoundError(f"{text}: there is no result (not finished, failed, or deleted)", **facts)
    message = f"the bridge does not accept {field or 'the request'}: {text}"
    return RejectedError(message, is_counted=field in _COUNTED_FIELDS, **facts)


def _proxy_refusal(answer: Answer) -> CrynuxError:
    """Return the error for a refusal that never comes from the bridge itself, so nothing behind it has happened."""
    cls = AuthError if answer.status in (401, 403) else ProtocolError
    message = f"a proxy before the bridge refused with {answer.summary}; is base_url right?"
    return cls(message, is_lasting=answer.status != 429, **answer.facts)


def _say_foreign(answer: Answer) -> str:
    """Say that an answer is no bridge's, and what to do: waiting will not mend it."""
    said = f"no bridge answers {answer.summary}"
    if 300 <= answer.status < 400 and answer.location:
        return f"{said}, it sends elsewhere: set base_url to where {answer.location} leads (redirects are not followed)"
    if answer.status == LOGIN_WANTED:
        return f"{said}: the network wants you to log in to it first, in a browser"
    if answer.status == 407:
        return f"{said}: the proxy wants user and password; put them into proxy= (or HTTP_PROXY)"
    if answer.content_type == "text/html":
        return f"{said}: this is a page for people, perhaps the login page of the network; is base_url right?"
    return f"{said}; is base_url right?"
