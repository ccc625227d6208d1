"""The emulated bridge's start: the eight failures of the real one, word for word, with its exit codes."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from crynux_async.emulator.bridge import startup
from crynux_async.emulator.bridge.startup import WEI, StartError, check_surroundings, read_config
from tests.bridge_folders import free_port
from tests.signing.vectors import ADDRESS, KEY

pytestmark = pytest.mark.real_time


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder by hand, as the bridge's own template has it."""
    (tmp_path / "config").mkdir()
    (tmp_path / "data").mkdir()
    write(tmp_path, CONFIG)
    (tmp_path / "config" / "heartbeat_tasks.json").write_text('{"tasks": []}')
    (tmp_path / "config" / "priv_key.txt").write_text(f"0x{KEY}\n")
    return tmp_path


CONFIG: dict[str, Any] = {
    "db": {"driver": "sqlite", "connection": "data/bridge.db?_busy_timeout=1"},
    "log": {"output": "data/logs/bridge.log"},
    "http": {"host": "127.0.0.1", "port": "5028", "max_body_bytes": 2097152},
    "blockchain": {"account": {"address": ADDRESS, "private_key_file": "config/priv_key.txt"}},
    "relay": {"base_url": "https://relay.crynux.io"},
    "task": {"heartbeat_tasks": {"tasks_file": "heartbeat_tasks.json"}},
}


def write(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config" / "config.yml").write_text(yaml.safe_dump(config))


def refusal(folder: Path) -> StartError:
    with pytest.raises(StartError) as caught:
        read_config(folder)
    return caught.value


async def outside_refusal(folder: Path, *, wei: int | None = 1000 * WEI) -> StartError:
    with pytest.raises(StartError) as caught:
        await check_surroundings(read_config(folder), wei)
    return caught.value


def test_config_that_is_not_there(folder: Path) -> None:
    (folder / "config" / "config.yml").unlink()
    error = refusal(folder)
    assert (error.exit_code, error.is_logged) == (1, False)
    assert error.text.startswith('Error reading config fileConfig File "config" Not Found in "[')


def test_heartbeat_tasks_that_are_not_there(folder: Path) -> None:
    (folder / "config" / "heartbeat_tasks.json").unlink()
    error = refusal(folder)
    assert (error.exit_code, error.is_logged) == (1, False)
    path = folder / "config" / "heartbeat_tasks.json"
    assert error.text.startswith(f"Error reading config filetask.heartbeat_tasks.tasks_file: read {path}: ")
    assert error.text.endswith("no such file or directory")


def test_key_file_that_is_not_there_is_a_panic(folder: Path) -> None:
    (folder / "config" / "priv_key.txt").unlink()
    error = refusal(folder)
    assert (error.exit_code, error.is_logged) == (2, False)
    assert error.text.startswith("panic: open config/priv_key.txt: no such file or directory\n\ngoroutine 1 [running]:")
    assert "config.GetPrivateKey" in error.text


@pytest.mark.parametrize("address", [ADDRESS.lower(), "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"])
def test_address_of_another_key_or_in_another_letter_case(folder: Path, address: str) -> None:
    write(folder, {**CONFIG, "blockchain": {"account": {**CONFIG["blockchain"]["account"], "address": address}}})
    error = refusal(folder)
    assert (error.exit_code, error.is_logged) == (1, False)
    assert error.text == (
        "Error reading config fileaccount address and private key mismatch.\n"
        f"Account address: {address}\nPrivate key derived address: {ADDRESS}\n"
    )


@pytest.mark.parametrize("text", [KEY, f"0x{KEY}", f"0X{KEY}", f"  {KEY}\n"])
def test_key_may_have_a_prefix_and_space_around_it(folder: Path, text: str) -> None:
    (folder / "config" / "priv_key.txt").write_text(text)
    assert read_config(folder).secret_key.hex() == KEY


def test_body_limit_is_needed(folder: Path) -> None:
    write(folder, {**CONFIG, "http": {"host": "127.0.0.1", "port": "5028"}})
    assert refusal(folder).text.endswith("http.max_body_bytes must be set to a positive value")


async def test_key_file_is_deleted_at_a_good_start_and_not_before(folder: Path) -> None:
    config = read_config(folder)
    assert (folder / "config" / "priv_key.txt").exists()
    assert await check_surroundings(config, 1000 * WEI) == 1000 * WEI
    assert not (folder / "config" / "priv_key.txt").exists()


async def test_key_file_on_a_read_only_mount(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(startup.os, "remove", refuse)
    error = await outside_refusal(folder)
    assert (error.exit_code, error.is_logged) == (1, True)
    assert error.text == (
        "delete blockchain private key file config/priv_key.txt: remove config/priv_key.txt: read-only file system"
    )


@pytest.mark.parametrize("wei", [0, 500 * WEI])
async def test_balance_of_500_or_less_keeps_the_key_file(folder: Path, wei: int) -> None:
    error = await outside_refusal(folder, wei=wei)
    assert (error.exit_code, error.is_logged, error.text) == (1, True, "not enough relay account balance")
    assert (folder / "config" / "priv_key.txt").exists()


async def test_balance_of_a_wei_more_is_enough(folder: Path) -> None:
    assert await check_surroundings(read_config(folder), 500 * WEI + 1) == 500 * WEI + 1


async def test_relay_that_is_away(folder: Path) -> None:
    port = free_port()
    write(folder, {**CONFIG, "relay": {"base_url": f"http://127.0.0.1:{port}"}})
    error = await outside_refusal(folder)
    assert (error.exit_code, error.is_logged) == (1, True)
    assert error.text.startswith(
        f'Relay: CheckBalanceForTaskCreator failed to fetch relay account balance: Get "http://127.0.0.1:{port}/'
    )
    assert error.text.endswith(f"dial tcp 127.0.0.1:{port}: connect: connection refused")


@pytest.mark.parametrize("form", ["u:p@(127.0.0.1:{})/db?parseTime=true", "u:p@tcp(127.0.0.1:{})/db"])
async def test_database_that_is_away(folder: Path, form: str) -> None:
    port = free_port()
    write(folder, {**CONFIG, "db": {"driver": "mysql", "connection": form.format(port)}})
    error = await outside_refusal(folder)
    assert (error.exit_code, error.is_logged) == (1, True)
    assert error.text == f"InitDB Failed:dial tcp 127.0.0.1:{port}: connect: connection refused"


async def test_database_without_its_folder_or_of_another_kind(folder: Path) -> None:
    write(folder, {**CONFIG, "db": {"driver": "sqlite", "connection": "nowhere/bridge.db"}})
    assert (await outside_refusal(folder)).text.startswith("InitDB Failed:unable to open database file")
    write(folder, {**CONFIG, "db": {"driver": "oracle", "connection": "x"}})
    assert (await outside_refusal(folder)).text == "DB not supported"
    # The database comes before the relay and the money.
    assert (await outside_refusal(folder, wei=0)).text == "DB not supported"


def test_last_words_go_to_the_log_and_its_file_or_to_standard_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config(folder)
    startup.say(config, StartError(1, 'a "quoted" word', is_logged=True))
    out, err = capsys.readouterr()
    assert ' level=fatal msg="a \\"quoted\\" word" ' in out
    assert err == ""
    assert (folder / "data" / "logs" / "bridge.log").read_text() == out
    startup.say(None, StartError(2, "panic: x"))
    assert capsys.readouterr() == ("", "panic: x")
