"""What a ledger in memory keeps of a row gives the row again, column by column, also after changes."""

from datetime import UTC, datetime
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.ledgers.base import JobRow
from crynux_async.ledgers.memory.packing import changed, column, packed, unpacked
from crynux_async.states import JobState
from tests.strategies import configs

_TEXTS = st.text(max_size=3)
_COUNTS = st.integers(0, 9)
_MOMENTS = st.datetimes(timezones=st.just(UTC))
_REQUIRED = {
    "job_id": _TEXTS,
    "backend": _TEXTS,
    "key_id": _TEXTS,
    "config": configs(),
    "label": _TEXTS,
    "state": st.sampled_from(JobState),
    "planned_at": _MOMENTS,
}
_BY_TYPE = {str: _TEXTS, bool: st.booleans(), int: _COUNTS}


def _values(field: "attrs.Attribute[Any]") -> st.SearchStrategy[Any]:
    if field.default is None:
        return st.none() | _TEXTS | _COUNTS | _MOMENTS
    return _BY_TYPE.get(type(field.default), st.dictionaries(_TEXTS, _TEXTS, max_size=2))


_OPTIONAL = {
    field.alias: _values(field)
    for field in attrs.fields(JobRow)
    if field.alias is not None and field.alias not in (*_REQUIRED, "digest")
}


@given(
    st.fixed_dictionaries(_REQUIRED, optional=_OPTIONAL),
    st.fixed_dictionaries({}, optional={**_REQUIRED, **_OPTIONAL}),
)
def test_a_packed_row_is_the_row_again_before_and_after_changes(values: dict[str, Any], later: dict[str, Any]) -> None:
    row = JobRow(**values)
    kept = packed(values)
    for one, expected in ((kept, row), (changed(kept, later), attrs.evolve(row, **later))):
        assert unpacked(one) == expected
        assert {name: column(one, name) for name in _OPTIONAL} == {name: getattr(expected, name) for name in _OPTIONAL}


def test_the_digest_of_an_attached_task_is_kept() -> None:
    row = {
        "job_id": "j",
        "backend": "b",
        "key_id": "",
        "config": None,
        "label": "",
        "state": JobState.RUNNING,
        "planned_at": datetime(2026, 1, 2, tzinfo=UTC),
        "digest": "d",
    }
    assert unpacked(changed(packed(row), {"tries": 2})).digest == "d"
