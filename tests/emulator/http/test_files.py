"""Ranges and conditional headers of the emulator."""

from collections.abc import Iterator
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.emulator.http.answers import Answer, Damage, Span
from crynux_async.emulator.http.files import RangeError, Resource, parse_range, serve

CONTENT = bytes(index % 251 for index in range(1000))
MODIFIED = 1_767_225_600  # 2026-01-01T00:00:00Z
DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
EARLIER = "Wed, 31 Dec 2025 23:59:59 GMT"
LATER = "Thu, 01 Jan 2026 00:00:01 GMT"


def get(**headers: str) -> Answer:
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    archive = Resource(
        file=BytesIO(CONTENT), size=len(CONTENT), modified=MODIFIED, name="result.zip", content_type="application/zip"
    )
    return serve(archive, named)


def body(answer: Answer) -> bytes:
    return b"".join(answer.chunks())


def test_request_without_range_gets_everything() -> None:
    answer = get()
    assert (answer.status, body(answer), answer.length) == (200, CONTENT, 1000)
    assert dict(answer.headers) == {
        "Content-Description": "File Transfer",
        "Content-Transfer-Encoding": "binary",
        "Content-Disposition": "attachment; filename=result.zip",
        "Last-Modified": DATE,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/zip",
    }


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [("bytes=100-199", 100, 199), ("bytes=0-0", 0, 0), ("bytes=900-", 900, 999), ("bytes=-100", 900, 999),
     ("bytes=-5000", 0, 999), ("bytes=990-5000", 990, 999), ("bytes= 5 - 9 ", 5, 9), ("bytes=,5-9,", 5, 9),
     ("bytes=2000-,5-9", 5, 9), ("bytes=+5-9", 5, 9)],
)  # fmt: skip
def test_range_gets_its_part(text: str, first: int, last: int) -> None:
    answer = get(range=text)
    assert (answer.status, body(answer)) == (206, CONTENT[first : last + 1])
    assert answer.header("Content-Range") == f"bytes {first}-{last}/1000"
    assert answer.header("Content-Type") == "application/zip"


@pytest.mark.parametrize("text", ["bytes=1000-", "bytes=5000-6000", "bytes=1000-,2000-"])
def test_range_behind_the_end_is_416_with_the_size(text: str) -> None:
    answer = get(range=text)
    assert (answer.status, body(answer)) == (416, b"invalid range: failed to overlap\n")
    assert answer.header("Content-Range") == "bytes */1000"
    assert answer.header("Content-Type") == "text/plain; charset=utf-8"
    assert answer.header("Last-Modified") is None


@pytest.mark.parametrize(
    "text", ["items=0-1", "bytes 0-1", "bytes=a-b", "bytes=5", "bytes=9-5", "bytes=--5", "bytes=-", "bytes=1-2-3"]
)
def test_malformed_range_is_416_without_the_size(text: str) -> None:
    answer = get(range=text)
    assert (answer.status, body(answer), answer.header("Content-Range")) == (416, b"invalid range\n", None)


@pytest.mark.parametrize("text", ["bytes=", "bytes=,", "bytes=0-999,0-999"])
def test_range_that_asks_for_nothing_or_too_much_gets_everything(text: str) -> None:
    answer = get(range=text)
    assert (answer.status, body(answer)) == (200, CONTENT)


def test_several_ranges_get_a_multipart_body() -> None:
    answer = get(range="bytes=0-9,500-509")
    content_type = answer.header("Content-Type") or ""
    boundary = content_type.removeprefix("multipart/byteranges; boundary=")
    part = "--{}\r\nContent-Range: bytes {}/1000\r\nContent-Type: application/zip\r\n\r\n".format
    expected = part(boundary, "0-9").encode() + CONTENT[:10] + b"\r\n"
    expected += part(boundary, "500-509").encode() + CONTENT[500:510] + f"\r\n--{boundary}--\r\n".encode()
    assert (answer.status, len(boundary), body(answer)) == (206, 60, expected)
    assert answer.length == len(expected)


def test_if_range_with_the_right_date_gets_the_part() -> None:
    assert get(range="bytes=5-9", if_range=DATE).status == 206


@pytest.mark.parametrize("validator", [EARLIER, LATER, '"etag"', 'W/"etag"', "nonsense"])
def test_if_range_with_anything_else_gets_everything(validator: str) -> None:
    answer = get(range="bytes=5-9", if_range=validator)
    assert (answer.status, body(answer)) == (200, CONTENT)


def test_if_range_without_range_changes_nothing() -> None:
    assert get(if_range=LATER).status == 200


@pytest.mark.parametrize(
    "headers",
    [{"if_modified_since": DATE}, {"if_modified_since": LATER}, {"if_none_match": "*"}],
)
def test_where_go_says_304_the_bridge_says_200_with_nothing(headers: dict[str, str]) -> None:
    answer = get(**headers)
    assert (answer.status, answer.length, answer.header("Content-Type")) == (200, 0, "text/plain; charset=utf-8")


@pytest.mark.parametrize("headers", [{"if_unmodified_since": EARLIER}, {"if_match": '"etag"'}])
def test_where_go_says_412_the_bridge_says_200_with_nothing(headers: dict[str, str]) -> None:
    answer = get(**headers)
    assert (answer.status, answer.length) == (200, 0)


@pytest.mark.parametrize(
    "headers",
    [{"if_modified_since": EARLIER}, {"if_unmodified_since": DATE}, {"if_match": "*"}, {"if_none_match": '"etag"'},
     {"if_modified_since": "nonsense"}],
)  # fmt: skip
def test_condition_that_holds_gets_everything(headers: dict[str, str]) -> None:
    assert body(get(**headers)) == CONTENT


@pytest.mark.parametrize("text", ["Thursday, 01-Jan-26 00:00:00 GMT", "Thu Jan  1 00:00:00 2026"])
def test_date_in_an_old_format_is_understood(text: str) -> None:
    assert get(range="bytes=5-9", if_range=text).status == 206


def requested(text: str, size: int) -> list[Span] | None:
    try:
        return parse_range(text, size)
    except RangeError:
        return None


@given(
    st.text(alphabet="bytes=0123456789-, ", max_size=24)
    | st.from_regex(r"bytes=(\d{0,3}-\d{0,3},?){1,3}", fullmatch=True)
)
@settings(max_examples=150, deadline=None)
def test_parsed_ranges_always_lie_within_the_file(text: str) -> None:
    spans = requested(text, 100)
    assert spans is None or all(span.start >= 0 and span.start + span.length <= 100 for span in spans)


def pieces(size: int) -> Iterator[int]:
    yield from range(0, size, 7)


@given(start=st.integers(0, 60), length=st.integers(0, 30), mask=st.none() | st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_damage_is_the_same_in_whatever_pieces_the_file_is_read(start: int, length: int, mask: int | None) -> None:
    damage = Damage(start=start, length=length, mask=mask)
    content = CONTENT[:50]
    whole = damage.apply(content, 0)
    assert b"".join(damage.apply(content[offset : offset + 7], offset) for offset in pieces(50)) == whole
    changed = [index for index in range(50) if whole[index] != content[index]]
    assert all(start <= index < start + length for index in changed)
    assert len(whole) == 50
