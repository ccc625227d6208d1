"""How metadata files are read, and how long captions are."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.datasets import estimated_tokens
from crynux_async.datasets.captions import caption_of, read_table

_TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=40)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", None], "text"),
        ([1, 2], "whole number"),
        ([1, 2.5], "number"),
        ([True], "boolean"),
        ([["a"], None], "list"),
        ([{"a": 1}], "object"),
        ([None, None], "nothing"),
        (["2024-01-31", "2024-01-31 10:20:30"], "time"),
        (["2024-01-31", "a"], "text"),
        (["2024-13-45"], "text"),
    ],
)
def test_json_column_has_the_kind_that_arrow_gives_it(values: list[object], kind: str) -> None:
    data = "".join(json.dumps({"text": value}) + "\n" for value in values).encode()
    assert read_table("metadata.jsonl", data).columns == {"text": kind}


@pytest.mark.parametrize("values", [["a", 1], [["a"], "a"], [True, 1], [{"a": 1}, "a"]])
def test_json_column_of_two_kinds_is_a_fault(values: list[object]) -> None:
    data = "".join(json.dumps({"text": value}) + "\n" for value in values).encode()
    assert "column 'text' mixes" in read_table("metadata.jsonl", data).fault


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"[]", "not an object"),
        (b'{"a": 1', "line 1"),
        (b'{"a": 1}\nx', "object 2, line 2"),
        (b'{"a": 1, "a": 2}', "same key twice"),
        (b'{"a": "\xff"}', "not UTF-8 (byte 7)"),
        (b'{"a": ' + b"[" * 100_000, "recursion"),
    ],
)
def test_json_that_no_node_can_read_has_a_fault(data: bytes, fault: str) -> None:
    assert fault in read_table("metadata.jsonl", data).fault


@settings(max_examples=150)
@given(st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=5))
def test_json_lines_come_back_as_they_were_written(pairs: list[tuple[str, str]]) -> None:
    data = "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in pairs)
    rows = read_table("metadata.jsonl", data.encode()).rows
    assert [(row["file_name"], row["text"]) for row in rows] == pairs


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["a", "1"], "text"),
        (["1", " 2"], "whole number"),
        (["1", ""], "number"),
        (["1", "2.5", "inf"], "number"),
        (["True", "false"], "boolean"),
        (["", "NA"], "nothing"),
        (["1_000"], "text"),
    ],
)
def test_csv_column_has_the_kind_that_pandas_gives_it(cells: list[str], kind: str) -> None:
    data = "file_name,text\n" + "".join(f"a.png,{cell}\n" for cell in cells)
    assert read_table("metadata.csv", data.encode()).columns["text"] == kind


@pytest.mark.parametrize("word", ["", "NA", "None", "null", "nan", "N/A"])
def test_csv_word_for_nothing_is_no_caption(word: str) -> None:
    table = read_table("metadata.csv", f"file_name,text\na.png,{word}\nb.png,x\n".encode())
    assert [row["text"] for row in table.rows] == [None, "x"]


def test_csv_words_for_nothing_can_be_kept() -> None:
    table = read_table("metadata.csv", b"file_name,text\na.png,None\n", missing=frozenset(("",)))
    assert table.rows[0]["text"] == "None"


def test_csv_quotes_commas_and_line_breaks_belong_to_the_caption() -> None:
    table = read_table("metadata.csv", b'file_name,text\r\na.png,"red, ""big""\r\ndog"\r\n\r\n')
    assert table.rows == ({"file_name": "a.png", "text": 'red, "big"\r\ndog'},)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "empty"),
        (b"file_name,text\na.png,red, green\n", "row 1 has 3 fields"),
        (b'file_name,text\na.png,"red\n', "never closed"),
        (b"file_name,text\na.png,\xe9\n", "not UTF-8"),
    ],
)
def test_csv_that_no_node_can_read_has_a_fault(data: bytes, fault: str) -> None:
    assert fault in read_table("metadata.csv", data).fault


def test_csv_blank_lines_are_no_rows() -> None:
    assert len(read_table("metadata.csv", b"file_name,text\n\n  \na.png,x\n \n").rows) == 1


def test_csv_short_row_has_no_caption() -> None:
    assert read_table("metadata.csv", b"file_name,text\na.png\n").rows == ({"file_name": "a.png", "text": None},)


def test_csv_second_column_of_a_name_is_numbered() -> None:
    table = read_table("metadata.csv", b"file_name,text,text\na.png,first,second\n")
    assert table.rows[0] == {"file_name": "a.png", "text": "first", "text.1": "second"}


@pytest.mark.parametrize(
    ("value", "caption"),
    [("a", "a"), ("", ""), (["a", "b"], ("a", "b")), ([], None), (["a", None], None), (5, None), (None, None)],
)
def test_only_text_and_filled_lists_of_text_are_captions(value: object, caption: object) -> None:
    assert caption_of(value) == caption


# Counts of the CLIP tokenizer itself, with the start and end marks.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 2),
        ("a photo of a small brown dog running on the beach at sunset", 15),
        ("a drawing of a green pokemon with red eyes", 11),
        ("a close up of a cat wearing a tiny hat, studio lighting", 15),
        ("a blue and white bird with a long beak standing on a branch", 15),
        ("a watercolor painting of lavender fields in Provence during golden hour", 13),
    ],
)
def test_estimate_is_within_a_token_of_the_tokenizer_for_plain_english(text: str, tokens: int) -> None:
    assert abs(estimated_tokens(text) - tokens) <= 1


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("一个女孩站在海边", 21), ("Девушка в красном платье стоит у моря", 41), ("😀 happy 🌸🌸", 6)],
)
def test_estimate_is_within_a_quarter_of_the_tokenizer_for_other_scripts(text: str, tokens: int) -> None:
    assert abs(estimated_tokens(text) - tokens) <= tokens / 4


@settings(max_examples=200)
@given(_TEXT, _TEXT)
def test_estimate_never_shrinks_when_words_are_added(first: str, second: str) -> None:
    assert estimated_tokens(f"{first} {second}") >= max(estimated_tokens(first), estimated_tokens(second)) >= 2
