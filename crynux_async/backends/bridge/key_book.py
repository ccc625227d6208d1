"""Where the keys of one's own bridge are kept: a file of mode 0600, because no call of the bridge lists them.

A key is in the file before it is used for anything, with all that it is meant to be, so that whoever opens the file
next can finish what was cut off. The file is replaced as a whole and forced to the disk, under a lock of its own that
other processes wait for.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from crynux_async.errors import Problem, SettingsError
from crynux_async.files import lock_within, replace_private
from crynux_async.secret import Secret
from crynux_async.user_files import user_path
from crynux_async.values import Value

_VERSION = 1
_PRIVATE = 0o600
_PATIENCE = 10.0  # seconds for another process's change, which takes some milliseconds
_LOOK_EVERY = 0.05


@attrs.frozen(kw_only=True)
class BridgeKey(Value):
    """An API key of one's own bridge.

    Attributes:
        api_key: The key itself.
        bridge: Address of the bridge.
        made_at: When it was made, by this machine's clock.
        expires_at: When it stops to work.
        roles: Its roles.
        rate_limit: Creates a minute.
        use_limit: LLM calls in all, or -1.
        is_ready: Whether roles and limits are set and the key is primed, so that its first model can be downloaded.
        is_retiring: Whether another key took its place and it is kept for the results of its jobs alone.
        replaces: The fingerprint (``Settings.key_id``) of the key whose place it took, or "".
    """

    api_key: Secret
    bridge: str
    made_at: datetime
    expires_at: datetime
    roles: tuple[str, ...]
    rate_limit: int
    use_limit: int
    is_ready: bool = False
    is_retiring: bool = False
    replaces: str = ""

    @property
    def prefix(self) -> str:
        """Its first 8 characters, which are no secret."""
        return self.api_key.reveal()[:8]


class KeyBook:
    """The file with the keys.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path | str) -> None:
        # At once: the program may change its folder before the next key is stored.
        self.path = Path(path).absolute()

    def keys(self, bridge: str) -> list[BridgeKey]:
        """Return the keys of a bridge in the order in which they were made.

        Raises:
            SettingsError: The file cannot be read.
        """
        return [key for key in self._read() if key.bridge == bridge]

    def put(self, key: BridgeKey) -> None:
        """Store a key, new or changed.

        Raises:
            SettingsError: The file cannot be written.
        """

        def change(keys: list[BridgeKey]) -> list[BridgeKey]:
            at = next((index for index, known in enumerate(keys) if known.api_key == key.api_key), len(keys))
            return [*keys[:at], key, *keys[at + 1 :]]

        self._change(change)

    def remove(self, api_key: Secret) -> None:
        """Forget a key.

        Raises:
            SettingsError: The file cannot be written.
        """
        self._change(lambda keys: [key for key in keys if key.api_key != api_key])

    @contextlib.asynccontextmanager
    async def sole_maker(self) -> AsyncIterator[None]:
        """Be the only one who makes keys for this file, after whoever is at it here or in another process.

        A key that somebody is just making looks like one whose making was cut off. The system ends this when the
        process ends, so whatever is unfinished afterwards was cut off.

        Raises:
            SettingsError: The file's folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            path = self._beside(".making")
            handle = _open(path)
        except OSError as error:
            raise _unusable(self.path, f"cannot be written: {error.strerror}") from error
        try:
            # Asked for again and again: a thread that waits for a lock cannot be called back.
            while not self._is_ours(handle, path):  # noqa: ASYNC110  # another process sets no event
                await asyncio.sleep(_LOOK_EVERY)
            yield
        finally:
            os.close(handle)

    def _is_ours(self, handle: int, path: Path) -> bool:
        try:
            lock_within(handle, path, 0)
        except BlockingIOError:
            return False
        except OSError as error:
            raise _unusable(self.path, f"cannot be locked: {error.strerror}") from error
        return True

    def _beside(self, ending: str) -> Path:
        # A file of its own: a lock is on a file, and the key file is another one after each change.
        return self.path.with_name(self.path.name + ending)

    def _change(self, change: Callable[[list[BridgeKey]], list[BridgeKey]]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                replace_private(self.path, _encode(change(self._read())))
        except OSError as error:
            raise _unusable(self.path, f"cannot be written: {error.strerror}") from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        path = self._beside(".lock")
        lock = _open(path)
        try:
            lock_within(lock, path, _PATIENCE)
            yield
        finally:
            os.close(lock)

    def _read(self) -> list[BridgeKey]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise _unusable(self.path, "cannot be read") from error
        try:
            return [_decode(entry) for entry in json.loads(text)["keys"]]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise _unusable(self.path, "is not a key file of this library; keep it, and name another one") from error


def _open(path: Path) -> int:
    # Never removed: another process may be waiting for this very file.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)


def usual_book() -> Path:
    """Return where the keys of one's own bridges are kept unless another file is named.

    Raises:
        SettingsError: The user has no home.
    """
    data = os.environ.get("XDG_DATA_HOME", "").strip()
    folder = Path(os.path.expanduser(data)) if data else user_path(".local/share", "CRYNUX_KEYS")
    return folder / "crynux-async" / "keys.json"


def _encode(keys: Sequence[BridgeKey]) -> str:
    entries = [
        {
            **attrs.asdict(key, filter=attrs.filters.exclude("api_key")),
            "api_key": key.api_key.reveal(),
            "made_at": key.made_at.isoformat(),
            "expires_at": key.expires_at.isoformat(),
        }
        for key in keys
    ]
    return json.dumps({"version": _VERSION, "keys": entries}, indent=2) + "\n"


def _decode(entry: dict[str, Any]) -> BridgeKey:
    values = dict(entry)
    values["api_key"] = Secret(values["api_key"])
    values["roles"] = tuple(values["roles"])
    for name in ("made_at", "expires_at"):
        values[name] = datetime.fromisoformat(values[name]).astimezone(UTC)
    return BridgeKey(**values)


def _unusable(path: Path, why: str) -> SettingsError:
    return SettingsError([Problem(field="keys", message=f"{path} {why}")], what="this key file cannot be used")
