"""``bridge up``, ``down`` and ``logs``: starting a bridge so that it is ready for jobs, and saying why it is not."""

import asyncio
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.text import Text

from crynux_async.backends.bridge.admin import BridgeAdmin
from crynux_async.backends.bridge.deploy_checks import Verdict, check_address, check_port
from crynux_async.backends.bridge.deploy_config import CONFIG_FILE, KEY_FILE, with_host
from crynux_async.backends.bridge.deploy_files import EVERYWHERE, LOOPBACK
from crynux_async.backends.bridge.deploy_log import explain
from crynux_async.cli.bridge_folder import (
    BridgeFolder,
    has_wallet,
    in_folder,
    is_port_taken,
    is_wallet,
    open_folder,
    sole_command,
    write_private,
)
from crynux_async.cli.bridge_key_choice import ServingKey, own_key, serving_key, settings_place, store
from crynux_async.cli.bridge_process import (
    BridgeRun,
    ContainerRun,
    ProgramRun,
    docker_error,
    last_run,
    run_to_start,
    was_started,
)
from crynux_async.cli.console import LiteralConsole, open_console
from crynux_async.cli.exits import Exit
from crynux_async.cli.settings_file import default_settings_file
from crynux_async.errors import BackendError, CrynuxError, UnreachableError, UsageError
from crynux_async.signing import Wallet
from crynux_async.signing.key_files import WALLET, parse_key

_LOOK_EVERY = 0.2
_SHOWN_LINES = 12


async def up(folder: Path, program: Path | None, rate_limit: int, patience: float, *, as_json: bool) -> Exit:
    """Start a bridge, wait until it answers, and make a key that is ready."""
    console = open_console(stderr=as_json)
    if rate_limit < 1:
        raise UsageError(f"--rate-limit is a number of creates a minute, >= 1, not {rate_limit}", field="rate_limit")
    if not 0 < patience < math.inf:
        raise UsageError(f"--patience is a number of seconds, > 0, not {patience:g}", field="patience")
    bridge, wallet = open_folder(folder), Wallet.from_env()
    # Before anything is started: with another wallet's key a bridge ends at once ("private key mismatch").
    finding = check_address(bridge.config, wallet.address)
    if finding.verdict is Verdict.PROBLEM:
        raise UsageError(f"{finding.sentence} {finding.cure}", field="blockchain.account.address")
    # Found out before the start, which may take minutes: a settings file that cannot be read.
    place = settings_place(bridge)
    with sole_command(bridge):
        try:
            console.print(await _running(bridge, wallet, run_to_start(bridge.path, program), patience))
            key = await _with_key(bridge, wallet, place, rate_limit)
        except asyncio.CancelledError:
            console.print("Ended before all of it was done; run it again.")
            raise
    if as_json:
        facts = {"base_url": bridge.config.base_url, "key": key.prefix, "settings": str(place)}
        print(json.dumps(facts))  # noqa: T201  # the command's output
    else:
        _conclude(console, key, place)
    return Exit.DONE


async def _running(bridge: BridgeFolder, wallet: Wallet, run: BridgeRun, patience: float) -> str:
    """See to it that a bridge runs, and say what was done."""
    if await asyncio.to_thread(run.is_running):
        return f"The bridge runs already, at {bridge.config.base_url}."
    await _start(bridge, wallet, run, patience)
    return f"The bridge answers at {bridge.config.base_url}."


async def _with_key(bridge: BridgeFolder, wallet: Wallet, place: Path, rate_limit: int) -> ServingKey:
    """See to it that a settings file has a key that serves, and return it."""
    async with BridgeAdmin(bridge.config.base_url, wallet, keys=bridge.keys_file) as admin:
        key = await serving_key(admin, own_key(place, bridge), rate_limit)
    store(place, bridge, key)
    return key


async def _start(bridge: BridgeFolder, wallet: Wallet, run: BridgeRun, patience: float) -> None:
    """Start a bridge with a key file that lies there no longer than the start takes."""
    taken = await asyncio.to_thread(is_port_taken, bridge.config.port)
    finding = check_port(bridge.config, is_taken=taken, is_running=False)
    if finding.verdict is Verdict.PROBLEM:
        raise UsageError(f"{finding.sentence} {finding.cure}", field="http.port")
    # In a container it must listen on every address to be reached; a program that does so can be reached by everybody.
    _listen_on(bridge, EVERYWHERE if isinstance(run, ContainerRun) else LOOPBACK)
    starting: asyncio.Future[None] | None = None
    try:
        with _key_file(bridge, wallet):
            starting = asyncio.ensure_future(asyncio.to_thread(run.start))
            # Shielded: what a thread has begun goes on, and is stopped below, not left to itself.
            await asyncio.shield(starting)
            await _until_it_answers(bridge, run, patience)
    except BaseException:
        if starting is not None:
            await _stopped(starting, run)
        raise
    if isinstance(run, ProgramRun):
        run.leave()


async def _stopped(starting: asyncio.Future[None], run: BridgeRun) -> None:
    """Stop what was started, or is being started in a thread that cannot be called back."""
    with suppress(CrynuxError):  # what went wrong first is what is told
        await starting
    with suppress(CrynuxError):
        await asyncio.to_thread(run.stop)


@contextmanager
def _key_file(bridge: BridgeFolder, wallet: Wallet) -> Iterator[None]:
    """Write the key file, and see to it that it is gone afterwards, whatever happens.

    The bridge deletes it once it has started. Where it refuses to start, or is too old to do so, the file would stay.
    """
    # An absolute path is one inside the container, where compose mounts this folder.
    path = bridge.path / KEY_FILE if Path(bridge.config.key_file).is_absolute() else bridge.key_file
    for place in (path, bridge.key_file):
        if is_wallet(place):
            raise UsageError(
                f"{place} is your wallet ({WALLET} names it), and a bridge deletes its key file when it has started: "
                f"move the wallet to another place and let {WALLET} name that",
                field=WALLET,
            )
        if _is_anothers(place, bridge):
            raise UsageError(f"{place} holds the key of another wallet than this bridge's; move it to another place")
    # A left-over of a start that was killed; both checks above let it pass.
    path.unlink(missing_ok=True)
    try:
        write_private(path, wallet.key.reveal() + "\n")
        yield
    finally:
        path.unlink(missing_ok=True)


def _remove_key_file(bridge: BridgeFolder) -> str:
    """Remove a key file that a start has left, but never a file outside the folder, nor the only copy of a key.

    Returns:
        What to do about one that stays and may be such a left-over, for people, or "".
    """
    path = bridge.key_file
    is_inside = path.resolve().is_relative_to(bridge.path.resolve())
    if not is_inside or is_wallet(path) or _is_anothers(path, bridge):
        return ""
    if path.exists() and not has_wallet():
        return f"{path} stays: {WALLET} names no wallet here, so that it may be the only copy of its key."
    path.unlink(missing_ok=True)
    return ""


def _is_anothers(path: Path, bridge: BridgeFolder) -> bool:
    """Whether a file holds the key of another wallet than a bridge's, perhaps its only copy."""
    try:
        key = parse_key(path.read_text(encoding="utf-8").strip())
        return key is not None and Wallet(key).address.lower() != bridge.config.address.lower()
    except (OSError, ValueError):  # a SettingsError is a ValueError: it is no key of the curve
        return False


def _listen_on(bridge: BridgeFolder, host: str) -> None:
    """Let the config name the address that fits the way the bridge is started."""
    if bridge.config.host == host:
        return
    path = bridge.path / CONFIG_FILE
    text = with_host(path.read_text(encoding="utf-8"), host)
    # Beside it and renamed: with a config that is cut short no bridge would start.
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
        async with asyncio.timeout(patience), BridgeAdmin(bridge.config.base_url, None, keys=bridge.keys_file) as admin:
            answers = False
            while not answers:
                answers = await _answers(admin)
                # Looked at after an answer, too: it may come from somebody who was quicker to take the port.
                if not await asyncio.to_thread(run.is_running):
                    raise _not_started(bridge, run, "The bridge ended right after its start.")
                await asyncio.sleep(0 if answers else _LOOK_EVERY)
    except TimeoutError as error:
        raise _not_started(bridge, run, f"The bridge did not answer within {patience:g} s.") from error


async def _answers(admin: BridgeAdmin) -> bool:
    try:
        await admin.nodes()
    except BackendError as error:
        # An error with a status is an answer: it is up, whatever it thinks of the question.
        return error.status is not None
    return True


def _not_started(bridge: BridgeFolder, run: BridgeRun, what: str) -> UnreachableError:
    output = ""
    with suppress(UsageError):
        output = run.output()
    explained = explain(output)
    if explained:
        # The last known cause: what was said before it may be what the bridge got over.
        last = explained[-1]
        return UnreachableError(f"{what} {last.sentence} {in_folder(last.cure, bridge.path)}")
    code = run.exit_code if isinstance(run, ProgramRun) else None
    ended = "" if code is None else f" (exit code {code})"
    said = "\n".join(output.strip().splitlines()[-_SHOWN_LINES:]) or "It said nothing."
    return UnreachableError(f"{what}{ended}\n{said}")


def _conclude(console: LiteralConsole, key: ServingKey, place: Path) -> None:
    limit = "" if key.rate_limit is None else f" ({key.rate_limit} creates a minute)"
    console.print(f"The key {key.prefix}...{limit} is ready, in {place!s}.")
    if place != default_settings_file():
        console.print(
            f"Your settings file is for another bridge, so it was left alone. To use this one:\n"
            f"\n  export CRYNUX_SETTINGS={place!s}\n"
        )
    hidden = [name for name in ("CRYNUX_BASE_URL", "CRYNUX_API_KEY") if os.environ.get(name, "").strip()]
    if hidden:
        hides = f"{' and '.join(hidden)} in the environment hide it:"
        console.print(Text.assemble((hides, "yellow"), f" unset {' '.join(hidden)}"))
    console.print("\nNext:  crynux-async run job.toml")


def down(folder: Path) -> Exit:
    """Stop a bridge."""
    bridge, stays = open_folder(folder), ""
    with sole_command(bridge):
        try:
            was_running = last_run(bridge.path).stop()
        except UsageError:
            if was_started(bridge.path):
                raise
            was_running = False  # nothing was ever started here: docker need not be there
        finally:
            # Whatever came of the stop: a start that was killed may have left it.
            stays = _remove_key_file(bridge)
    console = open_console()
    console.print("The bridge is stopped." if was_running else "The bridge was not running.")
    if stays:
        console.print_page(stays)
    return Exit.DONE


def _said(folder: Path) -> str:
    """Return the end of what a bridge has said, "" where none was ever started."""
    path = folder.absolute()
    if not path.is_dir():
        raise UsageError(f"{folder} is not a folder; name that of a bridge", field="folder")
    try:
        return last_run(path).output()
    except UsageError:
        if was_started(path) or not docker_error():
            raise
        return ""  # nothing was ever started here: docker need not be there


def logs(folder: Path, lines: int) -> Exit:
    """Show the end of what a bridge has said, and what is known about it."""
    console = open_console()
    output = _said(folder)
    for line in output.splitlines()[-lines:] if lines > 0 else ():
        console.print(line, style="dim")
    if not output.strip():
        console.print("The bridge has logged nothing yet.")
    for known in explain(output):
        said = f": {known.sentence}\n-> {in_folder(known.cure, folder)}"
        console.print_page(Text.assemble("\n", (known.name, "bold"), said))
    return Exit.DONE
