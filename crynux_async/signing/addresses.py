"""Keccak-256, and addresses as EIP-55 writes them.

Source: EIP-55; go-ethereum common.Address.Hex, crypto.PubkeyToAddress.
"""

import re

from crynux_async.errors import UsageError

_ADDRESS = re.compile("0x[0-9a-fA-F]{40}", re.ASCII)
_CAPITAL_FROM = 8


def keccak256(data: bytes) -> bytes:
    """Return the Keccak-256 digest, 32 bytes: not SHA3-256, whose padding differs.

    Raises:
        UsageError: When the extra ``wallet`` is not installed.
    """
    try:
        from Crypto.Hash import keccak
    except ImportError as error:
        raise wallet_extra_missing() from error
    return keccak.new(data=data, digest_bits=256).digest()


def wallet_extra_missing() -> UsageError:
    """Return the error for a missing library."""
    return UsageError("signing needs libraries that are not installed: pip install 'crynux-async[wallet]'")


def address_of(public_key: bytes) -> str:
    """Return the address of a public key in its EIP-55 letter case.

    Args:
        public_key: x and y, 64 bytes.
    """
    return checksummed("0x" + keccak256(public_key)[12:].hex())


def is_address(text: str) -> bool:
    """Return whether ``text`` is 0x and 40 hexadecimal digits, in any letter case."""
    return _ADDRESS.fullmatch(text) is not None


def checksummed(address: str) -> str:
    """Return an address in its EIP-55 letter case.

    Args:
        address: 0x and 40 hexadecimal digits, in any letter case.

    Raises:
        ValueError: When it is no address.
    """
    if not is_address(address):
        raise ValueError(f"an address is 0x and 40 hexadecimal digits, not {address!r}")
    digits = address[2:].lower()
    marks = keccak256(digits.encode()).hex()
    capitals = (int(mark, 16) >= _CAPITAL_FROM for mark in marks)
    return "0x" + "".join(char.upper() if capital else char for char, capital in zip(digits, capitals, strict=False))
