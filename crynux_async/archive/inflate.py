"""The fastest inflate and CRC-32 that are installed: zlib-ng (extra ``speed``), or Python's own zlib.

Both read and refuse the same bytes; zlib-ng takes about two thirds of the time. An inflater is copied where a reader
goes on from the middle of a member, which isal, as fast, cannot do.
"""

import zlib
from collections.abc import Iterator
from typing import Final, Protocol, Self

try:
    from zlib_ng import zlib_ng as _fastest
except ImportError:
    _fastest = zlib  # type: ignore[misc]  # it has all of the names below

INFLATE_ERRORS: Final[tuple[type[Exception], ...]] = (zlib.error, _fastest.error)  # type: ignore[assignment]
"""What is raised where packed bytes are damaged."""

crc32 = _fastest.crc32
_POLYNOMIAL = 0xEDB88320  # of CRC-32, the lowest coefficient first


def is_out_of_memory(error: Exception) -> bool:
    """Whether one of INFLATE_ERRORS says nothing of the bytes: there was no memory for their window.

    Source: zlib.h, Z_MEM_ERROR.
    """
    return str(error).startswith("Error -4 ")


class Inflater(Protocol):
    """Unpacks deflated bytes, as zlib's own object does."""

    @property
    def eof(self) -> bool:
        """Whether the end of the packed bytes was seen."""

    @property
    def unconsumed_tail(self) -> bytes:
        """What was given and not looked at, because enough was unpacked."""

    @property
    def unused_data(self) -> bytes:
        """What was given and lies behind the end."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return what ``data`` unpacks to, at most ``max_length`` bytes of it."""

    def copy(self) -> Self:
        """Return another one that is as far as this one, and goes on by itself."""


def new_inflater(window: bytes | None = None) -> Inflater:
    """Return what unpacks a member of a ZIP: deflate without zlib's header.

    Args:
        window: What came before the packed bytes, at most 32 KiB; None at the beginning of a member.
    """
    dictionary = {} if window is None else {"zdict": window}
    found: Inflater = _fastest.decompressobj(-zlib.MAX_WBITS, **dictionary)  # type: ignore[assignment]
    return found


def unpacked(inflater: Inflater, packed: bytes, piece_bytes: int) -> Iterator[bytes]:
    """Yield what ``packed`` unpacks to, in pieces of at most ``piece_bytes``, all of them full but the last.

    Whoever leaves early finds what was not looked at in ``unconsumed_tail``.
    """
    while True:
        piece = inflater.decompress(packed, piece_bytes)
        if piece:
            yield piece
        if len(piece) < piece_bytes or inflater.eof:
            return
        packed = inflater.unconsumed_tail


def joined_crc32(first: int, second: int, second_bytes: int) -> int:
    """Return the CRC-32 of two rows of bytes, one behind the other, from the CRC-32 of each.

    Args:
        first: Of the first row.
        second: Of the second.
        second_bytes: How long the second is.
    """
    # Bytes that follow multiply a CRC by x^8 each, modulo the CRC's polynomial.
    factor, power = 1 << 31, 1 << 23
    while second_bytes:
        if second_bytes & 1:
            factor = _times(factor, power)
        power = _times(power, power)
        second_bytes >>= 1
    return _times(factor, first) ^ second


def _times(one: int, other: int) -> int:
    """Multiply two polynomials modulo that of CRC-32; the highest bit is the coefficient of 1."""
    product = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            product ^= other
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return product
