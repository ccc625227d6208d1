"""The control plane of an emulated service: what a program outside can ask of the emulator itself.

Everything is checked before anything is done. Pages in a browser are kept out: a page can send a form or a text to any
address, but no JSON; it says in Origin where it comes from; and a page whose own name was made to point here says that
name in Host. On an address that other machines can reach a token is needed as well.
"""

import hmac
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs
from aiohttp import web

PREFIX = "/_emulator/"
TOKEN_HEADER = "X-Emulator-Token"  # noqa: S105  # a name, no secret

_JSON = "application/json"

Act = Callable[[Any, web.BaseRequest], Awaitable[Any]]


@attrs.frozen(kw_only=True)
class Nothing:
    """The arguments of a call that has none."""


@attrs.frozen
class Call:
    """One call of a control plane.

    Attributes:
        arguments: The attrs class of its arguments, which checks them.
        act: Does it, and returns what is answered.
    """

    arguments: type[Any]
    act: Act


class RefusalError(Exception):
    """A request that is not carried out.

    Attributes:
        status: The status code of the answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ControlPlane:
    """The calls under ``/_emulator/``.

    Args:
        calls: Method and path to call.
        host: The name or address that the service listens on; with this machine's own name the only name that a
            request may call it by.
        token: What every request must have in its ``X-Emulator-Token`` header, or None.
    """

    def __init__(self, calls: Mapping[tuple[str, str], Call], *, host: str, token: str | None) -> None:
        self._calls = calls
        self._names = {"localhost", socket.gethostname().lower(), host.lower()} - {""}
        self._token = token

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Carry out a request and answer it in JSON, with ``error`` when it was not carried out."""
        try:
            self._admit(request)
            call = self._calls.get((request.method, request.path.removeprefix(PREFIX)))
            if call is None:
                raise RefusalError(404, "there are " + ", ".join(f"{m} {PREFIX}{p}" for m, p in self._calls))
            arguments = _arguments(call.arguments, await _document(request))
            return _json(200, await call.act(arguments, request))
        except RefusalError as refusal:
            return _json(refusal.status, {"error": str(refusal)})

    def _admit(self, request: web.BaseRequest) -> None:
        if self._token is not None and not _equal(request.headers.get(TOKEN_HEADER, ""), self._token):
            raise RefusalError(401, f"the header {TOKEN_HEADER} must have the token that the emulator was started with")
        authority = request.headers.get("Host", "")
        if not self._is_own(authority):
            raise RefusalError(403, f"call this service by its address or as localhost, not as {authority!r}")
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower() != f"http://{authority}".lower():
            raise RefusalError(403, f"pages of {origin!r} have no business here")
        if request.method not in ("GET", "DELETE") and request.content_type != _JSON:
            raise RefusalError(415, f"the Content-Type must be {_JSON}, and the body JSON")

    def _is_own(self, authority: str) -> bool:
        """Return whether Host is an address, which no page can forge, or a name that is known here."""
        try:
            name = urlsplit(f"//{authority}").hostname or ""
        except ValueError:
            return False
        return _is_address(name) or name.removesuffix(".") in self._names


async def _document(request: web.BaseRequest) -> dict[str, Any]:
    try:
        text = await request.text()
        document = json.loads(text) if text.strip() else {}
    except (ValueError, LookupError, RecursionError) as error:
        raise RefusalError(400, f"the body must be JSON: {error}") from error
    if not isinstance(document, dict):
        raise RefusalError(400, "the body must be a JSON object")
    return document


def _arguments(kind: type[Any], document: Mapping[str, Any]) -> Any:
    fields = {field.alias: field for field in attrs.fields(kind) if field.init}
    for name in document:
        if name not in fields:
            raise RefusalError(400, f"{name}: is no argument; there are {', '.join(fields) or 'none'}")
    for name, field in fields.items():
        if field.default is attrs.NOTHING and name not in document:
            raise RefusalError(400, f"{name}: is missing")
    try:
        return kind(**document)
    except ValueError as error:
        raise RefusalError(400, str(error)) from error


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _equal(given: str, token: str) -> bool:
    # A secret is compared in constant time; a header may hold any bytes.
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def _json(status: int, document: Any) -> web.Response:
    return web.Response(status=status, text=json.dumps(document), content_type=_JSON)
