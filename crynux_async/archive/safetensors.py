"""The safetensors format: reading and writing its header. What the numbers behind it say is told by ``raw_numbers``.

A file is 8 bytes (N, little-endian), N bytes of JSON, then the tensors' bytes. The JSON names for each tensor a dtype,
a shape and where its bytes begin and end, counted from the end of the JSON. The format is pure data: nothing in it can
run. Still it comes from an unknown machine here, so that a header is believed only when it is exactly right: tensors
tile the data without gap or overlap, shapes and sizes agree, and no key appears twice.

Parsing JSON holds the interpreter from its first byte to its last, in whatever thread it runs. So a header is parsed in
segments, between which other threads come through, and what is no description of a tensor is thrown away with the
segment that it stands in: neither time nor memory follow from what an archive holds.

Flaws are raised as ValueError, without the file's name. Numbers are little-endian on every machine.

Source: https://github.com/huggingface/safetensors (README "Format", safetensors/src/tensor.rs ``validate``).
"""

import contextlib
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar, cast

import attrs

LENGTH_BYTES = 8
"""Bytes in front of the JSON."""

MOST_HEADER_BYTES = 100_000_000
"""The longest JSON that the format's own library reads. Source: safetensors/src/tensor.rs, MAX_HEADER_SIZE."""

WIDTHS: Mapping[str, int] = MappingProxyType({"F32": 4, "F16": 2, "BF16": 2})
"""Bytes of one number, for each dtype in which a LoRA is trained."""

_T = TypeVar("_T")
_METADATA = "__metadata__"

_SEGMENT_BYTES = 1 << 14
_MOST_SEGMENT_BYTES = 1 << 17  # of one tensor's description, or of all metadata
# With bounds: any number of spaces would make the search quadratic, and the file comes from an unknown machine.
_BOUNDARY = re.compile(rb"\}[ \t\r\n]{0,16},[ \t\r\n]{0,64}(?=\")")
_SPACE = b" \t\r\n"
_TURN = 64  # tensors between two chances for other threads
_ENTRY = frozenset({"dtype", "shape", "data_offsets"})
_MOST_DIMENSIONS = 4  # a convolution's
_SCALARS: tuple[list[int], list[int]] = ([], [1])  # an alpha's
# The largest whole number that every reader of JSON gives back exactly.
_LARGEST_NUMBER = 2**53
_NOT_PLAIN = (b"\\", b" :", b"\t:", b"\n:", b"\r:")


@attrs.frozen(kw_only=True)
class TensorInfo:
    """What a safetensors header says about one tensor.

    Attributes:
        dtype: "F32", "F16" or "BF16".
        shape: Sizes of its 2 or 4 dimensions, each >= 1; () or (1,) for an alpha.
        offset_bytes: Where its bytes begin, counted from the end of the header.
        size_bytes: How many they are.
    """

    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    size_bytes: int

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@attrs.frozen(kw_only=True)
class Header:
    """What stands in front of the numbers.

    Attributes:
        tensors: The tensors by name, in the order of their bytes; unchangeable.
        metadata: The texts that whoever wrote the file put there, by key; unchangeable.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def header_length(prefix: bytes, file_bytes: int, most_bytes: int) -> int:
    """Return the length of the JSON that the first 8 bytes announce.

    Args:
        prefix: The first 8 bytes of the file.
        file_bytes: Size of the whole file.
        most_bytes: The longest JSON that is accepted.

    Returns:
        Bytes of JSON, >= 2.

    Raises:
        ValueError: When the JSON would be longer than accepted or than the file.
    """
    length = int.from_bytes(prefix, "little")
    # ``{}`` is the shortest object.
    if not 2 <= length <= min(most_bytes, file_bytes - LENGTH_BYTES):
        raise ValueError(
            f"the safetensors header says it is {length} bytes long, in a file of {file_bytes} bytes; "
            f"at most {most_bytes} are accepted"
        )
    return length


def parse_header(raw: bytes, data_bytes: int, most_tensors: int) -> Header:
    """Read and check a header.

    Args:
        raw: The JSON.
        data_bytes: Bytes in the file after the JSON.
        most_tensors: How many tensors are accepted.

    Returns:
        The header.

    Raises:
        ValueError: When it is not JSON, or not a header that describes exactly these bytes.
        RecursionError: When the JSON is nested too deeply.
    """
    metadata: Mapping[str, str] | None = None
    tensors: dict[str, TensorInfo] = {}
    for segment in giving_way(_segments(raw), turn=1):
        for name, entry in giving_way(_decode(segment).items()):
            if name in tensors or (name == _METADATA and metadata is not None):
                raise ValueError("a name appears twice in the safetensors header")
            if name == _METADATA:
                metadata = _checked_metadata(entry)
            else:
                tensors[name] = _parse_tensor(name, entry)
        # At once: a header of a million names is not read to its end.
        if len(tensors) > most_tensors:
            break
    if not 1 <= len(tensors) <= most_tensors:
        raise ValueError(f"the safetensors header names {len(tensors)} tensors; 1 to {most_tensors} are accepted")
    return Header(tensors=_in_order(tensors, data_bytes), metadata=MappingProxyType(metadata or {}))


def _in_order(tensors: Mapping[str, TensorInfo], data_bytes: int) -> Mapping[str, TensorInfo]:
    """Return the tensors in the order of their bytes, which they must cover without gap or overlap."""
    ordered = sorted(tensors.items(), key=lambda item: item[1].offset_bytes)
    end = 0
    for name, info in ordered:
        if info.offset_bytes != end:
            raise ValueError(f"the tensor {name[:200]!r} begins at byte {info.offset_bytes} in place of {end}")
        end += info.size_bytes
    if end != data_bytes:
        raise ValueError(f"the tensors take {end} bytes and {data_bytes} are there")
    return MappingProxyType(dict(ordered))


def _segments(raw: bytes) -> Iterator[bytes]:
    """Cut a JSON object into several, each with some of its keys.

    Wherever it is cut: when each piece is a JSON object, so is the whole, and it means all of them together.
    """
    body = raw.rstrip(_SPACE)
    if not body.startswith(b"{") or not body.endswith(b"}"):
        raise ValueError("the safetensors header is not a JSON object")
    begin, end = 1, len(body) - 1
    while begin < end:
        latest = min(begin + _MOST_SEGMENT_BYTES, end)
        found = _BOUNDARY.search(body, min(begin + _SEGMENT_BYTES, latest), latest)
        if found is None and latest < end:
            raise ValueError(
                f"the safetensors header has over {_MOST_SEGMENT_BYTES} bytes in one piece, metadata or a tensor"
            )
        stop, following = (found.start() + 1, found.end()) if found else (end, end)
        yield b"{%b}" % body[begin:stop]
        begin = following


def _decode(raw: bytes) -> dict[str, Any]:
    hooks: dict[str, Any] = {"parse_float": _no_float, "parse_constant": _no_float}
    try:
        text = raw.decode("utf-8")
        # Without the other two hooks it takes a tenth of the time; what goes wrong then is for them to explain.
        with contextlib.suppress(ValueError):
            if _has_no_twins(raw, value := json.loads(text, **hooks)):
                return cast("dict[str, Any]", value)
        return cast("dict[str, Any]", json.loads(text, object_pairs_hook=_unique, parse_int=_small_int, **hooks))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"the safetensors header is not JSON: {error}") from error


def _has_no_twins(raw: bytes, value: object) -> bool:
    """Whether certainly no key stands twice in the JSON: it has no escapes and no space before a colon.

    Then each quote begins or ends a text and each key ends in ``":``, so a key that stands twice makes more of these
    than there are keys. Every header that a node writes is such a one.
    """
    return not any(sign in raw for sign in _NOT_PLAIN) and _count_keys(value) == raw.count(b'":')


def _count_keys(value: object) -> int:
    if not isinstance(value, dict):
        return 0
    return len(value) + sum(len(inner) for inner in value.values() if isinstance(inner, dict))


def giving_way(items: Iterable[_T], *, turn: int = _TURN) -> Iterator[_T]:
    """Yield ``items`` and let other threads run in between.

    A thread that computes keeps the interpreter for 5 ms, and an event loop beside it waits as long for it after each
    of its own system calls. Headers are read in threads, many at once. Source: sys.setswitchinterval.

    Args:
        items: What is worked on.
        turn: How many of them at a time, >= 1.
    """
    for index, item in enumerate(items):
        if index % turn == turn - 1:
            time.sleep(0)
        yield item


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice in the safetensors header")
    return result


def _small_int(text: str) -> int:
    # Measured before it is converted: int() takes quadratic time for long texts.
    if len(text) > 16 or int(text) > _LARGEST_NUMBER:
        raise ValueError("the safetensors header holds a number that no file can have")
    return int(text)


def _no_float(_: str) -> NoReturn:
    raise ValueError("the safetensors header holds a number that is not whole")


def _checked_metadata(metadata: object) -> Mapping[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("the safetensors metadata is not a map of texts")
    return metadata


def _parse_tensor(name: str, entry: object) -> TensorInfo:
    try:
        return _tensor(entry)
    except ValueError as error:
        raise ValueError(f"the tensor {name[:200]!r} {error}") from None


def _tensor(entry: object) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != _ENTRY:
        raise ValueError("is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise ValueError(f"has a dtype in which no LoRA is trained; known are {', '.join(WIDTHS)}")
    if not _is_sizes(shape) or (shape not in _SCALARS and (len(shape) not in (2, _MOST_DIMENSIONS) or min(shape) < 1)):
        raise ValueError("has a shape that no LoRA has")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise ValueError("does not say where its bytes begin and end")
    size = math.prod(shape) * WIDTHS[dtype]
    if offsets[1] - offsets[0] != size:
        raise ValueError(f"has {offsets[1] - offsets[0]} bytes where its shape needs {size}")
    return TensorInfo(dtype=dtype, shape=tuple(shape), offset_bytes=offsets[0], size_bytes=size)


def _is_sizes(value: object) -> bool:
    if not isinstance(value, list):
        return False
    # A loop: it takes a third of what a set of the types does, and a header has hundreds of these.
    for number in value:
        # type() and not isinstance(): true is an int to Python, and no size.
        if type(number) is not int:
            return False
    if max(value, default=0) > _LARGEST_NUMBER:
        raise ValueError("holds a number that no file can have")
    return min(value, default=0) >= 0


def dump_header(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Write a header; the same arguments always give the same bytes.

    Args:
        tensors: The tensors by name, in the order of their bytes.
        metadata: Texts to put in front.

    Returns:
        The file's beginning: 8 bytes and the JSON, padded with spaces to a multiple of 8.

    Raises:
        ValueError: When it is longer than any program reads, or a text cannot be written as UTF-8.
    """
    entries = [_dump(_METADATA, dict(sorted(metadata.items())))]
    for name, info in giving_way(tensors.items()):
        offsets = [info.offset_bytes, info.offset_bytes + info.size_bytes]
        entries.append(_dump(name, {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": offsets}))
    raw = f"{{{','.join(entries)}}}".encode()
    # The format's own library aligns the numbers likewise, so that they can be mapped into memory.
    raw += b" " * (-len(raw) % LENGTH_BYTES)
    if len(raw) > MOST_HEADER_BYTES:
        raise ValueError(f"the header would be {len(raw)} bytes long, and {MOST_HEADER_BYTES} are read at most")
    return len(raw).to_bytes(LENGTH_BYTES, "little") + raw


def _dump(name: str, value: object) -> str:
    key, text = (json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in (name, value))
    return f"{key}:{text}"
