"""The nodes that the relay knows, and which of them gets which task.

Source: crynux-relay models/node.go, service/task_matching.go, api/v1/nodes, api/v2/nodes.
"""

import random
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

import attrs

from crynux_async.emulator.relay.accounts import NETWORK
from crynux_async.emulator.relay.tasks import Task

NO_TASK = "0x" + "0" * 64
"""What a node without a task is told."""

_FRESH_QOS = 0.5
_LEAST_VRAM = 8


class NodeStatus(IntEnum):
    """Where a node is."""

    QUIT = 0
    AVAILABLE = 1
    BUSY = 2
    PENDING_QUIT = 4


@attrs.define(eq=False, kw_only=True)
class Node:
    """One node.

    Attributes:
        number: Its number among all that ever joined, from 1.
        address: Its address.
        gpu_name: Its card.
        gpu_vram: The card's GB.
        version: Its version, three numbers.
        models: Models on its disk.
        in_use: Models in its memory.
        stake: Wei.
        status: Where it is.
        task: The key of the task that it holds, or "".
        is_automatic: Whether the emulator itself works for it.
    """

    number: int
    address: str
    gpu_name: str
    gpu_vram: int
    version: tuple[int, int, int]
    models: tuple[str, ...]
    stake: int
    in_use: tuple[str, ...] = ()
    status: NodeStatus = NodeStatus.AVAILABLE
    task: str = ""
    is_automatic: bool = False

    @property
    def version_text(self) -> str:
        """Its version as it is shown."""
        return ".".join(map(str, self.version))

    def suits(self, task: Task) -> bool:
        """Return whether the node may be given a task, free or not."""
        major, minor, patch = (int(number) for number in task.version.split("."))
        if self.version[0] != major or self.version[1:] < (minor, patch):
            return False
        if task.required_gpu:
            is_card = (self.gpu_name, self.gpu_vram) == (task.required_gpu, task.required_gpu_vram)
        else:
            is_card = self.gpu_vram >= task.min_vram
        return is_card and set(task.base_models) <= set(self.models)

    def as_answer(self) -> dict[str, Any]:
        """Return it as its own address shows it."""
        return {
            "address": self.address,
            "status": int(self.status),
            "gpu_name": self.gpu_name,
            "gpu_vram": self.gpu_vram,
            "qos_score": 0,
            "version": self.version_text,
            "in_use_model_ids": list(self.in_use),
            "model_ids": list(self.models),
        }

    def as_selected(self) -> dict[str, Any]:
        """Return it as the creator of its task sees it."""
        return {
            "address": self.address,
            "status": int(self.status),
            "gpu_name": self.gpu_name,
            "gpu_vram": self.gpu_vram,
            "version": self.version_text,
            "network": NETWORK,
        }


class NodeRegister:
    """All nodes that ever joined.

    Args:
        draw: Decides which of several suitable nodes gets a task.
    """

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._nodes: dict[str, Node] = {}
        self._changed: dict[str, Node] = {}
        self.stakes: dict[str, int] = {}

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def find(self, address: str) -> Node | None:
        """Return a node, or None when it never joined."""
        return self._nodes.get(address)

    def add(self, node: Node) -> None:
        """Take a node in, in the place of an earlier one with its address."""
        self._nodes[node.address] = node
        self.change(node)

    def change(self, node: Node) -> None:
        """Remember that something about a node is new."""
        self._changed[node.address] = node

    def take_changed(self) -> list[Node]:
        """Return the nodes about which something is new since the last call."""
        changed, self._changed = list(self._changed.values()), {}
        return changed

    def occupy(self, node: Node, task: Task) -> None:
        """Give a node a task."""
        node.status = NodeStatus.BUSY
        node.task = task.key
        node.in_use = task.base_models
        self.change(node)

    def let_go(self, node: Node) -> None:
        """Let a node quit, at once or when it is done with its task."""
        if node.status is NodeStatus.AVAILABLE:
            node.status = NodeStatus.QUIT
            node.models = node.in_use = ()
        elif node.status is NodeStatus.BUSY:
            # Its task is paid for, so it stays until that has ended.
            node.status = NodeStatus.PENDING_QUIT
        self.change(node)

    @property
    def count(self) -> int:
        """How many ever joined."""
        return len(self._nodes)

    def pairs(self, queue: Sequence[Task]) -> list[tuple[Task, Node]]:
        """Return which tasks go to which nodes now.

        Args:
            queue: Waiting tasks in any order; higher priority goes first, then who came first.
        """
        free = [node for node in self if node.status is NodeStatus.AVAILABLE and not node.task]
        found: list[tuple[Task, Node]] = []
        # Once through the queue: a task that suits no free node does not keep later ones waiting.
        for task in sorted(queue, key=lambda task: (-priority(task), task.sequence)):
            if not free:
                break
            suitable = [node for node in free if node.suits(task)]
            if suitable:
                node = self._draw.choice(suitable)
                free.remove(node)
                found.append((task, node))
        return found

    def release(self, address: str, *, is_slashed: bool = False) -> None:
        """Free a node of its task; one that wanted to quit is gone now, and so is one that is slashed."""
        node = self._nodes[address]
        self.change(node)
        node.task = ""
        is_gone = is_slashed or node.status is NodeStatus.PENDING_QUIT
        node.status = NodeStatus.QUIT if is_gone else NodeStatus.AVAILABLE
        if is_gone:
            node.models = node.in_use = ()

    def weights(self, node: Node) -> tuple[float, float, float]:
        """Return the scores of a fresh node: quality of service, staking, and the weight that comes of both."""
        most = max((other.stake for other in self if other.status is not NodeStatus.QUIT), default=0)
        staking = (node.stake / most) ** 0.5 if most and node.status is not NodeStatus.QUIT else 0.0
        weight = staking * _FRESH_QOS / (staking + _FRESH_QOS) if staking else 0.0
        return _FRESH_QOS, staking, weight


def priority(task: Task) -> int:
    """Return what a task pays for a second of 8 GB, in wei: the higher, the sooner it is started."""
    return task.fee * _LEAST_VRAM // (max(task.timeout, 1) * max(task.min_vram, _LEAST_VRAM))
