"""A try as it is stored becomes its runs again, whoever goes on with it."""

import json
from datetime import UTC, datetime

import attrs
import pytest

from crynux_async.backends.base import Action, Task
from crynux_async.backends.relay.steps import End, Kind, Run, Step, progress
from crynux_async.backends.relay.tasks import AbortReason, RelayTask, Status
from crynux_async.backends.relay.tries import action_of, last_run, runs_of, stored_action

LATE = "the time was up: no node took it (raise fee), or one was not done (raise timeout, or check the data set)"
FEE = 15 * 10**18
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def shown(status: Status, reason: AbortReason = AbortReason.NONE) -> RelayTask:
    return RelayTask(
        commitment="0x1", creator="0xC", nonce="0x2", seed=bytes(32), args="{}", status=status, abort_reason=reason,
        fee=FEE, timeout=600,
    )  # fmt: skip


def try_of(*actions: Action) -> Task:
    return Task(task_id="0x1", job_id="j", actions=actions)


def stored(action: Action, outcome: str = "") -> Action:
    """Return an action as a ledger gives it back when it was done."""
    through_json = json.loads(json.dumps(dict(action.arguments)))
    return attrs.evolve(action, arguments=through_json, done_at=NOW, outcome=outcome)


def test_try_without_stored_steps_is_in_its_first_run() -> None:
    run = Run(number=0, members={0: shown(Status.STARTED)}, is_selected=False)
    assert last_run(try_of()) == 0
    assert runs_of(try_of(), run) == [run]


def test_sibling_belongs_to_the_run_of_its_group() -> None:
    assert last_run(try_of(Action(kind="create", member=2))) == 0
    assert last_run(try_of(Action(kind="create", member=2), Action(kind="create", member=3))) == 1


@pytest.mark.parametrize(
    ("members", "reasons", "spent"),
    [
        ({0: shown(Status.ABORTED, AbortReason.TIMEOUT)}, (LATE,), 0),
        (
            {
                0: shown(Status.GROUP_SUCCEEDED),
                1: shown(Status.GROUP_REFUNDED),
                2: shown(Status.INVALIDATED),
            },
            ("the network checked it, and the relay gives the archives of checked tasks to nobody",),
            2 * FEE,
        ),
    ],
)
def test_run_that_is_over_is_known_from_the_create_of_the_next_one(
    members: dict[int, RelayTask], reasons: tuple[str, ...], spent: int
) -> None:
    first = Run(number=0, members=members, is_selected=len(members) > 1)
    following = action_of(Step(kind=Kind.CREATE, member=3), [first])
    task = try_of(stored(following))
    assert (following.fee, last_run(task)) == (FEE, 1)
    second = Run(number=1, members={3: shown(Status.SUCCEEDED)}, is_selected=False)
    found = progress(runs_of(task, second))
    assert (found.end, found.reasons, found.spent) == (End.SUCCEEDED, reasons, spent + FEE)


def test_refused_create_of_a_further_run_ends_the_try_with_its_reason() -> None:
    first = Run(number=0, members={0: shown(Status.ABORTED, AbortReason.TIMEOUT)}, is_selected=False)
    refused = stored(action_of(Step(kind=Kind.CREATE, member=3), [first]), "the relay does not accept a field")
    found = progress(runs_of(try_of(refused), Run(number=1, members={}, is_selected=False)))
    assert (found.end, found.reasons) == (End.FAILED, (LATE, "the relay does not accept a field"))


def test_steps_belong_to_the_run_of_their_member() -> None:
    first = Run(number=0, members={0: shown(Status.ABORTED, AbortReason.TIMEOUT)}, is_selected=False)
    actions = (
        Action(kind="validate", member=0, done_at=NOW),
        Action(kind="create", member=3),
        Action(kind="cancel", member=4),
    )
    past, last = runs_of(try_of(*actions), attrs.evolve(first, number=1, members={}))
    assert [step.kind for step in past.steps] == [Kind.VALIDATE]
    assert [(step.kind, step.is_done) for step in last.steps] == [(Kind.CREATE, False), (Kind.CANCEL, False)]


def test_only_what_makes_a_task_has_a_fee() -> None:
    run = Run(number=0, members={0: shown(Status.SCORE_READY)}, is_selected=True)
    assert action_of(Step(kind=Kind.VALIDATE, member=0), [run]) == Action(kind="validate", member=0)
    assert action_of(Step(kind=Kind.CREATE, member=1), [run]) == Action(kind="create", member=1, fee=FEE)


def test_stored_action_is_found_by_kind_and_member() -> None:
    action = Action(kind="create", member=1)
    assert stored_action(try_of(action), "create", 1) is action
    assert stored_action(try_of(action), "create", 2) is None
    assert stored_action(try_of(action), "cancel", 1) is None
