"""Which archives a node extracts, told by name and by the first bytes.

Source: stable-diffusion-task download_url_dataset.py (download_dataset_from_url, _extract_if_compressed,
_detect_file_type_by_magic_number).
"""

import bz2
import lzma
import zlib
from typing import Final

ENDINGS: Final = (".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz")
"""The endings that a node extracts, in any case of letters."""

SHORT_ENDINGS: Final = (".tgz", ".tbz2", ".tbz", ".txz")
"""Tar archives by content that a node does not recognise by name."""

MAGIC: Final = (
    (b"PK\x03\x04", ".zip"),
    (b"\x1f\x8b", ".gz"),
    (b"BZ", ".bz2"),
    (b"\xfd7zXZ\x00", ".xz"),
    (b"7z\xbc\xaf\x27\x1c", ".7z"),
    (b"Rar!\x1a\x07", ".rar"),
)

_TAR_MAGIC: Final = slice(257, 263)
_BLOCK: Final = 512


def ending_of(name: str) -> str:
    """The ending by which a node extracts a file, or ``""`` when it does not."""
    lower = name.lower()
    return max((ending for ending in ENDINGS if lower.endswith(ending)), key=len, default="")


def compression_of(head: bytes) -> str:
    """What the first bytes of a file say: ``.zip``, ``.gz``, ``.bz2``, ``.xz``, ``.7z``, ``.rar`` or ``""``."""
    return next((ending for magic, ending in MAGIC if head.startswith(magic)), "")


def is_tar(head: bytes) -> bool:
    """Whether the first block of a file (512 bytes) is a tar header."""
    return head[_TAR_MAGIC] in {b"ustar\x00", b"ustar "}


def holds_tar(head: bytes, compression: str) -> bool | None:
    """Whether compressed bytes begin with a tar header.

    Args:
        head: The beginning of the file.
        compression: ``.gz``, ``.bz2`` or ``.xz``.

    Returns:
        None when ``head`` is too short to tell: bzip2 gives nothing before its first block (up to 900 kB) is complete.
    """
    try:
        block = _first_block(head, compression)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        return False
    return is_tar(block) if len(block) >= _BLOCK else None


def _first_block(head: bytes, compression: str) -> bytes:
    if compression == ".gz":
        # 31: with gzip's own header in front.
        return zlib.decompressobj(wbits=31).decompress(head, _BLOCK)
    if compression == ".bz2":
        return bz2.BZ2Decompressor().decompress(head, _BLOCK)
    # A header of a few bytes may ask for gigabytes of dictionary.
    return lzma.LZMADecompressor(memlimit=1 << 28).decompress(head, _BLOCK)
