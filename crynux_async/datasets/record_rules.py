"""What can be wrong with parquet and Arrow files, and between several of them."""

from collections.abc import Collection, Iterator, Mapping

from crynux_async.datasets.casting import uncastable
from crynux_async.datasets.problems import DatasetProblem, problem
from crynux_async.datasets.reading import Columns
from crynux_async.datasets.records import Records

_TEXTS = ("string", "large_string")
_LISTS = tuple(f"{shape}<{text}>" for shape in ("list", "large_list", "fixed_size_list") for text in _TEXTS)


def judge_records(tables: Mapping[str, Records], train: Collection[str], columns: Columns) -> list[DatasetProblem]:
    """Say what is wrong with the columns of tables that hold images.

    Args:
        tables: The content of each file, of all splits.
        train: The files of the train split.
        columns: The columns that training uses.

    Returns:
        The problems; those of single rows are said by the rules about images and captions.
    """
    damaged = [
        problem("CX302", f"{name} cannot be read: {found.fault}.", [name])
        for name, found in tables.items()
        if found.fault
    ]
    readable = {name: found for name, found in tables.items() if not found.fault}
    found = [*damaged, *_judge_alike(readable)]
    for number, (name, records) in enumerate(readable.items()):
        if not number:
            found += _judge_marks(name, records, columns)
            found += _judge_captions(name, records, columns)
        # In another split nobody misses what is not there.
        if not number or name in train:
            found += _judge_columns(name, records, columns)
        found += _judge_types(name, records)
    return found


def is_text(kind: str) -> bool:
    """Whether a type, as text, is one that training can read captions from."""
    return kind in (*_TEXTS, *_LISTS)


def marked_images(tables: Mapping[str, Records]) -> frozenset[str]:
    """The columns that hold images to the loader: the first file that can be read says what the columns of all are."""
    return next((found.images for found in tables.values() if not found.fault), frozenset())


def _judge_alike(tables: Mapping[str, Records]) -> Iterator[DatasetProblem]:
    first = next(iter(tables), "")
    different = {
        name: bad
        for name, found in tables.items()
        if (bad := uncastable(found.types, found.values, tables[first].types, tables[first].images))
    }
    if different:
        name, (column, *_) = next(iter(different.items()))
        there, here = tables[first].columns.get(column), tables[name].columns[column]
        text = f"{first} has no {column}" if there is None else f"{column} is {here}, and {there} in {first}"
        yield problem("CX323", f"The columns of {name} are not those of {first}: {text}.", list(different))


def _judge_marks(name: str, records: Records, columns: Columns) -> Iterator[DatasetProblem]:
    if records.mark_fault:
        yield problem("CX302", f"What {name} says of its columns cannot be read: {records.mark_fault}.", [name])
    elif columns.image in records.columns and columns.image not in records.images:
        yield problem("CX333", f"The column {columns.image} of {name} is not marked as images.", [name])


def _judge_types(name: str, records: Records) -> Iterator[DatasetProblem]:
    if records.unknown:
        kinds = ", ".join(f"{column} ({records.columns[column]})" for column in records.unknown)
        yield problem("CX302", f"Nodes have no type for a column of {name}: {kinds}.", [name])


def _judge_columns(name: str, records: Records, columns: Columns) -> Iterator[DatasetProblem]:
    known = ", ".join(records.columns)
    for column in (columns.image, columns.caption):
        if column not in records.columns:
            yield problem("CX324", f"{name} has no column {column}; it has {known}.", [name])


def _judge_captions(name: str, records: Records, columns: Columns) -> Iterator[DatasetProblem]:
    kind = records.columns.get(columns.caption, _TEXTS[0])
    if not is_text(kind):
        yield problem("CX328", f"The captions in {name} are {kind}, not text.", [name])
