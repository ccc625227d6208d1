"""Validation images that nobody has painted: a gradient that follows from a text, as PNG.

Source: W3C PNG (third edition), 5 and 11.2 (signature, IHDR, IDAT, IEND; 8-bit true colour, filter 0).
"""

import hashlib
import struct
import zlib

SIDE = 64
"""Pixels of an image in each direction."""

_HASH_DIGITS = 16


def picture(subject: str) -> bytes:
    """Return an image that follows from ``subject``, as PNG."""
    digest = hashlib.sha256(subject.encode()).digest()
    rows = bytearray()
    for y in range(SIDE):
        rows.append(0)
        for x in range(SIDE):
            rows += bytes((_shade(digest[0], digest[3], x), _shade(digest[1], digest[4], y), _shade(digest[2], x, y)))
    header = struct.pack(">2I5B", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(rows))) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def score(subjects: list[str]) -> str:
    """Return the score of a node for images: one hash of eight bytes for each, hexadecimal with 0x."""
    # No perceptual hash: equal for equal subjects, and far apart for others, is all that groups look at.
    return "0x" + "".join(hashlib.sha256(subject.encode()).hexdigest()[:_HASH_DIGITS] for subject in subjects)


def _shade(base: int, slope: int, position: int) -> int:
    return (base + slope % 5 * position) % 256


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
