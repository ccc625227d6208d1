"""A service that is no bridge, to hold the seam against: names as ids, three steps, cancelling, images, no rate limit.

The studio takes an order under the name that the client chose, so that the same order sent twice is one task. A task is
queued until the client confirms it, then drawn until the client judges it, then packed until the client collects it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs

from crynux_async.backends.base import (
    Action,
    CreatedTask,
    Habits,
    Look,
    Order,
    ResultStream,
    Seen,
    Task,
    Validator,
)
from crynux_async.clock import monotonic
from crynux_async.errors import (
    NotFoundError,
    RangeError,
    RejectedError,
    SubmissionUnknownError,
    UnreachableError,
    UsageError,
)
from crynux_async.training.config import EffectiveConfig, FineTuneConfig
from crynux_async.training.service import ServiceFacts
from tests.small_results import FakeResult, make_archive

STEPS = ("confirm", "judge", "collect")
STAGES = ("queued", "drawn", "packed")
PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0" * 24
FEE = 3 * 10**18
STUDIO_FACTS = ServiceFacts(
    fee_cnx=6.0,
    account="yours",
    queue_seconds=0.0,
    failed_rounds=1,
    endless_share=0.0,
    has_validation_images=True,
    retention=None,
)


@attrs.define(eq=False)
class StudioTask:
    """A task as the studio keeps it: which steps were done, and when the present one began."""

    config_json: str
    began_at: float
    done: list[str] = attrs.field(factory=list)
    end: Seen | None = None


class Studio:
    """The service: what it keeps, and what a test makes it do."""

    def __init__(self, *, seconds_per_stage: float = 10.0) -> None:
        self.tasks: dict[str, StudioTask] = {}
        self.acts: list[tuple[str, str]] = []
        self.seconds_per_stage = seconds_per_stage
        self.is_away = False
        self.loses_answers = 0
        self.refuses = 0
        self.looks = 0
        self.act_takes: Callable[[str], float] = lambda kind: 0.0
        self.archive = make_archive()

    def create(self, name: str, config_json: str) -> None:
        self._require_presence()
        if self.refuses:
            self.refuses -= 1
            raise RejectedError("the studio draws no cats", field="model_name")
        self.tasks.setdefault(name, StudioTask(config_json, monotonic()))
        if self.loses_answers:
            self.loses_answers -= 1
            raise SubmissionUnknownError("the studio's answer was lost")

    def find(self, name: str) -> StudioTask:
        self._require_presence()
        if name not in self.tasks:
            raise NotFoundError(f"the studio knows no {name}")
        return self.tasks[name]

    def is_ready(self, task: StudioTask) -> bool:
        """Whether the present stage is over, so that the client's step is due."""
        return monotonic() - task.began_at >= self.seconds_per_stage

    def do(self, name: str, kind: str) -> str:
        """Carry a step out, once; doing it again changes nothing."""
        task = self.find(name)
        self.acts.append((name, kind))
        if kind in task.done:
            return "done before"
        if STEPS[len(task.done)] != kind:
            raise RejectedError(f"{kind} comes too early", field="kind")
        task.done.append(kind)
        task.began_at = monotonic()
        if len(task.done) == len(STEPS):
            task.end = Seen.SUCCEEDED
        return "done"

    def _require_presence(self) -> None:
        if self.is_away:
            raise UnreachableError("nobody is in the studio")


class StudioBackend:
    """The studio as a ``Backend`` with steps, cancelling, images, reasons and prices."""

    creates_are_repeatable = True
    name = "studio"
    key_id = "studio-pass"

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    @property
    def facts(self) -> ServiceFacts:
        return STUDIO_FACTS

    @property
    def habits(self) -> Habits:
        return Habits(lease=15.0, file_name="{job_id}.zip")

    def normal_task_id(self, given: str | int) -> str:
        text = str(given).strip()
        if not text.startswith("drawing-"):
            raise UsageError(f"a task of the studio is called drawing-..., not {given!r}", field="task_id")
        return text

    def effective(self, config: FineTuneConfig) -> EffectiveConfig:
        return config.effective()

    def stall_after(self, config: FineTuneConfig) -> float:
        return 2.0 * config.timeout

    def intend(self, order: Order) -> str:
        name = f"drawing-{order.job_id}-{order.try_number}"
        return json.dumps({"name": name, "config": order.config.to_dict()}, sort_keys=True)

    async def create(self, payload: str) -> CreatedTask:
        await asyncio.sleep(0.01)
        order: Mapping[str, Any] = json.loads(payload)
        self.studio.create(order["name"], json.dumps(order["config"]))
        return CreatedTask(task_id=order["name"])

    async def look(self, task: Task) -> Look:
        await asyncio.sleep(0.01)
        self.studio.looks += 1
        kept = self.studio.find(task.task_id)
        if kept.end is not None:
            reason = "the pencil broke" if kept.end is Seen.FAILED else ""
            return Look(seen=kept.end, reason=reason, has_images=kept.end is Seen.SUCCEEDED)
        due = STEPS[len(kept.done)] if self.studio.is_ready(kept) else ""
        return Look(
            seen=Seen.RUNNING,
            stage=STAGES[len(kept.done)],
            again_after=1.0,
            has_images=bool(kept.done),
            facts={"due": due},
        )

    def next_action(self, task: Task, look: Look) -> Action | None:
        due = look.facts.get("due")
        if not due:
            return None
        stored = next((action for action in task.actions if action.kind == due), None)
        return stored or Action(kind=due, arguments={"stage": look.stage}, fee=FEE if due == "judge" else None)

    async def act(self, task: Task, action: Action) -> str:
        await asyncio.sleep(self.studio.act_takes(action.kind))
        return self.studio.do(task.task_id, action.kind)

    def open_result(
        self, task: Task, *, start: int = 0, validator: Validator | None = None
    ) -> AbstractAsyncContextManager[ResultStream]:
        return self._open(task, start)

    @asynccontextmanager
    async def _open(self, task: Task, start: int) -> AsyncIterator[ResultStream]:
        await asyncio.sleep(0.01)
        if self.studio.find(task.task_id).end is not Seen.SUCCEEDED:
            raise NotFoundError(f"{task.task_id} is not finished")
        if start > len(self.studio.archive):
            raise RangeError("not that far", total_bytes=len(self.studio.archive))
        yield FakeResult(self.studio.archive, start)

    async def cancel(self, task: Task) -> str:
        kept = self.studio.find(task.task_id)
        if kept.done or kept.end is not None:
            raise RejectedError("it is drawn already, and paid for", field="task_id")
        kept.end = Seen.CANCELLED
        return "refunded, because nothing was drawn"

    async def images(self, task: Task) -> list[bytes]:
        self.studio.find(task.task_id)
        return [PICTURE, PICTURE]

    async def reason(self, task: Task) -> str:
        return "the pencil broke" if self.studio.find(task.task_id).end is Seen.FAILED else ""

    def price(self, config: FineTuneConfig) -> int | None:
        return 2 * FEE

    async def balance(self) -> int | None:
        return 1000 * FEE

    async def spent(self, task: Task, look: Look) -> int | None:
        return 2 * FEE if look.seen is Seen.SUCCEEDED else 0

    async def close(self) -> None:
        pass
