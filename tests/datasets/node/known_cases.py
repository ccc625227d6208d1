"""Data sets whose fate on a node is known, each with the verdict that the training code's source demands."""

import io
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow
from pyarrow import parquet

from tests.datasets.node.cases import DatasetCase, tarred, zipped
from tests.datasets.node.pictures import good_picture, odd_pictures


def _images(count: int = 3, prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}{number}.png": good_picture(number) for number in range(count)}


def _rows(*rows: Mapping[str, Any], **options: Any) -> bytes:
    """Lines of metadata.jsonl for 0.png, 1.png and so on; what a row says goes first."""
    whole = [{"file_name": f"{number}.png", "text": "a cat", **row} for number, row in enumerate(rows)]
    return "".join(json.dumps(row, **options) + "\n" for row in whole).encode()


def _tagged(*tags: Any) -> dict[str, bytes]:
    return {**_images(len(tags)), "metadata.jsonl": _rows(*({"tags": tag} for tag in tags))}


def _nested(depth: int, key: str = "", value: Any = 1) -> Any:
    """A value with as many lists, or objects with this key, around it."""
    for _ in range(depth):
        value = {key: value} if key else [value]
    return value


def _pretty(size: int) -> dict[str, bytes]:
    """Rows on several lines, the whole file of at least ``size`` bytes."""
    rows = [{}, {}, {}, *({"file_name": f"lost{number}.png", "text": "x" * 700} for number in range(size // 700))]
    return {**_images(), "metadata.jsonl": _rows(*rows, indent=2)}


def _with(**others: bytes) -> dict[str, bytes]:
    named = {name.replace("__", "."): data for name, data in others.items()}
    return {**_images(), "metadata.jsonl": _rows({}, {}, {}), **named}


def _picture(kind: str) -> dict[str, bytes]:
    return _with(**{"2__png": odd_pictures()[kind]})


def _parquet(
    captions: tuple[str | None, ...] = ("a", "b"), *, second: bytes = b"", mark: bool = True, **marks: Any
) -> dict[str, bytes]:
    images = [{"bytes": good_picture(), "path": None}, {"bytes": second or good_picture(1), "path": None}]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(images, kind), "text": pyarrow.array(captions, pyarrow.string())})
    if mark:
        features = {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}, **marks}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return {"data/train-00000-of-00001.parquet": buffer.getvalue()}


_ONE_ROW = b'{"file_name": "0.png", "text": "x"}\n'

ACCEPTED: Mapping[str, Callable[[], Mapping[str, bytes]]] = {
    "lists of lists of texts": lambda: _tagged([["1girl", "solo"]], [["cat"]], []),
    "null beside a list": lambda: _tagged(None, [["1girl"]], [None]),
    "null beside an object": lambda: _tagged({"a": 1}, None, {"a": None, "b": "x"}),
    "whole and other numbers": lambda: _tagged([1], [2.5], [None]),
    "times beside texts": lambda: _tagged("2024-01-31", "x", None),
    "62 lists inside each other": lambda: _tagged(_nested(62)),
    "62 objects inside each other": lambda: _tagged(_nested(62, "a")),
    "objects with other keys": lambda: _tagged({"a": 1}, {"b": ["x"]}, {}),
    "a whole pair of surrogates": lambda: {**_images(1), "metadata.jsonl": _rows({"text": "cat \U0001f408"})},
    "rows on several lines, small": lambda: _pretty(10_000),
    "rows on one line each, large": lambda: {
        **_images(),
        "metadata.jsonl": _rows({}, {}, {}, *({"file_name": f"l{n}.png", "text": "x" * 700} for n in range(2_000))),
    },
    "a row of less than a block": lambda: {**_images(1), "metadata.jsonl": _rows({"text": "x" * 1_000_000})},
    "images and their rows in an archive alone": lambda: {
        "a.zip": zipped({"0.png": good_picture(), "metadata.jsonl": _ONE_ROW})
    },
    "archive without images beside": lambda: _with(notes__zip=zipped({"notes.txt": b"x"})),
    "tar beside": lambda: _with(images__tar=tarred({"0.png": good_picture()})),
    "wrong checksum of a text at the end": lambda: _picture("PNG text last wrong"),
    "no end mark": lambda: _picture("PNG no end"),
    "animated GIF": lambda: _picture("GIF animated"),
    "four colours": lambda: _picture("JPEG CMYK"),
    "TIFF of two pages, compressed": lambda: _picture("TIFF two pages LZW"),
    "another format than the name says": lambda: _picture("QOI RGB"),
    "images in parquet": _parquet,
    "marks of every kind in parquet": lambda: _parquet(
        tags={"feature": {"a": [{"names": ["x"], "_type": "ClassLabel"}]}, "_type": "Sequence"}
    ),
}
"""Folders that a node trains on."""

REFUSED: Mapping[str, Callable[[], Mapping[str, bytes]]] = {
    "WD14 tags with scores": lambda: _tagged([["1girl", 0.98]], [["solo", 0.9]], []),
    "a number in a list of texts": lambda: _tagged(["a"], [1], []),
    "a list beside a text": lambda: _tagged(["a"], "a", None),
    "an object beside a list": lambda: _tagged({"a": 1}, [1], None),
    "a text deep inside": lambda: _tagged({"a": [{"b": 1}]}, {"a": [{"b": "x"}]}, None),
    "63 lists inside each other": lambda: _tagged(_nested(63)),
    "63 objects inside each other": lambda: _tagged(_nested(63, "a")),
    "500 lists inside each other": lambda: _tagged(_nested(500)),
    "500 lists of two kinds": lambda: _tagged(_nested(500), _nested(500, value="x")),
    "truth beside a number": lambda: _tagged(True, 1, None),
    "captions of texts and lists": lambda: {**_images(2), "metadata.jsonl": _rows({"text": "a"}, {"text": ["a"]})},
    "captions that are lists of times": lambda: {
        **_images(2),
        "metadata.jsonl": _rows({"text": ["2024-01-31"]}, {"text": ["2024-02-01"]}),
    },
    "half a character": lambda: {**_images(1), "metadata.jsonl": _rows({"text": "cute cat \ud83d"})},
    "half a character in another column": lambda: _tagged("x", "\ude00", None),
    "rows on several lines, large": lambda: _pretty(1_500_000),
    "a row of more than two blocks": lambda: {**_images(1), "metadata.jsonl": _rows({"text": "x" * 2_200_000})},
    "images and their rows as CSV in an archive alone": lambda: {
        "a.zip": zipped({"0.png": good_picture(), "metadata.csv": b"file_name,text\n0.png,x\n"})
    },
    "images in an archive beside metadata": lambda: _with(images__zip=zipped({"0.png": good_picture()})),
    "metadata in an archive": lambda: _with(rows__zip=zipped({"metadata.jsonl": _ONE_ROW})),
    "images and metadata in an archive": lambda: {
        "images.zip": zipped({"0.png": good_picture(), "metadata.jsonl": _ONE_ROW}),
        "metadata.jsonl": _ONE_ROW,
    },
    "images and metadata in an archive beside empty metadata of a folder": lambda: {
        "images.zip": zipped({"0.png": good_picture(), "metadata.jsonl": _ONE_ROW}),
        "rows/metadata.csv": b"",
    },
    "damaged archive beside": lambda: _with(images__zip=b"PK\x03\x04 damaged"),
    "wrong checksum of a text in front": lambda: _picture("PNG text first wrong"),
    "AVIF": lambda: _with(**{"2__png": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(60)}),
    "EPS": lambda: _picture("EPS"),
    "TIFF of two pages": lambda: _picture("TIFF two pages"),
    "Git LFS pointer": lambda: _picture("pointer"),
    "empty image": lambda: _picture("nothing"),
    "two colons in every name": lambda: {
        **{f"a::{number}.png": good_picture(number) for number in range(2)},
        "metadata.jsonl": _rows({"file_name": "a::0.png"}, {"file_name": "a::1.png"}),
    },
    "no caption in parquet": lambda: _parquet(("a", None)),
    "no image in parquet": lambda: _parquet(second=b"<html>"),
    "cut image in parquet": lambda: _parquet(second=good_picture(1)[:60]),
    "lists as version 4 of datasets marks them in parquet": lambda: _parquet(
        tags={"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
    ),
    "a type of version 4 of datasets inside another in parquet": lambda: _parquet(
        tags={"feature": {"a": {"_type": "Json"}}, "_type": "Sequence"}
    ),
    "images without their mark in parquet": lambda: _parquet(mark=False),
    "metadata under nearly its name": lambda: {**_images(1), "metadata.json1": _ONE_ROW},
    "letter case of a name": lambda: {"0.PNG": good_picture(), "metadata.jsonl": _ONE_ROW},
    "the folder within the name": lambda: {
        "train/0.png": good_picture(),
        "train/metadata.jsonl": b'{"file_name": "train/0.png", "text": "x"}\n',
    },
    "captions beside the images": lambda: {**_images(1), "0.txt": b"x"},
    "UTF-16": lambda: {**_images(1), "metadata.jsonl": _ONE_ROW.decode().encode("utf-16")},
    "the name in another encoding": lambda: {
        os.fsdecode(b"caf\xe9.png"): good_picture(),
        "metadata.jsonl": '{"file_name": "caf\u00e9.png", "text": "x"}\n'.encode(),
    },
    "a name that is composed otherwise": lambda: {
        "cafe\u0301.png": good_picture(),
        "metadata.jsonl": '{"file_name": "caf\u00e9.png", "text": "x"}\n'.encode(),
    },
    "written by save_to_disk": lambda: _with(state__json=b"{}"),
}
"""Folders that no node trains on."""


PACKED: Mapping[str, tuple[Mapping[str, bytes], Mapping[str, Any], list[str]]] = {
    "kohya's folders": (
        {
            "img/10_sks dog/a.JPG": good_picture(),
            "img/10_sks dog/a.TXT": b"sks dog",
            "reg/1_dog/b.png": good_picture(1),
            "reg/1_dog/b.txt": b"dog",
        },
        {},
        ["sks dog"],
    ),
    "kohya's folders, all of them": (
        {
            "img/10_sks dog/a.png": good_picture(),
            "img/10_sks dog/a.txt": b"sks dog",
            "reg/1_dog/b.png": good_picture(1),
            "reg/1_dog/b.txt": b"dog",
        },
        {"regularization": True},
        ["dog", "sks dog"],
    ),
    "two caption files": ({"a.png": good_picture(), "a.txt": b"tags", "a.caption": b"words"}, {}, ["tags"]),
    "the folder within the name": (
        {"train/0.png": good_picture(), "train/metadata.jsonl": b'{"file_name": "train/0.png", "text": "x"}\n'},
        {},
        ["x"],
    ),
    "the name in another encoding": (
        {
            os.fsdecode(b"caf\xe9.png"): good_picture(),
            "metadata.jsonl": '{"file_name": "caf\u00e9.png", "text": "x"}\n'.encode(),
        },
        {},
        ["x"],
    ),
    "captions in another encoding": (
        {"a.png": good_picture(), "a.txt": "caf\u00e9".encode("cp1252")},
        {"encoding": "cp1252"},
        ["caf\u00e9"],
    ),
    "captions in UTF-16": ({"a.png": good_picture(), "a.txt": "caf\u00e9".encode("utf-16")}, {}, ["caf\u00e9"]),
    "WD14 tags with scores": (_tagged([["1girl", 0.98]], [["solo", 0.9]]), {}, ["a cat", "a cat"]),
    "rows on several lines, large": (_pretty(1_500_000), {}, ["a cat", "a cat", "a cat"]),
}
"""Folders that are packed: their files, how, and the captions in the archive, sorted."""


def known_case(files: Mapping[str, bytes], name: str = "cats") -> DatasetCase:
    """A known data set as a case."""
    return DatasetCase(name=name, members=tuple(files.items()))
