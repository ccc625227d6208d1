"""What is planned for an instant is taken at it, once, whatever was planned before."""

import math

from hypothesis import given
from hypothesis import strategies as st

from crynux_async.pacing.agenda import Agenda


def taken(agenda: Agenda, now: float, at_most: int = 1000) -> list[tuple[float, int]]:
    return [*agenda.take(now, at_most)]


def test_what_is_planned_comes_at_its_instant_in_the_order_of_planning() -> None:
    agenda = Agenda()
    for name, at in enumerate((2.0, 1.0, 2.0, 1.0)):
        agenda.plan(name, at)
    assert taken(agenda, 0.5) == []
    assert taken(agenda, 1.0, at_most=1) == [(1.0, 1)]
    assert agenda.next_at() == 1.0
    assert taken(agenda, 2.0) == [(1.0, 3), (2.0, 0), (2.0, 2)]
    assert agenda.next_at() == math.inf


def test_what_is_planned_for_another_instant_and_back_comes_once() -> None:
    agenda = Agenda()
    for at in (1.0, 2.0, 1.0):
        agenda.plan(7, at)
    assert taken(agenda, 9.0, at_most=1) == [(1.0, 7)]
    assert len(agenda) == 0
    assert agenda.next_at() == math.inf
    assert agenda.size == 0


steps = st.lists(st.tuples(st.sampled_from(["plan", "cancel", "take"]), st.integers(0, 9), st.integers(0, 5)))


@given(steps)
def test_agenda_gives_what_a_sorted_list_gives_and_keeps_little_garbage(steps: list[tuple[str, int, int]]) -> None:
    agenda, expected = Agenda(), dict[int, float]()
    for step, name, at in steps * 20:  # often enough for garbage to be dropped
        if step == "plan":
            agenda.plan(name, float(at))
            expected[name] = float(at)
        elif step == "cancel":
            agenda.cancel(name)
            expected.pop(name, None)
        else:
            due = sorted((when, one) for one, when in expected.items() if when <= at)
            assert sorted(taken(agenda, float(at))) == due
            expected = {one: when for one, when in expected.items() if when > at}
        assert len(agenda) == len(expected)
        assert agenda.size <= 2 * len(agenda) + 64
    assert agenda.next_at() == min(expected.values(), default=math.inf)


def test_agenda_that_is_cleared_gives_nothing_and_begins_anew() -> None:
    agenda = Agenda()
    agenda.plan(3, 1.0)
    agenda.clear()
    assert (taken(agenda, 9.0), len(agenda), agenda.size, agenda.next_at()) == ([], 0, 0, math.inf)
    agenda.cancel(3)
    agenda.plan(0, 2.0)
    assert taken(agenda, 9.0) == [(2.0, 0)]
