"""For how long a service that cannot be reached is tried again."""

from datetime import UTC, datetime

import pytest

from crynux_async.supervision.patience import FORGIVEN, Patience
from crynux_async.supervision.record import Record

HOUR = 3600.0
A_TRY = 15.0
JOB, OTHER = (Record(job_id=name, planned_at=datetime(2026, 1, 1, tzinfo=UTC)) for name in ("j1", "j2"))


@pytest.mark.parametrize(("limit", "is_left"), [(22.5, True), (22.0, False)])
def test_sleep_counts_as_no_more_than_the_wait_that_it_fell_into_and_a_try(limit: float, is_left: bool) -> None:
    patience = Patience(limit, A_TRY)
    # Waits of 1 s and 2 s, and then one of 4 s, in which the machine sleeps: 1 + 2 + (4 + 15).
    assert [patience.is_left(JOB, now, 0) for now in (0.0, 1.0, 3.0)] == [True, True, True]
    assert patience.is_left(JOB, 10 * HOUR, 0) is is_left


def test_everything_is_held_back_longer_each_time_up_to_a_minute() -> None:
    patience, now, holds = Patience(HOUR, A_TRY), 0.0, []
    for _ in range(9):
        patience.hold(now)
        holds.append(patience.not_before - now)
        now = patience.not_before
    assert holds == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_time_in_vain_ends_patience_and_a_sleep_of_the_machine_does_not() -> None:
    patience, awake = Patience(100.0, A_TRY), 8 * HOUR
    assert patience.is_left(JOB, 0.0, 0)
    assert patience.is_left(JOB, awake, 0), "a night's sleep is nobody's try"
    now, tries = awake, 0
    while patience.is_left(JOB, now, 0):
        now, tries = patience.not_before, tries + 1
    # The sleep counts as the 16 s that the first wait and a try can take at most.
    assert 100 - 16 <= now - awake <= 100 - 16 + 60
    assert tries > 3


def test_answer_ends_the_outage_and_the_wait() -> None:
    patience, now = Patience(50.0, 0.0), 0.0
    for _ in range(5):
        assert patience.is_left(JOB, now, 0)
        now = patience.not_before
    patience.heard(JOB)
    assert patience.not_before == 0.0
    assert patience.is_left(JOB, now + 40.0, 0)


def test_answer_to_another_ends_the_outage_and_not_the_wait() -> None:
    patience = Patience(7.0, A_TRY)
    assert [patience.is_left(JOB, now, 5) for now in (0.0, 1.0, 3.0)] == [True, True, True]
    assert [patience.is_left(JOB, now, 6) for now in (30.0, 31.0)] == [True, True]
    assert patience.not_before == 31.0 + 16.0
    assert not patience.is_left(JOB, 47.0, 6)


def test_answers_to_others_are_believed_for_a_bounded_time() -> None:
    patience, now, answers = Patience(100.0, 0.0), 0.0, 0
    while patience.is_left(JOB, now, answers):
        now, answers = patience.not_before, answers + 1
    assert FORGIVEN * 100 <= now < FORGIVEN * 100 + 60


def test_answers_to_other_jobs_of_the_session_are_believed_for_a_bounded_time() -> None:
    patience, now = Patience(100.0, 0.0), 0.0
    while patience.is_left(JOB, now, 0):
        now = patience.not_before
        patience.heard(OTHER)
        assert patience.not_before == 0.0
    assert FORGIVEN * 100 <= now < FORGIVEN * 100 + 2


def test_job_that_was_forgotten_begins_anew() -> None:
    patience = Patience(7.0, A_TRY)
    assert [patience.is_left(JOB, now, 0) for now in (0.0, 1.0, 3.0)] == [True, True, True]
    patience.forget(JOB)
    assert [patience.is_left(JOB, now, 0) for now in (7.0, 8.0)] == [True, True]
