"""The bridge's admin calls: what is signed, where the rest of a request goes, and what the answers mean. Pure.

Every signed call is refused with 400 and a field name. ``Invalid signature`` means form or time, and never that the
signer is wrong; ``Invalid signer`` means that another address was recovered, which a wrong canonical form gives too.
Source: crynux-bridge api/v1/api_key/*.go, api/v1/tools/validate_signature.go.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

import attrs

from crynux_async.backends.bridge.wire import raise_for
from crynux_async.backends.http.answer import Answer
from crynux_async.backends.http.client import Request
from crynux_async.errors import AuthError, BackendError, ProtocolError, UsageError
from crynux_async.money import WEI
from crynux_async.secret import Secret

ROLES = ("chat", "admin")
"""Roles that open anything; the bridge takes any text."""

UNLIMITED = -1
"""The ``use_limit`` that means none: 0 cannot be set."""

# 32 random bytes in base64url, with padding.
_KEY = re.compile("[A-Za-z0-9_-]{43}=", re.ASCII)
_API_KEY = "/v1/api_key"
# No account of an EVM chain holds more; JSON puts no bound on a number.
_MOST_WEI = 2**256 - 1
# Older bridges say "invalid" and "expired" and nothing else.
_REFUSED_KEY = re.compile("invalid|expired", re.IGNORECASE)


@attrs.frozen(kw_only=True)
class AdminCall:
    """A call before it is signed.

    Attributes:
        method: Its HTTP method.
        path: Its path, encoded.
        fields: What is signed.
        carried: What goes along besides timestamp and signature.
        in_query: Whether that goes into the query of the address, else as JSON into the body.
    """

    method: Literal["POST", "DELETE"]
    path: str
    fields: Mapping[str, Any]
    carried: Mapping[str, Any] = attrs.field(factory=dict)
    in_query: bool = False


@attrs.frozen(kw_only=True)
class MadeKey:
    """An API key that the bridge has just made: no role, one create a minute, 20 uses.

    Attributes:
        api_key: The key, which no call ever shows again.
        expires_at: When it stops to work; no call moves that.
    """

    api_key: Secret
    expires_at: datetime


@attrs.frozen(kw_only=True)
class RelayAccount:
    """The account at the relay from which the bridge pays.

    Attributes:
        address: The wallet of the bridge.
        wei: What it holds, in wei; a CNX is 10**18.
    """

    address: str
    wei: int

    @property
    def cnx(self) -> float:
        """What it holds, in CNX."""
        return self.wei / WEI


@attrs.frozen(kw_only=True)
class NodeCount:
    """The nodes of the whole network, of any size.

    Attributes:
        total: All of them.
        available: Those that are active and not busy.
    """

    total: int
    available: int


@attrs.frozen(kw_only=True)
class TaskCount:
    """Tasks of the bridge in the last hours, of every kind.

    Attributes:
        total: All that were created.
        succeeded: Those with a result.
        aborted: Those without any chance of one; ids that a refused create used up are among them.
        unfinished: The others.
        mean_seconds: What a task took, in seconds.
    """

    total: int
    succeeded: int
    aborted: int
    unfinished: int
    mean_seconds: float


def create_key() -> AdminCall:
    """Return the call that makes a key; each time another one."""
    return AdminCall(method="POST", path=_API_KEY, fields={})


def add_role(key: Secret, role: str) -> AdminCall:
    """Return the call that adds a role to a key, which is never taken away again.

    Raises:
        UsageError: It is a role that opens nothing, or the key is none.
    """
    if role not in ROLES:
        raise UsageError(f"a role is one of {', '.join(ROLES)}, not {role!r}: the others open nothing", field="role")
    return _change(key, "role", role)


def set_rate_limit(key: Secret, limit: int) -> AdminCall:
    """Return the call that sets the creates a minute of a key, >= 1.

    Raises:
        UsageError: The limit would refuse everything, or the key is none.
    """
    if not _is_whole(limit) or limit < 1:
        raise UsageError(f"rate_limit is a whole number of creates a minute, >= 1, not {limit!r}", field="rate_limit")
    return _change(key, "rate_limit", limit)


def set_use_limit(key: Secret, limit: int) -> AdminCall:
    """Return the call that sets how many LLM calls a key may make in all, >= 1, or -1 for no limit.

    Raises:
        UsageError: The limit is 0, which cannot be set, or the key is none.
    """
    # The bridge takes 0 for a value that is missing.
    if not _is_whole(limit) or not (limit >= 1 or limit == UNLIMITED):
        raise UsageError(f"use_limit is a whole number >= 1, or -1 for no limit, not {limit!r}", field="use_limit")
    return _change(key, "use_limit", limit)


def delete_key(key: Secret) -> AdminCall:
    """Return the call that deletes a key; results of its tasks cannot be fetched by anybody after that.

    Raises:
        UsageError: The key is none.
    """
    return AdminCall(method="DELETE", path=_path(key), fields={"api_key": key.reveal()}, in_query=True)


def request(call: AdminCall, timestamp: int, signature: str, secrets: tuple[Secret, ...] = ()) -> Request:
    """Return what is sent of a call that has been signed.

    Args:
        call: The call.
        timestamp: The time that was signed with it, in seconds.
        signature: Its signature.
        secrets: What must stand in no text about it.
    """
    # Timestamp and signature go along and are not among the signed fields.
    sent = {**call.carried, "timestamp": timestamp, "signature": signature}
    if call.in_query:
        query = {name: str(value) for name, value in sent.items()}
        return Request(method=call.method, path=call.path, query=query, secrets=secrets)
    return Request(method=call.method, path=call.path, body=json.dumps(sent).encode(), secrets=secrets)


def read_made_key(answer: Answer) -> MadeKey:
    """Return the key that an answer brings.

    Raises:
        BackendError: As the answer says.
    """
    data = _data(answer)
    match data:
        case {"api_key": str(key), "expires_at": int() | float() as expires} if _KEY.fullmatch(key):
            return MadeKey(api_key=Secret(key), expires_at=_time(expires))
    message = "no bridge answers a new key like this; is base_url right?"
    raise ProtocolError(message, status=answer.status, url=answer.url)


def read_account(answer: Answer) -> RelayAccount:
    """Return the account of the bridge.

    Raises:
        BackendError: As the answer says.
    """
    match _data(answer):
        case {"address": str(address), "balance": int(wei)} if 0 <= wei <= _MOST_WEI:
            return RelayAccount(address=address, wei=wei)
    raise _not_understood(answer)


def read_nodes(answer: Answer) -> NodeCount:
    """Return the nodes of the network.

    Raises:
        BackendError: As the answer says.
    """
    match _data(answer):
        case {"num_total_nodes": int(total), "num_available_nodes": int(available)}:
            return NodeCount(total=total, available=available)
    raise _not_understood(answer)


def read_counts(answer: Answer) -> TaskCount:
    """Return the tasks of the last hours.

    Raises:
        BackendError: As the answer says.
    """
    match _data(answer):
        case {
            "total_task_count": int(total),
            "success_task_count": int(succeeded),
            "aborted_task_count": int(aborted),
            "unfinished_task_count": int(unfinished),
            "avg_task_time": int(mean),
            # ``float`` raises OverflowError above its range, and JSON puts no bound on a number.
        } if abs(mean) <= _MOST_WEI:
            return TaskCount(
                total=total, succeeded=succeeded, aborted=aborted, unfinished=unfinished, mean_seconds=float(mean)
            )
    raise _not_understood(answer)


def read_models(answer: Answer) -> tuple[str, ...]:
    """Return the base models that the bridge lists, which are not all that it takes.

    Raises:
        BackendError: As the answer says.
    """
    data = _data(answer)
    if not isinstance(data, list):
        raise _not_understood(answer)
    return tuple(str(model.get("key") or model.get("name")) for model in data if isinstance(model, Mapping))


def is_bad_signature(answer: Answer) -> bool:
    """Whether an answer says that form or time of a signature is wrong, and not its signer."""
    return answer.status == 400 and _refusal(answer) == ("signature", "Invalid signature")


def check_done(answer: Answer, address: str, *, clock_is_known: bool = True) -> None:
    """Accept the answer to a signed call, or raise what it means.

    Args:
        answer: The answer.
        address: The wallet that signed.
        clock_is_known: Whether the bridge has told its time, so that the clock cannot be what is wrong.

    Raises:
        AuthError: The bridge belongs to another wallet, or does not know the key (any more).
        RejectedError, ServerError, ProtocolError: As the answer says.
    """
    if answer.status == 200:
        if _envelope(answer).get("message") != "success":
            raise _not_understood(answer)
        return
    refusal = _refusal(answer) if answer.status == 400 else None
    if refusal is not None:
        _raise_refusal(*refusal, answer, address, clock_is_known=clock_is_known)
    raise_for(answer)


def _raise_refusal(field: str, text: str, answer: Answer, address: str, *, clock_is_known: bool) -> None:
    """Raise what the refusal of a signed call means, where it means more than that a field is wrong."""
    facts = {**answer.facts, "field": field}
    if text == "Invalid signer":
        raise AuthError(
            f"the bridge belongs to another wallet than {address}: only the wallet in its config can make and change "
            "keys; look at blockchain.account.address there",
            **facts,
        )
    if field == "signature" and text == "Invalid signature":
        raise AuthError(
            "the bridge does not accept the signature although the clocks agree; does a proxy change requests?"
            if clock_is_known
            else "the bridge does not accept the signature and does not tell its time: set this machine's clock, which "
            "may be off by 60 s at most",
            **facts,
        )
    if field == "api_key" and _REFUSED_KEY.search(text):
        raise AuthError(f"the bridge does not know this key, or not any more: {text}; make another one", **facts)


def _time(seconds: float) -> datetime:
    """Return a time, or the nearest one that there is: the key that comes with it is more than its last day."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC) if seconds < 0 else datetime.max.replace(tzinfo=UTC)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _change(key: Secret, name: str, value: str | int) -> AdminCall:
    fields = {"api_key": key.reveal(), name: value}
    return AdminCall(method="POST", path=f"{_path(key)}/{name}", fields=fields, carried={name: value})


def _path(key: Secret) -> str:
    """Return the path of a key. A text under 8 characters crashes the bridge's handler, so only whole keys pass."""
    if not _KEY.fullmatch(key.reveal()):
        raise UsageError("that is not a bridge's key: a key has 44 characters, of which the last is =", field="api_key")
    return f"{_API_KEY}/{quote(key.reveal(), safe='=')}"


def _envelope(answer: Answer) -> dict[str, Any]:
    envelope = answer.json
    return envelope if isinstance(envelope, dict) else {}


def _data(answer: Answer) -> Any:
    if answer.status != 200:
        raise_for(answer)
    return _envelope(answer).get("data")


def _refusal(answer: Answer) -> tuple[str, str] | None:
    match _envelope(answer):
        case {"data": {"field_name": str(field), "message": str(text)}}:
            return field.rpartition(".")[2], text
    return None


def _not_understood(answer: Answer) -> BackendError:
    return ProtocolError("no bridge answers like this; is base_url right?", **answer.facts)
