"""How metadata files are read."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.datasets.csv_tables import read_csv
from crynux_async.datasets.tables import read_table

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
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}", "column 'a' has more than 62 lists"),
        (b'{"a": ' + b"[" * 3_000 + b"1" + b"]" * 3_000 + b"}", "column 'a' has more than 62 lists"),
        (b'{"a": "b"}\n{"a": "' + b"c" * 3_000_000 + b'"}\n', "line 2 has 3,000,009 bytes"),
        (b'{"a":\n"b"}\n' * 100_000, "each object on a line of its own"),
        (b'{"a": "b"} ' * 300_000, "each object on a line of its own"),
    ],
)
def test_json_that_no_node_can_read_has_a_fault(data: bytes, fault: str) -> None:
    assert fault in read_table("metadata.jsonl", data).fault


@settings(max_examples=150, deadline=None)
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
    found = read_csv(b"file_name,text\na.png,None\n", missing=frozenset(("",)))
    assert found.rows[0]["text"] == "None"


def test_csv_row_that_is_longer_than_the_header_moves_all_columns() -> None:
    table = read_table("metadata.csv", b"file_name,text\na.png,red, green\nb.png,blue\n")
    assert (table.labels, table.rows[0]) == (1, {"file_name": "red", "text": " green"})
    assert table.rows[1] == {"file_name": "blue", "text": None}


def test_csv_quotes_commas_and_line_breaks_belong_to_the_caption() -> None:
    table = read_table("metadata.csv", b'file_name,text\r\na.png,"red, ""big""\r\ndog"\r\n\r\n')
    assert table.rows == ({"file_name": "a.png", "text": 'red, "big"\r\ndog'},)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "empty"),
        (b"file_name,text\na.png,red\nb.png,red, green\n", "row 2 has 3 fields"),
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
