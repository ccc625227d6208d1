"""Which call a request is, and what the relay's web framework says to everything else.

Source: crynux-relay api/v1/routes.go, api/v2/routes.go, api/app.go, api/hello.go; gin (404), gin-contrib/cors.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Literal
from urllib.parse import unquote

import attrs

from crynux_async.emulator.http.answers import Answer, not_found
from crynux_async.emulator.relay import account_calls, network_calls, node_calls, task_calls
from crynux_async.emulator.relay.inputs import Call
from crynux_async.emulator.relay.service import Service

Operation = Literal["now", "create", "look", "validate", "cancel", "result", "image", "account", "network", "node"]
Handler = Callable[[Service, Call], Answer | Awaitable[Answer]]

OPERATIONS: tuple[Operation, ...] = (
    "now", "create", "look", "validate", "cancel", "result", "image", "account", "network", "node",
)  # fmt: skip
"""Kinds of calls, for faults."""

_PREFLIGHT = (
    ("Access-Control-Allow-Credentials", "true"),
    ("Access-Control-Allow-Headers", "*"),
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    ("Access-Control-Allow-Origin", "*"),
)
_CROSS_ORIGIN = (("Access-Control-Allow-Credentials", "true"), ("Access-Control-Allow-Origin", "*"))


@attrs.frozen(kw_only=True)
class Route:
    """One call.

    Attributes:
        operation: Its kind.
        handler: What answers it.
        path: Values of the path by name.
    """

    operation: Operation
    handler: Handler
    path: Mapping[str, str]


_TASK = "/v1/inference_tasks/:task_id_commitment"
_CALLS: Sequence[tuple[str, str, Operation, Handler]] = (
    ("GET", "/v1/now", "now", network_calls.now),
    ("POST", "/v1/inference_tasks/validate", "validate", task_calls.validate_tasks),
    ("POST", _TASK, "create", task_calls.create),
    ("GET", _TASK, "look", task_calls.look),
    ("POST", f"{_TASK}/abort_reason", "cancel", task_calls.abort),
    ("GET", f"{_TASK}/selected_node", "look", task_calls.selected_node),
    ("GET", f"{_TASK}/checkpoint", "result", task_calls.input_checkpoint),
    ("GET", f"{_TASK}/results/checkpoint", "result", task_calls.result_checkpoint),
    ("GET", f"{_TASK}/results/:index", "image", task_calls.result_image),
    ("POST", f"{_TASK}/results", "node", node_calls.upload),
    ("POST", f"{_TASK}/score", "node", node_calls.score),
    ("POST", f"{_TASK}/task_error", "node", node_calls.task_error),
    ("GET", "/v1/node/:address", "node", node_calls.show),
    ("GET", "/v1/node/:address/task", "node", node_calls.current_task),
    ("POST", "/v1/node/:address/quit", "node", node_calls.leave),
    ("POST", "/v2/node/:address/join", "node", node_calls.join),
    ("GET", "/v2/relay_account/:address/balance", "account", account_calls.balance),
    ("GET", "/v1/relay_account/:address/task_fee", "account", account_calls.fees),
    ("GET", "/v1/relay_account/:address/deposit/list", "account", account_calls.deposits),
    ("POST", "/v1/client/connect_wallet", "account", account_calls.connect),
    ("GET", "/v1/network/nodes/data", "network", network_calls.node_data),
    ("GET", "/v2/network/nodes/data", "network", network_calls.node_pages),
    ("GET", "/v1/network/nodes/number", "network", network_calls.node_numbers),
    ("GET", "/v1/network/tasks/number", "network", network_calls.task_numbers),
    ("GET", "/v1/network/withdraw_config", "network", network_calls.withdrawals),
    ("GET", "/v1/stats/queue/count", "network", network_calls.queue_count),
    ("GET", "/v2/loaded-models", "network", network_calls.loaded_models),
)
_TEMPLATES = tuple((method, tuple(path.split("/")), operation, handler) for method, path, operation, handler in _CALLS)


def route(method: str, raw_path: str) -> Route | None:
    """Return the call that a request is, or None.

    Args:
        method: Its method.
        raw_path: Its path as it was sent: a ".." is a name like another.
    """
    segments = tuple(raw_path.split("/"))
    for wanted, template, operation, handler in _TEMPLATES:
        if method == wanted and len(segments) == len(template):
            path = _matched(template, segments)
            if path is not None:
                return Route(operation=operation, handler=handler, path=path)
    return None


def outside(method: str, raw_path: str, *, has_origin: bool) -> Answer:
    """Answer what is none of the relay's calls."""
    if method == "OPTIONS" and has_origin:
        return Answer(status=204, headers=_PREFLIGHT)
    if (method, raw_path) == ("GET", "/"):
        page = resources.files(__package__).joinpath("hello.html").read_bytes()
        return Answer(status=200, headers=(("Content-Type", "text/html; charset=utf-8"),), body=(page,))
    return not_found()


def with_origin(answer: Answer) -> Answer:
    """Return an answer as a page of another origin may read it."""
    return attrs.evolve(answer, headers=(*answer.headers, *_CROSS_ORIGIN))


def _matched(template: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    values: dict[str, str] = {}
    for part, segment in zip(template, segments, strict=True):
        if part.startswith(":") and segment:
            values[part[1:]] = unquote(segment)
        elif part != segment:
            return None
    return values
