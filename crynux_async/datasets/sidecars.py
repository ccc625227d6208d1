"""Caption files beside images: ``cat.txt`` or ``cat.caption`` for ``cat.jpg``, whatever the case of their letters."""

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from crynux_async.datasets.layout import extension_of
from crynux_async.datasets.matching import folded

SIDECAR_EXTENSIONS: Final = (".txt", ".caption")
"""The extensions of caption files, the one that wins first."""


def find_sidecars(images: Sequence[str], files: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Find the caption files of images.

    A file whose name fits but for the case of its extension goes before one that fits but for the case of other letters
    or its Unicode form. It belongs to no other image then, and what may belong to several images belongs to none.

    Args:
        images: The images' paths.
        files: The paths of all files.

    Returns:
        The caption files of each image that has any, the one that wins first.
    """
    there = sorted(name for name in files if extension_of(name) in SIDECAR_EXTENSIONS)
    exact = _claimed(images, there, _plain)
    taken = {name for names in exact.values() for name in names}
    alike = _claimed(images, [name for name in there if name not in taken], folded)
    claims = Counter(name for names in alike.values() for name in names)
    found = {image: (*exact[image], *(name for name in alike[image] if claims[name] == 1)) for image in images}
    return {image: names for image, names in found.items() if names}


def _claimed(images: Sequence[str], names: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    """The files that have the name of an image, as the key sees names, in the order in which they win."""
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault(key(name), []).append(name)
    return {image: [name for wanted in _names_for(image) for name in by_key.get(key(wanted), ())] for image in images}


def _names_for(image: str) -> tuple[str, ...]:
    stem = posixpath.splitext(image)[0]
    return tuple(f"{base}{ending}" for ending in SIDECAR_EXTENSIONS for base in (stem, image))


def _plain(name: str) -> str:
    stem, extension = posixpath.splitext(name)
    return f"{stem}{extension.lower()}"
