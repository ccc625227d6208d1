"""What check() says of names that are not what was meant."""

import os
from pathlib import Path

import pytest

from crynux_async.datasets import check
from tests.datasets.layouts import SIDE, checked, codes, error_codes, good, picture, pictures, row, rows, tarred, zipped


@pytest.mark.parametrize(
    ("stored", "encoding"),
    [("猫".encode("gb18030"), "gb18030"), ("猫".encode(), "utf-8"), ("кот".encode("cp1251"), "cp1251")],
)
def test_check_name_in_another_encoding_is_recognised_by_its_row(stored: bytes, encoding: str, tmp_path: Path) -> None:
    # Without its UTF-8 mark a name of a ZIP is taken for code page 437.
    files = {"_" * len(stored) + ".png": picture(), "metadata.jsonl": row(f"{stored.decode(encoding)}.png", "a")}
    path = zipped(tmp_path / "cats.zip", files)
    path.write_bytes(path.read_bytes().replace(b"_" * len(stored), stored))
    (found,) = check(path, resolution=SIDE).errors
    assert found.code == "CX325"
    assert f"name is in {encoding}" in found.message


def test_check_name_that_is_no_text_can_be_printed(tmp_path: Path) -> None:
    files = {os.fsdecode(b"caf\xe9.png"): picture(), "metadata.jsonl": row("café.png", "a")}
    report = check(tarred(tmp_path / "cats.tar", files, "w"), resolution=SIDE)
    assert "name is in cp1252" in report.errors[0].message
    assert "caf\\udce9.png" in report.errors[0].message
    assert "".join(map(str, report.problems)).isprintable()


def test_check_name_that_a_terminal_would_obey_is_written_out(tmp_path: Path) -> None:
    names = ("a\x1b[2J.png", "b\x9b2J.png", "c\n0 errors.png", "d\u202egnp.jpg.png")
    report = check(zipped(tmp_path / "cats.zip", {name: picture() for name in names}), resolution=SIDE)
    text = "".join(map(str, report.problems))
    assert text.isprintable()
    assert "a\\x1b[2J.png" in text


def test_check_backslashes_in_an_archive_are_said_and_hide_the_metadata(tmp_path: Path) -> None:
    path = zipped(tmp_path / "cats.zip", {f"train\\{name}": data for name, data in good().items()})
    report = check(path, resolution=SIDE)
    assert error_codes(report) == {"CX320"}
    assert {"CX309", "CX367"} <= codes(report)


@pytest.mark.parametrize(
    "name",
    [
        "metadata.json1",
        "Metadata.jsonl",
        "metadata.JSONL",
        "metadata.json",
        "meta.jsonl",
        "metadata (1).jsonl",
        "metdata.csv",
    ],
)
def test_check_file_that_is_nearly_metadata_is_named(name: str, tmp_path: Path) -> None:
    report = checked(tmp_path, {**pictures(prefix="a/"), f"a/{name}": rows()})
    near = [problem.files for problem in report.problems if problem.code == "CX367"]
    assert near == [(f"a/{name}",)]
    assert "CX320" in error_codes(report)


def test_check_file_beside_metadata_or_of_another_name_is_no_near_miss(tmp_path: Path) -> None:
    assert "CX367" not in codes(checked(tmp_path, {**good(), "metadata (1).jsonl": rows(), "a/train.jsonl": b"{}"}))


def test_check_row_that_repeats_its_folder_is_said_to_be_found_by_packing(tmp_path: Path) -> None:
    files = {f"train/{name}": data for name, data in pictures().items()}
    report = checked(tmp_path, {**files, "train/metadata.jsonl": rows(prefix="train/")})
    (found,) = report.errors
    assert found.code == "CX325"
    assert "pack() finds the rows of 6 of them: it takes 'train/0.png' for train/0.png." in found.message


def test_check_rows_that_packing_does_not_find_are_not_said_to_be_found(tmp_path: Path) -> None:
    files = {"a/0.png": picture(1), "b/0.png": picture(2), "metadata.jsonl": row("0.png", "which?")}
    assert "pack()" not in next(p.message for p in checked(tmp_path, files).errors if p.code == "CX325")


def test_check_row_in_another_case_is_pointed_out(tmp_path: Path) -> None:
    report = checked(tmp_path, {**pictures(), "metadata.jsonl": rows().replace(b"0.png", b"0.PNG")})
    assert "'0.PNG'" in report.errors[0].message
