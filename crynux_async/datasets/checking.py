"""check(): what a node would make of a data set, before it is paid for."""

from collections import Counter
from pathlib import Path

import attrs

from crynux_async.datasets.archives import ending_of
from crynux_async.datasets.captions import estimated_tokens, texts_of
from crynux_async.datasets.contents import Content, content_of
from crynux_async.datasets.findings import in_order
from crynux_async.datasets.image_rules import copies_of, judge_amount, judge_images, usable_images
from crynux_async.datasets.inner_rules import judge_inner
from crynux_async.datasets.layout import METADATA_NAMES, Layout, base_name, is_visible, lay_out
from crynux_async.datasets.layout_rules import is_image, judge_layout
from crynux_async.datasets.loader_settings import SETTINGS_FILES, judge_settings
from crynux_async.datasets.problems import DatasetProblem
from crynux_async.datasets.reading import Columns, Limits, Scan, SeenFile, Wanted, content_hash, scan
from crynux_async.datasets.report import DatasetReport, Spread
from crynux_async.errors import UsageError


@attrs.frozen(kw_only=True)
class _Asked:
    columns: Columns
    resolution: int
    center_crop: bool


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
    columns = Columns(image=image_column, caption=caption_column)
    asked = _Asked(columns=columns, resolution=resolution, center_crop=center_crop)
    seen = scan(Path(path), Wanted(keep=_is_kept, limits=limits or Limits(), columns=columns))
    # When reading stopped in the middle, whatever is missing is no finding.
    if not seen.is_complete:
        return _report(Path(path), seen, Layout(rule="none"), Content(problems=seen.problems), is_checked=False)
    return _judged(Path(path), seen, asked)


def _judged(path: Path, seen: Scan, asked: _Asked) -> DatasetReport:
    files = {file.name: file for file in seen.files}
    layout = lay_out(files)
    settings = judge_settings({name: files[name].text or b"" for name in SETTINGS_FILES if name in files})
    inner = judge_inner(files, layout, asked.columns)
    content = content_of(files, layout, asked.columns)
    problems = (
        *seen.problems,
        *judge_layout(tuple(files), layout, stem=_stem(path)),
        *settings,
        *inner.problems,
        *content.problems,
        *_judge_train(content, layout, asked),
    )
    content = attrs.evolve(content, problems=problems)
    return _report(path, seen, layout, content, is_checked=inner.is_checked and not settings)


def _is_kept(name: str) -> bool:
    # They are no data, and yet may say which files are loaded.
    return name in SETTINGS_FILES or (base_name(name) in METADATA_NAMES and is_visible(name))


def _stem(path: Path) -> str:
    """The name of the folder that a node loads: the archive's without its ending."""
    name = path.resolve().name
    return name[: len(name) - len(ending_of(name))] if path.is_file() else name


def _judge_train(content: Content, layout: Layout, asked: _Asked) -> tuple[DatasetProblem, ...]:
    if "train" not in layout.splits or not (content.train or layout.loader == "imagefolder"):
        return ()
    facts = {file.name: file.image for file in content.train if file.image is not None}
    amount = judge_amount(content.train)
    return (*amount, *judge_images(facts, resolution=asked.resolution, center_crop=asked.center_crop))


def _report(path: Path, seen: Scan, layout: Layout, content: Content, *, is_checked: bool) -> DatasetReport:
    facts = usable_images({file.name: file.image for file in content.train if file.image is not None})
    sizes = Counter((image.width, image.height) for image in facts.values())
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    texts = [text for caption in content.captions.values() for text in texts_of(caption)]
    return DatasetReport(
        path=str(path),
        kind=seen.kind,
        loader=layout.loader,
        problems=in_order(content.problems),
        is_checked=is_checked,
        image_count=_image_count(seen.files, layout, content),
        usable_count=sum(name in content.captions for name in facts) if is_checked else 0,
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


def _image_count(files: tuple[SeenFile, ...], layout: Layout, content: Content) -> int:
    if layout.loader in {"parquet", "arrow"}:
        return content.split_counts.get("train", 0)
    return sum(is_image(file.name) for file in files)
