"""Where a wallet's key comes from: an encrypted keystore, a file that only its owner can read, or where they say.

Never from an argument: arguments stand in the shell's history and in every list of processes. No message here repeats
what was in a file or a variable, because people put keys where paths belong.
"""

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from crynux_async.errors import Problem, SettingsError
from crynux_async.secret import Secret
from crynux_async.signing.addresses import wallet_extra_missing

WALLET = "CRYNUX_WALLET"
"""Variable with the path of a keystore or key file."""

PASSWORD_FILE = "CRYNUX_WALLET_PASSWORD_FILE"  # noqa: S105  # the name of a variable
"""Variable with the path of a file that holds the keystore's password."""

_KEY = re.compile("(?:0x)?[0-9a-fA-F]{64}", re.ASCII)
_MAX_BYTES = 65536
_VERSION = 3
_OTHERS = 0o077


def refuse(field: str, message: str, cause: Exception | None = None) -> NoReturn:
    """Raise the error for a wallet that cannot be used.

    Raises:
        SettingsError: Always.
    """
    raise SettingsError([Problem(field=field, message=message)], what="this wallet cannot be used") from cause


def parse_key(text: str) -> Secret | None:
    """Return a key of 64 hexadecimal digits, with or without 0x, in lower case; None for anything else."""
    return Secret(text.removeprefix("0x").lower()) if _KEY.fullmatch(text) else None


def read_key_file(path: Path | str) -> Secret:
    """Return the key in a file of its own: 64 hexadecimal digits, with or without 0x.

    Args:
        path: The file. Nobody but its owner may be allowed to read it.

    Raises:
        SettingsError: When there is no such file, others may read it, or it holds something else.
    """
    key = parse_key(_read_private(path, field="wallet").strip())
    if key is None:
        refuse("wallet", f"{path} must hold a secret key: 64 hexadecimal digits, with or without 0x, and nothing else")
    return key


def read_keystore(path: Path | str, password: Secret) -> tuple[Secret, str]:
    """Return the key in an encrypted keystore, and the address that it says (without 0x, or "").

    Args:
        path: The file, JSON of version 3 as geth and most wallets write it.
        password: Its password.

    Raises:
        SettingsError: When there is no such file, it is not of version 3, or the password is wrong.
        UsageError: When the extra ``wallet`` is not installed.
    """
    store = _parse_keystore(path, _read(path, field="wallet"))
    decode_keyfile_json = _keystore_decoder()
    try:
        key = decode_keyfile_json(store, password.reveal().encode())
    except Exception as error:  # a damaged keystore fails anywhere inside the library
        if "MAC mismatch" in str(error):
            refuse("password", f"is not the one of {path}", error)
        refuse("wallet", f"{path} is damaged: {type(error).__name__} while it was decrypted", error)
    return Secret(key.hex()), str(store.get("address") or "").lower().removeprefix("0x")


def _keystore_decoder() -> Callable[[Any, bytes], bytes]:
    """Return the library's function that decrypts a keystore.

    Importing it raises Python's recursion limit to 100,000 (py_ecc, which it needs for another kind of keystore): text
    that is nested deep would then overflow the stack of the whole process in place of raising RecursionError.
    """
    limit = sys.getrecursionlimit()
    try:
        from eth_keyfile.keyfile import decode_keyfile_json
    except ImportError as error:
        raise wallet_extra_missing() from error
    finally:
        sys.setrecursionlimit(limit)
    return decode_keyfile_json


def find_key(environ: Mapping[str, str], ask: Callable[[str], str] | None) -> tuple[Secret, str]:
    """Return the key that the environment points to, and the address that its file says (or "").

    Args:
        environ: The environment.
        ask: Asks a person for a password and shows nothing of it; None where nobody can be asked.

    Raises:
        SettingsError: When no file is named, or it cannot be used.
    """
    path = environ.get(WALLET, "").strip()
    if not path:
        refuse(WALLET, "must be the path of a keystore, or of a file of mode 0600 with the key")
    if parse_key(path) is not None:
        refuse(WALLET, "holds a key, and must be the path of a file: write the key to a file of mode 0600 instead")
    expanded = os.path.expanduser(path)
    if not is_keystore(expanded):
        return read_key_file(expanded), ""
    return read_keystore(expanded, _find_password(environ, expanded, ask))


def is_keystore(path: Path | str) -> bool:
    """Return whether a file holds JSON, and so not a bare key.

    Raises:
        SettingsError: When it cannot be read.
    """
    return _read(path, field="wallet").lstrip().startswith("{")


def read_password_file(path: Path | str) -> Secret:
    """Return the password in a file, without the end of its line.

    Args:
        path: The file. Nobody but its owner may be allowed to read it.

    Raises:
        SettingsError: When there is no such file, or others may read it.
    """
    return Secret(_read_private(path, field="password").removesuffix("\n").removesuffix("\r"))


def _find_password(environ: Mapping[str, str], keystore: str, ask: Callable[[str], str] | None) -> Secret:
    file = environ.get(PASSWORD_FILE, "").strip()
    if file:
        return read_password_file(os.path.expanduser(file))
    if ask is None:
        refuse(PASSWORD_FILE, f"must be the path of a file of mode 0600 with the password of {keystore}")
    return Secret(ask(f"Password of {keystore}: "))


def _parse_keystore(path: Path | str, text: str) -> dict[str, Any]:
    try:
        store = json.loads(text)
    except (ValueError, RecursionError) as error:
        refuse("wallet", f"{path} is not JSON, so it is no keystore", error)
    # Names in any letter case, as eth_keyfile takes them.
    version = {str(name).lower(): value for name, value in store.items()}.get("version") if _is_object(store) else None
    if version != _VERSION:
        refuse("wallet", f"{path} is not a keystore of version 3; export one from your wallet, or write a key file")
    return dict(store)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _read_private(path: Path | str, *, field: str) -> str:
    """Read a file that only its owner may be allowed to read."""
    return _read(path, field=field, private=True)


def _read(path: Path | str, *, field: str, private: bool = False) -> str:
    try:
        with Path(path).open("rb") as file:
            # Of the open file: the name may be another file's by now.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        refuse(field, f"{path} cannot be read: {error.strerror}", error)
    if private and mode & _OTHERS:
        refuse(field, f"{path} can be read by others (mode {mode:04o}): chmod 600 {path}")
    if len(content) > _MAX_BYTES:
        refuse(field, f"{path} is too large for a key")
    try:
        return content.decode()
    except ValueError:
        refuse(field, f"{path} is not a text")
