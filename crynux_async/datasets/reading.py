"""Reading a folder or an archive once, from beginning to end, without extracting or trusting it."""

import hashlib
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import attrs

from crynux_async.datasets.arrow import arrow
from crynux_async.datasets.images import NODE_PIXELS, ImageFacts, look_at, pillow
from crynux_async.datasets.inner_archives import ARCHIVE_EXTENSIONS, names_inside
from crynux_async.datasets.layout import IMAGE_EXTENSIONS, extension_of, is_visible
from crynux_async.datasets.members import Member, Notes, OverLimitError, judge_extracted, kind_of, members_of
from crynux_async.datasets.problems import DatasetProblem, problem
from crynux_async.datasets.records import RECORD_EXTENSIONS, Records, read_records
from crynux_async.errors import UsageError

_CHUNK: Final = 1 << 20
# RuntimeError and NotImplementedError are zipfile's, for encrypted members and methods that it does not know.
_DAMAGED: Final = (
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
)


@attrs.frozen(kw_only=True)
class Limits:
    """How much check() and pack() read at most.

    Attributes:
        members: Files in the folder or archive.
        read_bytes: Size of one image or metadata file; each is read into memory, one at a time.
        total_bytes: Size of all files together, extracted.
        pixels: Width times height of an image; larger ones are not decoded.
    """

    members: int = 200_000
    read_bytes: int = 256 << 20
    total_bytes: int = 64 << 30
    pixels: int = NODE_PIXELS


@attrs.frozen(kw_only=True)
class Columns:
    """The columns of a table that training uses.

    Attributes:
        image: The config's ``dataset_image_column``.
        caption: The config's ``dataset_caption_column``.
    """

    image: str
    caption: str


@attrs.frozen(kw_only=True)
class Wanted:
    """What a scan takes in.

    Attributes:
        keep: Says of which files the content is kept; these are read even when they are not visible.
        limits: How much is read at most.
        columns: What tables that hold images are looked into for; None to leave them, and archives inside, closed.
    """

    keep: Callable[[str], bool]
    limits: Limits = attrs.field(factory=Limits)
    columns: Columns | None = None


@attrs.frozen(kw_only=True)
class SeenFile:
    """One file that a node would see.

    Attributes:
        name: Its path below the folder, with ``/``.
        size: Its size in bytes.
        sha256: The hash of its content, in hex.
        image: What it is as an image, when its extension says so.
        text: Its content, when the caller asked to keep it.
        records: Its rows, when it is a table that holds images and was looked into.
        inside: The names of what it holds, when it is an archive and was looked into; None when that failed.
    """

    name: str
    size: int
    sha256: str
    image: ImageFacts | None = None
    text: bytes | None = attrs.field(default=None, repr=False)
    records: Records | None = None
    inside: tuple[str, ...] | None = None


@attrs.frozen(kw_only=True)
class Scan:
    """Everything read from a folder or archive.

    Attributes:
        kind: ``folder``, ``zip``, ``tar``, or ``file`` for what is neither.
        files: The visible files, sorted by name.
        problems: What was wrong with the reading itself.
        is_complete: False when reading had to stop, so that conclusions about what is missing are void.
    """

    kind: str
    files: tuple[SeenFile, ...]
    problems: tuple[DatasetProblem, ...]
    is_complete: bool


def scan(path: Path, wanted: Wanted) -> Scan:
    """Read every visible file of a folder or archive.

    Args:
        path: The folder or archive.
        wanted: What is taken in.

    Returns:
        The files and what was wrong.

    Raises:
        UsageError: There is no such path, or Pillow or PyArrow is not installed.
    """
    # Asked before anything is read: a check of an hour must not end with "not installed".
    pillow()
    arrow()
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    notes = Notes()
    kind = "folder" if path.is_dir() else kind_of(path, notes)
    if not kind:
        return Scan(kind="file", files=(), problems=notes.all(), is_complete=False)
    files: dict[str, SeenFile] = {}
    try:
        _see_all(members_of(path, kind, notes), files, wanted, notes)
        complete = True
    except OverLimitError as error:
        notes.problems.append(problem("CX303", f"{path.name} has {error}, more than is read here."))
        complete = False
    except _DAMAGED as error:
        notes.problems.append(problem("CX302", f"{path.name} cannot be read: {_first_line(error)}."))
        complete = False
    ordered = tuple(files[name] for name in sorted(files))
    return Scan(kind=kind, files=ordered, problems=notes.all(), is_complete=complete)


def content_hash(files: tuple[SeenFile, ...]) -> str:
    """The sha256 over the sorted names and contents, in hex: equal for a folder and an archive of it."""
    digest = hashlib.sha256()
    for seen in sorted(files, key=lambda seen: seen.name):
        # tarfile gives bytes that are not UTF-8 as halves of surrogates.
        digest.update(seen.name.encode("utf-8", "surrogateescape") + b"\0" + bytes.fromhex(seen.sha256))
    return digest.hexdigest()


def read_bounded(stream: IO[bytes], most: int, name: str) -> bytes:
    """Read a stream to its end.

    Args:
        stream: What to read.
        most: Bytes that it may hold.
        name: What it is, for the message.

    Returns:
        Its content.

    Raises:
        OverLimitError: It holds more.
    """
    data = bytearray()
    while chunk := stream.read(_CHUNK):
        data += chunk
        if len(data) > most:
            raise OverLimitError(f"{name} of more than {most} bytes")
    return bytes(data)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")


def _see_all(members: Iterator[Member], files: dict[str, SeenFile], wanted: Wanted, notes: Notes) -> None:
    total, limits, names = 0, wanted.limits, set[str]()
    for number, member in enumerate(members, start=1):
        total += member.size
        if number > limits.members:
            raise OverLimitError(f"more than {limits.members} files")
        if total > limits.total_bytes:
            raise OverLimitError(f"more than {limits.total_bytes} bytes of files")
        # Extracted in order, a hard link needs its target on the disk already.
        if member.same_as is not None and member.same_as not in names:
            raise tarfile.ReadError(f"{member.name} is a link to {member.same_as!r}, which is not there before it")
        names.add(member.name)
        if not is_visible(member.name) and not wanted.keep(member.name):
            continue
        if member.name in files:
            notes.repeated.append(member.name)
        seen = _see_or_note(member, files, wanted, notes)
        if seen is not None:
            files[member.name] = seen
    judge_extracted(names, notes)


def _see_or_note(member: Member, files: dict[str, SeenFile], wanted: Wanted, notes: Notes) -> SeenFile | None:
    if member.same_as is not None:
        target = files.get(member.same_as)
        linked = None if target is None else _linked(member.name, target, wanted)
        if linked is None:
            notes.special.append(member.name)
        return linked
    try:
        return _see(member, wanted)
    except OSError:
        # In an archive whatever follows is lost as well.
        if not member.stands_alone:
            raise
        notes.unreadable.append(member.name)
        return None


def _linked(name: str, target: SeenFile, wanted: Wanted) -> SeenFile | None:
    """What a hard link is: the content under another name, or None when it was not read as that name would have it."""
    extension = extension_of(name)
    if extension == extension_of(target.name) and (target.text is not None or not wanted.keep(name)):
        return attrs.evolve(target, name=name)
    image = target.image if extension in IMAGE_EXTENSIONS else None
    is_looked_into = extension in IMAGE_EXTENSIONS | RECORD_EXTENSIONS | ARCHIVE_EXTENSIONS or wanted.keep(name)
    if is_looked_into and image is None:
        return None
    return SeenFile(name=name, size=target.size, sha256=target.sha256, image=image)


def _see(member: Member, wanted: Wanted) -> SeenFile:
    extension, limits = extension_of(member.name), wanted.limits
    with member.open() as stream:
        if extension in IMAGE_EXTENSIONS or wanted.keep(member.name):
            # The size is checked before and while reading: a header may lie, a file may grow.
            if member.size > limits.read_bytes:
                raise OverLimitError(f"{member.name} of {member.size} bytes")
            data = read_bounded(stream, limits.read_bytes, member.name)
            image = look_at(data, pixels=limits.pixels) if extension in IMAGE_EXTENSIONS else None
            digest = hashlib.sha256(data).hexdigest()
            text = data if wanted.keep(member.name) else None
            return SeenFile(name=member.name, size=len(data), sha256=digest, image=image, text=text)
        if wanted.columns is not None and extension in RECORD_EXTENSIONS | ARCHIVE_EXTENSIONS:
            return _see_inside(stream, member, wanted.columns, limits)
        size, digest = _copied(stream, None)
        return SeenFile(name=member.name, size=size, sha256=digest)


def _copied(stream: IO[bytes], target: IO[bytes] | None) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return size, digest.hexdigest()


def _see_inside(stream: IO[bytes], member: Member, columns: Columns, limits: Limits) -> SeenFile:
    extension = extension_of(member.name)
    # Tables and ZIPs have their lists at the end, and a member of an archive cannot be read backwards.
    with tempfile.TemporaryFile() as copy:
        size, digest = _copied(stream, copy)
        copy.seek(0)
        if extension in ARCHIVE_EXTENSIONS:
            return SeenFile(name=member.name, size=size, sha256=digest, inside=names_inside(copy))
        found = read_records(
            copy, extension, image_column=columns.image, caption_column=columns.caption, pixels=limits.pixels
        )
    return SeenFile(name=member.name, size=size, sha256=digest, records=found)
