"""``metadata.csv``: what pandas makes of it, without pandas.

Source: datasets 3.1.0 folder_based_builder.py (_read_metadata: ``pandas.read_csv`` with its defaults, then
``pyarrow.Table.from_pandas``); pandas 2.3 _libs/src/parser/tokenizer.c and _libs/parsers.pyx.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import attrs

_MISSING: Final = "|#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null"
MISSING: Final = frozenset(_MISSING.split("|"))
"""The words of a cell that pandas takes for "nothing": a caption "None" is lost."""

_BLANK_LINE: Final = re.compile(r"[ \t]*(?:\r\n|\r|\n|\Z)")
_QUOTED: Final = re.compile(r'"((?:[^"]|"")*)"([^,\r\n]*)')
_PLAIN: Final = re.compile(r"[^,\r\n]*")
_LINE_END: Final = re.compile(r"\r\n|\r|\n|\Z")

_WHOLE: Final = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+[ \t\n\v\f\r]*")
_NUMBER: Final = re.compile(
    r"[ \t\n\v\f\r]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?[ \t\n\v\f\r]*|[+-]?inf(?:inity)?", re.IGNORECASE
)
_TRUTHS: Final = frozenset(("True", "TRUE", "true", "False", "FALSE", "false"))
_SIGNED: Final = range(-(2**63), 2**63)
_UNSIGNED: Final = range(2**64)


@attrs.frozen(kw_only=True)
class CsvColumns:
    """What pandas makes of a file.

    Attributes:
        types: Each column's Arrow type.
        rows: The cells as text, None where nothing stands.
        labels: Cells in front of each row that are no columns.
    """

    types: Mapping[str, str]
    rows: tuple[Mapping[str, str | None], ...]
    labels: int = 0


def read_csv(data: bytes, *, missing: frozenset[str] = MISSING) -> CsvColumns:
    """Read a CSV.

    When the first row is longer than the header, pandas takes the cells in front for labels of the rows.

    Args:
        data: The file.
        missing: The words that stand for nothing.

    Returns:
        The columns.

    Raises:
        ValueError: A node cannot read it; the text says why.
    """
    # pandas passes over a byte order mark.
    records = list(_records(data.decode("utf-8-sig")))
    if not records:
        raise ValueError("it is empty")
    header, *lines = records
    names = _names(header)
    labels = max(0, len(lines[0]) - len(names)) if lines else 0
    rows = tuple(_row(names, line, number, labels, missing) for number, line in enumerate(lines, start=1))
    return CsvColumns(types={name: _type(row[name] for row in rows) for name in names}, rows=rows, labels=labels)


def _row(
    names: Sequence[str], line: Sequence[str], number: int, labels: int, missing: frozenset[str]
) -> dict[str, str | None]:
    if len(line) > len(names) + labels:
        text = f"row {number} has {len(line)} fields, the header has {len(names)}: quote captions that have commas"
        raise ValueError(text)
    cells = [None if cell in missing else cell for cell in line[labels:]]
    return dict(zip(names, [*cells, *[None] * (len(names) - len(cells))], strict=True))


def _records(text: str) -> Iterator[list[str]]:
    """The cells of every line that is not blank."""
    position = 0
    while position < len(text):
        blank = _BLANK_LINE.match(text, position)
        if blank:
            position = blank.end()
            continue
        record: list[str] = []
        while True:
            cell, position = _cell(text, position)
            record.append(cell)
            if position >= len(text) or text[position] != ",":
                break
            position += 1
        yield record
        position += len(_LINE_END.match(text, position)[0])  # type: ignore[index]  # a cell ends there or at a comma


def _cell(text: str, position: int) -> tuple[str, int]:
    if text[position : position + 1] != '"':
        found = _PLAIN.match(text, position)
        assert found is not None  # it matches nothing, too
        return _stored(found[0]), found.end()
    found = _QUOTED.match(text, position)
    if found is None:
        raise ValueError("a quote is opened and never closed")
    return _stored(found[1].replace('""', '"') + found[2]), found.end()


def _stored(cell: str) -> str:
    # The parser keeps cells as C strings, which end at the first NUL.
    return cell.partition("\0")[0]


def _names(header: Sequence[str]) -> list[str]:
    """The columns' names: pandas makes ``text.1`` of the second ``text``, and names those that have none."""
    names: list[str] = []
    for number, name in enumerate(header):
        first = name or f"Unnamed: {number}"
        turn, unique = 0, first
        while unique in names:
            turn += 1
            unique = f"{first}.{turn}"
        names.append(unique)
    return names


def _type(cells: Iterable[str | None]) -> str:
    everything = list(cells)
    known = [cell for cell in everything if cell is not None]
    if not known:
        # A column of NaN alone is one of floats to pandas; one without any rows is one of objects.
        return "double" if everything else "null"
    # Whole numbers with a gap between them become floats, because NaN is one.
    if all(_WHOLE.fullmatch(cell) for cell in known) and len(known) == len(everything):
        return _whole_type([int(cell) for cell in known])
    if all(_NUMBER.fullmatch(cell) for cell in known):
        return "double"
    return "bool" if _TRUTHS.issuperset(known) else "string"


def _whole_type(numbers: Sequence[int]) -> str:
    if all(number in _SIGNED for number in numbers):
        return "int64"
    return "uint64" if all(number in _UNSIGNED for number in numbers) else "string"
