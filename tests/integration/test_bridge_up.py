"""``bridge up`` and ``doctor`` on the emulated program: what is left on the disk, and what is said of each failure."""

import asyncio
import json
import math
import os
import signal
import stat
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import pytest

from crynux_async.backends.bridge.admin import BridgeAdmin
from crynux_async.backends.bridge.admin_wire import NodeCount, RelayAccount, TaskCount
from crynux_async.backends.bridge.deploy_defaults import DEFAULT_IMAGE
from crynux_async.backends.bridge.deploy_log import explain
from crynux_async.cli import bridge, bridge_keys, bridge_up
from crynux_async.cli.bridge_folder import is_port_taken, open_folder, sole_command
from crynux_async.cli.bridge_process import ProgramRun
from crynux_async.cli.exits import Exit
from crynux_async.cli.process_table import boot, started
from crynux_async.cli.settings_file import settings_in
from crynux_async.emulator.relay import CNX, RelayEmulator
from crynux_async.errors import SettingsError, UnreachableError, UsageError
from crynux_async.ledgers import open_ledger
from crynux_async.settings import Settings
from tests.bridge_folders import edit_config, free_port, messages, new_bridge, newcomer, program, start
from tests.signing.vectors import ADDRESS, KEY

pytestmark = pytest.mark.real_time


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with a wallet and nothing else."""
    return newcomer(tmp_path, monkeypatch)


@pytest.fixture
def folder(home: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Path]:
    path = new_bridge(home)
    capsys.readouterr()
    yield path
    ProgramRun(path).stop()


async def up(folder: Path, script: Path) -> Exit:
    return await bridge_up.up(folder, script, 30, 30.0, as_json=False)


async def failure(folder: Path, *options: str) -> str:
    with pytest.raises((UsageError, UnreachableError)) as caught:
        await up(folder, program(folder.parent, *options))
    assert not (folder / "config" / "priv_key.txt").exists()
    assert not ProgramRun(folder).is_running()
    return str(caught.value)


def modes(folder: Path) -> dict[str, int]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in files}


def test_init_writes_the_needed_files_alone_and_says_what_is_open(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = os.umask(0)
    try:
        bridge.init(home / "b", "staging", DEFAULT_IMAGE, 5028, "sqlite", as_json=False)
    finally:
        os.umask(old)
    assert modes(home / "b") == {
        "config/config.yml": 0o600,
        "config/heartbeat_tasks.json": 0o644,
        "docker-compose.yml": 0o600,
    }
    assert stat.S_IMODE((home / "b" / "config").stat().st_mode) == 0o700
    out = " ".join(capsys.readouterr().out.split())
    for words in (ADDRESS, "more than 500 CNX", "POST /v1/inference_tasks needs no key", "staging is for trying"):
        assert words in out
    assert KEY not in out + "".join(path.read_text() for path in (home / "b").rglob("*") if path.is_file())


def test_init_replaces_nothing(folder: Path) -> None:
    before = (folder / "config" / "config.yml").read_text()
    with pytest.raises(UsageError, match=r"has config/config\.yml, .* already, and nothing of it is replaced"):
        bridge.init(folder, "mainnet", DEFAULT_IMAGE, 5028, "sqlite", as_json=False)
    assert (folder / "config" / "config.yml").read_text() == before


def test_init_of_a_folder_that_has_files_asks_for_no_password(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge.Wallet, "from_env", lambda: pytest.fail("asked for the wallet"))
    with pytest.raises(UsageError, match="already, and nothing of it is replaced"):
        bridge.init(folder, "mainnet", DEFAULT_IMAGE, 5028, "sqlite", as_json=False)


def test_init_without_a_wallet_names_the_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRYNUX_WALLET")
    with pytest.raises(SettingsError, match="CRYNUX_WALLET: must be the path of a keystore"):
        bridge.init(home / "b", "mainnet", DEFAULT_IMAGE, 5028, "sqlite", as_json=False)
    assert not (home / "b").exists()


async def test_up_leaves_a_ready_key_and_no_wallet_key(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await up(folder, program(home)) == Exit.DONE
    settings = Settings.load()
    assert settings.base_url == open_folder(folder).config.base_url
    assert settings.rate_limit == 30
    (key,) = BridgeAdmin(settings.base_url, None, keys=folder / "keys.json").list_keys()
    assert (key.api_key, key.is_ready) == (settings.api_key, True)
    assert not (folder / "config" / "priv_key.txt").exists()
    assert stat.S_IMODE((home / "home/.config/crynux-async/settings.toml").stat().st_mode) == 0o600
    out = capsys.readouterr().out
    assert key.api_key.reveal() not in out
    assert key.prefix in out
    assert modes(folder)["keys.json"] == 0o600


async def test_up_after_a_reboot_uses_the_same_key(home: Path, folder: Path) -> None:
    script = program(home)
    await up(folder, script)
    first = Settings.load().api_key
    assert ProgramRun(folder).stop()
    assert not ProgramRun(folder).is_running()
    await up(folder, script)
    assert Settings.load().api_key == first


async def test_up_while_it_runs_starts_nothing(home: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = program(home)
    await up(folder, script)
    pid = (folder / "data" / "bridge.pid").read_text()
    await up(folder, script)
    assert (folder / "data" / "bridge.pid").read_text() == pid
    assert "runs already" in capsys.readouterr().out


async def test_key_that_the_bridge_forgot_is_replaced(home: Path, folder: Path) -> None:
    script = program(home)
    await up(folder, script)
    first = Settings.load().api_key
    ProgramRun(folder).stop()
    for path in (folder / "data" / "emulator").glob("*.jsonl"):
        path.unlink()
    await up(folder, script)
    assert Settings.load().api_key != first


async def test_settings_of_another_bridge_are_left_alone(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = home / "home/.config/crynux-async/settings.toml"
    own.parent.mkdir(parents=True)
    own.write_text('api_key = "q3hXHA_8O0LuGJ1_tou4_KamMlQqAo-aYwyAIDttdmI="\n')
    await up(folder, program(home))
    assert "base_url" not in settings_in(own)
    assert settings_in(folder / "settings.toml")["base_url"] == open_folder(folder).config.base_url
    assert f"export CRYNUX_SETTINGS={folder / 'settings.toml'}" in capsys.readouterr().out


async def test_variables_that_hide_the_settings_are_named(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYNUX_API_KEY", "q3hXHA_8O0LuGJ1_tou4_KamMlQqAo-aYwyAIDttdmI=")
    await up(folder, program(home))
    assert "unset CRYNUX_API_KEY" in capsys.readouterr().out


async def test_program_outside_a_container_listens_on_this_machine_alone(home: Path, folder: Path) -> None:
    edit_config(folder, http={"host": "0.0.0.0"})
    await up(folder, program(home))
    assert open_folder(folder).config.host == "127.0.0.1"


async def test_up_without_its_heartbeat_tasks(folder: Path) -> None:
    (folder / "config" / "heartbeat_tasks.json").unlink()
    assert "does not start without config/heartbeat_tasks.json" in await failure(folder)


async def test_up_with_too_little_money(folder: Path) -> None:
    assert "holds 500 CNX or less" in await failure(folder, "--balance", "500")


async def test_up_without_its_relay(folder: Path) -> None:
    edit_config(folder, relay={"base_url": f"http://127.0.0.1:{free_port()}"})
    assert "could not ask the relay" in await failure(folder)


async def test_up_without_its_database(folder: Path) -> None:
    edit_config(folder, db={"driver": "mysql", "connection": f"u:p@(127.0.0.1:{free_port()})/x"})
    assert "cannot reach its database" in await failure(folder)


@pytest.mark.parametrize("address", [ADDRESS.lower(), "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"])
async def test_up_with_another_address_starts_nothing(folder: Path, address: str) -> None:
    edit_config(folder, blockchain={"account": {"address": address, "private_key_file": "config/priv_key.txt"}})
    said = await failure(folder)
    assert address in said
    assert not (folder / "data" / "logs" / "output.log").exists()


async def test_up_without_its_config(folder: Path) -> None:
    (folder / "config" / "config.yml").unlink()
    assert "make the bridge's folder with 'crynux-async bridge init" in await failure(folder)


async def test_up_on_a_port_that_is_taken_starts_nothing(home: Path, folder: Path) -> None:
    other = home / "other"
    bridge.init(other, "mainnet", DEFAULT_IMAGE, open_folder(folder).config.port, "sqlite", as_json=False)
    await up(other, program(home))
    try:
        assert "Another program listens on port" in await failure(folder)
    finally:
        ProgramRun(other).stop()


async def test_up_with_a_program_that_only_ends_shows_its_last_words(home: Path, folder: Path) -> None:
    script = home / "broken"
    script.write_text("#!/bin/sh\necho something new >&2\nexit 3\n")
    script.chmod(0o755)
    with pytest.raises(UnreachableError, match=r"\(exit code 3\)\nsomething new"):
        await up(folder, script)
    assert not (folder / "config" / "priv_key.txt").exists()


async def test_up_with_a_program_that_never_answers_stops_it(home: Path, folder: Path) -> None:
    script = home / "silent"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    with pytest.raises(UnreachableError, match=r"did not answer within 0\.5 s"):
        await bridge_up.up(folder, script, 30, 0.5, as_json=False)
    assert not (folder / "config" / "priv_key.txt").exists()
    assert not ProgramRun(folder).is_running()


async def test_up_with_a_program_that_is_not_there(folder: Path) -> None:
    with pytest.raises(UsageError, match="cannot be started: No such file"):
        await up(folder, folder / "nowhere")
    assert not (folder / "config" / "priv_key.txt").exists()


def test_start_by_hand_after_the_key_file_is_gone_is_a_panic_that_logs_explain(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = start(program(home), folder)
    assert done.returncode == 2
    (known,) = explain(done.stderr)
    assert known.name == "no key file"
    (folder / "data" / "logs" / "output.log").write_text(done.stderr)
    bridge_up.logs(folder, 40)
    out = " ".join(capsys.readouterr().out.split())
    assert "config.GetPrivateKey" in out
    assert known.sentence in out
    assert known.cure.partition("FOLDER")[0] in out
    assert "FOLDER" not in out


def test_start_by_hand_with_too_little_money_keeps_the_key_file(home: Path, folder: Path) -> None:
    (folder / "config" / "priv_key.txt").write_text(KEY)
    done = start(program(home, "--balance", "1"), folder)
    assert (done.returncode, messages(done.stdout)) == (1, ["not enough relay account balance"])
    assert (folder / "config" / "priv_key.txt").exists()


async def make_ledger(path: Path) -> None:
    ledger = open_ledger(path)
    await ledger.open()
    await ledger.close()


async def findings(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, list[tuple[str, str]]]:
    capsys.readouterr()
    await bridge.doctor(folder, as_program=True, as_json=True)
    found: dict[str, list[tuple[str, str]]] = {}
    for finding in json.loads(capsys.readouterr().out):
        found.setdefault(finding["what"], []).append((finding["verdict"], finding["sentence"]))
    return found


async def test_doctor_finds_what_would_keep_the_bridge_from_starting(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config" / "heartbeat_tasks.json").unlink()
    (folder / "config" / "priv_key.txt").write_text(KEY)
    (folder / "config" / "config.yml").chmod(0o644)
    edit_config(
        folder,
        http={"host": "0.0.0.0"},
        blockchain={"account": {"address": ADDRESS.lower(), "private_key_file": "config/priv_key.txt"}},
        db={"driver": "mysql", "connection": f"u:p@(127.0.0.1:{free_port()})/x"},
        relay={"base_url": f"http://127.0.0.1:{free_port()}"},
    )
    found = await findings(folder, capsys)
    problems = {what for what, said in found.items() if any(verdict == "problem" for verdict, _ in said)}
    assert problems == {"files", "key file", "address", "relay", "database", "exposure"}
    assert KEY not in json.dumps(found)


async def test_doctor_names_the_command_for_keys_that_others_can_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "keys.json").write_text('{"version": 1, "keys": []}')
    (folder / "keys.json").chmod(0o644)
    await bridge.doctor(folder, as_program=True, as_json=True)
    cures = [finding["cure"] for finding in json.loads(capsys.readouterr().out)]
    assert f"chmod 600 {folder}/keys.json" in cures


async def test_doctor_without_a_config_says_init(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await bridge.doctor(home / "nothing", as_program=True, as_json=False) == Exit.USAGE
    assert "crynux-async bridge init" in capsys.readouterr().out


async def test_status_and_keys_show_money_and_prefixes(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await up(folder, program(home))
    key = Settings.load().api_key
    assert key is not None
    prefix = key.reveal()[:8]
    capsys.readouterr()
    await bridge.status(folder, as_json=False)
    await bridge_keys.limits(folder, prefix, 90, None)
    bridge_keys.list_keys(folder)
    await make_ledger(home / "jobs.db")
    await bridge_keys.rotate(folder, prefix, None)
    out = capsys.readouterr().out
    assert "24 hours  1 task: 0 succeeded, 1 failed or refused, 0 unfinished" in out
    assert "Each new key makes one that is refused" in out
    assert "1,000.00 CNX, which pays for 66 rounds at 15 CNX" in out
    assert f"{prefix}...  90 creates a minute" in out
    assert f"{prefix}... is deleted" in out
    assert key.reveal() not in out
    await bridge_keys.create(folder, 5, -1, as_json=True)
    made = json.loads(capsys.readouterr().out)["api_key"]
    with pytest.raises(UsageError, match="0 keys begin with 'zzzz'"):
        await bridge_keys.delete(folder, "zzzz", force=False, ledger=None)
    await bridge_keys.delete(folder, made[:10], force=False, ledger=None)
    assert bridge_up.down(folder) == Exit.DONE
    cure = f"cannot be reached.*start it with 'crynux-async bridge up {folder}'; 'crynux-async bridge logs {folder}'"
    with pytest.raises(UnreachableError, match=cure):
        await bridge.status(folder, as_json=False)
    with pytest.raises(UnreachableError, match=cure):
        await bridge_keys.create(folder, 5, -1, as_json=True)


@pytest.mark.parametrize("patience", [0.0, -1.0, math.nan, math.inf])
async def test_patience_that_is_no_time_to_wait_starts_nothing(home: Path, patience: float) -> None:
    folder = new_bridge(home)
    with pytest.raises(UsageError, match="--patience is a number of seconds, > 0") as caught:
        await bridge_up.up(folder, program(home), 60, patience, as_json=False)
    assert caught.value.field == "patience"
    assert not (folder / "data/bridge.pid").exists()


@pytest.mark.parametrize(("balance", "verdict"), [(1234, "good"), (500, "problem")])
async def test_doctor_and_the_program_ask_the_same_relay_with_a_signature(
    home: Path, capsys: pytest.CaptureFixture[str], balance: int, verdict: str
) -> None:
    async with RelayEmulator(nodes=0) as relay:
        wallet = home / "wallet.key"
        wallet.write_text(relay.new_wallet(balance=balance * CNX))
        folder = home / "bridge"
        bridge.init(folder, relay.url, DEFAULT_IMAGE, free_port(), "sqlite", as_json=False)
        found = await findings(folder, capsys)
        assert [said for said, _ in found["relay"] + found["clock"]] == ["good", "good"]
        assert found["balance"][0][0] == verdict
        assert f"{balance:,}.00 CNX" in found["balance"][0][1]
        if verdict == "problem":
            assert "holds 500 CNX or less" in await failure(folder)
            return
        try:
            await up(folder, program(home))
            capsys.readouterr()
            await bridge.status(folder, as_json=True)
            assert json.loads(capsys.readouterr().out)["wei"] == balance * CNX
        finally:
            ProgramRun(folder).stop()


async def test_wallet_that_lies_where_the_bridge_deletes_its_key_file_is_neither_used_nor_removed(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = folder / "config" / "priv_key.txt"
    wallet = Path(os.environ["CRYNUX_WALLET"])
    os.rename(wallet, place)
    monkeypatch.setenv("CRYNUX_WALLET", str(place))
    key = place.read_bytes()
    with pytest.raises(UsageError, match="CRYNUX_WALLET"):
        await up(folder, program(home))
    assert place.read_bytes() == key
    assert bridge_up.down(folder) is Exit.DONE
    assert place.read_bytes() == key
    found = await findings(folder, capsys)
    assert [said for said in found["key file"] if "is your wallet" in said[1]] == found["key file"]
    assert place.read_bytes() == key


async def test_key_of_another_wallet_where_the_key_file_belongs_is_not_lost(home: Path, folder: Path) -> None:
    place = folder / "config" / "priv_key.txt"
    place.write_text("0x" + "1".rjust(64, "0") + "\n")
    with pytest.raises(UsageError, match="holds the key of another wallet"):
        await up(folder, program(home))
    bridge_up.down(folder)
    assert place.read_text().endswith("1\n")
    place.write_text(KEY)
    bridge_up.down(folder)
    assert not place.exists()


@pytest.mark.parametrize("wallet", [None, "/nowhere/wallet.json"])
def test_key_file_that_may_be_the_only_copy_of_its_key_is_not_removed(
    folder: Path, wallet: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if wallet is None:
        monkeypatch.delenv("CRYNUX_WALLET")
    else:
        monkeypatch.setenv("CRYNUX_WALLET", wallet)
    place = folder / "config" / "priv_key.txt"
    place.write_text(KEY)
    assert bridge_up.down(folder) is Exit.DONE
    assert place.read_text() == KEY
    said = " ".join(capsys.readouterr().out.split())
    assert "priv_key.txt stays: CRYNUX_WALLET names no wallet here" in said


@pytest.mark.parametrize("text", ["", "0" * 64, "\udcff"], ids=["empty", "no key of the curve", "no text"])
async def test_file_without_a_key_where_the_key_file_belongs_is_replaced(home: Path, folder: Path, text: str) -> None:
    place = folder / "config" / "priv_key.txt"
    place.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert await up(folder, program(home)) is Exit.DONE
    assert not place.exists()


async def test_up_keeps_the_settings_own_key_although_another_one_is_newer(home: Path, folder: Path) -> None:
    await up(folder, program(home))
    first = Settings.load().api_key
    await bridge_keys.create(folder, 5, -1, as_json=True)
    await up(folder, program(home))
    assert Settings.load().api_key == first


async def test_up_keeps_a_key_of_the_settings_that_was_made_elsewhere(home: Path, folder: Path) -> None:
    await up(folder, program(home))
    first = Settings.load().api_key
    (folder / "keys.json").unlink()
    await bridge_keys.create(folder, 5, -1, as_json=True)
    await up(folder, program(home))
    assert Settings.load().api_key == first
    assert Settings.load().rate_limit == 30


async def test_up_beside_another_up_or_down_says_so(home: Path, folder: Path) -> None:
    with sole_command(open_folder(folder)):
        with pytest.raises(UsageError, match="another 'bridge up' or 'down' is at work"):
            await up(folder, program(home))
        with pytest.raises(UsageError, match="another 'bridge up' or 'down' is at work"):
            bridge_up.down(folder)
    assert not (folder / "data" / "logs" / "output.log").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_up_that_is_ended_by_a_signal_leaves_neither_key_file_nor_bridge(
    home: Path, folder: Path, number: signal.Signals
) -> None:
    silent = script(home, "echo started; exec sleep 600")
    command = [sys.executable, "-m", "crynux_async.cli", "bridge", "up", str(folder), "--binary", str(silent)]
    process = await asyncio.create_subprocess_exec(*command, stderr=PIPE, stdout=PIPE)
    while "started" not in ProgramRun(folder).output():
        await asyncio.sleep(0.02)
    assert (folder / "config" / "priv_key.txt").exists()
    process.send_signal(number)
    async with asyncio.timeout(30):
        _, err = await process.communicate()
    assert (process.returncode, err) == (128 + number, b"")
    assert not (folder / "config" / "priv_key.txt").exists()
    assert not ProgramRun(folder).is_running()


def script(home: Path, lines: str) -> Path:
    path = home / "a_program"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("how", ["{} & wait", "{} &"])
async def test_down_ends_what_the_program_has_started(home: Path, folder: Path, how: str) -> None:
    await up(folder, script(home, how.format(program(home))))
    port = open_folder(folder).config.port
    assert is_port_taken(port)
    assert ProgramRun(folder).is_running()
    assert bridge_up.down(folder) is Exit.DONE
    assert not is_port_taken(port)


def test_number_that_another_program_has_now_is_left_alone(folder: Path) -> None:
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        (folder / "data" / "bridge.pid").write_text(f"{other.pid} 12345 {boot()}\n")
        assert not ProgramRun(folder).stop()
        (folder / "data" / "bridge.pid").write_text(f"{other.pid} {started(other.pid)} another-boot\n")
        assert not ProgramRun(folder).stop()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("port", [0, -1, 65_536, 99_999])
def test_init_on_a_port_that_is_none_makes_nothing(home: Path, port: int) -> None:
    with pytest.raises(UsageError, match="--port is a number from 1 to 65535") as caught:
        bridge.init(home / "b", "mainnet", DEFAULT_IMAGE, port, "sqlite", as_json=False)
    assert caught.value.field == "port"
    assert not (home / "b").exists()


@pytest.mark.parametrize("name", ["wallet.key", "wallet.key/below"])
def test_init_where_no_folder_can_be_is_said(home: Path, name: str) -> None:
    with pytest.raises(UsageError):
        bridge.init(home / name, "mainnet", DEFAULT_IMAGE, 5028, "sqlite", as_json=False)
    assert (home / "wallet.key").read_text() == KEY


def test_init_that_fails_half_way_leaves_nothing_in_its_way(home: Path) -> None:
    (home / "b").mkdir()
    (home / "b" / "data").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be made"):
        bridge.init(home / "b", "mainnet", DEFAULT_IMAGE, 5028, "sqlite", as_json=False)
    (home / "b" / "data").unlink()
    assert bridge.init(home / "b", "mainnet", DEFAULT_IMAGE, 5028, "sqlite", as_json=False) is Exit.DONE


async def test_doctor_goes_on_where_the_relays_address_is_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_config(folder, relay={"base_url": "foo"})
    found = await findings(folder, capsys)
    assert "The relay foo does not answer: must be an http or https address" in found["relay"][0][1]
    assert {"port", "database", "exposure"} <= set(found)


async def test_doctor_goes_on_where_the_file_of_keys_is_odd(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_folder(folder).keys_file.write_text("{")
    found = await findings(folder, capsys)
    assert any("is not a key file of this library" in sentence for _, sentence in found["keys"])
    assert {"port", "database", "exposure"} <= set(found)


async def test_status_shows_an_address_as_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def account(_: BridgeAdmin) -> RelayAccount:
        return RelayAccount(address="0x[/red][bold]", wei=5)

    async def nodes(_: BridgeAdmin) -> NodeCount:
        return NodeCount(total=1, available=1)

    async def counts(_: BridgeAdmin) -> TaskCount:
        return TaskCount(total=0, succeeded=0, aborted=0, unfinished=0, mean_seconds=0.0)

    for reading in (account, nodes, counts):
        monkeypatch.setattr(BridgeAdmin, reading.__name__, reading)
    await bridge.status(folder, as_json=False)
    out = capsys.readouterr().out
    assert "0x[/red][bold]" in out
    assert f"crynux-async bridge keys create {folder}" in " ".join(out.split())


@pytest.mark.parametrize(
    "compose", ["services: {bridge: text}", "services: [1]", "services: {bridge: {ports: 5}}", "5"]
)
async def test_doctor_goes_on_where_the_compose_file_is_odd(
    folder: Path, capsys: pytest.CaptureFixture[str], compose: str
) -> None:
    (folder / "docker-compose.yml").write_text(compose)
    assert "exposure" in await findings(folder, capsys)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "is not text in UTF-8"),
        (b"a: &a {b: *a}", "holds itself"),
        (b"http: {port: \xc2\xb2}", "must be a port"),
        (b"task: {default_sd_finetune_task_fee_cnx: .inf}", "must be a number >= 0"),
        (b"task: {default_sd_finetune_task_fee_cnx: .nan}", "must be a number >= 0"),
    ],
)
async def test_config_that_is_odd_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str
) -> None:
    (folder / "config" / "config.yml").write_bytes(content)
    assert any(said in sentence for _, sentence in (await findings(folder, capsys))["config"])


@pytest.mark.parametrize(("lines", "shown"), [(1, ["c"]), (2, ["b", "c"]), (0, []), (-1, [])])
def test_logs_show_as_many_lines_as_were_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], lines: int, shown: list[str]
) -> None:
    (folder / "data" / "logs" / "output.log").write_text("a\nb\nc\n")
    bridge_up.logs(folder, lines)
    assert capsys.readouterr().out.split() == shown


@pytest.mark.parametrize("trouble", ["no home", "no toml"])
async def test_up_whose_key_could_be_put_nowhere_starts_nothing(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    if trouble == "no home":
        monkeypatch.setenv("HOME", "")
    else:
        (home / "bad.toml").write_text("api_key = ")
        monkeypatch.setenv("CRYNUX_SETTINGS", str(home / "bad.toml"))
    with pytest.raises((SettingsError, UsageError), match=r"HOME: is empty|bad\.toml cannot be read"):
        await up(folder, program(home))
    assert not (folder / "data" / "logs" / "output.log").exists()
