"""Deflated bytes unpacked from the middle on, so that several threads unpack one member.

Theory of operation
-------------------
Deflated bytes are a row of blocks. A block may begin at any bit, and nothing marks it; but where one begins, all that
unpacking depends on is the 32 KiB that came out before, its *window*. So a place in the middle is looked for that reads
as the beginning of a block, and from there two inflaters go on whose made-up windows differ in every byte. What is
copied from the window, at once or as a copy of a copy, differs between the two; where both have given out the same 32
KiB, nothing depends on the window any more, and one of them goes on alone. What it gave out before, its *lead*, is
unpacked once more when the true window is known.

Whether a block really begins there, only an inflater can tell that came there from the beginning. It is shown other
bits in place of what follows: an empty last block, and once more a last block of random bytes, stored as they are.
Where a block begins, the one ends it, and the other makes it give out those very bytes and ends it, too; in the middle
of a header, a symbol or padding one of them does not. So what comes of a cut is what one inflater would give out, or
nothing.

Source: RFC 1951, section 3.2; Kerbiriou and Chikhi, "Parallel decompression of gzip-compressed files and random access
to DNA sequences" (2019), which finds blocks likewise.
"""

import contextlib
import io
import os
import re
import struct
from collections.abc import Iterator
from typing import Final

import attrs

from crynux_async.archive.inflate import INFLATE_ERRORS, Inflater, new_inflater, unpacked
from crynux_async.archive.safetensors import giving_way
from crynux_async.archive.zip_members import read_at

WINDOW_BYTES: Final = 32 * 1024
"""As far back as deflate copies from."""

SEARCHED_BYTES: Final = 160 * 1024
"""Within so many bytes a beginning is looked for: ten blocks as zlib makes them, and half of those are found."""

_LEAD_BYTES = 1024 * 1024
_PIECE_BYTES = 64 * 1024
_RANDOM_BYTES = 16
_WINDOWS = bytes(WINDOW_BYTES), b"\xff" * WINDOW_BYTES

# An empty block with the codes that need no words: the bits 0, 1, 0, and seven for its end. So many of them, of ten
# bits each, end before an even bit of a byte.
_EMPTY_BLOCK, _EMPTY_BITS = 0b010, 10
_EMPTY_BLOCKS = {0: 0, 2: 1, 4: 2, 6: 3}

# A block that is not the last one and brings its own codes: the bits 0, 0, 1; then at most 30 more literal codes and
# distance codes each, of which 32 could be written. Looked at behind every second bit: see above.
_HEADER = re.compile(
    b"(?=[%s][%s])"
    % tuple(
        b"".join(b"\\x%02x" % byte for byte in found)
        for found in (
            [byte for byte in range(256) if byte & 7 == 4 and byte >> 3 < 30],
            [byte for byte in range(256) if byte & 31 < 30],
        )
    )
)
_HEADER_BYTES = 10  # of its first part: 17 bits, and 19 lengths of 3 bits
_SEARCH_STEP = 4096
# How much of all codes four code lengths take, in 128ths.
_SHARES = tuple(sum(128 >> length for shift in (0, 3, 6, 9) if (length := group >> shift & 7)) for group in range(4096))


@attrs.frozen(kw_only=True)
class Cut:
    """A place that reads as the beginning of a block.

    Attributes:
        index: The byte of it, counted from the first that were searched.
        bit: The bit in that byte, even.
    """

    index: int
    bit: int


def possible_cuts(data: bytes) -> Iterator[Cut]:
    """Yield places where a block may begin, by its first bits; about one of a hundred does.

    Args:
        data: Deflated bytes from any place on.
    """
    for start in giving_way(range(0, len(data) - _HEADER_BYTES, _SEARCH_STEP), turn=1):
        searched = data[start : start + _SEARCH_STEP + _HEADER_BYTES]
        number = int.from_bytes(searched, "little")
        found = []
        for bit in range(0, 8, 2):
            shifted = (number >> bit).to_bytes(len(searched), "little")
            for match in _HEADER.finditer(shifted, 0, len(shifted) - _HEADER_BYTES):
                index = match.start()
                if _has_whole_code(int.from_bytes(shifted[index + 1 : index + _HEADER_BYTES], "little")):
                    found.append((start + index, bit))
        for index, bit in sorted(found):
            yield Cut(index=index, bit=bit)


def _has_whole_code(bits: int) -> bool:
    """Whether the lengths of the first code, behind eight bits, leave none of its bits without a meaning."""
    count = (bits >> 5 & 15) + 4
    lengths = bits >> 9 & (1 << 3 * count) - 1
    share = 0
    while lengths:
        share += _SHARES[lengths & 4095]
        lengths >>= 12
    return share == 128


@attrs.frozen(kw_only=True)
class Ahead:
    """An inflater that began at a cut, and whose window is right whatever came before.

    Attributes:
        offset_bytes: Where in the file the byte with the cut is.
        bit: The bit in that byte.
        lead_bytes: What it gave out until then and is not right yet.
        window: The last 32 KiB of that, which are right.
        inflater: What goes on.
        pending: Packed bytes that it has not looked at.
        source_bytes: Where in the file those behind them are.
    """

    offset_bytes: int
    bit: int
    lead_bytes: int
    window: bytes
    inflater: Inflater
    pending: bytes
    source_bytes: int


def unpack_ahead(file: io.FileIO, begin: int, end: int) -> Ahead | None:
    """Find a cut, and unpack from there until the window is right.

    Args:
        file: Where the packed bytes are.
        begin: From where on to look for the cut.
        end: Where the packed bytes end.

    Returns:
        What goes on, or None where there is none.

    Raises:
        OSError: The file cannot be read.
        ValueError: It ends before.
    """
    searched = read_at(file, begin, min(SEARCHED_BYTES, end - begin))
    for cut in possible_cuts(searched):
        with contextlib.suppress(*INFLATE_ERRORS):
            ahead = _unpack_lead(file, begin, end, searched, cut)
            if ahead is not None:
                return ahead
    return None


def _unpack_lead(file: io.FileIO, begin: int, end: int, searched: bytes, cut: Cut) -> Ahead | None:
    one, other = map(new_inflater, _WINDOWS)
    window, twin = _WINDOWS
    lead, source = 0, begin + len(searched)
    packed = _from_bit(searched[cut.index :], cut.bit)
    while lead < _LEAD_BYTES:
        # Both read the same codes, so their pieces are of one length.
        for right, left in zip(unpacked(one, packed, _PIECE_BYTES), unpacked(other, packed, _PIECE_BYTES), strict=True):
            lead += len(right)
            window, twin = (window + right)[-WINDOW_BYTES:], (twin + left)[-WINDOW_BYTES:]
            if window == twin and not one.eof:
                return Ahead(
                    offset_bytes=begin + cut.index,
                    bit=cut.bit,
                    lead_bytes=lead,
                    window=window,
                    inflater=one,
                    pending=one.unconsumed_tail,
                    source_bytes=source,
                )
        if one.eof or source == end:
            break
        packed = read_at(file, source, min(_PIECE_BYTES, end - source))
        source += len(packed)
    return None


def unpack_lead(file: io.FileIO, ahead: Ahead, window: bytes) -> Iterator[bytes]:
    """Yield the lead of an inflater that began at a cut, as the true window has it.

    Args:
        file: Where the packed bytes are.
        ahead: That inflater.
        window: The 32 KiB before the cut.
    """
    inflater = new_inflater(window)
    left, source = ahead.lead_bytes, ahead.offset_bytes
    while left:
        packed = read_at(file, source, min(_PIECE_BYTES, ahead.source_bytes - source))
        if not packed:
            raise ValueError("another window makes it shorter")  # no window does: the codes are the same
        is_first = source == ahead.offset_bytes
        source += len(packed)
        packed = _from_bit(packed, ahead.bit) if is_first else packed
        while left and (piece := inflater.decompress(packed, min(left, _PIECE_BYTES))):
            left -= len(piece)
            packed = inflater.unconsumed_tail
            yield piece


def end_block(inflater: Inflater, byte: int, bit: int) -> bytes | None:
    """Tell whether a block begins at a bit, and return what the bits before it still give.

    Args:
        inflater: Has unpacked all before the byte, and is left as it is.
        byte: The one with that bit.
        bit: Which of its bits, even.

    Returns:
        What comes before the block; None where no block begins.
    """
    before = byte & (1 << bit) - 1
    # The last block, with the codes that need no words, and no more than its end.
    first = _ending(inflater, (before | 0b011 << bit).to_bytes(2, "little"))
    # The last block, stored as it is: padding up to the next byte, its length twice, and its bytes.
    random = os.urandom(_RANDOM_BYTES)
    header = (before | 0b001 << bit).to_bytes((bit + 10) // 8, "little")
    lengths = struct.pack("<2H", _RANDOM_BYTES, _RANDOM_BYTES ^ 0xFFFF)
    second = _ending(inflater, header + lengths + random)
    return first if first is not None and second == first + random else None


def _ending(inflater: Inflater, packed: bytes) -> bytes | None:
    """Return what a copy of the inflater makes of these bytes, if they are its last ones."""
    twin = inflater.copy()
    try:
        data = twin.decompress(packed, _PIECE_BYTES)
    except INFLATE_ERRORS:
        return None
    return data if twin.eof and not twin.unused_data else None


def _from_bit(packed: bytes, bit: int) -> bytes:
    """Return deflated bytes that begin at a bit of the first byte, as bytes that begin at their first bit."""
    count = _EMPTY_BLOCKS[bit]
    size = count * _EMPTY_BITS // 8
    front = sum(_EMPTY_BLOCK << index * _EMPTY_BITS for index in range(count))
    front |= (packed[0] >> bit << bit) << 8 * size
    return front.to_bytes(size + 1, "little") + packed[1:]
