"""What check() says about parquet files when pyarrow is there to look into them."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from crynux_async.datasets import DatasetReport, check
from tests.datasets.node.pictures import SIDE, good_picture

pyarrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")

_IMAGES = [{"bytes": good_picture(number), "path": None} for number in range(2)]


def _table(
    *, image: str = "image", text: str = "text", captions: object = ("a", "b"), marked: bool = True, **marks: Any
) -> bytes:
    count = len(captions)  # type: ignore[arg-type]
    kind = None if count else pyarrow.string()
    structure = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({image: pyarrow.array(_IMAGES[:count], structure), text: pyarrow.array(captions, kind)})
    if marked:
        features = {image: {"_type": "Image"}, text: {"dtype": "string", "_type": "Value"}, **marks}
        mark = {"info": {"features": features}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(mark)})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def _checked(folder: Path, data: bytes, name: str = "data/train-00000-of-00001.parquet") -> DatasetReport:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return check(folder, resolution=SIDE)


def test_check_parquet_with_both_columns_is_fine(tmp_path: Path) -> None:
    report = _checked(tmp_path, _table())
    assert (report.loader, [problem.code for problem in report.problems]) == ("parquet", ["CX344"])
    assert (report.train_count, report.image_count, report.usable_count) == (2, 2, 2)


def test_check_parquet_with_lists_of_captions_is_fine(tmp_path: Path) -> None:
    assert _checked(tmp_path, _table(captions=(["a", "b"], ["c"]))).is_ok


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (_table(image="photo"), "CX324"),
        (_table(text="caption"), "CX324"),
        (_table(marked=False), "CX333"),
        (_table(captions=(1, 2)), "CX328"),
        (_table(captions=([1], [2])), "CX328"),
        (_table(captions=()), "CX305"),
        (b"PAR1 but not really", "CX302"),
    ],
    ids=["image", "caption", "mark", "numbers", "lists of numbers", "no rows", "damaged"],
)
def test_check_parquet_that_cannot_be_trained_is_an_error(data: bytes, code: str, tmp_path: Path) -> None:
    report = _checked(tmp_path, data)
    assert code in {problem.code for problem in report.errors}
    assert report.usable_count == 0


def test_check_parquet_of_a_newer_datasets_library_is_an_error_that_says_so(tmp_path: Path) -> None:
    report = _checked(tmp_path, _table(tags={"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}))
    assert [problem.code for problem in report.errors] == ["CX302"]
    assert "marks tags as List, which nodes with datasets 3.1 do not know" in report.errors[0].message
    assert report.usable_count == 0


def _files(folder: Path, **tables: Any) -> DatasetReport:
    mark = {"info": {"features": {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}}}
    for name, table in tables.items():
        parquet.write_table(
            table.replace_schema_metadata({"huggingface": json.dumps(mark)}), folder / f"{name}.parquet"
        )
    return check(folder, resolution=SIDE)


def _rows(captions: object, *, images: Any = None, **more: Any) -> Any:
    structure = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    pictures = pyarrow.array(_IMAGES, structure) if images is None else images
    return pyarrow.table({"image": pictures, "text": captions, **more})


@pytest.mark.parametrize(
    ("second", "captions"),
    [
        (_rows(["c", "d"]), ["c", "d"]),  # what is missing is filled with nulls
        (_rows([7, 8]), ["7", "8"]),
        (_rows([True, False]), ["true", "false"]),
        (_rows(["c", "d"], images=pyarrow.array([image["bytes"] for image in _IMAGES])), ["c", "d"]),
        (_rows(["c", "d"], more=["12", "13"]), ["c", "d"]),  # they read as numbers
        (_rows(["c", "d"], more=[None, None]), ["c", "d"]),
    ],
    ids=["fewer columns", "numbers", "booleans", "bytes alone", "texts of numbers", "nulls"],
)
def test_check_parquet_file_that_the_loader_casts_into_the_first_is_fine(
    second: Any, captions: list[str], tmp_path: Path
) -> None:
    report = _files(tmp_path, a=_rows(["a", "b"], more=[1, 2]), b=second)
    assert report.errors == ()
    assert sorted(report.captions.values(), key=str) == sorted(["a", "b", *captions])


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (_rows(["c", "d"], more=["x", "y"]), "more is string, and int64 in a.parquet"),
        (_rows(["c", "d"], more=[[1], [2]]), "more is list<int64>, and int64 in a.parquet"),
        (_rows(["c", "d"], other=[1, 2]), "a.parquet has no other"),
    ],
    ids=["no numbers", "lists", "another column"],
)
def test_check_parquet_file_that_cannot_become_the_first_is_an_error(second: Any, words: str, tmp_path: Path) -> None:
    report = _files(tmp_path, a=_rows(["a", "b"], more=[1, 2]), b=second)
    (found,) = report.errors
    assert found.code == "CX323"
    assert words in found.message


def test_check_images_that_are_not_there_are_no_copies_of_each_other(tmp_path: Path) -> None:
    structure = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    absent = pyarrow.table({"image": pyarrow.array([None, None], structure), "text": ["a", "b"]})
    mark = {"info": {"features": {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}}}
    buffer = io.BytesIO()
    parquet.write_table(absent.replace_schema_metadata({"huggingface": json.dumps(mark)}), buffer)
    report = _checked(tmp_path, buffer.getvalue())
    assert [problem.code for problem in report.problems] == ["CX340", "CX344"]


def test_check_parquet_named_like_another_split_has_no_train(tmp_path: Path) -> None:
    report = _checked(tmp_path, _table(), name="data/test-00000-of-00001.parquet")
    assert "CX310" in {problem.code for problem in report.errors}
