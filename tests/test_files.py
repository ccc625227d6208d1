"""Writing files: whole or not at all, durable, never through a link, on file systems that cannot do everything.

Downloads, exports and packed data sets all write through here; each test of a hostile disk runs all three.
"""

import contextlib
import errno
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crynux_async import files
from crynux_async.archive import LoraArchive
from crynux_async.datasets import pack
from crynux_async.errors import ArchiveError, CrynuxError, DownloadError, UsageError
from crynux_async.testing import virtual_time_run
from tests.archive_files import RESULT
from tests.datasets.test_packing import sidecars, write
from tests.fake_result import CONTENT, FakeService, fetch, names_in

Writer = Callable[[Path], Path]


def write_download(folder: Path) -> Path:
    virtual_time_run(lambda: fetch(FakeService(CONTENT), folder / "7.zip"))
    return folder / "7.zip"


def write_export(folder: Path) -> Path:
    return LoraArchive.open(RESULT).export(folder / "out.safetensors")


def write_pack(folder: Path) -> Path:
    images = (
        write(folder.parent / "cats", sidecars()) if not (folder.parent / "cats").exists() else folder.parent / "cats"
    )
    return pack(images, folder / "cats.zip").path


WRITERS: dict[str, tuple[Writer, type[CrynuxError]]] = {
    "download": (write_download, DownloadError),
    "export": (write_export, ArchiveError),
    "pack": (write_pack, UsageError),
}
every_writer = pytest.mark.parametrize(("writer", "error"), WRITERS.values(), ids=WRITERS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


@contextlib.contextmanager
def refusing(name: str, code: int, *, of_folders: bool = False) -> Iterator[list[Any]]:
    """Let one call of ``os`` fail, on folders alone or on files alone; yield what it was refused for."""

    def is_folder(first: Any) -> bool:
        return os.path.isdir(f"/proc/self/fd/{first}" if isinstance(first, int) else first)

    def call(first: Any, *rest: Any, **options: Any) -> Any:
        if is_folder(first) is not of_folders:
            return original(first, *rest, **options)
        refused.append(first)
        raise OSError(code, os.strerror(code), None if isinstance(first, int) else os.fspath(first))

    refused: list[Any] = []
    original = getattr(os, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, call)
        yield refused


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to tell files from folders")


@needs_proc
@every_writer
@pytest.mark.parametrize(
    ("call", "code", "of_folders"),
    [
        ("open", errno.EACCES, True),  # a folder that may be written and not read
        ("open", errno.EPERM, True),
        ("fsync", errno.EINVAL, True),
        ("fsync", errno.ENOTSUP, True),
        ("fsync", errno.EINVAL, False),
        ("link", errno.EACCES, False),
        ("link", errno.EPERM, False),
        ("link", errno.ENOSYS, False),
    ],
)
def test_what_a_file_system_cannot_do_is_no_failure(
    folder: Path, writer: Writer, error: type[CrynuxError], call: str, code: int, of_folders: bool
) -> None:
    with refusing(call, code, of_folders=of_folders) as refused:
        path = writer(folder)
    assert refused
    assert names_in(folder) == {path.name}
    assert path.stat().st_size > 0


@needs_proc
@every_writer
@pytest.mark.parametrize("of_folders", [False, True])
def test_disk_that_fails_is_a_typed_error(
    folder: Path, writer: Writer, error: type[CrynuxError], of_folders: bool
) -> None:
    with refusing("fsync", errno.EIO, of_folders=of_folders), pytest.raises(error, match="Input/output error"):
        writer(folder)
    assert not [name for name in names_in(folder) if name.endswith((".part", ".new"))]


@needs_proc
@every_writer
def test_file_whose_bytes_the_disk_did_not_keep_never_gets_its_name(
    folder: Path, writer: Writer, error: type[CrynuxError]
) -> None:
    with refusing("fsync", errno.EIO), pytest.raises(error):
        writer(folder)
    assert not [name for name in names_in(folder) if name.endswith((".zip", ".safetensors"))]


@every_writer
@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_folder_that_may_not_be_written_is_a_typed_error(
    folder: Path, writer: Writer, error: type[CrynuxError], code: int
) -> None:
    write_pack(folder).unlink()

    def refuse(name: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code), os.fspath(name))
        return original(name, flags, *rest, **options)

    original = os.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(error, match="choose another folder or change its permissions") as caught:
            writer(folder)
    assert str(folder) in str(caught.value)
    assert names_in(folder) == set()


@every_writer
@pytest.mark.parametrize("inodes", [False, True])
def test_full_disk_is_a_typed_error_that_says_what_there_is_none_of(
    folder: Path, writer: Writer, error: type[CrynuxError], inodes: bool
) -> None:
    write_pack(folder).unlink()
    real = os.statvfs(folder)
    told = [*real]
    told[7] = 0 if inodes else 1000  # f_favail, by its place in the tuple

    def refuse(name: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(name))
        return original(name, flags, *rest, **options)

    original = os.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        patch.setattr(os, "statvfs", lambda _: os.statvfs_result(told))
        expected = "cannot take another file: all .* inodes" if inodes else "is full, .* cannot be written"
        with pytest.raises(error, match=expected):
            writer(folder)


@every_writer
def test_writing_through_a_planted_link_never_happens(
    folder: Path, writer: Writer, error: type[CrynuxError], tmp_path: Path
) -> None:
    """Put links wherever a file has been made, under every name that was used, and write again."""
    made: list[str] = []

    def record(name: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            made.append(os.fspath(name))
        return original(name, flags, *rest, **options)

    original = os.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", record)
        writer(folder).unlink()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in {*made, *(f"{name}.new" for name in made)}:
        Path(name).symlink_to(victim)
    with contextlib.suppress(error):
        writer(folder)
    assert made
    assert victim.read_text() == "mine"
    assert not victim.is_symlink()


def test_draft_of_a_download_is_made_anew_where_a_link_was_planted(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("7.zip.part.json.new", "7.zip.part.new"):
        (folder / name).symlink_to(victim)
    assert write_download(folder).read_bytes() == CONTENT
    assert victim.read_text() == "mine"
    assert names_in(folder) == {"7.zip"}


def test_download_that_is_in_place_is_no_failure_where_a_folder_has_the_name_of_a_draft(folder: Path) -> None:
    (folder / "7.zip.part.new").mkdir()
    assert write_download(folder).read_bytes() == CONTENT
    assert names_in(folder) == {"7.zip", "7.zip.part.new"}


def test_download_says_which_folder_is_in_the_way_of_its_note(folder: Path) -> None:
    (folder / "7.zip.part.json.new").mkdir()
    with pytest.raises(DownloadError, match=r"7\.zip\.part\.json\.new is in the way; remove it"):
        write_download(folder)


@pytest.mark.parametrize("length", [233, 243, 255])
def test_file_with_the_longest_name_there_can_be_is_written(folder: Path, length: int) -> None:
    target = folder / ("x" * length)
    with files.new_file(target) as file:
        file.write(b"all of it")
    assert target.read_bytes() == b"all of it"
    assert names_in(folder) == {target.name}


def test_name_that_is_too_long_is_a_typed_error(folder: Path) -> None:
    with pytest.raises(ArchiveError, match="File name too long"):
        LoraArchive.open(RESULT).export(folder / f"{'x' * 244}.safetensors")
    assert names_in(folder) == set()


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", "\ud800"], ids=ascii)
def test_name_that_no_file_can_have_is_found_out_before_anything_is_written(folder: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"too long|no file can be called so"), files.new_file(folder / name):
        raise AssertionError("it was opened all the same")
    assert names_in(folder) == set()


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", "\ud800"], ids=ascii)
def test_name_that_no_file_can_have_is_a_typed_error(folder: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match=r"too long|no file can be called so"):
        LoraArchive.open(RESULT).export(folder / f"{name}.safetensors")
    with pytest.raises(UsageError, match="cannot be a file"):
        pack(write(folder.parent / "cats", sidecars()), folder / f"{name}.zip")
    assert names_in(folder) == set()


def test_new_file_is_there_only_when_it_is_whole(folder: Path) -> None:
    with files.new_file(folder / "out") as file:
        file.write(b"half")
        assert not (folder / "out").exists()
        file.write(b" and half")
    assert (folder / "out").read_bytes() == b"half and half"


def test_new_file_after_an_exception_leaves_nothing(folder: Path) -> None:
    with pytest.raises(KeyError), files.new_file(folder / "out") as file:
        file.write(b"half")
        raise KeyError
    assert names_in(folder) == set()


def test_new_file_replaces_only_when_asked(folder: Path) -> None:
    (folder / "out").write_bytes(b"old")
    with pytest.raises(FileExistsError), files.new_file(folder / "out"):
        raise AssertionError("it was opened all the same")
    with files.new_file(folder / "out", replace=True) as file:
        file.write(b"new")
    assert (folder / "out").read_bytes() == b"new"


def test_new_file_whose_name_is_taken_meanwhile_leaves_both_alone(folder: Path) -> None:
    with pytest.raises(FileExistsError), files.new_file(folder / "out") as file:
        file.write(b"new")
        (folder / "out").write_bytes(b"old")
    assert (folder / "out").read_bytes() == b"old"
    assert names_in(folder) == {"out"}


def test_new_file_can_be_written_as_a_zip_and_read_back(folder: Path) -> None:
    with files.new_file(folder / "out.zip") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a", b"abc")
        file.seek(0)
        assert file.read(2) == b"PK"
    assert zipfile.ZipFile(folder / "out.zip").read("a") == b"abc"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EACCES, "out: Permission denied; choose another folder or change its permissions"),
        (errno.EFBIG, "out: File too large; files that large are not allowed here, and out needs 10 more bytes"),
        (errno.EIO, "out: Input/output error; what arrived is kept; check the folder and call again"),
        (errno.EDQUOT, "the quota is used up, out cannot be written; what arrived is kept: free some space"),
    ],
)
def test_explanation_says_what_to_do(folder: Path, code: int, expected: str) -> None:
    error = OSError(code, os.strerror(code), str(folder / ".draft"))
    assert expected in files.explain(error, folder / "out", needed=10, kept=True)


def test_explanation_names_what_is_elsewhere(folder: Path) -> None:
    error = OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "/somewhere/file")
    assert files.explain(error, folder / "out").startswith("/somewhere/file: Not a directory")


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_open_plain_of_anything_else_than_a_file_ends_at_once(folder: Path, kind: str) -> None:
    path = folder / "thing"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(folder)
    with pytest.raises((ValueError, OSError)):
        os.close(files.open_plain(path))


def test_resolve_gives_one_folder_one_name(folder: Path) -> None:
    (folder / "link").symlink_to(folder)
    assert files.resolve(folder / "link" / "new") == files.resolve(folder / ".." / folder.name / "new")


def test_resolve_through_another_process_stays_there(tmp_path: Path) -> None:
    command = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && echo mounted && exec cat', str(tmp_path)]
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip("needs the right to mount")
        there = Path(f"/proc/{holder.pid}/root{tmp_path}")
        with files.new_file(files.resolve(there) / "out") as file:
            file.write(b"there")
        assert (names_in(there), names_in(tmp_path)) == ({"out"}, set())
        holder.stdin.close()
