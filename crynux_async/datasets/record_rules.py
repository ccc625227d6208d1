"""What can be wrong with parquet and Arrow files, and between several of them."""

from collections.abc import Iterator, Mapping

from crynux_async.datasets.problems import DatasetProblem, problem
from crynux_async.datasets.reading import Columns
from crynux_async.datasets.records import Records

_TEXTS = ("string", "large_string")
_LISTS = tuple(f"{shape}<{text}>" for shape in ("list", "large_list", "fixed_size_list") for text in _TEXTS)


def judge_records(tables: Mapping[str, Records], columns: Columns) -> list[DatasetProblem]:
    """Say what is wrong with the columns of tables that hold images.

    Args:
        tables: The content of each file, of all splits.
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
    for name, records in list(readable.items())[:1]:
        found += _judge_marks(name, records, columns)
    for name, records in readable.items():
        found += _judge_columns(name, records, columns)
    return found


def marked_images(tables: Mapping[str, Records]) -> frozenset[str]:
    """The columns that hold images to the loader: the first file that can be read says what the columns of all are."""
    return next((found.images for found in tables.values() if not found.fault), frozenset())


def _judge_alike(tables: Mapping[str, Records]) -> Iterator[DatasetProblem]:
    first = next(iter(tables), "")
    different = [name for name, found in tables.items() if _shape(found) != _shape(tables[first])]
    if different:
        yield problem("CX323", f"The columns of {different[0]} are not those of {first}.", different)


def _shape(records: Records) -> dict[str, str]:
    # Large types have wider offsets and nothing else; the loader casts one into the other.
    return {name: kind.replace("large_", "") for name, kind in records.columns.items()}


def _judge_marks(name: str, records: Records, columns: Columns) -> Iterator[DatasetProblem]:
    if records.mark_fault:
        yield problem("CX302", f"What {name} says of its columns cannot be read: {records.mark_fault}.", [name])
    elif columns.image in records.columns and columns.image not in records.images:
        yield problem("CX333", f"The column {columns.image} of {name} is not marked as images.", [name])
    if records.unknown:
        kinds = ", ".join(f"{column} ({records.columns[column]})" for column in records.unknown)
        yield problem("CX302", f"Nodes have no type for a column of {name}: {kinds}.", [name])


def _judge_columns(name: str, records: Records, columns: Columns) -> Iterator[DatasetProblem]:
    known = ", ".join(records.columns)
    for column in (columns.image, columns.caption):
        if column not in records.columns:
            yield problem("CX324", f"{name} has no column {column}; it has {known}.", [name])
    kind = records.columns.get(columns.caption, _TEXTS[0])
    if kind not in (*_TEXTS, *_LISTS):
        yield problem("CX328", f"The captions in {name} are {kind}, not text.", [name])
