"""What a relay must not forget, on disk: a line for every change of a task, a node or an account.

``relay.jsonl`` grows at its end; of several lines about one thing the last holds. What follows from the rest (queues,
deadlines, balances) is worked out again when it is read.
"""

from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Any

import attrs

from crynux_async.emulator.line_log import LineLog
from crynux_async.emulator.relay.accounts import Event, EventKind
from crynux_async.emulator.relay.nodes import Node, NodeStatus
from crynux_async.emulator.relay.relay import Relay
from crynux_async.emulator.relay.tasks import AbortReason, Status, Task


@attrs.frozen(kw_only=True)
class Tables:
    """What an earlier run has left.

    Attributes:
        tasks: In order of creation.
        nodes: In the order in which they first joined.
        events: In order.
    """

    tasks: list[Task]
    nodes: list[Node]
    events: list[Event]


class Database:
    """The file.

    Args:
        folder: Where it is, or is made.
        durable: Whether each line is forced to the disk.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._log = LineLog(folder / "relay.jsonl", durable=durable)
        self._events = 0

    def load(self) -> Tables:
        """Return what is in it."""
        rows: dict[str, dict[Any, dict[str, Any]]] = {"task": {}, "node": {}, "event": {}}
        keys = {"task": "sequence", "node": "number", "event": "number"}
        # The last line about a row is the row: nothing in the file is ever changed.
        for line in self._log:
            for table, row in line.items():
                rows[table][row[keys[table]]] = row
        self._events = len(rows["event"])
        return Tables(
            tasks=[_task(row) for row in rows["task"].values()],
            nodes=[_node(row) for row in rows["node"].values()],
            events=[Event(**{**row, "kind": EventKind(row["kind"])}) for row in rows["event"].values()],
        )

    def save(self, relay: Relay) -> None:
        """Write down what has changed since the last time."""
        events = relay.accounts.events[self._events :]
        self._events += len(events)
        self._write("event", events)
        self._write("node", relay.nodes.take_changed())
        # Money first: a task whose payment is not there would have been trained for nothing.
        self._write("task", relay.take_changed())

    def close(self) -> None:
        """Close the file."""
        self._log.close()

    def _write(self, table: str, rows: Iterable[Task | Node | Event]) -> None:
        for row in rows:
            self._log.append({table: attrs.asdict(row, recurse=False, value_serializer=_plain)})


def _plain(_: Any, __: Any, value: Any) -> Any:
    return int(value) if isinstance(value, IntEnum) else value


def _task(row: dict[str, Any]) -> Task:
    return Task(
        **{
            **row,
            "model_ids": tuple(row["model_ids"]),
            "status": Status(row["status"]),
            "abort_reason": AbortReason(row["abort_reason"]),
        }
    )


def _node(row: dict[str, Any]) -> Node:
    lists = {name: tuple(row[name]) for name in ("version", "models", "in_use")}
    return Node(**{**row, **lists, "status": NodeStatus(row["status"])})
