"""API keys: 32 random bytes in base64url, roles, limits, and the client rows behind them.

Source: crynux-bridge api/v1/tools/api_key.go (GenerateAPIKey, ValidateAPIKey, validateAuthorization).
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Collection, Iterator

import attrs

from crynux_async.emulator.http import checks

_PREFIX = "Bearer "
_SHOWN = 8
_BASE64URL = re.compile(r"(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?", re.ASCII)
_ROLES = frozenset({"admin", "chat"})


class AuthorizationError(Exception):
    """The Authorization header is not good enough; the message is the bridge's."""


class PanicError(Exception):
    """The bridge's handler crashes on this key: 500 with an empty body."""


@attrs.frozen(kw_only=True)
class KeyOptions:
    """What a new key is to be like.

    Attributes:
        roles: Its roles; "admin" or "chat" opens the calls.
        rate_limit: Creates per minute; below 1 none is ever allowed.
        use_limit: LLM calls allowed in all; 0 or less means no limit.
        primed: Whether the key has been used before; the first job of a key that has not is never delivered.
        used_count: LLM calls so far.
        expired: Whether its year is over.
    """

    roles: Collection[str] = attrs.field(default=("chat",), validator=checks.texts())
    rate_limit: int = attrs.field(validator=checks.integer())
    use_limit: int = attrs.field(default=-1, validator=checks.integer())
    primed: bool = attrs.field(default=True, validator=checks.flag())
    used_count: int = attrs.field(default=0, validator=checks.integer(low=0))
    expired: bool = attrs.field(default=False, validator=checks.flag())


@attrs.define(eq=False, kw_only=True)
class Key:
    """One API key, without its text.

    Attributes:
        index: Its number, from 0.
        prefix: Its first 8 characters, which are no secret.
        digest: SHA-256 of its 32 bytes.
        roles: Its roles; only "admin" and "chat" open anything here.
        rate_limit: Creates per minute; a limiter in use may still have another burst.
        use_limit: LLM calls allowed in all; 0 or less means no limit.
        used_count: LLM calls so far; nothing here counts it up.
        expired: Whether its year is over.
        client: The id of its first client row, or None before the first create.
    """

    index: int
    prefix: str
    digest: bytes
    roles: tuple[str, ...]
    rate_limit: int
    use_limit: int
    used_count: int = 0
    expired: bool = False
    client: int | None = None


class KeyRing:
    """All keys of the server."""

    __slots__ = ("_by_prefix", "_keys")

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._by_prefix: dict[str, Key] = {}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Key:
        return self._keys[index]

    def new(self, options: KeyOptions, client: int | None = None) -> tuple[str, Key]:
        """Make a key.

        Args:
            options: What it is to be like.
            client: The id of its client row, or None when it has none yet.

        Returns:
            The 44 characters of the key, which are kept nowhere, and the key.
        """
        raw = secrets.token_bytes(32)
        text = base64.urlsafe_b64encode(raw).decode()
        key = Key(
            index=len(self._keys),
            prefix=text[:_SHOWN],
            # The bridge keeps a bcrypt; what costs a tenth of a second each time would slow tests, and proves nothing
            # more here.
            digest=_digest(raw),
            roles=tuple(options.roles),
            rate_limit=options.rate_limit,
            use_limit=options.use_limit,
            used_count=options.used_count,
            expired=options.expired,
            client=client,
        )
        self.add(key)
        return text, key

    def add(self, key: Key) -> None:
        """Take up a key whose index is the next one."""
        self._keys.append(key)
        self._by_prefix[key.prefix] = key

    def remove(self, key: Key) -> None:
        """Let a key open nothing any more; its number stays taken."""
        self._by_prefix.pop(key.prefix, None)

    def find(self, text: str) -> Key | None:
        """Return the key with this text, or None."""
        if not _BASE64URL.fullmatch(text):
            return None
        key = self._by_prefix.get(text[:_SHOWN])
        return key if key is not None and key.digest == _digest(base64.urlsafe_b64decode(text)) else None

    def authorize(self, header: str) -> Key:
        """Return the key that an Authorization header proves.

        Args:
            header: The header, not empty.

        Raises:
            AuthorizationError: If it proves no usable key.
            PanicError: If the key has fewer than 8 characters.
        """
        if not header.startswith(_PREFIX):
            raise AuthorizationError("Authorization header must start with 'Bearer '")
        key = self.prove(header.removeprefix(_PREFIX))
        if _ROLES.isdisjoint(key.roles):
            raise AuthorizationError("API key does not have required role: admin or chat")
        # Counted up by LLM calls alone, and looked at by every call: a key that is used up cannot fetch its models.
        if 0 < key.use_limit <= key.used_count:
            raise AuthorizationError("API key quota exceeded")
        return key

    def prove(self, text: str) -> Key:
        """Return the key with this text.

        Raises:
            AuthorizationError: If there is none, or its year is over.
            PanicError: If the text has fewer than 8 characters.
        """
        # In the bridge's order: only what decodes comes far enough to crash it.
        if not _BASE64URL.fullmatch(text):
            raise AuthorizationError("invalid API key")
        if len(text) < _SHOWN:
            raise PanicError
        named = self._by_prefix.get(text[:_SHOWN])
        # The bridge looks at the date before it compares the hash.
        if named is not None and named.expired:
            raise AuthorizationError("API key has expired")
        key = self.find(text)
        if key is None:
            raise AuthorizationError("invalid API key")
        return key


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()
