"""Metadata files as a node reads them.

``metadata.jsonl`` is read by Arrow and ``metadata.csv`` by pandas; both guess one type for each column, and a caption
column that is not text fails in the middle of the training. Nothing of either library is needed here.

Source: datasets 3.1.0 folder_based_builder.py (_read_metadata); pandas 2 read_csv defaults; Arrow's JSON reader.
"""

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

import attrs

PANDAS_MISSING: Final = frozenset(
    (
        "",
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
    )
)
"""The words of a CSV cell that pandas takes for "nothing": a caption "None" is lost."""

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d)?)?Z?)?")
_JSON_KINDS: Final[Mapping[type, str]] = {
    str: "text",
    bool: "boolean",
    int: "whole number",
    float: "number",
    list: "list",
    dict: "object",
}
_NUMBERS: Final = {"whole number", "number"}
_END: Final = "\x1e"


@attrs.frozen(kw_only=True)
class Table:
    """The content of one metadata file.

    Attributes:
        file: Its path inside the folder or archive.
        columns: The kind of value in each column: ``text``, ``number``, ``whole number``, ``boolean``, ``time``,
            ``list``, ``object``, or ``nothing``.
        rows: The values, None where there is none. Values of a CSV stay text.
        fault: Why a node cannot read the file, or ``""``.
    """

    file: str
    columns: Mapping[str, str] = attrs.field(factory=dict)
    rows: tuple[Mapping[str, object], ...] = ()
    fault: str = ""


def read_table(file: str, data: bytes, *, missing: frozenset[str] = PANDAS_MISSING) -> Table:
    """Read a metadata file.

    Args:
        file: Its path; ``.csv`` is read as CSV, anything else as JSON lines.
        data: Its content.
        missing: What counts as nothing in a CSV.

    Returns:
        The table, with ``fault`` set when a node could not read it.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Table(file=file, fault=f"it is not UTF-8 (byte {error.start})")
    try:
        if file.lower().endswith(".csv"):
            return _csv_table(file, text, missing)
        return _json_table(file, text)
    except (ValueError, RecursionError, csv.Error) as error:
        return Table(file=file, fault=str(error) or type(error).__name__)


def normal_name(value: str) -> str:
    """A ``file_name`` as the loader compares it: without ``./``, with ``/``."""
    return posixpath.normpath(value).replace("\\", "/")


def _json_table(file: str, text: str) -> Table:
    rows = list(_json_objects(text))
    if not rows:
        raise ValueError("it is empty")
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _json_kind(name, [row.get(name) for row in rows]) for name in names}
    return Table(file=file, columns=columns, rows=tuple(rows))


def _json_objects(text: str) -> Iterable[Mapping[str, object]]:
    # Arrow takes objects one after the other, on one line or on several: so does this.
    decoder = json.JSONDecoder(object_pairs_hook=_without_repeats)
    position, number = _skip_space(text, 0), 1
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise ValueError(f"object {number}, line {error.lineno}: {error.msg}") from None
        if not isinstance(value, dict):
            raise ValueError(f"entry {number} is not an object in braces")  # noqa: TRY004 - a fault of the file
        yield value
        position, number = _skip_space(text, position), number + 1


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _without_repeats(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("an object has the same key twice")
    return row


def _json_kind(name: str, values: Iterable[object]) -> str:
    known = [value for value in values if value is not None]
    kinds = {_JSON_KINDS[type(value)] for value in known}
    if kinds == _NUMBERS:
        return "number"
    if len(kinds) > 1:
        raise ValueError(f"column {name!r} mixes {' and '.join(sorted(kinds))}")
    if kinds == {"text"} and all(_is_time(str(value)) for value in known):
        return "time"
    return kinds.pop() if kinds else "nothing"


def _is_time(text: str) -> bool:
    # Arrow turns a column of nothing but dates into times: "2024-01-31" as a caption is no text any more.
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _csv_table(file: str, text: str, missing: frozenset[str]) -> Table:
    first, *lines = _csv_lines(text)
    header = _unique(first)
    rows = []
    for number, line in enumerate(lines, start=1):
        if len(line) > len(header):
            raise ValueError(f"row {number} has {len(line)} fields, the header has {len(header)}: quote the caption")
        cells: list[str | None] = [None if cell in missing else cell for cell in line]
        rows.append(dict(zip(header, cells + [None] * (len(header) - len(line)), strict=True)))
    columns = {name: _csv_kind([row[name] for row in rows]) for name in header}
    return Table(file=file, columns=columns, rows=tuple(rows))


def _unique(header: Sequence[str]) -> list[str]:
    # As pandas does: the second "text" becomes "text.1".
    names: list[str] = []
    for name in header:
        number = header[: len(names)].count(name)
        names.append(f"{name}.{number}" if number else name)
    return names


def _csv_lines(text: str) -> list[list[str]]:
    # The marker shows whether a quote was left open: it would be swallowed by the last field.
    lines = list(csv.reader(io.StringIO(f"{text}\n{_END}", newline="")))
    if lines.pop() != [_END]:
        raise ValueError("a quote is opened and never closed")
    filled = [line for line in lines if len(line) > 1 or "".join(line).strip()]
    if not filled:
        raise ValueError("it is empty")
    return filled


def _csv_kind(cells: Iterable[str | None]) -> str:
    everything = list(cells)
    known = [cell for cell in everything if cell is not None]
    if not known:
        return "nothing"
    if all(cell in {"True", "TRUE", "true", "False", "FALSE", "false"} for cell in known):
        return "boolean"
    if not all(_is_number(cell) for cell in known):
        return "text"
    whole = len(known) == len(everything) and all(re.fullmatch(r"\s*[-+]?\d+\s*", cell) for cell in known)
    return "whole number" if whole else "number"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
