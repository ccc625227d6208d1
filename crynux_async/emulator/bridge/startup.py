"""How the bridge starts: what it reads and checks, in which order, and with which words it gives up.

Source: crynux-bridge main.go, config/config.go, config/private_key.go, config/heartbeat_tasks_file.go, config/db.go,
relay/relay_task.go (CheckBalanceForTaskCreator).
"""

import asyncio
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import attrs

from crynux_async.emulator.signatures import address_of, signed_proof

WEI = 10**18

_LEAST_CNX = 500
_DIAL_WAIT = 5.0
_HEX_KEY = re.compile("[0-9a-fA-F]{64}", re.ASCII)
_MYSQL_HOST = re.compile(r"@(?:tcp)?\(([^():]+)(?::(\d+))?\)")
_GO_TRACE = """
goroutine 1 [running]:
crynux_bridge/config.GetPrivateKey({{{}}})
\t/crynux_bridge/config/private_key.go:21 +0xa5
crynux_bridge/config.InitConfig({{0x0, 0x0}})
\t/crynux_bridge/config/config.go:59 +0x3c5
main.main()
\t/crynux_bridge/main.go:17 +0x2f
"""


class StartError(Exception):
    """The bridge gives up while it starts.

    Attributes:
        exit_code: What it exits with.
        text: What it says.
        is_logged: Whether it says that through its log, and not on standard error.
    """

    def __init__(self, exit_code: int, text: str, *, is_logged: bool = False) -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.text = text
        self.is_logged = is_logged


@attrs.frozen(kw_only=True)
class StartConfig:
    """What the bridge's config decides.

    Attributes:
        folder: The folder that the bridge is started in.
        values: The config, nested as in the file.
        secret_key: The wallet's key, 32 bytes.
    """

    folder: Path
    values: Mapping[str, Any] = attrs.field(repr=False)
    secret_key: bytes = attrs.field(repr=False)

    def text(self, name: str) -> str:
        """Return the value with a dotted name as text, or "" where there is none."""
        return _text(self.values, name)

    @property
    def log_file(self) -> Path | None:
        """Where the log goes besides standard output, or None."""
        output = self.text("log.output")
        return self.folder / output if output not in ("", "stdout", "stderr") else None


def read_config(folder: Path) -> StartConfig:
    """Read config, heartbeat tasks and key as the bridge does.

    Raises:
        StartError: One of them is missing or wrong.
    """
    import yaml

    folder = folder.absolute()
    path = folder / "config" / "config.yml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        places = f'"[/app/config {folder / "config"}]"'
        # The bridge puts the two texts together without a space.
        raise StartError(1, f'Error reading config fileConfig File "config" Not Found in {places}') from None
    except (OSError, yaml.YAMLError) as error:
        raise StartError(1, f"Error reading config fileWhile parsing config: yaml: {error}") from error
    if not isinstance(values, Mapping):
        raise StartError(1, "Error reading config fileWhile parsing config: yaml: no mapping")
    _read_tasks(path.parent, values)
    if not (_text(values, "http.max_body_bytes").isdigit() and int(_text(values, "http.max_body_bytes")) > 0):
        raise StartError(1, "Error reading config filehttp.max_body_bytes must be set to a positive value")
    return StartConfig(folder=folder, values=values, secret_key=_read_key(folder, values))


def _read_tasks(folder: Path, values: Mapping[str, Any]) -> None:
    name = _text(values, "task.heartbeat_tasks.tasks_file").strip() or "heartbeat_tasks.json"
    path = folder / name
    prefix = "Error reading config filetask.heartbeat_tasks.tasks_file:"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartError(1, f"{prefix} read {path}: open {path}: {_go_reason(error)}") from error
    except ValueError as error:
        raise StartError(1, f"{prefix} parse {path}: {error}") from error
    if not isinstance(document, Mapping):
        raise StartError(1, f"{prefix} parse {path}: json: cannot unmarshal array into Go value of type struct")


def _read_key(folder: Path, values: Mapping[str, Any]) -> bytes:
    said = _text(values, "blockchain.account.private_key_file")
    try:
        text = (folder / said).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StartError(
            2, f"panic: open {said}: {_go_reason(error)}\n{_GO_TRACE.format('0xc0001a2b40, 0x14')}"
        ) from error
    digits = text[2:] if text[:2] in ("0x", "0X") else text
    prefix = "Error reading config file"
    if not digits:
        raise StartError(1, f"{prefix}application account private key not set")
    address = _text(values, "blockchain.account.address")
    if not address:
        raise StartError(1, f"{prefix}application account address not set")
    if not _HEX_KEY.fullmatch(digits):
        raise StartError(1, f"{prefix}invalid hex data for private key")
    derived = address_of(bytes.fromhex(digits))
    if derived != address:
        said = f"Account address: {address}\nPrivate key derived address: {derived}\n"
        raise StartError(1, f"{prefix}account address and private key mismatch.\n{said}")
    return bytes.fromhex(digits)


async def check_surroundings(config: StartConfig, pretended_wei: int | None) -> int:
    """Look for database and relay as the bridge does, delete the key file, and return the balance in wei.

    Args:
        config: The config.
        pretended_wei: What the account is said to hold where the relay is not on this machine; None asks any relay.

    Raises:
        StartError: The bridge would not start.
    """
    await _check_database(config)
    wei = await _balance(config, pretended_wei)
    if wei <= _LEAST_CNX * WEI:
        raise StartError(1, "not enough relay account balance", is_logged=True)
    # After every check: a start that fails keeps the file.
    said = config.text("blockchain.account.private_key_file")
    try:
        await asyncio.to_thread(os.remove, config.folder / said)
    except OSError as error:
        text = f"delete blockchain private key file {said}: remove {said}: {_go_reason(error)}"
        raise StartError(1, text, is_logged=True) from error
    return wei


async def _check_database(config: StartConfig) -> None:
    driver, connection = config.text("db.driver"), config.text("db.connection")
    if driver == "sqlite":
        file = config.folder / connection.partition("?")[0].removeprefix("file:")
        if not await asyncio.to_thread(os.access, file.parent, os.W_OK):
            raise _no_database("unable to open database file: no such file or directory")
        return
    if driver not in ("mysql", "postgres"):
        raise StartError(1, "DB not supported", is_logged=True)
    match = _MYSQL_HOST.search(connection)
    host, port = (match[1], int(match[2] or "3306")) if match else ("127.0.0.1", 3306)
    try:
        async with asyncio.timeout(_DIAL_WAIT):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as error:  # a TimeoutError is one, too
        raise _no_database(f"dial tcp {host}:{port}: connect: {_go_reason(error)}") from error
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _no_database(reason: str) -> StartError:
    return StartError(1, f"InitDB Failed:{reason}", is_logged=True)


async def _balance(config: StartConfig, pretended_wei: int | None) -> int:
    """Ask the relay, if it is on this machine: an emulator has no business with the real ones."""
    relay = config.text("relay.base_url").rstrip("/")
    is_near = (urlsplit(relay).hostname or "") in ("127.0.0.1", "localhost", "::1")
    if pretended_wei is not None and not is_near:
        return pretended_wei
    address = config.text("blockchain.account.address")
    proof = signed_proof({"address": address}, int(time.time()), config.secret_key)
    url = f"{relay}/v2/relay_account/{address}/balance"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_DIAL_WAIT)) as http,
            http.get(url, params=proof) as response,
        ):
            document = await response.json(content_type=None)
            reason = f"response status code is {response.status}"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        host = urlsplit(relay).netloc
        reason = f'Get "{url}": dial tcp {host}: connect: {_go_reason(cause)}'
        document = None
    data = document.get("data") if isinstance(document, Mapping) else None
    if isinstance(data, str) and data.isdigit():
        return int(data)
    text = f"Relay: CheckBalanceForTaskCreator failed to fetch relay account balance: {reason}"
    raise StartError(1, text, is_logged=True)


def say(config: StartConfig | None, error: StartError) -> None:
    """Write the last words of the bridge where it writes them: its log, or standard error."""
    if not error.is_logged or config is None:
        sys.stderr.write(error.text)
        sys.stderr.flush()
        return
    log(config, "fatal", error.text)


def log(config: StartConfig, level: Literal["info", "fatal"], message: str) -> None:
    """Write a line as the bridge's log does: to standard output, and to its file where it has one."""
    at = datetime.now().astimezone().isoformat(timespec="seconds")
    line = f'time="{at}" level={level} msg={json.dumps(message)} func=main.main file="/crynux_bridge/main.go:40"\n'
    sys.stdout.write(line)
    sys.stdout.flush()
    if config.log_file is not None:
        config.log_file.parent.mkdir(parents=True, exist_ok=True)
        with config.log_file.open("a", encoding="utf-8") as file:
            file.write(line)


def _text(values: Mapping[str, Any], name: str) -> str:
    value: Any = values
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return "" if value is None else str(value)


def _go_reason(error: BaseException | None) -> str:
    """Return the words in which Go says an error of the system."""
    if isinstance(error, TimeoutError):
        return "i/o timeout"
    reason = getattr(error, "strerror", None) or str(error)
    if "onnect call failed" in reason:  # asyncio puts its own words in the place of the system's
        return "connection refused"
    return reason[:1].lower() + reason[1:]
