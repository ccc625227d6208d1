"""A ZIP file written in one go, in pieces, with chosen compression.

Python's zipfile cannot be told to use Huffman coding only, which packs float weights as well as the full search does
and three times as fast.

Source: PKWARE APPNOTE.TXT 4.3 (no ZIP64: members and archive stay below 4 GiB).
"""

import struct
import zlib
from collections.abc import Generator, Iterable, Iterator
from typing import BinaryIO

import attrs

LARGEST = 2**32 - 2**20
"""Bytes that the members of an archive may have together."""

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION = 20
_UNIX = 3 << 8
_REGULAR = 0o100000
# 2026-01-01 00:00:00: one date for all, so that equal jobs have equal archives.
_DATE = ((2026 - 1980) << 9) | (1 << 5) | 1


@attrs.frozen(kw_only=True)
class Member:
    """One file of the archive.

    Attributes:
        name: Its name, ASCII.
        pieces: Its contents.
        mode: Its Unix permissions.
        is_stored: Whether it is left uncompressed.
    """

    name: str
    pieces: Iterable[bytes]
    mode: int = 0o644
    is_stored: bool = False


def write_zip(file: BinaryIO, members: Iterable[Member]) -> Iterator[None]:
    """Write an archive of regular files, yielding after each piece so that the caller can do other things.

    Args:
        file: An empty, seekable file.
        members: Its files, in order.
    """
    directory = []
    for member in members:
        offset = file.tell()
        # Written once more below: a node's archive has sizes in front, and they are known at the end.
        file.write(_local(member, 0, 0, 0))
        size, packed, checksum = yield from _write_contents(file, member)
        end = file.tell()
        file.seek(offset)
        file.write(_local(member, checksum, packed, size))
        file.seek(end)
        directory.append(_central(member, checksum, packed, size, offset))
    start = file.tell()
    file.write(b"".join(directory))
    length = file.tell() - start
    file.write(_END.pack(b"PK\x05\x06", 0, 0, len(directory), len(directory), length, start, 0))


def _write_contents(file: BinaryIO, member: Member) -> Generator[None, None, tuple[int, int, int]]:
    size = checksum = 0
    start = file.tell()
    packer = zlib.compressobj(level=1, wbits=-15, strategy=zlib.Z_HUFFMAN_ONLY)
    last, packed = b"", b""
    for piece in member.pieces:
        size += len(piece)
        checksum = zlib.crc32(piece, checksum)
        if member.is_stored:
            packed = piece
        elif piece is not last:
            # After a full flush nothing depends on what came before: the same piece packs to the same bytes.
            last, packed = piece, packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
        file.write(packed)
        yield
    if not member.is_stored:
        file.write(packer.flush())
    return size, file.tell() - start, checksum


def _fields(member: Member, checksum: int, packed: int, size: int) -> tuple[int, ...]:
    method = 0 if member.is_stored else 8
    return 0, method, 0, _DATE, checksum, packed, size, len(member.name)


def _local(member: Member, checksum: int, packed: int, size: int) -> bytes:
    fields = _fields(member, checksum, packed, size)
    return _LOCAL.pack(b"PK\x03\x04", _VERSION, *fields, 0) + member.name.encode()


def _central(member: Member, checksum: int, packed: int, size: int, offset: int) -> bytes:
    fields = _fields(member, checksum, packed, size)
    attributes = (_REGULAR | member.mode) << 16
    head = _CENTRAL.pack(b"PK\x01\x02", _UNIX | _VERSION, _VERSION, *fields, 0, 0, 0, 0, attributes, offset)
    return head + member.name.encode()
