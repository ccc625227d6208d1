"""Statements as text: what they are put together from, and that nothing from outside gets into them."""

import sqlite3
from contextlib import closing
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.ledgers.base import Fence, JobFilter
from crynux_async.ledgers.conformance.support import at
from crynux_async.ledgers.sql import queries
from crynux_async.ledgers.sql.text import PARAMETER, Sql, among, column, limited, matching
from crynux_async.states import JobState

HOSTILE = "'; DROP TABLE jobs; -- :x $1 /* \" */"
FENCE = Fence(owner=HOSTILE, number=7)


def asked(text: str) -> list[Sql]:
    """Return every question that holds something of a user's, which is ``text`` everywhere."""
    every = JobFilter(
        **{field.alias: text for field in attrs.fields(JobFilter) if field.alias not in _OTHERS},
        job_ids=[text, text],
        states=[JobState.RUNNING],
        tags={text: text},
        has_error=True,
        since=at(0),
    )
    now = Sql(":now", {"now": 0})
    conditions = {"backend": text, "key_id": text, "job_ids": [text], "since": at(0), "unfinished": True}
    return [
        queries.select_jobs(every, limit=3, newest_first=True),
        queries.count_jobs(every),
        queries.sum_money(every),
        queries.select_holder(text, now),
        *queries.select_free(
            FENCE, now, backend=text, states=[text], is_wanted=True, key_ids=[text], spared=[text], at_most=1
        ),
        queries.select_takable([text], now),
        queries.select_attempts(conditions),
        queries.select_under_way(1, 2, text),
        queries.select_tasks([text]),
        queries.select_newest_tasks(text, [text]),
        queries.select_all_tasks(text, [text]),
        queries.select_steps([text]),
    ]


_OTHERS = ("job_ids", "states", "tags", "has_error", "since")


def test_what_comes_from_outside_stands_in_no_statement() -> None:
    hostile, plain = asked(HOSTILE), asked("a")
    assert [statement.text for statement in hostile] == [statement.text for statement in plain]
    for statement in hostile:
        assert HOSTILE in statement.values.values()
        assert {*PARAMETER.findall(statement.text)} == {*statement.values}


def test_every_attribute_of_a_filter_has_parameters_of_its_own() -> None:
    texts = {field.alias: f"value of {field.alias}" for field in attrs.fields(JobFilter) if field.alias not in _OTHERS}
    tags = {"color": "red", "rank": "4"}
    every = JobFilter(**texts, job_ids=["a", "b"], states=[JobState.RUNNING, JobState.PLANNED], tags=tags, since=at(0))  # type: ignore[arg-type]
    values = queries.select_jobs(every, limit=3, newest_first=False).values
    given = {*texts.values(), *tags, *tags.values(), "a", "b", "running", "planned", 3}
    assert given <= {*values.values()}


def answer(statement: Sql) -> list[Any]:
    with closing(sqlite3.connect(":memory:")) as connection:
        return [value for (value,) in connection.execute(statement.text, statement.values)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=5), st.integers(0, 9))
def test_value_is_among_others_as_in_python(values: list[int], value: int) -> None:
    found = answer(Sql(f"SELECT {value}") + matching([among(str(value), "some", values)]))
    assert found == [value] * (value in values)


@pytest.mark.parametrize(
    ("conditions", "text"),
    [
        ([], ""),
        ([Sql("a = :a", {"a": 1})], " WHERE a = :a"),
        ([Sql("a = :a", {"a": 1}), Sql("b = :b", {"b": 2})], " WHERE a = :a AND b = :b"),
    ],
)
def test_conditions_must_all_hold(conditions: list[Sql], text: str) -> None:
    found = matching(conditions)
    assert found.text == text
    assert found.values == dict(zip("ab", range(1, 1 + len(conditions)), strict=False))


def test_no_limit_is_no_clause_and_zero_is_one() -> None:
    assert (limited(None).text, limited(None).values) == ("", {})
    assert (limited(0).text, limited(0).values) == (" LIMIT :at_most", {"at_most": 0})


def test_columns_named_like_words_of_sql_are_quoted() -> None:
    assert [column(name) for name in ("group", "end", "label")] == ['"group"', '"end"', "label"]
