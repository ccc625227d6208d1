"""What browsers are told to refuse on the watching page.

Source: https://www.w3.org/TR/CSP3/; OWASP, HTTP Headers Cheat Sheet.
"""

from collections.abc import Mapping
from types import MappingProxyType

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": _POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
)
"""Of every answer: nothing is loaded from anywhere else, nothing runs that is not a file of ours, no frames."""

WITH_STYLES = f"{_POLICY}; style-src-attr 'unsafe-inline'"
"""The policy of a sweep's page, whose table draws with widths: they can run nothing."""
