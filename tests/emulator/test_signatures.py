"""Signers and addresses, against vectors that were made with the Go code of bridge and relay."""

import pytest

from crynux_async.emulator.signatures import (
    ORDER,
    PanicError,
    address_of,
    canonical,
    keccak256,
    recovered,
    request_signer,
    signer,
)
from tests.relay_lab import CREATOR
from tests.signing.vectors import ADDRESS, KEY, Vector, vectors

NOW = 1_700_000_000
FIELDS = {"task_id_commitment": "0xabc"}


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector.name)
def test_signer_of_vector_is_found(vector: Vector) -> None:
    digest = keccak256(vector.message)
    assert (digest.hex(), signer(digest, bytes.fromhex(vector.signature[2:]))) == (vector.digest, ADDRESS)


def test_every_vector_is_there() -> None:
    assert len(vectors()) == 12


def test_signature_with_high_s_has_no_signer_but_a_key() -> None:
    vector = vectors()[0]
    digest, signature = bytes.fromhex(vector.digest), bytes.fromhex(vector.signature[2:])
    mirrored = signature[:32] + (ORDER - int.from_bytes(signature[32:64])).to_bytes(32) + bytes([signature[64] ^ 1])
    assert (signer(digest, mirrored), recovered(digest, mirrored)) == (None, ADDRESS)


@pytest.mark.parametrize("change", [b"", bytes(65), b"\xff" * 65, bytes(64) + b"\x04"])
def test_bytes_that_are_no_signature_have_no_signer(change: bytes) -> None:
    assert signer(bytes(32), change) is None


def test_address_has_the_checksum_of_eip_55() -> None:
    assert address_of(bytes.fromhex(KEY)) == ADDRESS


@pytest.mark.parametrize(("age", "is_good"), [(60, True), (61, False), (-60, True), (-61, False)])
def test_signature_holds_for_sixty_seconds_either_way(age: int, is_good: bool) -> None:
    signature = CREATOR.sign(FIELDS, NOW - age)
    expected = CREATOR.address if is_good else None
    # Fractions of the server's second do not count.
    assert request_signer(FIELDS, NOW - age, signature, now=NOW + 0.9) == expected


def test_signature_over_other_fields_is_somebody_elses() -> None:
    found = request_signer({"task_id_commitment": "0xabd"}, NOW, CREATOR.sign(FIELDS, NOW), now=NOW)
    assert found not in (None, CREATOR.address)


def test_signature_of_one_character_crashes_the_handler() -> None:
    with pytest.raises(PanicError):
        request_signer(FIELDS, NOW, "x", now=NOW)


def test_numbers_pass_through_a_float() -> None:
    fields = {"b": 2**53 + 1, "a": [True, None, 24], "c": 2**63 - 1}
    assert canonical(fields) == b'{"a":[true,null,24],"b":9007199254740992,"c":9223372036854776000}'
