"""Where the captions of a folder are: .txt files beside the images, or a table."""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from crynux_async.datasets import sidecars
from crynux_async.datasets.caption_rules import Captions, judge_captions
from crynux_async.datasets.captions import CaptionSource
from crynux_async.datasets.csv_tables import read_csv
from crynux_async.datasets.findings import has_error
from crynux_async.datasets.json_tables import json_objects
from crynux_async.datasets.layout import METADATA_NAMES, base_name, extension_of
from crynux_async.datasets.matching import match, nearest
from crynux_async.datasets.metadata_rules import header_hint, judge_matching
from crynux_async.datasets.problems import DatasetProblem, named, problem
from crynux_async.datasets.reading import SeenFile
from crynux_async.datasets.row_names import reunite
from crynux_async.datasets.spellings import judge_near_misses
from crynux_async.datasets.tables import Table
from crynux_async.datasets.text_encodings import decode, guesses, in_words, is_utf8
from crynux_async.wording import counted

_TABLES: Final = (".csv", ".jsonl")
# A CSV that is packed as JSON lines may say "None" and mean it; only an empty cell is no caption.
_EMPTY_CELL: Final = frozenset(("",))


@attrs.frozen(kw_only=True)
class CaptionRequest:
    """How captions are looked for.

    Attributes:
        source: Where to look.
        column: The column of a table that holds the captions.
        encoding: What texts are in that are not UTF-8; None to refuse them.
    """

    source: CaptionSource = "auto"
    column: str = "text"
    encoding: str | None = None


@attrs.frozen(kw_only=True)
class FoundCaptions:
    """The captions of a folder.

    Attributes:
        captions: The usable ones and the problems of the others.
        used: The files that they were taken from, and those that lost to them.
    """

    captions: Captions
    used: frozenset[str] = frozenset()


def is_caption_file(name: str) -> bool:
    """Whether a file may hold captions, by its extension."""
    return extension_of(name) in {*sidecars.SIDECAR_EXTENSIONS, *_TABLES}


def find_captions(
    images: Sequence[str],
    files: Mapping[str, SeenFile],
    request: CaptionRequest,
    *,
    left_out: frozenset[str] = frozenset(),
) -> FoundCaptions:
    """Find a caption for every image.

    Args:
        images: The images to be packed.
        files: All files of the folder.
        request: How to look.
        left_out: Images that are not packed on purpose: their rows are no mistake.

    Returns:
        The captions, and what is wrong.
    """
    beside = sidecars.find_sidecars(images, files)
    places = {**({"txt": [name for names in beside.values() for name in names]} if beside else {})}
    # Where .txt files lie beside the images, a table of any other name is no rival of theirs.
    places |= _tables_near(images, files) or ({} if beside else _only_table(files))
    wanted = [place for place in places if request.source in {"auto", place}]
    if not wanted:
        where = "No captions were found" if request.source == "auto" else f"No .{request.source} file has captions"
        return _failed(problem("CX320", f"{where}.{_elsewhere(images, files)}"), *judge_near_misses(list(files)))
    if len(wanted) > 1:
        return _failed(problem("CX348", f"Captions are in {' and '.join(f'.{place}' for place in wanted)} files."))
    used = places[wanted[0]]
    refused = _judge_encoding({name: files[name].text or b"" for name in used}, request.encoding)
    if has_error(refused):
        return FoundCaptions(captions=Captions(problems=refused), used=frozenset(used))
    if wanted[0] == "txt":
        found = _from_sidecars(images, beside, files, request)
    else:
        tables = [_read_loosely(name, files[name].text or b"", request.encoding) for name in used]
        found = _from_tables(images, tables, request.column, left_out)
    problems = (*refused, *found.problems)
    return FoundCaptions(captions=attrs.evolve(found, problems=problems), used=frozenset(used))


def _elsewhere(images: Iterable[str], files: Iterable[str]) -> str:
    """Say which texts have the names of images in other folders, with a space in front; nothing when none has."""
    stems = {posixpath.splitext(base_name(image))[0] for image in images}
    texts = [name for name in files if extension_of(name) in sidecars.SIDECAR_EXTENSIONS]
    alike = [name for name in texts if posixpath.splitext(base_name(name))[0] in stems]
    if not alike:
        return ""
    return f" {named(alike)} would be captions if they were in the folders of their images."


def _failed(*problems: DatasetProblem) -> FoundCaptions:
    return FoundCaptions(captions=Captions(problems=problems))


def _tables_near(images: Iterable[str], files: Mapping[str, SeenFile]) -> dict[str, list[str]]:
    """The metadata files above the images, by their kind."""
    folders = {posixpath.dirname(image) for image in images}
    places = {}
    for ending in _TABLES:
        named_so = [
            name for name in files if base_name(name).lower() in METADATA_NAMES and extension_of(name) == ending
        ]
        holding = {posixpath.dirname(name): name for name in named_so}
        near = {
            holding[found] for folder in folders if (found := nearest(f"{folder}/_".lstrip("/"), holding)) is not None
        }
        places[ending[1:]] = sorted(near)
    return {place: names for place, names in places.items() if names}


def _only_table(files: Mapping[str, SeenFile]) -> dict[str, list[str]]:
    """The only table there is, whatever its name."""
    tables = [name for name in files if extension_of(name) in _TABLES]
    return {extension_of(tables[0])[1:]: tables} if len(tables) == 1 else {}


def _judge_encoding(texts: Mapping[str, bytes], encoding: str | None) -> tuple[DatasetProblem, ...]:
    other = [name for name, data in texts.items() if not is_utf8(data)]
    if not other:
        return ()
    unreadable = [name for name in other if not _can_read(texts[name], encoding)]
    if not unreadable:
        text = f"{counted(len(other), 'file')} not in UTF-8, converted: {named(other)}."
        return (problem("CX368", text, other),)
    sample = b"\n".join(texts[name] for name in unreadable)
    encoding_is = in_words(guesses(sample), file_count=len(unreadable))
    text = f"{counted(len(unreadable), 'file')} not in UTF-8: {named(unreadable)}; {encoding_is}."
    return (problem("CX336", text, unreadable),)


def _can_read(data: bytes, encoding: str | None) -> bool:
    try:
        decode(data, encoding)
    except UnicodeDecodeError:
        return False
    return True


def _from_sidecars(
    images: Iterable[str],
    beside: Mapping[str, Sequence[str]],
    files: Mapping[str, SeenFile],
    request: CaptionRequest,
) -> Captions:
    values: dict[str, object] = {}
    for image in images:
        data = files[beside[image][0]].text if image in beside else None
        values[image] = None if data is None else decode(data, request.encoding).strip()
    captions = judge_captions(values)
    several = {image: names for image, names in beside.items() if len(names) > 1}
    if not several:
        return captions
    first = next(iter(several.values()))
    losers = [name for names in several.values() for name in names[1:]]
    text = f"{counted(len(several), 'image')} with more than one caption file: {first[0]} is used, not {first[1]}."
    return attrs.evolve(captions, problems=(*captions.problems, problem("CX337", text, losers)))


def _from_tables(
    images: Sequence[str], tables: Sequence[Table], caption_column: str, left_out: frozenset[str]
) -> Captions:
    found = [problem("CX322", f"{table.file}: {table.fault}.", [table.file]) for table in tables if table.fault]
    for table in tables:
        lacking = [name for name in ("file_name", caption_column) if name not in table.columns and not table.fault]
        if lacking:
            text = f"{table.file} has no column {' and no column '.join(lacking)}; it has {', '.join(table.columns)}."
            found.append(problem("CX324", f"{text}{header_hint(table)}", [table.file]))
    if has_error(found):
        return Captions(problems=tuple(found))
    reunited = reunite(match(images, tables))
    if reunited.names:
        image, said = next(iter(reunited.names.items()))
        text = f"{counted(len(reunited.names), 'row')} for another spelling of the name: {said!r} is taken for {image}."
        found.append(problem("CX364", text, tuple(reunited.names)))
    matching = reunited.matching
    unused = {name: row for name, row in matching.unused.items() if name not in left_out}
    found += judge_matching(attrs.evolve(matching, unused=unused), len(images))
    captions = judge_captions({image: row.get(caption_column) for image, row in matching.rows.items()})
    return Captions(by_image=captions.by_image, problems=(*found, *captions.problems))


def _read_loosely(file: str, data: bytes, encoding: str | None) -> Table:
    """A table as its author meant it: columns that are not packed may hold anything."""
    text = decode(data, encoding)
    try:
        if extension_of(file) == ".csv":
            found = read_csv(text.encode(), missing=_EMPTY_CELL)
            return Table(file=file, columns=dict.fromkeys(found.types, ""), rows=found.rows, labels=found.labels)
        rows = tuple(json_objects(text))
    except ValueError as error:
        return Table(file=file, fault=str(error))
    return Table(file=file, columns=dict.fromkeys((name for row in rows for name in row), ""), rows=rows)
