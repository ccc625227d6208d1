"""Which call a request is, and what the bridge's web framework says to everything else.

Source: crynux-bridge api/v1/routes.go, gin (trailing slashes, 404), gin-contrib/cors (preflight), net/http Redirect.
"""

from typing import Literal

from aiohttp import web

from crynux_async.emulator.http import receiving
from crynux_async.emulator.http.answers import Answer, not_found

Operation = Literal["create", "status", "result"]
OPERATIONS: tuple[Operation, ...] = ("create", "status", "result")
"""The bridge's calls."""

_MODELS = "/v1/images/models"
_MAX_BODY_BYTES = 2 * 1024 * 1024
_PREFLIGHT = (
    ("Access-Control-Allow-Headers", "Origin,Content-Length,Content-Type,Authorization"),
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Max-Age", "43200"),
)


def route(method: str, path: str) -> tuple[Operation, str] | None:
    """Return the call that a request is and the id in its path ("" for a create), or None."""
    if not path.startswith(_MODELS):
        return None
    rest = path[len(_MODELS) :]
    if method == "POST":
        return ("create", "") if not rest else None
    if method != "GET":
        return None
    match rest.split("/"):
        case ["", id_text, "status"] if id_text:
            return "status", id_text
        case ["", id_text, "result"] if id_text:
            return "result", id_text
    return None


def outside(request: web.BaseRequest) -> Answer:
    """Answer what is none of the bridge's calls."""
    if request.method == "OPTIONS":
        return Answer(status=204, headers=_PREFLIGHT)
    shorter = request.path.removesuffix("/")
    if shorter == request.path or route(request.method, shorter) is None:
        return not_found()
    target = f"{shorter}?{request.query_string}" if request.query_string else shorter
    if request.method == "GET":
        page = f'<a href="{target}">Moved Permanently</a>.\n\n'.encode()
        headers = (("Content-Type", "text/html; charset=utf-8"), ("Location", target))
        return Answer(status=301, headers=headers, body=(page,))
    return Answer(status=307, headers=(("Location", target),))


async def read_body(request: web.BaseRequest) -> tuple[bytes, bool]:
    """Return as much of the body as the bridge reads, and whether there was more."""
    return await receiving.read_body(request, _MAX_BODY_BYTES)
