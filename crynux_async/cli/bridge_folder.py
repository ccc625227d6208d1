"""The folder of a bridge on this machine, as the ``bridge`` commands see it."""

import contextlib
import fcntl
import os
import re
import shlex
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from crynux_async.backends.bridge.deploy_checks import FileFacts
from crynux_async.backends.bridge.deploy_config import (
    COMPOSE_FILE,
    CONFIG_FILE,
    KEY_FILE,
    KEYS_FILE,
    TASKS_FILE,
    BridgeConfig,
    read_config,
)
from crynux_async.backends.bridge.deploy_files import PlannedFile
from crynux_async.errors import Problem, SettingsError, UsageError
from crynux_async.signing.key_files import WALLET

_PRIVATE = 0o600
_LOOKED_AT = ("config", CONFIG_FILE, TASKS_FILE, KEY_FILE, COMPOSE_FILE, KEYS_FILE)
# Wallet's key and API keys: what is not read cannot be shown by a finding.
_UNREAD = (KEY_FILE, KEYS_FILE)
# Go's MySQL driver has the address in brackets: user:password@tcp(host:port)/name.
_MYSQL_HOST = re.compile(r"@(?:tcp)?\(([^():]+)(?::(\d+))?\)")
# Somebody waits for the answer: what takes longer is told as not to be reached.
_CONNECT_WAIT = 3.0


@attrs.frozen(kw_only=True)
class BridgeFolder:
    """A folder that ``bridge init`` has written.

    Attributes:
        path: Where it is, absolute.
        config: What its config says.
    """

    path: Path
    config: BridgeConfig

    @property
    def keys_file(self) -> Path:
        """The file with its keys."""
        return self.path / KEYS_FILE

    @property
    def key_file(self) -> Path:
        """Where the wallet's key lies while the bridge starts."""
        return self.path / self.config.key_file


def open_folder(path: Path) -> BridgeFolder:
    """Return a bridge's folder.

    Raises:
        UsageError: There is no config in it.
        SettingsError: Its config cannot be used.
    """
    absolute = path.absolute()
    try:
        text = (absolute / CONFIG_FILE).read_text(encoding="utf-8")
    except UnicodeError as error:
        raise SettingsError([Problem(field=CONFIG_FILE, message="is not text in UTF-8")]) from error
    except OSError as error:
        raise UsageError(
            f"{absolute / CONFIG_FILE} cannot be read ({error.strerror}); make the bridge's folder with "
            f"'crynux-async bridge init {path}'"
        ) from error
    return BridgeFolder(path=absolute, config=read_config(text))


@contextlib.contextmanager
def sole_command(folder: BridgeFolder) -> Iterator[None]:
    """Be the only command that starts or stops a folder's bridge; the system ends this when the process ends.

    Raises:
        UsageError: Another one is at work.
    """
    handle = os.open(folder.path, os.O_RDONLY | os.O_CLOEXEC)  # the folder itself is locked, so no file is left
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: BridgeFolder) -> None:
    try:
        # Not waited for: a start may take minutes, and the other command shows what it does.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"another 'bridge up' or 'down' is at work in {folder.path}; wait for its end") from error


def in_folder(advice: str, folder: Path) -> str:
    """Return a piece of advice with the bridge's folder where it says FOLDER, so that its command can be typed."""
    return advice.replace("FOLDER", shlex.quote(str(folder)))


def is_wallet(path: Path) -> bool:
    """Whether a file is the one that the wallet is read from: perhaps the only copy of its key."""
    try:
        # By the file and not by its name: a link, or another way to write the path, is the same wallet.
        return path.samefile(_wallet_path())
    except OSError:
        return False


def has_wallet() -> bool:
    """Whether the wallet is read from a file that is there."""
    return _wallet_path().is_file()


def _wallet_path() -> Path:
    return Path(os.environ.get(WALLET, "").strip() or os.devnull).expanduser()


def file_facts(folder: Path) -> Mapping[str, FileFacts]:
    """Return what is on the disk, by path relative to the folder."""
    facts: dict[str, FileFacts] = {}
    for name in _LOOKED_AT:
        path = folder / name
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(path.stat().st_mode)
            text = None if path.is_dir() or name in _UNREAD else path.read_text(encoding="utf-8", errors="replace")
            facts[name] = FileFacts(mode=mode, is_writable=_is_writable(path), text=text)
    return facts


def published_ports(compose: str) -> list[str]:
    """Return every ``ports`` entry of a compose file in its short form, those of unknown form included."""
    import yaml

    try:
        services = yaml.safe_load(compose).get("services", {}).values()
        return [_short(entry) for service in services for entry in (service or {}).get("ports") or ()]
    except (yaml.YAMLError, AttributeError, TypeError):
        return []  # docker says what is wrong with it


def write_private(path: Path, content: str, mode: int = _PRIVATE) -> None:
    """Write a new file that has its mode and its name from its first byte on, so that nothing of it is ever elsewhere.

    Raises:
        UsageError: There is a file of that name already, or it cannot be written; then nothing of it is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                # open() applies the umask to the mode, which may take more from it than was wished.
                os.fchmod(file.fileno(), mode)
                file.write(content)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def write_files(folder: Path, files: Sequence[PlannedFile]) -> None:
    """Write the files of a new bridge, all of them or none.

    Raises:
        UsageError: One of them cannot be written.
    """
    written: list[Path] = []
    try:
        # For the owner alone: the wallet's key lies in one of them while the bridge starts, its database in another.
        for name in ("config", "data", "data/logs"):
            (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in files:
            write_private(folder / file.path, file.content, file.mode)
            written.append(folder / file.path)
    except (OSError, UsageError) as error:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{folder} cannot be made: {error.strerror}; name a new folder", field="folder") from error


def database_error(folder: BridgeFolder, *, in_container: bool) -> str | None:
    """Return why the database cannot be reached, "" when it can, None where that cannot be tried from here."""
    config = folder.config
    if config.db_driver == "sqlite":
        place = (folder.path / config.db_connection.partition("?")[0].removeprefix("file:")).parent
        return "" if _is_writable(place) else f"{place} is not a folder that can be written"
    match = _MYSQL_HOST.search(config.db_connection)
    # Its name is known to the containers alone, so that from here nothing can be said about it.
    if in_container or match is None:
        return None
    try:
        with socket.create_connection((match[1], int(match[2] or "3306")), timeout=_CONNECT_WAIT):
            return ""
    except OSError as error:
        return f"{match[1]}:{match[2] or 3306}: {error.strerror or error}"


def is_port_taken(port: int) -> bool:
    """Return whether somebody on this machine listens on a port."""
    with socket.socket() as probe:
        probe.settimeout(_CONNECT_WAIT)
        # Where nobody listens, a port of the range for outgoing connections can meet itself.
        return probe.connect_ex(("127.0.0.1", port)) == 0 and probe.getsockname() != probe.getpeername()


def _is_writable(path: Path) -> bool:
    """Return whether a path can be written; ``access`` also knows of read-only mounts."""
    return os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0))


def _short(entry: Any) -> str:
    if isinstance(entry, Mapping):
        host = entry.get("host_ip", "")
        return f"{host}:{entry.get('published', '')}:{entry.get('target', '')}"
    return str(entry)
