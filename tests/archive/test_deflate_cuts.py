"""Deflated bytes that are unpacked from the middle on: the same bytes as from the beginning, or none."""

import functools
import itertools
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.archive import deflate_cuts
from crynux_async.archive.deflate_cuts import WINDOW_BYTES, Ahead, end_block, unpack_ahead, unpack_lead
from crynux_async.archive.inflate import joined_crc32, new_inflater, unpacked
from crynux_async.archive.zip_members import open_regular


@functools.cache
def numbers(count: int, seed: int = 1) -> bytes:
    """Numbers as in weights: float32, small, and a few of them again."""
    noise = random.Random(seed)
    drawn = [noise.gauss(0, 0.02) for _ in range(count)]
    return struct.pack(f"<{count}f", *drawn[: count - count // 8], *drawn[: count // 8])


def deflated(data: bytes, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return packer.compress(data) + packer.flush()


@pytest.fixture(params=["zlib", "whatever is installed"])
def inflating(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_zlib(window: bytes | None = None) -> Any:
        return zlib.decompressobj(-zlib.MAX_WBITS, **({} if window is None else {"zdict": window}))

    if request.param == "zlib":
        monkeypatch.setattr(deflate_cuts, "new_inflater", with_zlib)


def ahead_from(path: Path, packed: bytes, begin: int, end: int | None = None) -> Ahead | None:
    path.write_bytes(b"before" + packed + b"behind")
    with open_regular(path) as file:
        return unpack_ahead(file, begin + 6, (len(packed) if end is None else end) + 6)


def rest_of(ahead: Ahead, packed: bytes) -> bytes:
    """What comes out behind the lead."""
    given_out = [*unpacked(ahead.inflater, ahead.pending, 5000)]
    given_out += unpacked(ahead.inflater, packed[ahead.source_bytes - 6 :], 5000)
    assert ahead.inflater.eof
    return b"".join(given_out)


@pytest.mark.usefixtures("inflating")
@pytest.mark.parametrize(
    ("level", "strategy"),
    [(1, zlib.Z_HUFFMAN_ONLY), (1, zlib.Z_DEFAULT_STRATEGY), (6, zlib.Z_DEFAULT_STRATEGY), (9, zlib.Z_FILTERED)],
)
def test_unpacking_from_the_middle_gives_the_same_bytes(tmp_path: Path, level: int, strategy: int) -> None:
    data = numbers(250_000)
    packed = deflated(data, level, strategy)
    for begin in range(40_000, len(packed) - 400_000, 70_001):
        ahead = ahead_from(tmp_path / "packed", packed, begin)
        assert ahead is not None
        rest = rest_of(ahead, packed)
        behind = len(data) - len(rest)
        assert data.endswith(rest)
        assert ahead.window == data[behind - WINDOW_BYTES : behind]

        before = behind - ahead.lead_bytes
        with open_regular(tmp_path / "packed") as file:
            lead = b"".join(unpack_lead(file, ahead, data[before - WINDOW_BYTES : before]))
        assert lead == data[before:behind]


@pytest.mark.usefixtures("inflating")
def test_only_where_a_block_begins_it_is_told_so(tmp_path: Path) -> None:
    data = numbers(250_000)
    packed = deflated(data)
    ahead = ahead_from(tmp_path / "packed", packed, 100_000)
    assert ahead is not None
    cut, before = ahead.offset_bytes - 6, len(data) - len(rest_of(ahead, packed)) - ahead.lead_bytes

    told = {}
    for index in range(cut - 40, cut + 40):
        inflater = deflate_cuts.new_inflater()
        out = b"".join(unpacked(inflater, packed[:index], 1 << 16))
        for bit in (0, 2, 4, 6):
            last = end_block(inflater, packed[index], bit)
            if last is not None:
                told[index, bit] = out + last
        # It is as it was: what really follows can be unpacked.
        assert inflater.decompress(packed[index:], 1 << 22).endswith(data[-1000:])

    assert told == {(cut, ahead.bit): data[:before]}


def test_padding_before_stored_bytes_is_no_beginning() -> None:
    # A last block that is stored: its three bits, and five that nobody reads.
    stored = b"\x01" + struct.pack("<2H", 3, 3 ^ 0xFFFF) + b"abc"
    assert end_block(new_inflater(), stored[0], 0) == b""
    assert end_block(new_inflater(), stored[0], 4) is None
    assert end_block(new_inflater(), stored[0], 6) is None


def test_end_of_a_symbol_that_any_bits_would_give_is_no_beginning() -> None:
    # A block of fixed codes: three bits, "a", "b", and its end, at bit 26. At every other place something is open.
    packed = deflated(b"ab", 6, zlib.Z_FIXED)
    ends = {}
    for index, bit in itertools.product(range(len(packed)), (0, 2, 4, 6)):
        inflater = new_inflater()
        inflater.decompress(packed[:index], 100)
        if not inflater.eof:
            ends[index, bit] = end_block(inflater, packed[index], bit)
    assert {place for place, last in ends.items() if last is not None} == {(0, 0)}


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(random.Random(3).randbytes(400_000), id="anything"),
        pytest.param(deflated(random.Random(4).randbytes(400_000)), id="stored blocks"),
        pytest.param(deflated(b"a word that comes again and again, " * 200_000), id="copies of copies"),
        pytest.param(bytes(400_000), id="zeros"),
        pytest.param(b"\x04" * 400_000, id="first bits of blocks"),
    ],
)
def test_where_nothing_is_right_nothing_is_told(tmp_path: Path, packed: bytes) -> None:
    assert ahead_from(tmp_path / "packed", packed, len(packed) // 3) is None


def test_what_lies_behind_the_end_is_not_read(tmp_path: Path) -> None:
    packed = deflated(numbers(250_000))
    ends = range(100_000, 400_000, 20_000)
    reached = {end: ahead_from(tmp_path / "packed", packed, 100_000, end) for end in ends}
    assert reached[100_000] is None
    found = {end: ahead.source_bytes - 6 for end, ahead in reached.items() if ahead is not None}
    assert found
    assert all(source <= end for end, source in found.items())


@given(st.binary(max_size=300), st.binary(max_size=3000))
def test_checksum_of_two_rows_is_that_of_both(first: bytes, second: bytes) -> None:
    assert joined_crc32(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_checksum_of_a_long_row_of_zeros() -> None:
    zeros, checksum = bytes(1 << 20), zlib.crc32(b"first")
    for _ in range(5):
        checksum = zlib.crc32(zeros, checksum)
    assert joined_crc32(zlib.crc32(b"first"), zlib.crc32(bytes(5 << 20)), 5 << 20) == checksum


@given(st.binary(max_size=5000), st.integers(1, 400))
def test_pieces_are_full_but_the_last(data: bytes, size: int) -> None:
    pieces = [*unpacked(new_inflater(), deflated(data), size)]
    assert b"".join(pieces) == data
    assert all(len(piece) == size for piece in pieces[:-1])
