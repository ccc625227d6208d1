"""Caption files beside images: ``cat.txt`` or ``cat.caption`` for ``cat.jpg``, whatever the case of their letters."""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from crynux_async.datasets.matching import folded

SIDECAR_EXTENSIONS: Final = (".txt", ".caption")
"""The extensions of caption files, the one that wins first."""


def find_sidecars(images: Sequence[str], files: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Find the caption files of images.

    A file whose name fits to the letter goes before one that fits but for the case of letters or its Unicode form, and
    belongs to no other image then.

    Args:
        images: The images' paths.
        files: The paths of all files.

    Returns:
        The caption files of each image that has any, the one that wins first.
    """
    there = set(files)
    exact = {image: [name for name in _names_for(image) if name in there] for image in images}
    taken = {name for names in exact.values() for name in names}
    spare: dict[str, list[str]] = {}
    for name in sorted(there - taken):
        spare.setdefault(folded(name), []).append(name)
    found = {image: tuple(exact[image]) or _alike(image, spare) for image in images}
    return {image: names for image, names in found.items() if names}


def _names_for(image: str) -> tuple[str, ...]:
    stem = posixpath.splitext(image)[0]
    return tuple(f"{base}{ending}" for ending in SIDECAR_EXTENSIONS for base in (stem, image))


def _alike(image: str, spare: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    return tuple(name for wanted in _names_for(image) for name in spare.get(folded(wanted), ()))
