"""The poll queue under any sequence of calls."""

import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from crynux_async.pacing.poll_queue import PollQueue


class QueueMachine(RuleBasedStateMachine):
    """Whatever happens, a job waits, is in flight, or is gone, and every waiting job comes due."""

    @initialize(rate=st.one_of(st.none(), st.floats(0.2, 50.0)), tick=st.sampled_from([0.1, 0.25, 1.0, 7.0]))
    def start(self, rate: float | None, tick: float) -> None:
        self.queue = PollQueue(requests_per_second=rate, tick=tick)
        self.now = 0.0
        self.waiting: set[int] = set()
        self.flying: set[int] = set()
        self.told: list[Any] = []
        self.number = 0

    @rule(age=st.floats(0.0, 5000.0), stall=st.one_of(st.none(), st.floats(-100.0, 5000.0)), kind=st.sampled_from("ab"))
    def add(self, age: float, stall: float | None, kind: str) -> None:
        stall_at = None if stall is None else self.now + stall
        self.queue.add(self.number, kind=kind, started_at=self.now - age, now=self.now, stall_at=stall_at)
        self.waiting.add(self.number)
        self.number += 1

    @rule(seconds=st.floats(-50.0, 3000.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(at_most=st.integers(0, 10))
    def take(self, at_most: int) -> None:
        taken = self.queue.due(self.now, at_most)
        assert len(taken) == len(set(taken)) <= at_most
        assert set(taken) <= self.waiting
        self.waiting -= set(taken)
        self.flying |= set(taken)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), outcome=st.sampled_from(["running", "errored", "ended", "discard"]))
    def answer(self, data: st.DataObject, outcome: str) -> None:
        job = data.draw(st.sampled_from(sorted(self.flying)))
        self.flying.remove(job)
        if outcome == "discard":
            self.queue.discard(job)
        else:
            getattr(self.queue, outcome)(job, self.now)
        if outcome in ("running", "errored"):
            self.waiting.add(job)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), outcome=st.sampled_from(["running", "errored", "ended", "discard"]))
    def answer_unasked(self, data: st.DataObject, outcome: str) -> None:
        job = data.draw(st.sampled_from(sorted(self.waiting)))
        if outcome == "discard":
            self.queue.discard(job)
        else:
            getattr(self.queue, outcome)(job, self.now)
        if outcome in ("ended", "discard"):
            self.waiting.remove(job)

    @rule()
    def ask_for_stalled(self) -> None:
        self.told += self.queue.stalled()
        assert len(self.told) == len(set(self.told))

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "queue"):
            return
        statistics = self.queue.statistics()
        assert len(self.queue) == statistics.jobs == len(self.waiting) + len(self.flying)
        assert statistics.in_flight == len(self.flying)
        assert self.queue.next_at(self.now) >= self.now
        assert statistics.planned_rate >= 0.0
        assert statistics.target_delay >= self.queue.target_delay

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        now = self.now
        while self.waiting:
            now = self.queue.next_at(now)
            assert now < math.inf, "a waiting job has no plan"
            taken = self.queue.due(now, 1000)
            assert taken, "next_at() promised a job"
            self.waiting -= set(taken)
        assert self.queue.next_at(now) == math.inf


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueMachine = QueueMachine.TestCase
