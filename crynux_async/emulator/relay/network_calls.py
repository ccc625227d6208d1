"""The calls that anybody may make: the time, the network, the queue.

Source: crynux-relay api/v1/time, api/v1/network, api/v1/stats, api/v2/network, api/v2/models.
"""

from crynux_async.emulator.go_text import NumberTextError, parse_int
from crynux_async.emulator.http.answers import Answer
from crynux_async.emulator.relay.accounts import NETWORK
from crynux_async.emulator.relay.inputs import Call
from crynux_async.emulator.relay.nodes import Node
from crynux_async.emulator.relay.refusals import invalid
from crynux_async.emulator.relay.service import Service, told
from crynux_async.emulator.relay.statistics import WITHDRAWALS

_MOST_NODES = 100
_PAGE_SIZE = 30


def now(service: Service, _: Call) -> Answer:
    """Tell the time."""
    return told({"now": int(service.wall())})


def node_numbers(service: Service, _: Call) -> Answer:
    """Tell how many nodes there are."""
    return told(service.relay.statistics.node_numbers())


def task_numbers(service: Service, _: Call) -> Answer:
    """Tell how many tasks there are."""
    return told(service.relay.statistics.task_numbers())


def queue_count(service: Service, _: Call) -> Answer:
    """Tell how many tasks wait."""
    return told(service.relay.queued)


def withdrawals(_: Service, __: Call) -> Answer:
    """Tell what a withdrawal costs."""
    return told(WITHDRAWALS)


def loaded_models(service: Service, _: Call) -> Answer:
    """Tell which models nodes have."""
    return told(service.relay.statistics.loaded_models(service.relay.nodes))


def node_data(service: Service, call: Call) -> Answer:
    """List nodes, as version 1 does."""
    start, total = _number(call, "start"), _number(call, "total")
    if start < 0:
        raise invalid("start", "min")
    if not 1 <= total <= _MOST_NODES:
        raise invalid("total", "required" if not total else "max" if total > 0 else "min")
    nodes = list(service.relay.nodes)[start : start + total]
    data = [{"address": node.address, "card_model": node.gpu_name, "v_ram": node.gpu_vram, "qos": 0} for node in nodes]
    # Go marshals a slice to which nothing was ever appended as null.
    return told(data or None)


def node_pages(service: Service, call: Call) -> Answer:
    """List nodes, as version 2 does."""
    page, size = _number(call, "page") or 1, _number(call, "page_size") or _PAGE_SIZE
    nodes = list(service.relay.nodes)[(page - 1) * size : page * size]
    return told([_page_entry(service, node) for node in nodes] or None)


def _page_entry(service: Service, node: Node) -> dict[str, object]:
    quality, staking, weight = service.relay.nodes.weights(node)
    return {
        "address": node.address,
        "network": NETWORK,
        "card_model": node.gpu_name,
        "v_ram": node.gpu_vram,
        "staking": str(node.stake),
        "qos_score": quality,
        "staking_score": int(staking) if staking.is_integer() else staking,
        "prob_weight": weight,
    }


def _number(call: Call, name: str) -> int:
    text = call.parameters.get(name, "")
    try:
        return parse_int(text) if text else 0
    except NumberTextError as error:
        raise invalid(name.title().replace("_", ""), str(error)) from None
