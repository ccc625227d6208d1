"""What ledgers have in common, and the parts of the SQL ledger that need no disk."""

import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Delete, Insert, Update
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from crynux_async.errors import LedgerError, UsageError
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, JobRow
from crynux_async.ledgers.conformance.support import attempt, job
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.ledgers.sql import statements
from crynux_async.ledgers.sql.rows import (
    ATTEMPT_COLUMNS,
    JOB_COLUMNS,
    decode_attempt,
    decode_job,
    encode_attempt,
    encode_job,
    from_microseconds,
    to_microseconds,
)
from crynux_async.ledgers.sql.schema import metadata
from crynux_async.ledgers.sql.steps import Step, merged
from crynux_async.ledgers.sqlite.ledger import SqlLedger
from crynux_async.states import JobState
from crynux_async.testing import LEDGER_CHECKS, LedgerCheck
from tests.strategies import configs

CHECKS = pytest.mark.parametrize(
    "check", [check for _, check in LEDGER_CHECKS], ids=[name for name, _ in LEDGER_CHECKS]
)


@CHECKS
async def test_memory_ledger_conforms(check: LedgerCheck) -> None:
    await check(MemoryLedger)


@pytest.mark.real_time
@CHECKS
async def test_sql_ledger_conforms(check: LedgerCheck, tmp_path: Path) -> None:
    numbers = count()
    await check(lambda: SqlLedger(tmp_path / f"jobs {next(numbers)}.db"))


async def test_conformance_check_on_a_forgetful_ledger_says_what_is_wrong() -> None:
    class Forgetful(MemoryLedger):
        async def finish(self, attempt: AttemptRow, **changes: Any) -> None:
            await super().finish(attempt)

    with pytest.raises(AssertionError, match="a task of another job"):
        await dict(LEDGER_CHECKS)["finish_stores_attempt_and_job_in_one_step"](Forgetful)


@pytest.mark.parametrize("where", ["sqlite:///jobs.db", "sqlite+aiosqlite:///jobs.db", "jobs.db", Path("jobs.db")])
def test_open_ledger_at_a_path_or_url_names_the_file(
    where: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = open_ledger(where)
    assert isinstance(ledger, SqlLedger)
    assert ledger.path == tmp_path / "jobs.db"


def test_open_ledger_with_four_slashes_is_absolute(tmp_path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path}/a b%20c#d.db")
    assert isinstance(ledger, SqlLedger)
    assert ledger.path == tmp_path / "a b%20c#d.db"


def test_open_ledger_without_a_place_is_in_memory() -> None:
    assert isinstance(open_ledger(None), MemoryLedger)


def test_open_ledger_with_a_ledger_is_that_one() -> None:
    ledger = MemoryLedger()
    assert open_ledger(ledger) is ledger


@pytest.mark.parametrize(
    "where",
    [
        "",
        "sqlite://",
        "sqlite:///",
        ":memory:",
        "sqlite:///:memory:",
        "file:jobs.db",
        "mysql://somewhere/jobs",
        "sqlite:///jobs.db?timeout=5",
        "jobs\0.db",
        7,
        object(),
    ],
)
def test_open_ledger_at_no_place_is_a_usage_error(where: Any) -> None:
    with pytest.raises(UsageError):
        open_ledger(where)


@pytest.mark.parametrize("where", ["postgresql://host/jobs", "postgresql+psycopg://host/jobs", "postgres://host/jobs"])
def test_open_ledger_in_postgresql_says_that_it_is_not_supported_yet(where: str) -> None:
    with pytest.raises(UsageError, match="not supported yet"):
        open_ledger(where)


def test_every_attribute_of_a_row_has_its_column() -> None:
    assert set(JOB_COLUMNS) == {field.alias for field in attrs.fields(JobRow)}
    assert list(ATTEMPT_COLUMNS) == [field.name for field in attrs.fields(AttemptRow)]
    stored = set(metadata.tables["jobs"].columns.keys()) | set(metadata.tables["configs"].columns.keys())
    assert set(JOB_COLUMNS) <= stored
    assert set(ATTEMPT_COLUMNS) <= set(metadata.tables["attempts"].columns.keys())


def test_schema_and_statements_compile_for_postgresql() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
        assert all(str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes)
    free = statements.is_free("backend", [JobState.RUNNING], 0)
    # Two processes that read the same free rows at once are kept apart by locks on the rows.
    assert "FOR UPDATE OF jobs" in str(statements.select_free(free).compile(dialect=dialect))
    assert all(
        str(statement.compile(dialect=dialect))
        for statement in vars(statements).values()
        if isinstance(statement, Insert | Update | Delete)
    )


moments = st.datetimes(
    datetime(1, 1, 2),  # noqa: DTZ001
    datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.timezones() | st.just(UTC) | st.just(timezone(timedelta(hours=-7))),
)
texts = st.text(st.characters(exclude_categories=["Cs"]))
utc_moments = moments.map(lambda moment: moment.astimezone(UTC))
ids = st.integers(-(2**63) + 1, 2**63 - 1)


@given(moments)
def test_time_to_microseconds_and_back_is_the_same_moment(moment: datetime) -> None:
    back = from_microseconds(to_microseconds(moment))
    assert back == moment.astimezone(UTC)
    assert back.utcoffset() == timedelta(0)


@given(moments, moments)
def test_microseconds_of_times_are_ordered_like_the_times(one: datetime, other: datetime) -> None:
    assert (to_microseconds(one) < to_microseconds(other)) is (one.astimezone(UTC) < other.astimezone(UTC))


@settings(max_examples=50)
@given(
    st.builds(
        JobRow,
        job_id=texts,
        backend=texts,
        key_id=texts,
        config=st.none() | configs(),
        digest=texts,
        label=texts,
        task_id=st.none() | ids,
        state=st.sampled_from(JobState),
        planned_at=utc_moments,
        submitted_at=st.none() | utc_moments,
        ended_at=st.none() | utc_moments,
        error=texts,
        folder=st.none() | texts,
        file_name=st.none() | texts,
        path=st.none() | texts,
        total_bytes=st.none() | ids,
        resubmitted_as=st.none() | texts,
    )
)
def test_job_to_columns_and_back_is_equal(row: JobRow) -> None:
    assert decode_job(list(encode_job(row).values())) == row


@given(
    st.builds(
        AttemptRow,
        job_id=texts,
        number=ids,
        backend=texts,
        key_id=texts,
        began_at=utc_moments,
        answered_at=st.none() | utc_moments,
        outcome=st.none() | st.sampled_from(AttemptOutcome),
        task_id=st.none() | ids,
        wait=st.none() | st.floats(allow_nan=False),
        status=st.none() | ids,
        answer=texts,
    )
)
def test_attempt_to_columns_and_back_is_equal(row: AttemptRow) -> None:
    assert decode_attempt(list(encode_attempt(row).values())) == row


@pytest.mark.parametrize(
    "changes",
    [
        {"planned_at": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"planned_at": None},
        {"task_id": True},
        {"task_id": 2**63},
        {"label": None},
        {"label": b"bytes"},
        {"label": "half a character \ud800"},
        {"state": "bored"},
        {"config": {"model_name": "a dict"}},
        {"total_bytes": 1.5},
    ],
)
async def test_add_of_what_cannot_be_stored_names_the_column(changes: dict[str, Any]) -> None:
    with pytest.raises(LedgerError) as raised:
        await MemoryLedger().add([job("a", **changes)])
    assert raised.value.field in changes


def test_column_value_in_a_message_is_cut_short() -> None:
    with pytest.raises(LedgerError) as raised:
        encode_job(job("a", task_id="x" * 10_000))
    assert len(str(raised.value)) < 300


@attrs.frozen(eq=False)
class _Statement:
    """Stands for a statement: ``merged`` only asks whether two are the same."""

    name: str


_STATEMENTS = [_Statement(name) for name in "abc"]
_things = st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True)


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


async def test_memory_ledger_of_many_jobs_is_compact() -> None:
    size = 10_000
    shared = job("shared")
    rows = [attrs.evolve(shared, job_id=f"{number:08x}", task_id=number) for number in range(size)]
    ledger = MemoryLedger()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await ledger.add(rows, owner="me", until=shared.planned_at)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # An entry of 48 bytes and its places in two hash tables; a copy of the row or of its config would be 200 or more.
    assert (after - before) / size < 220


async def test_memory_ledger_closed_and_opened_on_another_loop_goes_on() -> None:
    ledger = MemoryLedger()
    await ledger.open()
    await ledger.add([job("a")])
    await ledger.close()
    await ledger.begin(attempt("a"))
    assert [row.job_id for row in await ledger.attempts()] == ["a"]
