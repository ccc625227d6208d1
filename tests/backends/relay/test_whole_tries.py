"""Whole tries on the emulated relay, without sockets: whatever the nodes do, a try ends, and money and table agree."""

import contextlib
import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crynux_async.backends.relay.steps import End, Kind, Progress, Run, Step, again_after, next_step, progress
from crynux_async.backends.relay.tasks import read_task
from crynux_async.emulator.http.answers import RefusedError
from crynux_async.emulator.relay.relay import Relay
from crynux_async.emulator.relay.tasks import Task
from tests.relay_tasks import CREATOR, FEE, START, new_node, new_relay, order

MONEY = 1000
SEED = "0x" + "00" * 32
SCORE, OTHER = "0x" + "00" * 8, "0x" + "ff" * 8
CONDUCTS = ("honest", "differs", "reports_error", "silent", "withholds")


class Nodes:
    """What the nodes of a relay do with the tasks that they are given, in order of their start."""

    def __init__(self, relay: Relay, conducts: list[str]) -> None:
        self._relay = relay
        self._conducts = conducts
        self._held: dict[int, str] = {}

    def queued(self, task: Task, now: float) -> None:
        pass

    def started(self, task: Task, now: float) -> None:
        conduct = self._held[task.sequence] = self._conducts.pop(0) if self._conducts else "honest"
        if conduct != "silent":
            self._relay.agenda.add(now + 100, lambda when: self._report(task, conduct, when))

    def validated(self, task: Task, now: float) -> None:
        if self._held[task.sequence] != "withholds":
            self._relay.agenda.add(now + 5, lambda when: self._relay.finish(task, when))

    def slashed(self, node: object, now: float) -> None:
        self._relay.join(new_node(self._relay.nodes.count + 1, is_automatic=True), now)

    def _report(self, task: Task, conduct: str, now: float) -> None:
        if conduct == "reports_error":
            self._relay.report_error(task, task.selected_node, 1, now)
        else:
            score = OTHER if conduct == "differs" else SCORE
            self._relay.report_score(task, task.selected_node, score, now)


class Owner:
    """The owner of one try, who looks, stores a step, and does it."""

    def __init__(self, *, conducts: list[str], selected: list[bool], lost_answers: random.Random) -> None:
        self.relay = new_relay(money=MONEY)
        self.relay.worker = Nodes(self.relay, conducts)
        for number in range(1, 4):
            self.relay.join(new_node(number, is_automatic=True), START)
        self._selected = selected
        self._lost = lost_answers
        self._steps: dict[tuple[Kind, int], Step] = {}
        self._tasks: dict[int, Task] = {}
        self.validations: list[str] = []
        self.now = START
        self._create(0)

    def follow(self) -> Progress:
        """Follow the try to its end."""
        while True:
            self.relay.advance(self.now)
            runs = self._runs()
            found = progress(runs)
            if found.end is not None:
                assert next_step(runs) is None
                return found
            assert self.now < START + 20_000, "the try does not end"
            step = next_step(runs)
            if step is not None:
                self._do(step)
            self.now += again_after(runs[-1], self.now)

    @property
    def tasks(self) -> Mapping[int, Task]:
        return self._tasks

    def _runs(self) -> list[Run]:
        count = max((member for kind, member in self._steps if kind is Kind.CREATE), default=0) // 3 + 1
        return [self._run(number) for number in range(count)]

    def _run(self, number: int) -> Run:
        members = range(3 * number, 3 * number + 3)
        return Run(
            number=number,
            members={member: read_task(self._shown(member)) for member in members if member in self._tasks},
            is_selected=number < len(self._selected) and self._selected[number],
            steps=tuple(step for (_, member), step in self._steps.items() if member in members),
        )

    def _shown(self, member: int) -> dict[str, Any]:
        return {**self._tasks[member].as_answer(), "sampling_seed": SEED}

    def _do(self, step: Step) -> None:
        key = (step.kind, step.member)
        self._steps[key] = step
        if self._lost.random() < 0.3:
            return  # killed between storing and doing
        outcome = self._carry_out(step)
        if self._lost.random() < 0.3:
            return  # the answer was lost
        self._steps[key] = Step(kind=step.kind, member=step.member, is_done=True, outcome=outcome)

    def _carry_out(self, step: Step) -> str:
        if step.kind is Kind.CREATE:
            self._create(step.member)
        elif step.kind is Kind.CANCEL:
            self._cancel(step.member)
        else:
            self._validate(step.member)
        return ""

    def _create(self, member: int) -> None:
        if member not in self._tasks:
            self._tasks[member] = self.relay.create(order(member + 1), CREATOR, SEED, self.now)

    def _cancel(self, member: int) -> None:
        with contextlib.suppress(RefusedError):  # it was started meanwhile
            self.relay.cancel(self._tasks[member], 7, self.now)

    def _validate(self, first: int) -> None:
        group = [self._tasks[member] for member in range(first, first + 3) if member in self._tasks]
        self.relay.reveal(group, f"0x{first}")
        self.validations.append("".join(str(int(task.status)) for task in group))
        if len(group) == 1:
            self.relay.validate_one(group[0], self.now)
        else:
            self.relay.validate_group(group, self.now)


def owner(conducts: list[str], selected: list[bool], seed: int = 0) -> Owner:
    return Owner(conducts=list(conducts), selected=selected, lost_answers=random.Random(seed))


@given(
    conducts=st.lists(st.sampled_from(CONDUCTS), max_size=12),
    selected=st.lists(st.booleans(), max_size=4),
    seed=st.integers(0, 1000),
)
@example(
    conducts=["honest", "honest", "honest", "silent"], selected=[True, True], seed=2
)  # a result after the deadline
@settings(deadline=None)
def test_try_ends_and_costs_what_the_relay_says(conducts: list[str], selected: list[bool], seed: int) -> None:
    someone = owner(conducts, selected, seed)
    found = someone.follow()
    spent = sum(task.spent for task in someone.tasks.values())
    assert found.spent == spent
    someone.relay.advance(someone.now + 10_000)
    assert someone.relay.accounts.balance(CREATOR) == MONEY - spent
    # The relay accepts every validation: none comes too early, twice, or for three errors.
    assert all(set(states) <= set("349") and states not in ("333", "999") for states in someone.validations)


@pytest.mark.parametrize(
    ("conducts", "end", "fees"),
    [
        (["honest"], End.SUCCEEDED, 1),
        (["silent", "reports_error", "withholds", "honest"], End.SUCCEEDED, 1),
        (["silent", "reports_error", "withholds", "silent"], End.FAILED, 0),
        (["reports_error"] * 4, End.FAILED, 0),
    ],
)
def test_single_runs_end_as_their_nodes_work(conducts: list[str], end: End, fees: int) -> None:
    found = owner(conducts, []).follow()
    assert (found.end, found.spent) == (end, fees * FEE)


@pytest.mark.parametrize(
    ("conducts", "fees"),
    [
        (["honest", "honest", "honest"], 1),
        (["honest", "differs", "honest"], 2),
        (["honest", "honest", "reports_error"], 2),
        (["honest", "reports_error", "reports_error"], 1),
        (["reports_error", "reports_error", "reports_error"], 0),
        (["silent", "silent", "silent"], 0),
        (["honest", "honest", "silent"], 0),
    ],
)
def test_selected_run_costs_what_the_table_says_and_one_fee_more_brings_the_archive(
    conducts: list[str], fees: int
) -> None:
    found = owner(conducts, [True]).follow()
    assert (found.end, found.run, found.spent) == (End.SUCCEEDED, 1, (fees + 1) * FEE)


def test_member_of_a_group_that_would_run_for_nothing_is_cancelled() -> None:
    someone = owner(["reports_error", "reports_error", "honest", "honest"], [True])
    busy = someone.relay.nodes.find("0xN3")
    assert busy is not None
    busy.models = ()
    # Two nodes report errors before the third member has one.
    assert someone.follow().end is End.SUCCEEDED
    assert someone.tasks[2].abort_reason == 7
