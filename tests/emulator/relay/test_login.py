"""Tokens of the relay."""

import pytest

from crynux_async.emulator.relay.login import LIFETIME, Doorman, TokenError

NOW = 1_700_000_000.0


def test_token_is_good_for_an_hour() -> None:
    doorman = Doorman(b"secret")
    token, ends = doorman.token("0xC", NOW)
    assert (doorman.address(f"Bearer {token}", NOW), ends) == ("0xC", NOW + LIFETIME)
    assert doorman.address(f"Bearer {token}", NOW + LIFETIME - 1) == "0xC"
    with pytest.raises(TokenError, match="Invalid or expired token"):
        doorman.address(f"Bearer {token}", NOW + LIFETIME)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "Authorization header required"),
        ("token", "Invalid authorization header format. Use 'Bearer <token>'"),
        ("bearer token", "Invalid authorization header format. Use 'Bearer <token>'"),
        ("Bearer a.b.c", "Invalid or expired token"),
        ("Bearer ", "Invalid or expired token"),
    ],
)
def test_header_without_a_good_token_is_refused(header: str, message: str) -> None:
    with pytest.raises(TokenError) as raised:
        Doorman(b"secret").address(header, NOW)
    assert str(raised.value) == message


def test_token_of_another_relay_is_refused() -> None:
    token, _ = Doorman(b"other").token("0xC", NOW)
    with pytest.raises(TokenError):
        Doorman(b"secret").address(f"Bearer {token}", NOW)
