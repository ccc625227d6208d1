"""The control plane: what a program outside can ask of the emulator itself, under ``/_emulator/``."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from aiohttp import web

if TYPE_CHECKING:
    from crynux_async.emulator.bridge.server import Emulator

PREFIX = "/_emulator/"

_FRESH_KEY: dict[str, Any] = {"roles": ["chat"], "rate_limit": 1, "use_limit": 20, "primed": False}
_SHOWN_REQUESTS = 1000


async def control(emulator: "Emulator", request: web.BaseRequest) -> web.Response:
    """Carry out a request of the control plane and answer it in JSON: 400 with ``error`` when it makes no sense."""
    handler = _ROUTES.get((request.method, request.path.removeprefix(PREFIX)))
    if handler is None:
        return _json(404, {"error": "the control plane has " + ", ".join(f"{m} {PREFIX}{p}" for m, p in _ROUTES)})
    try:
        text = await request.text()
        arguments = json.loads(text) if text.strip() else {}
        if not isinstance(arguments, dict):
            raise TypeError("the body must be a JSON object")
        return _json(200, await handler(emulator, arguments, request))
    except (TypeError, ValueError, LookupError) as error:
        return _json(400, {"error": f"{type(error).__name__}: {error}"})


async def _new_key(emulator: "Emulator", arguments: Mapping[str, Any], _: web.BaseRequest) -> Any:
    return {"api_key": emulator.new_key(**{**_FRESH_KEY, **arguments})}


async def _set_limit(emulator: "Emulator", arguments: Mapping[str, Any], _: web.BaseRequest) -> Any:
    emulator.set_rate_limit(arguments["api_key"], int(arguments["rate_limit"]))
    return {}


async def _add_fault(emulator: "Emulator", arguments: Mapping[str, Any], _: web.BaseRequest) -> Any:
    emulator.add_fault(**arguments)
    return {}


async def _clear_faults(emulator: "Emulator", _: Mapping[str, Any], __: web.BaseRequest) -> Any:
    emulator.clear_faults()
    return {}


async def _restart(emulator: "Emulator", _: Mapping[str, Any], request: web.BaseRequest) -> Any:
    emulator.restart(spare=request)
    return {}


async def _outage(emulator: "Emulator", arguments: Mapping[str, Any], request: web.BaseRequest) -> Any:
    await emulator.outage(**arguments, spare=request)
    return {}


async def _journal(emulator: "Emulator", _: Mapping[str, Any], __: web.BaseRequest) -> Any:
    return [entry.as_dict() for entry in emulator.journal]


async def _requests(emulator: "Emulator", _: Mapping[str, Any], __: web.BaseRequest) -> Any:
    return [attrs.asdict(record) for record in emulator.requests[-_SHOWN_REQUESTS:]]


_ROUTES: dict[tuple[str, str], Callable[["Emulator", Mapping[str, Any], web.BaseRequest], Awaitable[Any]]] = {
    ("POST", "keys"): _new_key,
    ("POST", "keys/limit"): _set_limit,
    ("POST", "faults"): _add_fault,
    ("DELETE", "faults"): _clear_faults,
    ("POST", "restart"): _restart,
    ("POST", "outage"): _outage,
    ("GET", "journal"): _journal,
    ("GET", "requests"): _requests,
}


def _json(status: int, document: Any) -> web.Response:
    return web.Response(status=status, text=json.dumps(document), content_type="application/json")
