"""What ``bridge doctor`` thinks of a bridge, before money is at stake: a sentence and a cure for each thing. Pure.

Whoever calls these functions has looked at files, ports and the relay; here is what that means.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from ipaddress import ip_address

import attrs

from crynux_async.backends.bridge.deploy_config import (
    COMPOSE_FILE,
    CONFIG_FILE,
    KEY_FILE,
    KEYS_FILE,
    LEAST_CNX,
    TASKS_FILE,
    BridgeConfig,
)
from crynux_async.backends.bridge.deploy_files import LOOPBACK
from crynux_async.money import WEI
from crynux_async.secret import mask_credentials
from crynux_async.signing.addresses import checksummed, is_address

# Seconds around their own clocks in which bridge and relay accept a signature.
_TOLERANCE = 60
_UNEASY = 30
_OTHERS = 0o077


class Verdict(StrEnum):
    """How much a finding matters."""

    GOOD = "good"
    NOTE = "note"
    PROBLEM = "problem"


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: What was looked at, in a word or two.
        verdict: How much it matters; a PROBLEM keeps the bridge from starting or endangers money.
        sentence: What was found.
        cure: What to do, or "" where nothing needs to be done; FOLDER stands for the bridge's folder.
    """

    what: str
    verdict: Verdict
    sentence: str
    cure: str = ""


@attrs.frozen(kw_only=True)
class FileFacts:
    """A file or folder as it is on the disk.

    Attributes:
        mode: Its permissions.
        is_writable: Whether this user may change it, or put files into it.
        text: What is in it, or None where it cannot be read or is a folder.
    """

    mode: int
    is_writable: bool
    text: str | None = None


@attrs.frozen(kw_only=True)
class RelayFacts:
    """What the relay said.

    Attributes:
        skew: By how many seconds its clock is ahead of this machine's, or None where it cannot be reached.
        wei: What the wallet's account holds, or None where it did not say.
        error: Why it could not be asked, or "".
    """

    skew: int | None = None
    wei: int | None = None
    error: str = ""


def check_files(files: Mapping[str, FileFacts]) -> Iterator[Finding]:
    """Judge the files that must be there.

    Args:
        files: What is in the bridge's folder, by relative path.
    """
    for path, cure in (
        (CONFIG_FILE, "Write it with 'crynux-async bridge init', in a new folder."),
        (TASKS_FILE, 'Write it with the content {"tasks": []}: without it no bridge starts.'),
    ):
        if path not in files:
            yield _problem("files", f"{path} is missing.", cure)
    tasks = files.get(TASKS_FILE)
    if tasks is not None and not _is_object(tasks.text or ""):
        yield _problem("files", f"{TASKS_FILE} is not a JSON object.", 'Replace its content by {"tasks": []}.')
    for path in (CONFIG_FILE, KEYS_FILE):
        if path in files and files[path].mode & _OTHERS:
            yield _problem("files", f"{path} holds secrets, and others can read it.", f"chmod 600 FOLDER/{path}")
    folder = files.get("config")
    if folder is not None and not folder.is_writable:
        yield _problem(
            "files",
            "The folder config/ cannot be written: the bridge must delete its key file there when it starts.",
            "Use a plain folder, not a read-only mount or a docker secret.",
        )
    if CONFIG_FILE in files and TASKS_FILE in files:
        yield _good("files", f"{CONFIG_FILE} and {TASKS_FILE} are there.")


def check_names(config: BridgeConfig) -> Iterator[Finding]:
    """Judge the names in ``config.yml``."""
    for name in config.unknown:
        yield Finding(
            what="names",
            verdict=Verdict.NOTE,
            sentence=f"{name} in {CONFIG_FILE} is not a name that a bridge knows, and is ignored.",
            cure="Correct or remove it.",
        )


def check_address(config: BridgeConfig, wallet: str | None) -> Finding:
    """Judge whether config and wallet belong together.

    Args:
        config: The config.
        wallet: The wallet's address, or None where none is at hand.
    """
    said = config.address
    if not is_address(said):
        return _problem("address", f"blockchain.account.address is not an address: {said!r}.", _write_address(wallet))
    if wallet is not None and said.lower() != wallet.lower():
        return _problem(
            "address",
            f"The config is for {said}, and the wallet's address is {wallet}.",
            "Set CRYNUX_WALLET to the other wallet, or run 'crynux-async bridge init' in another folder.",
        )
    right = checksummed(said)
    if said != right:
        return _problem(
            "address",
            f"blockchain.account.address is {said}, and the bridge compares it letter by letter with {right}.",
            _write_address(right),
        )
    if wallet is None:
        return Finding(
            what="address",
            verdict=Verdict.NOTE,
            sentence=f"The address {said} is well written; whether the key is its own was not looked at.",
            cure="Set CRYNUX_WALLET to have that checked.",
        )
    return _good("address", f"The wallet's address is {said}, as in the config.")


def check_key_file(
    files: Mapping[str, FileFacts], *, is_running: bool, wallet_in_its_place: str = ""
) -> Iterator[Finding]:
    """Judge a key file that lies about.

    Args:
        files: What is in the bridge's folder.
        is_running: Whether the bridge runs.
        wallet_in_its_place: The path of the wallet's own file where the bridge looks for its key file, or "".
    """
    if wallet_in_its_place:
        yield _problem(
            "key file",
            f"{wallet_in_its_place} is your wallet, and it lies where a bridge deletes its key file.",
            "Move it to another place, and let CRYNUX_WALLET name that.",
        )
    elif KEY_FILE in files:
        # A bridge deletes it at its start: what lies here was written later, or never read.
        when = "although the bridge is running" if is_running else "although no bridge is running"
        yield _problem(
            "key file",
            f"{KEY_FILE} holds the wallet's secret key, {when}.",
            f"Remove it: rm FOLDER/{KEY_FILE}; 'up' needs none.",
        )


def check_relay(config: BridgeConfig, relay: RelayFacts) -> Iterator[Finding]:
    """Judge the relay, this machine's clock, and the money."""
    url = mask_credentials(config.relay_url)
    if relay.skew is None:
        yield _problem(
            "relay",
            f"The relay {url} does not answer: {relay.error}.",
            "Look at relay.base_url and at this machine's network; the bridge does not start without its relay.",
        )
        return
    yield _good("relay", f"The relay {url} answers.")
    yield _clock(relay.skew)
    if relay.wei is None:
        yield Finding(
            what="balance",
            verdict=Verdict.NOTE,
            sentence=f"The balance was not told: {relay.error or 'no wallet to ask with'}.",
            cure="Set CRYNUX_WALLET: the relay tells a balance to its wallet alone.",
        )
        return
    yield check_balance(config, relay.wei)


def check_balance(config: BridgeConfig, wei: int) -> Finding:
    """Judge what the wallet's account at the relay holds."""
    shown = f"{wei / WEI:,.2f} CNX"
    if wei <= LEAST_CNX * WEI:
        return _problem(
            "balance",
            f"The wallet's account at the relay holds {shown}, and a bridge starts with more than {LEAST_CNX} only.",
            "Send CNX from this wallet to the relay's deposit address (a plain transfer without data).",
        )
    rounds = config.rounds(wei)
    pays = "" if rounds is None else f": {rounds:,} rounds at {config.fee_cnx:g} CNX"
    return _good("balance", f"The wallet's account at the relay holds {shown}{pays}.")


def check_port(config: BridgeConfig, *, is_taken: bool, is_running: bool) -> Finding:
    """Judge the port.

    Args:
        config: The config.
        is_taken: Whether somebody listens there.
        is_running: Whether it is this bridge.
    """
    if is_running and is_taken:
        return _good("port", f"The bridge listens on port {config.port}.")
    if is_taken:
        return _problem(
            "port",
            f"Another program listens on port {config.port}; the bridge would end after it has deleted its key file.",
            f"Stop that program, or change http.port in {CONFIG_FILE} and the ports in {COMPOSE_FILE}.",
        )
    return _good("port", f"Port {config.port} is free.")


def check_database(config: BridgeConfig, error: str | None) -> Finding:
    """Judge the database.

    Args:
        config: The config.
        error: Why it cannot be reached, "" when it can, None where that cannot be tried from here.
    """
    if error is None:
        return _good("database", f"The database is {config.db_driver}; it is reached from the container alone.")
    if error:
        return _problem(
            "database",
            f"The database ({config.db_driver}) cannot be reached: {error}.",
            "Look at db.driver and db.connection; a program outside docker cannot reach the compose file's database.",
        )
    return _good("database", f"The database ({config.db_driver}) is there.")


def check_docker(error: str | None, files: Mapping[str, FileFacts]) -> Finding:
    """Judge docker.

    Args:
        error: Why it cannot be used, "" when it can, None where it is not needed.
        files: What is in the bridge's folder.
    """
    if error is None:
        return _good("docker", "Docker is not needed: the bridge runs as a program.")
    if error:
        return _problem(
            "docker",
            f"Docker cannot be used: {error}.",
            "Install docker with compose, or use 'up --binary PATH', which 'doctor --program' looks at.",
        )
    if COMPOSE_FILE not in files:
        return _problem("docker", f"{COMPOSE_FILE} is missing.", "Run 'crynux-async bridge init' in a new folder.")
    return _good("docker", "Docker and its compose plug-in are there.")


def check_exposure(config: BridgeConfig, published: Collection[str], *, in_container: bool) -> Finding:
    """Judge who can reach the bridge.

    Args:
        config: The config.
        published: The ports entries of the compose file.
        in_container: Whether it runs, or would run, in a container.
    """
    # A container's program has to listen everywhere; what counts is where its port is published.
    wide = list(_wide(published)) if in_container else ([] if _is_local(config.host) else [config.host])
    if wide:
        return _problem(
            "exposure",
            f"Other machines can reach the bridge ({', '.join(wide)}), and POST /v1/inference_tasks, which needs no "
            "key, spends the wallet's money.",
            f"Listen on {LOOPBACK} alone; 'crynux-async bridge proxy FOLDER' shows how to let others use jobs alone.",
        )
    return _good("exposure", "Only this machine can reach the bridge, whose calls are open to all its users.")


def check_keys(expiring: Iterable[tuple[str, int]], replaced: Collection[str] = ()) -> Iterator[Finding]:
    """Judge keys that stop to work soon.

    Args:
        expiring: Prefix of each key and the days that it has left.
        replaced: Prefixes of those that are kept for the results of their jobs alone.
    """
    for prefix, days in expiring:
        # A key that was replaced has its successor: what counts is what only it can fetch.
        cure = (
            "Fetch the models of its jobs with 'crynux-async resume'; then: crynux-async bridge keys retire FOLDER"
            if prefix in replaced
            else f"crynux-async bridge keys rotate FOLDER {prefix}"
        )
        yield Finding(
            what="keys",
            verdict=Verdict.PROBLEM if days < 0 else Verdict.NOTE,
            sentence=f"The key {prefix}... {_left(days)}; its models cannot be downloaded after that.",
            cure=cure,
        )


def _left(days: int) -> str:
    if days < 0:
        return "has expired"
    return f"expires in {days} day{'s' if days != 1 else ''}" if days else "expires in less than a day"


def _clock(skew: int) -> Finding:
    if abs(skew) > _TOLERANCE:
        return _problem(
            "clock",
            f"This machine's clock is {_off(skew)}, and relay and bridge accept {_TOLERANCE} s.",
            "Set the clock, and let it be kept by NTP.",
        )
    if abs(skew) > _UNEASY:
        return Finding(
            what="clock",
            verdict=Verdict.NOTE,
            sentence=f"This machine's clock is {_off(skew)}; more than {_TOLERANCE} s would be refused.",
            cure="Let the clock be kept by NTP.",
        )
    return _good("clock", "This machine's clock agrees with the relay's.")


def _off(skew: int) -> str:
    return f"{abs(skew)} s {'behind' if skew > 0 else 'ahead of'} the relay's"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _wide(published: Collection[str]) -> Iterator[str]:
    """Yield the entries that publish a port on more than this machine."""
    for entry in published:
        # "127.0.0.1:5028:5028", "[::1]:5028:5028", or "5028:5028", which docker publishes on every address.
        host = entry.rpartition(":")[0].rpartition(":")[0].strip("[]")
        if not host or not _is_local(host):
            yield entry


def _is_local(host: str) -> bool:
    if host in ("localhost", ""):
        return host == "localhost"
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _write_address(address: str | None) -> str:
    if address is None:
        return f"Write the wallet's address to {CONFIG_FILE} in its EIP-55 letter case."
    return f'Write exactly this to {CONFIG_FILE}: address: "{address}"'


def _good(what: str, sentence: str) -> Finding:
    return Finding(what=what, verdict=Verdict.GOOD, sentence=sentence)


def _problem(what: str, sentence: str, cure: str) -> Finding:
    return Finding(what=what, verdict=Verdict.PROBLEM, sentence=sentence, cure=cure)
