"""What the loader gets out of the files: images, captions, and how many there are in each split."""

from collections.abc import Iterator, Mapping

import attrs

from crynux_async.datasets.caption_rules import Captions, judge_captions
from crynux_async.datasets.captions import Caption
from crynux_async.datasets.findings import has_error
from crynux_async.datasets.layout import Layout
from crynux_async.datasets.metadata_rules import judge_metadata
from crynux_async.datasets.problems import DatasetProblem, problem
from crynux_async.datasets.reading import Columns, SeenFile
from crynux_async.datasets.record_rules import is_text, judge_records, marked_images
from crynux_async.datasets.records import Records
from crynux_async.datasets.tables import read_table


@attrs.frozen(kw_only=True)
class Content:
    """What is loaded.

    Attributes:
        train: The images of the train split; for a table that holds images, one for each row.
        captions: The captions of the train split, by image.
        split_counts: Examples in each split as the loader counts them.
        problems: What is wrong with it.
    """

    train: tuple[SeenFile, ...] = ()
    captions: Mapping[str, Caption] = attrs.field(factory=dict)
    split_counts: Mapping[str, int] = attrs.field(factory=dict)
    problems: tuple[DatasetProblem, ...] = ()


def content_of(files: Mapping[str, SeenFile], layout: Layout, columns: Columns) -> Content:
    """Put together what the loader gets.

    Args:
        files: Every visible file.
        layout: What the loader makes of their names.
        columns: The columns that training uses.

    Returns:
        The content; empty for a loader that finds no images.
    """
    if layout.loader == "imagefolder":
        return _image_folder(files, layout, columns)
    if layout.loader in {"parquet", "arrow"}:
        return _tables(files, layout, columns)
    return Content()


def _image_folder(files: Mapping[str, SeenFile], layout: Layout, columns: Columns) -> Content:
    images = [name for split in layout.splits for name in layout.images(split)]
    # A file that names its split twice is listed twice.
    train = tuple(dict.fromkeys(layout.images("train")))
    found = []
    if columns.image != "image":
        text = f"The image column of a folder of images is always named image, not {columns.image}."
        found.append(problem("CX324", text))
    if layout.metadata:
        tables = [read_table(name, files[name].text or b"") for name in layout.metadata]
        captions = judge_metadata(images, train, tables, caption_column=columns.caption)
    elif images:
        text = f"Without metadata.jsonl there is no column {columns.caption}, and training fails."
        captions = Captions(problems=(problem("CX320", text),))
    else:
        captions = Captions()
    return Content(
        train=tuple(files[name] for name in train),
        captions=captions.by_image,
        split_counts={split: len(layout.images(split)) for split in layout.splits},
        problems=(*found, *captions.problems),
    )


def _tables(files: Mapping[str, SeenFile], layout: Layout, columns: Columns) -> Content:
    tables = {name: held for names in layout.splits.values() for name in names if (held := files[name].records)}
    counts = {
        split: sum(tables[name].rows for name in names if name in tables) for split, names in layout.splits.items()
    }
    found = judge_records(tables, layout.splits.get("train", ()), columns)
    # Without its mark a column gives training the bytes and no image.
    is_marked = columns.image in marked_images(tables)
    train = {name: tables[name] for name in layout.splits.get("train", ()) if name in tables and is_marked}
    images = tuple(_rows_of(train))
    values = {
        image.name: value for image, value in zip(images, _captions_of(train, tables, columns.caption), strict=True)
    }
    captions = judge_captions(values)
    if "train" in layout.splits and not counts["train"] and not has_error(found):
        found.append(problem("CX305", "There is no row in the train split."))
    return Content(train=images, captions=captions.by_image, split_counts=counts, problems=(*found, *captions.problems))


def _captions_of(train: Mapping[str, Records], tables: Mapping[str, Records], column: str) -> Iterator[object]:
    """Each row's caption, as the loader casts it to the type that the first file has."""
    wanted = next((found.columns.get(column, "") for found in tables.values() if not found.fault), "")
    for table in train.values():
        kind = table.columns.get(column, "")
        is_cast = is_text(wanted) and not is_text(kind)
        yield from (record.spelled if is_cast else record.caption for record in table.records)


def _rows_of(tables: Mapping[str, Records]) -> Iterator[SeenFile]:
    for name, table in tables.items():
        for number, record in enumerate(table.records, start=1):
            yield SeenFile(name=f"{name} row {number}", size=record.size, sha256=record.sha256, image=record.image)
