"""Names that are not what was meant: in another encoding, with backslashes for folders, nearly ``metadata.jsonl``.

Source: zipfile of Python's library (a name without its UTF-8 mark is taken for code page 437; only on Windows is a
backslash a separator); tarfile (bytes that are not UTF-8 become halves of surrogates).
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import attrs

from crynux_async.datasets.layout import METADATA_NAMES, base_name
from crynux_async.datasets.matching import folded
from crynux_async.datasets.problems import DatasetProblem, named, problem
from crynux_async.datasets.text_encodings import LEGACY_ENCODINGS

_ALIKE: Final = 0.8


@attrs.frozen(kw_only=True)
class Lookalike:
    """The name in a row that is certainly that of an image.

    Attributes:
        row: The name in the row.
        encoding: What the image's name is in, or ``""`` when only letter case or Unicode form differ.
    """

    row: str
    encoding: str = ""


def lookalikes(missing: Iterable[str], unused: Iterable[str]) -> dict[str, Lookalike]:
    """Images without a row and rows without an image that have the same name, spelt otherwise.

    Args:
        missing: Images without a row.
        unused: Names of rows without an image.

    Returns:
        For each such image, what the row says.
    """
    by_look = {folded(name): name for name in unused}
    found: dict[str, Lookalike] = {}
    for image in missing if by_look else ():
        for encoding, reading in (("", image), *readings(image)):
            if image not in found and folded(reading) in by_look:
                found[image] = Lookalike(row=by_look[folded(reading)], encoding=encoding)
    return found


def readings(name: str) -> Iterator[tuple[str, str]]:
    """What a name may have been, with the encoding in which it reads so.

    Args:
        name: A name as it was extracted; of one in ASCII there is only one reading.
    """
    raw = _bytes_of(name)
    for encoding in ("utf-8", *LEGACY_ENCODINGS) if raw else ():
        try:
            yield encoding, raw.decode(encoding)
        except UnicodeDecodeError:
            continue


def judge_names(names: Sequence[str]) -> tuple[DatasetProblem, ...]:
    """Say which names are not what was meant.

    Args:
        names: Every visible file.

    Returns:
        The problems; none of them is an error by itself.
    """
    found = list(judge_near_misses(names))
    backslashes = [name for name in names if "\\" in name]
    if backslashes:
        text = (
            f"Backslashes are part of these names, where folders were meant: {named(backslashes)}. Extract the archive "
            "on the system that it comes from, and pack() the folder."
        )
        found.append(problem("CX309", text, backslashes, severity="warning"))
    return tuple(found)


def judge_near_misses(names: Sequence[str]) -> tuple[DatasetProblem, ...]:
    """Say which files are nearly named as metadata must be, in folders that have none.

    Args:
        names: Every visible file.

    Returns:
        The problem, or nothing.
    """
    with_metadata = {name.rpartition("/")[0] for name in names if base_name(name) in METADATA_NAMES}
    near = [name for name in names if name.rpartition("/")[0] not in with_metadata and _is_near(name)]
    if not near:
        return ()
    text = f"Only files named {' or '.join(METADATA_NAMES)}, to the letter, are taken for metadata: not {named(near)}."
    return (problem("CX367", text, near),)


def _is_near(name: str) -> bool:
    base = base_name(name.replace("\\", "/"))
    return bool(difflib.get_close_matches(base.lower(), METADATA_NAMES, 1, cutoff=_ALIKE))


def _bytes_of(name: str) -> bytes:
    """The bytes that a name was made of when it was not read as UTF-8; nothing when that cannot have been."""
    if name.isascii():
        return b""
    try:
        return name.encode("cp437")
    except UnicodeEncodeError:
        halves = any("\udc80" <= letter <= "\udcff" for letter in name)
        return name.encode("utf-8", "surrogateescape") if halves else b""


def in_words(found: Mapping[str, Lookalike]) -> str:
    """What to say of the first of them, with a space in front; nothing when there is none."""
    for image, alike in found.items():
        if alike.encoding:
            return (
                f" The row for {alike.row!r} is meant for {image!r}, whose name is in {alike.encoding}: extract "
                "the archive so, and pack() the folder."
            )
        return f" A row is for {alike.row!r}: the same but for its letters."
    return ""
