import functools
import json
import math
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.archive import raw_numbers, safetensors
from tests.archive_files import DOWN, GOOD, UP, WEIGHTS, Raw, lora_bytes, pair, raw_zip, refuse


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    return functools.partial(refuse, tmp_path)


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return {**GOOD, name: {**GOOD[name], **fields}}


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({}, "names 0 tensors"),
        ([], "not a JSON object"),
        ({"__metadata__": {"format": "pt"}}, "names 0 tensors"),
        ({**GOOD, "__metadata__": {"format": 1}}, "not a map of texts"),
        ({**GOOD, "__metadata__": []}, "not a map of texts"),
        ({**GOOD, DOWN: 5}, "not described by"),
        ({**GOOD, DOWN: {"dtype": "F32", "shape": [2, 3]}}, "not described by"),
        (changed(DOWN, more=1), "not described by"),
        (changed(DOWN, dtype="F64"), "dtype"),
        (changed(DOWN, dtype=4), "dtype"),
        (changed(DOWN, dtype=["F32"]), "dtype"),
        (changed(DOWN, shape=[]), "shape"),
        (changed(DOWN, shape=[6]), "shape"),
        (changed(DOWN, shape=[2, 3, 1]), "shape"),
        (changed(DOWN, shape=[2, -3]), "shape"),
        (changed(DOWN, shape=[0, 3]), "shape"),
        (changed(DOWN, shape=[2, 3.0]), "not whole"),
        (changed(DOWN, shape=[2, True]), "shape"),
        (changed(DOWN, shape="23"), "shape"),
        (changed(DOWN, shape=[2, 4]), "24 bytes where its shape needs 32"),
        (changed(DOWN, shape=[2**52, 2**52]), "bytes where its shape needs"),
        (changed(DOWN, shape=[2**64, 3]), "number that no file can have"),
        (changed(DOWN, shape=[10**400, 3]), "number that no file can have"),
        (changed(DOWN, data_offsets=[0]), "where its bytes begin"),
        (changed(DOWN, data_offsets=None), "where its bytes begin"),
        (changed(DOWN, data_offsets=[24, 0]), "-24 bytes where"),
        (changed(DOWN, data_offsets=[8, 32]), "begins at byte"),
        (changed(UP, data_offsets=[16, 32]), "begins at byte 16 in place of 24"),
        (changed(UP, data_offsets=[25, 41]), "begins at byte 25 in place of 24"),
        ({DOWN: GOOD[DOWN]}, "take 24 bytes and 40 are there"),
        (
            {**GOOD, "unet.x.lora_A.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [40, 44]}},
            "44 bytes and 40",
        ),
        ({DOWN: GOOD[DOWN], "unet.x.lora_A.weight": GOOD[UP]}, "only one of their two tensors"),
        ({DOWN: GOOD[DOWN], "unet.conv_in.weight": GOOD[UP]}, "not part of a UNet LoRA"),
        ({DOWN: GOOD[DOWN], UP.replace("unet.", "text_encoder."): GOOD[UP]}, "not part of a UNet LoRA"),
        ({DOWN: GOOD[DOWN], UP.replace("to_q", "../to_q"): GOOD[UP]}, "not part of a UNet LoRA"),
        ({DOWN: GOOD[DOWN], UP.replace("to_q", "to_q.lora"): GOOD[UP]}, "not part of a UNet LoRA"),
        ({DOWN: GOOD[DOWN], UP.replace("to_q", "q" * 300): GOOD[UP]}, "not part of a UNet LoRA"),
        ({DOWN: GOOD[DOWN], DOWN.replace("lora.down", "lora_A"): GOOD[UP]}, "both naming styles"),
        ({**GOOD, DOWN: {**GOOD[DOWN], "shape": [3, 2]}}, "do not fit"),
        ({**GOOD, UP: {**GOOD[UP], "shape": [2, 2, 1, 1]}}, "do not fit"),
        ({**GOOD, UP: {**GOOD[UP], "dtype": "F16", "shape": [4, 2]}}, "dtypes of"),
    ],
)
def test_header_that_does_not_fit_its_bytes_is_refused(refused: Callable[..., str], header: Any, match: str) -> None:
    data = lora_bytes(pair(), header)
    refused(raw_zip(Raw(name=WEIGHTS.encode(), data=data)), match)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"{\xff\xfe}", "not JSON: .*utf-8"),
        (b"{ ", "not a JSON object"),
        (b"  ", "not a JSON object"),
        (b"{,}", "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b'{"a":{}},"b":{}}', "not JSON"),
        (b' {"a":1}', "not a JSON object"),
        (b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
        (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, "nested too deeply"),
        (b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", "bytes in one piece"),
        (b'{"a":"' + b"x" * 131_072 + b'"}', "bytes in one piece"),
        (b'{"a":1,"a":2}', "appears twice"),
        (b'{"a" :1,"a":2}', "appears twice"),
        (b'{"a"\t:1,"\\u0061":2}', "appears twice"),
        (b'{"a":{"b":1,"b":2}}', "appears twice"),
        (b'{"a":1,"a":{"dtype":1}}', "appears twice"),
        (b'{"__metadata__":{"\\"b":"c"},"a":1,"a":2}', "appears twice"),
        (b'{"a":NaN}', "not whole"),
        (b'{"a":1e999}', "not whole"),
        (b'{"a":' + b"9" * 10_000 + b"}", "number that no file can have"),
        (b"null", "not a JSON object"),
    ],
)
def test_header_that_is_no_plain_json_is_refused(refused: Callable[..., str], raw: bytes, match: str) -> None:
    data = len(raw).to_bytes(8, "little") + raw
    refused(raw_zip(Raw(name=WEIGHTS.encode(), data=data)), match)


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\0" * 8, b"\xff" * 8, (100).to_bytes(8, "little") + b"{}"])
def test_weights_shorter_than_their_header_are_refused(refused: Callable[..., str], data: bytes) -> None:
    refused(raw_zip(Raw(name=WEIGHTS.encode(), data=data)), "safetensors header says|holds .* bytes, and more")


@pytest.mark.parametrize("junk", [b"[],", b"{},", b'"",', b"0,", b"[[[]]],"])
def test_header_of_two_mebibytes_of_anything_is_refused_in_little_memory(
    refused: Callable[..., str], junk: bytes
) -> None:
    entry = b'"%d":[' + junk * (20_000 // len(junk)) + b"0]"
    raw = b"{" + b",".join(entry % number for number in range(100)) + b"}"
    data = len(raw).to_bytes(8, "little") + raw
    archive = raw_zip(Raw(name=WEIGHTS.encode(), data=data))
    tracemalloc.start()
    try:
        refused(archive, "not described by|bytes in one piece")
        assert tracemalloc.get_traced_memory()[1] < 24 * 2**20
    finally:
        tracemalloc.stop()


def header_of(count: int, *, space: str = "") -> bytes:
    """A header like a node's, with as many tensors, written with or without spaces."""
    tensors: dict[str, Any] = {"__metadata__": {"format": "pt", "note": 'ends in "},'}}
    for number in range(count):
        half = "lora_A" if number % 2 == 0 else "lora_B"
        offsets = [4 * number, 4 * number + 4]
        name = f"unet.down_blocks.{number // 2}.{half}.weight"
        tensors[name] = {"dtype": "F32", "shape": [1, 1], "data_offsets": offsets}
    return json.dumps(tensors, separators=(f",{space}", f":{space}")).encode()


@pytest.mark.parametrize("space", ["", " ", "\n  "])
@pytest.mark.parametrize("count", [2, 256, 1000, 8192])
def test_header_of_any_length_is_read_whole_and_in_order(space: str, count: int) -> None:
    raw = header_of(count, space=space)
    header = safetensors.parse_header(raw + b" " * 7, 4 * count, 8192)
    assert len(header.tensors) == count
    assert [info.offset_bytes for info in header.tensors.values()] == list(range(0, 4 * count, 4))
    assert header.metadata == {"format": "pt", "note": 'ends in "},'}


@pytest.mark.parametrize("count", [2, 1000])
def test_name_that_stands_twice_is_seen_however_far_apart(count: int) -> None:
    raw = header_of(count)
    first = raw[raw.index(b'"unet') : raw.index(b"}", raw.index(b'"unet')) + 1]
    for twice in (first, b'"__metadata__":{"format":"pt"}'):
        with pytest.raises(ValueError, match="appears twice"):
            safetensors.parse_header(raw[:-1] + b"," + twice + b"}", 4 * count, 8192)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_header_with_anything_changed_is_refused_or_means_what_json_says(data: st.DataObject) -> None:
    raw = bytearray(header_of(300))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"", b"}", b",", b'"', b"},", b"{"])
        )
    try:
        header = safetensors.parse_header(bytes(raw), 1200, 8192)
    except ValueError:
        return
    meant = json.loads(raw)
    meant.pop("__metadata__", None)
    assert header.tensors.keys() == meant.keys()
    for name, info in header.tensors.items():
        assert [info.offset_bytes, info.offset_bytes + info.size_bytes] == meant[name]["data_offsets"]


PATTERNS = {
    "F32": [struct.pack("<L", high << 16 | low) for high in range(0, 65536, 64) for low in (0, 1, 0x8000)]
    + [struct.pack("<L", high << 16) for high in (0x7F7F, 0x7F80, 0x7F81, 0xFF7F, 0xFF80, 0xFFC0)],
    "F16": [struct.pack("<H", bits) for bits in range(65536)],
    "BF16": [struct.pack("<H", bits) for bits in range(65536)],
}


def numbers(dtype: str) -> Iterator[tuple[bytes, float]]:
    for data in PATTERNS[dtype]:
        wide = b"\0\0" + data if dtype == "BF16" else data
        yield data, struct.unpack("<e" if dtype == "F16" else "<f", wide)[0]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_count_not_finite_agrees_with_math_on_every_pattern(dtype: str) -> None:
    for data, number in numbers(dtype):
        assert raw_numbers.count_not_finite(data, dtype) == (math.isnan(number), math.isinf(number))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_is_zero_agrees_with_equality_on_every_pattern(dtype: str) -> None:
    for data, number in numbers(dtype):
        assert raw_numbers.is_zero(data, dtype) == (number == 0)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_count_not_finite_counts_over_many_numbers(dtype: str) -> None:
    everything = list(numbers(dtype))
    random.Random(3).shuffle(everything)
    nan = sum(math.isnan(number) for _, number in everything)
    inf = sum(math.isinf(number) for _, number in everything)
    assert raw_numbers.count_not_finite(b"".join(data for data, _ in everything), dtype) == (nan, inf)
