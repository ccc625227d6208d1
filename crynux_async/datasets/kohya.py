"""Folders as kohya's trainer wants them: ``img/10_sks dog`` repeats each image ten times, ``reg/1_dog`` regularizes.

Both are ideas of that trainer. Nodes see every image once an epoch, whatever its folder is called.

Source: kohya-ss sd-scripts docs/train_README (folder structure of the DreamBooth method).
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Final

from crynux_async.datasets.problems import DatasetProblem, named, problem
from crynux_async.wording import counted

# At most three digits: a folder such as 20240131_dog is dated, not repeated.
_REPEATS: Final = re.compile(r"([1-9][0-9]{0,2})_(.+)")


def is_regularization(image: str) -> bool:
    """Whether an image lies in a folder such as ``reg/1_dog``."""
    folders = image.split("/")[:-1]
    return any(first.lower() == "reg" and _REPEATS.fullmatch(second) for first, second in itertools.pairwise(folders))


def judge_repeats(images: Iterable[str]) -> tuple[DatasetProblem, ...]:
    """Say which folders' names mean repeats that do not happen.

    Args:
        images: Paths of images; those for regularization are another matter.

    Returns:
        The problem, or nothing.
    """
    folders: dict[str, list[str]] = {}
    for image in images:
        folder = image.rpartition("/")[0]
        if _REPEATS.fullmatch(folder.rpartition("/")[2]) and not is_regularization(image):
            folders.setdefault(folder, []).append(image)
    if not folders:
        return ()
    said = ", ".join(f"{folder!r}" for folder in list(folders)[:3])
    first = _REPEATS.fullmatch(next(iter(folders)).rpartition("/")[2])
    assert first is not None
    text = (
        f"In kohya's trainer {said} repeats images {first[1]} times and gives {first[2]!r} to those without a caption. "
        "A node does neither."
    )
    return (problem("CX338", text, [image for images_in in folders.values() for image in images_in]),)


def judge_regularization(images: Sequence[str], *, are_left_out: bool) -> tuple[DatasetProblem, ...]:
    """Say what becomes of images for regularization.

    Args:
        images: Their paths.
        are_left_out: Whether they are not packed.

    Returns:
        The problem, or nothing.
    """
    if not images:
        return ()
    what = f"{counted(len(images), 'image')} for regularization: {named(images)}"
    if are_left_out:
        return (problem("CX339", f"{what}. They are left out; nodes would train on them like on all others.", images),)
    return (problem("CX339", f"{what}. Nodes train on them like on all others.", images),)
