"""Metadata files as a node reads them: ``metadata.jsonl`` with Arrow, ``metadata.csv`` with pandas.

Both guess one type for each column, and a caption column that is not text fails in the middle of the training.

Source: datasets 3.1.0 folder_based_builder.py (_read_metadata).
"""

import posixpath
from collections.abc import Mapping
from typing import Final

import attrs

from crynux_async.datasets.csv_tables import CsvColumns, read_csv
from crynux_async.datasets.json_tables import JsonColumns, read_json
from crynux_async.datasets.text_encodings import guesses, in_words, is_utf8

_KINDS: Final[Mapping[str, str]] = {
    "string": "text",
    "int64": "whole number",
    "uint64": "whole number",
    "double": "number",
    "bool": "boolean",
    "null": "nothing",
}


@attrs.frozen(kw_only=True)
class Table:
    """The content of one metadata file.

    Attributes:
        file: Its path inside the folder or archive.
        columns: The kind of value in each column: ``text``, ``number``, ``whole number``, ``boolean``, ``time``,
            ``list`` (of texts), ``list of`` another kind, ``object``, or ``nothing``.
        types: Each column's Arrow type, which must be the same in all metadata files.
        rows: The values, None where there is none. Values of a CSV stay text.
        labels: Cells in front of each row of a CSV that are no columns, because the first row is too long.
        fault: Why a node cannot read the file, or ``""``.
    """

    file: str
    columns: Mapping[str, str] = attrs.field(factory=dict)
    types: Mapping[str, str] = attrs.field(factory=dict)
    rows: tuple[Mapping[str, object], ...] = ()
    labels: int = 0
    fault: str = ""


def read_table(file: str, data: bytes) -> Table:
    """Read a metadata file.

    Args:
        file: Its path; ``.csv`` is read as CSV, anything else as JSON lines.
        data: Its content.

    Returns:
        The table, with ``fault`` set when a node could not read it.

    Raises:
        UsageError: PyArrow is not installed.
    """
    if not is_utf8(data):
        return Table(file=file, fault=f"it is not UTF-8; {in_words(guesses(data))}. pack() converts it with encoding=")
    try:
        found: CsvColumns | JsonColumns = read_csv(data) if file.lower().endswith(".csv") else read_json(data)
    except ValueError as error:
        return Table(file=file, fault=str(error))
    kinds = {name: "nothing" if _is_empty(name, found.rows) else kind_of(kind) for name, kind in found.types.items()}
    labels = found.labels if isinstance(found, CsvColumns) else 0
    return Table(file=file, columns=kinds, types=found.types, rows=found.rows, labels=labels)


def kind_of(arrow_type: str) -> str:
    """The kind of values of an Arrow type, in plain words."""
    if arrow_type.startswith("list<"):
        inner = arrow_type.removeprefix("list<").removesuffix(">")
        return "list" if inner in {"string", "null"} else f"list of {kind_of(inner)}"
    if arrow_type.startswith("timestamp"):
        return "time"
    return "object" if arrow_type.startswith("struct") else _KINDS.get(arrow_type, arrow_type)


def normal_name(value: str) -> str:
    """A ``file_name`` as the loader compares it: without ``./``, with ``/``."""
    return posixpath.normpath(value).replace("\\", "/")


def _is_empty(name: str, rows: tuple[Mapping[str, object], ...]) -> bool:
    return all(row.get(name) is None for row in rows)
