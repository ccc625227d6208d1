"""A try as it is stored: which runs it had, and what is left of those that are over.

The create of each further run keeps how the run before it ended. So nobody needs to ask the relay for tasks that have
ended, which it may have deleted by then, and a session that takes a job over knows what it has cost and why it was
repeated.
"""

from collections.abc import Mapping, Sequence

import attrs

from crynux_async.backends.base import Action, Task
from crynux_async.backends.relay.ids import GROUP_SIZE
from crynux_async.backends.relay.steps import Kind, Run, Step
from crynux_async.backends.relay.tasks import AbortReason, RelayTask, Status

PAST = "past"
"""The argument of a create that holds how the members of the run before it ended."""


def last_run(task: Task) -> int:
    """Return the number of the last run whose create is stored."""
    return max((action.member for action in task.actions if action.kind == Kind.CREATE), default=0) // GROUP_SIZE


def runs_of(task: Task, last: Run) -> list[Run]:
    """Return all runs of a try, with their stored steps.

    Args:
        task: What is stored of the try.
        last: What is seen of its last run.
    """
    past = [_past_run(task, number) for number in range(last.number)]
    return [*past, attrs.evolve(last, steps=_steps(task, last.number))]


def action_of(step: Step, runs: Sequence[Run]) -> Action:
    """Return a step as it is stored.

    Args:
        step: The step.
        runs: The runs of the try before it is done.
    """
    last = runs[-1]
    if step.kind is not Kind.CREATE:
        return Action(kind=step.kind.value, member=step.member)
    # Budgets reserve it with the row, before the create is sent.
    fee = max(task.fee for task in last.members.values())
    is_new_run = step.member % GROUP_SIZE == 0
    return Action(
        kind=step.kind.value, member=step.member, fee=fee, arguments={PAST: _kept(last.members)} if is_new_run else {}
    )


def stored_action(task: Task, kind: str, member: int) -> Action | None:
    """Return an action as it was stored, or None."""
    return next((action for action in task.actions if (action.kind, action.member) == (kind, member)), None)


def _past_run(task: Task, number: int) -> Run:
    following = stored_action(task, Kind.CREATE, (number + 1) * GROUP_SIZE)
    kept = following.arguments.get(PAST, ()) if following is not None else ()
    members = {int(entry["member"]): _left_over(entry) for entry in kept}
    # A selected run whose siblings were never made has one member, and ended as a single one does.
    return Run(number=number, members=members, is_selected=len(members) > 1, steps=_steps(task, number))


def _steps(task: Task, number: int) -> tuple[Step, ...]:
    return tuple(
        Step(
            kind=Kind(action.kind),
            member=action.member,
            is_done=action.done_at is not None,
            outcome=action.outcome,
        )
        for action in task.actions
        if action.member // GROUP_SIZE == number
    )


def _kept(members: Mapping[int, RelayTask]) -> list[dict[str, int | str]]:
    """Return how the members of a run ended, as JSON values; wei as text, because readers of JSON round numbers."""
    return [
        {"member": member, "status": int(task.status), "reason": int(task.abort_reason), "fee": str(task.fee)}
        for member, task in members.items()
    ]


def _left_over(entry: Mapping[str, int | str]) -> RelayTask:
    return RelayTask(
        commitment="",
        creator="",
        nonce="",
        seed=b"",
        args="",
        status=Status(int(entry["status"])),
        abort_reason=AbortReason(int(entry["reason"])),
        fee=int(entry["fee"]),
        timeout=0,
    )
