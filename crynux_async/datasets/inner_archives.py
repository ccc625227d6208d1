"""Archives that lie inside a data set: only the names of what they hold are looked at, and those of a file itself.

Source: datasets 3.1.0 download/download_manager.py (download_and_extract), utils/extract.py (told by the first bytes)
and utils/file_utils.py (FilesIterable: nothing that begins with a dot or with two underscores).
"""

import tarfile
import zipfile
import zlib
from typing import IO, Final

from crynux_async.datasets.archives import compression_of, is_tar

ARCHIVE_EXTENSIONS: Final = frozenset((".zip", ".tar"))
"""The files that are looked into."""

_MOST_NAMES: Final = 200_000
_HEAD_BYTES: Final = 512
_DAMAGED: Final = (OSError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError, zlib.error)


def names_inside(file: IO[bytes]) -> tuple[str, ...] | None:
    """The files of an archive that the loader would go through.

    Args:
        file: The archive, a ZIP or a tar without compression; it can be read backwards.

    Returns:
        Their paths, in the archive's own order; nothing when it is no archive by its first bytes, and None when it
        begins like one and is damaged.
    """
    head = file.read(_HEAD_BYTES)
    if not compression_of(head) and not is_tar(head) and not zipfile.is_zipfile(file):
        return ()
    file.seek(0)
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
        else:
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:  # as it is: nothing is decompressed to any length
                names = [info.name for info in tar if info.isfile()]
    except _DAMAGED:
        return None
    return tuple(name for name in names[:_MOST_NAMES] if _is_gone_through(name))


def _is_gone_through(name: str) -> bool:
    return not any(part.startswith((".", "__")) for part in name.split("/"))
