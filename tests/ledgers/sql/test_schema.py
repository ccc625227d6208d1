"""The tables and statements are PostgreSQL's as well as SQLite's."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import Delete, Insert, Select, Update, literal
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql.expression import ClauseElement

from crynux_async.ledgers.base import Fence, JobFilter
from crynux_async.ledgers.conformance.support import at
from crynux_async.ledgers.postgres.rendering import Renderer
from crynux_async.ledgers.sql import queries, statements
from crynux_async.ledgers.sql.schema import metadata
from crynux_async.states import JobState

FENCE = Fence(owner="me", number=1)
EVERYTHING = JobFilter(
    job_ids=["a"],
    job_id_prefix="a",
    states=[JobState.RUNNING],
    backend="b",
    tenant="t",
    task_id="7",
    idempotency_key="k",
    label="l",
    label_prefix="l",
    group="g",
    tags={"name": "value"},
    budget="b",
    since=at(0),
    after="a",
    before="b",
)


def constants() -> Iterator[tuple[str, ClauseElement]]:
    for module in (statements, queries):
        for name, value in vars(module).items():
            if isinstance(value, Insert | Update | Delete | Select):
                yield name, value


def in_postgresql(statement: ClauseElement) -> str:
    return " ".join(Renderer("public").render(statement, keep=False).sql.split())


def test_tables_compile_for_postgresql() -> None:
    for table in metadata.sorted_tables:
        assert "CREATE TABLE" in in_postgresql(CreateTable(table))
        assert all(in_postgresql(CreateIndex(index)).startswith("CREATE INDEX") for index in table.indexes)


def test_index_of_some_rows_is_one_of_these_rows_in_postgresql_too() -> None:
    indexes = [index for table in metadata.sorted_tables for index in table.indexes]
    conditions = {index: index.dialect_options["sqlite"]["where"] for index in indexes}
    partial = [index for index in indexes if conditions[index] is not None]
    assert len(partial) > 5
    for index in partial:
        assert in_postgresql(CreateIndex(index)).endswith(f"WHERE {conditions[index]}")


def test_ledger_in_a_file_loads_nothing_of_postgresqls() -> None:
    program = (
        "import sys, crynux_async.ledgers.sqlite.ledger; print([name for name in sys.modules if 'postgres' in name])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_text_compares_byte_by_byte_in_postgresql() -> None:
    assert 'label TEXT COLLATE "C" NOT NULL' in in_postgresql(CreateTable(metadata.tables["jobs"]))


@pytest.mark.parametrize("statement", [value for _, value in constants()], ids=[name for name, _ in constants()])
def test_statement_compiles_for_postgresql(statement: ClauseElement) -> None:
    assert in_postgresql(statement)


@pytest.mark.parametrize(
    "statement",
    [
        queries.select_jobs(EVERYTHING, limit=3, newest_first=True),
        queries.count_jobs(EVERYTHING),
        queries.sum_money(EVERYTHING),
        statements.change_job(("label", "state"), is_numbered=True),
        statements.trim_old_events(0, 9),
        statements.trim_many_events(1000, 9),
    ],
)
def test_statement_made_on_demand_compiles_for_postgresql(statement: ClauseElement) -> None:
    assert in_postgresql(statement)


def test_rows_that_a_decision_is_about_are_locked_in_postgresql() -> None:
    now = literal(0)
    free = queries.select_free(FENCE, now, backend="b", states=["running"], is_wanted=True, key_ids=None, at_most=1)
    assert all(in_postgresql(select).endswith("FOR UPDATE OF jobs SKIP LOCKED") for select in free)
    assert in_postgresql(queries.select_takable(["a"], now)).endswith("FOR UPDATE OF jobs")
    assert in_postgresql(queries.SELECT_HOLD).endswith("FOR UPDATE")
    assert in_postgresql(queries.SELECT_GATE).endswith("FOR UPDATE")
    assert in_postgresql(queries.SELECT_LEASE).endswith("FOR KEY SHARE")
    for begun in (statements.BEGIN_ATTEMPT, statements.PLAN_STEP):
        assert "FOR UPDATE OF jobs" in in_postgresql(begun)


def test_what_is_replaced_is_replaced_in_one_statement() -> None:
    for put in (statements.PUT_GATE, statements.PUT_HAZARD, statements.PUT_NOTE, statements.PUT_TASK):
        assert "DO UPDATE SET" in in_postgresql(put)
