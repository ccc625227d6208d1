"""Keccak-256 and EIP-55, against published values."""

import pytest

from crynux_async.signing.addresses import address_of, checksummed, is_address, keccak256

# The examples of EIP-55.
ADDRESSES = [
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
]


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
    ],
)
def test_digest_is_keccak_and_not_sha3(data: bytes, digest: str) -> None:
    assert keccak256(data).hex() == digest


@pytest.mark.parametrize("address", ADDRESSES)
def test_letter_case_is_the_checksum(address: str) -> None:
    assert checksummed(address.lower()) == address
    assert checksummed("0x" + address[2:].upper()) == address


def test_address_of_a_public_key_has_its_checksum() -> None:
    public_key = bytes.fromhex(
        "4e3b81af9c2234cad09d679ce6035ed1392347ce64ce405f5dcd36228a25de6e"
        "47fd35c4215d1edf53e6f83de344615ce719bdb0fd878f6ed76f06dd277956de"
    )
    assert address_of(public_key) == "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"


@pytest.mark.parametrize("text", ["", "0x", ADDRESSES[0][2:], ADDRESSES[0][:-1], ADDRESSES[0] + "0", "0x" + "g" * 40])
def test_text_that_is_no_address_is_refused(text: str) -> None:
    assert not is_address(text)
    with pytest.raises(ValueError, match="an address is 0x and 40 hexadecimal digits"):
        checksummed(text)
