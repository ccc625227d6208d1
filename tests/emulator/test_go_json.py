"""The emulator's reading and writing of JSON and texts in Go's way."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.emulator.go_json import GoJSONError, Number, Pairs, decode, encode, plain
from crynux_async.emulator.go_text import (
    NumberTextError,
    parse_bool,
    parse_float,
    parse_int,
    parse_uint,
    quote,
    rfc3339,
    shortest,
)

REFUSED = [
    ("{", "unexpected EOF"),
    ('{"a"', "unexpected EOF"),
    ('{"a":1,', "unexpected EOF"),
    ('"abc', "unexpected EOF"),
    ("tru", "unexpected EOF"),
    ("[1,]", "invalid character ']' looking for beginning of value"),
    ('{"a":1,}', "invalid character '}' looking for beginning of object key string"),
    ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
    ('{"a" 1}', "invalid character '1' after object key"),
    ('{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
    ("[1 2]", "invalid character '2' after array element"),
    ("'a'", "invalid character '\\'' looking for beginning of value"),
    ("NaN", "invalid character 'N' looking for beginning of value"),
    ("-Infinity", "invalid character 'I' in numeric literal"),
    ('{"a":1.}', "invalid character '}' after decimal point in numeric literal"),
    ('{"a":1e}', "invalid character '}' in exponent of numeric literal"),
    ('{"a":01}', "invalid character '1' after object key:value pair"),
    ("trux", "invalid character 'x' in literal true (expecting 'e')"),
    ('"a\nb"', "invalid character '\\n' in string literal"),
    ('"\\x"', "invalid character 'x' in string escape code"),
    ('"\\u12g4"', "invalid character 'g' in \\u hexadecimal character escape"),
    ("\ufeff{}", "invalid character 'ï' looking for beginning of value"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_decode_of_what_is_not_json_complains_in_gos_words(text: str, message: str) -> None:
    with pytest.raises(GoJSONError) as caught:
        decode(text.encode())
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["", "  \r\n\t", "null"])
def test_decode_of_nothing_is_none(text: str) -> None:
    assert decode(text.encode()) is None


@pytest.mark.parametrize("rest", ["garbage", "{", " {}", "]", "1"])
def test_decode_ignores_what_follows_the_first_value(rest: str) -> None:
    assert decode(b'{"a":true}' + rest.encode()) == Pairs([("a", True)])


def test_decode_keeps_the_text_of_numbers() -> None:
    assert decode(b'{"a":8.0,"b":1E5}') == [("a", Number("8.0")), ("b", Number("1E5"))]


def test_decode_keeps_duplicates_in_order() -> None:
    assert decode(b'{"a":1,"a":2}') == [("a", "1"), ("a", "2")]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda children: st.lists(children) | st.dictionaries(st.text(), children),
        max_leaves=20,
    )
)
@settings(max_examples=100, deadline=None)
def test_decode_of_what_python_wrote_gives_the_same_value(value: Any) -> None:
    text = json.dumps(value)
    expected = json.loads(text, parse_int=float)
    assert plain(decode(text.encode())) == expected


def complaint(data: bytes) -> str | None:
    try:
        decode(data)
    except GoJSONError as error:
        return str(error)
    return None


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\tfn01-.eEu ', max_size=40).map(str.encode))
@settings(max_examples=150, deadline=None)
def test_decode_of_any_bytes_either_works_or_complains(data: bytes) -> None:
    message = complaint(data)
    assert message is None or message == "unexpected EOF" or message.startswith("invalid character ")


def test_plain_replaces_lone_surrogates() -> None:
    assert plain(decode(b'"a\\ud800b"')) == "a\ufffdb"


def test_plain_of_a_number_beyond_float64_complains_with_its_literal() -> None:
    with pytest.raises(GoJSONError, match=r"^1e999$"):
        plain(decode(b"[1e999]"))


def test_encode_escapes_html_and_line_separators() -> None:
    assert encode({"a": "<b>&\u2028é"}) == '{"a":"\\u003cb\\u003e\\u0026\\u2028é"}'.encode()


@pytest.mark.parametrize(
    ("text", "quoted"),
    [("abc", '"abc"'), ('a"b\\', '"a\\"b\\\\"'), ("\n\x01\x7f", '"\\n\\x01\\x7f"'), ("é\u200b", '"é\\u200b"')],
)
def test_quote_escapes_as_strconv_does(text: str, quoted: str) -> None:
    assert quote(text) == quoted


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("+7", 7), ("-12", -12), ("007", 7), (str(2**63 - 1), 2**63 - 1)]
)
def test_parse_int_accepts_what_go_accepts(text: str, value: int) -> None:
    assert parse_int(text) == value


@pytest.mark.parametrize("text", ["", "x", "1.0", " 1", "1_000", "٣", "--1"])
def test_parse_int_of_another_text_is_invalid_syntax(text: str) -> None:
    with pytest.raises(NumberTextError, match=r"^strconv.ParseInt: parsing .*: invalid syntax$"):
        parse_int(text)


@pytest.mark.parametrize("text", [str(2**63), "-" + str(2**63 + 1), "9" * 5000])
def test_parse_int_beyond_64_bits_is_out_of_range(text: str) -> None:
    with pytest.raises(NumberTextError, match=r": value out of range$"):
        parse_int(text)


@pytest.mark.parametrize("text", ["+1", "-1", "1.0", "abc"])
def test_parse_uint_takes_no_sign_and_no_point(text: str) -> None:
    with pytest.raises(
        NumberTextError, match=rf'^strconv.ParseUint: parsing "{text.replace("+", ".")}": invalid syntax$'
    ):
        parse_uint(text)


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1.0), (".5", 0.5), ("1e-4", 1e-4), ("-2.", -2.0), ("inf", float("inf"))]
)
def test_parse_float_accepts_what_go_accepts(text: str, value: float) -> None:
    assert parse_float(text) == value


def test_parse_float_too_large_is_out_of_range() -> None:
    with pytest.raises(NumberTextError, match=r'^strconv.ParseFloat: parsing "1e999": value out of range$'):
        parse_float("1e999")


@pytest.mark.parametrize(("text", "value"), [("1", True), ("t", True), ("True", True), ("0", False), ("FALSE", False)])
def test_parse_bool_knows_gos_words(text: str, value: bool) -> None:
    assert parse_bool(text) is value


def test_parse_bool_of_another_word_is_invalid_syntax() -> None:
    with pytest.raises(NumberTextError, match=r'^strconv.ParseBool: parsing "yes": invalid syntax$'):
        parse_bool("yes")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-5, "-5"), (11, "11"), (0.5, "0.5"), (999_999, "999999"), (1_000_000, "1e+06"),
     (1_234_567, "1.234567e+06"), (0.0001, "0.0001"), (0.00001, "1e-05"), (-120.25, "-120.25"), (1e21, "1e+21")],
)  # fmt: skip
def test_shortest_prints_floats_as_go_does(value: float, text: str) -> None:
    assert shortest(value) == text


@pytest.mark.parametrize(
    ("wall", "text"),
    [(0.0, "1970-01-01T00:00:00Z"), (1.5, "1970-01-01T00:00:01.5Z"), (86_400.000123, "1970-01-02T00:00:00.000123Z")],
)
def test_rfc3339_drops_trailing_zeros(wall: float, text: str) -> None:
    assert rfc3339(wall) == text


@pytest.mark.parametrize(("text", "bad"), [(b"[" * 10_001, "["), (b'{"a":' * 10_001, "{"), (b"[" * 2_000_000, "[")])
def test_text_nested_deeper_than_go_reads_is_refused_there(text: bytes, bad: str) -> None:
    with pytest.raises(GoJSONError, match=re.escape(f"invalid character '{bad}' exceeded max depth")):
        decode(text)


def test_text_nested_as_deep_as_go_reads_is_read_to_its_end() -> None:
    with pytest.raises(GoJSONError, match="unexpected EOF"):
        decode(b"[" * 10_000)
