"""What may be given to the emulator: validators for attrs whose messages name the argument."""

import re
import sys
from collections.abc import Callable
from typing import Any

_MAX_SHOWN = 60
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)

Check = Callable[[Any, Any, Any], None]


def integer(*, low: int = -(2**63), high: int = 2**63 - 1) -> Check:
    """Accept a whole number between two bounds, both included."""

    def is_right(value: Any) -> bool:
        return _is_integer(value) and low <= value <= high

    return _check(is_right, f"a whole number from {low} to {high}")


def number(*, low: float, above: bool = False) -> Check:
    """Accept a finite number of at least ``low``, or above it, that a float can express."""

    def is_right(value: Any) -> bool:
        is_number = _is_integer(value) or isinstance(value, float)
        # A whole number of JSON may have hundreds of digits; times are added to floats.
        return is_number and low <= value <= sys.float_info.max and not (above and value == low)

    return _check(is_right, f"a number {'above' if above else 'of at least'} {low:g}")


def status_code() -> Check:
    """Accept a status code that ends a request, or 0 for none."""

    def is_right(value: Any) -> bool:
        return _is_integer(value) and (value == 0 or 200 <= value <= 599)

    return _check(is_right, "0 or a whole number from 200 to 599")


def task_id() -> Check:
    """Accept the id of a task: a number, > 0, or a text."""

    def is_right(value: Any) -> bool:
        return _is_text(value) or (_is_integer(value) and value > 0)

    return _check(is_right, "a whole number of at least 1 or a text")


def text() -> Check:
    """Accept a text that UTF-8 can express."""
    return _check(_is_text, "a text")


def header_text() -> Check:
    """Accept a text that can stand in a header of HTTP: Latin-1, without control characters."""
    return _check(_is_header_text, "a text of Latin-1 characters on one line")


def headers() -> Check:
    """Accept a mapping of header names to texts."""

    def is_right(value: Any) -> bool:
        return isinstance(value, dict) and all(
            isinstance(name, str) and _TOKEN.fullmatch(name) and _is_header_text(content)
            for name, content in value.items()
        )

    return _check(is_right, "a mapping of header names to texts")


def texts() -> Check:
    """Accept a list or tuple of texts; one text alone is none, though it has letters."""

    def is_right(value: Any) -> bool:
        return isinstance(value, list | tuple | set | frozenset) and all(map(_is_text, value))

    return _check(is_right, "a list of texts")


def flag() -> Check:
    """Accept true and false."""
    return _check(lambda value: isinstance(value, bool), "true or false")


def one_of(*choices: str) -> Check:
    """Accept one of a few words."""
    return _check(lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}")


def or_none(check: Check) -> Check:
    """Accept None as well."""

    def check_unless_none(instance: Any, attribute: Any, value: Any) -> None:
        if value is not None:
            check(instance, attribute, value)

    return check_unless_none


def _check(is_right: Callable[[Any], bool], what: str) -> Check:
    def check(_: Any, attribute: Any, value: Any) -> None:
        if not is_right(value):
            raise ValueError(f"{attribute.alias}: must be {what}, not {_shown(value)}")

    return check


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_header_text(value: Any) -> bool:
    return isinstance(value, str) and all(" " <= char <= "~" or "\xa0" <= char <= "\xff" for char in value)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
