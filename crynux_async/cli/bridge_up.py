"""``bridge up``, ``down`` and ``logs``: starting a bridge so that it is ready for jobs, and saying why it is not."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from crynux_async.backends.bridge.admin import BridgeAdmin
from crynux_async.backends.bridge.deploy_checks import Verdict, check_address, check_port
from crynux_async.backends.bridge.deploy_config import CONFIG_FILE, KEY_FILE, with_host
from crynux_async.backends.bridge.deploy_files import EVERYWHERE, LOOPBACK
from crynux_async.backends.bridge.deploy_log import explain
from crynux_async.backends.bridge.key_book import BridgeKey
from crynux_async.cli.bridge_folder import BridgeFolder, is_port_taken, open_folder, write_private
from crynux_async.cli.bridge_process import BridgeRun, ContainerRun, ProgramRun, last_run, run_to_start
from crynux_async.cli.exits import Exit
from crynux_async.cli.settings_file import default_settings_file, put_settings, settings_in
from crynux_async.errors import AuthError, BackendError, UnreachableError, UsageError
from crynux_async.signing import Wallet
from crynux_async.signing.key_files import WALLET

_LOOK_EVERY = 0.2
_SHOWN_LINES = 12
_LEAST_LEFT = timedelta(days=30)


async def up(folder: Path, program: Path | None, rate_limit: int, patience: float, *, as_json: bool) -> Exit:
    """Start a bridge, wait until it answers, and make a key that is ready."""
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    bridge, wallet = open_folder(folder), Wallet.from_env()
    finding = check_address(bridge.config, wallet.address)
    if finding.verdict is Verdict.PROBLEM:
        raise UsageError(f"{finding.sentence} {finding.cure}", field="blockchain.account.address")
    run = run_to_start(bridge.path, program)
    if await asyncio.to_thread(run.is_running):
        console.print(f"The bridge runs already, at {bridge.config.base_url}.")
    else:
        await _start(bridge, wallet, run, patience)
        console.print(f"The bridge answers at [bold]{bridge.config.base_url}[/].")
    async with BridgeAdmin(bridge.config.base_url, wallet, keys=bridge.keys_file) as admin:
        key = await _ready_key(admin, rate_limit)
    place = _store(bridge, key)
    if as_json:
        facts = {"base_url": bridge.config.base_url, "key": key.prefix, "settings": str(place)}
        print(json.dumps(facts))  # noqa: T201  # the command's output
    else:
        _conclude(console, key, place)
    return Exit.DONE


async def _start(bridge: BridgeFolder, wallet: Wallet, run: BridgeRun, patience: float) -> None:
    """Start a bridge with a key file that lies there no longer than the start takes."""
    taken = await asyncio.to_thread(is_port_taken, bridge.config.port)
    finding = check_port(bridge.config, is_taken=taken, is_running=False)
    if finding.verdict is Verdict.PROBLEM:
        raise UsageError(f"{finding.sentence} {finding.cure}", field="http.port")
    _listen_on(bridge, EVERYWHERE if isinstance(run, ContainerRun) else LOOPBACK)
    with _key_file(bridge, wallet):
        await asyncio.to_thread(run.start)
        try:
            await _until_it_answers(bridge, run, patience)
        except BaseException:
            await asyncio.to_thread(run.stop)
            raise
    if isinstance(run, ProgramRun):
        run.leave()


@contextmanager
def _key_file(bridge: BridgeFolder, wallet: Wallet) -> Iterator[None]:
    """Write the key file, and see to it that it is gone afterwards, whatever happens.

    The bridge deletes it once it has started. Where it refuses to start, or is too old to do so, the file would stay.
    """
    path = bridge.path / KEY_FILE if Path(bridge.config.key_file).is_absolute() else bridge.key_file
    for place in (path, bridge.key_file):
        if _is_wallet(place):
            raise UsageError(
                f"{place} is your wallet ({WALLET} names it), and a bridge deletes its key file when it has started: "
                f"move the wallet to another place and let {WALLET} name that",
                field=WALLET,
            )
    path.unlink(missing_ok=True)
    write_private(path, wallet.key.reveal() + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _is_wallet(path: Path) -> bool:
    """Whether a file is the one that the wallet is read from: perhaps the only copy of its key."""
    try:
        return path.samefile(os.path.expanduser(os.environ.get(WALLET, "").strip() or os.devnull))
    except OSError:
        return False


def _remove_key_file(bridge: BridgeFolder) -> None:
    """Remove a key file that a start has left, but never a file outside the folder, nor the wallet's own."""
    path = bridge.key_file
    if path.resolve().is_relative_to(bridge.path.resolve()) and not _is_wallet(path):
        path.unlink(missing_ok=True)


def _listen_on(bridge: BridgeFolder, host: str) -> None:
    """Let the config name the address that fits the way the bridge is started."""
    if bridge.config.host == host:
        return
    path = bridge.path / CONFIG_FILE
    text = with_host(path.read_text(encoding="utf-8"), host)
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    write_private(beside, text)
    os.rename(beside, path)


async def _until_it_answers(bridge: BridgeFolder, run: BridgeRun, patience: float) -> None:
    """Wait until a bridge answers anything at all; it has no route that tells whether it is well.

    Raises:
        UnreachableError: It ended, or did not answer in time; says why as far as its output tells.
    """
    try:
        async with asyncio.timeout(patience), BridgeAdmin(bridge.config.base_url, None) as admin:
            while not await _answers(admin):
                if not await asyncio.to_thread(run.is_running):
                    raise _not_started(run, "The bridge ended right after its start.")
                await asyncio.sleep(_LOOK_EVERY)
    except TimeoutError as error:
        raise _not_started(run, f"The bridge did not answer within {patience:g} s.") from error


async def _answers(admin: BridgeAdmin) -> bool:
    try:
        await admin.nodes()
    except BackendError as error:
        return error.status is not None
    return True


def _not_started(run: BridgeRun, what: str) -> UnreachableError:
    output = run.output()
    explained = explain(output)
    if explained:
        last = explained[-1]
        return UnreachableError(f"{what} {last.sentence} {last.cure}")
    code = run.exit_code if isinstance(run, ProgramRun) else None
    ended = "" if code is None else f" (exit code {code})"
    said = "\n".join(output.strip().splitlines()[-_SHOWN_LINES:]) or "It said nothing."
    return UnreachableError(f"{what}{ended}\n{said}")


async def _ready_key(admin: BridgeAdmin, rate_limit: int) -> BridgeKey:
    """Return the newest key that still works for a while, or a new one."""
    for key in reversed(admin.list_keys()):
        if not key.is_ready or key.is_retiring or key.expires_at - datetime.now(UTC) < _LEAST_LEFT:
            continue
        try:
            await admin.set_rate_limit(
                key.api_key, key.rate_limit
            )  # nothing changes, and the bridge says if it knows it
        except AuthError as error:
            if error.field != "api_key":
                raise
            continue
        return key
    return await admin.create_key(rate_limit=rate_limit)


def _store(bridge: BridgeFolder, key: BridgeKey) -> Path:
    """Put key and address where sessions look for them, unless another bridge's are there."""
    url = bridge.config.base_url
    place = default_settings_file()
    known = settings_in(place)
    if known.get("api_key") and known.get("base_url") != url:
        place = bridge.path / "settings.toml"
    values: dict[str, str | int | float] = {"base_url": url, "api_key": key.api_key.reveal()}
    if bridge.config.admin_token:
        values["admin_token"] = bridge.config.admin_token.reveal()
    put_settings(place, {**values, "rate_limit": key.rate_limit})
    return place


def _conclude(console: Console, key: BridgeKey, place: Path) -> None:
    console.print(f"The key {key.prefix}... ({key.rate_limit} creates a minute) is ready, in {place}.")
    if place != default_settings_file():
        console.print(
            f"Your settings file is for another bridge, so it was left alone. To use this one:\n"
            f"\n  export CRYNUX_SETTINGS={place}\n"
        )
    hidden = [name for name in ("CRYNUX_BASE_URL", "CRYNUX_API_KEY") if os.environ.get(name, "").strip()]
    if hidden:
        console.print(f"[yellow]{' and '.join(hidden)} in the environment hide it:[/] unset {' '.join(hidden)}")
    console.print("\nNext:  crynux-async run job.toml")


def down(folder: Path) -> Exit:
    """Stop a bridge."""
    bridge = open_folder(folder)
    was_running = last_run(bridge.path).stop()
    _remove_key_file(bridge)
    Console(highlight=False).print("The bridge is stopped." if was_running else "The bridge was not running.")
    return Exit.DONE


def logs(folder: Path, lines: int) -> Exit:
    """Show the end of what a bridge has said, and what is known about it."""
    console = Console(highlight=False, soft_wrap=True)
    output = last_run(folder.absolute()).output()
    for line in output.splitlines()[-lines:]:
        console.print(escape(line), style="dim")
    if not output.strip():
        console.print("The bridge has said nothing yet.")
    for known in explain(output):
        said = f"\n[bold]{known.name}[/]: {escape(known.sentence)}\n-> {escape(known.cure)}"
        console.print(said, soft_wrap=False)
    return Exit.DONE
