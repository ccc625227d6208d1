"""Rows of a ledger and the columns that they become."""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, EventRow, JobRow, StepRow, TaskRow, WishRow
from crynux_async.ledgers.columns import (
    ATTEMPT_COLUMNS,
    EVENT_COLUMNS,
    JOB_COLUMNS,
    STEP_COLUMNS,
    TASK_COLUMNS,
    WISH_COLUMNS,
    Kind,
    check_changes,
    check_row,
    decode_job,
    decode_row,
    encode_changes,
    encode_row,
    from_microseconds,
    to_json,
    to_microseconds,
)
from crynux_async.ledgers.conformance.support import attempt, event, job, step, task
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.ledgers.sql.schema import MAKING
from crynux_async.states import JobState
from crynux_async.training.keeping import kept
from tests.strategies import configs

KINDS: list[tuple[type[Any], Mapping[str, Kind], str]] = [
    (JobRow, JOB_COLUMNS, "jobs"),
    (AttemptRow, ATTEMPT_COLUMNS, "attempts"),
    (TaskRow, TASK_COLUMNS, "tasks"),
    (StepRow, STEP_COLUMNS, "steps"),
    (EventRow, EVENT_COLUMNS, "events"),
    (WishRow, WISH_COLUMNS, "wishes"),
]


@pytest.mark.parametrize(("cls", "kinds", "table"), KINDS)
def test_every_attribute_of_a_row_has_its_column(cls: type[Any], kinds: Mapping[str, Kind], table: str) -> None:
    assert {field.alias for field in attrs.fields(cls)} == set(kinds)
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in MAKING:
            connection.execute(statement)
        found = connection.execute("SELECT name FROM pragma_table_info(?) UNION VALUES ('config')", (table,))
        stored = {name for (name,) in found}
    money = {name for name in kinds if f"{name}_cnx" in stored and f"{name}_wei" in stored}
    assert set(kinds) - money <= stored
    assert money == {"fee", "spent"} & set(kinds)


moments = st.datetimes(
    datetime(1, 1, 2),  # noqa: DTZ001
    datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.timezones() | st.just(UTC) | st.just(timezone(timedelta(hours=-7))),
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
utc_moments = moments.map(lambda moment: moment.astimezone(UTC))
ids = st.integers(-(2**63) + 1, 2**63 - 1)
counts = st.integers(0, 2**63 - 1)
wei = st.none() | st.integers(0, 2**60 * 10**18 - 1)
tables = st.dictionaries(texts, st.recursive(st.none() | st.booleans() | ids | texts, lambda inner: st.lists(inner)))


@settings(deadline=None)
@given(moments)
def test_time_to_microseconds_and_back_is_the_same_moment(moment: datetime) -> None:
    back = from_microseconds(to_microseconds(moment))
    assert back == moment.astimezone(UTC)
    assert back.utcoffset() == timedelta(0)


@settings(deadline=None)
@given(moments, moments)
def test_microseconds_of_times_are_ordered_like_the_times(one: datetime, other: datetime) -> None:
    assert (to_microseconds(one) < to_microseconds(other)) is (one.astimezone(UTC) < other.astimezone(UTC))


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        JobRow,
        job_id=texts,
        backend=texts,
        key_id=texts,
        config=st.none() | configs(),
        digest=texts,
        label=texts,
        task_id=st.none() | texts,
        state=st.sampled_from(JobState),
        planned_at=utc_moments,
        is_seed_drawn=st.booleans(),
        asked_digest=texts,
        group=texts,
        tags=st.dictionaries(texts, texts, max_size=3),
        tenant=texts,
        idempotency_key=st.none() | texts,
        budget=texts,
        is_stopped=st.booleans(),
        is_sent_by_any=st.booleans(),
        tries=counts,
        submitted_at=st.none() | utc_moments,
        ended_at=st.none() | utc_moments,
        error=texts,
        reason=texts,
        folder=st.none() | texts,
        file_name=st.none() | texts,
        path=st.none() | texts,
        host=texts,
        total_bytes=st.none() | ids,
        last_event=counts,
        resubmitted_as=st.none() | texts,
    )
)
def test_job_to_columns_and_back_is_equal(row: JobRow) -> None:
    assert decode_job(list(encode_row(row).values())) == row


rows = st.one_of(
    st.builds(
        AttemptRow,
        job_id=texts,
        number=ids,
        backend=texts,
        key_id=texts,
        began_at=utc_moments,
        try_number=counts,
        payload=texts,
        answered_at=st.none() | utc_moments,
        outcome=st.none() | st.sampled_from(AttemptOutcome),
        task_id=st.none() | texts,
        wait=st.none() | st.floats(allow_nan=False),
        status=st.none() | ids,
        answer=texts,
    ),
    st.builds(
        TaskRow,
        job_id=texts,
        try_number=counts,
        member=counts,
        backend=texts,
        task_id=texts,
        made_at=utc_moments,
        ended_at=st.none() | utc_moments,
        end=texts,
        reason=texts,
        fee=wei,
        spent=wei,
    ),
    st.builds(
        StepRow,
        job_id=texts,
        try_number=counts,
        member=counts,
        kind=texts,
        arguments=tables,
        fee=wei,
        planned_at=utc_moments,
        done_at=st.none() | utc_moments,
        outcome=texts,
    ),
    st.builds(EventRow, job_id=texts, number=counts, at=utc_moments, kind=texts, data=tables),
    st.builds(WishRow, number=counts, job_id=texts, kind=texts, arguments=tables, at=utc_moments),
)


@settings(deadline=None)
@given(rows)
def test_row_to_columns_and_back_is_equal(row: Any) -> None:
    assert decode_row(type(row), list(encode_row(row).values())) == row


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (job("a", planned_at=datetime(2026, 1, 1)), "planned_at"),  # noqa: DTZ001
        (job("a", planned_at=None), "planned_at"),
        (job("a", task_id=True), "task_id"),
        (job("a", task_id=7), "task_id"),
        (job("a", label=None), "label"),
        (job("a", label=b"bytes"), "label"),
        (job("a", label="half a character \ud800"), "label"),
        (job("a", label="a character that PostgreSQL does not store: \0"), "label"),
        (job("a", state="bored"), "state"),
        (job("a", config={"model_name": "a dict"}), "config"),
        (job("a", total_bytes=1.5), "total_bytes"),
        (job("a", total_bytes=2**63), "total_bytes"),
        (job("a", tries=-1), "tries"),
        (job("a", is_stopped=1), "is_stopped"),
        (job("a", tags={"rank": 4}), "tags"),
        (job("a", tags=["rank"]), "tags"),
        (attempt("a", number=2**63), "number"),
        (attempt("a", outcome="maybe"), "outcome"),
        (attempt("a", wait="long"), "wait"),
        (task("a", "7", fee=-1), "fee"),
        (task("a", "7", spent=2**60 * 10**18), "spent"),
        (step("a", "x", arguments=[1]), "arguments"),
        (step("a", "x", arguments={1: 1}), "arguments"),
        (event("a", 1, thing=object()), "data"),
    ],
)
@pytest.mark.parametrize("refuse", [encode_row, check_row])
def test_row_that_cannot_be_stored_names_the_column(row: Any, field: str, refuse: Callable[[Any], object]) -> None:
    with pytest.raises(LedgerError) as raised:
        refuse(row)
    assert raised.value.field == field


@pytest.mark.parametrize("refuse", [encode_changes, check_changes])
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tries": 2, "digest": "d"}, "digest"),
        ({"job_id": "b"}, "job_id"),
        ({"state": JobState.RUNNING, "colour": "red"}, "colour"),
        ({"submitted_at": "today"}, "submitted_at"),
        ({"task_id": "half a character \ud800"}, "task_id"),
        ({"config": None, "state": "lost"}, "state"),
    ],
)
def test_change_that_cannot_be_stored_names_the_column(
    changes: Mapping[str, Any], field: str, refuse: Callable[[Any], object]
) -> None:
    with pytest.raises(LedgerError) as raised:
        refuse(changes)
    assert raised.value.field == field


def test_what_can_be_stored_passes_the_checks() -> None:
    check_row(job("a", task_id="7", submitted_at=datetime(2026, 1, 2, tzinfo=UTC)))
    check_row(attempt("a"))
    check_changes({"state": JobState.RUNNING, "submitted_at": datetime(2026, 1, 2, tzinfo=UTC), "ended_at": None})


def test_row_of_what_is_kept_of_a_config_is_the_row_of_the_config() -> None:
    row = job("a")
    assert row.config is not None
    same = attrs.evolve(row, config=kept(row.config))
    assert same == row
    assert repr(same) == repr(row)
    assert same.config == row.config
    assert encode_row(same) == encode_row(row)
    assert same.to_dict() == row.to_dict()
    assert same != attrs.evolve(row, config=kept(row.config.evolve(seed=row.config.seed % 7 + 1)))


async def test_ledger_in_memory_refuses_what_no_database_could_store() -> None:
    with pytest.raises(LedgerError) as raised:
        await MemoryLedger().add([job("a", label="half a character \ud800")])
    assert raised.value.field == "label"


def test_column_value_in_a_message_is_cut_short() -> None:
    with pytest.raises(LedgerError) as raised:
        encode_row(job("a", total_bytes="x" * 10_000))
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(("text", "kept"), [("a\0b", "a?b"), ("a\ud800b", "a?b"), ("ünï 😀", "ünï 😀")])
def test_text_from_outside_is_stored_whatever_it_is(text: str, kept: str) -> None:
    assert encode_row(job("a", error=text))["error"] == kept
    assert encode_row(attempt("a", answer=text))["answer"] == kept


def test_equal_json_values_are_equal_texts() -> None:
    assert to_json({"b": [1, {"d": 1, "c": None}], "a": "é"}) == to_json({"a": "é", "b": [1, {"c": None, "d": 1}]})
