"""``Wallet``: the handle on a secret key that signs for its owner and shows itself nowhere."""

import getpass
import hashlib
import hmac
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Self

from crynux_async.secret import Secret
from crynux_async.signing.addresses import address_of, keccak256, wallet_extra_missing
from crynux_async.signing.canonical import canonical_json
from crynux_async.signing.key_files import find_key, parse_key, read_key_file, read_keystore, refuse
from crynux_async.signing.vrf import VrfOutput, prove

_PERSONAL_OFFSET = 27  # as Bitcoin's signed messages had it; the relay counts v from 0
_NO_KEY = "holds no key of the curve: a key is 64 hexadecimal digits, above 0 and below the order of the curve"


class Wallet:
    """A secret key of the curve secp256k1, and what can be signed with it.

    Its text, ``repr`` and tracebacks show the address alone, and it cannot be pickled. Make one with
    ``from_keystore``, ``from_file`` or ``from_env``; all of them read files and the first works for about a second, so
    in a running event loop call them in a thread.

    Args:
        key: 64 hexadecimal digits, with or without 0x.

    Attributes:
        address: The address in its EIP-55 letter case, such as "0x2c75...5c23".
        public_key: 0x and the 128 hexadecimal digits of x and y.

    Raises:
        SettingsError: When the digits are no key of the curve.
        UsageError: When the extra ``wallet`` is not installed.
    """

    __slots__ = ("_key", "address", "public_key")

    def __init__(self, key: Secret) -> None:
        self._key = parse_key(key.reveal().strip()) or refuse("wallet", _NO_KEY)
        self.public_key = "0x" + _public_point(self._key).hex()
        self.address = address_of(bytes.fromhex(self.public_key[2:]))

    @classmethod
    def from_keystore(cls, path: Path | str, password: str | Secret) -> Self:
        """Return the wallet in an encrypted keystore of version 3, as geth and most wallets write it.

        Args:
            path: The file.
            password: Its password.

        Raises:
            SettingsError: When the file cannot be used, the password is wrong, or the file names another address.
        """
        key, said = read_keystore(path, Secret(password) if isinstance(password, str) else password)
        return cls._agreeing(key, said)

    @classmethod
    def from_file(cls, path: Path | str) -> Self:
        """Return the wallet whose key stands in a file of mode 0600: 64 hexadecimal digits, with or without 0x.

        Args:
            path: The file.

        Raises:
            SettingsError: When there is no such file, others may read it, or it holds no key.
        """
        return cls(read_key_file(path))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, ask: Callable[[str], str] | None = None) -> Self:
        """Return the wallet that ``CRYNUX_WALLET`` is the path of: a keystore, or a file of mode 0600 with the key.

        A keystore's password is read from the file that ``CRYNUX_WALLET_PASSWORD_FILE`` names, or asked for on the
        terminal.

        Args:
            environ: The environment; ``os.environ`` when None.
            ask: Asks a person for a password and shows nothing of it; when None, the terminal does where there is one.

        Raises:
            SettingsError: When no file is named, or it cannot be used.
        """
        # A program without a console has no standard input at all.
        if ask is None and sys.stdin is not None and sys.stdin.isatty():
            ask = getpass.getpass
        return cls._agreeing(*find_key(os.environ if environ is None else environ, ask))

    @classmethod
    def _agreeing(cls, key: Secret, said: str) -> Self:
        """Return the wallet of a key, if its address is the one that its keystore names."""
        wallet = cls(key)
        if said and said != wallet.address[2:].lower():
            refuse("wallet", f"the keystore names the address 0x{said}, and its key is that of {wallet.address}")
        return wallet

    @property
    def key(self) -> Secret:
        """The secret key, 64 hexadecimal digits, for a bridge's key file."""
        return self._key

    def sign(self, fields: Mapping[str, Any], timestamp: int) -> str:
        """Return the signature of a request: 0x and 130 hexadecimal digits, s low, v 0 or 1.

        There is no personal-message prefix before what is signed.

        Args:
            fields: The signed fields, without timestamp and signature; see ``canonical_json`` for their types.
            timestamp: Seconds since 1970, within 60 s of the server's clock.

        Raises:
            TypeError: When a field is of a type that cannot be signed, such as a float.
            ValueError: When a field could be written in two ways.
        """
        return "0x" + self._sign(canonical_json(fields) + str(int(timestamp)).encode(), v_offset=0).hex()

    def sign_personal(self, text: str) -> str:
        """Return the EIP-191 signature of a text, as wallets sign logins: 0x and 130 hexadecimal digits, v 27 or 28.

        Args:
            text: What the person would be shown.
        """
        message = text.encode()
        prefix = b"\x19Ethereum Signed Message:\n%d" % len(message)
        return "0x" + self._sign(prefix + message, v_offset=_PERSONAL_OFFSET).hex()

    def prove(self, seed: bytes) -> VrfOutput:
        """Return the random value of ``seed`` under this key, with the proof that the relay asks for.

        Args:
            seed: The sampling seed of a task, 32 bytes.
        """
        return prove(self._bytes(), seed)

    def derive(self, label: bytes) -> bytes:
        """Return 32 bytes that only this key can compute again: HMAC-SHA256 of ``label``.

        Args:
            label: What they are for, unlike any other label.
        """
        return hmac.digest(self._bytes(), label, hashlib.sha256)

    def _sign(self, message: bytes, *, v_offset: int) -> bytes:
        from btclib_secp256k1 import recovery

        signature, recovery_id = recovery.sign(keccak256(message), self._bytes())
        return signature + bytes([v_offset + recovery_id])

    def _bytes(self) -> bytes:
        return bytes.fromhex(self._key.reveal())

    def __repr__(self) -> str:
        return f"Wallet({self.address!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Wallet) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self.address)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a wallet is not pickled; let the other process open it itself, with Wallet.from_env()")


def _public_point(key: Secret) -> bytes:
    """Return x and y of a key's public point, 64 bytes."""
    try:
        from btclib_secp256k1 import keys
    except ImportError as error:
        raise wallet_extra_missing() from error
    try:
        # Without the first byte, which says that both coordinates follow (SEC 1).
        return keys.pubkey_from_prvkey(bytes.fromhex(key.reveal()), compressed=False)[1:]
    except ValueError as error:
        refuse("wallet", _NO_KEY, error)
