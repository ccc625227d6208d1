"""pack(): the archive that works, or everything that is wrong."""

import errno
import io
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from crynux_async.datasets import DatasetError, Limits, check, pack
from crynux_async.datasets.layout import IMAGE_EXTENSIONS, is_visible, lay_out
from crynux_async.datasets.packing import archive_names
from crynux_async.errors import CrynuxError, UsageError

SIDE = 16


def picture(tone: int = 0, *, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (tone, 0, 255 - tone)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def sidecars(count: int = 6) -> dict[str, bytes]:
    images = {f"{number}.png": picture(number) for number in range(count)}
    return images | {f"{number}.txt": f"a picture {number}\n".encode() for number in range(count)}


def table(names: Mapping[str, object]) -> bytes:
    return "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in names.items()).encode()


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def packed_captions(path: Path) -> dict[str, object]:
    report = check(path, resolution=SIDE)
    assert report.errors == ()
    return dict(report.captions)


def problems_of(tmp_path: Path, files: Mapping[str, bytes], **options: Any) -> dict[str, tuple[str, ...]]:
    """The codes and files of everything found while packing was refused."""
    with pytest.raises(DatasetError) as raised:
        pack(write(tmp_path / "cats", files), tmp_path / "cats.zip", **options)
    assert not (tmp_path / "cats.zip").exists()
    return {problem.code: problem.files for problem in raised.value.problems}


def test_pack_sidecars_gives_an_archive_with_equal_captions(tmp_path: Path) -> None:
    result = pack(write(tmp_path / "cats", sidecars()), tmp_path / "out.zip")
    assert packed_captions(result.path) == {f"train/{number}.png": f"a picture {number}" for number in range(6)}
    assert (result.image_count, result.problems) == (6, ())


def test_pack_result_describes_the_file(tmp_path: Path) -> None:
    result = pack(write(tmp_path / "cats", sidecars()), tmp_path / "out.zip")
    assert result.bytes == result.path.stat().st_size
    assert result.version == result.sha256[:12]
    assert result.names["3.png"] == "train/3.png"


def test_pack_images_are_byte_for_byte_the_same(tmp_path: Path) -> None:
    result = pack(write(tmp_path / "cats", sidecars()), tmp_path / "out.zip")
    with zipfile.ZipFile(result.path) as archive:
        assert archive.read("train/3.png") == picture(3)
        assert sorted(archive.namelist()) == sorted(["train/metadata.jsonl", *(f"train/{n}.png" for n in range(6))])


@pytest.mark.parametrize("name", ["metadata.csv", "captions.csv"])
def test_pack_csv_keeps_words_that_pandas_would_lose(name: str, tmp_path: Path) -> None:
    files = {f"{number}.png": picture(number) for number in range(2)}
    files[name] = b'file_name,text\n0.png,None\n1.png,"7"\n'
    result = pack(write(tmp_path / "cats", files), tmp_path / "out.zip")
    assert packed_captions(result.path) == {"train/0.png": "None", "train/1.png": "7"}


@pytest.mark.parametrize("name", ["metadata.jsonl", "list.jsonl"])
def test_pack_json_lines_with_another_caption_column(name: str, tmp_path: Path) -> None:
    files = {"0.png": picture(), name: table({"0.png": "a cat"}).replace(b'"text"', b'"caption"')}
    result = pack(write(tmp_path / "cats", files), tmp_path / "out.zip", caption_column="caption")
    assert packed_captions(result.path) == {"train/0.png": "a cat"}


def test_pack_list_of_captions_makes_all_of_them_lists(tmp_path: Path) -> None:
    files = {"0.png": picture(0), "1.png": picture(1)}
    files["metadata.jsonl"] = table({"0.png": ["a cat", "one cat"]})
    files["b/metadata.jsonl"] = table({"2.png": "a dog"})
    files["b/2.png"] = picture(2)
    del files["1.png"]
    result = pack(write(tmp_path / "cats", files), tmp_path / "out.zip")
    assert packed_captions(result.path) == {"train/0.png": ("a cat", "one cat"), "train/2.png": ("a dog",)}


def test_pack_caption_extension_and_double_extension_are_sidecars(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "a.caption": b"one", "b.png": picture(2), "b.png.txt": b"\xef\xbb\xbftwo"}
    result = pack(write(tmp_path / "cats", files), tmp_path / "out.zip")
    assert packed_captions(result.path) == {"train/a.png": "one", "train/b.png": "two"}


def test_pack_caption_file_in_other_letters_belongs_to_its_image(tmp_path: Path) -> None:
    decomposed, composed = "cafe\u0301", "caf\u00e9"
    files = {
        "IMG_1.JPG": picture(1),
        "IMG_1.TXT": b"one",
        "img_2.png": picture(2),
        "IMG_2.txt": b"two",
        f"{decomposed}.png": picture(3),
        f"{composed}.txt": b"three",
    }
    packed = pack(write(tmp_path / "cats", files), tmp_path / "cats.zip")
    assert sorted(map(str, packed_captions(packed.path).values())) == ["one", "three", "two"]


def test_pack_caption_file_that_fits_to_the_letter_goes_before_others(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "a.txt": b"small", "A.png": picture(2), "A.txt": b"large"}
    packed = pack(write(tmp_path / "cats", files), tmp_path / "cats.zip")
    captions = packed_captions(packed.path)
    assert [captions[packed.names[name]] for name in ("a.png", "A.png")] == ["small", "large"]


def test_pack_caption_file_that_may_belong_to_two_images_belongs_to_none(tmp_path: Path) -> None:
    files = {"IMG.png": picture(1), "img.png": picture(2), "Img.txt": b"whose?"}
    assert problems_of(tmp_path, files)["CX320"] == ()


def test_pack_extension_in_other_letters_fits_as_well_as_any(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "A.png": picture(2), "A.TXT": b"large", "a.Txt": b"small", "a.caption": b"lost"}
    packed = pack(write(tmp_path / "cats", files), tmp_path / "cats.zip")
    captions = packed_captions(packed.path)
    assert [captions[packed.names[name]] for name in ("a.png", "A.png")] == ["small", "large"]
    assert [problem.files for problem in packed.problems if problem.code == "CX337"] == [("a.caption",)]


def test_pack_says_which_of_two_caption_files_won(tmp_path: Path) -> None:
    files = {"0.png": picture(), "0.txt": b"tags", "0.caption": b"a sentence"}
    packed = pack(write(tmp_path / "cats", files), tmp_path / "cats.zip")
    (found,) = (problem for problem in packed.problems if problem.code == "CX337")
    assert "0.txt is used, not 0.caption" in found.message
    assert list(packed_captions(packed.path).values()) == ["tags"]


KOHYA = {
    "img/10_sks dog/0.png": picture(0),
    "img/10_sks dog/0.txt": b"sks dog",
    "reg/1_dog/1.png": picture(1),
    "reg/1_dog/1.txt": b"dog",
}


def test_pack_kohya_folders_are_explained_and_regularization_is_left_out(tmp_path: Path) -> None:
    packed = pack(write(tmp_path / "cats", KOHYA), tmp_path / "cats.zip")
    told = {problem.code: problem.files for problem in packed.problems}
    assert list(packed_captions(packed.path).values()) == ["sks dog"]
    assert told["CX338"] == ("img/10_sks dog/0.png",)
    assert told["CX339"] == ("reg/1_dog/1.png",)
    assert "--regularization" in next(problem.advice for problem in packed.problems if problem.code == "CX339")


def test_pack_regularization_images_are_packed_when_asked_for(tmp_path: Path) -> None:
    packed = pack(write(tmp_path / "cats", KOHYA), tmp_path / "cats.zip", regularization=True)
    assert sorted(map(str, packed_captions(packed.path).values())) == ["dog", "sks dog"]


@pytest.mark.parametrize(
    ("image", "named"),
    [
        ("train/a.png", "train/a.png"),
        ("train/a.png", "dataset/images/a.png"),
        ("train/IMG.PNG", "img.png"),
        ("train/cafe\u0301.png", "caf\u00e9.png"),
        ("train/a.png", "a"),
        (os.fsdecode("狗.png".encode("gb18030")), "狗.png"),
        ("狗.png".encode("gb18030").decode("cp437"), "狗.png"),
    ],
)
def test_pack_row_that_can_be_meant_for_one_image_only_counts_for_it(image: str, named: str, tmp_path: Path) -> None:
    folder = image.rpartition("/")[0]
    metadata = f"{folder}/metadata.jsonl".lstrip("/")
    files = {image: picture(1), "train/b.png": picture(2), metadata: table({named: "one", "train/b.png": "two"})}
    packed = pack(write(tmp_path / "cats", files), tmp_path / "cats.zip")
    captions = packed_captions(packed.path)
    assert [captions[packed.names[name]] for name in (image, "train/b.png")] == ["one", "two"]
    assert "CX364" in {problem.code for problem in packed.problems}


def test_pack_row_that_may_be_meant_for_two_images_counts_for_neither(tmp_path: Path) -> None:
    files = {"a/0.png": picture(1), "b/0.png": picture(2), "metadata.jsonl": table({"0.png": "which?"})}
    assert "CX325" in problems_of(tmp_path, files)


def test_pack_caption_in_another_encoding_says_which_and_converts_it_when_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "cats", {"0.png": picture(), "0.txt": "un café très serré à Montréal".encode("cp1252")})
    with pytest.raises(DatasetError, match=r"cp1252 reads 'un café très serré") as refused:
        pack(folder, tmp_path / "cats.zip")
    assert {problem.code for problem in refused.value.problems} >= {"CX336"}
    packed = pack(folder, tmp_path / "cats.zip", encoding="windows-1252")
    assert "CX368" in {problem.code for problem in packed.problems}
    assert list(packed_captions(packed.path).values()) == ["un café très serré à Montréal"]


def test_pack_captions_in_another_encoding_speak_of_one_or_of_several(tmp_path: Path) -> None:
    text = "un café très serré à Montréal".encode("cp1252")
    one = write(tmp_path / "one", {"0.png": picture(), "0.txt": text})
    two = write(tmp_path / "two", {"0.png": picture(1), "0.txt": text, "1.png": picture(2), "1.txt": text})
    with pytest.raises(DatasetError, match=r"1 file not in UTF-8: 0\.txt; its encoding is probably"):
        pack(one, tmp_path / "one.zip")
    with pytest.raises(DatasetError, match=r"2 files not in UTF-8: 0\.txt, 1\.txt; their encoding is probably"):
        pack(two, tmp_path / "two.zip")


def test_pack_caption_with_a_byte_order_mark_needs_no_word(tmp_path: Path) -> None:
    files = {"0.png": picture(0), "0.txt": "кошка".encode("utf-16"), "1.png": picture(1), "1.txt": "\ufeffпёс".encode()}
    packed = pack(write(tmp_path / "cats", files), tmp_path / "cats.zip")
    assert sorted(map(str, packed_captions(packed.path).values())) == ["кошка", "пёс"]


def test_pack_unknown_encoding_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no encoding 'klingon'"):
        pack(write(tmp_path / "cats", sidecars()), tmp_path / "cats.zip", encoding="klingon")


def test_pack_without_captions_names_what_was_nearly_metadata(tmp_path: Path) -> None:
    found = problems_of(tmp_path, {"0.png": picture(), "metadata.json1": table({"0.png": "a"})})
    assert found["CX367"] == ("metadata.json1",)


def test_pack_names_captions_that_are_in_another_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "cats", {"images/0.png": picture(), "captions/0.txt": b"a cat", "notes.txt": b"x"})
    with pytest.raises(DatasetError, match=r"captions/0\.txt would be captions if they were in the folders of their"):
        pack(folder, tmp_path / "cats.zip")


@pytest.mark.parametrize(
    ("csv", "said"),
    [
        (b"file_name;text\n0.png;a cat\n", "divided by semicolons"),
        (b"file_name\ttext\n0.png\ta cat\n", "divided by tabs"),
        (b"0.png,a cat\n", "seems to be a row"),
    ],
)
def test_csv_with_odd_columns_is_explained(csv: bytes, said: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "cats", {"0.png": picture(), "metadata.csv": csv})
    with pytest.raises(DatasetError, match=said):
        pack(folder, tmp_path / "cats.zip")
    assert any(said in problem.message for problem in check(folder).errors)


def test_pack_without_the_column_names_the_option_that_says_which(tmp_path: Path) -> None:
    row = b'{"file_name": "0.png", "prompt": "a cat"}\n'
    folder = write(tmp_path / "cats", {"0.png": picture(), "metadata.jsonl": row})
    with pytest.raises(DatasetError) as refused:
        pack(folder, tmp_path / "cats.zip")
    assert "--caption-column" in refused.value.problems[0].advice
    assert "in the config" in next(problem.advice for problem in check(folder).errors)


def test_pack_does_not_advise_to_pack(tmp_path: Path) -> None:
    folder = write(tmp_path / "cats", {"0.png": picture()})
    (folder / "1.png").symlink_to("nowhere.png")
    with pytest.raises(DatasetError) as refused:
        pack(folder, tmp_path / "cats.zip")
    told = {problem.code: problem.advice for problem in refused.value.problems}
    assert told["CX320"] == (
        "Put a .txt or .caption file of the same name beside each image, or add metadata.jsonl with file_name and a "
        "caption for every image."
    )
    assert told["CX304"] == "Put the files themselves there, each once."
    assert all("pack()" in problem.advice for problem in check(folder).problems if problem.code in {"CX304", "CX320"})


def test_pack_caption_that_no_node_can_read_is_refused(tmp_path: Path) -> None:
    half = b'{"file_name": "0.png", "text": "cute cat \\ud83d"}\n'
    with pytest.raises(DatasetError, match="half of a character") as refused:
        pack(write(tmp_path / "cats", {"0.png": picture(), "metadata.jsonl": half}), tmp_path / "cats.zip")
    assert [problem.files for problem in refused.value.problems if problem.code == "CX328"] == [("0.png",)]


def test_pack_twice_gives_equal_bytes(tmp_path: Path) -> None:
    first = pack(write(tmp_path / "one", sidecars()), tmp_path / "one.zip")
    folder = write(tmp_path / "two", dict(reversed(sidecars().items())))
    for path in folder.iterdir():
        os.utime(path, (0, 0))
        path.chmod(0o600)
    second = pack(folder, tmp_path / "two.zip")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256


def test_pack_names_with_split_words_are_replaced(tmp_path: Path) -> None:
    files = {"000_train.png": picture(0), "dev-1.png": picture(1), "cat.png": picture(2)}
    captions = {name.replace(".png", ".txt"): name.encode() for name in files}
    result = pack(write(tmp_path / "cats", {**files, **captions}), tmp_path / "out.zip")
    assert result.names == {
        "000_train.png": "train/image-000001.png",
        "cat.png": "train/cat.png",
        "dev-1.png": "train/image-000003.png",
    }
    assert packed_captions(result.path)["train/image-000003.png"] == "dev-1.png"


def test_pack_equal_names_of_two_folders_do_not_collide(tmp_path: Path) -> None:
    files = {"a/x.png": picture(1), "b/X.png": picture(2), "a/x.txt": b"one", "b/X.txt": b"two"}
    result = pack(write(tmp_path / "cats", files), tmp_path / "out.zip")
    assert packed_captions(result.path) == {"train/x.png": "one", "train/image-000002.png": "two"}


def test_pack_mixed_case_extension_is_not_lost(tmp_path: Path) -> None:
    result = pack(write(tmp_path / "cats", {"a.Png": picture(), "a.txt": b"a cat"}), tmp_path / "out.zip")
    assert packed_captions(result.path) == {"train/a.png": "a cat"}


def test_pack_images_of_a_test_folder_beside_train_are_left_out(tmp_path: Path) -> None:
    files = {f"{split}/{name}": data for split in ("train", "test") for name, data in sidecars().items()}
    result = pack(write(tmp_path / "cats", files), tmp_path / "out.zip")
    assert result.image_count == 6
    assert {problem.code for problem in result.problems} == {"CX314", "CX349"}


def test_pack_folder_named_like_a_split_alone_is_packed(tmp_path: Path) -> None:
    result = pack(write(tmp_path / "cats", {f"dev/{n}": d for n, d in sidecars().items()}), tmp_path / "out.zip")
    assert result.image_count == 6


def test_pack_other_files_are_left_out_and_named(tmp_path: Path) -> None:
    files = {**sidecars(), "notes.pdf": b"x", "photo.heic": b"x", ".DS_Store": b"x", "9.txt": b"no image"}
    result = pack(write(tmp_path / "cats", files), tmp_path / "out.zip")
    assert {problem.code: problem.files for problem in result.problems} == {
        "CX319": ("photo.heic",),
        "CX349": ("9.txt", "notes.pdf"),
    }


def test_pack_linked_image_is_packed_with_its_content(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.png").write_bytes(picture(9))
    folder = write(tmp_path / "cats", {**sidecars(), "9.txt": b"a link"})
    (folder / "9.png").symlink_to(tmp_path / "elsewhere.png")
    result = pack(folder, tmp_path / "out.zip")
    assert packed_captions(result.path)["train/9.png"] == "a link"


def test_pack_refuses_with_all_problems_at_once(tmp_path: Path) -> None:
    files = {**sidecars(), "2.png": b"broken", "4.txt": b"caf\xe9", "5.txt": b" "}
    del files["3.txt"]
    assert problems_of(tmp_path, files) == {
        "CX336": ("4.txt",),
        "CX340": ("2.png",),
    }
    files["4.txt"] = b"caf\xc3\xa9"
    assert problems_of(tmp_path, files) == {"CX327": ("3.png",), "CX329": ("5.png",), "CX340": ("2.png",)}


def test_pack_table_refuses_with_all_problems_at_once(tmp_path: Path) -> None:
    files = {f"{number}.png": picture(number) for number in range(6)}
    files["metadata.jsonl"] = table({"0.png": 5, "1.png": None, "2.png": "", "3.png": "x", "9.png": "lost"})
    assert problems_of(tmp_path, files) == {
        "CX325": ("4.png", "5.png"),
        "CX326": ("9.png",),
        "CX327": ("1.png",),
        "CX328": ("0.png",),
        "CX329": ("2.png",),
    }


@pytest.mark.parametrize(
    ("files", "options", "code"),
    [
        ({"0.png": picture()}, {}, "CX320"),
        (sidecars(), {"captions": "csv"}, "CX320"),
        ({**sidecars(1), "metadata.jsonl": table({"0.png": "x"})}, {}, "CX348"),
        ({}, {}, "CX305"),
        ({"a.txt": b"a cat"}, {}, "CX305"),
        ({"0.png": picture(), "metadata.jsonl": b"["}, {}, "CX322"),
        ({"0.png": picture(), "metadata.jsonl": table({"0.png": "x"})}, {"caption_column": "caption"}, "CX324"),
        ({"0.png": picture(), "0.txt": b"2024-01-31"}, {}, "CX328"),
        (sidecars(), {"limits": Limits(members=3)}, "CX303"),
    ],
)
def test_pack_refuses_what_would_not_work(
    files: dict[str, bytes], options: dict[str, Any], code: str, tmp_path: Path
) -> None:
    assert code in problems_of(tmp_path, files, **options)


def test_pack_chosen_source_settles_which_captions_count(tmp_path: Path) -> None:
    folder = write(tmp_path / "cats", {**sidecars(1), "metadata.jsonl": table({"0.png": "from the table"})})
    assert packed_captions(pack(folder, tmp_path / "a.zip", captions="jsonl").path) == {"train/0.png": "from the table"}
    assert packed_captions(pack(folder, tmp_path / "b.zip", captions="txt").path) == {"train/0.png": "a picture 0"}


def test_pack_changes_nothing_in_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "in" / "cats", sidecars())
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")} | {folder: folder.stat().st_mtime_ns}
    pack(folder, tmp_path / "out.zip")
    assert {path: path.stat().st_mtime_ns for path in [*folder.rglob("*"), folder]} == before


def test_pack_existing_archive_is_kept_unless_overwriting_is_asked(tmp_path: Path) -> None:
    folder, out = write(tmp_path / "cats", sidecars()), tmp_path / "out.zip"
    out.write_bytes(b"precious")
    with pytest.raises(UsageError, match="overwrite=True"):
        pack(folder, out)
    assert out.read_bytes() == b"precious"
    pack(folder, out, overwrite=True)
    assert zipfile.is_zipfile(out)


def test_pack_failure_while_writing_leaves_the_old_archive_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write(tmp_path / "cats", sidecars()), tmp_path / "out.zip"
    out.write_bytes(b"precious")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"is full, out\.zip cannot be written") as caught:
        pack(folder, out, overwrite=True)
    assert caught.value.field == "out"
    assert out.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cats", "out.zip"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_pack_into_a_folder_that_is_read_only_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(name: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code), os.fspath(name))
        return original(name, flags, *rest, **options)

    original = os.open
    folder = write(tmp_path / "cats", sidecars())
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UsageError, match=r"out\.zip: .*choose another folder or change its permissions") as caught:
        pack(folder, tmp_path / "out.zip")
    assert caught.value.field == "out"


def test_pack_archive_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = write(tmp_path / "cats", sidecars()), tmp_path / "out.zip"
    monkeypatch.setattr(os, "fsync", lambda _: out.write_bytes(b"precious"))
    with pytest.raises(UsageError, match="appeared meanwhile"):
        pack(folder, out)
    assert out.read_bytes() == b"precious"


def test_pack_image_that_changes_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "cats", sidecars())
    writestr = zipfile.ZipFile.writestr

    def interfere(archive: zipfile.ZipFile, info: zipfile.ZipInfo, data: Any) -> None:
        (folder / "5.png").write_bytes(picture(99))
        writestr(archive, info, data)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", interfere)
    with pytest.raises(UsageError, match=r"5\.png changed"):
        pack(folder, tmp_path / "out.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["cats"]


@pytest.mark.parametrize(
    ("folder", "out", "options", "field"),
    [
        ("nowhere", "out.zip", {}, "folder"),
        ("cats", "out.tar", {}, "out"),
        ("cats", "cats/out.zip", {}, "out"),
        ("cats", "nowhere/out.zip", {}, "out"),
        ("cats", "out.zip", {"captions": "xml"}, "captions"),
    ],
)
def test_pack_arguments_that_cannot_work_are_usage_errors(
    folder: str, out: str, options: dict[str, Any], field: str, tmp_path: Path
) -> None:
    write(tmp_path / "cats", sidecars())
    with pytest.raises(UsageError) as raised:
        pack(tmp_path / folder, tmp_path / out, **options)
    assert raised.value.field == field


def test_dataset_error_lists_its_errors_and_survives_pickling(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as raised:
        pack(write(tmp_path / "cats", {"0.png": picture()}), tmp_path / "out.zip")
    again = pickle.loads(pickle.dumps(raised.value))
    assert isinstance(again, CrynuxError)
    assert again.problems == raised.value.problems
    assert str(again).startswith("this data set cannot be packed: 1 error\n  CX320")


_EXTENSIONS = sorted(IMAGE_EXTENSIONS)
_PATHS = st.lists(
    st.lists(
        st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=8)
        | st.sampled_from(["train", "test", "val 1", "dev", "x.txt", "IMAGE-000001", "image-000002"]),
        min_size=1,
        max_size=3,
    ).flatmap(lambda parts: st.sampled_from(_EXTENSIONS).map(lambda extension: "/".join(parts) + extension)),
    min_size=1,
    max_size=12,
    unique=True,
)


@settings(max_examples=100)
@given(_PATHS)
@example(["a.png", "A.png", "image-000002.png", "z/a.png"])
@example(["a.mpeg", "b.mpeg"])
def test_archive_names_are_all_trained_as_images_and_never_collide(paths: list[str]) -> None:
    names = archive_names(paths)
    assert set(names) == set(paths)
    assert len({name.lower() for name in names.values()}) == len(paths)
    layout = lay_out([*names.values(), "train/metadata.jsonl"])
    assert sorted(layout.images("train")) == sorted(names.values())
    assert list(layout.splits) == ["train"]
    # The same without the folder: no name depends on it.
    flat = lay_out([name.removeprefix("train/") for name in names.values()])
    assert (flat.rule, flat.loader) == ("all", "imagefolder")
    assert all(is_visible(name) for name in names.values())
