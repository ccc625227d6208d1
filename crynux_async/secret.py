"""What must not be shown: ``Secret``, and every place where a key is kept out of a text.

A key is held as a ``Secret`` from the moment it is read, so that ``repr``, logs, tracebacks and pickles cannot show it.
Others may show it all the same: a proxy's error page repeats the request, header and all. Whatever comes from outside
and goes into an error, a log or a ledger passes through ``Secret.mask`` first.
"""

import re
from collections.abc import Mapping
from typing import Any, NoReturn, Self

MASK = "***"

_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_QUERY = r"\?[^\s'\"]+"


class Secret:
    """A text that shows itself only through ``reveal()``: not in ``str``, ``repr``, ``format`` or a traceback.

    It cannot be pickled, because pickles are stored and sent.

    Args:
        text: The secret.
    """

    __slots__ = ("_pattern", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._pattern: re.Pattern[str] | None = None

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._text

    def mask(self, text: str) -> str:
        """Return ``text`` with every occurrence of the secret replaced by stars.

        It is found in any case of letters, and with its signs written as JSON, addresses or HTML write them.
        """
        if not self._text:
            return text
        if self._pattern is None:  # made when it is first needed: most programs never show a text from outside
            self._pattern = re.compile("".join(map(_spellings, self._text)), re.IGNORECASE)
        return self._pattern.sub(MASK, text)

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled; give another process the key as CRYNUX_API_KEY")


def mask_credentials(address: str) -> str:
    """Return an address without the user and password that it may hold before its host."""
    # Up to the last @, because a password may hold one.
    return re.sub(r"//[^/]*@", f"//{MASK}@", address)


def mask_login(text: str) -> str:
    """Return what was meant for an address and is none, without what may be a user and a password in it."""
    # Without "//", or with a "/" in the password, nothing tells where the login begins.
    return re.sub(r"\A([A-Za-z][A-Za-z0-9+.-]*://)?.*@", rf"\g<1>{MASK}@", text, flags=re.DOTALL)


def mask_query(address: str) -> str:
    """Return an address without what stands behind its question mark: a presigned link is a credential."""
    before, mark, query = address.partition("?")
    return f"{before}?{MASK}" if mark and query else address


def mask_text(text: str) -> str:
    """Return a text without the queries and passwords of addresses in it: a presigned link is a credential."""
    return mask_credentials(re.sub(_QUERY, f"?{MASK}", text))


def mask_address(value: Any) -> Any:
    """Return a value of a config as whoever looks on may see it: of an address neither login nor query string.

    Args:
        value: What stands in a field; anything but the text of an address comes back as it is.
    """
    # The plain search first: of the values of a config hardly any is an address.
    if not isinstance(value, str) or "://" not in value or _ADDRESS.match(value) is None:
        return value
    return mask_query(mask_credentials(value))


def mask_addresses(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config as whoever looks on may see them: any of them may hold an address."""
    return {name: mask_address(value) if isinstance(value, str) else value for name, value in values.items()}


def show_differences(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """Return in words in what two configs differ, without what may not be shown.

    Args:
        differences: Field -> what it was and what it is.
    """
    return ", ".join(_difference(field, *values) for field, values in differences.items())


def _difference(field: str, before: Any, now: Any) -> str:
    was, is_now = mask_address(before), mask_address(now)
    if was == is_now:
        return f"{field} is {is_now!r} still, and differs in what is not shown of it"
    return f"{field} was {was!r} and is {is_now!r}"


def _spellings(char: str) -> str:
    """Return a pattern for a character as it is, and as JSON, addresses and HTML escape it."""
    if char.isalnum():
        return char
    import html

    code, entity = ord(char), re.escape(html.escape(char))
    return rf"(?:\\?{re.escape(char)}|\\u{code:04x}|%{code:02x}|&#{code};|&#x{code:x};|{entity})"
