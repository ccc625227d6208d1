"""Texts as Go's standard library writes them: quoted strings, number errors, times."""

import re
from datetime import UTC, datetime
from decimal import Decimal

_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}
_SIGNED = re.compile(r"[+-]?[0-9]+", re.ASCII)
_UNSIGNED = re.compile(r"[0-9]+", re.ASCII)
_FLOAT = re.compile(
    r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|infinity|nan)", re.ASCII | re.IGNORECASE
)
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


class NumberTextError(ValueError):
    """A text is not the number or the truth value that it should be; the message is strconv's."""


def quote(text: str) -> str:
    """Return ``text`` as Go's strconv.Quote writes it, with its double quotes."""
    return '"' + "".join(_ESCAPES.get(char) or _printable(char) for char in text) + '"'


def _printable(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def parse_int(text: str) -> int:
    """Return ``text`` as a signed 64-bit integer.

    Raises:
        NumberTextError: If it is not one.
    """
    if not _SIGNED.fullmatch(text):
        raise _syntax("ParseInt", text)
    return _bounded("ParseInt", text, -(2**63), 2**63 - 1)


def parse_uint(text: str) -> int:
    """Return ``text`` as an unsigned 64-bit integer.

    Raises:
        NumberTextError: If it is not one.
    """
    if not _UNSIGNED.fullmatch(text):
        raise _syntax("ParseUint", text)
    return _bounded("ParseUint", text, 0, 2**64 - 1)


def parse_float(text: str) -> float:
    """Return ``text`` as a 64-bit float.

    Raises:
        NumberTextError: If it is not one, or too large.
    """
    if not _FLOAT.fullmatch(text):
        raise _syntax("ParseFloat", text)
    value = float(text)
    # The word is a value; a number beyond the range is an error.
    if value in (float("inf"), float("-inf")) and "inf" not in text.lower():
        raise _range("ParseFloat", text)
    return value


def parse_bool(text: str) -> bool:
    """Return ``text`` as a truth value.

    Raises:
        NumberTextError: If Go does not know the word.
    """
    if text not in _BOOLEANS:
        raise _syntax("ParseBool", text)
    return _BOOLEANS[text]


def _bounded(function: str, text: str, low: int, high: int) -> int:
    digits = text.lstrip("+-").lstrip("0")
    # Python refuses to convert thousands of digits, and 2**64 has twenty.
    value = int(text) if len(digits) <= 20 else high + 1
    if not low <= value <= high:
        raise _range(function, text)
    return value


def _syntax(function: str, text: str) -> NumberTextError:
    return NumberTextError(f"strconv.{function}: parsing {quote(text)}: invalid syntax")


def _range(function: str, text: str) -> NumberTextError:
    return NumberTextError(f"strconv.{function}: parsing {quote(text)}: value out of range")


def shortest(value: float) -> str:
    """Return ``value`` as Go's ``%v`` prints a float64: with an exponent below 1e-04 and from 1e+06 on."""
    sign, digits, power = Decimal(repr(float(value))).normalize().as_tuple()
    exponent = len(digits) + int(power) - 1
    text = "".join(map(str, digits))
    if exponent < -4 or exponent >= 6:
        text = f"{text[0]}.{text[1:]}".removesuffix(".") + f"e{exponent:+03d}"
    elif exponent < 0:
        text = f"0.{'0' * (-exponent - 1)}{text}"
    else:
        whole = text[: exponent + 1].ljust(exponent + 1, "0")
        text = f"{whole}.{text[exponent + 1 :]}".removesuffix(".")
    return "-" + text if sign else text


def rfc3339(wall: float) -> str:
    """Return ``wall``, seconds since 1970, as Go marshals a UTC time: trailing zeros of the fraction are dropped."""
    text = datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").removesuffix(".") + "Z"
