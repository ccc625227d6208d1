"""What can be wrong with a data set: every code, in one table."""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import attrs

from crynux_async.datasets.findings import Severity
from crynux_async.errors import CrynuxError

_SHOWN: Final = 3
# Control characters, line ends, halves of characters, and what turns the direction of a text: any archive may have
# them in its names.
_NOT_PRINTED: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@attrs.frozen(kw_only=True)
class ProblemCode:
    """One kind of problem.

    Attributes:
        severity: ``error``: the job cannot work, or pictures are lost without a word. ``warning``: it works, but not as
            one would think. ``note``: good to know.
        title: What it is, in a few words.
        advice: What to do about it.
    """

    severity: Severity
    title: str
    advice: str


def _error(title: str, advice: str) -> ProblemCode:
    return ProblemCode(severity="error", title=title, advice=advice)


def _warning(title: str, advice: str) -> ProblemCode:
    return ProblemCode(severity="warning", title=title, advice=advice)


def _note(title: str, advice: str) -> ProblemCode:
    return ProblemCode(severity="note", title=title, advice=advice)


_PACK: Final = "Make the archive with pack() or `dataset pack`, which puts everything in its place."
_JSON_LINES: Final = (
    f"Write it as UTF-8 JSON lines, one object per image, with the same kinds of values in all. {_PACK}"
)
_REGULARIZATION: Final = "Leave them out, as packing does unless asked (regularization=, --regularization)."
_ONE_ROW: Final = "Give every image exactly one row with its name and its caption."

CODES: Final[Mapping[str, ProblemCode]] = MappingProxyType(
    {
        # The file as a whole.
        "CX301": _error("not an archive that nodes extract", f"Use .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz. {_PACK}"),
        "CX302": _error("damaged or unreadable", "Make the archive again and compare its size with the original."),
        "CX303": _error("larger than this check reads", "Raise the limits if the size is intended."),
        "CX304": _error("unsafe or special members", f"Put the files themselves there, each once. {_PACK}"),
        "CX305": _error("nothing to train on", "Add images with captions."),
        "CX306": _warning("archive inside the archive", f"Unpack it first. {_PACK}"),
        "CX307": _error("archive that stops the loader", f"Unpack it, or take it out. {_PACK}"),
        "CX308": _error("written by save_to_disk()", "Write it with to_parquet(), or as images with metadata.jsonl."),
        "CX309": _error("name that nodes read otherwise", f"Rename the file. {_PACK}"),
        # Which files are loaded, and as what.
        "CX310": _error("no train split", "Put the images into a folder named train, or rename what names a split."),
        "CX311": _error("images silently left out", "Put all images into one folder named train, or rename the files."),
        "CX312": _error("not loaded as images", f"Remove the other files. {_PACK}"),
        "CX313": _error("the splits cannot be loaded together", _PACK),
        "CX314": _note("other splits", "Only the train split is trained; leave the others out to save the transfer."),
        "CX315": _warning("settings for the loader", f"Take the file out: nodes need none. {_PACK}"),
        "CX316": _error("loading script", "Remove the Python file: nodes run no loading scripts."),
        "CX317": _warning("images listed twice", "Rename the files so that the split's name is in them only once."),
        "CX318": _error("extension in mixed case", "Rename the files: .png or .PNG is loaded, .Png is not."),
        "CX319": _warning("pictures of another kind", "Convert them to PNG, JPEG or WebP if they are to be trained."),
        # Metadata and captions.
        "CX320": _error("no metadata", f"Add metadata.jsonl with file_name and a caption for every image. {_PACK}"),
        "CX321": _error("captions in .txt files", f"Nodes do not read them as captions. {_PACK}"),
        "CX322": _error("metadata cannot be read", _JSON_LINES),
        "CX323": _error("metadata files disagree", "Use one metadata.jsonl for all images."),
        "CX324": _error("a column is missing", "Name the columns file_name and text, or name yours in the config."),
        "CX325": _error("image without a row", _ONE_ROW),
        "CX326": _warning("row without an image", "Add the image or remove the row."),
        "CX327": _error("no caption", "Write a caption, or remove the image and its row."),
        "CX328": _error("caption is not text", "Write captions as strings, or as lists of strings."),
        "CX329": _warning("empty caption", "Write a caption, unless training without one is meant."),
        "CX330": _warning("two rows for one image", _ONE_ROW),
        "CX331": _warning("metadata.csv", "Write metadata.jsonl: it is read the same way everywhere."),
        # CX332 is among the retired ones.
        "CX333": _error("parquet column holds no images", "Write it with the datasets library and its Image feature."),
        "CX334": _error("metadata has the image column", "Rename or remove that column of the metadata."),
        "CX335": _warning(
            "caption too long for the model", "The end is cut off: shorten it, or say the main thing first."
        ),
        "CX336": _error(
            "text that is not UTF-8", "Say its encoding when packing (encoding=, --encoding): it is converted."
        ),
        "CX337": _warning("two caption files for one image", "Remove the one that is not meant."),
        "CX338": _warning("folder names that repeat images", "Nodes see each image once an epoch: train more steps."),
        "CX339": _warning("regularization images", _REGULARIZATION),
        "CX367": _warning(
            "nearly named like metadata", "Make it metadata.jsonl, an object on each line, or metadata.csv with commas."
        ),
        # The images.
        "CX340": _error("image cannot be opened", "Save it again as PNG or JPEG, or remove it and its row."),
        "CX341": _warning("image smaller than the resolution", "It is enlarged: use a larger one or less resolution."),
        "CX342": _warning("image not square", "Crop it yourself, or set center_crop so that the crop is not random."),
        "CX343": _warning("same image more than once", "Remove the copies, unless the image is meant to weigh more."),
        "CX344": _warning("very few images", "Add more: a model overfits on so few, and learns them by heart."),
        "CX345": _error("image too large", "Scale it down: nodes refuse to open it."),
        "CX346": _note("transparent image", "Transparency is dropped: put the image on a background of your choice."),
        "CX347": _warning("more than 8 bits a channel", "Save it with 8 bits: nodes clip what is brighter to white."),
        # Packing.
        "CX348": _error("captions in more than one place", "Say which ones to use with captions=."),
        "CX349": _note("files left out", "They are neither images nor captions of what is packed."),
        "CX364": _note("rows for another spelling", "Nothing needs to be done: the archive has names that agree."),
        "CX368": _note("text converted to UTF-8", "Look at a caption or two: a wrong encoding reads as nonsense."),
        # The address.
        "CX350": _error("not an http address", "Use an http:// or https:// address that needs no login."),
        "CX351": _error("no answer", "Make the file reachable from the internet."),
        "CX352": _error("HEAD is refused", "Use a host that answers HEAD like GET; links signed for GET only do not."),
        "CX353": _error("GET is refused", "Make the file public: nodes send no credentials."),
        "CX354": _error("unknown extension", "Name the file .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz."),
        "CX355": _error("not an archive", f"Put the file into a .zip. {_PACK}"),
        "CX356": _error("no extension and not recognised", "Give the address a name that ends in .zip."),
        "CX357": _error("content is not what the name says", "Use the address of the file, not of a page about it."),
        "CX358": _error("unusable file name", "Use a short name of letters, digits, '_' and '-', such as cats.zip."),
        "CX359": _error("private address", "Use an address that other people's machines can reach."),
        "CX360": _warning("secret in the address", "Nodes and the network see it: use an address without one."),
        "CX361": _note("nodes keep what an address gave them", "Use a new address for new content: fresh_url()."),
        "CX362": _note("needed until the end", "Keep the file in place until the job has ended: every round loads it."),
        "CX363": _warning("may not be an archive", "Give the address a name that ends in .zip."),
        # CX364 is with those of packing, and CX367 is about metadata.
        "CX365": _warning("address that expires", "Use an address that never expires, or one that outlasts every try."),
        "CX366": _error("page about a file", "Use the address of the file itself, and check it with check-url."),
    }
)
"""Every code that check(), pack() and check_url() report."""


@attrs.frozen(kw_only=True)
class RetiredCode:
    """A code that nothing reports any more; it keeps its meaning, and is given to nothing else.

    Attributes:
        title: What it was, in a few words.
        instead: What is reported in its place, in whole sentences.
    """

    title: str
    instead: str


RETIRED: Final[Mapping[str, RetiredCode]] = MappingProxyType(
    {
        "CX332": RetiredCode(
            title="parquet not looked into",
            instead=(
                "Parquet is looked into always: CX333 says that a column holds no images, CX324 that one is missing. "
                "Without pyarrow the check refuses to begin."
            ),
        ),
    }
)
"""Codes of former versions, which logs and notes may still have."""


@attrs.frozen(kw_only=True)
class DatasetProblem:
    """One problem of a data set.

    Attributes:
        code: The stable code, a key of ``CODES``.
        severity: ``error``, ``warning`` or ``note``.
        message: What was found and what a node makes of it.
        advice: What to do about it.
        files: Every file concerned, by its path inside the folder or archive; empty when it is about the whole.
    """

    code: str
    severity: Severity
    message: str
    advice: str
    files: tuple[str, ...] = ()

    @property
    def file(self) -> str | None:
        """The first file concerned, or None when it is about the whole."""
        return self.files[0] if self.files else None

    def __str__(self) -> str:
        return f"{self.code} {self.severity}: {self.message} {self.advice}"


class DatasetError(CrynuxError, ValueError):
    """A data set that cannot be packed.

    Attributes:
        problems: Everything found, errors first.
    """

    def __init__(self, problems: Sequence[DatasetProblem], *, what: str = "this data set cannot be packed") -> None:
        self.problems = tuple(problems)
        errors = [problem for problem in self.problems if problem.severity == "error"]
        count = f"{len(errors)} error{'s' if len(errors) != 1 else ''}"
        super().__init__(f"{what}: {count}" + "".join(f"\n  {problem}" for problem in errors))


def problem(code: str, message: str, files: Iterable[str] = (), *, severity: Severity | None = None) -> DatasetProblem:
    """A problem of a known kind.

    Args:
        code: A key of ``CODES``.
        message: What was found and what a node makes of it, as whole sentences.
        files: The files concerned.
        severity: In place of the code's own.

    Returns:
        The problem with its severity and advice.
    """
    kind = CODES[code]
    return DatasetProblem(
        code=code,
        severity=severity or kind.severity,
        message=printable(message),
        advice=kind.advice,
        files=tuple(files),
    )


_OF_PACK: Final = {
    "CX320": (
        "Put a .txt or .caption file of the same name beside each image, or add metadata.jsonl with file_name and a "
        "caption for every image."
    ),
    "CX324": (
        "Name the columns file_name and text, or say which one holds the captions (caption_column=, --caption-column)."
    ),
}


def of_pack(found: DatasetProblem) -> DatasetProblem:
    """A problem as pack() says it: whoever packs needs no advice to pack, and has more ways than a node."""
    if found.code in _OF_PACK:
        return attrs.evolve(found, advice=_OF_PACK[found.code])
    return attrs.evolve(found, advice=found.advice.removesuffix(_PACK).rstrip() or found.advice)


def printable(text: str) -> str:
    """A text with everything in a name written out that nothing could print, or that a terminal would obey."""
    return _NOT_PRINTED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def named(files: Sequence[str]) -> str:
    """A few of the files, and how many more there are."""
    shown = ", ".join(files[:_SHOWN])
    return shown if len(files) <= _SHOWN else f"{shown} and {len(files) - _SHOWN} more"
