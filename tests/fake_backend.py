"""A backend in memory: tasks last as long as a test says, and every answer can be scripted."""

import asyncio
import io
import json
import struct
import zipfile
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from crynux_async.backends.base import CreatedTask, RemoteStatus, Validator
from crynux_async.clock import monotonic
from crynux_async.errors import NotFoundError
from crynux_async.training.config import FineTuneConfig


def make_config(**changes: Any) -> FineTuneConfig:
    base: dict[str, Any] = {
        "model_name": "crynux-ai/stable-diffusion-v1-5",
        "dataset_url": "https://example.com/pictures.zip",
        "max_train_steps": 100,
        "seed": 42,
        "timeout": 1800,
    }
    return FineTuneConfig(**{**base, **changes})


class FakeResult:
    """A result stream over bytes in memory."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self.start = start
        self.validator = Validator(last_modified="Thu, 01 Jan 2026 00:00:00 GMT", total_bytes=len(data))

    async def chunks(self, chunk_bytes: int) -> AsyncIterator[bytes]:
        for offset in range(self.start, len(self._data), chunk_bytes):
            await asyncio.sleep(0)
            yield self._data[offset : offset + chunk_bytes]


class FakeBackend:
    """A service in memory.

    Attributes:
        created: The configs that were accepted, by task id.
        received: The configs of all creates, in the order in which they came.
        may_download: Cleared to hold downloads up.
        answers: What the next creates do: an exception to raise, a callable to await first, or None to accept.
        duration: Seconds that a task runs, or a function of its config.
        end: How a task ends.
    """

    def __init__(self, *, duration: float | Callable[[FineTuneConfig], float] = 60.0, round_trip: float = 0.1) -> None:
        self.created: dict[int, FineTuneConfig] = {}
        self.created_at: dict[int, float] = {}
        self.asked: list[int] = []
        self.received: list[FineTuneConfig] = []
        self.may_download = asyncio.Event()
        self.may_download.set()
        self.answers: deque[BaseException | Callable[[], Any] | None] = deque()
        self.statuses: dict[int, Callable[[], RemoteStatus | str]] = {}
        self.duration = duration
        self.round_trip = round_trip
        self.creates = self.polls = self.primings = 0
        self.fresh: bool | BaseException = False
        self.closed = False
        self.archive = make_archive()
        self.result_error: Exception | None = None
        self.open_results = 0

    async def create(self, config: FineTuneConfig) -> CreatedTask:
        self.creates += 1
        self.received.append(config)
        answer = self.answers.popleft() if self.answers else None
        await asyncio.sleep(self.round_trip / 2)
        if callable(answer) and not isinstance(answer, BaseException):
            await answer()
        elif answer is not None:
            raise answer
        task_id = self.make_task(config)
        await asyncio.sleep(self.round_trip / 2)
        return CreatedTask(task_id=task_id)

    def make_task(self, config: FineTuneConfig) -> int:
        """Make a task as a create does, and return its number."""
        task_id = len(self.created) + 1
        self.created[task_id] = config
        self.created_at[task_id] = monotonic()
        return task_id

    async def owns(self, task_id: int) -> bool | None:
        self.asked.append(task_id)
        await asyncio.sleep(self.round_trip)
        return True if task_id in self.created else None

    async def status(self, task_id: int) -> RemoteStatus | str:
        self.polls += 1
        await asyncio.sleep(self.round_trip)
        if task_id in self.statuses:
            return self.statuses[task_id]()
        if task_id not in self.created:
            raise NotFoundError("record not found", status=500)
        config = self.created[task_id]
        duration = self.duration(config) if callable(self.duration) else self.duration
        if monotonic() - self.created_at[task_id] < duration:
            return RemoteStatus.RUNNING
        return RemoteStatus.FAILED if config.model_name.endswith("/fail") else RemoteStatus.SUCCESS

    @asynccontextmanager
    async def open_result(
        self, task_id: int, *, start: int = 0, validator: Validator | None = None
    ) -> AsyncIterator[FakeResult]:
        await asyncio.sleep(self.round_trip)
        if self.result_error is not None:
            raise self.result_error
        self.open_results += 1
        await self.may_download.wait()
        yield FakeResult(self.archive, start)

    async def key_is_fresh(self) -> bool:
        await asyncio.sleep(self.round_trip)
        if isinstance(self.fresh, BaseException):
            raise self.fresh
        return self.fresh

    async def prime_key(self) -> None:
        self.primings += 1
        await asyncio.sleep(self.round_trip)
        self.fresh = False

    async def close(self) -> None:
        self.closed = True


def make_archive(*, rank: int = 4, size: int = 8, extra_bytes: int = 0) -> bytes:
    """Return a result archive with one LoRA pair, as small as a good one can be."""
    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora"
    count = rank * size
    header = json.dumps(
        {
            f"{module}.down.weight": {"dtype": "F32", "shape": [rank, size], "data_offsets": [0, 4 * count]},
            f"{module}.up.weight": {"dtype": "F32", "shape": [size, rank], "data_offsets": [4 * count, 8 * count]},
        }
    ).encode()
    weights = struct.pack("<Q", len(header)) + header + struct.pack(f"<{2 * count}f", *[0.5] * (2 * count))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("pytorch_lora_weights.safetensors", weights)
        archive.writestr("optimizer.bin", b"\0" * extra_bytes)
        archive.writestr("global_step.txt", "100")
        archive.writestr("FINISH", "")
    return file.getvalue()
