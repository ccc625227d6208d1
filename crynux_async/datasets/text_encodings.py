"""Texts that are not UTF-8: which encoding they are probably in, and reading them in the one that is said.

The guess is the ``charset-normalizer`` library's. Short texts fit several encodings, so nothing is converted on a
guess: it is shown how the text would read, and the user says.
"""

import codecs
import importlib
from typing import Any, Final

import attrs

from crynux_async.errors import UsageError

LEGACY_ENCODINGS: Final = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp932", "gb18030", "cp949", "big5")
"""What Windows, and tools for captions on it, write: an encoding for each region."""

# UTF-32 before UTF-16: the little-endian mark of one begins with that of the other.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES: Final = 1 << 16
_MOST_GUESSES: Final = 3
_SHOWN: Final = 40


@attrs.frozen(kw_only=True)
class Guess:
    """An encoding that a text may be in.

    Attributes:
        encoding: Python's name of it.
        text: How the text reads in it.
    """

    encoding: str
    text: str


def marked_encoding(data: bytes) -> str:
    """The encoding that a byte order mark says, UTF-8 when there is none."""
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")


def decode(data: bytes, encoding: str | None = None) -> str:
    """Read a text.

    Args:
        data: The text.
        encoding: What it is read in when it has no mark and is no UTF-8; None to refuse such a text.

    Returns:
        The text without a byte order mark.

    Raises:
        UnicodeDecodeError: It is in neither.
    """
    try:
        return data.decode(marked_encoding(data))
    except UnicodeDecodeError:
        if encoding is None:
            raise
        return data.decode(encoding)


def is_utf8(data: bytes) -> bool:
    """Whether a text is UTF-8, which is all that nodes read."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def guesses(data: bytes) -> tuple[Guess, ...]:
    """The encodings that a text may be in.

    Args:
        data: A text that is not UTF-8; only its beginning is looked at.

    Returns:
        At most three that read it differently, the most probable first; nothing when it fits none.

    Raises:
        UsageError: The library for it is not installed.
    """
    sample = data[:_SAMPLE_BYTES]
    marked = marked_encoding(sample)
    if marked.startswith(("utf-16", "utf-32")):
        return (Guess(encoding=marked, text=sample.decode(marked, "replace")),)
    try:
        library: Any = importlib.import_module("charset_normalizer")
    except ImportError as error:
        needed = "telling encodings needs charset-normalizer: pip install 'crynux-async[datasets]'"
        raise UsageError(needed) from error
    found = library.from_bytes(sample, cp_isolation=list(LEGACY_ENCODINGS))
    return tuple(Guess(encoding=match.encoding, text=str(match)) for match in list(found)[:_MOST_GUESSES])


def in_words(found: tuple[Guess, ...], *, file_count: int = 1) -> str:
    """Guesses as a sentence, each with a piece of the text that shows whether it is right.

    Args:
        found: The guesses.
        file_count: How many files have that text together.
    """
    whose = "its" if file_count == 1 else "their"
    if not found:
        return f"{whose} encoding is not known"
    if found[0].encoding.startswith("utf-"):
        return f"{whose} encoding is {found[0].encoding.upper()}"
    readings = [f"{guess.encoding} reads {_telling(guess.text)!r}" for guess in found]
    return f"{whose} encoding is probably {found[0].encoding} ({'; '.join(readings)})"


def known_encoding(name: str | None) -> str | None:
    """Python's own name of an encoding.

    Raises:
        UsageError: There is none of that name.
    """
    if name is None:
        return None
    try:
        return codecs.lookup(name).name
    except LookupError as error:
        raise UsageError(f"there is no encoding {name!r}", field="encoding") from error


def _telling(text: str) -> str:
    """The part around the first letter beyond ASCII: only there do encodings differ."""
    at = next((place for place, letter in enumerate(text) if not letter.isascii()), 0)
    start = max(0, text.rfind("\n", 0, at) + 1, at - _SHOWN // 2)
    return text[start : start + _SHOWN].partition("\n")[0].strip()
