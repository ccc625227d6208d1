"""What a wallet gets for its signature: a token that opens the lists of its account for an hour.

Source: crynux-relay api/tools/jwt.go, api/v1/middleware/jwt_auth.go; RFC 7519, HS256.
"""

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any

LIFETIME = 3600
"""Seconds for which a token is good."""

_ISSUER = "crynux-relay"
_HEADER = {"alg": "HS256", "typ": "JWT"}


class TokenError(Exception):
    """A request has no good token; the message is the relay's."""


class Doorman:
    """Gives tokens and knows them again.

    Args:
        secret: What they are signed with.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def token(self, address: str, now: float) -> tuple[str, int]:
        """Return a token for an address, and when it ends in seconds since 1970."""
        start = int(now)
        claims = {
            "address": address,
            "iss": _ISSUER,
            "sub": address,
            "exp": start + LIFETIME,
            "nbf": start,
            "iat": start,
        }
        content = f"{_encoded(_HEADER)}.{_encoded(claims)}"
        return f"{content}.{self._signature(content)}", start + LIFETIME

    def address(self, header: str, now: float) -> str:
        """Return whose token an Authorization header holds.

        Args:
            header: The header, or "".
            now: The relay's time.

        Raises:
            TokenError: If there is none, or it is not good any more.
        """
        if not header:
            raise TokenError("Authorization header required")
        parts = header.split(" ")
        if len(parts) != 2 or parts[0] != "Bearer":
            raise TokenError("Invalid authorization header format. Use 'Bearer <token>'")
        # The header of the token is not read: with one secret and one algorithm its signature says everything.
        content, _, signature = parts[1].rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(content).encode()):
            raise TokenError("Invalid or expired token")
        claims = _decoded(content.partition(".")[2])
        if not claims["nbf"] <= now < claims["exp"]:
            raise TokenError("Invalid or expired token")
        return str(claims["address"])

    def _signature(self, content: str) -> str:
        return _text(hmac.digest(self._secret, content.encode(), hashlib.sha256))


def _encoded(document: dict[str, Any]) -> str:
    return _text(json.dumps(document, separators=(",", ":")).encode())


def _decoded(text: str) -> dict[str, Any]:
    try:
        claims = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error):
        raise TokenError("Invalid or expired token") from None
    return dict(claims)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
