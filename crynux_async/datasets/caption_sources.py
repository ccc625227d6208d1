"""Where the captions of a folder are: .txt files beside the images, or a table."""

import posixpath
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import attrs

from crynux_async.datasets.caption_rules import Captions, judge_captions
from crynux_async.datasets.layout import METADATA_NAMES, base_name, extension_of
from crynux_async.datasets.matching import match, nearest
from crynux_async.datasets.metadata_rules import judge_matching
from crynux_async.datasets.problems import DatasetProblem, has_error, named, problem
from crynux_async.datasets.reading import SeenFile
from crynux_async.datasets.tables import Table, read_table

CaptionSource = Literal["auto", "txt", "csv", "jsonl"]
"""Where pack() takes the captions from; ``auto``: from the only place where there are any."""

_SIDECARS: Final = (".txt", ".caption")
_TABLES: Final = (".csv", ".jsonl")
# A CSV that is packed as JSON lines may say "None" and mean it; only an empty cell is no caption.
_EMPTY_CELL: Final = frozenset(("",))


@attrs.frozen(kw_only=True)
class FoundCaptions:
    """The captions of a folder.

    Attributes:
        captions: The usable ones and the problems of the others.
        used: The files that they were taken from.
    """

    captions: Captions
    used: frozenset[str] = frozenset()


def is_caption_file(name: str) -> bool:
    """Whether a file may hold captions, by its extension."""
    return extension_of(name) in {*_SIDECARS, *_TABLES}


def find_captions(
    images: Sequence[str],
    files: Mapping[str, SeenFile],
    *,
    source: CaptionSource,
    caption_column: str,
    left_out: frozenset[str] = frozenset(),
) -> FoundCaptions:
    """Find a caption for every image.

    Args:
        images: The images to be packed.
        files: All files of the folder.
        source: Where to look.
        caption_column: The column of a table that holds the captions.
        left_out: Images that are not packed on purpose: their rows are no mistake.

    Returns:
        The captions, and what is wrong.
    """
    places = _places(images, files)
    wanted = [place for place in places if source in {"auto", place}]
    if not wanted:
        where = "No captions were found" if source == "auto" else f"There are no captions in a .{source} file"
        return _failed(problem("CX320", f"{where}."))
    if len(wanted) > 1:
        return _failed(problem("CX348", f"Captions are in {' and '.join(f'.{place}' for place in wanted)} files."))
    chosen = wanted[0]
    if chosen == "txt":
        return _from_sidecars(images, files, places[chosen])
    tables = [read_table(name, files[name].text or b"", missing=_EMPTY_CELL) for name in places[chosen]]
    return _from_tables(images, tables, caption_column, left_out)


def _failed(*problems: DatasetProblem) -> FoundCaptions:
    return FoundCaptions(captions=Captions(problems=problems))


def _places(images: Sequence[str], files: Mapping[str, SeenFile]) -> dict[str, list[str]]:
    """The kinds of sources that there are, and the files of each."""
    folders = {posixpath.dirname(image) for image in images}
    places = {"txt": [name for image in images for name in _sidecars_of(image) if name in files]}
    for ending in _TABLES:
        named_so = [name for name in files if base_name(name) in METADATA_NAMES and extension_of(name) == ending]
        holding = {posixpath.dirname(name): name for name in named_so}
        near = {
            holding[found] for folder in folders if (found := nearest(f"{folder}/_".lstrip("/"), holding)) is not None
        }
        places[ending[1:]] = sorted(near)
    if not any(places.values()):
        # No metadata.csv or .jsonl: any single table will do, whatever its name.
        others = [name for name in files if extension_of(name) in _TABLES]
        if len(others) == 1:
            places[extension_of(others[0])[1:]] = others
    return {place: names for place, names in places.items() if names}


def _sidecars_of(image: str) -> tuple[str, ...]:
    stem = posixpath.splitext(image)[0]
    return tuple(f"{base}{ending}" for base in (stem, image) for ending in _SIDECARS)


def _from_sidecars(images: Sequence[str], files: Mapping[str, SeenFile], used: Sequence[str]) -> FoundCaptions:
    values: dict[str, object] = {}
    unreadable = []
    for image in images:
        name = next((name for name in _sidecars_of(image) if name in files), None)
        try:
            values[image] = None if name is None else (files[name].text or b"").decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            unreadable.append(name or image)
    captions = judge_captions(values)
    problems = captions.problems
    if unreadable:
        problems = (*problems, problem("CX322", f"Not UTF-8: {named(unreadable)}.", unreadable))
    return FoundCaptions(captions=Captions(by_image=captions.by_image, problems=problems), used=frozenset(used))


def _from_tables(
    images: Sequence[str], tables: Sequence[Table], caption_column: str, left_out: frozenset[str]
) -> FoundCaptions:
    used = frozenset(table.file for table in tables)
    found = [problem("CX322", f"{table.file}: {table.fault}.", [table.file]) for table in tables if table.fault]
    for table in tables:
        lacking = [name for name in ("file_name", caption_column) if name not in table.columns and not table.fault]
        if lacking:
            text = f"{table.file} has no column {' and no column '.join(lacking)}; it has {', '.join(table.columns)}."
            found.append(problem("CX324", text, [table.file]))
    if has_error(found):
        return FoundCaptions(captions=Captions(problems=tuple(found)), used=used)
    matching = match(images, tables)
    unused = tuple(name for name in matching.unused if name not in left_out)
    found += judge_matching(attrs.evolve(matching, unused=unused), len(images))
    captions = judge_captions({image: row.get(caption_column) for image, row in matching.rows.items()})
    return FoundCaptions(
        captions=Captions(by_image=captions.by_image, problems=(*found, *captions.problems)), used=used
    )
