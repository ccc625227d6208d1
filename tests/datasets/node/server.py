"""What a node does with a data set, done by the libraries and versions that nodes run.

A program of its own: it runs in the environment of ``pip install 'crynux-async[test-node]'``, imports nothing of this
project, reads one JSON object a line and answers each with one.

Source: stable-diffusion-task 4088ef8, download_url_dataset.py and finetune_lora.py; requirements_cuda.txt has the
versions of datasets, Pillow and numpy. The image of crynux-node 7161161 has Python 3.10: pandas 2.3 is its last one.
"""

import base64
import json
import os
import shutil
import sys
import tarfile
import tempfile
import traceback
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
warnings.simplefilter("ignore")

import datasets  # noqa: E402

# Libraries print: what is said to the asker goes through a copy, and their words to standard error.
ANSWERS = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

VERSIONS = ("datasets", "numpy", "pandas", "pillow", "pyarrow")
TARS = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz")


class RefusalError(Exception):
    """Where the training code stops by itself."""


def main() -> None:
    """Answer until standard input ends."""
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(100)
    datasets.config.TIME_OUT_REMOTE_CODE = 1  # of the 15 s in which it asks a terminal that a node has not
    say({name: version(name) for name in VERSIONS} | {"python": sys.version.partition(" ")[0]})
    for line in sys.stdin:
        asked = json.loads(line)
        if "pictures" in asked:
            say({"sizes": [size_of(base64.b64decode(data)) for data in asked["pictures"]]})
            continue
        if "layout" in asked:
            say(layout_of(asked["layout"]))
            continue
        try:
            with tempfile.TemporaryDirectory() as place:
                say(answer(asked, Path(place)))
        except Exception as error:
            say({"accepted": False, "reason": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()})


def say(answered: dict[str, Any]) -> None:
    """Write one line."""
    ANSWERS.write(json.dumps(answered) + "\n")
    ANSWERS.flush()


def answer(asked: dict[str, Any], place: Path) -> dict[str, Any]:
    """Load a folder or archive and draw every example once."""
    path = Path(asked["path"])
    folder = path if path.is_dir() else extracted(path, place / "external")
    loaded = datasets.load_dataset(str(folder), None, cache_dir=str(place / "cache"))
    train = loaded["train"]
    image_column, caption_column = asked["image_column"], asked["caption_column"]
    for column in (image_column, caption_column):
        if column not in train.column_names:
            raise RefusalError(f"{column} is not among the columns {train.column_names}")
    rows = [row_of(example, image_column, caption_column) for example in train]
    if not rows:
        raise RefusalError("no row")
    names = paths_of(train, image_column, Path(folder))
    return {
        "accepted": True,
        "splits": {split: len(examples) for split, examples in loaded.items()},
        "rows": [[name, *row] for name, row in zip(names, rows, strict=True)],
    }


def layout_of(root: str) -> dict[str, Any]:
    """The files of each split and its loader, as load_dataset works them out; no splits when there is no file."""
    from datasets import data_files, load

    try:
        patterns = data_files.get_data_patterns(root)
    except data_files.EmptyDatasetError:
        return {"splits": None}
    allowed = load.ALL_ALLOWED_EXTENSIONS
    listed = data_files.DataFilesDict.from_patterns(patterns, base_path=root, allowed_extensions=allowed)
    modules = {split: load.infer_module_for_data_files_list(files) for split, files in listed.items()}
    kept = {
        split: files.filter_extensions(load._MODULE_TO_EXTENSIONS[modules[split][0]]) if modules[split][0] else []
        for split, files in listed.items()
    }
    return {
        "splits": {str(split): [os.path.relpath(file, root) for file in files] for split, files in kept.items()},
        "loaders": {str(split): "tsv" if options else module or "" for split, (module, options) in modules.items()},
    }


def extracted(path: Path, place: Path) -> str:
    """Do with a file what a node does after it has loaded it from an address."""
    place.mkdir()
    here = Path(shutil.copy(path, place))
    if "." not in here.name:
        here = here.rename(here.with_name(here.name + kind_of(here)))
    name = os.path.splitext(here.name)[0]
    if name.endswith(".tar"):
        name = os.path.splitext(name)[0]
    target, lower = place / name, here.name.lower()
    if not lower.endswith((".zip", *TARS)) or target.exists():
        return str(target if target.exists() else here)
    if lower.endswith(".zip"):
        with zipfile.ZipFile(here) as archive:
            archive.extractall(target)
    else:
        modes = {".gz": "r:gz", ".bz2": "r:bz2", ".xz": "r:xz"}
        mode = next((mode for ending, mode in modes.items() if lower.endswith(ending)), "r")
        with tarfile.open(here, mode) as archive:
            unfiltered(archive, target)
    here.unlink()
    return str(target)


def unfiltered(archive: tarfile.TarFile, target: Path) -> None:
    """Extract as Python 3.10 does, but nothing outside of the folder: no test may write there."""
    for info in archive:
        there = os.path.normpath(os.path.join(target, info.name))
        if not Path(there).is_relative_to(target):
            raise RefusalError(f"{info.name} is outside")
    archive.extractall(target, filter="fully_trusted")


def kind_of(path: Path) -> str:
    """The ending that a node adds to a name without a dot."""
    head = path.read_bytes()[:8]
    if head.startswith(b"PK\x03\x04"):
        return ".zip"
    for magic, ending in ((b"\x1f\x8b", ".gz"), (b"BZ", ".bz2"), (b"\xfd7zXZ\x00", ".xz")):
        if head.startswith(magic):
            return f".tar{ending}" if holds_tar(path, ending) else ending
    return ""


def holds_tar(path: Path, ending: str) -> bool:
    """Whether a compressed file begins with a tar header."""
    import bz2
    import gzip
    import lzma

    opener: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[ending]
    try:
        with opener(path, "rb") as file:
            return file.read(512)[257:263] in {b"ustar\x00", b"ustar "}
    except (OSError, EOFError, ValueError, lzma.LZMAError):
        return False


def size_of(data: bytes) -> tuple[int, int] | None:
    """The size of an image as it is trained on, or None when it cannot be."""
    try:
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(data)
            image = datasets.Image().decode_example({"path": file.name, "bytes": None})
            return image.convert("RGB").size
    except Exception:  # decoders of damaged files raise almost anything
        return None


def row_of(example: dict[str, Any], image_column: str, caption_column: str) -> list[Any]:
    """What training makes of an example: the size of the image, and the caption as it is tokenized."""
    size = example[image_column].convert("RGB").size
    caption = example[caption_column]
    texts = caption if isinstance(caption, list) else [caption]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise RefusalError(f"caption {caption!r}")
    return [caption, *size]


def paths_of(train: Any, image_column: str, folder: Path) -> list[str | None]:
    """The image files, as paths below the folder; None where the image stands in the table itself."""
    raw = train.cast_column(image_column, datasets.Image(decode=False))[image_column]
    paths = [Path(image["path"]) if image["bytes"] is None else None for image in raw]
    return [path.relative_to(folder).as_posix() if path and path.is_relative_to(folder) else None for path in paths]


if __name__ == "__main__":
    main()
