"""The emulator's API keys."""

import base64
from typing import Any

import pytest

from crynux_async.emulator.bridge.keys import AuthorizationError, KeyOptions, KeyRing, PanicError


def ring_with_key(**options: Any) -> tuple[KeyRing, str]:
    ring = KeyRing()
    text, _ = ring.new(KeyOptions(**{"rate_limit": 1, **options}))
    return ring, text


def refusal(ring: KeyRing, header: str) -> str:
    with pytest.raises(AuthorizationError) as caught:
        ring.authorize(header)
    return str(caught.value)


def test_key_is_44_characters_of_base64url() -> None:
    _, text = ring_with_key()
    assert len(text) == 44
    assert len(base64.urlsafe_b64decode(text)) == 32


def test_ring_keeps_no_text_of_a_key() -> None:
    ring, text = ring_with_key()
    assert text not in repr(list(ring))
    assert text.startswith(ring[0].prefix)


@pytest.mark.parametrize("roles", [["chat"], ["admin"], ["image", "chat"]])
def test_key_with_a_role_that_counts_is_authorized(roles: list[str]) -> None:
    ring, text = ring_with_key(roles=roles)
    assert ring.authorize(f"Bearer {text}") is ring[0]


@pytest.mark.parametrize("roles", [[], ["image"], ["Chat"]])
def test_key_without_a_role_that_counts_is_refused(roles: list[str]) -> None:
    ring, text = ring_with_key(roles=roles)
    assert refusal(ring, f"Bearer {text}") == "API key does not have required role: admin or chat"


@pytest.mark.parametrize("scheme", ["bearer ", "Basic ", "Bearer", ""])
def test_header_of_another_scheme_is_refused(scheme: str) -> None:
    ring, text = ring_with_key()
    assert refusal(ring, scheme + text) == "Authorization header must start with 'Bearer '"


@pytest.mark.parametrize("text", ["***", "A" * 43 + "=", "AAAAA", "Bearer x", "AAAA AAAA"])
def test_text_that_is_no_key_is_invalid(text: str) -> None:
    ring, _ = ring_with_key()
    assert refusal(ring, f"Bearer {text}") == "invalid API key"


def test_key_with_a_right_beginning_and_a_wrong_end_is_invalid() -> None:
    ring, text = ring_with_key()
    wrong = text[:20] + ("B" if text[20] == "A" else "A") + text[21:]
    assert refusal(ring, f"Bearer {wrong}") == "invalid API key"


@pytest.mark.parametrize("text", ["abcd", "ab==", ""])
def test_short_base64_makes_the_bridge_panic(text: str) -> None:
    ring, _ = ring_with_key()
    with pytest.raises(PanicError):
        ring.authorize(f"Bearer {text}")


def test_expired_key_is_refused() -> None:
    ring, text = ring_with_key(expired=True)
    assert refusal(ring, f"Bearer {text}") == "API key has expired"


@pytest.mark.parametrize(("use_limit", "used_count"), [(20, 20), (1, 5)])
def test_used_up_key_is_refused(use_limit: int, used_count: int) -> None:
    ring, text = ring_with_key(use_limit=use_limit, used_count=used_count)
    assert refusal(ring, f"Bearer {text}") == "API key quota exceeded"


@pytest.mark.parametrize(("use_limit", "used_count"), [(20, 19), (-1, 1000), (0, 1)])
def test_key_with_quota_left_is_authorized(use_limit: int, used_count: int) -> None:
    ring, text = ring_with_key(use_limit=use_limit, used_count=used_count)
    assert ring.authorize(f"Bearer {text}").used_count == used_count
