"""The calls about money, and the login that opens its lists.

Source: crynux-relay api/v2/relay_account/get_balance.go, api/v2/middleware/jwt_or_signature_auth.go,
api/v1/relay_account, api/v1/client/connect_wallet.go.
"""

from collections.abc import Sequence
from typing import Any

from crynux_async.emulator.go_text import NumberTextError, parse_int, parse_uint
from crynux_async.emulator.http.answers import Answer, RefusedError, json_answer
from crynux_async.emulator.relay.accounts import Event
from crynux_async.emulator.relay.inputs import CONNECT, Call, bind
from crynux_async.emulator.relay.login import TokenError
from crynux_async.emulator.relay.refusals import invalid
from crynux_async.emulator.relay.service import Service, told
from crynux_async.emulator.relay.signatures import login_signer, strict_request_signer

_PAGE_SIZE = 10


def connect(service: Service, call: Call) -> Answer:
    """Give a wallet a token."""
    values = bind(CONNECT, call).values
    address, now = values["address"], service.wall()
    signer = login_signer(address, values["timestamp"], values["signature"], now=now)
    if signer is None:
        raise invalid("signature", "Invalid signature")
    if signer != address:
        raise invalid("address", "Signature address mismatch")
    token, ends = service.doorman.token(address, now)
    return told({"token": token, "expires_at": ends})


def balance(service: Service, call: Call) -> Answer:
    """Tell what is in an account, to who has its token or signs for it."""
    address = call.path["address"]
    asker = _token_address(service, call)
    # A token first, and a signature in its place: a token that has ended is as good as none here.
    if asker is None:
        asker = _query_signer(service, call, address)
    if asker != address:
        raise invalid("address", "Address mismatch")
    return told(str(service.relay.accounts.balance(address)))


def fees(service: Service, call: Call) -> Answer:
    """List payments and refunds of an account."""
    address = _owner(service, call)
    events = service.relay.accounts.fees(address, now=service.wall())
    records = [event.as_fee_record() for event in _page(events, call)]
    return told({"total": len(events), "records": records})


def deposits(service: Service, call: Call) -> Answer:
    """List deposits to an account."""
    address = _owner(service, call)
    events = service.relay.accounts.deposits(address, now=service.wall())
    records = [event.as_deposit_record() for event in _page(events, call)]
    return told({"total": len(events), "deposit_records": records})


def _owner(service: Service, call: Call) -> str:
    try:
        address = service.doorman.address(call.headers.get("Authorization", ""), service.wall())
    except TokenError as error:
        raise _unauthorized(str(error)) from None
    if address != call.path["address"]:
        raise invalid("address", "Address mismatch")
    return address


def _token_address(service: Service, call: Call) -> str | None:
    try:
        return service.doorman.address(call.headers.get("Authorization", ""), service.wall())
    except TokenError:
        return None


def _query_signer(service: Service, call: Call, address: str) -> str:
    parameters = call.parameters
    try:
        timestamp = parse_int(parameters.get("timestamp", ""))
    except NumberTextError:
        raise _unauthorized("Valid JWT or signature required") from None
    signature = parameters.get("signature", "")
    signer = strict_request_signer({"address": address}, timestamp, signature, now=service.wall())
    if signer is None:
        raise _unauthorized("Valid JWT or signature required")
    return signer


def _page(events: Sequence[Event], call: Call) -> Sequence[Event]:
    # No bound on the size: one request may ask for everything.
    page, size = _number(call, "page") or 1, _number(call, "page_size") or _PAGE_SIZE
    return events[(page - 1) * size : page * size]


def _number(call: Call, name: str) -> int:
    text = call.parameters.get(name, "")
    try:
        return parse_uint(text) if text else 0
    except NumberTextError as error:
        raise invalid(name.title().replace("_", ""), str(error)) from None


def _unauthorized(message: str) -> RefusedError:
    answer: dict[str, Any] = {"message": message}
    return RefusedError(json_answer(401, answer))
