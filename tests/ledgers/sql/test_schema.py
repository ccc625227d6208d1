"""The tables and statements are PostgreSQL's as well as SQLite's."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest

from crynux_async.ledgers.base import Fence, JobFilter
from crynux_async.ledgers.conformance.support import at
from crynux_async.ledgers.postgres.rendering import Renderer
from crynux_async.ledgers.sql import queries, statements
from crynux_async.ledgers.sql.schema import MAKING, TABLES
from crynux_async.ledgers.sql.text import Sql
from crynux_async.states import JobState

FENCE = Fence(owner="me", number=1)
NOW = Sql("0")
EVERYTHING = JobFilter(
    job_ids=["name"],
    job_id_prefix="beginning of a name",
    states=[JobState.RUNNING],
    backend="service",
    tenant="somebody",
    task_id="7",
    idempotency_key="key",
    label="label",
    label_prefix="beginning of a label",
    group="group",
    tags={"tag": "value", "other tag": "other value"},
    budget="budget",
    since=at(0),
    after="cursor",
    before="other cursor",
)


def constants() -> Iterator[tuple[str, Sql]]:
    for module in (statements, queries):
        for name, value in vars(module).items():
            if isinstance(value, Sql):
                yield name, value


MADE_ON_DEMAND = [
    queries.select_jobs(EVERYTHING, limit=3, newest_first=True),
    queries.count_jobs(EVERYTHING),
    queries.sum_money(EVERYTHING),
    queries.select_under_way(1, 2, "service"),
    queries.select_tasks(["name", "other name"]),
    statements.change_job(("label", "group"), is_numbered=True),
    statements.renew_lease(1, NOW, 5),
    statements.trim_old_events(0, 9),
    statements.trim_many_events(1000, 9),
]
STATEMENTS = [*dict(constants()).values(), *MADE_ON_DEMAND]


def in_postgresql(text: str) -> str:
    return " ".join(Renderer("some").render(text).sql.split())


def test_tables_stand_in_their_schema_in_postgresql() -> None:
    made = [in_postgresql(text) for text in MAKING]
    assert [text for text in made if text.startswith('CREATE TABLE "some".jobs ( id BIGSERIAL NOT NULL, job_id TEXT')]
    assert all('CREATE TABLE "some".' in text or ' ON "some".' in text for text in made)
    assert all(text.count("REFERENCES") == text.count('REFERENCES "some".') for text in made)
    assert not [text for text in made if "INTEGER" in text or "AUTOINCREMENT" in text or "ROWID" in text]


def test_table_that_another_refers_to_is_made_before_it() -> None:
    for number, name in enumerate(TABLES):
        (text,) = (text for text in MAKING if f"CREATE TABLE {name} (" in text)
        referred = [other for other in TABLES if f"REFERENCES {other} (" in text]
        assert set(referred) <= {*TABLES[:number]}


def test_index_of_some_rows_is_one_of_these_rows_in_postgresql_too() -> None:
    partial = [text for text in MAKING if "INDEX" in text and "WHERE" in text]
    assert len(partial) > 5
    for text in partial:
        assert in_postgresql(text).endswith(text.partition(" WHERE ")[2])


def test_ledger_in_a_file_loads_nothing_of_postgresqls() -> None:
    program = (
        "import sys, crynux_async.ledgers.sqlite.ledger; print([name for name in sys.modules if 'postgres' in name])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_text_compares_byte_by_byte_in_postgresql() -> None:
    texts = [text for text in map(in_postgresql, MAKING) if "CREATE TABLE" in text]
    assert sum(text.count("TEXT") for text in texts) == sum(text.count('TEXT COLLATE "C"') for text in texts) > 50


@pytest.mark.parametrize("statement", STATEMENTS, ids=[*dict(constants()), *map(str, range(len(MADE_ON_DEMAND)))])
def test_every_table_of_a_statement_stands_in_its_schema_in_postgresql(statement: Sql) -> None:
    words = in_postgresql(statement.text).split()
    places = [
        after
        for word, after in pairwise(words)
        if word.lstrip("(") in ("FROM", "JOIN", "INTO", "UPDATE") and after not in ("OF", "SET", "SKIP")
    ]
    assert [place for place in places if not place.startswith(('"some".', "(SELECT"))] == []
    assert any(place.startswith('"some".') for place in places)


def test_parameters_of_postgresql_are_numbered_once_by_name() -> None:
    rendered = Renderer("some").render("SELECT :b, :a, :b_0 FROM jobs WHERE label = :b")
    assert rendered.sql == 'SELECT $1, $2, $3 FROM "some".jobs WHERE label = $1'
    assert rendered.fill({"a": 1, "b": 2, "b_0": 3, "c": 4}) == (2, 1, 3)
    assert Renderer("some").render("SELECT :a").fill({"a": 1}) == (1,)
    assert Renderer("some").render("SELECT 1").fill({}) == ()


def test_name_of_a_schema_is_quoted() -> None:
    assert Renderer('s"o').render("SELECT value FROM meta").sql == 'SELECT value FROM "s""o".meta'


def test_rows_that_a_decision_is_about_are_locked_in_postgresql() -> None:
    free = queries.select_free(FENCE, NOW, backend="b", states=["running"], is_wanted=True, key_ids=None, at_most=1)
    assert all(in_postgresql(select.text).endswith("FOR UPDATE OF jobs SKIP LOCKED") for select in free)
    assert in_postgresql(queries.select_takable(["a"], NOW).text).endswith("FOR UPDATE OF jobs")
    assert in_postgresql(queries.SELECT_HOLD.text).endswith("FOR UPDATE")
    assert in_postgresql(queries.SELECT_GATE.text).endswith("FOR UPDATE")
    assert in_postgresql(queries.SELECT_LEASE.text).endswith("FOR KEY SHARE")
    assert in_postgresql(queries.SELECT_MARK.text).endswith("FOR NO KEY UPDATE")
    for begun in (statements.BEGIN_ATTEMPT, statements.PLAN_STEP):
        assert "FOR UPDATE OF jobs" in in_postgresql(begun.text)


def test_what_is_replaced_is_replaced_in_one_statement() -> None:
    for put in (statements.PUT_GATE, statements.PUT_HAZARD, statements.PUT_NOTE, statements.PUT_TASK):
        assert "DO UPDATE SET" in put.text
