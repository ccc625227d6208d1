"""The bytes that are signed, against Go's and against the emulator's own writer of Go's JSON."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.emulator import go_json
from crynux_async.signing import canonical_json
from tests.signing.vectors import TIMESTAMP, Vector, vectors

KEY = "qI_ZWTFcCsn91oEe66Pfpp1Mnw0f4UwfFLofftTMPBk="

texts = st.text(st.characters(exclude_characters="\b\f", exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector.name)
def test_fields_of_a_vector_are_written_as_go_writes_them(vector: Vector) -> None:
    fields, end = json.JSONDecoder().raw_decode(vector.message.decode())
    assert vector.message.decode()[end:] == str(TIMESTAMP)
    assert canonical_json(fields) + str(TIMESTAMP).encode() == vector.message


def test_vectors_are_all_read() -> None:
    assert len(vectors()) == 12


def test_signs_that_go_escapes_are_escaped_and_others_are_not() -> None:
    role = 'a&b<c>\u2028é漢😀\t"\\/\x7f'
    expected = '{"api_key":"KEY","role":"a\\u0026b\\u003cc\\u003e\\u2028é漢😀\\t\\"\\\\/\x7f"}'.replace("KEY", KEY)
    assert canonical_json({"role": role, "api_key": KEY}) == expected.encode()


@pytest.mark.parametrize("char", [chr(code) for code in range(0x20) if chr(code) not in "\b\f\n\r\t"])
def test_control_character_is_written_as_four_lower_case_digits(char: str) -> None:
    assert canonical_json({"a": char}) == b'{"a":"\\u%04x"}' % ord(char)


@given(st.dictionaries(texts, values, max_size=4))
def test_any_fields_are_written_as_the_emulator_writes_them(fields: dict[str, Any]) -> None:
    assert canonical_json(fields) == go_json.encode(_sorted(fields))
    assert json.loads(canonical_json(fields)) == fields


@pytest.mark.parametrize("value", ["\b", "\f", 2**53 + 1, -(2**53) - 1])
def test_value_that_can_be_written_in_two_ways_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"^fields\.a\[1\]\.b cannot be signed"):
        canonical_json({"a": [0, {"b": value}]})


@pytest.mark.parametrize("value", [0.5, 1e-7, b"a", {1}])
def test_value_of_another_type_is_refused_by_name(value: object) -> None:
    with pytest.raises(TypeError, match=r"^fields\.a cannot be signed"):
        canonical_json({"a": value})


def test_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="keys must be text, not 1"):
        canonical_json({"a": {1: 2}})


def test_surrogate_that_stands_alone_becomes_the_replacement_character() -> None:
    assert canonical_json({"a": "x\ud800y"}) == '{"a":"x\ufffdy"}'.encode()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
