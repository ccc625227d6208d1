"""The bytes that are signed: JSON as Go's ``encoding/json`` writes a map with text keys.

A server signs nothing itself: it writes the fields that it read once more and recovers an address from the signature.
One byte of difference and it finds an address that nobody knows. So what could be written in two ways is refused.

Source: crynux-bridge api/v1/validate, crynux-relay api/v1/validate (both json.Marshal of a map[string]any).
"""

import json
from collections.abc import Mapping
from typing import Any

MAX_INTEGER = 2**53
"""Numbers pass through a float64 on the other side, which holds every integer up to this one."""

_HTML = str.maketrans({char: f"\\u{ord(char):04x}" for char in "&<>\u2028\u2029"})
_UNSETTLED = ("\b", "\f")  # written short since Go 1.22, as \u0008 and \u000c before


def canonical_json(fields: Mapping[str, Any]) -> bytes:
    """Return ``fields`` as Go writes them: keys sorted, no spaces, UTF-8, and ``& < >`` escaped.

    Args:
        fields: Text keys; values are text, whole numbers of at most 2**53, booleans, None, and lists and mappings
            of those. Surrogates that stand alone become U+FFFD, as in Go.

    Raises:
        TypeError: When a value is of another type, such as a float.
        ValueError: When a value could be written in two ways.
    """
    text = json.dumps(_checked(fields, "fields"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.translate(_HTML).encode()


def _checked(value: Any, where: str) -> Any:
    """Return a value that JSON writes in one way only, surrogates replaced."""
    match value:
        case None | bool():
            return value
        case int():
            return _whole(value, where)
        case str():
            return _text(value, where)
        case Mapping():
            return {_key(key, where): _checked(inner, f"{where}.{key}") for key, inner in value.items()}
        case list() | tuple():
            return [_checked(inner, f"{where}[{index}]") for index, inner in enumerate(value)]
    raise TypeError(f"{where} cannot be signed: {type(value).__name__} has no settled form in JSON")


def _whole(value: int, where: str) -> int:
    if abs(value) > MAX_INTEGER:
        raise ValueError(f"{where} cannot be signed: {value} is beyond 2**53; send it as text")
    return int(value)  # of an IntEnum, the number


def _text(value: str, where: str) -> str:
    if any(char in value for char in _UNSETTLED):
        raise ValueError(f"{where} cannot be signed: backspace and form feed are not written the same way everywhere")
    # In UTF-16 two halves that belong together make a character, and any other half becomes U+FFFD.
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where} cannot be signed: its keys must be text, not {key!r}")
    return _text(key, where)
