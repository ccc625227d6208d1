"""Who signed a request to the relay's newer calls, and who logged in.

Source: crynux-relay api/v2/validate/validate_signature.go; api/tools/signature.go, blockchain/signature.go (EIP-191).
"""

from collections.abc import Mapping
from typing import Any

from crynux_async.emulator.signatures import TOLERANCE, from_digits, keccak256, recovered, request_signer

# Wallets ask their user first, so that a login may be older than a request, and no further in the future.
_LOGIN_AGE = 120
_DIGITS = 130
_WALLET_OFFSET = 27


def strict_request_signer(fields: Mapping[str, Any], timestamp: int, signature: str, *, now: float) -> str | None:
    """Return the address that signed a request of API version 2, which looks at the form of the signature first."""
    if len(signature) != _DIGITS + 2 or not signature.startswith("0x"):
        return None
    return request_signer(fields, timestamp, signature, now=now)


def login_message(address: str, timestamp: int) -> str:
    """Return the text that a wallet signs to log in."""
    return f"Crynux Relay\nAction: Connect Wallet\nAddress: {address}\nTimestamp: {timestamp}"


def login_signer(address: str, timestamp: int, signature: str, *, now: float) -> str | None:
    """Return the address that signed a login, or None when the signature is too old or none.

    Args:
        address: The address that the login names.
        timestamp: When it was signed, in seconds since 1970.
        signature: 130 hexadecimal digits, with or without "0x"; the recovery id may have 27 added.
        now: The relay's time.
    """
    if not int(now) - _LOGIN_AGE <= timestamp <= int(now) + TOLERANCE:
        return None
    digits = signature.removeprefix("0x")
    content = from_digits(digits)
    if content is None or len(digits) != _DIGITS:
        return None
    # Wallets write 27 or 28 for the recovery id, the requests' own signatures 0 or 1.
    if content[64] >= _WALLET_OFFSET:
        content = content[:64] + bytes([content[64] - _WALLET_OFFSET])
    message = login_message(address, timestamp).encode()
    return recovered(keccak256(b"\x19Ethereum Signed Message:\n%d" % len(message) + message), content)
