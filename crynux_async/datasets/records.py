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
from crynux_async.datasets.images import ImageFacts, look_at

RECORD_EXTENSIONS: Final = frozenset((".parquet", ".geoparquet", ".gpq", ".arrow"))
"""The files that are looked into."""

# Rows hold whole images, and a batch is in memory at one time.
_BATCH_ROWS: Final = 32
# The fields of a structure are sorted in its name (``plain_type``), so that this is one of bytes or of a path.
_IMAGE_TYPES: Final = ("struct<'bytes': binary", "struct<'path': string>")
_OTHER_TYPES: Final = ("null", "binary", "large_binary", "string", "large_string", "decimal128", "decimal256")


@attrs.frozen(kw_only=True)
class Record:
    """One row.

    Attributes:
        size: Bytes of the image, >= 0.
        sha256: The hash of the image's content, in hex; empty when there is none.
        image: What it is as an image.
        caption: The value in the caption column.
    """

    size: int
    sha256: str
    image: ImageFacts
    caption: object = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Records:
    """The content of one file.

    Attributes:
        columns: Every column's Arrow type.
        images: The columns that the file marks as images for the datasets library.
        unknown: The columns that the datasets library has no type for.
        rows: Number of rows, >= 0.
        records: Every row, when both columns are there and the first may hold images; otherwise nothing.
        fault: Why it could not be read, or ``""``.
        mark_fault: Why its marks could not be read, or ``""``.
    """

    columns: Mapping[str, str] = attrs.field(factory=dict)
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
        rows, records = 0, list[Record]()
        for batch in batches:
            rows += batch.num_rows
            if may_hold and caption_column in found.columns:
                records += _records(batch, image_column, caption_column, pixels)
    # Arrow raises its own tree, OSError, and KeyError or TypeError for odd metadata.
    except Exception as error:
        return Records(fault=_reason(error))
    return attrs.evolve(found, rows=rows, records=tuple(records))


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
    columns = {field.name: plain_type(field.type) for field in schema}
    unknown = tuple(field.name for field in schema if not _is_known(field.type))
    try:
        return Records(columns=columns, unknown=unknown, images=_marked(schema))
    except (ValueError, TypeError, AttributeError) as error:
        return Records(columns=columns, unknown=unknown, mark_fault=_reason(error))


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
    return frozenset(
        name
        for name, mark in marks.items()
        # With decode=False training is given the bytes.
        if isinstance(mark, dict) and mark.get("_type") == "Image" and mark.get("decode", True)
        if name in schema.names and schema.field(name).type == image
    )


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")


def _records(batch: Any, image_column: str, caption_column: str, pixels: int) -> Iterator[Record]:
    images, captions = (batch.column(name) for name in (image_column, caption_column))
    for image, caption in zip(images, captions, strict=True):
        yield _record(image.as_py(), caption.as_py(), pixels)


def _record(image: Mapping[str, Any] | None, caption: object, pixels: int) -> Record:
    data = (image or {}).get("bytes")
    if data is None:
        named = (image or {}).get("path")
        fault = f"only its name is there: {named}" if named else "there is nothing"
        return Record(size=0, sha256="", image=ImageFacts(fault=fault), caption=caption)
    facts = look_at(data, pixels=pixels)
    return Record(size=len(data), sha256=hashlib.sha256(data).hexdigest(), image=facts, caption=caption)
