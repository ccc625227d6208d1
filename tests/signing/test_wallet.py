"""``Wallet``: what it signs, against Go's signatures, and that it shows its key nowhere."""

import copy
import hashlib
import hmac
import json
import logging
import pickle
import subprocess
import sys
import traceback

import pytest
from btclib_secp256k1 import dsa, recovery

from crynux_async.errors import SettingsError, UsageError
from crynux_async.secret import Secret
from crynux_async.signing import Wallet
from crynux_async.signing.addresses import address_of, keccak256
from tests.signing.vectors import ADDRESS, KEY, TIMESTAMP, Vector, text, vectors

ORDER = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"


@pytest.fixture(scope="module")
def wallet() -> Wallet:
    return Wallet(Secret(KEY))


def test_address_and_public_key_are_those_of_the_vectors(wallet: Wallet) -> None:
    assert wallet.address == ADDRESS
    assert f"public_key {wallet.public_key}\n" in text()


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector.name)
def test_signature_is_gos_byte_for_byte(wallet: Wallet, vector: Vector) -> None:
    fields, _ = json.JSONDecoder().raw_decode(vector.message.decode())
    assert keccak256(vector.message).hex() == vector.digest
    assert wallet.sign(fields, TIMESTAMP) == vector.signature


def test_signatures_have_a_low_s_and_a_recovery_id_of_0_or_1(wallet: Wallet) -> None:
    for timestamp in range(TIMESTAMP, TIMESTAMP + 200):
        signature = bytes.fromhex(wallet.sign({"a": timestamp}, timestamp)[2:])
        assert signature[64] in (0, 1)
        assert dsa.is_low_s(dsa.to_der(signature[:64]))
        digest = keccak256(b'{"a":%d}%d' % (timestamp, timestamp))
        assert address_of(recovery.recover(digest, signature[:64], signature[64], compressed=False)[1:]) == ADDRESS


def test_personal_signature_is_that_of_a_well_known_wallet(wallet: Wallet) -> None:
    # The example of web3.js, eth.accounts.sign("Some data"), which uses this key.
    assert wallet.sign_personal("Some data") == (
        "0xb91467e570a6466aa9e9876cbcd013baba02900b8979d43fe208a4a4f339f5fd"
        "6007e74cd82e037b800186422fc2da167c747ef045e5d18a5f5d4300f8e1a0291c"
    )


def test_personal_signature_counts_bytes_and_not_characters(wallet: Wallet) -> None:
    signature = bytes.fromhex(wallet.sign_personal("é")[2:])
    digest = keccak256(b"\x19Ethereum Signed Message:\n2" + "é".encode())
    assert address_of(recovery.recover(digest, signature[:64], signature[64] - 27, compressed=False)[1:]) == ADDRESS


def test_derived_bytes_depend_on_key_and_label(wallet: Wallet) -> None:
    other = Wallet(Secret("1".rjust(64, "0")))
    assert wallet.derive(b"a") == hmac.new(bytes.fromhex(KEY), b"a", hashlib.sha256).digest()
    assert len({wallet.derive(b"a"), wallet.derive(b"b"), other.derive(b"a")}) == 3


def test_key_may_begin_with_0x_and_have_capitals() -> None:
    wallet = Wallet(Secret(f"0x{KEY.upper()}\n"))
    assert wallet == Wallet(Secret(KEY))
    assert hash(wallet) == hash(Wallet(Secret(KEY)))
    assert wallet.key.reveal() == KEY
    assert wallet != Wallet(Secret("2".rjust(64, "0")))


@pytest.mark.parametrize("key", ["", "0x", KEY[:-1], KEY + "0", "g" * 64, "0" * 64, ORDER, "f" * 64])
def test_text_that_is_no_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(SettingsError, match="holds no key of the curve") as caught:
        Wallet(Secret(key))
    shown = "".join(traceback.format_exception(caught.value))
    assert len(key) < 3 or key not in shown
    assert caught.value.field == "wallet"


def test_wallet_shows_its_address_and_never_its_key(wallet: Wallet, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("crynux_async.test").warning("signing with %s %r %s", wallet, wallet, [wallet])
    shown = [repr(wallet), str(wallet), f"{wallet}", repr({"w": wallet}), caplog.text]
    assert all(ADDRESS in text and KEY not in text for text in shown)
    with pytest.raises(TypeError, match="__dict__"):
        vars(wallet)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_wallet_is_not_pickled(wallet: Wallet, protocol: int) -> None:
    with pytest.raises(TypeError, match=r"let the other process open it itself, with Wallet\.from_env"):
        pickle.dumps(wallet, protocol)


def test_copies_of_a_wallet_are_the_wallet(wallet: Wallet) -> None:
    assert copy.copy(wallet) is copy.deepcopy([wallet])[0] is wallet


@pytest.mark.parametrize("missing", ["btclib_secp256k1", "Crypto.Hash"])
def test_missing_library_is_named_by_its_extra(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match=r"pip install 'crynux-async\[wallet\]'"):
        Wallet(Secret(KEY))


def test_import_of_signing_loads_no_library() -> None:
    code = (
        "import sys, crynux_async.signing; "
        "names = {name.partition('.')[0] for name in sys.modules}; "
        "print(*names & {'Crypto', 'btclib_secp256k1', 'eth_keyfile', 'asyncio'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
