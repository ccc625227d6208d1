"""Walking over the files of a folder or archive without extracting or trusting it."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Final, cast

import attrs

from crynux_async.datasets.archives import SHORT_ENDINGS, compression_of, ending_of, is_tar
from crynux_async.datasets.findings import Severity
from crynux_async.datasets.layout import DATA_EXTENSIONS, extension_of, is_visible
from crynux_async.datasets.problems import DatasetProblem, named, problem

_HEADER_BYTES: Final = 4 << 20
# Of every common disk of Linux. Windows and macOS count letters instead, of which each may be four bytes.
_NAME_BYTES: Final = 255


class OverLimitError(Exception):
    """More was found than may be read."""


@attrs.frozen(kw_only=True)
class Member:
    """One file of a folder or archive, not yet read.

    Attributes:
        name: Its path as it would be extracted, with ``/``.
        size: The bytes that it claims to have.
        open: Opens it; members of an archive must be read in order.
        same_as: The earlier member whose content it has, for a hard link.
        stands_alone: It can be skipped without losing what follows.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]] = io.BytesIO
    same_as: str | None = None
    stands_alone: bool = False


@attrs.define(eq=False)
class Notes:
    """What the walk found besides files, gathered until it has ended.

    Attributes:
        problems: What is complete in itself.
        renamed: Members of a ZIP whose path is shortened when it is extracted.
        outside: Members of a tar that would be written outside the folder.
        special: Links, pipes, devices.
        repeated: Names that came again.
        unreadable: Files that could not be opened.
        too_long: Names that no disk of a node takes.
        clashing: Names that are a file's and a folder's at once.
    """

    problems: list[DatasetProblem] = attrs.field(factory=list)
    renamed: list[str] = attrs.field(factory=list)
    outside: list[str] = attrs.field(factory=list)
    special: list[str] = attrs.field(factory=list)
    repeated: list[str] = attrs.field(factory=list)
    unreadable: list[str] = attrs.field(factory=list)
    too_long: list[str] = attrs.field(factory=list)
    clashing: list[str] = attrs.field(factory=list)

    def all(self) -> tuple[DatasetProblem, ...]:
        """Everything found, as problems."""
        kinds: tuple[tuple[str, Severity, list[str], str], ...] = (
            ("CX304", "error", self.outside, "These would be written outside the folder"),
            ("CX304", "error", self.too_long, "A node cannot extract names of more than 255 bytes (UTF-8)"),
            ("CX304", "error", self.clashing, "A file has the name of a folder, and extracting stops there"),
            ("CX304", "warning", self.renamed, "Names lose their leading '/' or '..' when they are extracted"),
            ("CX304", "warning", self.special, "Links and special files are not read"),
            ("CX304", "warning", self.repeated, "The same name comes more than once, and the last one counts"),
            ("CX302", "error", self.unreadable, "These cannot be read"),
        )
        found = [
            problem(code, f"{text}: {named(files)}.", files, severity=how) for code, how, files, text in kinds if files
        ]
        return (*self.problems, *found)


class _HeaderGuard:
    """A file for tarfile that refuses to take a huge header into memory at once."""

    __slots__ = ("_file",)

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER_BYTES:
            raise OverLimitError(f"a tar header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def judge_extracted(names: Iterable[str], notes: Notes) -> None:
    """Complain of names with which extracting stops.

    Args:
        names: Of all members of an archive, also those that no loader sees.
        notes: Takes the complaints.
    """
    files, folders = set(names), set[str]()
    for name in files:
        # Halves of surrogates stand for bytes that are not UTF-8.
        if any(len(part.encode("utf-8", "surrogateescape")) > _NAME_BYTES for part in name.split("/")):
            notes.too_long.append(name)
        folder = name.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    notes.too_long.sort()
    notes.clashing += sorted(files & folders)


def kind_of(path: Path, notes: Notes) -> str:
    """Tell by its name what a file is, as a node does, and complain when it does not work there.

    Args:
        path: The file.
        notes: Takes the complaint.

    Returns:
        ``zip`` or ``tar``, or ``""`` when nothing can be read from it.
    """
    ending = ending_of(path.name)
    if ending:
        return "zip" if ending == ".zip" else "tar"
    if path.name.lower().endswith(SHORT_ENDINGS):
        notes.problems.append(problem("CX301", f"Nodes do not extract {path.name}: they know .tar.gz, not .tgz."))
        return "tar"
    with path.open("rb") as file:
        head = file.read(512)
    compression = compression_of(head)
    # Only where a name has no dot does a node look at the first bytes.
    if "." not in path.name and compression in {".zip", ".gz", ".bz2", ".xz"}:
        return "zip" if compression == ".zip" else "tar"
    if "." not in path.name and is_tar(head):
        notes.problems.append(problem("CX356", f"{path.name} is a tar without an extension, which nodes do not see."))
        return "tar"
    if extension_of(path.name) in DATA_EXTENSIONS:
        notes.problems.append(problem("CX355", f"{path.name} is a single file; nodes load folders only."))
    else:
        notes.problems.append(problem("CX301", f"Nodes do not extract {path.name}."))
    return ""


def members_of(path: Path, kind: str, notes: Notes) -> Iterator[Member]:
    """The files of a folder or archive, in its own order.

    Args:
        path: The folder or archive.
        kind: ``folder``, ``zip`` or ``tar``.
        notes: Takes what is no file.

    Returns:
        The files, to be read one by one as they come.
    """
    if kind == "folder":
        return _folder_members(path, notes)
    return _zip_members(path, notes) if kind == "zip" else _tar_members(path, notes)


def _folder_members(root: Path, notes: Notes) -> Iterator[Member]:
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        notes.special += [_below(here / name, root) for name in folders if (here / name).is_symlink()]
        folders[:] = sorted(name for name in folders if is_visible(f"{name}/_"))
        for name in sorted(names):
            path = here / name
            # is_file() follows links; what is no file (a pipe, a socket) must never be opened: it would block.
            if path.is_file():
                yield Member(name=_below(path, root), size=path.stat().st_size, open=_opener(path), stands_alone=True)
            elif is_visible(_below(path, root)):
                notes.special.append(_below(path, root))


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


def _zip_members(path: Path, notes: Notes) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1:  # APPNOTE.TXT, section 4.4.4
                raise zipfile.BadZipFile(f"{info.filename} is encrypted")
            name, is_plain = _plain(info.filename)
            if not is_plain:
                notes.renamed.append(info.filename)
            if name:
                yield Member(name=name, size=info.file_size, open=_zip_opener(archive, info))


def _zip_opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(info)


def _tar_members(path: Path, notes: Notes) -> Iterator[Member]:
    with path.open("rb") as raw, _decompressed(raw, path.name) as plain:
        guard = cast(IO[bytes], _HeaderGuard(plain))
        with tarfile.open(fileobj=guard, mode="r:") as archive:
            for info in archive:
                name, is_plain = _plain(info.name)
                if info.isdir() or not name:
                    continue
                if not is_plain:
                    notes.outside.append(info.name)
                elif info.isfile():
                    yield Member(name=name, size=info.size, open=_tar_opener(archive, info))
                elif info.islnk():
                    yield Member(name=name, size=0, same_as=_plain(info.linkname)[0])
                else:
                    notes.special.append(name)


def _tar_opener(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        stream = archive.extractfile(info)
        if stream is None:
            raise tarfile.ReadError(f"{info.name} has no content")
        return stream

    return opened


def _decompressed(raw: IO[bytes], name: str) -> IO[bytes]:
    """The tar inside; what the name says must be true, except that a plain ``.tar`` may be compressed."""
    compression = compression_of(raw.read(8))
    raw.seek(0)
    ending = ending_of(name)
    if ending not in {"", ".tar"} and compression != ending.removeprefix(".tar"):
        raise tarfile.ReadError(f"it is not the {ending} that its name says")
    if compression == ".gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    if compression == ".bz2":
        return bz2.BZ2File(raw)
    return lzma.LZMAFile(raw) if compression == ".xz" else raw


def _plain(raw: str) -> tuple[str, bool]:
    """A member's path as it is extracted, and whether it stayed as it was."""
    parts = [part for part in raw.split("/") if part not in {"", "."}]
    inside = [part for part in parts if part != ".."]
    return "/".join(inside), inside == parts and not raw.startswith("/")
