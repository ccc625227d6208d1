"""The table of states: what may follow what, and when a job has certainly ended."""

from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.cli.listing import STYLES
from crynux_async.states import (
    ENDED,
    FOLLOWED,
    GOOD,
    STAGES,
    TRANSITIONS,
    UNFINISHED,
    WITHOUT_TASK,
    JobState,
    Signal,
    Stage,
    advance,
    may,
)
from crynux_async.supervision.stored_errors import _ERRORS
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.lengths import stall_seconds
from tests.strategies import configs

S, E = JobState, Signal

# What each answer or decision makes of a job. A pair that is not here must be refused.
EXPECTED: dict[tuple[JobState, Signal], JobState] = {
    (S.PLANNED, E.ACCEPTED): S.RUNNING,
    (S.PLANNED, E.TURNED_DOWN): S.REJECTED,
    (S.PLANNED, E.NAMED): S.ATTACHED,
    (S.PLANNED, E.LOST_SIGHT): S.UNCONFIRMED,
    (S.PLANNED, E.ABANDON): S.ABANDONED,
    (S.UNCONFIRMED, E.ACCEPTED): S.RUNNING,
    (S.UNCONFIRMED, E.NOT_CREATED): S.PLANNED,
    (S.UNCONFIRMED, E.ABANDON): S.ABANDONED,
    (S.ATTACHED, E.SAID_RUNNING): S.RUNNING,
    (S.ATTACHED, E.SAID_SUCCESS): S.SUCCEEDED,
    (S.ATTACHED, E.SAID_FAILED): S.FAILED,
    (S.ATTACHED, E.SAID_CANCELLED): S.ABANDONED,
    (S.ATTACHED, E.NOT_FOUND): S.EXPIRED,
    (S.ATTACHED, E.OVERDUE): S.ATTACHED,
    (S.ATTACHED, E.ABANDON): S.ABANDONED,
    (S.RUNNING, E.SAID_RUNNING): S.RUNNING,
    (S.RUNNING, E.SAID_SUCCESS): S.SUCCEEDED,
    (S.RUNNING, E.SAID_FAILED): S.FAILED,
    (S.RUNNING, E.SAID_CANCELLED): S.ABANDONED,
    (S.RUNNING, E.NOT_FOUND): S.EXPIRED,
    (S.RUNNING, E.OVERDUE): S.STALLED,
    (S.RUNNING, E.ABANDON): S.ABANDONED,
    (S.STALLED, E.SAID_RUNNING): S.STALLED,
    (S.STALLED, E.SAID_SUCCESS): S.SUCCEEDED,
    (S.STALLED, E.SAID_FAILED): S.FAILED,
    (S.STALLED, E.SAID_CANCELLED): S.ABANDONED,
    (S.STALLED, E.NOT_FOUND): S.EXPIRED,
    (S.STALLED, E.OVERDUE): S.STALLED,
    (S.STALLED, E.ABANDON): S.ABANDONED,
    (S.SUCCEEDED, E.SAID_SUCCESS): S.SUCCEEDED,
    (S.SUCCEEDED, E.STORED): S.DOWNLOADED,
    (S.SUCCEEDED, E.NOT_FOUND): S.EXPIRED,
    (S.SUCCEEDED, E.ABANDON): S.ABANDONED,
    (S.DOWNLOADED, E.STORED): S.DOWNLOADED,
    (S.UNCONFIRMED, E.TRY_AGAIN): S.PLANNED,
    (S.REJECTED, E.TRY_AGAIN): S.PLANNED,
    (S.FAILED, E.TRY_AGAIN): S.PLANNED,
    (S.EXPIRED, E.TRY_AGAIN): S.PLANNED,
    (S.ABANDONED, E.TRY_AGAIN): S.PLANNED,
    (S.EXPIRED, E.NAMED): S.ATTACHED,
    (S.ABANDONED, E.NAMED): S.ATTACHED,
}


def reachable(start: JobState) -> set[JobState]:
    seen: set[JobState] = set()
    ahead = [start]
    while ahead:
        state = ahead.pop()
        if state not in seen:
            seen.add(state)
            ahead.extend(advance(state, signal) for signal in Signal if may(state, signal))
    return seen


def ways_out(state: JobState) -> Iterator[JobState]:
    for signal in Signal:
        if may(state, signal) and advance(state, signal) is not state:
            yield advance(state, signal)


@pytest.mark.parametrize(("state", "signal"), list(EXPECTED), ids=str)
def test_signal_that_is_expected_moves_the_job_as_the_table_says(state: JobState, signal: Signal) -> None:
    assert may(state, signal)
    assert advance(state, signal) is EXPECTED[state, signal]


@pytest.mark.parametrize(("state", "signal"), [pair for pair in product(S, E) if pair not in EXPECTED], ids=str)
def test_signal_that_is_not_expected_is_refused(state: JobState, signal: Signal) -> None:
    assert not may(state, signal)
    with pytest.raises(ValueError, match=f"{state} cannot learn"):
        advance(state, signal)


def test_table_has_a_row_for_every_state() -> None:
    assert set(TRANSITIONS) == set(JobState)


@pytest.mark.parametrize("state", sorted(FOLLOWED))
@pytest.mark.parametrize("signal", [E.SAID_RUNNING, E.SAID_SUCCESS, E.SAID_FAILED, E.NOT_FOUND, E.OVERDUE, E.ABANDON])
def test_followed_job_can_learn_whatever_the_bridge_may_say(state: JobState, signal: Signal) -> None:
    assert may(state, signal)


def test_every_state_can_be_reached_from_planned() -> None:
    assert reachable(S.PLANNED) == set(JobState)


@pytest.mark.parametrize(
    ("state", "out"),
    [
        (S.UNCONFIRMED, {S.RUNNING, S.PLANNED, S.ABANDONED}),
        (S.SUCCEEDED, {S.DOWNLOADED, S.EXPIRED, S.ABANDONED}),
        *[(state, {S.PLANNED}) for state in (S.REJECTED, S.FAILED)],
        *[(state, {S.PLANNED, S.ATTACHED}) for state in (S.EXPIRED, S.ABANDONED)],
        (S.DOWNLOADED, set()),
    ],
)
def test_ended_job_has_no_way_out_but_these(state: JobState, out: set[JobState]) -> None:
    assert state in ENDED
    assert set(ways_out(state)) == out


def test_every_state_has_a_stage_and_what_is_not_over_is_taken_over() -> None:
    assert set(STAGES) == set(JobState)
    assert {state for state in JobState if STAGES[state] is not Stage.OVER} | {S.UNCONFIRMED} == UNFINISHED
    assert {S.PLANNED, S.UNCONFIRMED} == WITHOUT_TASK


def test_every_state_is_waiting_followed_or_ended() -> None:
    assert {S.PLANNED} | FOLLOWED | ENDED == set(JobState)
    assert not FOLLOWED & ENDED
    assert GOOD < ENDED


@given(st.lists(st.sampled_from(Signal)))
@settings(max_examples=100)
def test_job_with_a_model_never_becomes_a_failed_one_unless_its_user_begins_anew(signals: list[Signal]) -> None:
    state = S.PLANNED
    had_model = False
    for signal in signals:
        if may(state, signal):
            state = advance(state, signal)
            had_model = state in GOOD or (had_model and signal not in {E.TRY_AGAIN, E.NAMED})
    assert not (had_model and state in {S.FAILED, S.REJECTED, S.RUNNING, S.STALLED, S.UNCONFIRMED, S.PLANNED})


def config(**changes: int) -> FineTuneConfig:
    return FineTuneConfig(model_name="m", dataset_name="d", **changes)  # type: ignore[arg-type]  # all are whole numbers


@pytest.mark.parametrize(
    ("asked", "rounds"),
    [
        ({}, 1),
        ({"max_train_steps": 500}, 1),
        ({"num_train_steps": 100, "max_train_steps": 200}, 2),
        ({"num_train_steps": 100, "max_train_steps": 201}, 3),
        ({"num_train_steps": 300, "max_train_steps": 200}, 1),
        ({"num_train_steps": 1, "max_train_steps": 10_000}, 10_000),
        ({"num_train_epochs": 2, "max_train_epochs": 5}, 3),
        ({"num_train_epochs": 2, "max_train_epochs": 5, "max_train_steps": 100}, 1),
    ],
)
@pytest.mark.parametrize("timeout", [1, 1800])
def test_stall_deadline_is_the_worst_case_of_all_rounds(asked: dict[str, int], rounds: int, timeout: int) -> None:
    assert stall_seconds(config(timeout=timeout, **asked)) == (rounds + 3) * (180 + 2 * timeout)


def test_stall_deadline_with_the_bridges_own_timeout_is_a_little_over_16_hours() -> None:
    assert stall_seconds(config(timeout=7200)) / 3600 == pytest.approx(16.2, abs=0.01)


@given(configs())
@settings(max_examples=30)
def test_stall_deadline_of_any_config_leaves_room_for_four_rounds(any_config: FineTuneConfig) -> None:
    least = 4 * (180 + 2 * any_config.timeout)
    assert stall_seconds(any_config) >= least * (1 - 1e-15)  # floats are no whole numbers beyond 2**53


def test_every_table_of_states_knows_every_state() -> None:
    assert set(TRANSITIONS) == set(STAGES) == set(JobState)
    assert set(STYLES) == set(JobState), "the command line has no colour for a state"
    ended_badly = {state for state in ENDED - GOOD if STAGES[state] is Stage.OVER}
    assert set(_ERRORS) == ended_badly, "a job of an earlier process that ended badly has no error"
