"""What can be wrong with the images themselves."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from crynux_async.datasets.images import ImageFacts
from crynux_async.datasets.problems import DatasetProblem, named, problem
from crynux_async.datasets.reading import SeenFile
from crynux_async.wording import counted

FEW_IMAGES: Final = 5
"""Below this many train images a warning is given."""


def judge_images(images: Mapping[str, ImageFacts], *, resolution: int, center_crop: bool) -> tuple[DatasetProblem, ...]:
    """Say what is wrong with the images of the train split.

    A node scales the shorter side to the resolution and cuts a square out of the longer one.

    Args:
        images: What is known of each.
        resolution: The training resolution in pixels, >= 1.
        center_crop: Whether the square is cut out of the middle; otherwise it is anywhere, anew each time.

    Returns:
        The problems.

    Source: stable-diffusion-task finetune_lora.py (train_transforms).
    """
    good = usable_images(images)
    found = list(judge_broken(images))
    small = [name for name, facts in good.items() if min(facts.width, facts.height) < resolution]
    if small:
        text = f"{counted(len(small), 'image')} with a side below {resolution} pixels: {named(small)}."
        found.append(problem("CX341", text, small))
    cut = {name: _cut_share(facts, resolution) for name, facts in good.items()}
    cropped = [name for name, share in cut.items() if share > 0]
    if cropped and not center_crop:
        text = f"{counted(len(cropped), 'image')} cut at random, by up to {round(100 * max(cut.values()))} %"
        text = f"{text}: {named(cropped)}. Captions may name what is cut off."
        found.append(problem("CX342", text, cropped))
    return tuple(found)


def judge_broken(images: Mapping[str, ImageFacts]) -> tuple[DatasetProblem, ...]:
    """Say which images cannot be opened, or do not look on a node as they do here.

    Args:
        images: What is known of each.

    Returns:
        The problems.
    """
    kinds = (
        ("CX345", "too many pixels", [name for name, facts in images.items() if facts.is_too_large]),
        ("CX346", "transparent pixels", [name for name, facts in images.items() if facts.is_transparent]),
        ("CX347", "more than 8 bits a channel", [name for name, facts in images.items() if facts.is_deep]),
    )
    found = [
        problem(code, f"{counted(len(files), 'image')} with {what}: {named(files)}.", files)
        for code, what, files in kinds
        if files
    ]
    broken = [name for name, facts in images.items() if facts.fault]
    if broken:
        text = f"{counted(len(broken), 'image')} that cannot be opened: {named(broken)} ({images[broken[0]].fault})."
        found.append(problem("CX340", f"{text} Training fails at the first of them.", broken))
    return tuple(found)


def usable_images(images: Mapping[str, ImageFacts]) -> dict[str, ImageFacts]:
    """Those images that a node can open."""
    return {name: facts for name, facts in images.items() if not facts.fault and not facts.is_too_large}


def judge_amount(train: Sequence[SeenFile]) -> tuple[DatasetProblem, ...]:
    """Say what is wrong with the number of images and with copies among them.

    Args:
        train: The images of the train split.

    Returns:
        The problems.
    """
    found = []
    if not train:
        found.append(problem("CX305", "There is no image in the train split."))
    elif len(train) < FEW_IMAGES:
        found.append(problem("CX344", f"There {'is' if len(train) == 1 else 'are'} {counted(len(train), 'image')}."))
    copies = [name for group in copies_of(train) for name in group]
    if copies:
        text = f"{counted(len(copies), 'image')} with the same content as another: {named(copies)}."
        found.append(problem("CX343", text, copies))
    return tuple(found)


def copies_of(train: Iterable[SeenFile]) -> tuple[tuple[str, ...], ...]:
    """Groups of files with the same content, each with at least two names; files without any are no copies."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for seen in train:
        if seen.size:
            groups[seen.sha256].append(seen.name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def _cut_share(facts: ImageFacts, resolution: int) -> float:
    # torchvision's Resize sets the shorter side and rounds the longer one down; then a square is cut out.
    short, long = sorted((facts.width, facts.height))
    scaled = resolution * long // short
    return (scaled - resolution) / scaled
