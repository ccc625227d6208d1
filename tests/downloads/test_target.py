"""Whether a result could come to a folder."""

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from crynux_async.downloads.target import check_folder
from crynux_async.errors import UsageError
from tests.fake_result import names_in


def test_folder_that_is_there_or_can_be_made_is_taken_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for name in ("there", "new", "new/deeper", "link", "link/new"):
        check_folder(tmp_path / name, needed=1)
    assert names_in(tmp_path) == {"there", "link"}
    assert names_in(tmp_path / "there") == set()


def test_folder_without_a_path_is_where_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_folder(Path())
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is something else"):
        check_folder(Path("file"))


@pytest.mark.parametrize("name", ["file", "file/below", "a\0b", "loop", "n" * 300])
def test_folder_that_cannot_be_one_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError) as caught:
        check_folder(tmp_path / name)
    assert caught.value.field == "folder"


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.EROFS, "choose another folder"), (errno.ENOSPC, "is full"), (errno.EDQUOT, "the quota is used up")],
)
def test_folder_that_takes_no_file_is_refused_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UsageError, match=said):
        check_folder(tmp_path / "models")


def test_folder_on_a_full_disk_is_named_with_what_is_free_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "models").mkdir()
    free = {tmp_path / "models": 0, tmp_path: 4711}  # another disk is mounted there
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9999, 0, free[Path(path)]))
    with pytest.raises(UsageError) as caught:
        check_folder(tmp_path / "models" / "new")
    assert f"{tmp_path / 'models'} is full, archive.zip cannot be written, 0 are free" in str(caught.value)


def test_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
    with pytest.raises(UsageError, match="Permission denied; choose another folder or change its permissions"):
        check_folder(tmp_path / "models")


def test_folder_with_too_little_room_names_what_is_needed_and_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 900, 100))
    check_folder(tmp_path, needed=100)
    with pytest.raises(UsageError, match=r"takes about 101 bytes, 100 are free"):
        check_folder(tmp_path, needed=101)
