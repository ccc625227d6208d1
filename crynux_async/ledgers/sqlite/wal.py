"""Reads how much of a SQLite write-ahead log was written, to tell what of it a recovery has dropped.

Source: the WAL file format, sqlite.org/fileformat2.html section 4: a header of 32 bytes with the page size and two
salts, then frames, each a header of 24 bytes (salts included) and a page. Frames with other salts are from before the
log was last begun anew.
"""

from pathlib import Path

import attrs

from crynux_async.values import Value

_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_SALTS = slice(8, 16)
_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")


@attrs.frozen(kw_only=True)
class WrittenFrames(Value):
    """What a write-ahead log holds since it was last begun anew.

    Attributes:
        salts: What tells this log from the one before; b"" where there is none.
        whole: Frames that are there whole, committed or not.
        torn_bytes: Bytes of one more frame that ends too early; where there is none at all, of the header before it.
    """

    salts: bytes = b""
    whole: int = 0
    torn_bytes: int = 0


def read_frames(log: Path) -> WrittenFrames:
    """Return what was written to a log; nothing where there is none.

    Raises:
        OSError: It cannot be read.
    """
    if not log.exists():
        return WrittenFrames()
    with log.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
            return WrittenFrames(torn_bytes=len(header))
        # Source: sqlite.org/fileformat2.html, section 4.1.
        page_bytes, salts, whole = int.from_bytes(header[8:12]), header[16:24], 0
        while len(frame := file.read(_FRAME_HEADER_BYTES)) == _FRAME_HEADER_BYTES and frame[_SALTS] == salts:
            page = file.read(page_bytes)
            if len(page) < page_bytes:
                return WrittenFrames(salts=salts, whole=whole, torn_bytes=_FRAME_HEADER_BYTES + len(page))
            whole += 1
    torn = len(frame) if len(frame) < _FRAME_HEADER_BYTES else 0
    if whole == 0 and not frame:  # the header is written with the first frame, so that one was begun
        torn = _HEADER_BYTES
    return WrittenFrames(salts=salts, whole=whole, torn_bytes=torn)
