"""What a caption is, and how long it is for the model. What can be wrong with captions is in ``caption_rules``."""

import math
import re
from typing import Final, Literal

Caption = str | tuple[str, ...]
"""One caption, or several of which a node draws one at random each time."""

CaptionSource = Literal["auto", "txt", "csv", "jsonl"]
"""Where pack() takes the captions from; ``auto``: from the only place where there are any."""

CLIP_TOKENS: Final = 77
"""What the text encoder of Stable Diffusion 1 and 2 reads, with the start and end marks; the rest is cut off."""

_PIECE: Final = re.compile(r"'(?:s|t|re|ve|m|ll|d)\b|[^\W\d_]+|\d|(?:[^\w\s]|_)+", re.IGNORECASE)


def caption_of(value: object) -> Caption | None:
    """A metadata value as a caption, or None when it is neither text nor a filled list of texts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return tuple(value)
    return None


def texts_of(caption: Caption) -> tuple[str, ...]:
    """Every text of a caption."""
    return (caption,) if isinstance(caption, str) else caption


def estimated_tokens(text: str) -> int:
    """About how many tokens CLIP makes of a text, with its start and end marks.

    The vocabulary itself is not needed: a word counts 1 up to ten letters and 1 more for every four beyond, a digit 1,
    two signs in a row 1, letters beyond ASCII 0.65 for each UTF-8 byte. Names, coined words and languages other than
    English take more than that.

    Args:
        text: The caption.

    Returns:
        The estimate, >= 2.

    Source: the pre-tokenizing pattern of OpenAI's CLIP simple_tokenizer.py; the weights were fitted to its vocabulary.
    """
    return 2 + sum(_piece_tokens(piece) for piece in _PIECE.findall(text))


def _piece_tokens(piece: str) -> int:
    plain = sum(character.isascii() for character in piece)
    if not piece[0].isalpha():
        return math.ceil(len(piece.encode(errors="replace")) / (2 if plain == len(piece) else 4))
    beyond = len(piece.encode(errors="replace")) - plain
    words = 1 + max(0, (plain - 7) // 4) if plain else 0
    return max(1, words + math.ceil(0.65 * beyond))
