"""The relay without sockets: queue, deadlines, nodes, money."""

import pytest

from crynux_async.emulator.http.answers import RefusedError
from crynux_async.emulator.relay.nodes import NodeStatus
from crynux_async.emulator.relay.relay import Relay
from crynux_async.emulator.relay.tasks import AbortReason, Status, Task
from tests.relay_tasks import CREATOR, FEE, START, new_node, new_relay, order, scored

SCORE = "0x" + "00" * 8


def running(relay: Relay, number: int = 1, *, timeout: int = 600) -> Task:
    """Create a task for a node of its own, and let it start."""
    relay.join(new_node(number), START)
    task = relay.create(order(number, timeout=timeout), CREATOR, "0x00", START)
    relay.advance(START + 2)
    assert task.status is Status.STARTED
    return task


def group(relay: Relay, *scores: str | None) -> list[Task]:
    """Return three tasks of one task id; None reports an error."""
    tasks = [running(relay, number) for number in (1, 2, 3)]
    for index, (task, score) in enumerate(zip(tasks, scores, strict=True)):
        if score is None:
            relay.report_error(task, task.selected_node, 1, START + 10 + index)
        else:
            relay.report_score(task, task.selected_node, score, START + 10 + index)
    relay.reveal(tasks, "0xsecret")
    return tasks


def test_task_starts_at_the_next_round_of_matching() -> None:
    relay = new_relay()
    relay.join(new_node(), START)
    task = relay.create(order(1), CREATOR, "0x00", START + 0.5)
    relay.advance(START + 1.9)
    assert task.status is Status.QUEUED
    relay.advance(START + 2)
    assert (task.status, task.started) == (Status.STARTED, START + 2)


def test_queued_task_is_aborted_within_two_seconds_of_its_deadline() -> None:
    relay = new_relay()
    task = relay.create(order(1, timeout=1), CREATOR, "0x00", START + 0.5)
    relay.advance(START + 181.9)
    assert task.status is Status.QUEUED
    relay.advance(START + 182)
    assert (task.status, task.abort_reason) == (Status.END_ABORTED, AbortReason.TIMEOUT)
    assert relay.accounts.balance(CREATOR) == 1000


@pytest.mark.parametrize("stage", ["started", "scored", "error", "validated"])
def test_one_deadline_ends_every_stage_and_refunds(stage: str) -> None:
    relay = new_relay()
    task = running(relay, timeout=10)
    if stage == "error":
        relay.report_error(task, task.selected_node, 1, START + 5)
    elif stage != "started":
        relay.report_score(task, task.selected_node, SCORE, START + 5)
    if stage == "validated":
        relay.validate_one(task, START + 6)
    relay.advance(START + 11.9)
    assert task.status is not Status.END_ABORTED
    relay.advance(START + 12)
    assert (task.status, task.abort_reason) == (Status.END_ABORTED, AbortReason.TIMEOUT)
    node = relay.nodes.find(task.selected_node)
    assert node is not None
    assert (relay.accounts.balance(CREATOR), node.status) == (1000, NodeStatus.AVAILABLE)


def test_finished_task_keeps_its_fee_and_frees_its_node() -> None:
    relay = new_relay()
    task = running(relay)
    relay.report_score(task, task.selected_node, SCORE, START + 5)
    relay.validate_one(task, START + 6)
    relay.finish(task, START + 7)
    relay.advance(START + 10_000)
    assert (task.status, task.spent, relay.accounts.balance(CREATOR)) == (Status.END_SUCCESS, FEE, 1000 - FEE)


def test_error_that_is_validated_is_aborted_and_refunded() -> None:
    relay = new_relay()
    task = running(relay)
    relay.report_error(task, task.selected_node, 1, START + 5)
    relay.validate_one(task, START + 6)
    assert (task.status, task.abort_reason) == (Status.END_ABORTED, AbortReason.ERROR_REPORTED)
    assert relay.accounts.balance(CREATOR) == 1000


def test_fee_above_the_balance_makes_no_task() -> None:
    relay = new_relay(money=FEE - 1)
    with pytest.raises(RefusedError):
        relay.create(order(1), CREATOR, "0x00", START)
    assert (relay.tasks, relay.accounts.balance(CREATOR)) == ({}, FEE - 1)


def test_commitment_is_known_again_whatever_its_case() -> None:
    relay = new_relay()
    relay.create(order(0xAB), CREATOR, "0x00", START)
    with pytest.raises(RefusedError):
        relay.create(order(1, commitment=f"0x{0xAB:064X}"), CREATOR, "0x00", START)
    assert len(relay.tasks) == 1


def test_higher_price_for_time_and_memory_goes_first() -> None:
    relay = new_relay()
    cheap = relay.create(order(1, fee=900, timeout=900), CREATOR, "0x00", START)
    dear = relay.create(order(2, fee=100, timeout=10), CREATOR, "0x00", START)
    relay.join(new_node(), START)
    relay.advance(START + 2)
    assert (cheap.status, dear.status) == (Status.QUEUED, Status.STARTED)


@pytest.mark.parametrize(
    ("changes", "is_taken"),
    [
        ({}, True),
        ({"gpu_vram": 23}, False),
        ({"version": (3, 0, 9)}, False),
        ({"version": (4, 1, 0)}, False),
        ({"version": (3, 2, 0)}, True),
        ({"models": ()}, False),
    ],
)
def test_node_takes_what_it_can_run(changes: dict[str, object], is_taken: bool) -> None:
    relay = new_relay()
    relay.join(new_node(**changes), START)
    task = relay.create(order(1), CREATOR, "0x00", START)
    relay.advance(START + 2)
    assert (task.status is Status.STARTED) is is_taken


def test_group_that_agrees_costs_one_fee() -> None:
    relay = new_relay()
    tasks = group(relay, SCORE, SCORE, SCORE)
    relay.validate_group(tasks, START + 20)
    relay.finish(tasks[0], START + 21)
    assert [task.status for task in tasks] == [
        Status.END_GROUP_SUCCESS, Status.END_GROUP_REFUND, Status.END_GROUP_REFUND,
    ]  # fmt: skip
    assert (relay.accounts.balance(CREATOR), sum(task.spent for task in tasks)) == (1000 - FEE, FEE)


def test_odd_member_is_spent_and_its_node_thrown_out() -> None:
    relay = new_relay()
    tasks = group(relay, SCORE, "0x" + "ff" * 8, SCORE)
    relay.validate_group(tasks, START + 20)
    thrown_out = relay.nodes.find(tasks[1].selected_node)
    assert thrown_out is not None
    assert (tasks[1].status, thrown_out.status) == (Status.END_INVALIDATED, NodeStatus.QUIT)
    relay.finish(tasks[0], START + 21)
    assert relay.accounts.balance(CREATOR) == 1000 - 2 * FEE


def test_three_errors_stay_and_show_too_much_money_until_a_restart() -> None:
    relay = new_relay(money=0)
    relay.accounts.forget_memory()
    relay.accounts.add(3, CREATOR, 1000, "0xt", now=START, listed=START)  # type: ignore[arg-type]
    tasks = group(relay, None, None, None)
    held = relay.accounts.balance(CREATOR)
    for _ in range(2):
        with pytest.raises(RefusedError):
            relay.validate_group(tasks, START + 20)
    assert [task.status for task in tasks] == [Status.ERROR_REPORTED] * 3
    assert relay.accounts.balance(CREATOR) == held + 4 * FEE
    relay.accounts.forget_memory()
    assert relay.accounts.balance(CREATOR) == held == 1000 - 3 * FEE
    relay.advance(START + 10_000)
    assert [task.abort_reason for task in tasks] == [AbortReason.TIMEOUT] * 3
    assert relay.accounts.balance(CREATOR) == 1000


def test_task_id_that_was_used_twice_makes_a_group_of_singles() -> None:
    relay = new_relay()
    first, second = running(relay, 1), running(relay, 2)
    for task in (first, second):
        relay.report_score(task, task.selected_node, SCORE, START + 5)
        relay.reveal([task], "0xsecret")
        relay.validate_one(task, START + 6)
    relay.finish(second, START + 7)
    # Its archive can never be fetched: a task id is good for one task, or for one group.
    assert second.status is Status.END_GROUP_SUCCESS


def test_node_that_quits_first_ends_its_task() -> None:
    relay = new_relay()
    task = running(relay)
    node = relay.nodes.find(task.selected_node)
    assert node is not None
    relay.quit(node)
    assert node.status is NodeStatus.PENDING_QUIT
    relay.report_error(task, node.address, 1, START + 5)
    relay.validate_one(task, START + 6)
    assert node.status is NodeStatus.QUIT


def test_deadline_of_an_ended_task_is_none() -> None:
    assert scored(1, None).deadline is None
