"""``bridge init``, ``doctor`` and ``status``: a bridge of one's own, before and while it runs."""

import asyncio
import json
import os
import shlex
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import attrs
from rich.padding import Padding
from rich.text import Text

from crynux_async.backends.bridge import deploy_checks as checks
from crynux_async.backends.bridge.admin import BridgeAdmin
from crynux_async.backends.bridge.deploy_checks import Finding, Verdict
from crynux_async.backends.bridge.deploy_config import (
    COMPOSE_FILE,
    CONFIG_FILE,
    KEY_FILE,
    LEAST_CNX,
    TASKS_FILE,
    BridgeConfig,
)
from crynux_async.backends.bridge.deploy_defaults import Database
from crynux_async.backends.bridge.deploy_files import (
    BridgePlan,
    Network,
    find_network,
    planned_files,
    proxy_example,
)
from crynux_async.backends.bridge.deploy_relay import ask_relay
from crynux_async.backends.bridge.key_book import BridgeKey
from crynux_async.cli.bridge_folder import (
    BridgeFolder,
    database_error,
    file_facts,
    in_folder,
    is_port_taken,
    is_wallet,
    open_folder,
    published_ports,
    write_files,
)
from crynux_async.cli.bridge_process import BridgeRun, ContainerRun, docker_error, last_run
from crynux_async.cli.console import LiteralConsole, open_console
from crynux_async.cli.exits import Exit
from crynux_async.errors import SettingsError, UnreachableError, UsageError
from crynux_async.money import WEI
from crynux_async.signing import Wallet
from crynux_async.signing.key_files import WALLET

# Days. A key lives for a year and cannot be made to live longer, only replaced: that wants some notice.
_SOON = 30
_MOST_PORT = 65535
_INDENT = (0, 0, 0, 8)
_MARKS = {
    Verdict.GOOD: ("good   ", "green"),
    Verdict.NOTE: ("note   ", "yellow"),
    Verdict.PROBLEM: ("problem", "bold red"),
}


def init(folder: Path, network: str, image: str, port: int, database: Database, *, as_json: bool) -> Exit:
    """Write the files of a new bridge."""
    if not 0 < port <= _MOST_PORT:
        raise UsageError(f"--port is a number from 1 to {_MOST_PORT}, not {port}", field="port")
    found = find_network(network)
    # Before the wallet, whose password may have to be typed.
    there = [path for path in (CONFIG_FILE, TASKS_FILE, COMPOSE_FILE) if os.path.lexists(folder / path)]
    if there:
        raise UsageError(f"{folder} has {', '.join(there)} already, and nothing of it is replaced; name a new folder")
    wallet = Wallet.from_env()
    plan = BridgePlan(address=wallet.address, relay_url=found.relay_url, image=image, port=port, database=database)
    files = planned_files(plan)
    write_files(folder, files)
    if as_json:
        facts = {"folder": str(folder), "address": wallet.address, "files": [file.path for file in files]}
        print(json.dumps(facts))  # noqa: T201  # the command's output
    else:
        _introduce(open_console(), folder, wallet.address, found)
    return Exit.DONE


def _introduce(console: LiteralConsole, folder: Path, address: str, network: Network) -> None:
    place = shlex.quote(str(folder))
    console.print(Text.assemble((f"A bridge for the wallet {address}", "bold"), f" is in {place}/."))
    console.print(f"It needs more than {LEAST_CNX} CNX on the wallet's account at the relay, or it does not start.")
    console.print(network.note)
    said = (
        "\nWhoever can reach a bridge can spend its wallet's money: POST /v1/inference_tasks needs no key. "
        "So it listens on this machine alone; how to let others use jobs is shown by "
    )
    console.print_page(Text.assemble(said, (f"crynux-async bridge proxy {place}", "bold"), "."))
    console.print(f"\nNext:  crynux-async bridge doctor {place}\n       crynux-async bridge up {place}")


async def doctor(folder: Path, *, as_program: bool, as_json: bool) -> Exit:
    """Look at everything that keeps a bridge from starting, or endangers its money."""
    looked_at = await look(folder, as_program=as_program)
    findings = [attrs.evolve(finding, cure=in_folder(finding.cure, folder)) for finding in looked_at]
    problems = [finding for finding in findings if finding.verdict is Verdict.PROBLEM]
    if as_json:
        print(json.dumps([attrs.asdict(finding) for finding in findings]))  # noqa: T201  # the command's output
    else:
        _show(open_console(), findings)
    return Exit.USAGE if problems else Exit.DONE


async def look(folder: Path, *, as_program: bool) -> list[Finding]:
    """Return what is found in a bridge's folder, on this machine and at the relay."""
    files = await asyncio.to_thread(file_facts, folder)
    findings = list(checks.check_files(files))
    try:
        bridge = open_folder(folder)
    # Without a config there is nothing more to look at, and the files were judged without it.
    except UsageError:
        return findings
    except SettingsError as error:
        bad = [Finding(what="config", verdict=Verdict.PROBLEM, sentence=f"{problem}.", cure="Correct it in config.yml.")
               for problem in error.problems]  # fmt: skip
        return [*findings, *bad]
    wallet, wallet_findings = _wallet()
    run = last_run(bridge.path)
    # As it was started last, unless its user means to start a program.
    in_container = isinstance(run, ContainerRun) and not as_program
    # Off the event loop, as all that asks the system or docker, and may take seconds.
    docker, is_running = await asyncio.to_thread(_how_it_runs, run, in_container=in_container)
    findings += wallet_findings
    findings += checks.check_names(bridge.config)
    findings.append(checks.check_address(bridge.config, wallet.address if wallet else None))
    ours = next((str(path) for path in (bridge.path / KEY_FILE, bridge.key_file) if is_wallet(path)), "")
    findings += checks.check_key_file(files, is_running=is_running, wallet_in_its_place=ours)
    findings += checks.check_relay(bridge.config, await ask_relay(bridge.config.relay_url, wallet))
    taken = await asyncio.to_thread(is_port_taken, bridge.config.port)
    findings.append(checks.check_port(bridge.config, is_taken=taken, is_running=is_running))
    unreachable = await asyncio.to_thread(database_error, bridge, in_container=in_container)
    findings.append(checks.check_database(bridge.config, unreachable))
    findings.append(checks.check_docker(docker, files))
    compose = files.get(COMPOSE_FILE)
    published = published_ports(compose.text or "") if compose else []
    findings.append(checks.check_exposure(bridge.config, published, in_container=in_container))
    return [*findings, *_key_findings(bridge)]


def _key_findings(bridge: BridgeFolder) -> list[Finding]:
    try:
        keys = BridgeAdmin(bridge.config.base_url, None, keys=bridge.keys_file).list_keys()
    except SettingsError as error:
        cure = "Keep it: a key in it may still be the only way to a model. Correct it, or move it away and make a key."
        return [Finding(what="keys", verdict=Verdict.PROBLEM, sentence=f"{error}.", cure=cure)]
    return list(checks.check_keys(_expiring(keys), {key.prefix for key in keys if key.is_retiring}))


def _how_it_runs(run: BridgeRun, *, in_container: bool) -> tuple[str | None, bool]:
    """Return why docker cannot be used (None where it is not needed), and whether the bridge runs."""
    docker = docker_error() if in_container else None
    if docker:
        return docker, False
    try:
        return docker, run.is_running()
    except UsageError as error:  # as with a compose file that it does not understand
        return str(error) if in_container else None, False


def _wallet() -> tuple[Wallet | None, list[Finding]]:
    try:
        return Wallet.from_env(), []
    except SettingsError as error:
        sentence = f"No wallet is at hand: {'; '.join(map(str, error.problems))}."
        cure = f"Set {WALLET} to the path of a keystore, or of a file of mode 0600 with the key."
        return None, [Finding(what="wallet", verdict=Verdict.NOTE, sentence=sentence, cure=cure)]


def _expiring(keys: Sequence[BridgeKey]) -> Iterator[tuple[str, int]]:
    for key in keys:
        days = (key.expires_at - datetime.now(UTC)).days
        if days < _SOON:
            yield key.prefix, days


def _show(console: LiteralConsole, findings: Sequence[Finding]) -> None:
    for finding in findings:
        console.print(Text.assemble(_MARKS[finding.verdict], f" {finding.what}", style="bold" if finding.cure else ""))
        console.print_page(Padding(Text(finding.sentence), _INDENT, expand=False))
        if finding.cure:
            console.print_page(Padding(Text(f"-> {finding.cure}"), _INDENT, expand=False))
    problems = sum(finding.verdict is Verdict.PROBLEM for finding in findings)
    plural = "" if problems == 1 else "s"
    last = Text(f"\n{problems} problem{plural}.", "bold red") if problems else Text("\nIt can start.", "green")
    console.print(last)


@asynccontextmanager
async def open_admin(bridge: BridgeFolder, folder: Path, wallet: Wallet | None) -> AsyncIterator[BridgeAdmin]:
    """Open the admin side of a bridge that should be running.

    Args:
        bridge: The bridge.
        folder: Its folder, as the user names it.
        wallet: Signs changes; None can only read.

    Raises:
        UnreachableError: It does not run; says how to start it.
    """
    async with BridgeAdmin(bridge.config.base_url, wallet, keys=bridge.keys_file) as admin:
        try:
            yield admin
        except UnreachableError as error:
            cure = in_folder(
                "start it with 'crynux-async bridge up FOLDER'; 'crynux-async bridge logs FOLDER' says why it ended",
                folder,
            )
            raise UnreachableError(f"{error}: {cure}", url=error.url) from error


async def status(folder: Path, *, as_json: bool) -> Exit:
    """Show what a running bridge says of itself."""
    bridge = open_folder(folder)
    # Without a wallet: whoever only looks needs no password.
    async with open_admin(bridge, folder, None) as admin:
        account, nodes, counts = await asyncio.gather(admin.account(), admin.nodes(), admin.counts())
        facts = {
            "address": account.address,
            "wei": account.wei,
            "rounds": bridge.config.rounds(account.wei),
            "nodes": attrs.asdict(nodes),
            "tasks": attrs.asdict(counts),
            "keys": [_key_facts(key) for key in admin.list_keys()],
        }
        if as_json:
            print(json.dumps(facts))  # noqa: T201  # the command's output
            return Exit.DONE
        console = open_console()
        console.print(Text.assemble((bridge.config.base_url, "bold"), f"  wallet {account.address}"))
        console.print(_money(bridge.config, account.wei))
        console.print(f"nodes     {nodes.available} of {nodes.total} are free (of any size)")
        console.print(
            f"24 hours  {counts.total} task{'s' if counts.total != 1 else ''}: {counts.succeeded} succeeded, "
            f"{counts.aborted} failed or refused, {counts.unfinished} unfinished"
        )
        if counts.aborted:
            console.print("          Each new key makes one that is refused, which costs nothing.", style="dim")
        show_keys(console, admin.list_keys(), folder)
    return Exit.DONE


def _money(config: BridgeConfig, wei: int) -> str:
    rounds = config.rounds(wei)
    pays = "" if rounds is None else f", which pays for {rounds:,} rounds at {config.fee_cnx:g} CNX"
    return f"balance   {wei / WEI:,.2f} CNX{pays}"


def show_keys(console: LiteralConsole, keys: Sequence[BridgeKey], folder: Path) -> None:
    """Print keys, by their prefix alone.

    Args:
        console: Where.
        keys: The keys.
        folder: The bridge's folder, as the user names it.
    """
    if not keys:
        console.print(f"keys      none yet: crynux-async bridge keys create {folder!s}")
    for key in keys:
        uses = "" if key.use_limit < 0 else f", {key.use_limit} LLM calls in all"
        state = "" if key.is_ready else ", not finished"
        state += ", kept for the results of its jobs" if key.is_retiring else ""
        console.print(
            f"key       {key.prefix}...  {key.rate_limit} creates a minute{uses}, "
            f"until {key.expires_at:%Y-%m-%d}{state}",
        )


def _key_facts(key: BridgeKey) -> dict[str, object]:
    # Never the key itself: what is printed ends in logs and screenshots.
    facts = attrs.asdict(key, filter=attrs.filters.exclude("api_key"))
    return {**facts, "prefix": key.prefix, "made_at": key.made_at.isoformat(), "expires_at": key.expires_at.isoformat()}


def proxy(folder: Path | None) -> Exit:
    """Print a reverse proxy's configuration that lets other machines use jobs, and nothing else."""
    port = 5028 if folder is None else open_folder(folder).config.port
    print(proxy_example(port), end="")  # noqa: T201  # the command's output
    return Exit.DONE
