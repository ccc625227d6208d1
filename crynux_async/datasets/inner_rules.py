"""What archives that lie inside a data set do to it, told by the names of what they hold.

Source: datasets 3.1.0 load.py (infer_module_for_data_files_list_in_archives), packaged_modules/folder_based_builder and
packaged_modules/webdataset.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs

from crynux_async.datasets.layout import IMAGE_EXTENSIONS, METADATA_NAMES, Layout, base_name, extension_of, loader_of
from crynux_async.datasets.problems import DatasetProblem, named, problem
from crynux_async.datasets.reading import Columns, SeenFile
from crynux_async.wording import counted

_TABLE_LOADERS: Final = ("parquet", "arrow")
# NUM_EXAMPLES_FOR_FEATURES_INFERENCE of packaged_modules/webdataset.
_EXAMPLES: Final = 5


@attrs.frozen(kw_only=True)
class InnerFindings:
    """What the archives inside mean.

    Attributes:
        problems: What was found.
        is_checked: False when a node may load something out of them that was not looked at.
    """

    problems: tuple[DatasetProblem, ...] = ()
    is_checked: bool = True


def judge_inner(files: Mapping[str, SeenFile], layout: Layout, columns: Columns) -> InnerFindings:
    """Say what a node makes of the archives among the files.

    Args:
        files: Every visible file.
        layout: What the loader makes of them.
        columns: The columns that training uses.

    Returns:
        The problems, and whether they say everything.
    """
    loaded = {name: files[name] for names in layout.splits.values() for name in names}
    zips = [seen for name, seen in loaded.items() if extension_of(name) == ".zip"]
    closed = [name for name in files if extension_of(name) in {".zip", ".tar"} and name not in loaded]
    found = [problem("CX306", f"Nodes do not open {named(closed)}: nothing in it is loaded.", closed)] if closed else []
    if layout.loader == "imagefolder":
        return InnerFindings(problems=(*found, *_beside_images(zips)))
    if layout.loader in _TABLE_LOADERS and zips:
        return _with(found, _beside_tables(zips, layout.loader))
    if layout.loader == "zip":
        return _with(found, _alone(zips, [name for name in files if base_name(name) in METADATA_NAMES]))
    if layout.loader == "webdataset":
        return _with(found, _webdataset(list(loaded.values()), columns))
    return InnerFindings(problems=tuple(found))


def _with(found: Sequence[DatasetProblem], more: InnerFindings) -> InnerFindings:
    return attrs.evolve(more, problems=(*found, *more.problems))


def _unknown(archives: Sequence[SeenFile]) -> InnerFindings:
    names = [seen.name for seen in archives]
    text = f"A node loads what is inside {named(names)}, which was not looked at."
    return InnerFindings(problems=(problem("CX306", text, names),), is_checked=False)


def _beside_images(zips: Sequence[SeenFile]) -> Iterator[DatasetProblem]:
    # An archive's images need their rows inside it, and for a metadata file inside it the loader has no name: it fails.
    for seen in zips:
        if seen.inside is None:
            text = f"A node opens {seen.name}, which is damaged or not what it seems, and stops."
            yield problem("CX307", text, [seen.name])
            continue
        inside = seen.inside
        images = [name for name in inside if extension_of(name) in IMAGE_EXTENSIONS]
        rows = [name for name in inside if base_name(name) in METADATA_NAMES]
        if images or rows:
            what = f"{counted(len(images), 'image')}" if images else base_name(rows[0])
            text = (
                f"A node opens {seen.name} too, finds {what} in it, and stops: rows and images must not be in archives."
            )
            yield problem("CX307", text, [seen.name])
        else:
            yield problem("CX306", f"{seen.name} holds nothing that a node loads.", [seen.name], severity="note")


def _beside_tables(zips: Sequence[SeenFile], loader: str) -> InnerFindings:
    strange = [seen.name for seen in zips if any(loader_of(name) != loader for name in seen.inside or ())]
    if strange:
        text = f"A node reads everything in {named(strange)} as {loader}, which not all of it is."
        return InnerFindings(problems=(problem("CX307", text, strange),))
    return _unknown(zips)


def _alone(zips: Sequence[SeenFile], beside: Sequence[str]) -> InnerFindings:
    suffixes = Counter(
        f".{suffix.lower()}" for seen in zips for name in seen.inside or () for suffix in base_name(name).split(".")[1:]
    )
    common = suffixes.most_common(1)
    loader = loader_of(f"x{common[0][0]}") if common else ""
    names = [seen.name for seen in zips]
    if loader in {*_TABLE_LOADERS, "webdataset"}:
        return _unknown(zips)
    if loader == "imagefolder":
        # The loader has no name for what is inside, so that it reads every metadata file there as JSON lines.
        rows = {base_name(name) for seen in zips for name in seen.inside or ()} & set(METADATA_NAMES)
        if rows and beside:
            text = f"A node finds metadata inside {named(names)} and in {named(beside)}, and stops: the two do not mix."
            return InnerFindings(problems=(problem("CX307", text, [*names, *beside]),))
        if rows == {"metadata.jsonl"}:
            return _unknown(zips)
        text = f"Images inside {named(names)} have no captions for a node: in an archive it reads metadata.jsonl only."
        return InnerFindings(problems=(problem("CX307", text, names),))
    text = f"A node would load {named(names)} as {loader or 'nothing that it knows'}, because of what is most frequent."
    return InnerFindings(problems=(problem("CX312", text, names),))


def _webdataset(archives: Sequence[SeenFile], columns: Columns) -> InnerFindings:
    first = next((seen for seen in archives if seen.inside), None)
    known = _webdataset_columns(first.inside or ()) if first else []
    lacking = [column for column in (columns.image, columns.caption) if column not in known]
    if first is not None and lacking:
        text = (
            f"A node names the columns of {first.name} after the extensions inside "
            f"({', '.join(known) or 'there are none'}): there is no {' and no '.join(lacking)}."
        )
        return InnerFindings(problems=(problem("CX324", text, [first.name]),))
    return _unknown(archives)


def _webdataset_columns(names: Sequence[str]) -> list[str]:
    """The columns of a WebDataset: everything after the first dot of a name, for the examples it is inferred from."""
    columns: dict[str, None] = {}
    keys: dict[str, None] = {}
    for name in names:
        stem, dot, field = base_name(name).partition(".")
        if not dot or not stem:
            continue
        keys.setdefault(name[: len(name) - len(field)])
        if len(keys) > _EXAMPLES:
            break
        columns.setdefault(field.lower())
    return list(columns)
