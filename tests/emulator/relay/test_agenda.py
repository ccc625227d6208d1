"""What is due, and when loops come round."""

import pytest

from crynux_async.emulator.relay.agenda import Agenda, next_tick


def test_things_are_done_in_order_of_time_at_their_time() -> None:
    agenda, done = Agenda(), []
    for when in (3.0, 1.0, 2.0, 1.0):
        agenda.add(when, lambda now, when=when: done.append((when, now)))  # type: ignore[misc]
    agenda.advance(2.5)
    assert (done, agenda.due) == ([(1.0, 1.0), (1.0, 1.0), (2.0, 2.0)], 3.0)


def test_what_comes_up_on_the_way_is_done_as_well() -> None:
    agenda, done = Agenda(), []
    agenda.add(1.0, lambda now: agenda.add(now + 1, done.append))
    agenda.advance(2.0)
    assert (done, agenda.due) == ([2.0], None)


@pytest.mark.parametrize(("when", "expected"), [(100.0, 102.0), (101.0, 102.0), (102.0, 102.0), (102.5, 104.0)])
def test_loop_comes_round_every_two_seconds_from_its_start(when: float, expected: float) -> None:
    assert next_tick(when, start=100.0, interval=2.0) == expected


def test_round_that_is_met_all_but_exactly_is_never_before_its_time() -> None:
    due = 1767226380.0000002
    assert due <= next_tick(due, start=1767225600.0, interval=2.0) < due + 0.001
