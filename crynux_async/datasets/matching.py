"""Which row of which metadata file belongs to which image.

An image takes the metadata file in its own folder or else in the nearest folder above; within one file, the last of two
rows with the same name wins.

Source: datasets 3.1.0 folder_based_builder.py (_generate_examples).
"""

import posixpath
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import attrs

from crynux_async.datasets.tables import Table, normal_name


@attrs.frozen(kw_only=True)
class Matching:
    """Images and rows, brought together.

    Attributes:
        rows: The row of each image that has one.
        missing: Images without a row, in order.
        unused: The rows that belong to no image, by their names as paths below the folder.
        repeated: Images that have more than one row in their metadata file.
        unnamed: The metadata files with a row that names no file, which no loader survives.
    """

    rows: Mapping[str, Mapping[str, object]]
    missing: tuple[str, ...]
    unused: Mapping[str, Mapping[str, object]]
    repeated: tuple[str, ...]
    unnamed: tuple[str, ...]


def match(images: Iterable[str], tables: Sequence[Table]) -> Matching:
    """Find the row of every image.

    Args:
        images: Paths below the folder.
        tables: The metadata files that could be read.

    Returns:
        What belongs together, and what has no counterpart.
    """
    by_folder = {posixpath.dirname(table.file): _Rows(table) for table in tables}
    rows: dict[str, Mapping[str, object]] = {}
    missing: list[str] = []
    for image in dict.fromkeys(images):
        near = nearest(image, by_folder)
        found = None if near is None else by_folder[near].take(image[len(near) + 1 :] if near else image)
        if found is None:
            missing.append(image)
        else:
            rows[image] = found
    return Matching(
        rows=rows,
        missing=tuple(missing),
        unused={
            posixpath.join(folder, name): row
            for folder, table in by_folder.items()
            for name, row in table.unused().items()
        },
        repeated=tuple(
            posixpath.join(folder, name) for folder, table in by_folder.items() for name in sorted(table.repeated)
        ),
        unnamed=tuple(table.file for table in by_folder.values() if table.has_unnamed),
    )


def nearest(image: str, folders: Iterable[str]) -> str | None:
    """The folder, of those given, that is the image's own or the nearest above it; None when there is none."""
    # As the loader: it goes up from the image's folder until a metadata file is there, and never looks beside it.
    above = [folder for folder in folders if not folder or image.startswith(f"{folder}/")]
    return max(above, key=len, default=None)


def folded(name: str) -> str:
    """A name as people see it: the same for names that differ in letter case or Unicode form only."""
    # macOS stores decomposed names and tables are typed composed; nodes compare bytes.
    return unicodedata.normalize("NFC", name).casefold()


class _Rows:
    """The rows of one table by name, and which of them were asked for."""

    __slots__ = ("_rows", "_taken", "file", "has_unnamed", "repeated")

    def __init__(self, table: Table) -> None:
        self.file = table.file
        self.has_unnamed = False
        self.repeated: set[str] = set()
        self._rows: dict[str, Mapping[str, object]] = {}
        self._taken: set[str] = set()
        for row in table.rows:
            self._add(row)

    def _add(self, row: Mapping[str, object]) -> None:
        # datasets 3.1.0 takes the normal form of every name, and stops with a TypeError at one that is no text.
        value = row.get("file_name")
        if not isinstance(value, str):
            self.has_unnamed = True
            return
        name = normal_name(value)
        if name in self._rows:
            self.repeated.add(name)
        self._rows[name] = row

    def take(self, name: str) -> Mapping[str, object] | None:
        # The loader turns backslashes in both names, so an image with one in its name finds its row.
        self._taken.add(name.replace("\\", "/"))
        return self._rows.get(name.replace("\\", "/"))

    def unused(self) -> dict[str, Mapping[str, object]]:
        return {name: row for name, row in self._rows.items() if name not in self._taken}
