"""What check() says about layouts that work on a node and layouts that do not."""

import gzip
import io
import os
import random
import shutil
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from crynux_async.datasets import CODES, Limits, check
from crynux_async.datasets.members import OverLimitError
from crynux_async.datasets.reading import read_bounded
from crynux_async.errors import UsageError
from tests.datasets.layouts import (
    FAILING,
    LOSING,
    SIDE,
    WORKING,
    checked,
    codes,
    error_codes,
    good,
    picture,
    pictures,
    row,
    rows,
    tarred,
    write,
    zipped,
)


@pytest.mark.parametrize("layout", WORKING)
def test_check_working_layout_in_a_folder_has_no_error(layout: str, tmp_path: Path) -> None:
    report = checked(tmp_path, WORKING[layout]())
    assert report.errors == ()
    assert report.usable_count == report.train_count > 0


@pytest.mark.parametrize("layout", WORKING)
def test_check_working_layout_in_a_zip_says_the_same_as_in_a_folder(layout: str, tmp_path: Path) -> None:
    files = WORKING[layout]()
    folder = checked(tmp_path, files)
    archive = check(zipped(tmp_path / "cats.zip", files), resolution=SIDE)
    assert archive.kind == "zip"
    assert archive.problems == folder.problems
    assert archive.captions == folder.captions
    assert archive.content_hash == folder.content_hash


@pytest.mark.parametrize("layout", FAILING)
def test_check_failing_layout_is_an_error(layout: str, tmp_path: Path) -> None:
    files, code = FAILING[layout]
    assert code in error_codes(checked(tmp_path, files()))


@pytest.mark.parametrize("layout", LOSING)
def test_check_layout_that_loses_images_silently_is_an_error(layout: str, tmp_path: Path) -> None:
    files, code = LOSING[layout]
    report = checked(tmp_path, files())
    assert code in error_codes(report)
    assert report.image_count > report.train_count


@pytest.mark.parametrize(
    ("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tar.bz2", "w:bz2"), ("TAR.XZ", "w:xz")]
)
def test_check_tar_is_read_like_a_folder(ending: str, mode: str, tmp_path: Path) -> None:
    report = check(tarred(tmp_path / f"cats.{ending}", good(), mode), resolution=SIDE)
    assert (report.kind, report.errors) == ("tar", ())
    assert report.content_hash == checked(tmp_path, good()).content_hash


@pytest.mark.parametrize("form", ["zip", "gztar"])
def test_check_archive_with_entries_for_folders_works(form: str, tmp_path: Path) -> None:
    write(tmp_path / "in", {f"cats/{name}": data for name, data in good().items()})
    path = shutil.make_archive(str(tmp_path / "cats"), form, tmp_path / "in")
    report = check(path, resolution=SIDE)
    assert (report.problems, report.usable_count) == ((), 6)
    assert report.content_hash == check(tmp_path / "in").content_hash


def test_check_compressed_tar_named_tar_works(tmp_path: Path) -> None:
    assert check(tarred(tmp_path / "cats.tar", good(), "w:gz"), resolution=SIDE).is_ok


def test_check_tgz_is_reported_and_still_looked_into(tmp_path: Path) -> None:
    report = check(tarred(tmp_path / "cats.tgz", good(), "w:gz"), resolution=SIDE)
    assert error_codes(report) == {"CX301"}
    assert report.usable_count == 6


@pytest.mark.parametrize("name", ["cats.7z", "cats.rar", "cats.gz", "my.data-v1.0"])
def test_check_archive_that_nodes_do_not_extract_is_an_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"x"))
    assert error_codes(check(path)) == {"CX301"}


@pytest.mark.parametrize("name", ["cats.parquet", "metadata.csv", "metadata.jsonl", "cat.png"])
def test_check_single_data_file_is_an_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(picture())
    report = check(path)
    assert error_codes(report) == {"CX355"}
    assert report.kind == "file"


def test_check_zip_without_extension_works(tmp_path: Path) -> None:
    assert check(zipped(tmp_path / "dataset", good()), resolution=SIDE).is_ok


def test_check_plain_tar_without_extension_is_an_error(tmp_path: Path) -> None:
    report = check(tarred(tmp_path / "dataset", good(), "w"), resolution=SIDE)
    assert error_codes(report) == {"CX356"}
    assert report.usable_count == 6


@pytest.mark.parametrize("name", ["cats.zip", "cats.tar", "cats.tar.gz", "cats.tar.xz", "cats.tar.bz2"])
def test_check_archive_with_other_content_is_damaged(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"<html>login</html>" * 100)
    report = check(path)
    assert error_codes(report) == {"CX302"}
    assert report.content_hash == ""


def test_check_truncated_tar_gz_is_damaged(tmp_path: Path) -> None:
    path = tarred(tmp_path / "cats.tar.gz", {"a.png": os.urandom(20_000)}, "w:gz")
    path.write_bytes(path.read_bytes()[:-5_000])
    assert error_codes(check(path)) == {"CX302"}


def test_check_tar_bz2_with_a_damaged_block_is_damaged_as_a_whole(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(2_000_000)
    path = tarred(tmp_path / "cats.tar.bz2", {"a.bin": noise, **good()}, "w:bz2")
    data = bytearray(path.read_bytes())
    data[1_500_000] ^= 0xFF
    path.write_bytes(data)
    assert codes(check(path)) == {"CX302"}


def test_check_zip_member_with_wrong_checksum_is_damaged(tmp_path: Path) -> None:
    path = zipped(tmp_path / "cats.zip", good())
    data = bytearray(path.read_bytes())
    data[data.index(picture(0)) + 20] ^= 0xFF
    path.write_bytes(data)
    assert error_codes(check(path)) == {"CX302"}


def test_check_encrypted_zip_is_an_error(tmp_path: Path) -> None:
    path = zipped(tmp_path / "cats.zip", {"a.png": picture()})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    report = check(path)
    assert error_codes(report) == {"CX302"}
    assert "encrypted" in report.problems[0].message


@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "a/../../evil.png"])
def test_check_tar_member_outside_the_folder_is_an_error_and_not_read(name: str, tmp_path: Path) -> None:
    report = check(tarred(tmp_path / "cats.tar", {**good(), name: picture(9)}, "w"), resolution=SIDE)
    assert "CX304" in error_codes(report)
    assert report.image_count == 6


def test_check_zip_member_with_dots_is_read_where_it_would_be_extracted(tmp_path: Path) -> None:
    files = {"../" + name: data for name, data in good().items()}
    report = check(zipped(tmp_path / "cats.zip", files), resolution=SIDE)
    assert "CX304" in codes(report)
    assert (report.errors, report.usable_count) == ((), 6)


_UNEXTRACTABLE = {
    "a name of more than 255 bytes": ({"\u732b" * 86 + ".txt": b"x"}, "\u732b" * 86 + ".txt"),
    "a hidden name of more than 255 bytes": ({"__MACOSX/._" + "a" * 254: b"x"}, "__MACOSX/._" + "a" * 254),
    "a file before a folder of its name": ({"a": b"x", "a/b/c.txt": b"x"}, "a"),
    "a file after a folder of its name": ({"a/b/c.txt": b"x", "a/b": b"x"}, "a/b"),
}


@pytest.mark.parametrize("name", ["cats.zip", "cats.tar"])
@pytest.mark.parametrize("what", _UNEXTRACTABLE)
def test_check_name_that_cannot_be_extracted_is_an_error(what: str, name: str, tmp_path: Path) -> None:
    more, said = _UNEXTRACTABLE[what]
    files = {**good(), **more}
    made = zipped(tmp_path / name, files) if name.endswith("zip") else tarred(tmp_path / name, files, "w")
    assert [(problem.code, problem.files) for problem in check(made, resolution=SIDE).errors] == [("CX304", (said,))]


def test_check_name_of_255_bytes_is_fine(tmp_path: Path) -> None:
    files = {**good(), "\u732b" * 83 + "ab.txt": b"x", "a/b.txt": b"x", "ab": b"x"}
    assert check(zipped(tmp_path / "cats.zip", files), resolution=SIDE).errors == ()


def test_check_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "cats.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind, target in (("6.png", tarfile.SYMTYPE, "/etc/passwd"), ("pipe.png", tarfile.FIFOTYPE, "")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    special = next(problem for problem in check(path).problems if problem.code == "CX304")
    assert special.files == ("6.png", "pipe.png")


def test_check_hard_link_in_a_tar_counts_as_a_copy(tmp_path: Path) -> None:
    path = tarred(tmp_path / "cats.tar", {**pictures(5), "metadata.jsonl": rows()}, "w")
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("5.png")
        info.type, info.linkname = tarfile.LNKTYPE, "4.png"
        archive.addfile(info)
    report = check(path, resolution=SIDE)
    assert report.duplicates == (("4.png", "5.png"),)


def test_check_hard_link_with_another_images_extension_is_an_image_all_the_same(tmp_path: Path) -> None:
    path = tarred(tmp_path / "cats.tar", good(), "w")
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("copy.jpg")
        info.type, info.linkname = tarfile.LNKTYPE, "4.png"
        archive.addfile(info)
    report = check(path, resolution=SIDE)
    assert [(problem.code, problem.files) for problem in report.errors] == [("CX325", ("copy.jpg",))]


def test_check_hard_link_to_another_kind_of_file_is_not_followed(tmp_path: Path) -> None:
    path = tarred(tmp_path / "cats.tar", {"a.bin": picture()}, "w")
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.LNKTYPE, "a.bin"
        archive.addfile(info)
    assert {problem.code: problem.files for problem in check(path).problems}["CX304"] == ("a.png",)


def test_check_exactly_the_limits_is_read(tmp_path: Path) -> None:
    sizes = [len(data) for data in good().values()]
    limits = Limits(members=len(sizes), total_bytes=sum(sizes), read_bytes=max(sizes), pixels=SIDE * SIDE)
    assert checked(tmp_path, good(), limits=limits).problems == ()


def test_reading_more_than_allowed_stops_although_less_was_announced() -> None:
    with pytest.raises(OverLimitError, match=r"a\.png of more than 10 bytes"):
        read_bounded(io.BytesIO(bytes(11)), 10, "a.png")


def test_check_huge_tar_header_is_not_taken_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "cats.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"comment": "x" * (5 << 20)}
        archive.addfile(info, io.BytesIO())
    assert error_codes(check(path)) == {"CX303"}


@pytest.mark.parametrize(
    "limits", [Limits(members=3), Limits(total_bytes=200), Limits(read_bytes=50)], ids=["members", "total", "one"]
)
@pytest.mark.parametrize("make", [zipped, lambda path, files: tarred(path.with_suffix(".tar"), files, "w")])
def test_check_more_than_the_limits_stops(limits: Limits, make: Callable[..., Path], tmp_path: Path) -> None:
    report = check(make(tmp_path / "cats.zip", good()), limits=limits)
    assert codes(report) == {"CX303"}


def test_check_zip_that_claims_a_huge_member_is_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "cats.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(3 << 20))
    report = check(path, limits=Limits(read_bytes=1 << 20))
    assert error_codes(report) == {"CX303"}


def test_check_name_twice_in_a_zip_uses_the_last(tmp_path: Path) -> None:
    path = zipped(tmp_path / "cats.zip", good())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.jsonl", rows().replace(b"a picture", b"a cat"))
    report = check(path, resolution=SIDE)
    assert report.captions["0.png"] == "a cat 0"
    assert "CX304" in codes(report)


def test_check_pipe_in_a_folder_is_not_opened(tmp_path: Path) -> None:
    folder = write(tmp_path / "cats", good())
    os.mkfifo(folder / "pipe.png")
    report = check(folder, resolution=SIDE)
    assert next(problem.files for problem in report.problems if problem.code == "CX304") == ("pipe.png",)


def test_check_unreadable_file_in_a_folder_is_reported_with_the_rest(tmp_path: Path) -> None:
    folder = write(tmp_path / "cats", {**good(), "3.png": b"broken"})
    opener = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "2.png":
            raise PermissionError(path)
        return opener(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        report = check(folder, resolution=SIDE)
    assert {problem.code: problem.files for problem in report.errors} == {"CX302": ("2.png",), "CX340": ("3.png",)}


def test_check_all_errors_are_found_at_once(tmp_path: Path) -> None:
    files = {**good(), "2.png": b"broken", "8.png": picture(8)}
    files["metadata.jsonl"] = rows().replace(b'"a picture 1"', b"null") + row("9.png", "lost")
    report = checked(tmp_path, files)
    assert {problem.code: problem.files for problem in report.problems} == {
        "CX325": ("8.png",),
        "CX326": ("9.png",),
        "CX327": ("1.png",),
        "CX340": ("2.png",),
    }


def test_check_errors_come_before_warnings_and_notes(tmp_path: Path) -> None:
    files = {f"train/{name}": data for name, data in {**good(), "2.png": b"x", "4.png": picture(4, width=8)}.items()}
    report = checked(tmp_path, {**files, "test/0.png": picture(), "test/metadata.jsonl": rows(1)})
    assert [problem.code for problem in report.problems] == ["CX340", "CX341", "CX342", "CX314"]


def test_check_metadata_without_names_is_one_error(tmp_path: Path) -> None:
    report = checked(tmp_path, {**pictures(), "metadata.jsonl": rows().replace(b"file_name", b"file")})
    assert codes(report) == {"CX324"}


def test_check_decomposed_name_is_pointed_out(tmp_path: Path) -> None:
    report = checked(tmp_path, {"cafe\u0301.png": picture(), "metadata.jsonl": row("caf\u00e9.png", "a café")})
    assert repr("caf\u00e9.png") in next(p.message for p in report.problems if p.code == "CX325")


def test_check_small_image_is_a_warning(tmp_path: Path) -> None:
    report = checked(tmp_path, good(), resolution=SIDE + 1)
    assert report.is_ok
    assert next(p for p in report.problems if p.code == "CX341").severity == "warning"


def test_check_image_of_the_resolution_is_no_warning(tmp_path: Path) -> None:
    assert codes(checked(tmp_path, good(), resolution=SIDE)) == set()


@pytest.mark.parametrize(("center_crop", "expected"), [(False, {"CX342"}), (True, set())])
def test_check_wide_image_is_cropped_at_random_unless_centred(
    center_crop: bool, expected: set[str], tmp_path: Path
) -> None:
    files = {**good(), "5.png": picture(5, width=2 * SIDE)}
    report = checked(tmp_path, files, center_crop=center_crop)
    assert codes(report) == expected
    assert all("50 %" in problem.message for problem in report.problems)


def test_check_long_caption_is_a_warning(tmp_path: Path) -> None:
    report = checked(tmp_path, {**pictures(7), "metadata.jsonl": rows() + row("6.png", "a cat, " * 40)})
    assert {problem.code: problem.files for problem in report.problems} == {"CX335": ("6.png",)}


def test_check_empty_caption_is_a_warning(tmp_path: Path) -> None:
    report = checked(tmp_path, {**pictures(7), "metadata.jsonl": rows() + row("6.png", " ")})
    assert {problem.code: problem.files for problem in report.problems} == {"CX329": ("6.png",)}


def test_check_copies_are_a_warning(tmp_path: Path) -> None:
    report = checked(tmp_path, {**good(), "5.png": picture(0)})
    assert report.duplicates == (("0.png", "5.png"),)
    assert codes(report) == {"CX343"}


@pytest.mark.parametrize(("count", "expected"), [(4, {"CX344"}), (5, set())])
def test_check_few_images_is_a_warning(count: int, expected: set[str], tmp_path: Path) -> None:
    assert codes(checked(tmp_path, {**pictures(count), "metadata.jsonl": rows(count)})) == expected


def test_check_row_without_image_is_a_warning(tmp_path: Path) -> None:
    report = checked(tmp_path, {**pictures(), "metadata.jsonl": rows(8)})
    assert {problem.code: problem.files for problem in report.problems} == {"CX326": ("6.png", "7.png")}


def test_check_second_row_of_an_image_wins_and_is_a_warning(tmp_path: Path) -> None:
    report = checked(tmp_path, {**pictures(), "metadata.jsonl": rows() + row("0.png", "another")})
    assert report.captions["0.png"] == "another"
    assert codes(report) == {"CX330"}


def test_check_transparent_image_is_a_note(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (SIDE, SIDE), (1, 2, 3, 100)).save(buffer, "PNG")
    report = checked(tmp_path, {**good(), "0.png": buffer.getvalue()})
    assert {problem.code: problem.severity for problem in report.problems} == {"CX346": "note"}


def test_check_transparent_palette_image_is_a_note(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("P", (SIDE, SIDE), 1).save(buffer, "PNG", transparency=0)
    assert codes(checked(tmp_path, {**good(), "0.png": buffer.getvalue()})) == {"CX346"}


def test_check_opaque_alpha_channel_is_not_transparent(tmp_path: Path) -> None:
    assert codes(checked(tmp_path, {**good(), "0.png": picture(0, mode="RGBA")})) == set()


def test_check_image_with_16_bits_is_a_warning(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("I;16", (SIDE, SIDE), 40_000).save(buffer, "PNG")
    assert codes(checked(tmp_path, {**good(), "0.png": buffer.getvalue()})) == {"CX347"}


def test_check_image_above_the_pixel_limit_is_not_decoded(tmp_path: Path) -> None:
    report = checked(tmp_path, {**good(), "0.png": picture(0, width=100)}, limits=Limits(pixels=1_000))
    assert error_codes(report) == {"CX345"}
    assert report.usable_count == 5


@pytest.mark.parametrize(
    ("extension", "form"),
    [
        ("png", "PNG"),
        ("jpg", "JPEG"),
        ("webp", "WEBP"),
        ("bmp", "BMP"),
        ("dib", "DIB"),
        ("gif", "GIF"),
        ("tif", "TIFF"),
        ("jp2", "JPEG2000"),
        ("ppm", "PPM"),
        ("tga", "TGA"),
        ("ico", "ICO"),
        ("pcx", "PCX"),
        ("rgb", "SGI"),
    ],
)
def test_check_common_image_format_is_opened(extension: str, form: str, tmp_path: Path) -> None:
    files = {f"0.{extension}": picture(form=form), "metadata.jsonl": row(f"0.{extension}", "a cat")}
    report = checked(tmp_path, files)
    assert (report.errors, report.formats) == ((), {form: 1})


def test_check_file_that_is_no_image_says_so(tmp_path: Path) -> None:
    report = checked(tmp_path, {**good(), "3.png": b"not an image"})
    assert "(it is not an image, or not one that nodes can open)" in report.errors[0].message


def test_check_image_that_claims_to_be_huge_is_not_decoded(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    report = checked(tmp_path, {**good(), "0.png": huge + b"\0\0\0\0IDAT"})
    assert {problem.code: problem.files for problem in report.errors} == {"CX345": ("0.png",)}


def test_check_avif_named_png_is_an_error(tmp_path: Path) -> None:
    if ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow writes no AVIF")
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(buffer, "AVIF")
    assert error_codes(checked(tmp_path, {**good(), "0.png": buffer.getvalue()})) == {"CX340"}


def test_check_turned_photograph_counts_as_it_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=exif)
    report = checked(tmp_path, {"0.jpg": buffer.getvalue(), "metadata.jsonl": row("0.jpg", "a cat")})
    assert report.sizes == {(20, 40): 1}


def test_check_heic_beside_the_images_is_a_warning(tmp_path: Path) -> None:
    report = checked(tmp_path, {**good(), "photo.heic": b"x"})
    assert {problem.code: problem.files for problem in report.problems} == {"CX319": ("photo.heic",)}


def test_check_readme_with_loader_settings_is_a_warning(tmp_path: Path) -> None:
    readme = b"---\nlicense: mit\nconfigs:\n- config_name: default\n---\n# Cats"
    assert codes(checked(tmp_path, {**good(), "README.md": readme})) == {"CX315"}


def test_check_readme_with_other_settings_is_fine(tmp_path: Path) -> None:
    assert codes(checked(tmp_path, {**good(), "README.md": b"---\nlicense: mit\n---\nconfigs:\n"})) == set()


def test_check_name_with_its_split_twice_counts_twice(tmp_path: Path) -> None:
    files = {"train_train_0.png": picture(), "metadata.jsonl": row("train_train_0.png", "a cat")}
    report = checked(tmp_path, files)
    assert (report.train_count, report.usable_count) == (2, 1)
    assert "CX317" in codes(report)


def test_check_other_splits_are_a_note(tmp_path: Path) -> None:
    report = checked(tmp_path, WORKING["test folder beside"]())
    assert report.split_counts == {"train": 6, "test": 6}
    assert {problem.code: problem.severity for problem in report.problems} == {"CX314": "note"}


def test_check_corrupt_image_of_another_split_is_no_error(tmp_path: Path) -> None:
    report = checked(tmp_path, {**WORKING["test folder beside"](), "test/0.png": b"broken"})
    assert report.is_ok


def test_check_archive_inside_is_a_warning(tmp_path: Path) -> None:
    report = checked(tmp_path, {**good(), "more.zip": b"PK\x05\x06" + bytes(18)})
    assert {problem.code: problem.files for problem in report.problems} == {"CX306": ("more.zip",)}


@pytest.mark.parametrize(("name", "code"), [("metadata.jsonl", "CX306"), ("metadata.csv", "CX307")])
def test_check_archive_that_is_alone_in_a_folder_may_hold_metadata_jsonl(name: str, code: str, tmp_path: Path) -> None:
    zipped(tmp_path / "more.zip", {"0.png": picture(), name: row("0.png", "a cat")})
    report = check(tmp_path, resolution=512)
    assert (codes(report), report.is_checked, report.usable_count) == ({code}, code == "CX307", 0)


def test_check_other_caption_column_is_used(tmp_path: Path) -> None:
    files = {**pictures(), "metadata.jsonl": rows().replace(b'"text"', b'"caption"')}
    report = checked(tmp_path, files, caption_column="caption")
    assert report.captions["3.png"] == "a picture 3"
    assert report.is_ok


def test_check_caption_column_that_the_loader_uses_up_is_an_error(tmp_path: Path) -> None:
    # The loader makes the images of file_name, and the column is gone.
    assert error_codes(checked(tmp_path, good(), caption_column="file_name")) == {"CX324"}


def test_check_other_image_column_of_a_folder_is_an_error(tmp_path: Path) -> None:
    assert error_codes(checked(tmp_path, good(), image_column="photo")) == {"CX324"}


def test_check_statistics_are_those_of_the_images(tmp_path: Path) -> None:
    files = {
        "a.png": picture(1, width=20, height=30),
        "b.jpg": picture(2, width=50, height=40, form="JPEG"),
        "c.png": picture(3, width=20, height=30),
        "metadata.jsonl": row("a.png", "a cat") + row("b.jpg", "a big dog") + row("c.png", "one"),
    }
    report = checked(tmp_path, files)
    assert report.sizes == {(20, 30): 2, (50, 40): 1}
    assert (report.smallest, report.largest) == ((20, 30), (50, 40))
    assert report.formats == {"JPEG": 1, "PNG": 2}
    assert report.total_bytes == sum(len(data) for data in files.values())
    assert (report.image_count, report.caption_count) == (3, 3)
    assert (report.caption_words.shortest, report.caption_words.median, report.caption_words.longest) == (1, 2, 3)
    assert (report.caption_characters.shortest, report.caption_characters.longest) == (3, 9)
    assert report.caption_tokens.longest == 5


def test_check_content_hash_changes_with_a_caption(tmp_path: Path) -> None:
    first = checked(tmp_path, good())
    second = checked(tmp_path, {**good(), "metadata.jsonl": rows().replace(b"picture 3", b"drawing 3")})
    assert first.content_hash != second.content_hash
    assert first.version == first.content_hash[:12]


def test_check_content_hash_ignores_what_the_loader_cannot_see(tmp_path: Path) -> None:
    first = checked(tmp_path, good())
    assert checked(tmp_path, {**good(), ".DS_Store": b"x", ".git/config": b"x"}).content_hash == first.content_hash


def test_check_does_not_change_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "cats", good())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    check(folder)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_check_missing_path_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        check(tmp_path / "nowhere")


def test_check_resolution_of_one_is_allowed(tmp_path: Path) -> None:
    assert checked(tmp_path, good(), resolution=1).is_ok


def test_check_resolution_below_one_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="resolution"):
        check(tmp_path, resolution=0)


def test_check_without_pillow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UsageError, match=r"crynux-async\[datasets\]"):
        check(tmp_path)


def test_check_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"crynux-async\[datasets\]"):
        check(tmp_path)


def test_every_code_says_what_to_do() -> None:
    assert all(code.advice.endswith((".", "()")) and code.title for code in CODES.values())


def test_problem_is_shown_with_its_code_and_advice(tmp_path: Path) -> None:
    problem = checked(tmp_path, {**good(), "3.png": b"x"}).errors[0]
    assert str(problem).startswith("CX340 error: 1 image that cannot be opened: 3.png")
    assert str(problem).endswith(problem.advice)
    assert problem.file == "3.png"
