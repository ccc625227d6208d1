"""What check() found."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Final, Self

import attrs

from crynux_async.datasets.captions import Caption
from crynux_async.datasets.findings import has_error
from crynux_async.datasets.problems import DatasetProblem

VERSION_LENGTH: Final = 12
"""Characters of a hash that are enough for an address."""


@attrs.frozen(kw_only=True)
class Spread:
    """The shortest, the median and the longest of some lengths; all 0 when there are none."""

    shortest: int = 0
    median: int = 0
    longest: int = 0

    @classmethod
    def of(cls, lengths: Iterable[int]) -> Self:
        """Summarise lengths.

        Args:
            lengths: Whole numbers, >= 0.

        Returns:
            Their spread; the median of an even number is the lower one.
        """
        known = list(lengths)
        if not known:
            return cls()
        return cls(shortest=min(known), median=statistics.median_low(known), longest=max(known))


@attrs.frozen(kw_only=True)
class DatasetReport:
    """A data set as a node would load it.

    Attributes:
        path: What was checked.
        kind: ``folder``, ``zip``, ``tar``, or ``file`` for what is neither.
        loader: How a node loads it: ``imagefolder``, ``parquet`` and ``arrow`` can work; ``""`` when nothing can be
            loaded.
        problems: Everything found, errors first.
        is_checked: False when a node may load what was not looked at (an archive inside, what settings tell the
            loader), or when reading stopped: then nothing counts as usable.
        image_count: Image files, in all splits and outside of them; for parquet, rows of the train split.
        usable_count: Images of the train split that open and have a caption.
        split_counts: Examples in each split as the loader counts them.
        sizes: How often each (width, height) in pixels occurs, among the images of the train split that open.
        smallest: The (width, height) with the fewest pixels, or None.
        largest: The (width, height) with the most pixels, or None.
        formats: How often each image format occurs, by Pillow's name.
        captions: The captions of the train split by image, or by file and row for a table that holds the images;
            several captions of one image are a tuple.
        caption_count: Texts in all captions.
        caption_characters: Their lengths in characters.
        caption_words: Their lengths in words.
        caption_tokens: Their estimated lengths in CLIP tokens, with the start and end marks.
        duplicates: Groups of train images with the same content.
        total_bytes: Bytes of all files that the loader can see.
        content_hash: sha256, in hex, over the sorted names and contents of these files.
    """

    path: str
    kind: str
    loader: str = ""
    problems: tuple[DatasetProblem, ...] = ()
    is_checked: bool = True
    image_count: int = 0
    usable_count: int = 0
    split_counts: Mapping[str, int] = attrs.field(factory=dict)
    sizes: Mapping[tuple[int, int], int] = attrs.field(factory=dict)
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    formats: Mapping[str, int] = attrs.field(factory=dict)
    captions: Mapping[str, Caption] = attrs.field(factory=dict, repr=False)
    caption_count: int = 0
    caption_characters: Spread = attrs.field(factory=Spread)
    caption_words: Spread = attrs.field(factory=Spread)
    caption_tokens: Spread = attrs.field(factory=Spread)
    duplicates: tuple[tuple[str, ...], ...] = ()
    total_bytes: int = 0
    content_hash: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether nothing was found that keeps it from working on a node."""
        return not has_error(self.problems)

    @property
    def errors(self) -> tuple[DatasetProblem, ...]:
        """The problems that keep it from working."""
        return tuple(found for found in self.problems if found.severity == "error")

    @property
    def train_count(self) -> int:
        """Examples in the train split as the loader counts them: the size of an epoch."""
        return self.split_counts.get("train", 0)

    @property
    def version(self) -> str:
        """A short form of ``content_hash`` for a fresh address, as in ``?v=``."""
        return self.content_hash[:VERSION_LENGTH]
