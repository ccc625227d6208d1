"""Tasks and relays without sockets, for tests of the emulated relay."""

import random
from typing import Any

from crynux_async.emulator.relay.nodes import Node
from crynux_async.emulator.relay.relay import Order, Relay
from crynux_async.emulator.relay.tasks import Status, Task
from tests.relay_lab import MODEL, task_args

START = 1_700_000_000.0
FEE = 15
CREATOR = "0xC"
BASE = f"base:{MODEL}+fp16"


def order(number: int, **changes: Any) -> Order:
    values = {
        "commitment": f"0x{number:064x}",
        "nonce": "0x00",
        "args": task_args(),
        "task_type": 2,
        "version": "3.1.0",
        "timeout": 600,
        "min_vram": 24,
        "required_gpu": "",
        "required_gpu_vram": 0,
        "size": 1,
        "fee": FEE,
        "model_ids": (BASE,),
    }
    return Order(**{**values, **changes})


def new_relay(*, money: int = 1000, threshold: int = 5) -> Relay:
    relay = Relay(start=START, threshold=threshold, match_interval=2.0, draw=random.Random(0))
    relay.accounts.refund_in_memory(CREATOR, money)
    return relay


def new_node(number: int = 1, **changes: Any) -> Node:
    values = {
        "number": number,
        "address": f"0xN{number}",
        "gpu_name": "card",
        "gpu_vram": 24,
        "version": (3, 1, 0),
        "models": (BASE,),
        "stake": 1,
    }
    return Node(**{**values, **changes})


def scored(number: int, score: str | None, *, seconds: float = 10.0, error: bool = False) -> Task:
    """Return a task of a group: with a score, with an error, or aborted."""
    task = Task(
        sequence=number, commitment=f"0x{number:064x}", creator=CREATOR, nonce="0x00", seed="0x00", args="{}",
        task_type=2, version="3.1.0", timeout=600, min_vram=24, required_gpu="", required_gpu_vram=0, size=1, fee=FEE,
        model_ids=(), created=START, started=START, score=score or "",
    )  # fmt: skip
    if score is None and not error:
        task.status = Status.END_ABORTED
        return task
    task.status = Status.ERROR_REPORTED if error else Status.SCORE_READY
    task.score_ready = START + seconds
    return task
