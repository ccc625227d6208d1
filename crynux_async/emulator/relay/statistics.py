"""What the relay tells everybody about its network: numbers that are counted every few minutes.

Source: crynux-relay tasks/sync_network.go, models/network.go (AddTotalTask), service/loaded_model.go.
"""

from collections.abc import Iterable
from typing import Any

import attrs

from crynux_async.emulator.relay.accounts import NETWORK
from crynux_async.emulator.relay.nodes import Node, NodeRegister, NodeStatus
from crynux_async.emulator.relay.tasks import Task

_COUNT_SECONDS = 180.0

WITHDRAWALS = [
    {
        "network": NETWORK,
        "token_type": "native",
        "withdrawal_fee": 100,
        "withdrawal_min": 10000,
        "withdrawal_fee_tiers": [
            {"min_amount": 0, "fee_ratio": 0.01},
            {"min_amount": 100000, "fee_ratio": 0.005},
        ],
        "max_withdrawals_per_day": 10,
    }
]
"""What a withdrawal costs."""


@attrs.define(eq=False, kw_only=True)
class _LoadedModel:
    min_vram: int


class Statistics:
    """Numbers of nodes and tasks as they were when they were last counted.

    Args:
        start: When the relay was started.
    """

    def __init__(self, start: float) -> None:
        self._start = start
        self._counts = 0
        self._has_tasks = False
        self._nodes = {"all_nodes": 0, "busy_nodes": 0, "active_nodes": 0}
        self._tasks = {"total_tasks": 0, "running_tasks": 0, "queued_tasks": 0}
        self._loaded: dict[str, _LoadedModel] = {}

    def count_task(self) -> None:
        """Count a create at once; the very first makes the row of the total and is not in it."""
        self._tasks["total_tasks"] += self._has_tasks
        self._has_tasks = True

    def count_success(self, task: Task, vram: int) -> None:
        """Remember which models a node with ``vram`` GB has proved to run."""
        for name in task.base_models:
            known = self._loaded.setdefault(_name(name), _LoadedModel(min_vram=vram))
            known.min_vram = min(known.min_vram, vram)

    def catch_up(self, now: float, *, running: int, queued: int, nodes: NodeRegister, tasks: int) -> None:
        """Count if it was due since the last call; nothing has changed in between."""
        counts = int((now - self._start) // _COUNT_SECONDS)
        # Counted now and then, as at the relay: what clients are shown is late.
        if counts > self._counts:
            self._counts = counts
            self.count(running=running, queued=queued, nodes=nodes, tasks=tasks)

    def count(self, *, running: int, queued: int, nodes: NodeRegister, tasks: int) -> None:
        """Count now."""
        self._tasks = {"total_tasks": tasks, "running_tasks": running, "queued_tasks": queued}
        self._nodes = {
            "all_nodes": nodes.count,
            "busy_nodes": sum(node.status is NodeStatus.BUSY for node in nodes),
            "active_nodes": sum(node.status is not NodeStatus.QUIT for node in nodes),
        }

    def node_numbers(self) -> dict[str, int]:
        """Return how many nodes there are."""
        return dict(self._nodes)

    def task_numbers(self) -> dict[str, int]:
        """Return how many tasks there are."""
        return dict(self._tasks)

    def loaded_models(self, nodes: Iterable[Node]) -> list[dict[str, Any]]:
        """Return the models that some node has proved to run, and how many have each now."""
        active = [node for node in nodes if node.status is not NodeStatus.QUIT]
        return [
            {
                "model_id": name,
                "model_type": "sd",
                "min_vram": model.min_vram,
                "in_memory_node_count": sum(name in map(_name, node.in_use) for node in active),
                "on_disk_node_count": sum(name in map(_name, node.models) for node in active),
            }
            for name, model in sorted(self._loaded.items())
        ]


def _name(model_id: str) -> str:
    """Return the model of an id like "base:name+variant"."""
    return model_id.removeprefix("base:").partition("+")[0]
