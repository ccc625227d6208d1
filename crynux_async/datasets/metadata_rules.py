"""What can be wrong with the metadata files of an image folder, and between their rows and the images."""

from collections.abc import Iterable, Sequence

from crynux_async.datasets.caption_rules import CAPTION_KINDS, Captions, judge_captions, judge_column
from crynux_async.datasets.layout import IMAGE_EXTENSIONS, extension_of
from crynux_async.datasets.matching import Matching, match
from crynux_async.datasets.problems import DatasetProblem, named, problem
from crynux_async.datasets.row_names import reunite
from crynux_async.datasets.spellings import in_words, lookalikes
from crynux_async.datasets.tables import Table
from crynux_async.wording import counted


def judge_metadata(
    images: Sequence[str], train: Sequence[str], tables: Sequence[Table], *, caption_column: str
) -> Captions:
    """Find the caption of every train image in the metadata files.

    Args:
        images: The images of all splits: a node fails when any of them has no row.
        train: The images of the train split.
        tables: The metadata files.
        caption_column: The column that holds the captions.

    Returns:
        The captions and the problems.
    """
    found = judge_tables(tables, caption_column=caption_column)
    if any(table.fault or table.columns.get("file_name") != "text" for table in tables):
        return Captions(problems=tuple(found))
    matching = match(images, tables)
    found += judge_matching(matching, len(set(images)), hint=_what_packing_finds(matching))
    if any(table.columns.get(caption_column) not in CAPTION_KINDS for table in tables):
        return Captions(problems=tuple(found))
    values = {image: matching.rows[image].get(caption_column) for image in train if image in matching.rows}
    captions = judge_captions(values)
    return Captions(by_image=captions.by_image, problems=(*found, *captions.problems))


def judge_tables(tables: Sequence[Table], *, caption_column: str) -> list[DatasetProblem]:
    """Say what is wrong with the metadata files themselves.

    Args:
        tables: The metadata files, at least one.
        caption_column: The column that holds the captions.

    Returns:
        The problems.
    """
    found = [problem("CX322", f"{table.file}: {table.fault}.", [table.file]) for table in tables if table.fault]
    if len({extension_of(table.file) for table in tables}) > 1:
        text = f"There are metadata files in CSV and in JSON lines: {named([table.file for table in tables])}."
        found.append(problem("CX323", text, [table.file for table in tables]))
    readable = [table for table in tables if not table.fault]
    different = [table.file for table in readable if dict(table.types) != dict(readable[0].types)]
    if different:
        text = f"Their columns, or the kinds of values, differ from those of {readable[0].file}: {named(different)}."
        found.append(problem("CX323", text, different))
    for table in readable:
        found += _judge_columns(table, caption_column)
    return found


def judge_matching(matching: Matching, image_count: int, *, hint: str = "") -> list[DatasetProblem]:
    """Say what is wrong between images and rows.

    Args:
        matching: Images and rows, brought together.
        image_count: How many images there are.
        hint: What to say besides of images without a row, with a space in front.

    Returns:
        The problems.
    """
    found = []
    if matching.unnamed:
        found.append(problem("CX322", f"A row names no file: {named(matching.unnamed)}.", matching.unnamed))
    if matching.missing:
        alike = in_words(lookalikes(matching.missing, matching.unused))
        count = counted(image_count, "image")
        text = f"{len(matching.missing)} of {count} have no row: {named(matching.missing)}.{alike}{hint}"
        found.append(problem("CX325", text, matching.missing))
    if matching.unused:
        lost = tuple(matching.unused)
        text = f"{counted(len(lost), 'row')} left out because the file is missing: {named(lost)}."
        found.append(problem("CX326", text, lost))
    if matching.repeated:
        text = f"The last of several rows is used for {named(matching.repeated)}."
        found.append(problem("CX330", text, matching.repeated))
    return found


def header_hint(table: Table) -> str:
    """Say why the columns of a CSV have odd names, with a space in front; nothing when they have none."""
    if extension_of(table.file) != ".csv":
        return ""
    only = next(iter(table.columns), "") if len(table.columns) == 1 else ""
    for sign, what in ((";", "semicolons"), ("\t", "tabs")):
        if sign in only:
            return f" Its cells are divided by {what}, and only commas are read."
    if any(extension_of(name) in IMAGE_EXTENSIONS for name in table.columns):
        return " Its first line is taken for the names of the columns, and seems to be a row."
    return ""


def _what_packing_finds(matching: Matching) -> str:
    """Say which rows packing takes although a loader does not, with a space in front; nothing when there are none."""
    names = reunite(matching).names if matching.missing and matching.unused else {}
    if not names:
        return ""
    image, row = next(iter(names.items()))
    said = matching.unused[row]["file_name"]
    return f" pack() finds the rows of {len(names)} of them: it takes {said!r} for {image}."


def _judge_columns(table: Table, caption_column: str) -> Iterable[DatasetProblem]:
    names = ", ".join(table.columns)
    if table.labels:
        text = f"The first row of {table.file} is longer than its header, so what stands in front is left out."
        yield problem("CX322", text, [table.file], severity="warning")
    if table.columns.get("file_name") != "text":
        text = f"{table.file} has no column file_name with names; it has {names}.{header_hint(table)}"
        yield problem("CX324", text, [table.file])
    kind = table.columns.get(caption_column)
    if caption_column == "file_name":
        yield problem(
            "CX324", f"The column file_name of {table.file} is taken up by the images and gone.", [table.file]
        )
    elif kind is None:
        yield problem("CX324", f"{table.file} has no column {caption_column}; it has {names}.", [table.file])
    else:
        yield from judge_column(kind, table.file)
    # The builder adds the columns of the table to its own column "image", and theirs win.
    if "image" in table.columns:
        text = f"The column image of {table.file} takes the place of the images themselves."
        yield problem("CX334", text, [table.file])
    if extension_of(table.file) == ".csv":
        text = f"How {table.file} is read depends on the node's version of pandas: words like None become nothing,"
        yield problem("CX331", f"{text} and with version 3 loading fails.", [table.file])
