"""What can be wrong with names and folders: splits, loaders, files that decide how the rest is read."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from crynux_async.datasets.kohya import is_regularization, judge_regularization, judge_repeats
from crynux_async.datasets.layout import IMAGE_EXTENSIONS, Layout, base_name, extension_of, is_visible
from crynux_async.datasets.problems import DatasetProblem, named, problem
from crynux_async.datasets.spellings import judge_names
from crynux_async.wording import counted

_LOADERS: Final = frozenset(("imagefolder", "parquet", "arrow", "zip", "webdataset"))
_NO_LOADER: Final = "A node finds nothing that it can load"
_OTHER_PICTURES: Final = frozenset((".heic", ".heif", ".avif", ".jxl", ".svg"))


def judge_layout(names: Sequence[str], layout: Layout, *, stem: str) -> tuple[DatasetProblem, ...]:
    """Say what is wrong with how the files are named and placed.

    Args:
        names: Every file, also the invisible ones.
        layout: What the loader makes of them.
        stem: The folder's or archive's own name without ending: a Python file of this name is a loading script.

    Returns:
        The problems.
    """
    visible = [name for name in names if is_visible(name)]
    found = [*_judge_loader(visible, layout), *_judge_splits(visible, layout), *_judge_others(visible)]
    found += judge_names(visible)
    images = [name for name in visible if is_image(name)]
    found += judge_repeats(images)
    found += judge_regularization([name for name in images if is_regularization(name)], are_left_out=False)
    if "state.json" in names:
        text = "state.json says that this was written by save_to_disk(), which a node refuses to load."
        found.append(problem("CX308", text, ["state.json"]))
    if f"{stem}.py" in names:
        text = f"{stem}.py has the name of the data set, so a node takes it for the data set's program and refuses it."
        found.append(problem("CX316", text, [f"{stem}.py"]))
    return tuple(found)


def judge_left_out(others: Sequence[str], other_splits: Sequence[str]) -> tuple[DatasetProblem, ...]:
    """Say which files pack() does not take.

    Args:
        others: Files that are no images and hold no captions that are used.
        other_splits: Images of other splits than train.

    Returns:
        The problems, none of them an error.
    """
    found = []
    if other_splits:
        text = f"{counted(len(other_splits), 'image')} of other splits not packed: {named(other_splits)}."
        found.append(problem("CX314", text, other_splits))
    pictures = [name for name in others if extension_of(name) in _OTHER_PICTURES]
    if pictures:
        found.append(problem("CX319", f"Nodes do not load {named(pictures)}.", pictures))
    rest = [name for name in others if extension_of(name) not in _OTHER_PICTURES]
    if rest:
        found.append(problem("CX349", f"{counted(len(rest), 'file')} not packed: {named(rest)}.", rest))
    return tuple(found)


def is_image(name: str) -> bool:
    """Whether a file has an image's extension, in any case of letters."""
    return extension_of(name) in IMAGE_EXTENSIONS


def _judge_loader(visible: Sequence[str], layout: Layout) -> Iterable[DatasetProblem]:
    loaders = set(layout.loaders.values())
    if layout.fault:
        yield problem("CX313", f"{layout.fault}.")
    elif len(loaders) > 1:
        kinds = ", ".join(f"{split}: {loader or 'nothing'}" for split, loader in layout.loaders.items())
        yield problem("CX313", f"The splits would be loaded in different ways ({kinds}), and a node refuses that.")
    elif layout.loader == "text" and any(is_image(name) for name in visible):
        texts = [name for name in visible if ".txt" in base_name(name)[1:]]
        text = f"Because of {counted(len(texts), 'name')} in .txt, a node loads texts and no image: {named(texts)}."
        yield problem("CX321", text, texts)
    elif not layout.loader:
        yield problem("CX305", f"{_NO_LOADER}." if visible else "There are no files.")
    elif layout.loader not in _LOADERS:
        yield problem("CX312", f"A node loads this as {layout.loader}, because of the files that are most frequent.")


def _judge_splits(visible: Sequence[str], layout: Layout) -> Iterable[DatasetProblem]:
    if layout.splits and "train" not in layout.splits:
        yield problem("CX310", f"{_reason(layout)}, so there is no split named train, and training fails.")
    others = [split for split in layout.splits if split != "train"]
    if others and "train" in layout.splits:
        yield problem("CX314", f"There are other splits too: {', '.join(others)}.")
    loaded = {name for files in layout.splits.values() for name in files}
    images = [name for name in visible if is_image(name)]
    mixed = [name for name in images if _is_mixed(name)]
    if mixed and layout.loader in {"imagefolder", ""}:
        yield problem("CX318", f"{counted(len(mixed), 'image')} left out: {named(mixed)}.", mixed)
    chained = [name for name in images if "::" in name]
    if chained:
        yield problem("CX309", f"Nodes take '::' for the border between two addresses: {named(chained)}.", chained)
    lost = [name for name in images if name not in loaded and not _is_mixed(name) and "::" not in name]
    is_meant = layout.loader == "imagefolder" or "train" not in layout.splits
    if lost and is_meant and layout.rule != "all" and layout.splits:
        text = f"{_reason(layout)}, which silently leaves out {counted(len(lost), 'image')}: {named(lost)}."
        yield problem("CX311", text, lost)
    twice = [name for files in layout.splits.values() for name, count in Counter(files).items() if count > 1]
    if twice and layout.loader == "imagefolder":
        yield problem("CX317", f"They name their split more than once and count as often: {named(twice)}.", twice)


def _is_mixed(name: str) -> bool:
    # datasets 3.1.0 lists each extension in lower and in upper case, and compares letter by letter.
    extension = name.rpartition(".")[2]
    return extension not in {extension.lower(), extension.upper()}


def _reason(layout: Layout) -> str:
    first = next((files[0] for files in layout.splits.values() if files), "")
    what = {"folders": "A folder", "files": "A file", "shards": "A file in data/"}.get(layout.rule, "Something")
    return f"{what} is named like a split ({' and '.join(layout.splits)}{f': {first}' if first else ''})"


def _judge_others(visible: Sequence[str]) -> Iterable[DatasetProblem]:
    other = [name for name in visible if extension_of(name) in _OTHER_PICTURES]
    if other:
        yield problem("CX319", f"Nodes do not load {named(other)}.", other)
