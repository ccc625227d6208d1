"""A backend in memory: tasks last as long as a test says, and every answer can be scripted."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from crynux_async.backends.base import (
    CreatedTask,
    Finding,
    Habits,
    Look,
    LostCreate,
    Order,
    Seen,
    Task,
    Turnstile,
    Validator,
)
from crynux_async.backends.bridge.brackets import candidates, find_lost, search_requests
from crynux_async.backends.bridge.wire import RemoteStatus
from crynux_async.clock import monotonic
from crynux_async.errors import NotFoundError, UsageError
from crynux_async.supervision import upkeep
from crynux_async.training.config import EffectiveConfig, FineTuneConfig
from crynux_async.training.lengths import stall_seconds
from crynux_async.training.service import BRIDGE_FACTS
from tests.small_results import FakeResult, make_archive

LEASE = 60.0


def make_config(**changes: Any) -> FineTuneConfig:
    base: dict[str, Any] = {
        "model_name": "crynux-ai/stable-diffusion-v1-5",
        "dataset_url": "https://example.com/pictures.zip",
        "max_train_steps": 100,
        "seed": 42,
        "timeout": 1800,
    }
    return FineTuneConfig(**{**base, **changes})


def look_seldom(backend: "FakeBackend", monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sessions that live for weeks renew leases and look for wishes seldom: a million times of nothing else."""
    backend.habits = Habits(lease=86_400.0)
    monkeypatch.setattr(upkeep, "_HEAR_WISHES_EVERY", 3600.0)


class FakeBackend:
    """A service in memory that numbers its tasks and limits creates, as a bridge does.

    Attributes:
        created: The configs that were accepted, by task id.
        received: The configs of all creates, in the order in which they came.
        may_download: Cleared to hold downloads up.
        answers: What the next creates do: an exception to raise, a callable to await first, or None to accept.
        looks: What looks at certain tasks show: functions that return a ``Look`` or raise, by task id.
        duration: Seconds that a task runs, or a function of its config.
        fresh: Whether a create that is bound to be refused must come before the first real one; or what to raise.
    """

    is_rate_limited = True
    creates_are_repeatable = False
    name = "fake"
    key_id = "fake-key"

    def __init__(self, *, duration: float | Callable[[FineTuneConfig], float] = 60.0, round_trip: float = 0.1) -> None:
        self.facts = BRIDGE_FACTS
        self.habits = Habits(lease=LEASE)
        self.created: dict[str, FineTuneConfig] = {}
        self.created_at: dict[str, float] = {}
        self.asked: list[str] = []
        self.received: list[FineTuneConfig] = []
        self.may_download = asyncio.Event()
        self.may_download.set()
        self.answers: deque[BaseException | Callable[[], Any] | None] = deque()
        self.looks: dict[str, Callable[[], Look]] = {}
        self.duration = duration
        self.round_trip = round_trip
        self.creates = self.polls = self.primings = 0
        self.fresh: bool | BaseException = False
        self.closed = False
        self.archive = make_archive()
        self.result_error: Exception | None = None
        self.open_results = self.results_asked = 0

    def normal_task_id(self, given: str | int) -> str:
        text = str(given).strip()
        if isinstance(given, bool) or not text.isdecimal() or int(text) == 0:
            raise UsageError(f"a task id is a whole number above 0, not {given!r}", field="task_id")
        return text

    def effective(self, config: FineTuneConfig) -> EffectiveConfig:
        return config.effective()

    def stall_after(self, config: FineTuneConfig) -> float:
        return stall_seconds(config)

    def intend(self, order: Order) -> str:
        return json.dumps(order.config.effective().config.to_dict())

    async def create(self, payload: str) -> CreatedTask:
        config = FineTuneConfig.from_dict(json.loads(payload))
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

    def make_task(self, config: FineTuneConfig) -> str:
        """Make a task as a create does, and return its id."""
        task_id = str(len(self.created) + 1)
        self.created[task_id] = config
        self.created_at[task_id] = monotonic()
        return task_id

    async def owns(self, task_id: str) -> bool | None:
        self.asked.append(task_id)
        await asyncio.sleep(self.round_trip)
        return True if task_id in self.created and self._end(task_id) is Seen.SUCCEEDED else None

    async def status(self, task_id: str) -> str:
        await asyncio.sleep(self.round_trip)
        if task_id not in self.created:
            raise NotFoundError("record not found", status=500)
        words = {Seen.SUCCEEDED: RemoteStatus.SUCCESS, Seen.FAILED: RemoteStatus.FAILED}
        return words.get(self._end(task_id), RemoteStatus.RUNNING)

    async def look(self, task: Task) -> Look:
        self.polls += 1
        await asyncio.sleep(self.round_trip)
        if task.task_id in self.looks:
            return self.looks[task.task_id]()
        if task.task_id not in self.created:
            raise NotFoundError("record not found", status=500)
        return Look(seen=self._end(task.task_id))

    def _end(self, task_id: str) -> Seen:
        config = self.created[task_id]
        duration = self.duration(config) if callable(self.duration) else self.duration
        if monotonic() - self.created_at[task_id] < duration:
            return Seen.RUNNING
        return Seen.FAILED if config.model_name.endswith("/fail") else Seen.SUCCEEDED

    @asynccontextmanager
    async def open_result(
        self, task: Task, *, start: int = 0, validator: Validator | None = None
    ) -> AsyncIterator[FakeResult]:
        self.results_asked += 1
        await asyncio.sleep(self.round_trip)
        if self.result_error is not None:
            raise self.result_error
        self.open_results += 1
        await self.may_download.wait()
        yield FakeResult(self.archive, start)

    async def prepare(self, turnstile: Turnstile) -> float | None:
        await asyncio.sleep(self.round_trip)
        if isinstance(self.fresh, BaseException):
            raise self.fresh
        if self.fresh:
            async with turnstile():
                self.primings += 1
                await asyncio.sleep(self.round_trip)
            self.fresh = False
        return None

    def candidates(self, create: LostCreate, *, at_most: int) -> Iterable[str]:
        return candidates(create, at_most=at_most)

    def search_requests(self, lost: Sequence[LostCreate], *, known: frozenset[str], at_most: int) -> int:
        return search_requests(lost, known=known, at_most=at_most)

    async def find_lost(self, lost: Sequence[LostCreate], *, known: frozenset[str], at_most: int) -> list[Finding]:
        bridge: Any = self  # it answers what is asked of a bridge
        return await find_lost(bridge, lost, known=known, at_most=at_most)

    async def close(self) -> None:
        self.closed = True
