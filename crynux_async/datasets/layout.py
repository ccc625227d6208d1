"""Which files of a folder a node loads, and as what.

A node extracts the archive and gives the folder to ``load_dataset``, which guesses: file and folder names decide the
split, the most frequent extension decides the loader. These are its rules on plain names; nothing is opened here.

Source: stable-diffusion-task finetune_lora.py (``datasets`` 3.1.0 in its requirements); datasets 3.1.0 data_files.py,
load.py (infer_module_for_data_files_list) and packaged_modules/__init__.py.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Final, Literal

import attrs

METADATA_NAMES: Final = ("metadata.csv", "metadata.jsonl")

_IMAGES: Final = (
    "blp bmp dib bufr cur pcx dcx dds ps eps fit fits fli flc ftc ftu gbr gif grib h5 hdf png apng jp2 j2k jpc jpf jpx "
    "j2c icns ico im iim tif tiff jfif jpe jpg jpeg mpg mpeg msp pcd pxr pbm pgm ppm pnm psd bw rgb rgba sgi ras tga "
    "icb vda vst webp wmf emf xbm xpm"
)
_AUDIO: Final = (
    "aiff au avr caf flac htk svx mat4 mat5 mpc2k ogg paf pvf raw rf64 sd2 sds ircam voc w64 wav nist wavex wve xi "
    "mp3 opus"
)
_VIDEO: Final = "mkv mp4 avi mpeg mov"
IMAGE_EXTENSIONS: Final = frozenset(f".{extension}" for extension in _IMAGES.split())
DATA_EXTENSIONS: Final = IMAGE_EXTENSIONS | {".parquet", ".csv", ".tsv", ".json", ".jsonl", ".arrow", ".txt"}
"""What a data set is made of; one such file alone is no data set."""
"""What the image loader takes for an image, in any case of letters."""

_TABLES: Final = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".geoparquet": "parquet",
    ".gpq": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
    ".tar": "webdataset",
    ".xml": "xml",
}
# The later entry wins: .mpeg is an image extension and a video extension, and counts as video.
_LOADERS: Final[Mapping[str, str]] = {
    **_TABLES,
    **dict.fromkeys(IMAGE_EXTENSIONS, "imagefolder"),
    **{f".{extension}": "audiofolder" for extension in _AUDIO.split()},
    **{f".{extension}": "videofolder" for extension in _VIDEO.split()},
}
# Folder loaders know their extensions in lower and in upper case, tables in lower case only.
_ALLOWED: Final = frozenset(_LOADERS) | {e.upper() for e in _LOADERS if e not in _TABLES} | {".zip"}

_IGNORED: Final = frozenset(
    ("README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dummy_data.zip", "dataset_dict.json")
)
_KEYWORDS: Final[Mapping[str, Sequence[str]]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# NON_WORDS_CHARS of data_files.py.
_SEPARATOR: Final = "[-._ 0-9]"
_ANY_KEYWORD: Final = re.compile("|".join(word for words in _KEYWORDS.values() for word in words))
_SHARD: Final = re.compile(r"data/([^/]*-[0-9]{5}-of-[0-9]{5}[^/]*\.[^/]*)", re.DOTALL)
_SHARD_SPLIT: Final = re.compile(r"(.+)-[0-9]{5}-of-[0-9]{5}.*\..*", re.DOTALL)
# _split_re of naming.py.
_SPLIT_NAME: Final = re.compile(r"^\w+(\.\w+)*$")
# DATA_FILES_MAX_NUMBER_FOR_MODULE_INFERENCE of config.py: a larger folder is judged by its first files.
_LOOKED_AT: Final = 200

Rule = Literal["shards", "folders", "files", "all", "none"]


@attrs.frozen(kw_only=True)
class Layout:
    """How a folder is loaded.

    Attributes:
        rule: What decided the splits: names like ``data/train-00000-of-00001.parquet``, folder names, file names,
            or nothing (``all``: everything is ``train``). ``none``: there is no file at all.
        splits: Each split's data files in the order in which they are read. A file that matches twice is listed twice.
        loaders: Each split's loader, ``""`` where there is none. ``zip`` means: decided by what is inside an archive.
        metadata: The ``metadata.csv`` and ``metadata.jsonl`` files that the image loader finds.
        fault: Why no split can be made of the names, or ``""``.
    """

    rule: Rule
    splits: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    loaders: Mapping[str, str] = attrs.field(factory=dict)
    metadata: tuple[str, ...] = ()
    fault: str = ""

    @property
    def loader(self) -> str:
        """The loader of all splits, or ``""`` when there is none or they differ."""
        names = set(self.loaders.values())
        return names.pop() if len(names) == 1 else ""

    def images(self, split: str) -> tuple[str, ...]:
        """The files of a split that the image loader takes for images, as often as it lists them."""
        return tuple(name for name in self.splits.get(split, ()) if extension_of(name) in IMAGE_EXTENSIONS)


def base_name(name: str) -> str:
    """The last part of a path."""
    return name.rsplit("/", 1)[-1]


def extension_of(name: str) -> str:
    """The last extension of a name with its dot, in lower case, or ``""``."""
    stem, dot, extension = base_name(name).rpartition(".")
    return f".{extension.lower()}" if dot and stem.strip(".") else ""


def loader_of(name: str) -> str:
    """The loader that a file's extension stands for, or ``""``."""
    return _LOADERS.get(extension_of(name), "")


def is_visible(name: str) -> bool:
    """Whether the loader looks at a file: nothing hidden, no folder that starts with two underscores."""
    *folders, last = name.split("/")
    if last in _IGNORED:
        return False
    # "." and ".." begin with a dot as well, and are no hidden names.
    hidden = any(part.startswith(".") and part.strip(".") for part in (*folders, last))
    return not hidden and not any(part.startswith("__") for part in folders)


def lay_out(names: Iterable[str]) -> Layout:
    """Decide which files are loaded as which split, and by which loader.

    Args:
        names: Paths below the extracted folder, with ``/``.

    Returns:
        The layout.
    """
    visible = sorted(name for name in names if is_visible(name))
    if not visible:
        return Layout(rule="none")
    rule, listed, fault = _splits(visible)
    allowed = {split: [name for name in files if _is_allowed(name)] for split, files in listed.items()}
    loaders = {split: _loader(files) for split, files in allowed.items()}
    return Layout(
        rule=rule,
        splits={split: tuple(_kept(files, loaders[split])) for split, files in allowed.items()},
        loaders=loaders,
        metadata=tuple(name for name in visible if base_name(name) in METADATA_NAMES),
        fault=fault,
    )


def split_word(name: str) -> str | None:
    """The split that a file's own name or a folder of its path stands for, or None."""
    for patterns in (_folder_patterns(), _file_patterns()):
        for split, expressions in patterns.items():
            if any(expression.fullmatch(name) for expression in expressions):
                return split
    return None


def _splits(visible: Sequence[str]) -> tuple[Rule, dict[str, list[str]], str]:
    shards = [name for name in visible if _SHARD.fullmatch(name)]
    if shards:
        return _sharded(shards)
    words = [name for name in visible if _ANY_KEYWORD.search(name)]
    found = _matched(words, _folder_patterns())
    if found:
        return "folders", found, ""
    found = _matched(words, _file_patterns())
    if found:
        return "files", found, ""
    return "all", {"train": list(visible)}, ""


def _sharded(shards: Sequence[str]) -> tuple[Rule, dict[str, list[str]], str]:
    splits: dict[str, list[str]] = {}
    for name in shards:
        match = _SHARD_SPLIT.fullmatch(base_name(name))
        split = match[1] if match else ""
        if not _SPLIT_NAME.match(split):
            return "shards", {}, f"{name} is named like a part of a split {split!r}, which is not a valid name"
        splits.setdefault(split, []).append(name)
    # The first split's columns are those of all: the usual ones come first.
    usual = [split for split in _KEYWORDS if split in splits]
    return "shards", {split: splits[split] for split in (*usual, *sorted(set(splits) - set(usual)))}, ""


def _matched(names: Sequence[str], patterns: Mapping[str, Sequence[re.Pattern[str]]]) -> dict[str, list[str]]:
    # Pattern by pattern, as the library does: that is why a file that matches two patterns of a split counts twice.
    found = {
        split: [name for expression in expressions for name in names if expression.fullmatch(name)]
        for split, expressions in patterns.items()
    }
    return {split: files for split, files in found.items() if files}


@cache
def _folder_patterns() -> Mapping[str, Sequence[re.Pattern[str]]]:
    return _compiled("{word}/.*", "{word}{sep}[^/]*/.*", "[^/]*{sep}{word}/.*", "[^/]*{sep}{word}{sep}[^/]*/.*")


@cache
def _file_patterns() -> Mapping[str, Sequence[re.Pattern[str]]]:
    return _compiled("{word}{sep}[^/]*", "[^/]*{sep}{word}{sep}[^/]*")


def _compiled(*shapes: str) -> Mapping[str, Sequence[re.Pattern[str]]]:
    return {
        split: [
            re.compile("(?:.+/)?" + shape.format(word=word, sep=_SEPARATOR), re.DOTALL)
            for word in words
            for shape in shapes
        ]
        for split, words in _KEYWORDS.items()
    }


def _suffixes(name: str) -> list[str]:
    # "::" chains addresses in datasets 3.1.0 (utils/file_utils.py, xbasename): only what stands before it is seen.
    return [f".{suffix}" for suffix in base_name(name.partition("::")[0]).split(".")[1:]]


def _is_allowed(name: str) -> bool:
    return any(suffix in _ALLOWED for suffix in _suffixes(name))


def _loader(files: Sequence[str]) -> str:
    counts = Counter(
        (suffix.lower(), base_name(name) in METADATA_NAMES) for name in files[:_LOOKED_AT] for suffix in _suffixes(name)
    )

    # As load.py sorts: what describes comes last, then the number counts, then Parquet, then the later letter.
    def rank(item: tuple[tuple[str, bool], int]) -> tuple[bool, int, bool, str]:
        (extension, is_metadata), count = item
        return not is_metadata, count, extension == ".parquet", extension

    for (extension, _), _ in sorted(counts.items(), key=rank, reverse=True):
        if extension in _LOADERS:
            return _LOADERS[extension]
        if extension == ".zip":
            return "zip"
    return ""


def _kept(files: Sequence[str], loader: str) -> list[str]:
    # One module reads both; the ending only sets its separator.
    tables = ("csv", "tsv")
    same = tables if loader in tables else (loader,)
    own = [extension for extension, name in _LOADERS.items() if name in same]
    upper = [extension.upper() for extension in own if extension not in _TABLES]
    endings = "|".join(re.escape(extension) for extension in (*own, *upper, ".zip"))
    # What follows the ending may be a compression, as in a.csv.gz.
    keep = re.compile(rf".*({endings})(\..+)?$")
    return [name for name in files if keep.match(name)]
