"""pack(): the archive that works, made from a folder of images and captions."""

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, get_args

import attrs

from crynux_async import files
from crynux_async.datasets.caption_rules import judge_column
from crynux_async.datasets.caption_sources import CaptionRequest, find_captions, is_caption_file
from crynux_async.datasets.captions import Caption, CaptionSource, texts_of
from crynux_async.datasets.findings import has_error, in_order
from crynux_async.datasets.image_rules import judge_amount, judge_broken
from crynux_async.datasets.kohya import is_regularization, judge_regularization, judge_repeats
from crynux_async.datasets.layout import is_visible, lay_out, split_word
from crynux_async.datasets.layout_rules import is_image, judge_left_out
from crynux_async.datasets.problems import DatasetError, DatasetProblem, of_pack, problem
from crynux_async.datasets.reading import Limits, SeenFile, Wanted, scan
from crynux_async.datasets.report import VERSION_LENGTH
from crynux_async.datasets.tables import read_table
from crynux_async.datasets.text_encodings import known_encoding
from crynux_async.errors import UsageError

_METADATA: Final = "metadata.jsonl"
# The times of a ZIP begin in 1980.
_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o100644 << 16
_UNIX: Final = 3
# No inner dot: every suffix of a name counts when the loader is chosen, and "cat.txt.png" counts as a text.
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.[A-Za-z0-9]+")


@attrs.frozen(kw_only=True)
class PackedDataset:
    """An archive made by pack().

    Attributes:
        path: Where it is.
        image_count: Images in it, all in the train split.
        sha256: The hash of the file, in hex.
        bytes: Its size.
        names: The path of every image inside the archive, by its path in the folder.
        problems: The warnings and notes.
    """

    path: Path
    image_count: int
    sha256: str
    bytes: int
    names: Mapping[str, str] = attrs.field(repr=False)
    problems: tuple[DatasetProblem, ...] = ()

    @property
    def version(self) -> str:
        """A short form of ``sha256`` for a fresh address, as in ``?v=``."""
        return self.sha256[:VERSION_LENGTH]


@attrs.frozen(kw_only=True)
class _Plan:
    images: tuple[SeenFile, ...]
    names: Mapping[str, str]
    metadata: bytes
    problems: tuple[DatasetProblem, ...]


def pack(
    folder: str | Path,
    out: str | Path,
    *,
    captions: CaptionSource = "auto",
    caption_column: str = "text",
    encoding: str | None = None,
    regularization: bool = False,
    overwrite: bool = False,
    limits: Limits | None = None,
) -> PackedDataset:
    """Make the archive that nodes load as intended, or refuse with everything that is wrong.

    The archive has all images in ``train/`` and their captions in ``train/metadata.jsonl``, in the column ``text``.
    Names that the loader could misunderstand are replaced. Equal folders give equal bytes. The folder is only read; the
    archive appears complete or not at all. Disk and CPU are kept busy: run it in a thread if an event loop is waiting.

    Args:
        folder: Images with captions in .txt or .caption files of the same name, or in a table with the columns
            ``file_name`` and ``caption_column`` (metadata.jsonl, metadata.csv, or the only .jsonl or .csv there is).
            A row that fits one image only counts for it, even when letter case, Unicode form or folder differ.
        out: The archive to write, ending in .zip, outside of the folder.
        captions: Where to take the captions from.
        caption_column: The table's column that holds them.
        encoding: What captions are in that are not UTF-8, such as ``cp1252``; those with a byte order mark say so.
        regularization: Whether the images of folders such as ``reg/1_dog`` are packed, too.
        overwrite: Whether ``out`` may exist already.
        limits: How much is read at most.

    Returns:
        The archive, with warnings.

    Raises:
        DatasetError: The folder cannot be packed; ``problems`` has all reasons.
        UsageError: The arguments cannot work, a file changed meanwhile, ``out`` cannot be written (a disk that is full,
            a folder that is read-only), or Pillow is not installed.
    """
    source, target = Path(folder), Path(out)
    _check_arguments(source, target, captions, overwrite=overwrite)
    request = CaptionRequest(source=captions, column=caption_column, encoding=known_encoding(encoding))
    plan = _plan(source, request, limits or Limits(), regularization=regularization)
    if has_error(plan.problems):
        raise DatasetError(plan.problems)
    size, digest = _write(source, target, plan, overwrite=overwrite)
    return PackedDataset(
        path=target,
        image_count=len(plan.images),
        sha256=digest,
        bytes=size,
        names=plan.names,
        problems=plan.problems,
    )


def archive_names(images: Sequence[str]) -> dict[str, str]:
    """Names for images inside an archive that no loader can misunderstand.

    A plain name that names no split is kept; the others become ``image-000001.png`` and so on, by their position.

    Args:
        images: Paths below the folder, with an image's extension.

    Returns:
        For each, its path inside the archive, ``train/...``; no two differ in the case of letters only.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    ordered = sorted(images)
    for image in ordered:
        name = f"{image.rpartition('/')[2].rpartition('.')[0]}.{_extension(image)}"
        # Two names that differ in letter case alone are one file on some disks.
        if _PLAIN_NAME.fullmatch(name) and split_word(name) is None and name.lower() not in taken:
            names[image] = name
            taken.add(name.lower())
    for number, image in enumerate(ordered, start=1):
        if image not in names:
            names[image] = _free_name(number, _extension(image), taken)
    return {image: f"train/{names[image]}" for image in ordered}


def _extension(image: str) -> str:
    extension = image.rpartition(".")[2].lower()
    # The loader lists .mpeg among the images and among the videos, where it stays.
    return "mpg" if extension == "mpeg" else extension


def _free_name(number: int, extension: str, taken: set[str]) -> str:
    name, turn = f"image-{number:06d}.{extension}", 0
    while name in taken:
        turn += 1
        name = f"image-{number:06d}-{turn}.{extension}"
    taken.add(name)
    return name


def _check_arguments(source: Path, target: Path, captions: str, *, overwrite: bool) -> None:
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder", field="folder")
    if captions not in get_args(CaptionSource):
        raise UsageError(f"captions must be one of {', '.join(get_args(CaptionSource))}", field="captions")
    if target.suffix.lower() != ".zip":
        raise UsageError(f"{target.name} must end in .zip", field="out")
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} does not exist", field="out")
    try:
        is_inside = target.resolve().is_relative_to(source.resolve())
        is_taken = target.exists() and (not overwrite or not target.is_file())
    except (ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"{str(target)!r} cannot be a file: {error}", field="out") from error
    if is_inside:
        raise UsageError(f"{target} is inside the folder to be packed, which must not change", field="out")
    if is_taken:
        raise UsageError(f"{target} exists: say overwrite=True to replace it", field="out")


def _plan(source: Path, request: CaptionRequest, limits: Limits, *, regularization: bool) -> _Plan:
    seen = scan(source, Wanted(keep=lambda name: is_visible(name) and is_caption_file(name), limits=limits))
    files = {file.name: file for file in seen.files}
    everything = [name for name in files if is_image(name)]
    other_splits = _other_splits(everything)
    for_comparison = [name for name in everything if is_regularization(name) and not regularization]
    left_out = other_splits | frozenset(for_comparison)
    chosen = [name for name in everything if name not in left_out]
    images = tuple(files[name] for name in chosen)
    found = find_captions(chosen, files, request, left_out=left_out)
    problems = [
        *seen.problems,
        *judge_amount(images),
        *judge_broken({file.name: file.image for file in images if file.image is not None}),
        *(found.captions.problems if images else ()),
        *judge_repeats(chosen),
        *judge_regularization(for_comparison, are_left_out=True),
        *judge_left_out(
            [name for name in files if not is_image(name) and name not in found.used], sorted(other_splits)
        ),
    ]
    names = archive_names(chosen)
    metadata = b"" if has_error(problems) else _metadata(found.captions.by_image, names)
    if metadata:
        problems += _judge_own(metadata, found.captions.by_image, names)
    return _Plan(images=images, names=names, metadata=metadata, problems=in_order(map(of_pack, problems)))


def _other_splits(images: Sequence[str]) -> frozenset[str]:
    """Images in a folder such as test/, when there is a folder train/ too: they are not meant to be trained."""
    layout = lay_out(images)
    if layout.rule != "folders" or "train" not in layout.splits:
        return frozenset()
    train = set(layout.splits["train"])
    return frozenset(name for files in layout.splits.values() for name in files if name not in train)


def _metadata(captions: Mapping[str, Caption], names: Mapping[str, str]) -> bytes:
    rows = _rows(captions, names)
    return "".join(f"{json.dumps({'file_name': name, 'text': text})}\n" for name, text in rows.items()).encode()


def _rows(captions: Mapping[str, Caption], names: Mapping[str, str]) -> dict[str, object]:
    # A column is either text or lists: one image with several captions makes them all lists.
    as_lists = any(not isinstance(caption, str) for caption in captions.values())
    return {
        name.removeprefix("train/"): list(texts_of(caption)) if as_lists else caption
        for name, caption in sorted((names[image], caption) for image, caption in captions.items())
    }


def _judge_own(metadata: bytes, captions: Mapping[str, Caption], names: Mapping[str, str]) -> list[DatasetProblem]:
    # Read back by the reader that nodes use: captions that all look like dates, for one, are no text to it.
    table = read_table(_METADATA, metadata)
    if table.fault:
        return [problem("CX322", f"What would be packed cannot be read back: {table.fault}.")]
    found = list(judge_column(table.columns["text"], _METADATA))
    came_back = {row["file_name"]: row["text"] for row in table.rows}
    if not found and came_back != _rows(captions, names):
        found.append(problem("CX322", "What would be packed does not come back as it was."))
    return found


def _write(source: Path, target: Path, plan: _Plan, *, overwrite: bool) -> tuple[int, str]:
    try:
        with files.new_file(target, replace=overwrite) as file:
            with zipfile.ZipFile(file, "w") as archive:
                _fill(archive, source, plan)
            size = file.tell()
            file.seek(0)
            return size, hashlib.file_digest(file, "sha256").hexdigest()
    except FileExistsError as error:
        raise UsageError(f"{target} has appeared meanwhile", field="out") from error
    except OSError as error:
        raise UsageError(files.explain(error, target), field="out") from error


def _fill(archive: zipfile.ZipFile, source: Path, plan: _Plan) -> None:
    archive.writestr(_entry(f"train/{_METADATA}"), plan.metadata)
    for seen in sorted(plan.images, key=lambda seen: plan.names[seen.name]):
        with (source / seen.name).open("rb") as file:
            # One byte more shows a file that has grown, however long it is by now.
            data = file.read(seen.size + 1)
        if hashlib.sha256(data).hexdigest() != seen.sha256:
            raise UsageError(f"{seen.name} changed while it was packed: pack again")
        archive.writestr(_entry(plan.names[seen.name]), data)


def _entry(name: str) -> zipfile.ZipInfo:
    # Equal input, equal bytes: fixed time, mode and system, and no compression (its output depends on zlib's version).
    info = zipfile.ZipInfo(name, _EARLIEST)
    info.external_attr, info.create_system, info.compress_type = _MODE, _UNIX, zipfile.ZIP_STORED
    return info
