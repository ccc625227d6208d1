"""Where a wallet's key comes from: an encrypted keystore, a file that only its owner can read, or where they say.

Never from an argument: arguments stand in the shell's history and in every list of processes. No message here repeats
what was in a file, nor a path that may be the secret itself, because people put keys and passwords where paths belong.
"""

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import attrs

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
_NOT_SHOWN = "the path that is given (not shown: it may be the secret itself)"


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
    return _bare_key(_read(path, field="wallet"))


def read_keystore(path: Path | str, password: Secret) -> tuple[Secret, str]:
    """Return the key in an encrypted keystore, and the address that it says (without 0x, or "").

    Args:
        path: The file, JSON of version 3 as geth and most wallets write it.
        password: Its password.

    Raises:
        SettingsError: When there is no such file, it is not of version 3, or the password is wrong.
        UsageError: When the extra ``wallet`` is not installed.
    """
    return _decrypted(_read(path, field="wallet"), password)


def _bare_key(file: "_File") -> Secret:
    key = parse_key(_private(file, field="wallet").strip())
    if key is None:
        refuse(
            "wallet",
            f"{file.path} must hold a secret key: 64 hexadecimal digits, with or without 0x, and nothing else",
        )
    return key


def _decrypted(file: "_File", password: Secret) -> tuple[Secret, str]:
    path = file.path
    store = _parse_keystore(path, file.text)
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
    # Once: what a shell's <(...) names cannot be read again.
    file = _read(os.path.expanduser(path), field="wallet")
    if not file.text.lstrip().startswith("{"):
        return _bare_key(file), ""
    return _decrypted(file, _find_password(environ, str(file.path), ask))


def read_password_file(path: Path | str) -> Secret:
    """Return the password in a file, without the end of its line.

    Args:
        path: The file. Nobody but its owner may be allowed to read it.

    Raises:
        SettingsError: When there is no such file, or others may read it.
    """
    file = _read(path, field="password")
    return Secret(_private(file, field="password").removesuffix("\n").removesuffix("\r"))


def _find_password(environ: Mapping[str, str], keystore: str, ask: Callable[[str], str] | None) -> Secret:
    file = environ.get(PASSWORD_FILE, "").strip()
    if file:
        return read_password_file(os.path.expanduser(file))
    if ask is None:
        refuse(PASSWORD_FILE, f"must be the path of a file of mode 0600 with the password of {keystore}")
    try:
        return Secret(ask(f"Password of {keystore}: "))
    except EOFError:
        refuse("password", f"of {keystore} was asked for, and none was given")


def _parse_keystore(path: Path | str, text: str) -> dict[str, Any]:
    try:
        store = json.loads(text)
    except (ValueError, RecursionError) as error:
        refuse("wallet", f"{path} is not JSON, so it is not a keystore", error)
    # Names in any letter case, as eth_keyfile takes them.
    version = {str(name).lower(): value for name, value in store.items()}.get("version") if _is_object(store) else None
    if version != _VERSION:
        refuse("wallet", f"{path} is not a keystore of version 3; export one from your wallet, or write a key file")
    return dict(store)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


@attrs.frozen(kw_only=True)
class _File:
    """What was in a file, and who may read it.

    Attributes:
        path: Its name.
        text: All of it.
        mode: Its permissions.
    """

    path: Path | str
    text: str = attrs.field(repr=False)
    mode: int


def _private(file: _File, *, field: str) -> str:
    """Return what is in a file that only its owner may be allowed to read."""
    if file.mode & _OTHERS:
        refuse(field, f"{file.path} can be read by others (mode {file.mode:04o}): chmod 600 {file.path}")
    return file.text


def _read(path: Path | str, *, field: str) -> _File:
    try:
        with Path(path).open("rb") as file:
            # Of the open file: the name may be another file's by now.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        if _may_be_secret(path, field):
            # Without its cause, whose message repeats the path.
            refuse(field, f"{_NOT_SHOWN} cannot be read: {error.strerror}")
        refuse(field, f"{path} cannot be read: {error.strerror}", error)
    if len(content) > _MAX_BYTES:
        refuse(field, f"{path} is too large for a key")
    try:
        return _File(path=path, text=content.decode(), mode=mode)
    except ValueError:
        refuse(field, f"{path} is not a text")


def _may_be_secret(path: Path | str, field: str) -> bool:
    """Whether what should name a file names none, and could be a key, its words, or a password."""
    if os.path.lexists(path) or os.path.isabs(path):
        return False
    # Neither keys nor their words have signs; a password may have any.
    return field == "password" or not any(sign in str(path) for sign in "./")
