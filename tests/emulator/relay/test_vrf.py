"""The relay's random function and its proofs, against the vectors of the library that the relay uses."""

import json
from typing import Any

import pytest
from btclib_secp256k1 import keys

from crynux_async.emulator.relay.vrf import ProofError, is_selected, output_of_secret, verified_output
from tests.signing.vectors import DATA, KEY, text

PROOFS: list[dict[str, Any]] = json.loads((DATA / "ecvrf_secp256k1_sha256_tai.json").read_text(encoding="utf-8"))


def point(compressed: str) -> bytes:
    return keys.serialize(keys.parse(bytes.fromhex(compressed)), compressed=False)[1:]


def test_every_proof_is_there() -> None:
    assert len(PROOFS) == 46


@pytest.mark.parametrize("proof", PROOFS, ids=range(len(PROOFS)))
def test_proof_gives_its_output(proof: dict[str, Any]) -> None:
    seed, secret = bytes.fromhex(proof["alpha"]), bytes.fromhex(proof["sk"]).rjust(32, b"\x00")
    output = verified_output(point(proof["pk"]), seed, bytes.fromhex(proof["pi"]))
    assert (output.hex(), output_of_secret(secret, seed).hex()) == (proof["beta"], proof["beta"])


@pytest.mark.parametrize("place", [1, 40, 80], ids=["point", "challenge", "scalar"])
def test_proof_with_one_wrong_bit_is_refused(place: int) -> None:
    proof = bytearray.fromhex(PROOFS[0]["pi"])
    proof[place] ^= 1
    with pytest.raises(ProofError):
        verified_output(point(PROOFS[0]["pk"]), bytes.fromhex(PROOFS[0]["alpha"]), bytes(proof))


def test_proof_of_another_seed_is_refused() -> None:
    with pytest.raises(ProofError):
        verified_output(point(PROOFS[0]["pk"]), b"another", bytes.fromhex(PROOFS[0]["pi"]))


def test_first_selecting_seed_is_the_one_of_the_vectors() -> None:
    assert "selected for validation:  40 " in text()
    secret = bytes.fromhex(KEY)
    selecting = [number for number in range(41) if is_selected(output_of_secret(secret, number.to_bytes(32)))]
    assert selecting == [40]
