"""The verifiable random function that decides whether a task is validated by a group of three.

ECVRF-SECP256K1-SHA256-TAI in the form of draft-irtf-cfrg-vrf-06 with suite 0xFE. Unlike in RFC 9381 the public key is
not hashed into the challenge, and no zero byte ends the hashes.

Source: crynux-bridge utils/vrf.go and crynux-relay service/validate_task.go, both on vechain's go-ecvrf.
"""

import hashlib

import attrs

from crynux_async.signing.addresses import wallet_extra_missing

_SUITE = b"\xfe"
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_CHALLENGE_BYTES = 16
_TRIES = 256
_ONE_IN = 100


@attrs.frozen(kw_only=True)
class VrfOutput:
    """What the function gives for one key and one seed.

    Attributes:
        beta: The random value, 32 bytes; the same for everybody who checks the proof.
        proof: A point, a challenge and a scalar, 81 bytes.
    """

    beta: bytes
    proof: bytes

    @property
    def selects_group(self) -> bool:
        """Whether the task must be run by two more nodes: once in a hundred."""
        return int.from_bytes(self.beta) % _ONE_IN == 0


def prove(secret_key: bytes, seed: bytes) -> VrfOutput:
    """Return the random value of ``seed`` under a key, with its proof.

    Args:
        secret_key: 32 bytes, from 1 to the order of the curve less 1.
        seed: Any bytes; the relay's sampling seed has 32.

    Raises:
        UsageError: When the extra ``wallet`` is not installed.
    """
    try:
        from btclib_secp256k1 import dsa, ecdh, keys
    except ImportError as error:
        raise wallet_extra_missing() from error
    base = _hash_to_curve(keys.pubkey_from_prvkey(secret_key), seed)
    # Both factors are secret, and the nonce gives the key away: shared_point multiplies in constant time.
    gamma = ecdh.shared_point(base, secret_key)
    nonce = dsa.nonce_rfc6979(hashlib.sha256(base).digest(), secret_key)
    left, right = keys.pubkey_from_prvkey(nonce), ecdh.shared_point(base, nonce)
    challenge = hashlib.sha256(_SUITE + b"\x02" + base + gamma + left + right).digest()[:_CHALLENGE_BYTES]
    scalar = (int.from_bytes(nonce) + int.from_bytes(challenge) * int.from_bytes(secret_key)) % _ORDER
    beta = hashlib.sha256(_SUITE + b"\x03" + gamma).digest()
    return VrfOutput(beta=beta, proof=gamma + challenge + scalar.to_bytes(32))


def _hash_to_curve(public_key: bytes, seed: bytes) -> bytes:
    """Return the first point that hashing key and seed with a counter finds, compressed; each try finds one in two."""
    from btclib_secp256k1 import keys

    for counter in range(_TRIES):
        point = b"\x02" + hashlib.sha256(_SUITE + b"\x01" + public_key + seed + bytes([counter])).digest()
        if keys.pubkey_verify(point):
            return point
    raise AssertionError("no point in 256 tries: that happens to one seed in 2**256")  # pragma: no cover
