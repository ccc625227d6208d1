"""The random function that selects tasks for validation by a group, and the proofs that creators show for it.

ECVRF-SECP256K1-SHA256-TAI in the form of draft-irtf-cfrg-vrf-06, suite 0xFE: the public key is not hashed into the
challenge, and no zero byte ends the hashes, unlike in RFC 9381.

Source: crynux-relay service/validate_task.go (validateVRFProof), utils/vrf.go; vechain go-ecvrf.
"""

import hashlib

from btclib_secp256k1 import keys

PROOF_BYTES = 81

_SUITE = b"\xfe"
_POINT = 33
_CHALLENGE = 16
_SELECTED_OF = 100


class ProofError(ValueError):
    """A proof does not belong to the key and the seed."""


def verified_output(public_key: bytes, seed: bytes, proof: bytes) -> bytes:
    """Return the output of the random function, 32 bytes, after checking its proof.

    Args:
        public_key: x and y, 64 bytes.
        seed: What it was applied to.
        proof: 81 bytes: a point, a challenge of 16 bytes and a scalar of 32.

    Raises:
        ProofError: If the proof belongs to something else.
    """
    gamma, challenge, scalar = proof[:_POINT], proof[_POINT : _POINT + _CHALLENGE], proof[_POINT + _CHALLENGE :]
    try:
        key = keys.serialize(keys.parse(b"\x04" + public_key))
        base = _to_curve(key, seed)
        left = _difference(keys.pubkey_from_prvkey(scalar), key, challenge)
        right = _difference(keys.pubkey_tweak_mul(base, scalar), gamma, challenge)
    except ValueError as error:
        raise ProofError("invalid proof") from error
    expected = hashlib.sha256(_SUITE + b"\x02" + base + gamma + left + right).digest()[:_CHALLENGE]
    if expected != challenge:
        raise ProofError("invalid proof")
    return _output(gamma)


def output_of_secret(secret_key: bytes, seed: bytes) -> bytes:
    """Return what the random function of a secret key gives for a seed, 32 bytes, without a proof."""
    base = _to_curve(keys.pubkey_from_prvkey(secret_key), seed)
    return _output(keys.pubkey_tweak_mul(base, secret_key))


def is_selected(output: bytes) -> bool:
    """Return whether an output selects its task for validation by a group of three."""
    return int.from_bytes(output) % _SELECTED_OF == 0


def _output(gamma: bytes) -> bytes:
    return hashlib.sha256(_SUITE + b"\x03" + gamma).digest()


def _to_curve(key: bytes, seed: bytes) -> bytes:
    """Return the first point that hashing key and seed with a counter finds, compressed."""
    for counter in range(256):
        x = hashlib.sha256(_SUITE + b"\x01" + key + seed + bytes([counter])).digest()
        if keys.pubkey_verify(b"\x02" + x):
            return b"\x02" + x
    raise ProofError("no point found")  # pragma: no cover  # one seed in 2**256


def _difference(point: bytes, other: bytes, factor: bytes) -> bytes:
    """Return ``point`` less ``factor`` times ``other``."""
    return keys.pubkey_combine([point, keys.pubkey_negate(keys.pubkey_tweak_mul(other, factor.rjust(32, b"\x00")))])
