"""The random function, against the vectors of the library that bridge and relay use (vechain/go-ecvrf, MIT)."""

import json
import re

import pytest

from crynux_async.signing.vrf import prove
from tests.signing.vectors import DATA, KEY, text

VECTORS = json.loads((DATA / "ecvrf_secp256k1_sha256_tai.json").read_text(encoding="utf-8"))
SEEDS = re.findall(r"0x([0-9a-f]{64}) ?\nproof 0x([0-9a-f]{162}) ?\nbeta 0x([0-9a-f]{64})", text())


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_output_is_that_of_the_go_library(vector: dict[str, str]) -> None:
    output = prove(bytes.fromhex(vector["sk"].rjust(64, "0")), bytes.fromhex(vector["alpha"]))
    assert (output.proof.hex(), output.beta.hex()) == (vector["pi"], vector["beta"])


def test_vectors_are_all_read() -> None:
    assert (len(VECTORS), len(SEEDS)) == (46, 2)


@pytest.mark.parametrize(("seed", "proof", "beta"), SEEDS)
def test_output_is_that_of_the_bridge(seed: str, proof: str, beta: str) -> None:
    output = prove(bytes.fromhex(KEY), bytes.fromhex(seed))
    assert (output.proof.hex(), output.beta.hex()) == (proof, beta)


def test_first_seed_that_selects_a_group_is_40() -> None:
    key = bytes.fromhex(KEY)
    selected = [seed for seed in range(41) if prove(key, seed.to_bytes(32)).selects_group]
    assert selected == [40]
