"""Every layout in which Python's zipfile writes an archive is read; nodes use it, and so does everybody who repacks."""

import io
import itertools
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from crynux_async.archive import verify_archive
from crynux_async.errors import ArchiveError
from tests.archive_files import Raw, members, raw_zip, truth, write_zip

FILES = members()


class Pipe(io.RawIOBase):
    """Somewhere to write that cannot be gone back in, so that sizes follow the bytes."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)


def write(target: Any, how: str, method: int, *, force_zip64: bool, comment: bytes) -> None:
    with zipfile.ZipFile(target, "w", method) as archive:
        archive.comment = comment
        for name, data in FILES.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.comment = method, comment
            if how == "at once":
                archive.writestr(info, data)
                continue
            if how == "size told before":
                info.file_size = len(data)
            with archive.open(info, "w", force_zip64=force_zip64) as member:
                for begin in range(0, len(data), 7):
                    member.write(data[begin : begin + 7])


def read_by_both(folder: Path, data: bytes) -> None:
    path = folder / "archive.zip"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    summary = verify_archive(path)
    assert (summary.rank, summary.global_step, summary.finished) == (2, 10, True)


@pytest.mark.parametrize("seekable", [True, False], ids=["file", "pipe"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize("comment", [b"", b"a comment"], ids=["plain", "commented"])
# With a limit of 0 or 100 bytes in place of 2 GiB, all or some of the small files are written as very large ones are.
@pytest.mark.parametrize("limit", [None, 100, 0])
def test_archive_as_zipfile_writes_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seekable: bool, method: int, comment: bytes, limit: int | None
) -> None:
    if limit is not None:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    written = 0
    for how, force_zip64 in itertools.product(("at once", "bit by bit", "size told before"), (False, True)):
        pipe, file = Pipe(), io.BytesIO()
        try:
            write(file if seekable else pipe, how, method, force_zip64=force_zip64, comment=comment)
        except RuntimeError:  # zipfile itself does not write it so: "File size too large, try using force_zip64"
            continue
        read_by_both(tmp_path, file.getvalue() if seekable else bytes(pipe.data))
        written += 1
    assert written >= 2


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_archive_that_was_added_to_is_read(tmp_path: Path, method: int) -> None:
    names = list(FILES)
    path = write_zip(tmp_path / "grown.zip", {name: FILES[name] for name in names[:2]}, method)
    for name in names[2:]:
        with zipfile.ZipFile(path, "a", method) as archive:
            archive.writestr(name, FILES[name])
    read_by_both(tmp_path, path.read_bytes())


def test_archive_as_a_node_makes_it_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    read_by_both(tmp_path, Path(shutil.make_archive(str(tmp_path / "made"), "zip", folder)).read_bytes())


def test_description_after_an_empty_member_that_is_longer_than_it_says_is_refused(tmp_path: Path) -> None:
    # Sizes in 64 bits begin like those in 32 where they are 0: only what follows tells them apart.
    described = b"PK\7\x08" + bytes(12)
    for gap in (described + bytes(4), described + b"hide", described + bytes(12)):
        path = tmp_path / "bad.zip"
        path.write_bytes(raw_zip(Raw(name=b"FINISH-not", flags=8, gap=gap), *truth()))
        with pytest.raises(ArchiveError, match="two sizes or two checksums"):
            verify_archive(path)
