"""check(): what a node would make of a data set, before it is paid for."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from crynux_async.datasets.archives import ending_of
from crynux_async.datasets.caption_rules import Captions
from crynux_async.datasets.captions import Caption, estimated_tokens, texts_of
from crynux_async.datasets.image_rules import copies_of, judge_amount, judge_images, usable_images
from crynux_async.datasets.layout import METADATA_NAMES, Layout, base_name, is_visible, lay_out
from crynux_async.datasets.layout_rules import is_image, judge_layout
from crynux_async.datasets.metadata_rules import judge_metadata
from crynux_async.datasets.problems import DatasetProblem, has_error, in_order, named, problem
from crynux_async.datasets.reading import Limits, ParquetFacts, Scan, SeenFile, content_hash, scan
from crynux_async.datasets.report import DatasetReport, Spread
from crynux_async.datasets.tables import read_table
from crynux_async.errors import UsageError

_README: Final = "README.md"
_TEXT_TYPES: Final = ("string", "large_string")


@attrs.frozen(kw_only=True)
class _Asked:
    image_column: str
    caption_column: str
    resolution: int
    center_crop: bool


@attrs.frozen(kw_only=True)
class _Content:
    """What the loader gets out of the files."""

    train: tuple[SeenFile, ...] = ()
    captions: Mapping[str, Caption] = attrs.field(factory=dict)
    split_counts: Mapping[str, int] = attrs.field(factory=dict)
    problems: tuple[DatasetProblem, ...] = ()


def check(
    path: str | Path,
    *,
    image_column: str = "image",
    caption_column: str = "text",
    resolution: int = 512,
    center_crop: bool = False,
    limits: Limits | None = None,
) -> DatasetReport:
    """Read a folder or archive the way a node does, and say what will not work.

    Every file is read once, and every image is decoded: run it in a thread when an event loop is waiting. Nothing is
    written, extracted or executed.

    Args:
        path: A folder, or a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz.
        image_column: The config's ``dataset_image_column``.
        caption_column: The config's ``dataset_caption_column``.
        resolution: The training resolution in pixels, >= 1.
        center_crop: The config's ``center_crop``.
        limits: How much is read at most.

    Returns:
        The problems and the statistics.

    Raises:
        UsageError: There is no such path, the resolution is below 1, or Pillow is not installed.

    Source: datasets 3.1.0, which nodes run; stable-diffusion-task finetune_lora.py.
    """
    if resolution < 1:
        raise UsageError(f"resolution must be at least 1, not {resolution}", field="resolution")
    asked = _Asked(
        image_column=image_column, caption_column=caption_column, resolution=resolution, center_crop=center_crop
    )
    seen = scan(Path(path), limits=limits or Limits(), keep=_is_kept)
    # When reading stopped in the middle, whatever is missing is no finding.
    if not seen.is_complete:
        return _report(Path(path), seen, Layout(rule="none"), _Content(problems=seen.problems))
    files = {file.name: file for file in seen.files}
    layout = lay_out(files)
    # Its YAML head may say which files are which split (datasets 3.1.0 metadata_configs): that is not followed here.
    readme = files[_README].text if _README in files else b""
    problems = judge_layout(tuple(files), layout, stem=_stem(Path(path)), readme=readme or b"")
    content = _content(files, layout, asked)
    problems = (*seen.problems, *problems, *content.problems, *_judge_train(content, layout, asked))
    return _report(Path(path), seen, layout, attrs.evolve(content, problems=problems))


def _is_kept(name: str) -> bool:
    return name == _README or (base_name(name) in METADATA_NAMES and is_visible(name))


def _stem(path: Path) -> str:
    """The name of the folder that a node loads: the archive's without its ending."""
    name = path.resolve().name
    return name[: len(name) - len(ending_of(name))] if path.is_file() else name


def _content(files: Mapping[str, SeenFile], layout: Layout, asked: _Asked) -> _Content:
    if layout.loader == "imagefolder":
        return _image_folder(files, layout, asked)
    if layout.loader == "parquet":
        return _parquet(files, layout, asked)
    return _Content()


def _image_folder(files: Mapping[str, SeenFile], layout: Layout, asked: _Asked) -> _Content:
    images = [name for split in layout.splits for name in layout.images(split)]
    train = tuple(dict.fromkeys(layout.images("train")))
    found = []
    if asked.image_column != "image":
        text = f"The image column of a folder of images is always named image, not {asked.image_column}."
        found.append(problem("CX324", text))
    if layout.metadata:
        tables = [read_table(name, files[name].text or b"") for name in layout.metadata]
        captions = judge_metadata(images, train, tables, caption_column=asked.caption_column)
    elif images:
        text = f"Without metadata.jsonl there is no column {asked.caption_column}, and training fails."
        captions = Captions(problems=(problem("CX320", text),))
    else:
        captions = Captions()
    return _Content(
        train=tuple(files[name] for name in train),
        captions=captions.by_image,
        split_counts={split: len(layout.images(split)) for split in layout.splits},
        problems=(*found, *captions.problems),
    )


def _parquet(files: Mapping[str, SeenFile], layout: Layout, asked: _Asked) -> _Content:
    tables = {name: facts for split in layout.splits.values() for name in split if (facts := files[name].parquet)}
    unread = [
        name for split in layout.splits.values() for name in split if name.endswith(".parquet") and name not in tables
    ]
    found = []
    if unread:
        found.append(problem("CX332", f"The columns of {named(unread)} are not known.", unread))
    for name, facts in tables.items():
        found += _judge_parquet(name, facts, asked)
    counts = {
        split: sum(tables[name].rows for name in names if name in tables) for split, names in layout.splits.items()
    }
    if not unread and not counts.get("train") and not has_error(found):
        found.append(problem("CX305", "There is no row in the train split."))
    return _Content(split_counts={} if unread else counts, problems=tuple(found))


def _judge_parquet(name: str, facts: ParquetFacts, asked: _Asked) -> list[DatasetProblem]:
    if facts.fault:
        return [problem("CX302", f"{name} cannot be read: {facts.fault}.", [name])]
    columns = ", ".join(facts.columns)
    found = [
        problem("CX324", f"{name} has no column {column}; it has {columns}.", [name])
        for column in (asked.image_column, asked.caption_column)
        if column not in facts.columns
    ]
    if asked.image_column in facts.columns and asked.image_column not in facts.images:
        found.append(problem("CX333", f"The column {asked.image_column} of {name} is not marked as images.", [name]))
    kind = facts.columns.get(asked.caption_column, "string")
    if kind not in _TEXT_TYPES and not ("list<" in kind and "string" in kind):
        found.append(problem("CX328", f"The captions in {name} are {kind}, not text.", [name]))
    return found


def _judge_train(content: _Content, layout: Layout, asked: _Asked) -> tuple[DatasetProblem, ...]:
    if layout.loader != "imagefolder" or "train" not in layout.splits:
        return ()
    facts = {file.name: file.image for file in content.train if file.image is not None}
    amount = judge_amount(content.train)
    return (*amount, *judge_images(facts, resolution=asked.resolution, center_crop=asked.center_crop))


def _report(path: Path, seen: Scan, layout: Layout, content: _Content) -> DatasetReport:
    facts = usable_images({file.name: file.image for file in content.train if file.image is not None})
    sizes = Counter((image.width, image.height) for image in facts.values())
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    texts = [text for caption in content.captions.values() for text in texts_of(caption)]
    rows = content.split_counts.get("train", 0) if layout.loader == "parquet" else None
    return DatasetReport(
        path=str(path),
        kind=seen.kind,
        loader=layout.loader,
        problems=in_order(content.problems),
        image_count=sum(is_image(file.name) for file in seen.files) if rows is None else rows,
        usable_count=_usable_count(facts, content) if rows is None else rows * (not has_error(content.problems)),
        split_counts=content.split_counts,
        sizes=dict(sorted(sizes.items())),
        smallest=by_area[0] if by_area else None,
        largest=by_area[-1] if by_area else None,
        formats=dict(sorted(Counter(image.format for image in facts.values()).items())),
        captions=content.captions,
        caption_count=len(texts),
        caption_characters=Spread.of(len(text) for text in texts),
        caption_words=Spread.of(len(text.split()) for text in texts),
        caption_tokens=Spread.of(estimated_tokens(text) for text in texts),
        duplicates=copies_of(content.train),
        total_bytes=sum(file.size for file in seen.files),
        content_hash=content_hash(seen.files) if seen.is_complete else "",
    )


def _usable_count(good: Mapping[str, object], content: _Content) -> int:
    return sum(name in content.captions for name in good)
