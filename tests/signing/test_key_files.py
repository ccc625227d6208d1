"""Where keys come from: keystores, key files and the environment; and what is refused, with a cure."""

import getpass
import io
import json
import os
import stat
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import pytest

from crynux_async.errors import SettingsError, UsageError
from crynux_async.secret import Secret
from crynux_async.signing import Wallet
from tests.signing.vectors import ADDRESS, KEY

# The test vectors of the Web3 Secret Storage Definition.
STORED_KEY = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
STORED_ADDRESS = "008aeeda4d805471df9b2a5b0f38a0c3bcba786b"
PBKDF2: dict[str, Any] = {
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf": "pbkdf2",
        "kdfparams": {
            "c": 262144,
            "dklen": 32,
            "prf": "hmac-sha256",
            "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
        },
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
    },
    "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version": 3,
}
SCRYPT: dict[str, Any] = {
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
        "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
        "kdf": "scrypt",
        "kdfparams": {
            "dklen": 32,
            "n": 262144,
            "r": 1,
            "p": 8,
            "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19",
        },
        "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097",
    },
    "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version": 3,
}


def private(path: Path, content: str, mode: int = 0o600) -> Path:
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.fixture
def keystore(tmp_path: Path) -> Path:
    return private(tmp_path / "keystore.json", json.dumps({**PBKDF2, "address": STORED_ADDRESS}))


def refusal(call: Any, *args: Any, **more: Any) -> SettingsError:
    with pytest.raises(SettingsError, match=r"^this wallet cannot be used: 1 problem") as caught:
        call(*args, **more)
    return caught.value


@pytest.mark.parametrize("content", [KEY, f"0x{KEY}", f"  {KEY.upper()}\r\n"])
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_key_file_of_its_owner_alone_is_read(tmp_path: Path, content: str, mode: int) -> None:
    assert Wallet.from_file(private(tmp_path / "key", content, mode)).address == ADDRESS


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o601])
def test_key_file_that_others_may_read_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path / "key", KEY, mode)
    error = refusal(Wallet.from_file, path)
    assert str(error.problems[0]) == f"wallet: {path} can be read by others (mode {mode:04o}): chmod 600 {path}"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("content", ["", KEY[:-1], f"{KEY} {KEY}", f"{KEY}\n{KEY}", "key: " + KEY, "\x00" * 70000])
def test_file_without_exactly_one_key_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    error = refusal(Wallet.from_file, private(tmp_path / "key", content))
    assert KEY[:-1] not in "".join(traceback.format_exception(error))
    assert error.field == "wallet"


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(bytes.fromhex(KEY) + b"\xff")
    path.chmod(0o600)
    assert "is not a text" in str(refusal(Wallet.from_file, path))


def test_file_that_is_not_there_is_refused_by_its_path(tmp_path: Path) -> None:
    assert f"{tmp_path}/key cannot be read: No such file" in str(refusal(Wallet.from_file, tmp_path / "key"))
    assert "Is a directory" in str(refusal(Wallet.from_file, tmp_path))


@pytest.mark.parametrize(
    ("store", "password"),
    [(PBKDF2, "testpassword"), (SCRYPT, Secret("testpassword"))],
    ids=["pbkdf2-text", "scrypt-secret"],
)
def test_keystore_of_the_definition_is_decrypted(tmp_path: Path, store: dict[str, Any], password: str | Secret) -> None:
    wallet = Wallet.from_keystore(private(tmp_path / "keystore", json.dumps(store), 0o644), password)
    assert wallet.key.reveal() == STORED_KEY
    assert wallet.address.lower() == f"0x{STORED_ADDRESS}"


@pytest.mark.parametrize("said", ["", STORED_ADDRESS, f"0x{STORED_ADDRESS.upper()}"])
def test_keystore_that_names_its_own_address_or_none_is_accepted(tmp_path: Path, said: str) -> None:
    path = private(tmp_path / "keystore", json.dumps({**PBKDF2, "address": said}))
    assert Wallet.from_keystore(path, "testpassword").address.lower() == f"0x{STORED_ADDRESS}"


def test_keystore_that_names_another_address_is_refused(tmp_path: Path) -> None:
    path = private(tmp_path / "keystore", json.dumps({**PBKDF2, "address": ADDRESS[2:].lower()}))
    assert f"names the address {ADDRESS.lower()}" in str(refusal(Wallet.from_keystore, path, "testpassword"))


def test_wrong_password_is_a_problem_of_the_password(keystore: Path) -> None:
    error = refusal(Wallet.from_keystore, keystore, "a wrong one")
    assert str(error.problems[0]) == f"password: is not the one of {keystore}"


@pytest.mark.parametrize("version", [1, 4, "3", None])
def test_keystore_of_another_version_is_refused(tmp_path: Path, version: object) -> None:
    path = private(tmp_path / "keystore", json.dumps({**PBKDF2, "version": version}))
    assert "is not a keystore of version 3" in str(refusal(Wallet.from_keystore, path, "testpassword"))


@pytest.mark.parametrize("name", ["cipherparams", "ciphertext", "kdf", "kdfparams", "mac"])
def test_keystore_without_a_part_is_damaged(tmp_path: Path, name: str) -> None:
    crypto = {key: value for key, value in PBKDF2["crypto"].items() if key != name}
    path = private(tmp_path / "keystore", json.dumps({**PBKDF2, "crypto": crypto}))
    assert f"{path} is damaged" in str(refusal(Wallet.from_keystore, path, "testpassword"))


@pytest.mark.parametrize("content", ["", "{", "not JSON", "[" * 5000])
def test_keystore_that_is_no_json_is_refused(tmp_path: Path, content: str) -> None:
    path = private(tmp_path / "keystore", content)
    assert "is not JSON, so it is not a keystore" in str(refusal(Wallet.from_keystore, path, "testpassword"))


def test_environment_names_a_key_file(tmp_path: Path) -> None:
    path = private(tmp_path / "key", KEY)
    assert Wallet.from_env({"CRYNUX_WALLET": f" {path} "}).address == ADDRESS


def test_environment_names_a_keystore_and_the_file_of_its_password(tmp_path: Path, keystore: Path) -> None:
    password = private(tmp_path / "password", "testpassword\n")
    environ = {"CRYNUX_WALLET": str(keystore), "CRYNUX_WALLET_PASSWORD_FILE": str(password)}
    assert Wallet.from_env(environ, ask=never).key.reveal() == STORED_KEY


def test_password_file_that_others_may_read_is_refused(tmp_path: Path, keystore: Path) -> None:
    password = private(tmp_path / "password", "testpassword\n", 0o644)
    environ = {"CRYNUX_WALLET": str(keystore), "CRYNUX_WALLET_PASSWORD_FILE": str(password)}
    assert f"chmod 600 {password}" in str(refusal(Wallet.from_env, environ))


def test_password_keeps_its_spaces(tmp_path: Path, keystore: Path) -> None:
    password = private(tmp_path / "password", " testpassword\n")
    environ = {"CRYNUX_WALLET": str(keystore), "CRYNUX_WALLET_PASSWORD_FILE": str(password)}
    assert refusal(Wallet.from_env, environ).field == "password"


def test_password_is_asked_for_where_somebody_can_be_asked(keystore: Path) -> None:
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "testpassword"

    assert Wallet.from_env({"CRYNUX_WALLET": str(keystore)}, ask=answer).key.reveal() == STORED_KEY
    assert asked == [f"Password of {keystore}: "]


def test_terminal_is_asked_where_there_is_one(keystore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(getpass, "getpass", lambda question: "testpassword")
    assert Wallet.from_env({"CRYNUX_WALLET": str(keystore)}).key.reveal() == STORED_KEY


def test_keystore_without_a_password_is_refused_where_nobody_can_be_asked(
    keystore: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert refusal(Wallet.from_env, {"CRYNUX_WALLET": str(keystore)}).field == "CRYNUX_WALLET_PASSWORD_FILE"


@pytest.mark.parametrize("environ", [{}, {"CRYNUX_WALLET": " "}])
def test_environment_without_a_wallet_is_refused_by_the_name_of_the_variable(environ: dict[str, str]) -> None:
    assert refusal(Wallet.from_env, environ).field == "CRYNUX_WALLET"


@pytest.mark.parametrize("key", [KEY, f"0x{KEY}", KEY.upper()])
def test_key_in_place_of_a_path_is_refused_and_not_repeated(key: str) -> None:
    error = refusal(Wallet.from_env, {"CRYNUX_WALLET": key})
    assert "write the key to a file of mode 0600 instead" in str(error)
    assert KEY[:32] not in "".join(traceback.format_exception(error)).lower()


@pytest.mark.parametrize("key", [KEY, f"0x{KEY}", KEY[:-1], "test test test test test junk"])
def test_secret_in_place_of_a_path_is_not_repeated(key: str) -> None:
    for error in (
        refusal(Wallet.from_env, {"CRYNUX_WALLET": f"{key} x"}),
        refusal(Wallet.from_file, key),
        refusal(Wallet.from_keystore, key, "x"),
    ):
        assert "it may be the secret itself" in str(error)
        assert key not in "".join(traceback.format_exception(error))


def test_password_in_place_of_its_path_is_not_repeated(keystore: Path) -> None:
    environ = {"CRYNUX_WALLET": str(keystore), "CRYNUX_WALLET_PASSWORD_FILE": "hunter/2."}
    error = refusal(Wallet.from_env, environ)
    assert error.field == "password"
    assert "hunter" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("path", ["wallet.json", "keys/wallet", "/nowhere"])
def test_path_of_a_file_that_is_not_there_is_shown(path: str) -> None:
    assert f"{path} cannot be read" in str(refusal(Wallet.from_env, {"CRYNUX_WALLET": path}))


@pytest.mark.parametrize("text", [KEY, json.dumps(PBKDF2)], ids=["key", "keystore"])
def test_wallet_from_a_pipe_is_read_once(text: str) -> None:
    reader, writer = os.pipe()  # as a shell's <(...)
    os.write(writer, text.encode())
    os.close(writer)
    try:
        wallet = Wallet.from_env({"CRYNUX_WALLET": f"/dev/fd/{reader}"}, ask=lambda _: "testpassword")
    finally:
        os.close(reader)
    assert wallet.key.reveal() in (KEY, STORED_KEY)


def test_end_of_input_in_place_of_a_password_is_refused(keystore: Path) -> None:
    def ended(_: str) -> str:
        raise EOFError

    with pytest.raises(SettingsError, match="was asked for, and none was given"):
        Wallet.from_env({"CRYNUX_WALLET": str(keystore)}, ask=ended)


def test_missing_library_is_named_by_its_extra(keystore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eth_keyfile.keyfile", None)
    with pytest.raises(UsageError, match=r"pip install 'crynux-async\[wallet\]'"):
        Wallet.from_keystore(keystore, "testpassword")


def never(question: str) -> NoReturn:
    raise AssertionError(f"asked {question!r}")


def test_reading_a_keystore_leaves_the_recursion_limit_of_the_process_alone(tmp_path: Path) -> None:
    # In a process of its own: a library that was imported before raises nothing any more.
    program = (
        "import sys; from crynux_async.signing import key_files; limit = sys.getrecursionlimit(); "
        "key_files._keystore_decoder(); sys.exit(sys.getrecursionlimit() != limit)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
