"""Parquet and Arrow files with images inside, drawn at random: as the datasets library writes them, and otherwise."""

import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from tests.datasets.node.cases import DatasetCase, other_contents, zipped
from tests.datasets.node.pictures import good_picture, odd_pictures

_IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
_TURNED = pyarrow.struct([("path", pyarrow.string()), ("bytes", pyarrow.binary())])
_ONLY_BYTES = pyarrow.struct([("bytes", pyarrow.binary())])

_CAPTIONS = st.sampled_from([*["a cat"] * 40, "", " ", "caf\u00e9", None, "5"])
_IMAGE_TYPES = st.sampled_from([_IMAGE] * 24 + [_TURNED, _ONLY_BYTES, pyarrow.binary(), pyarrow.string()])
_CAPTION_TYPES = st.sampled_from(
    [pyarrow.string()] * 20
    + [
        pyarrow.large_string(),
        pyarrow.list_(pyarrow.string()),
        pyarrow.large_list(pyarrow.string()),
        pyarrow.list_(pyarrow.string(), 1),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        pyarrow.binary(),
        pyarrow.string_view(),
        pyarrow.null(),
        pyarrow.int64(),
        pyarrow.list_(pyarrow.int64()),
        pyarrow.timestamp("s"),
        pyarrow.struct([("en", pyarrow.string())]),
    ]
)
_OTHERS: Mapping[str, Any] = {
    "numbers": pyarrow.array([1]),
    "labels": pyarrow.array(["a"]).dictionary_encode(),
    "map": pyarrow.array([[("a", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    "times": pyarrow.array([0], pyarrow.timestamp("us", "UTC")),
    "durations": pyarrow.array([0], pyarrow.duration("s")),
    "decimals": pyarrow.array([None], pyarrow.decimal128(5, 2)),
    "nested": pyarrow.array([[{"a": [1]}]]),
    "nothing": pyarrow.array([None]),
    "halves": pyarrow.array([None], pyarrow.float16()),
    "dates": pyarrow.array([0], pyarrow.date32()),
    "intervals": pyarrow.array([None], pyarrow.month_day_nano_interval()),
    "empty": pyarrow.array([{}], pyarrow.struct([])),
}
# Columns of one name and of types that the loader can cast, sometimes, into each other.
_SAME_NAME = (
    *(pyarrow.array([value]) for value in ("a", "7", "7.5", "true", 7, 7.5, True, None, b"a", ["a"], [7], {"a": 1})),
    pyarrow.array([7], pyarrow.int16()),
    pyarrow.array([7], pyarrow.timestamp("s")),
    pyarrow.array([7], pyarrow.date32()),
    pyarrow.array(["7"], pyarrow.large_string()),
    pyarrow.array([["a"]], pyarrow.large_list(pyarrow.string())),
)
_MARKS = st.sampled_from(
    ["right"] * 24
    + ["none", "no info", "other column", "not decoded", "no JSON", "class", "null"]
    + ["List", "Json", "Sequence", "List inside"]
)


_TEXT: dict[str, Any] = {"dtype": "string", "_type": "Value"}
_MORE_MARKS: dict[str, Any] = {
    "List": {"feature": _TEXT, "_type": "List"},
    "Json": {"_type": "Json"},
    "Sequence": {"feature": _TEXT, "length": -1, "_type": "Sequence"},
    "List inside": [{"a": {"feature": {"feature": _TEXT, "_type": "List"}, "_type": "Sequence"}}],
}


def _caption(value: str | None, kind: pyarrow.DataType) -> Any:
    types = pyarrow.types
    if value is None or types.is_null(kind):
        return None
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return [_caption(value, kind.value_type)]
    if types.is_struct(kind):
        return {"en": value}
    if types.is_integer(kind) or types.is_timestamp(kind):
        return 7
    return value.encode() if types.is_binary(kind) else value


def _image(data: bytes | None, path: str | None, kind: pyarrow.DataType) -> Any:
    if pyarrow.types.is_binary(kind):
        return data
    if pyarrow.types.is_string(kind):
        return path
    return {"bytes": data, "path": path}


def _marked(table: pyarrow.Table, how: str, image: str, caption: str) -> pyarrow.Table:
    features: dict[str, Any] = {image: {"_type": "Image"}, caption: {"dtype": "string", "_type": "Value"}}
    if how == "other column":
        features = {"photo": {"_type": "Image"}}
    elif how == "not decoded":
        features[image]["decode"] = False
    elif how == "class":
        features[caption] = {"names": ["a", "b"], "_type": "ClassLabel"}
    elif how in _MORE_MARKS:
        features["more"] = _MORE_MARKS[how]
    elif how == "null":
        features = None  # type: ignore[assignment]
    text = {"none": "", "no info": "{}", "no JSON": "{"}.get(how, json.dumps({"info": {"features": features}}))
    return table.replace_schema_metadata({"huggingface": text}) if text else table


def _written(table: pyarrow.Table, form: str) -> bytes:
    buffer = io.BytesIO()
    if form == "parquet":
        # Parquet has no type for some that Arrow has.
        names = [field.name for field in table.schema if not str(field.type).startswith(("struct<>", "month_day"))]
        parquet.write_table(table.select(names), buffer, row_group_size=2)
    else:
        opener: Callable[..., Any] = ipc.new_stream if form == "stream" else ipc.new_file
        with opener(buffer, table.schema) as writer:
            writer.write_table(table)
    return buffer.getvalue()


@st.composite
def _tables(draw: st.DrawFn, image: str, caption: str, first: int) -> pyarrow.Table:
    image_type, caption_type = draw(_IMAGE_TYPES), draw(_CAPTION_TYPES)
    rows = draw(st.integers(0, 4)) if draw(st.sampled_from([False] * 9 + [True])) else draw(st.integers(1, 4))
    images, captions = [], []
    for number in range(rows):
        kind = draw(st.sampled_from(["good"] * 40 + ["odd", "name", "nothing", "null"]))
        data: bytes | None = good_picture(first + number)
        if kind == "odd":
            data = odd_pictures()[draw(st.sampled_from(sorted(odd_pictures())))]
        path = draw(st.sampled_from([None, "a.png"]))
        made = _image(None if kind in {"name", "nothing"} else data, "a.png" if kind == "name" else path, image_type)
        images.append(None if kind == "null" else made)
        captions.append(_caption(draw(_CAPTIONS), caption_type))
    columns = {image: pyarrow.array(images, image_type), caption: pyarrow.array(captions, caption_type)}
    if draw(st.sampled_from([True, False, False])):
        name = draw(st.sampled_from(sorted(_OTHERS)))
        columns[name] = pyarrow.chunked_array([_OTHERS[name]] * rows, _OTHERS[name].type)
    if draw(st.sampled_from([True, False, False])):
        same = draw(st.sampled_from(_SAME_NAME))
        columns["more"] = pyarrow.chunked_array([same] * rows, same.type)
    return pyarrow.table(columns)


@st.composite
def table_cases(draw: st.DrawFn) -> DatasetCase:
    """A data set of parquet or Arrow files."""
    form = draw(st.sampled_from(["parquet"] * 4 + ["stream", "file"]))
    ending = "parquet" if form == "parquet" else "arrow"
    names = [draw(st.sampled_from([f"data/train-00000-of-00001.{ending}"] * 4 + [f"train.{ending}", f"0000.{ending}"]))]
    if draw(st.sampled_from([True, False, False])):
        second = [f"data/train-00001-of-00002.{ending}", f"data/test-00000-of-00001.{ending}", f"x/more.{ending}"]
        names.append(draw(st.sampled_from([*second, f"upper.{ending.upper()}", "x.gpq"])))
    image = draw(st.sampled_from(["image"] * 12 + ["photo"]))
    caption = draw(st.sampled_from(["text"] * 12 + ["caption"]))
    table = draw(_tables(image, caption, 0))
    files: dict[str, bytes] = {}
    for number, name in enumerate(names):
        if number and draw(st.booleans()):
            table = draw(_tables(image, caption, 50))
        data = _written(_marked(table, draw(_MARKS), image, caption), form)
        files[name] = data if draw(st.sampled_from([True] * 12 + [False])) else data[: len(data) * 3 // 4]
    if draw(st.sampled_from([True, False, False])):
        kinds = {**other_contents(), "more.zip": zipped({"more.parquet": b"PAR1"})}
        name = draw(st.sampled_from(sorted(kinds)))
        files.setdefault(name, kinds[name])
    asked = draw(st.booleans())
    return DatasetCase(
        name=draw(st.sampled_from(["cats", "cats.zip", "cats.tar.gz"])),
        members=tuple(files.items()),
        image_column=image if asked else "image",
        caption_column=caption if asked else "text",
    )
