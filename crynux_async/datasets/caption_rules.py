"""What can be wrong with captions, whether they come from a node's metadata files or from those that are packed.

A new rule is a function that yields problems, its line in ``RULES`` and its code in ``problems.CODES``.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import attrs

from crynux_async.datasets.captions import CLIP_TOKENS, Caption, caption_of, estimated_tokens, texts_of
from crynux_async.datasets.json_tables import has_half_character
from crynux_async.datasets.problems import DatasetProblem, named, problem
from crynux_async.wording import counted

CAPTION_KINDS: Final = ("text", "list", "nothing")
"""The kinds of columns (``tables.Table``) whose values can be captions."""


@attrs.frozen(kw_only=True)
class Captions:
    """The captions of some images and what is wrong with them.

    Attributes:
        by_image: The usable captions.
        problems: What was found.
    """

    by_image: Mapping[str, Caption] = attrs.field(factory=dict)
    problems: tuple[DatasetProblem, ...] = ()


@attrs.frozen(kw_only=True)
class CaptionCase:
    """What the rules look at.

    Attributes:
        values: What stands in the caption column, by image; None where nothing stands there.
        captions: The values that are captions.
    """

    values: Mapping[str, object]
    captions: Mapping[str, Caption]


def judge_captions(values: Mapping[str, object]) -> Captions:
    """Sort out which values can be trained on.

    Args:
        values: What stands in the caption column, by image.

    Returns:
        The captions that are text, and the problems of the others.
    """
    captions = {image: caption for image, value in values.items() if (caption := caption_of(value)) is not None}
    case = CaptionCase(values=values, captions=captions)
    return Captions(by_image=captions, problems=tuple(found for rule in RULES for found in rule(case)))


def judge_column(kind: str, file: str) -> Iterator[DatasetProblem]:
    """Judge a caption column as a whole: a loader gives all of its values one kind.

    Args:
        kind: The kind of its values, as ``tables.Table`` names it.
        file: The metadata file.
    """
    if kind not in CAPTION_KINDS:
        yield problem("CX328", f"Every caption in {file} would be read as {kind}, not as text.", [file])


def _judge_missing(case: CaptionCase) -> Iterator[DatasetProblem]:
    # Null comes out of Arrow and pandas alike: finetune_lora.py tokenizes text and lists only, and raises ValueError.
    none = [image for image, value in case.values.items() if value is None]
    if none:
        text = f"{counted(len(none), 'image')} without a caption: {named(none)}. Training fails at the first of them."
        yield problem("CX327", text, none)


def _judge_kind(case: CaptionCase) -> Iterator[DatasetProblem]:
    other = [image for image, value in case.values.items() if value is not None and image not in case.captions]
    if other:
        yield problem("CX328", f"Captions that are neither text nor a filled list of texts: {named(other)}.", other)


def _judge_wholeness(case: CaptionCase) -> Iterator[DatasetProblem]:
    # JSON can escape half of a surrogate pair; Arrow refuses the whole file, and UTF-8 has no bytes for it.
    broken = [image for image, caption in case.captions.items() if has_half_character(texts_of(caption))]
    if broken:
        text = rf"Captions with half of a character, such as \ud83d alone: {named(broken)}."
        yield problem("CX328", text, broken)


def _judge_emptiness(case: CaptionCase) -> Iterator[DatasetProblem]:
    empty = [image for image, caption in case.captions.items() if not all(text.strip() for text in texts_of(caption))]
    if empty:
        yield problem("CX329", f"The caption of {named(empty)} is empty.", empty)


def _judge_length(case: CaptionCase) -> Iterator[DatasetProblem]:
    # The tokenizer is asked for its maximum length with truncation, so the rest is dropped without a word.
    long = [
        image
        for image, caption in case.captions.items()
        if any(estimated_tokens(text) > CLIP_TOKENS for text in texts_of(caption))
    ]
    if long:
        text = (
            f"{counted(len(long), 'caption')} of probably more than {CLIP_TOKENS} tokens (an estimate): {named(long)}."
        )
        yield problem("CX335", text, long)


RULES: Final[tuple[Callable[[CaptionCase], Iterator[DatasetProblem]], ...]] = (
    _judge_missing,
    _judge_kind,
    _judge_wholeness,
    _judge_emptiness,
    _judge_length,
)
"""Every rule about single captions; each is a pure function of a case."""
