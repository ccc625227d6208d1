"""How many polls there may be."""

import math
import sys

import pytest

from crynux_async.pacing.poll_budget import PollBudget


def test_allowed_without_a_limit_is_no_limit() -> None:
    budget = PollBudget(None, 1.0, 5.0)
    budget.spend(1000, 0.0)
    assert budget.allowed(0.0) == sys.maxsize
    assert budget.next_at(7.0, 0.0) == 7.0


def test_allowed_is_the_burst_and_then_what_has_refilled() -> None:
    budget = PollBudget(2.0, 3.0, 5.0)
    assert budget.allowed(0.0) == 3
    budget.spend(3, 0.0)
    assert budget.allowed(0.0) == 0
    assert budget.next_at(0.0, 0.0) == 0.5
    assert budget.allowed(0.5) == 1
    assert budget.allowed(1e6) == 3


def test_scale_below_the_budget_is_one_and_above_it_what_there_is_too_much() -> None:
    budget = PollBudget(10.0, 10.0, 5.0)
    budget.plan(9.0)
    assert budget.scale == 1.0
    budget.plan(27.0)
    assert budget.scale == pytest.approx(3.0)
    budget.plan(1e9)
    assert budget.scale == 100.0


def test_crowd_is_the_interval_at_which_all_use_up_the_budget() -> None:
    assert PollBudget(10.0, 10.0, 5.0).crowd(900) == pytest.approx(100.0)
    assert PollBudget(None, 1.0, 5.0).crowd(900) == 0.0


def test_outage_is_eight_jobs_without_an_answer_and_then_one_probe_at_a_time() -> None:
    budget = PollBudget(None, 1.0, 5.0)
    for again in (False, True, False, False, False, False, False, False):
        budget.failed(again=again)
    assert not budget.is_outage  # seven jobs
    budget.failed(again=False)
    assert budget.is_outage
    assert budget.allowed(100.0) == 1
    budget.spend(1, 100.0)
    assert budget.allowed(104.9) == 0
    assert budget.next_at(math.nextafter(100.0, 101.0), 100.0) == 105.0
    budget.answered()
    assert budget.allowed(104.9) == sys.maxsize
