"""Who signed a request, as the services find out: an address recovered from a signature over canonical JSON.

The libraries are imported when the first signature comes: an emulator that is asked for none needs none of them.

Source: crynux-bridge api/v1/tools/validate_signature.go; go-ethereum crypto (SigToPub, VerifySignature), EIP-55.
"""

import re
from collections.abc import Mapping
from typing import Any

from crynux_async.emulator import go_json

TOLERANCE = 60
"""Seconds by which a timestamp may differ from the server's clock."""

_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
_SIGNATURE_BYTES = 65
_RECOVERY_IDS = 4
_CAPITAL_FROM = 8
_HEX = re.compile("(?:[0-9a-fA-F]{2})*", re.ASCII)


class PanicError(Exception):
    """The handler crashes: 500 with an empty body."""


def request_signer(fields: Mapping[str, Any], timestamp: int, signature: str, *, now: float) -> str | None:
    """Return the address that signed a request, or None when the signature does not hold.

    Args:
        fields: The signed fields.
        timestamp: When it was signed, in seconds since 1970.
        signature: 130 hexadecimal digits behind two characters that nobody looks at.
        now: The server's time.

    Raises:
        PanicError: The text is shorter than two characters.
    """
    if len(signature) < 2:
        raise PanicError
    content = bytes.fromhex(signature[2:]) if _HEX.fullmatch(signature[2:]) else b""
    if len(content) != _SIGNATURE_BYTES or abs(int(now) - timestamp) > TOLERANCE:
        return None
    if int.from_bytes(content[32:64]) > _HALF_ORDER or content[64] >= _RECOVERY_IDS:
        return None
    return _recovered(_keccak256(go_json.encode(_sorted(fields)) + str(timestamp).encode()), content)


def address_of(secret_key: bytes) -> str:
    """Return the address of a secret key of 32 bytes in its EIP-55 letter case.

    Raises:
        ValueError: It is no key of the curve.
    """
    from btclib_secp256k1 import keys

    return _address(keys.pubkey_from_prvkey(secret_key, compressed=False)[1:])


def _recovered(digest: bytes, content: bytes) -> str | None:
    from btclib_secp256k1 import recovery

    try:
        return _address(recovery.recover(digest, content[:64], content[64], compressed=False)[1:])
    except ValueError:
        return None


def _address(public_key: bytes) -> str:
    digits = _keccak256(public_key)[12:].hex()
    marks = _keccak256(digits.encode()).hex()
    shown = (
        char.upper() if int(mark, 16) >= _CAPITAL_FROM else char for char, mark in zip(digits, marks, strict=False)
    )
    return "0x" + "".join(shown)


def _keccak256(data: bytes) -> bytes:
    from Crypto.Hash import keccak

    return keccak.new(data=data, digest_bits=256).digest()


def _sorted(value: Any) -> Any:
    """Return a value as Go's maps hold it after its JSON was read: keys sorted, every number a float64."""
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    return int(float(value)) if isinstance(value, int) and not isinstance(value, bool) else value
