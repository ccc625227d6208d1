"""``metadata.jsonl``: read by the reader that nodes use, and explained by one of our own where that one refuses.

Arrow gives each column one type, at every depth, and reads in blocks of 1 MiB that it cuts at the ends of lines. Its
verdict is what counts. Its messages count rows from the beginning of a block and name no line, so what is wrong is
looked for again.

Source: datasets 3.1.0 folder_based_builder.py (_read_metadata); Arrow cpp/src/arrow/json (parser.cc, chunker.cc) and
util/delimiting.cc.
"""

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from crynux_async.datasets.arrow import arrow, nesting, plain_type

BLOCK_BYTES: Final = 1 << 20
"""Bytes that Arrow reads at once; an object that is not on one line must not cross the border of two such blocks."""

# Of lists and objects around a value: the loader writes what it has read, and Arrow writes no deeper (ipc/options.h).
_DEEPEST: Final = 62
_CHANGED: Final = re.compile(r"Column\(/(?P<path>.*)\) changed from (?P<was>\S+) to (?P<now>\S+)")
_HALF: Final = re.compile("[\ud800-\udfff]")


@attrs.frozen(kw_only=True)
class JsonColumns:
    """What Arrow makes of a file.

    Attributes:
        types: Each column's Arrow type.
        rows: The values, None where there is none.
    """

    types: Mapping[str, str]
    rows: tuple[Mapping[str, object], ...]


def read_json(data: bytes) -> JsonColumns:
    """Read JSON lines with Arrow.

    Args:
        data: The file.

    Returns:
        The columns.

    Raises:
        ValueError: A node cannot read it; the text says why.
    """
    pyarrow, reader = arrow(), arrow("json")
    try:
        table = reader.read_json(io.BytesIO(data))
        deep = [field.name for field in table.schema if nesting(field.type) > _DEEPEST]
        rows = [] if deep else table.to_pylist()
    # Arrow raises its own tree; a value that Python cannot hold, such as the year 0, raises when it is taken out.
    except (pyarrow.ArrowException, ValueError, OverflowError, KeyError) as error:
        raise ValueError(_reason(data, str(error))) from error
    if deep:
        raise ValueError(f"column {deep[0]!r} has more than {_DEEPEST} lists or objects inside each other")
    if not table.num_columns:
        raise ValueError("it is empty")
    types = {field.name: plain_type(field.type) for field in table.schema}
    return JsonColumns(types=types, rows=tuple(rows))


def json_objects(text: str) -> Iterator[Mapping[str, object]]:
    """The objects of JSON lines one after the other, on one line or on several, whatever kinds their values have.

    Raises:
        ValueError: Something is no JSON object; the text says where.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_without_repeats)
    position, number = _skip_space(text, 0), 1
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise ValueError(f"object {number}, line {error.lineno}: {error.msg}") from None
        except RecursionError:
            raise ValueError(f"object {number} is nested too deeply") from None
        if not isinstance(value, dict):
            raise ValueError(f"entry {number} is not an object in braces")  # noqa: TRY004 - a fault of the file
        yield value
        position, number = _skip_space(text, position), number + 1


def has_half_character(value: object) -> bool:
    r"""Whether a JSON value has half of a character, such as ``\ud83d`` alone, anywhere: no file can hold one."""
    if isinstance(value, str):
        return _HALF.search(value) is not None
    if isinstance(value, Mapping):
        return any(has_half_character(part) for pair in value.items() for part in pair)
    return isinstance(value, (list, tuple)) and any(has_half_character(part) for part in value)


def _reason(data: bytes, message: str) -> str:
    try:
        return _explained(data, message)
    except RecursionError:
        return "an object is nested too deeply"


def _explained(data: bytes, message: str) -> str:
    try:
        objects = list(json_objects(data.decode("utf-8-sig")))
    except ValueError as error:
        return str(error)
    if not objects:
        return "it is empty"
    for number, found in enumerate(objects, start=1):
        if has_half_character(found):
            return rf"object {number} has half of a character, such as \ud83d alone: {_shortened(found)}"
    changed = _CHANGED.search(message)
    if changed:
        return _mixed(objects, changed["path"].split("/"))
    if len(data) > BLOCK_BYTES and ("straddl" in message or "JSON parse error" in message):
        return _over_border(data)
    return message.partition("\n")[0]


def _over_border(data: bytes) -> str:
    number, longest = max(enumerate(data.split(b"\n"), start=1), key=lambda line: len(line[1]))
    if len(longest) > BLOCK_BYTES and _is_one_object(longest):
        return f"line {number} has {len(longest):,} bytes, and it is read in pieces of 1 MiB: shorten what stands there"
    return "it is read in pieces of 1 MiB, which end between lines: write each object on a line of its own"


def _is_one_object(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _shortened(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _mixed(objects: Sequence[Mapping[str, object]], path: Sequence[str]) -> str:
    """Where a value first has another kind than those before it."""
    first: dict[str, int] = {}
    for number, found in enumerate(objects, start=1):
        for value in _values_at(found, path):
            first.setdefault(_kind(value), number)
    first.pop("null", None)
    kinds = sorted(first, key=lambda kind: first[kind])
    where = f"column {path[0]!r}" + (f" (in {'/'.join(path)})" if len(path) > 1 else "")
    seen = " and ".join(f"{kind} in object {first[kind]}" for kind in kinds[:2])
    return f"{where} mixes kinds of values: {seen}"


def _values_at(value: object, path: Sequence[str]) -> Iterable[object]:
    if not path:
        yield value
    elif path[0] == "[]" and isinstance(value, list):
        for part in value:
            yield from _values_at(part, path[1:])
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _values_at(value[path[0]], path[1:])


def _kind(value: Any) -> str:
    # Without bool's name: it is an int to Python, and Arrow tells them apart.
    names = {str: "text", bool: "true or false", int: "number", float: "number", list: "list", dict: "object"}
    return names.get(type(value), "null")


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _without_repeats(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("an object has the same key twice")
    return row
