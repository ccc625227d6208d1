"""Who signed a request, as the services find out: an address recovered from a signature over canonical JSON.

The libraries are imported when the first signature comes: an emulator that is asked for none needs none of them.

Source: crynux-bridge api/v1/tools/validate_signature.go, crynux-relay api/v1/validate/validate_signature.go;
go-ethereum crypto (SigToPub, VerifySignature), EIP-55.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from crynux_async.emulator import go_json

TOLERANCE = 60
"""Seconds by which a timestamp may differ from the server's clock."""

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""How many points the curve has."""

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
    content = from_digits(signature[2:])
    if content is None or abs(int(now) - timestamp) > TOLERANCE:
        return None
    return signer(keccak256(canonical(fields) + str(timestamp).encode()), content)


def canonical(fields: Mapping[str, Any]) -> bytes:
    """Return fields as the bytes that are signed: Go's JSON with sorted keys, numbers having been through a float64."""
    return go_json.encode(_sorted(fields))


def signer(digest: bytes, signature: bytes) -> str | None:
    """Return the address that signed ``digest``, or None when the signature is not valid.

    Args:
        digest: 32 bytes.
        signature: r, s and the recovery id (0 to 3), 65 bytes; s must be in the lower half.
    """
    return None if int.from_bytes(signature[32:64]) > ORDER // 2 else recovered(digest, signature)


def recovered(digest: bytes, signature: bytes) -> str | None:
    """Return the address that signed ``digest``, or None; an s in the upper half is as good as one in the lower."""
    from btclib_secp256k1 import recovery

    # 27 and 28, as wallets write them, are none.
    if len(signature) != _SIGNATURE_BYTES or signature[64] >= _RECOVERY_IDS:
        return None
    try:
        return address_of_point(recovery.recover(digest, signature[:64], signature[64], compressed=False)[1:])
    except ValueError:
        return None


def address_of(secret_key: bytes) -> str:
    """Return the address of a secret key of 32 bytes in its EIP-55 letter case.

    Raises:
        ValueError: It is no key of the curve.
    """
    from btclib_secp256k1 import keys

    return address_of_point(keys.pubkey_from_prvkey(secret_key, compressed=False)[1:])


def address_of_point(public_key: bytes) -> str:
    """Return the address of x and y, 64 bytes, in its EIP-55 letter case."""
    return checksummed(keccak256(public_key)[12:].hex())


def checksummed(digits: str) -> str:
    """Return an address of 40 lower-case hexadecimal digits in its EIP-55 letter case, with 0x."""
    marks = keccak256(digits.encode()).hex()
    shown = (
        char.upper() if int(mark, 16) >= _CAPITAL_FROM else char for char, mark in zip(digits, marks, strict=False)
    )
    return "0x" + "".join(shown)


def keccak256(data: bytes) -> bytes:
    """Return the Keccak-256 digest that Ethereum uses, 32 bytes."""
    from Crypto.Hash import keccak

    return keccak.new(data=data, digest_bits=256).digest()


def from_digits(digits: str) -> bytes | None:
    """Return the bytes of pairs of hexadecimal digits, or None when it is none."""
    return bytes.fromhex(digits) if _HEX.fullmatch(digits) else None


def signed_proof(fields: Mapping[str, Any], timestamp: int, secret_key: bytes) -> dict[str, str]:
    """Return timestamp and signature of a request that a service itself sends.

    Args:
        fields: The signed fields.
        timestamp: Seconds since 1970.
        secret_key: 32 bytes.
    """
    from btclib_secp256k1 import recovery

    digest = keccak256(canonical(fields) + str(timestamp).encode())
    signature, recovery_id = recovery.sign(digest, secret_key)
    return {"timestamp": str(timestamp), "signature": f"0x{signature.hex()}{recovery_id:02x}"}


def _sorted(value: Any) -> Any:
    """Return a value as Go's maps hold it after its JSON was read: keys sorted, every number a float64."""
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    # Go writes the shortest digits that give the same float64, and noughts behind them.
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return int(Decimal(repr(float(value)))) if is_number else value
