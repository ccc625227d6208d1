"""How steps of many writes are joined."""

from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.ledgers.sql.steps import Step, merged


@attrs.frozen(eq=False)
class _Statement:
    """Stands for a statement: ``merged`` only asks whether two are the same."""

    name: str


_STATEMENTS = [_Statement(name) for name in "abc"]
_things = st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(_STATEMENTS), _things), max_size=30))
def test_merged_steps_keep_every_row_and_the_order_about_each_thing(plan: list[tuple[Any, list[int]]]) -> None:
    steps = [
        Step(statement=statement, rows=[{"number": number}], touches=things, refusal="")
        for number, (statement, things) in enumerate(plan)
    ]
    done: list[tuple[Any, Any]] = [(step.statement, row["number"]) for step in merged(steps) for row in step.rows]
    assert sorted(number for _, number in done) == list(range(len(plan)))
    assert all(statement is plan[number][0] for statement, number in done)
    for thing in range(5):
        order = [number for _, number in done if thing in plan[number][1]]
        assert order == sorted(order)


def test_merged_steps_about_different_things_run_each_statement_once() -> None:
    steps = [
        Step(statement=_STATEMENTS[number % 3], rows=[{"number": number}], touches=[number // 3], refusal="")  # type: ignore[arg-type]
        for number in range(30)
    ]
    assert [len(step.rows) for step in merged(steps)] == [10, 10, 10]
