"""Rows whose names are not those of the files to the letter, and the images that they are certainly meant for.

Nodes compare names as bytes; when an archive is packed, every image gets a new name anyway.
"""

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from crynux_async.datasets.layout import base_name
from crynux_async.datasets.matching import Matching, folded
from crynux_async.datasets.spellings import lookalikes
from crynux_async.datasets.tables import normal_name


@attrs.frozen(kw_only=True)
class Reunited:
    """Rows and images, brought together once more.

    Attributes:
        matching: What belongs together now.
        names: What each row that was found says, by image.
    """

    matching: Matching
    names: Mapping[str, str]


def reunite(matching: Matching) -> Reunited:
    """Find the images of rows that no loader would find.

    Args:
        matching: What a loader finds.

    Returns:
        The same with those rows added of which each fits exactly one image, and the image no other row: by the path
        but for letter case, Unicode form and encoding, by the path below the whole folder, by the last part of the
        path, by that without extension.
    """
    missing, unused = list(matching.missing), dict(matching.unused)
    rows, names = dict(matching.rows), dict[str, str]()
    for image, row in _in_other_encodings(missing, unused).items():
        rows[image], names[image] = unused.pop(row), row
        missing.remove(image)
    for key_of_image, key_of_row in _WAYS:
        for image, row in _pairs(missing, unused, key_of_image, key_of_row):
            rows[image], names[image] = unused.pop(row), row
            missing.remove(image)
    changed = attrs.evolve(matching, rows=rows, missing=tuple(missing), unused=unused)
    return Reunited(matching=changed, names=names)


def _in_other_encodings(missing: Iterable[str], unused: Iterable[str]) -> dict[str, str]:
    found = {image: alike.row for image, alike in lookalikes(missing, unused).items() if alike.encoding}
    counts = Counter(found.values())
    return {image: row for image, row in found.items() if counts[row] == 1}


_Key = Callable[[str, Mapping[str, object]], str]


def _pairs(
    images: Iterable[str],
    rows: Mapping[str, Mapping[str, object]],
    key_of_image: Callable[[str], str],
    key_of_row: _Key,
) -> list[tuple[str, str]]:
    images_by_key = _unique((key_of_image(image), image) for image in images)
    rows_by_key = _unique((key_of_row(name, row), name) for name, row in rows.items())
    return [(image, rows_by_key[key]) for key, image in images_by_key.items() if key in rows_by_key]


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    known = list(pairs)
    counts = Counter(key for key, _ in known)
    return {key: value for key, value in known if counts[key] == 1}


def _said(row: Mapping[str, object]) -> str:
    return folded(normal_name(str(row["file_name"])))


def _stem(name: str) -> str:
    return posixpath.splitext(base_name(name))[0]


_WAYS: Final[tuple[tuple[Callable[[str], str], _Key], ...]] = (
    (folded, lambda name, row: folded(name)),
    (folded, lambda name, row: _said(row)),
    (lambda image: folded(base_name(image)), lambda name, row: base_name(_said(row))),
    (lambda image: folded(_stem(image)), lambda name, row: _stem(_said(row))),
)
