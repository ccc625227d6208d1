"""The relay without its sockets: tasks, money, nodes, and what happens to them as time goes by.

Theory of operation: every change is made by one of the methods here, at a time that the caller gives, and is whole when
the method returns. What the relay does by itself (start tasks, abort late ones) is in the agenda and done by
``advance``, which the caller calls before everything else. Nothing here waits or knows of a socket.

Source: crynux-relay service/task_status.go, service/start_task.go, service/task_matching.go, api/v1/inference_tasks.
"""

import random
from collections.abc import Iterable
from typing import Protocol

import attrs

from crynux_async.emulator.relay.accounts import SYNC_SECONDS, Accounts, BalanceError, EventKind
from crynux_async.emulator.relay.agenda import Agenda, next_tick
from crynux_async.emulator.relay.groups import verdicts
from crynux_async.emulator.relay.nodes import Node, NodeRegister
from crynux_async.emulator.relay.refusals import failed, invalid, not_allowed, not_found
from crynux_async.emulator.relay.statistics import Statistics
from crynux_async.emulator.relay.tasks import FINISHED_BY_NODE, AbortReason, Status, Task

_TIMEOUT_ROUND = 2.0


class Worker(Protocol):
    """Somebody who works for automatic nodes."""

    def queued(self, task: Task, now: float) -> None:
        """Hear that a task waits."""
        ...

    def started(self, task: Task, now: float) -> None:
        """Hear that an automatic node was given a task."""
        ...

    def validated(self, task: Task, now: float) -> None:
        """Hear that a task of an automatic node was validated, alone or as the winner of its group."""
        ...

    def slashed(self, node: Node, now: float) -> None:
        """Hear that an automatic node was thrown out."""
        ...


@attrs.frozen(kw_only=True)
class Order:
    """What a creator asks for.

    Attributes:
        commitment: What the task is called.
        nonce: The creator's part of it.
        args: Its arguments as normalised JSON.
        task_type: 2 for fine-tuning.
        version: The least version of a node.
        timeout: Seconds.
        min_vram: GB.
        required_gpu: A card, or "".
        required_gpu_vram: That card's GB.
        size: A number that only the creator knows.
        fee: Wei.
        model_ids: The models that it needs, in lower case.
    """

    commitment: str
    nonce: str
    args: str
    task_type: int
    version: str
    timeout: int
    min_vram: int
    required_gpu: str
    required_gpu_vram: int
    size: int
    fee: int
    model_ids: tuple[str, ...]


class Relay:
    """The state of the relay.

    Args:
        start: When it was started, in seconds since 1970; its loops count from there.
        threshold: The distance of two image hashes from which on results differ.
        match_interval: Seconds between two rounds in which waiting tasks are given to nodes, > 0.
        draw: Decides which node gets a task.
    """

    def __init__(self, *, start: float, threshold: int, match_interval: float, draw: random.Random) -> None:
        self.threshold = threshold
        self.accounts = Accounts()
        self.nodes = NodeRegister(draw)
        self.tasks: dict[str, Task] = {}
        self.statistics = Statistics(start)
        self.worker: Worker | None = None
        self.agenda = Agenda()
        self._start = start
        self._match_interval = match_interval
        self._queue: dict[int, Task] = {}
        self._running: dict[int, Task] = {}
        self._groups: dict[str, list[Task]] = {}
        self._is_matching = False
        self._changed: dict[int, Task] = {}

    def advance(self, now: float) -> None:
        """Let everything happen that happens by itself until ``now``."""
        while (due := self.agenda.due) is not None and due <= now:
            self._look(due)
            self.agenda.advance(due)
        self._look(now)

    def find(self, commitment: str) -> Task:
        """Return a task.

        Raises:
            RefusedError: If there is none.
        """
        task = self.tasks.get(commitment.lower())
        if task is None:
            raise not_found()
        return task

    def create(self, order: Order, creator: str, seed: str, now: float) -> Task:
        """Take a task in and its fee from the creator's account.

        Raises:
            RefusedError: If it is there already, or the creator has too little.
        """
        self.check_new(order.commitment)
        try:
            self.accounts.check(creator, order.fee)
        except BalanceError:
            raise invalid("task_fee", "Insufficient relay account balance") from None
        task = Task(
            sequence=len(self.tasks) + 1, creator=creator, seed=seed, created=now, **attrs.asdict(order, recurse=False)
        )
        self.tasks[task.key] = self._changed[task.sequence] = task
        self.statistics.count_task()
        # Held and not spent: a refund is an event of its own, so that the list tells both.
        self._move_money(EventKind.PAYMENT, task, now)
        self._enqueue(task, now)
        return task

    def check_new(self, commitment: str) -> None:
        """Refuse a commitment that is there already.

        Raises:
            RefusedError: If it is.
        """
        if commitment.lower() in self.tasks:
            raise invalid("task_id_commitment", "Task already uploaded")

    def cancel(self, task: Task, reason: int, now: float) -> None:
        """Abort a waiting task for its creator.

        Raises:
            RefusedError: If it is not waiting any more, or the reason is none of a creator's.
        """
        if reason != AbortReason.CREATOR_CANCELLED:
            raise invalid("abort_reason", "Abort reason not allowed")
        if task.status is not Status.QUEUED:
            raise invalid("task_id_commitment", "Task can no longer be cancelled")
        self._abort(task, AbortReason.CREATOR_CANCELLED, now)

    def report_score(self, task: Task, node: str, score: str, now: float) -> None:
        """Take a node's score.

        Raises:
            RefusedError: If the task is not its, or not running.
        """
        self._check_started(task, node)
        task.score = score
        task.score_ready = now
        self._become(task, Status.SCORE_READY)

    def report_error(self, task: Task, node: str, error: int, now: float) -> None:
        """Take a node's report that it cannot run a task.

        Raises:
            RefusedError: If the task is not its, or not running.
        """
        self._check_started(task, node)
        # The error changes nothing else: the task waits for its creator's validation, or for its deadline.
        task.task_error = error
        task.score_ready = now
        self._become(task, Status.ERROR_REPORTED)

    def reveal(self, tasks: list[Task], task_id: str) -> None:
        """Note the task id that tasks turned out to have."""
        for task in tasks:
            if task.task_id:
                self._groups[task.task_id].remove(task)
            task.task_id = task_id
            self._become(task, task.status)
            self._groups.setdefault(task_id, []).append(task)

    def validate_one(self, task: Task, now: float) -> None:
        """Do what a right proof does to a task that is not selected."""
        if task.status not in FINISHED_BY_NODE:
            raise failed("illegal task state")
        if task.status is Status.ERROR_REPORTED:
            task.validated = now
            self._abort(task, AbortReason.ERROR_REPORTED, now)
            return
        task.validated = now
        self._become(task, Status.VALIDATED)
        self._tell_validated(task, now)

    def validate_group(self, tasks: list[Task], now: float) -> None:
        """Do what a right proof does to a group.

        Raises:
            RefusedError: If all three reported errors: the relay refuses at the third, undoes everything, and keeps
                only the balance in its memory.
        """
        outcome = verdicts(tasks, self.threshold)
        for verdict in outcome:
            # Its database undoes the whole transaction, its memory does not: what was given back before stays shown.
            if not verdict.is_lawful:
                for other in outcome[: outcome.index(verdict)]:
                    self.accounts.refund_in_memory(other.task.creator, other.task.fee)
                raise failed("illegal previous task status")
        for verdict in outcome:
            self._carry_out(verdict.task, verdict.status, verdict.reason, verdict.qos_score, now)

    def finish(self, task: Task, now: float) -> None:
        """Note that the result of a validated task has arrived; one that comes after its deadline changes nothing."""
        if task.status not in (Status.VALIDATED, Status.GROUP_VALIDATED):
            return  # aborted meanwhile, and refunded
        # All tasks of one task id count as one group, whoever made them and whether they were validated together.
        is_group = len(self._groups.get(task.task_id, ())) > 1
        task.uploaded = now
        self._become(task, Status.END_GROUP_SUCCESS if is_group else Status.END_SUCCESS)
        node = self.nodes.find(task.selected_node)
        self.statistics.count_success(task, 0 if node is None else node.gpu_vram)
        self._end(task, now)

    def join(self, node: Node, now: float) -> None:
        """Take a node in, which may start a waiting task."""
        self.nodes.add(node)
        self.match_soon(now)

    def quit(self, node: Node) -> None:
        """Let a node go, at once or when it is done with its task."""
        self.nodes.let_go(node)

    def match_soon(self, now: float) -> None:
        """Look for a node for waiting tasks at the next round."""
        if not self._is_matching and self._queue:
            self._is_matching = True
            self.agenda.add(next_tick(now, start=self._start, interval=self._match_interval), self._match)

    @property
    def queued(self) -> int:
        """How many tasks wait."""
        return len(self._queue)

    def take_changed(self) -> list[Task]:
        """Return the tasks that have changed since the last call."""
        changed, self._changed = list(self._changed.values()), {}
        return changed

    def take_up(self, tasks: Iterable[Task], now: float) -> None:
        """Add the tasks of an earlier run; accounts and nodes must be there already."""
        for task in tasks:
            self.tasks[task.key] = task
            self.statistics.count_task()
            if task.task_id:
                self._groups.setdefault(task.task_id, []).append(task)
            if task.status is Status.QUEUED:
                self._enqueue(task, now)
            elif task.deadline is not None:
                self._running[task.sequence] = task
                self._watch(task)

    def count(self) -> None:
        """Count nodes and tasks now, as a relay has done that was there before its clients."""
        self.statistics.count(
            running=len(self._running), queued=len(self._queue), nodes=self.nodes, tasks=len(self.tasks)
        )

    def _look(self, now: float) -> None:
        self.statistics.catch_up(
            now, running=len(self._running), queued=len(self._queue), nodes=self.nodes, tasks=len(self.tasks)
        )

    def _enqueue(self, task: Task, now: float) -> None:
        self._queue[task.sequence] = task
        self._watch(task)
        if self.worker is not None:
            self.worker.queued(task, now)
        self.match_soon(now)

    def _watch(self, task: Task) -> None:
        """Come back to a task at the first look for late ones after its deadline."""
        deadline = task.deadline
        assert deadline is not None
        # The relay looks every two seconds, so a task ends up to that much after its deadline, never at it.
        when = next_tick(max(deadline, self._start), start=self._start, interval=_TIMEOUT_ROUND)
        self.agenda.add(when, lambda now: self._abort_if_late(task, now))

    def _abort_if_late(self, task: Task, now: float) -> None:
        if task.deadline is not None and task.deadline <= now:
            self._abort(task, AbortReason.TIMEOUT, now)

    def _match(self, now: float) -> None:
        self._is_matching = False
        # A task that is late is still queued until the next look for late ones, and no node gets it.
        in_time = [task for task in self._queue.values() if task.deadline is not None and task.deadline > now]
        for task, node in self.nodes.pairs(in_time):
            del self._queue[task.sequence]
            self._running[task.sequence] = task
            task.started = now
            task.selected_node = node.address
            self._become(task, Status.STARTED)
            self.nodes.occupy(node, task)
            self._watch(task)
            if node.is_automatic and self.worker is not None:
                self.worker.started(task, now)

    def _check_started(self, task: Task, node: str) -> None:
        if task.status is not Status.STARTED:
            raise invalid("task_id_commitment", "Illegal task state")
        if task.selected_node != node:
            raise not_allowed()

    def _carry_out(self, task: Task, status: Status, reason: AbortReason, qos_score: int | None, now: float) -> None:
        """Bring about what became of a member of a group."""
        task.qos_score = 0 if status is Status.END_INVALIDATED else qos_score
        self._become(task, task.status)
        # Aborted before the group was validated, and refunded then: a second refund would make money.
        if task.status is Status.END_ABORTED:
            return
        task.validated = now
        if status is Status.END_ABORTED:
            self._abort(task, reason, now)
            return
        self._become(task, status)
        if status is Status.GROUP_VALIDATED:
            self._tell_validated(task, now)
            return
        if status is Status.END_GROUP_REFUND:
            self._move_money(EventKind.REFUND, task, now)
        self._end(task, now, is_slashed=status is Status.END_INVALIDATED)

    def _tell_validated(self, task: Task, now: float) -> None:
        node = self.nodes.find(task.selected_node)
        if node is not None and node.is_automatic and self.worker is not None:
            self.worker.validated(task, now)

    def _abort(self, task: Task, reason: AbortReason, now: float) -> None:
        task.abort_reason = reason
        self._become(task, Status.END_ABORTED)
        self._move_money(EventKind.REFUND, task, now)
        self._end(task, now)

    def _end(self, task: Task, now: float, *, is_slashed: bool = False) -> None:
        self._queue.pop(task.sequence, None)
        self._running.pop(task.sequence, None)
        if not task.selected_node:
            return
        self.nodes.release(task.selected_node, is_slashed=is_slashed)
        node = self.nodes.find(task.selected_node)
        if is_slashed and node is not None and node.is_automatic and self.worker is not None:
            self.worker.slashed(node, now)
        self.match_soon(now)

    def _become(self, task: Task, status: Status) -> None:
        task.status = status
        self._changed[task.sequence] = task

    def _move_money(self, kind: EventKind, task: Task, now: float) -> None:
        listed = next_tick(now, start=self._start, interval=SYNC_SECONDS)
        self.accounts.add(kind, task.creator, task.fee, task.commitment, now=now, listed=listed)
