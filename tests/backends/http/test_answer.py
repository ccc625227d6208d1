"""What an answer tells of itself."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.backends.http.answer import Answer, parse_content_range


def answer(body: bytes = b"", **facts: object) -> Answer:
    return Answer(**{"status": 200, "content_type": "", "body": body, "url": "http://a.test/", **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("Sat, 28 Nov 2026 21:23:46 GMT", datetime(2026, 11, 28, 21, 23, 46, tzinfo=UTC)),
        ("Sat, 28 Nov 2026 22:23:46 +0100", datetime(2026, 11, 28, 21, 23, 46, tzinfo=UTC)),
        ("Fri, 31 Dec 9999 23:59:59 -0100", None),
        ("Sat, 28 Nov 99999 21:23:46 GMT", None),
        ("Sat, 99 Nov 2026 21:23:46 GMT", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_date_is_a_time_or_nothing(date: str, expected: datetime | None) -> None:
    assert answer(date=date).server_time == expected


@given(st.text())
def test_date_of_any_text_never_raises(text: str) -> None:
    answer(date=text).server_time  # noqa: B018


@pytest.mark.parametrize("body", [b"", b"no", b"\xff", b"[" * 100_000])
def test_body_that_is_no_json_says_nothing(body: bytes) -> None:
    assert answer(body).json is None


def test_body_that_is_not_whole_says_nothing() -> None:
    assert answer(b"17", truncated=True).json is None


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.none() | st.integers(1, 10**12))
@settings(max_examples=100)
def test_content_range_of_any_part_is_read(first: int, length: int, behind: int | None) -> None:
    last = first + length
    total = None if behind is None else last + behind
    assert parse_content_range(f"bytes {first}-{last}/{'*' if total is None else total}") == (first, last, total)


@given(st.integers(0, 10**12), st.integers(1, 10**12))
@settings(max_examples=50)
def test_content_range_that_contradicts_itself_is_none(low: int, more: int) -> None:
    assert parse_content_range(f"bytes {low + more}-{low}/*") is None
    assert parse_content_range(f"bytes 0-{low + more}/{low + more}") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bytes",
        "bytes */100",
        "bytes 0-9",
        "bytes=0-9/10",
        "items 0-9/10",
        "bytes -1-9/10",
        "bytes 0-9/10, 20-29/30",
        "bytes ٣-٩/١٢",
        f"bytes 0-{'9' * 5000}/*",
        f"bytes {'9' * 5000}-{'9' * 5001}/*",
        f"bytes 0-9/{'9' * 5000}",
    ],
    ids=lambda text: text[:30],
)
def test_content_range_that_makes_no_sense_is_none(text: str) -> None:
    assert parse_content_range(text) is None
