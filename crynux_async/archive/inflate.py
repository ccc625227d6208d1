"""The fastest inflate and CRC-32 that are installed: zlib-ng (extra ``speed``), or Python's own zlib.

Both read and refuse the same bytes; zlib-ng takes about two thirds of the time. An inflater is copied where a reader
goes on from the middle of a member, which isal, as fast, cannot do.
"""

import zlib
from typing import Final, Protocol, Self

try:
    from zlib_ng import zlib_ng as _fastest
except ImportError:
    _fastest = zlib  # type: ignore[misc]  # it has all of the names below

INFLATE_ERRORS: Final[tuple[type[Exception], ...]] = (zlib.error, _fastest.error)  # type: ignore[assignment]
"""What is raised where packed bytes are damaged."""

crc32 = _fastest.crc32


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


def new_inflater() -> Inflater:
    """Return what unpacks a member of a ZIP: deflate without zlib's header."""
    found: Inflater = _fastest.decompressobj(-zlib.MAX_WBITS)  # type: ignore[assignment]
    return found
