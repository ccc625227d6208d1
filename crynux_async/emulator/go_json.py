"""JSON as Go's encoding/json reads and writes it.

Python's own parser does the work; only when it refuses a text, a scanner finds the words in which Go refuses it.
Numbers keep their literal text, and objects their pairs in order with duplicates, because the bridge's errors and
rules need both.

Source: encoding/json scanner.go, stream.go (Decoder reads one value and leaves the rest), encode.go (HTML escapes).
"""

import json
import re
from typing import Any

from crynux_async.emulator.go_text import quote

_SPACE = " \t\r\n"
_DIGITS = frozenset(b"0123456789")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]+')
_SCALARS = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}
_HTML = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
_CUT = "unexpected EOF"
# maxNestingDepth of encoding/json.
_DEEPEST = 10_000


class GoJSONError(ValueError):
    """A text is not JSON; the message is Go's."""


class Number(str):
    """A JSON number as it was written."""

    __slots__ = ()


class Pairs(list[tuple[str, Any]]):
    """The members of a JSON object in order, duplicates included."""

    __slots__ = ()


# NaN and Infinity are JSON to Python, and not to Go.
def _no_constant(name: str) -> Any:
    raise ValueError(name)


_DECODER = json.JSONDecoder(
    parse_int=Number, parse_float=Number, parse_constant=_no_constant, object_pairs_hook=Pairs, strict=True
)


def decode(data: bytes) -> Any:
    """Return the first JSON value of ``data``, whatever follows it.

    Args:
        data: The text; bytes that are not UTF-8 become U+FFFD.

    Returns:
        None, bool, str, Number, list or Pairs. None as well when there is nothing but white space.

    Raises:
        GoJSONError: If it is not JSON.
    """
    return _first(data)[0]


def decode_all(data: bytes) -> Any:
    """Return ``data`` as one JSON value that nothing follows, as json.Unmarshal reads it.

    Raises:
        GoJSONError: If it is not JSON, or something else comes behind it.
    """
    value, rest = _first(data)
    if value is None and not data.strip():
        raise GoJSONError(_CUT)
    if rest:
        raise GoJSONError(f"invalid character {_quoted(ord(rest[0]))} after top-level value")
    return value


def _first(data: bytes) -> tuple[Any, str]:
    """Return the first value, None when there is none, and what follows it."""
    text = data.decode("utf-8", "replace")
    start = len(text) - len(text.lstrip(_SPACE))
    if start == len(text):
        return None, ""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        # Python gives up at fewer levels than Go; whatever is deeper is answered as Go answers its own bound.
        raise GoJSONError(_Scanner(data).complaint() or "exceeded max depth") from None
    return value, text[end:].lstrip(_SPACE)


def is_cut(error: GoJSONError) -> bool:
    """Return whether the text ended in the middle of a value."""
    return str(error) == _CUT


def plain(value: Any) -> Any:
    """Return ``value`` with floats for numbers and dicts for objects, as a Go ``interface{}`` holds it.

    Raises:
        GoJSONError: If a number does not fit into a float64; the message is its literal.
    """
    if isinstance(value, Number):
        number = float(value)
        if number in (float("inf"), float("-inf")):
            raise GoJSONError(value)
        return number
    if isinstance(value, Pairs):
        return {name: plain(item) for name, item in value}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return well_formed(value) if isinstance(value, str) else value


def well_formed(text: str) -> str:
    """Return ``text`` with U+FFFD for every lone surrogate."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def kind(value: Any) -> str:
    """Return the word that Go's errors use for ``value``."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, Number):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Pairs) else "array"


def encode(value: Any, *, indent: int | None = None) -> bytes:
    """Return ``value`` as JSON, with ``<``, ``>`` and ``&`` escaped for HTML.

    Args:
        value: What the json module can write.
        indent: Spaces of a level; None for compact JSON.
    """
    # These characters stand in strings alone, so the whole text may be escaped at once.
    colon = ":" if indent is None else ": "
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=(",", colon)).translate(_HTML).encode()


class _RefusalError(Exception):
    pass


class _Scanner:
    """Finds the first byte at which Go's scanner gives up."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def complaint(self) -> str | None:
        """Return Go's message, or None when the first value is good."""
        try:
            self._value()
        except _RefusalError as refusal:
            return str(refusal)
        return None

    def _value(self) -> None:
        # A list and no recursion, because ten thousand levels are allowed.
        open_ones: list[int] = []
        expected = "value"
        while expected:
            char = self._next()
            if expected == "key" or (expected == "first key" and char != ord("}")):
                self._key(char)
                expected = "value"
            elif expected == "value" or (expected == "first item" and char != ord("]")):
                expected = self._begin(char, open_ones)
            else:
                expected = self._after(char, open_ones)

    def _begin(self, char: int, open_ones: list[int]) -> str:
        if char in b"{[":
            open_ones.append(char)
            if len(open_ones) > _DEEPEST:
                raise self._bad(char, "exceeded max depth")
            self._at += 1
            return "first key" if char == ord("{") else "first item"
        self._scalar(char)
        return "more" if open_ones else ""

    def _after(self, char: int, open_ones: list[int]) -> str:
        in_object = open_ones[-1] == ord("{")
        if char == ord("}" if in_object else "]"):
            open_ones.pop()
            self._at += 1
            return "more" if open_ones else ""
        if char != ord(","):
            raise self._bad(char, "after object key:value pair" if in_object else "after array element")
        self._at += 1
        return "key" if in_object else "value"

    def _key(self, char: int) -> None:
        if char != ord('"'):
            raise self._bad(char, "looking for beginning of object key string")
        self._string()
        colon = self._next()
        if colon != ord(":"):
            raise self._bad(colon, "after object key")
        self._at += 1

    def _scalar(self, char: int) -> None:
        if char == ord('"'):
            self._string()
        elif char in _SCALARS:
            self._literal(_SCALARS[char])
        elif char == ord("-") or char in _DIGITS:
            self._number(char)
        else:
            raise self._bad(char, "looking for beginning of value")

    def _string(self) -> None:
        self._at += 1
        while (char := self._special()) != ord('"'):
            if char < 0x20:
                raise self._bad(char, "in string literal")
            self._at += 1
            self._escape()
        self._at += 1

    def _special(self) -> int:
        """Go on to the next byte of a string that does not stand for itself."""
        plain = _PLAIN.match(self._data, self._at)
        if plain is not None:
            self._at = plain.end()
        return self._byte()

    def _escape(self) -> None:
        char = self._byte()
        if char not in b'bfnrtu\\/"':
            raise self._bad(char, "in string escape code")
        self._at += 1
        for _ in range(4 if char == ord("u") else 0):
            digit = self._byte()
            if digit not in _HEX:
                raise self._bad(digit, "in \\u hexadecimal character escape")
            self._at += 1

    def _literal(self, word: bytes) -> None:
        for expected in word:
            char = self._byte()
            if char != expected:
                raise self._bad(char, f"in literal {word.decode()} (expecting '{chr(expected)}')")
            self._at += 1

    def _number(self, char: int) -> None:
        if char == ord("-"):
            self._at += 1
            char = self._digit("in numeric literal")
        if char == ord("0"):
            self._at += 1
        else:
            self._digits()
        if self._peek() == ord("."):
            self._at += 1
            self._digit("after decimal point in numeric literal")
            self._digits()
        if self._peek() in b"eE":
            self._at += 1
            if self._peek() in b"+-":
                self._at += 1
            self._digit("in exponent of numeric literal")
            self._digits()

    def _digit(self, context: str) -> int:
        char = self._byte()
        if char not in _DIGITS:
            raise self._bad(char, context)
        return char

    def _digits(self) -> None:
        while self._peek() in _DIGITS:
            self._at += 1

    def _peek(self) -> int:
        return self._data[self._at] if self._at < len(self._data) else 0

    def _byte(self) -> int:
        if self._at >= len(self._data):
            raise _RefusalError(_CUT)
        return self._data[self._at]

    def _next(self) -> int:
        while self._at < len(self._data) and self._data[self._at] in b" \t\r\n":
            self._at += 1
        return self._byte()

    @staticmethod
    def _bad(char: int, context: str) -> _RefusalError:
        return _RefusalError(f"invalid character {_quoted(char)} {context}")


def _quoted(char: int) -> str:
    # As quoteChar of encoding/json, which has a rule of its own for these two.
    return {ord("'"): "'\\''", ord('"'): "'\"'"}.get(char) or f"'{quote(chr(char))[1:-1]}'"
