"""Data sets for the tests of check(): files in memory, layouts that work on a node and layouts that do not."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from crynux_async.datasets import DatasetReport, check

Files = Mapping[str, bytes]
SIDE = 16


def picture(tone: int = 0, *, width: int = SIDE, height: int = SIDE, mode: str = "RGB", form: str = "PNG") -> bytes:
    """A small image; different tones give different content."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (tone, 0, 255 - tone)).convert(mode).save(buffer, form)
    return buffer.getvalue()


def pictures(count: int = 6, prefix: str = "", extension: str = "png") -> dict[str, bytes]:
    """Images named 0.png, 1.png and so on."""
    return {f"{prefix}{number}.{extension}": picture(number) for number in range(count)}


def row(name: str, caption: object) -> bytes:
    """One line of metadata.jsonl."""
    return (json.dumps({"file_name": name, "text": caption}) + "\n").encode()


def rows(count: int = 6, prefix: str = "") -> bytes:
    """Lines of metadata.jsonl for ``pictures``."""
    return b"".join(row(f"{prefix}{number}.png", f"a picture {number}") for number in range(count))


def good() -> dict[str, bytes]:
    """A folder that works."""
    return {**pictures(), "metadata.jsonl": rows()}


def csv_rows(*captions: str, header: str = "file_name,text") -> bytes:
    """A metadata.csv for as many ``pictures`` as there are captions."""
    lines = [header, *(f"{number}.png,{caption}" for number, caption in enumerate(captions))]
    return "\n".join(lines).encode()


def write(folder: Path, files: Files) -> Path:
    """Write files below a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def zipped(path: Path, files: Files) -> Path:
    """Write files into a ZIP."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: Files, mode: str) -> Path:
    """Write files into a tar."""
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def checked(tmp_path: Path, files: Files, **options: Any) -> DatasetReport:
    """The report on a folder of these files."""
    return check(write(tmp_path / "cats", files), **{"resolution": SIDE, **options})


def codes(report: DatasetReport) -> set[str]:
    """The codes of everything found."""
    return {problem.code for problem in report.problems}


def error_codes(report: DatasetReport) -> set[str]:
    """The codes of the errors."""
    return {problem.code for problem in report.errors}


FIVE = ("a", "b", "c", "d", "e", "f")

WORKING: dict[str, Callable[[], Files]] = {
    "flat": good,
    "nested folder": lambda: {f"mydata/{name}": data for name, data in good().items()},
    "train folder": lambda: {f"train/{name}": data for name, data in good().items()},
    "train folder, metadata above": lambda: {**pictures(prefix="train/"), "metadata.jsonl": rows(prefix="train/")},
    "metadata.csv": lambda: {**pictures(), "metadata.csv": csv_rows(*FIVE)},
    "extra files": lambda: {**good(), "README.md": b"# Cats", ".DS_Store": b"x", "Thumbs.db": b"x"},
    "resource forks": lambda: {**good(), "__MACOSX/._0.png": b"x", "__MACOSX/test/._1.png": b"x"},
    "captions as lists": lambda: {
        **pictures(),
        "metadata.jsonl": b"".join(row(f"{number}.png", ["one", "two"]) for number in range(6)),
    },
    "objects on several lines": lambda: {
        **pictures(),
        "metadata.jsonl": b"\n".join(json.dumps(json.loads(line), indent=1).encode() for line in rows().splitlines()),
    },
    "byte order mark": lambda: {**pictures(), "metadata.jsonl": b"\xef\xbb\xbf" + rows()},
    "dot and slash": lambda: {**pictures(), "metadata.jsonl": rows(prefix="./")},
    "upper case extension": lambda: {
        **pictures(extension="PNG"),
        "metadata.jsonl": rows().replace(b".png", b".PNG"),
    },
    "two folders with metadata": lambda: {
        **pictures(prefix="a/"),
        "a/metadata.jsonl": rows(),
        **pictures(prefix="b/"),
        "b/metadata.jsonl": rows(),
    },
    "a few .txt files": lambda: {**good(), "0.txt": b"notes", "1.txt": b"notes"},
    "test folder beside": lambda: {
        **{f"train/{name}": data for name, data in good().items()},
        **{f"test/{name}": data for name, data in good().items()},
    },
}

# Layout, the code of the error that must be among those found.
FAILING: dict[str, tuple[Callable[[], Files], str]] = {
    "everything under test": (lambda: {f"test/{name}": data for name, data in good().items()}, "CX310"),
    "every name with test": (
        lambda: {
            **{f"{n}_test.png": picture(n) for n in range(6)},
            "metadata.jsonl": b"".join(row(f"{n}_test.png", "a cat") for n in range(6)),
        },
        "CX310",
    ),
    "a stray file named test": (lambda: {**good(), "test-notes.txt": b"x"}, "CX310"),
    "validation folder only": (lambda: {f"my-val/{name}": data for name, data in good().items()}, "CX310"),
    "no metadata": (pictures, "CX320"),
    "no metadata, folders as labels": (lambda: {**pictures(prefix="cats/"), **pictures(prefix="dogs/")}, "CX320"),
    "metadata in the wrong case": (lambda: {**pictures(), "Metadata.jsonl": rows()}, "CX320"),
    "sidecar texts": (lambda: {**pictures(), **{f"{n}.txt": b"a cat" for n in range(6)}}, "CX321"),
    "sidecar texts and metadata": (lambda: {**good(), **{f"{n}.txt": b"a cat" for n in range(6)}}, "CX321"),
    "image without a row": (lambda: {**good(), "6.png": picture(6)}, "CX325"),
    "row in another case": (lambda: {**pictures(), "metadata.jsonl": rows().replace(b"0.png", b"0.PNG")}, "CX325"),
    "metadata below the images": (lambda: {**pictures(), "a/metadata.jsonl": rows(prefix="../")}, "CX325"),
    "caption null": (lambda: {**pictures(7), "metadata.jsonl": rows() + row("6.png", None)}, "CX327"),
    "caption missing": (lambda: {**pictures(7), "metadata.jsonl": rows() + b'{"file_name": "6.png"}'}, "CX327"),
    "caption empty in a CSV": (lambda: {**pictures(), "metadata.csv": csv_rows(*FIVE[:5], "")}, "CX327"),
    "caption None in a CSV": (lambda: {**pictures(), "metadata.csv": csv_rows(*FIVE[:5], "None")}, "CX327"),
    "captions are numbers": (lambda: {**pictures(1), "metadata.jsonl": row("0.png", 5)}, "CX328"),
    "captions are numbers in a CSV": (lambda: {**pictures(2), "metadata.csv": csv_rows("1", "2")}, "CX328"),
    "captions are dates": (lambda: {**pictures(1), "metadata.jsonl": row("0.png", "2024-01-31")}, "CX328"),
    "caption is an empty list": (
        lambda: {**pictures(2), "metadata.jsonl": row("0.png", []) + row("1.png", ["a"])},
        "CX328",
    ),
    "captions of two kinds": (lambda: {**pictures(7), "metadata.jsonl": rows() + row("6.png", ["a"])}, "CX322"),
    "metadata is a JSON array": (lambda: {**pictures(), "metadata.jsonl": b"[]"}, "CX322"),
    "metadata is cut off": (lambda: {**pictures(), "metadata.jsonl": rows()[:-20]}, "CX322"),
    "metadata is empty": (lambda: {**pictures(), "metadata.jsonl": b""}, "CX322"),
    "metadata is not UTF-8": (lambda: {**pictures(), "metadata.jsonl": rows().replace(b"a pic", b"\xe9")}, "CX322"),
    "unquoted comma": (lambda: {**pictures(), "metadata.csv": csv_rows(*FIVE[:5], "red, green")}, "CX322"),
    "open quote": (lambda: {**pictures(), "metadata.csv": csv_rows(*FIVE[:5], '"red')}, "CX322"),
    "row without a name": (lambda: {**pictures(), "metadata.jsonl": rows() + b'{"text": "x"}'}, "CX322"),
    "CSV and JSON lines": (lambda: {**good(), "metadata.csv": csv_rows(*FIVE)}, "CX323"),
    "metadata with other columns": (
        lambda: {
            **good(),
            **{f"a/{n}": d for n, d in pictures().items()},
            "a/metadata.jsonl": rows().replace(b'"text"', b'"text": "x", "tag"'),
        },
        "CX323",
    ),
    "no caption column": (lambda: {**pictures(), "metadata.jsonl": rows().replace(b'"text"', b'"caption"')}, "CX324"),
    "no file_name column": (lambda: {**pictures(), "metadata.jsonl": rows().replace(b"file_name", b"file")}, "CX324"),
    "semicolons": (lambda: {**pictures(), "metadata.csv": csv_rows(*FIVE).replace(b",", b";")}, "CX324"),
    "a column named image": (
        lambda: {**pictures(), "metadata.jsonl": rows().replace(b'"text"', b'"image": "x", "text"')},
        "CX334",
    ),
    "corrupt image": (lambda: {**good(), "3.png": b"not an image"}, "CX340"),
    "truncated image": (lambda: {**good(), "3.png": picture(3, width=64, height=64)[:-30]}, "CX340"),
    "loading script": (lambda: {**good(), "cats.py": b"raise SystemExit"}, "CX316"),
    "test split without metadata": (
        lambda: {**{f"train/{n}": d for n, d in good().items()}, **pictures(prefix="test/")},
        "CX325",
    ),
    "splits of two formats": (
        lambda: {
            "train_1.png": picture(1),
            "metadata.jsonl": row("train_1.png", "a cat"),
            "test_notes.pdf": b"%PDF",
        },
        "CX313",
    ),
    "JSON beside every image": (
        lambda: {**pictures(extension="jpg"), **{f"{n}.json": b'{"a": 1}' for n in range(6)}},
        "CX312",
    ),
    "texts only": (lambda: {"a.txt": b"a cat"}, "CX312"),
    "nothing": (dict, "CX305"),
    "an image's backup only": (lambda: {"a.png.bak": picture()}, "CX305"),
    "README only": (lambda: {"README.md": b"# Cats"}, "CX305"),
    "odd shard name": (lambda: {**good(), "data/a b-00000-of-00001.png": picture()}, "CX313"),
}

# These load without an error, but not all of the pictures.
LOSING: dict[str, tuple[Callable[[], Files], str]] = {
    "one file named train": (
        lambda: {**good(), "000_train.png": picture(99), "metadata.jsonl": rows() + row("000_train.png", "a cat")},
        "CX311",
    ),
    "images beside the train folder": (
        lambda: {**{f"train/{n}": d for n, d in good().items()}, "9.png": picture(9)},
        "CX311",
    ),
    "a shard in data": (
        lambda: {
            **good(),
            "data/train-00000-of-00001.png": picture(99),
            "metadata.jsonl": rows() + row("data/train-00000-of-00001.png", "a cat"),
        },
        "CX311",
    ),
    "extension in mixed case": (lambda: {**good(), "6.Png": picture(6)}, "CX318"),
}
