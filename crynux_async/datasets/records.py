"""Parquet and Arrow files: tables that hold the images themselves. Every row is read, as it would be on a node.

Source: datasets 3.1.0 packaged_modules/parquet and arrow; features/features.py (Features.from_arrow_schema) and
features/image.py (decode_example); stable-diffusion-task finetune_lora.py (preprocess_train).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, Final

import attrs

from crynux_async.datasets.arrow import arrow, plain_type
from crynux_async.datasets.casting import is_flat, spelled
from crynux_async.datasets.images import ImageFacts, look_at

RECORD_EXTENSIONS: Final = frozenset((".parquet", ".geoparquet", ".gpq", ".arrow"))
"""The files that are looked into."""

# Rows hold whole images, and a batch is in memory at one time.
_BATCH_ROWS: Final = 32
# Values of columns without images, which may decide whether the loader can cast them.
_KEPT_BYTES: Final = 4 << 20
# The fields of a structure are sorted in its name (``plain_type``), so that this is one of bytes or of a path.
# A later file may hold the bytes or the path alone: the loader casts them to what the first file has.
_IMAGE_TYPES: Final = ("struct<'bytes': binary", "struct<'path': string>", "binary", "string")
_OTHER_TYPES: Final = ("null", "binary", "large_binary", "string", "large_string", "decimal128", "decimal256")

# _FEATURE_TYPES of datasets 3.1.0 features/features.py. Version 4 writes more, such as List for every list.
_MARKS: Final = frozenset(
    (
        *("Value", "ClassLabel", "Translation", "TranslationVariableLanguages", "LargeList", "Sequence"),
        *("Array2D", "Array3D", "Array4D", "Array5D", "Audio", "Image", "Video"),
    )
)
_MARKS_AROUND: Final = frozenset(("LargeList", "Sequence"))


@attrs.frozen(kw_only=True)
class Record:
    """One row.

    Attributes:
        size: Bytes of the image, >= 0.
        sha256: The hash of the image's content, in hex; empty when there is none.
        image: What it is as an image.
        caption: The value in the caption column.
        spelled: That value as the loader makes text of it, for a table whose first one has texts there.
    """

    size: int
    sha256: str
    image: ImageFacts
    caption: object = attrs.field(default=None, repr=False)
    spelled: object = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class Records:
    """The content of one file.

    Attributes:
        columns: Every column's Arrow type, as text.
        types: Every column's Arrow type.
        values: The values of each flat column, where they are few enough to be kept.
        images: The columns that the file marks as images for the datasets library.
        unknown: The columns that the datasets library has no type for.
        rows: Number of rows, >= 0.
        records: Every row, when both columns are there and the first may hold images; otherwise nothing.
        fault: Why it could not be read, or ``""``.
        mark_fault: Why its marks could not be read, or ``""``.
    """

    columns: Mapping[str, str] = attrs.field(factory=dict)
    types: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    values: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)
    images: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()
    rows: int = 0
    records: tuple[Record, ...] = attrs.field(default=(), repr=False)
    fault: str = ""
    mark_fault: str = ""


def read_records(file: IO[bytes], extension: str, *, image_column: str, caption_column: str, pixels: int) -> Records:
    """Read a file from beginning to end.

    Args:
        file: The file; it can be read backwards.
        extension: Its extension, one of ``RECORD_EXTENSIONS``.
        image_column: The column of the images.
        caption_column: The column of the captions.
        pixels: The largest image that is decoded, in pixels.

    Returns:
        Its content, with ``fault`` set when a node could not read it.

    Raises:
        UsageError: PyArrow is not installed.
    """
    opener: Callable[[IO[bytes]], tuple[Any, Iterator[Any]]] = _open_arrow if extension == ".arrow" else _open_parquet
    arrow()
    try:
        schema, batches = opener(file)
        found = _described(schema)
        may_hold = found.columns.get(image_column, "").startswith(_IMAGE_TYPES)
        rows, records, kept = 0, list[Record](), _Kept(found.types)
        for batch in batches:
            rows += batch.num_rows
            kept.add(batch)
            if may_hold and caption_column in found.columns:
                records += _records(batch, image_column, caption_column, pixels)
    # Arrow raises its own tree, OSError, and KeyError or TypeError for odd metadata.
    except Exception as error:
        return Records(fault=_reason(error))
    return attrs.evolve(found, rows=rows, records=tuple(records), values=kept.columns())


class _Kept:
    """The flat columns of one file, until they are too many bytes to be kept.

    Args:
        types: Every column's type.
    """

    def __init__(self, types: Mapping[str, Any]) -> None:
        self._names = [name for name, kind in types.items() if is_flat(kind)]
        self._batches: list[Any] = []
        self._bytes = 0

    def add(self, batch: Any) -> None:
        """Keep a batch of rows."""
        # One by one: a file may have two columns of one name, and they cannot be selected by it.
        flat = {name: batch.column(name) for name in self._names}
        self._bytes += sum(column.nbytes for column in flat.values())
        if self._bytes <= _KEPT_BYTES:
            self._batches.append(flat)
        else:
            self._batches.clear()

    def columns(self) -> dict[str, Any]:
        """Each column; none where there was too much."""
        if self._bytes > _KEPT_BYTES or not self._batches:
            return {}
        chunked = arrow().chunked_array
        return {name: chunked([flat[name] for flat in self._batches]) for name in self._names}


def _open_parquet(file: IO[bytes]) -> tuple[Any, Iterator[Any]]:
    opened = arrow("parquet").ParquetFile(file)
    return opened.schema_arrow, opened.iter_batches(batch_size=_BATCH_ROWS)


def _open_arrow(file: IO[bytes]) -> tuple[Any, Iterator[Any]]:
    ipc = arrow("ipc")
    # In the loader's order: save_to_disk() writes streams, other programs write files.
    try:
        stream = ipc.open_stream(file)
        return stream.schema, iter(stream)
    except arrow().ArrowInvalid:
        file.seek(0)
        opened = ipc.open_file(file)
        return opened.schema, (opened.get_batch(number) for number in range(opened.num_record_batches))


def _described(schema: Any) -> Records:
    types = {field.name: field.type for field in schema}
    columns = {name: plain_type(kind) for name, kind in types.items()}
    unknown = tuple(field.name for field in schema if not _is_known(field.type))
    try:
        return Records(columns=columns, types=types, unknown=unknown, images=_marked(schema))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        return Records(columns=columns, types=types, unknown=unknown, mark_fault=_reason(error))


def _is_known(kind: Any) -> bool:
    """Whether the datasets library has a type for it: features/features.py (generate_from_arrow_type)."""
    types = arrow("types")
    if types.is_struct(kind):
        return all(_is_known(field.type) for field in kind)
    if any(getattr(types, f"is_{name}")(kind) for name in ("list", "large_list", "fixed_size_list", "dictionary")):
        return _is_known(kind.value_type)
    return bool(types.is_primitive(kind) and not types.is_interval(kind)) or any(
        getattr(types, f"is_{name}")(kind) for name in _OTHER_TYPES
    )


def _marked(schema: Any) -> frozenset[str]:
    """The columns that are marked as images, and have the type that goes with it."""
    pyarrow = arrow()
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    marks = (metadata.get("info") or {}).get("features") or {}
    for name, mark in marks.items():
        _check_mark(name, mark)
    return frozenset(
        name
        for name, mark in marks.items()
        # With decode=False training is given the bytes.
        if isinstance(mark, dict) and mark.get("_type") == "Image" and mark.get("decode", True)
        if name in schema.names and schema.field(name).type == image
    )


def _check_mark(column: str, mark: Any) -> None:
    """Raise ValueError when nodes do not know a type that a column is marked with (generate_from_dict)."""
    if isinstance(mark, list) or (isinstance(mark, dict) and isinstance(mark.get("_type", {}), dict)):
        for part in mark.values() if isinstance(mark, dict) else mark:
            _check_mark(column, part)
        return
    kind = mark["_type"]
    if kind not in _MARKS:
        raise ValueError(
            f"it marks {column} as {kind}, which nodes with datasets 3.1 do not know; write it with that version, "
            "or as images with metadata.jsonl"
        )
    if kind in _MARKS_AROUND:
        _check_mark(column, mark["feature"])


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")


def _records(batch: Any, image_column: str, caption_column: str, pixels: int) -> Iterator[Record]:
    images, captions = (batch.column(name) for name in (image_column, caption_column))
    for image, caption, text in zip(images, captions, spelled(captions), strict=True):
        record = _record(image.as_py(), pixels)
        yield attrs.evolve(record, caption=caption.as_py(), spelled=text.as_py())


def _record(image: Mapping[str, Any] | bytes | str | None, pixels: int) -> Record:
    found: Mapping[str, Any] = image if isinstance(image, Mapping) else {}
    data = image if isinstance(image, bytes) else found.get("bytes")
    if data is None:
        named = image if isinstance(image, str) else found.get("path")
        fault = f"only its name is there: {named}" if named else "there is nothing"
        return Record(size=0, sha256="", image=ImageFacts(fault=fault))
    return Record(size=len(data), sha256=hashlib.sha256(data).hexdigest(), image=look_at(data, pixels=pixels))
