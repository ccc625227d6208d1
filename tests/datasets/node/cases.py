"""Realistic and broken data sets, drawn at random: a good one, then up to three things that people do to it."""

import io
import json
import tarfile
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from hypothesis import strategies as st

from tests.datasets.node.pictures import good_picture, odd_pictures

Files = dict[str, bytes]


@attrs.frozen(kw_only=True)
class DatasetCase:
    """A data set to be judged by both sides.

    Attributes:
        name: Of the folder or archive.
        members: The files in the archive's order; the same name may come twice.
        image_column: The config's ``dataset_image_column``.
        caption_column: The config's ``dataset_caption_column``.
        zip_flaw: What is done to a ZIP besides, or ``""``.
        told: What was done, for the reader of a failure.
    """

    name: str
    members: tuple[tuple[str, bytes], ...] = attrs.field(repr=lambda members: f"{[name for name, _ in members]}")
    image_column: str = "image"
    caption_column: str = "text"
    zip_flaw: str = ""
    told: tuple[str, ...] = ()

    def write(self, place: Path) -> Path | None:
        """Make the folder or archive, or return None when this file system cannot hold it."""
        path = place / self.name
        try:
            if self.name.lower().endswith(".zip") or ("." not in self.name and self.zip_flaw):
                _write_zip(path, self.members, self.zip_flaw)
            elif ".t" in self.name.lower():
                _write_tar(path, self.members)
            else:
                _write_folder(path, self.members)
        except (OSError, ValueError):
            return None
        return path


def _write_folder(path: Path, members: tuple[tuple[str, bytes], ...]) -> None:
    path.mkdir()
    for name, data in members:
        there = path / name.replace("..", "_").lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(data)


def _write_zip(path: Path, members: tuple[tuple[str, bytes], ...], flaw: str) -> None:
    method = {"deflated": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}.get(flaw, 0)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, data in members:
            if flaw == "folders" and "/" in name:
                archive.writestr(f"{name.rpartition('/')[0]}/", b"")
            archive.writestr(name, data)
    data = bytearray(path.read_bytes())
    if flaw == "wrong checksum":
        data[data.rindex(b"PK\x01\x02") + 16] ^= 0xFF
    elif flaw == "encrypted":
        data[data.rindex(b"PK\x01\x02") + 8] |= 1
    elif flaw == "cut":
        del data[len(data) // 2 :]
    elif flaw == "unknown method":
        data[data.rindex(b"PK\x01\x02") + 10] = 93
    elif flaw == "comment":
        data += b""
    path.write_bytes(data)


def _write_tar(path: Path, members: tuple[tuple[str, bytes], ...]) -> None:
    ending = path.name.lower().rpartition(".")[2]
    mode: Any = f"w:{ending}" if ending in {"gz", "bz2", "xz"} else "w"
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data.startswith(b"-> "):
                info.type, info.linkname = tarfile.SYMTYPE, data[3:].decode()
                archive.addfile(info)
            elif data.startswith(b"=> "):
                info.type, info.linkname = tarfile.LNKTYPE, data[3:].decode()
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@attrs.define
class Draft:
    """A data set in the making.

    Attributes:
        images: Content by path.
        rows: What the metadata says: file name and caption first, then other columns.
        metadata: The metadata file's path.
        extra: Other files.
        text: What to do with the metadata's bytes at last.
    """

    images: Files
    rows: list[dict[str, Any]]
    metadata: str
    extra: Files = attrs.field(factory=dict)
    text: Callable[[bytes], bytes] = lambda data: data
    style: str = "plain"
    told: list[str] = attrs.field(factory=list)
    image_column: str = "image"
    caption_column: str = "text"

    def members(self) -> list[tuple[str, bytes]]:
        """All files, metadata in the middle."""
        files = {**self.images, **self.extra}
        if self.metadata:
            files = {**self.images, self.metadata: self.text(self.written()), **self.extra}
        return list(files.items())

    def written(self) -> bytes:
        """The metadata file."""
        if self.metadata.endswith(".csv"):
            return _csv(self.rows, self.style)
        return _jsonl(self.rows, self.style)


def _jsonl(rows: list[dict[str, Any]], style: str) -> bytes:
    options: dict[str, Any] = {"ensure_ascii": style != "unicode"}
    if style == "pretty":
        options["indent"] = 2
    ending = {"windows": "\r\n", "one line": " ", "no space": "", "mac": "\r"}.get(style, "\n")
    text = "".join(json.dumps(row, **options) + ending for row in rows)
    return text.encode("utf-8", "surrogatepass")


def _csv(rows: list[dict[str, Any]], style: str) -> bytes:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    ending = {"windows": "\r\n", "mac": "\r"}.get(style, "\n")

    def cell(value: Any) -> str:
        text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        if style == "quoted" or (style != "bare" and any(sign in text for sign in ',"\r\n')):
            return '"' + text.replace('"', '""') + '"'
        return text

    lines = [",".join(map(cell, columns)), *(",".join(cell(row.get(name)) for name in columns) for row in rows)]
    return "".join(line + ending for line in lines).encode("utf-8", "replace")


def _mostly(usual: str, others: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([True, True, True, False]).flatmap(lambda is_usual: st.just(usual) if is_usual else others)


_STEMS = st.sampled_from(
    [
        "IMG_{n}",
        "{n:05d}",
        "photo ({n})",
        "caf\u00e9 {n}",
        "cafe\u0301 {n}",
        "\u732b{n}",
        "{n}_test",
        "train_{n}",
        "v1.5.{n}",
        "{n}.txt",
        ".hidden{n}",
        "a'b{n}",
        "a[{n}]",
        "a{n}*",
        "#{n}",
        "100%{n}",
        "a::{n}",
        "a\\{n}",
        "validation{n}",
        "{n} dev",
        "a,b{n}",
        "...{n}",
        "x{n}.tar",
        "-{n}",
        "~{n}",
        "\U0001f408{n}",
        "a\nb{n}",
        "a\x7fb{n}",
        "{n}?",
        "e=mc{n}",
    ]
)
_EXTENSIONS = st.sampled_from(
    ["jpg", "jpeg", "webp", "PNG", "JPG", "Png", "gif", "bmp", "tiff", "jfif", "heic", "png.bak", "mpeg"]
)
_FOLDERS = st.sampled_from(
    ["train/", "mydata/", "img/10_cat/", "a b/", "images/", "data/", "Train/", "test/", "x/train/", "__x/"]
)
_USUAL_CAPTIONS = st.sampled_from(["a cat", "a red car, side view", "1girl, solo, smile", "a photo of sks dog"])
_CAPTIONS = st.sampled_from(
    [
        *["a cat"] * 20,
        "",
        " ",
        "caf\u00e9 \u732b \U0001f408",
        'she said "hi"',
        "two\nlines",
        "tab\there",
        "back\\slash",
        "nul\0byte",
        "None",
        "NA",
        "nan",
        "null",
        "n/a",
        "true",
        "5",
        "-1.5",
        "1e5",
        "007",
        "inf",
        "1_000",
        "2024-01-31",
        "2024-01-31 10:20",
        "2024-01-31T10:20:30Z",
        "12345678901234567890",
        "99999999999999999999999",
        "a" * 400,
        "\u2028line",
        "\ufeffmark",
        "\ud83d half",
        "half \udc08",
        "a, b; c",
        "'single'",
        "#tag",
        "<b>",
    ]
)
_DATES = st.sampled_from(
    [
        "2024-01-31",
        "1999-12-31",
        "2024-1-3",
        "2024-01-31 10",
        "2024-01-31 10:20",
        "2024-01-31 10:20:30",
        "2024-01-31T10:20:30",
        "2024-01-31 10:20:30.5",
        "2024-01-31T10:20:30Z",
        "2024-01-31T10:20:30+01:00",
        "2024-02-30",
        "0001-01-01",
        "0000-01-01",
        "9999-12-31",
        "20240131",
        "2024-01-31 25:00",
        "2024-01-31 10:20:60",
        "2024-01-31Z",
        "2024-01-31 10:20:30+0100",
        "2024/01/31",
        "10:20:30",
        "2024-01",
        " 2024-01-31",
        "2024-01-31 ",
        "1600-02-29",
        "2100-02-29",
        "2024-01-31 10Z",
        "2024-01-31T24:00:00",
        "2024-01-31 10:20:30-08",
    ]
)
_VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        3,
        2.5,
        "x",
        "2024-01-31",
        [],
        {},
        [1],
        ["a"],
        [None],
        [1, 2.5],
        [["1girl", 0.98]],
        [["1girl", "solo"]],
        {"a": 1},
        {"a": "x"},
        {"a": None, "b": [1]},
        {"b": []},
        [{"tag": "x", "score": 0.5}],
        [{"tag": None}],
        [[]],
        float("nan"),
        2**70,
        -(2**63),
        2**63,
        "\ud800",
        {"": 1},
        [{}],
    ]
)
_TAGS: st.SearchStrategy[Any] = st.one_of(_VALUES, st.lists(_VALUES, max_size=2))


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """A good data set of one to six images."""
    count = draw(st.integers(1, 6))
    stem, extension, folder = (
        draw(_mostly("{n}", _STEMS)),
        draw(_mostly("png", _EXTENSIONS)),
        draw(_mostly("", _FOLDERS)),
    )
    names = [f"{stem.format(n=number)}.{extension}" for number in range(count)]
    above = draw(st.sampled_from([False, False, False, True]))
    metadata = ("" if above else folder) + draw(st.sampled_from(["metadata.jsonl"] * 3 + ["metadata.csv"]))
    captions = draw(st.sampled_from([_USUAL_CAPTIONS, _CAPTIONS]))
    rows = [{"file_name": (folder if above else "") + name, "text": draw(captions)} for name in names]
    if all(len(row["text"]) < 2 for row in rows):
        rows[0]["text"] = "a cat"
    style = draw(
        st.sampled_from(["plain"] * 4 + ["unicode", "pretty", "windows", "one line", "quoted", "mac", "no space"])
    )
    images = {folder + name: good_picture(number) for number, name in enumerate(names)}
    return Draft(images=images, rows=rows, metadata=metadata, style=style)


def change_caption(draw: st.DrawFn, draft: Draft) -> None:
    """A caption of another kind."""
    row = draw(st.sampled_from(draft.rows))
    row["text"] = draw(st.one_of(_VALUES, st.lists(_CAPTIONS, max_size=2)))


def dated_captions(draw: st.DrawFn, draft: Draft) -> None:
    """Captions that may all be taken for times."""
    as_lists = draw(st.booleans())
    for row in draft.rows:
        row["text"] = [draw(_DATES)] if as_lists else draw(_DATES)


def captions_as_lists(draw: st.DrawFn, draft: Draft) -> None:
    """Several captions an image."""
    for row in draft.rows:
        row["text"] = [row.get("text", "a cat"), *draw(st.lists(_CAPTIONS, max_size=2))]


def more_columns(draw: st.DrawFn, draft: Draft) -> None:
    """Columns that training does not use."""
    name = draw(st.sampled_from(["tags", "tags", "score", "image", "label", "a.b", "", "TEXT", "path", "__key__"]))
    one_kind = draw(st.booleans())
    value = draw(_TAGS)
    for row in draft.rows:
        if draw(st.sampled_from([True, True, True, False])):
            row[name] = value if one_kind else draw(_TAGS)


def change_row(draw: st.DrawFn, draft: Draft) -> None:
    """A row lost, twice, or for another name."""
    named_rows = [row for row in draft.rows if isinstance(row.get("file_name"), str)]
    if not named_rows:
        return
    row = draw(st.sampled_from(named_rows))
    name = row["file_name"]
    how = draw(st.sampled_from(range(14)))
    options: list[Callable[[], object]] = [
        lambda: draft.rows.remove(row),
        lambda: draft.rows.append({**row, "text": "another"}),
        lambda: row.pop("text", None),
        lambda: row.pop("file_name", None),
        lambda: row.update(file_name=f"./{name}"),
        lambda: row.update(file_name=name.upper()),
        lambda: row.update(file_name=name.replace("/", "\\")),
        lambda: row.update(file_name=unicodedata.normalize("NFC", name)),
        lambda: row.update(file_name=f"x/../{name}"),
        lambda: row.update(file_name=f"/{name}"),
        lambda: row.update(file_name=None),
        lambda: row.update(file_name=5),
        lambda: draft.rows.append({"file_name": "lost.png", "text": "lost"}),
        lambda: row.update(file_name=f"{name} "),
    ]
    options[how]()


def change_picture(draw: st.DrawFn, draft: Draft) -> None:
    """A file that is no plain PNG."""
    kinds = odd_pictures()
    draft.images[draw(st.sampled_from(sorted(draft.images)))] = kinds[draw(st.sampled_from(sorted(kinds)))]


def spoil_metadata(draw: st.DrawFn, draft: Draft) -> None:
    """Bytes of the metadata file that are not what they should be."""
    spoilers: Mapping[str, Callable[[bytes], bytes]] = {
        "mark": lambda data: b"\xef\xbb\xbf" + data,
        "two marks": lambda data: b"\xef\xbb\xbf" * 2 + data,
        "utf-16": lambda data: data.decode("utf-8", "replace").encode("utf-16"),
        "latin-1": lambda data: (
            data.decode("utf-8", "replace").replace("cat", "caf\u00e9").encode("latin-1", "replace")
        ),
        "cut": lambda data: data[: len(data) * 2 // 3],
        "garbage": lambda data: data + b"x",
        "array": lambda data: b"[" + b",".join(data.splitlines()) + b"]",
        "commas": lambda data: data.replace(b"}\n", b"},\n"),
        "single quotes": lambda data: data.replace(b'"', b"'"),
        "comment": lambda data: b"// rows\n" + data,
        "blank lines": lambda data: b"\n \n" + data.replace(b"\n", b"\n\n"),
        "blanks at the end": lambda data: data + b"  \n\t\n",
        "nothing": lambda data: b"",
        "no line end": lambda data: data.rstrip(b"\r\n"),
        "semicolons": lambda data: data.replace(b",", b";"),
        "tabs": lambda data: data.replace(b",", b"\t"),
        "header only": lambda data: data.splitlines(keepends=True)[0] if data else data,
        "trailing commas": lambda data: data.replace(b"\n", b",\n"),
        "longer rows": lambda data: data.split(b"\n", 1)[0] + b"\n" + data.partition(b"\n")[2].replace(b"\n", b",x\n"),
        "labels": lambda data: data.split(b"\n", 1)[0] + b"\n" + data.partition(b"\n")[2].replace(b"\n", b"\n7,", 0),
        "numbered": lambda data: data.replace(b"\n", b"\n7,").removesuffix(b"7,"),
        "open quote": lambda data: data + b'"',
        "NaN": lambda data: data.replace(b'"a cat"', b"NaN"),
        "Infinity": lambda data: data.replace(b'"a cat"', b"-Infinity"),
        "control": lambda data: data.replace(b"a cat", b"a\x01cat"),
        "raw tab": lambda data: data.replace(b"a cat", b"a\tcat"),
        "escape": lambda data: data.replace(b"a cat", rb"a\/c\u0061t \x"),
        "half": lambda data: data.replace(b"a cat", rb"a cat \ud83d"),
        "two halves": lambda data: data.replace(b"a cat", rb"a cat \ud83d\ude00"),
        "low half": lambda data: data.replace(b"a cat", rb"a cat \ude00"),
        "NUL": lambda data: data.replace(b"a cat", b"a\0cat"),
        "escaped NUL": lambda data: data.replace(b"a cat", rb"a\u0000cat"),
        "same key": lambda data: data.replace(b'"text"', b'"text": "x", "text"'),
        "bad UTF-8": lambda data: data.replace(b"a cat", b"a \xff cat"),
        "surrogate bytes": lambda data: data.replace(b"a cat", b"a \xed\xa0\x80 cat"),
        "leading zero": lambda data: data.replace(b'"a cat"', b"01"),
        "big number": lambda data: data.replace(b'"a cat"', b"1e999"),
        "plus": lambda data: data.replace(b'"a cat"', b"+1"),
        "no-break space": lambda data: data.replace(b" ", b"\xc2\xa0"),
        "vertical tab": lambda data: data.replace(b"\n", b"\x0b\n"),
        "form feed": lambda data: data.replace(b"a cat", b"a\x0ccat"),
        "line separator": lambda data: data.replace(b"a cat", "a\u2028\x85cat".encode()),
    }
    name = draw(st.sampled_from(sorted(spoilers)))
    draft.told.append(name)
    draft.text = spoilers[name]


def grow_metadata(draw: st.DrawFn, draft: Draft) -> None:
    """More than one block of 1 MiB, by blanks between objects, by long values or by pretty printing."""
    how = draw(st.sampled_from(["long", "many", "many pretty", "blank lines", "blanks"]))
    size = draw(st.sampled_from([500_000, 1_048_000, 1_048_576, 1_050_000, 2_200_000]))
    draft.told.append(f"{how} {size}")
    if how == "long":
        draw(st.sampled_from(draft.rows))["text"] = "a cat " * (size // 6)
    elif how.startswith("many"):
        each = {"file_name": "lost.png", "text": "x" * draw(st.sampled_from([50, 5_000, 30_000]))}
        draft.rows += [dict(each, file_name=f"lost{number}.png") for number in range(size // (60 + len(each["text"])))]
        draft.style = "pretty" if "pretty" in how else draft.style
    else:
        blank = b"\n" if how == "blank lines" else b" "
        draft.text = lambda data: data.replace(b"}\n", b"}" + blank * (size // 2) + b"\n", 1)


def second_group(draw: st.DrawFn, draft: Draft) -> None:
    """More images in another folder, with or without rows."""
    folder = draw(st.sampled_from(["test/", "val/", "other/", "dev-set/", "train/", "data/sub/", "reg/1_dog/"]))
    kind = draw(st.sampled_from(["rows", "no rows", "other columns", "csv", "same file", "other types"]))
    draft.told.append(f"{folder} {kind}")
    for number in range(draw(st.integers(1, 2))):
        draft.images[f"{folder}{number}.png"] = good_picture(100 + number)
    rows = [{"file_name": f"{number}.png", "text": "b"} for number in range(2)]
    if kind == "same file":
        draft.rows += [dict(row, file_name=folder + row["file_name"]) for row in rows]
    elif kind == "csv":
        draft.extra[f"{folder}metadata.csv"] = _csv(rows, "plain")
    elif kind != "no rows":
        more: dict[str, Any] = {"other columns": {"more": 1}, "other types": {"tags": []}}.get(kind, {})
        draft.extra[f"{folder}metadata.jsonl"] = _jsonl([{**row, **more} for row in rows], "plain")


def sidecars(draw: st.DrawFn, draft: Draft) -> None:
    """Text files beside the images, with or without metadata."""
    ending = draw(st.sampled_from([".txt", ".caption", ".TXT", ".json", ".npz"]))
    keeps = draw(st.booleans())
    most = draw(st.integers(1, 6))
    for name in list(draft.images)[:most]:
        draft.extra[name.rpartition(".")[0] + ending] = b"a cat"
    if not keeps:
        draft.metadata = ""


def other_files(draw: st.DrawFn, draft: Draft) -> None:
    """What else lies in folders."""
    there = next(iter(draft.images)).rpartition("/")[0]
    folder = draw(st.sampled_from(["", f"{there}/" if there else ""]))
    kinds = other_contents()
    for name in draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=2)):
        draft.told.append(name)
        draft.extra[folder + name] = kinds[name]


def other_contents() -> Mapping[str, bytes]:
    """Other files by name."""
    readme = b"---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files: '*.png'\n---\n# Cats"
    return {
        "README.md": b"# Cats",
        "readme.md": readme,
        "LICENSE": b"MIT",
        ".DS_Store": b"x",
        "Thumbs.db": b"x",
        "__MACOSX/._0.png": b"x",
        "notes.txt": b"notes",
        "test-notes.txt": b"notes",
        "train.txt": b"train",
        "data.py": b"raise SystemExit",
        "cats.py": b"raise SystemExit",
        "config.json": b"{}",
        "state.json": b"{}",
        "dataset_info.json": b"{}",
        "meta_cap.json": b'{"0": {"caption": "x"}}',
        "labels.csv": b"a,b\n1,2\n",
        "metadata.json1": b'{"file_name": "0.png", "text": "x"}\n',
        "Metadata.jsonl": b'{"file_name": "0.png", "text": "x"}\n',
        "metadata.jsonl.bak": b"x",
        "metadata.csv": b"file_name,text\n0.png,x\n",
        "metadata.jsonl": b'{"file_name": "0.png", "text": "x"}\n',
        "images.zip": zipped({"0.png": good_picture()}),
        "both.zip": zipped({"0.png": good_picture(), "metadata.jsonl": b'{"file_name": "0.png", "text": "x"}\n'}),
        "rows.zip": zipped({"metadata.jsonl": b'{"file_name": "0.png", "text": "x"}\n'}),
        "notes.zip": zipped({"notes.txt": b"x", "__MACOSX/0.png": b"x", ".a.png": b"x"}),
        "upper.zip": zipped({"0.PNG": good_picture()}),
        "IMAGES.ZIP": zipped({"0.png": good_picture()}),
        "empty.zip": zipped({}),
        "broken.zip": b"PK\x03\x04 not a zip",
        "images.tar": tarred({"0.png": good_picture()}),
        "images.tar.gz": b"\x1f\x8b\x08",
        "images.7z": b"7z\xbc\xaf\x27\x1c",
        "cat.png.txt": b"a cat",
        "cat.Png": good_picture(),
        "clip.mp4": b"\0\0\0\x18ftypmp42",
        "a.pdf": b"%PDF",
        "data/train-00000-of-00001.png": good_picture(),
        "data/test-00000-of-00002.png": good_picture(),
        "train/x.png": good_picture(),
        "x_train.png": good_picture(),
        "model.safetensors": b"\0" * 16,
        "empty.png": b"",
    }


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A ZIP in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
    """A tar in memory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def other_column(draw: st.DrawFn, draft: Draft) -> None:
    """A config that names columns, rightly or wrongly."""
    draft.caption_column = draw(st.sampled_from(["caption", "text", "tags", "file_name"]))
    draft.image_column = draw(st.sampled_from(["image", "image", "image", "jpg"]))
    if draw(st.booleans()):
        draft.rows = [
            {("caption" if name == "text" else name): value for name, value in row.items()} for row in draft.rows
        ]


CHANGES = (
    change_caption,
    dated_captions,
    captions_as_lists,
    more_columns,
    more_columns,
    change_row,
    change_row,
    change_picture,
    change_picture,
    spoil_metadata,
    spoil_metadata,
    grow_metadata,
    second_group,
    sidecars,
    other_files,
    other_files,
    other_column,
)


@st.composite
def packages(draw: st.DrawFn, draft: Draft) -> DatasetCase:
    """The files as a folder or archive."""
    members = draft.members()
    name = draw(st.sampled_from(["cats"] * 5 + ["cats.zip"] * 4 + ["cats.tar", "cats.tar.gz", "CATS.ZIP", "a.b.zip"]))
    flaw = ""
    if name.lower().endswith("zip"):
        flaw = draw(st.sampled_from([""] * 6 + ["folders", "deflated", "bzip2", "lzma", "wrong checksum", "encrypted"]))
        flaw = draw(
            st.sampled_from([flaw] * 6 + ["cut", "unknown method", "backslashes", "above", "absolute", "twice"])
        )
    if flaw == "backslashes":
        members = [(path.replace("/", "\\"), data) for path, data in members]
    elif flaw == "above":
        members = [(f"../{path}", data) for path, data in members]
    elif flaw == "absolute":
        members = [(f"/{path}", data) for path, data in members]
    elif flaw == "twice":
        members.append(draw(st.sampled_from(members)))
    if ".tar" in name and draw(st.sampled_from([True, False, False, False])):
        path = draw(st.sampled_from(sorted(draft.images)))
        link = draw(st.sampled_from(["-> ", "=> "]))
        target = draw(
            st.sampled_from([path if link == "=> " else path.rpartition("/")[2], "nowhere.png", "../out.png"])
        )
        members.append((path.rpartition(".")[0] + "L.png", link.encode() + target.encode()))
    return DatasetCase(
        name=name,
        members=tuple(members),
        zip_flaw=flaw,
        image_column=draft.image_column,
        caption_column=draft.caption_column,
        told=tuple(draft.told),
    )


@st.composite
def dataset_cases(draw: st.DrawFn) -> DatasetCase:
    """A folder or archive of images with metadata, and what people do to it."""
    draft = draw(drafts())
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=2)):
        if not draft.rows:
            break
        draft.told.append(change.__name__)
        change(draw, draft)
    return draw(packages(draft))
