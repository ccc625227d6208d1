"""Nodes that work by themselves, so that jobs really end.

They take every task that is fine-tuning, as fast as the emulator's speed says, and deliver archives and images like
real ones. What they make of a task follows from its arguments (the endings of model names ask for trouble as they do
at the bridge), or from a conduct that somebody has ordered for the next tasks.
"""

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import Literal

from crynux_async.emulator.nodes.node import Network
from crynux_async.emulator.nodes.weights import Lora
from crynux_async.emulator.nodes.wishes import Fate
from crynux_async.emulator.relay.agenda import Act
from crynux_async.emulator.relay.images import score
from crynux_async.emulator.relay.nodes import Node, NodeStatus
from crynux_async.emulator.relay.relay import Relay
from crynux_async.emulator.relay.results import Results, Training, training
from crynux_async.emulator.relay.tasks import AWAITING_UPLOAD, Status, Task
from crynux_async.emulator.signatures import checksummed

Conduct = Literal["honest", "differs", "reports_error", "silent", "withholds"]
"""What a node makes of a task: its result, another result, a report of bad arguments, nothing at all, or a score
without a result."""

UPLOAD_SECONDS = 5.0
"""Seconds of training time between validation and the node's result."""

_REPORT_SECONDS = 5.0
_GPU = "NVIDIA GeForce RTX 4090"
_VRAM = 24
_VERSION = (3, 1, 0)
_STAKE = 10**18
_BAD_ARGUMENTS = 1
_CONDUCTS: dict[Fate, Conduct] = {"fails": "reports_error", "silent": "silent", "stalls": "silent"}
# An archive is the weights and an optimizer of twice their size, hardly packed.
_ARCHIVE_PER_WEIGHTS = 3 * 0.98


class AutomaticNodes:
    """All automatic nodes of a relay.

    Args:
        relay: Where they work.
        results: Where their results go.
        network: What they are like.
        speed: Seconds of training time that pass in one second, > 0.
        model_seconds: Seconds of training time until the nodes have a model that none had, >= 0.
        body_limit: The largest upload that the relay takes, in bytes.
    """

    def __init__(
        self,
        relay: Relay,
        results: Results,
        network: Network,
        *,
        speed: float,
        model_seconds: float,
        body_limit: int,
    ) -> None:
        self._relay = relay
        self._results = results
        self._network = network
        self._speed = speed
        self._model_seconds = model_seconds
        self._body_limit = body_limit
        self._ordered: deque[Conduct] = deque()
        self._conducts: dict[int, Conduct] = {}
        self._models: set[str] = set()

    def start(self, count: int, now: float) -> None:
        """Let nodes join until there are ``count``, and go on with tasks of an earlier run."""
        here = [node for node in self._relay.nodes if node.is_automatic and node.status is not NodeStatus.QUIT]
        self._models.update(*(node.models for node in here))
        for _ in range(count - len(here)):
            self._join(now)
        for node in here:
            if node.task:
                self._resume(self._relay.tasks[node.task])

    def order(self, conducts: Iterable[Conduct]) -> None:
        """Let the next tasks that are started be treated like this, one after the other."""
        self._ordered.extend(conducts)

    def queued(self, task: Task, now: float) -> None:
        """Begin to fetch the models of a task that no node has."""
        missing = set(task.base_models) - self._models
        if missing:
            self._relay.agenda.add(now + self._model_seconds / self._speed, lambda when: self._learn(missing, when))

    def started(self, task: Task, now: float) -> None:
        """Begin with a task."""
        work = training(task, self._network)
        course = self._network.course(work.args)
        conduct = self._ordered.popleft() if self._ordered else _CONDUCTS.get(course.fate, "honest")
        self._conducts[task.sequence] = conduct
        if conduct == "reports_error":
            self._after(now, _REPORT_SECONDS, lambda when: self._report_error(task, when))
        # A node that cannot load its data set says nothing: its creator sees the timeout alone.
        elif conduct != "silent":
            seconds = self._network.round_overhead + work.global_step * self._network.seconds_per_step
            self._after(now, seconds, lambda when: self._report_score(task, work, when))

    def validated(self, task: Task, now: float) -> None:
        """Begin to upload, unless the result is withheld or too large."""
        conduct = self._conducts.get(task.sequence, "honest")
        if conduct != "withholds" and not self._is_too_large(training(task, self._network)):
            self._after(now, UPLOAD_SECONDS, lambda when: self._upload(task, when))

    def slashed(self, node: Node, now: float) -> None:
        """Put another node in the place of one that was thrown out."""
        del node
        self._join(now)

    def _resume(self, task: Task) -> None:
        if task.status is Status.STARTED and task.started is not None:
            self.started(task, task.started)
        elif task.status in AWAITING_UPLOAD and task.validated is not None:
            self.validated(task, task.validated)

    def _join(self, now: float) -> None:
        number = self._relay.nodes.count + 1
        address = checksummed(hashlib.sha256(f"automatic node {number}".encode()).hexdigest()[:40])
        node = Node(
            number=number,
            address=address,
            gpu_name=_GPU,
            gpu_vram=_VRAM,
            version=_VERSION,
            models=tuple(sorted(self._models)),
            stake=_STAKE,
            is_automatic=True,
        )
        self._relay.nodes.stakes[address] = _STAKE
        self._relay.join(node, now)

    def _learn(self, models: Iterable[str], now: float) -> None:
        self._models.update(models)
        for node in self._relay.nodes:
            if node.is_automatic and node.status is not NodeStatus.QUIT:
                node.models = tuple(sorted(self._models))
                self._relay.nodes.change(node)
        self._relay.match_soon(now)

    def _after(self, now: float, training_seconds: float, act: Act) -> None:
        self._relay.agenda.add(now + training_seconds / self._speed, act)

    def _report_error(self, task: Task, now: float) -> None:
        # Aborted meanwhile: a node that is late is refused at the real relay, too.
        if task.status is Status.STARTED:
            self._relay.report_error(task, task.selected_node, _BAD_ARGUMENTS, now)

    def _report_score(self, task: Task, work: Training, now: float) -> None:
        if task.status is not Status.STARTED:
            return
        subjects = work.subjects()
        if self._conducts[task.sequence] == "differs":
            # Other than everybody's, and than that of another node that differs.
            subjects = [f"{task.commitment} {subject}" for subject in subjects]
        self._relay.report_score(task, task.selected_node, score(subjects), now)

    def _upload(self, task: Task, now: float) -> None:
        if task.status in AWAITING_UPLOAD:
            self._results.make(task)
            self._relay.finish(task, now)

    def _is_too_large(self, work: Training) -> bool:
        args = work.args
        dtype: Literal["F32", "BF16"] = "BF16" if args.mixed_precision == "bf16" else "F32"
        modules = self._network.unet.targeted(args.target_modules)
        weights = Lora(modules=modules, rank=args.rank, dtype=dtype, seed="").data_bytes
        # The real relay refuses such an upload each time, and the task ends by its deadline.
        return weights * _ARCHIVE_PER_WEIGHTS > self._body_limit
