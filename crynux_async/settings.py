"""How the client behaves: ``Settings``, from arguments, then ``CRYNUX_*`` variables, then a TOML file.

A blank value counts as not given, wherever it stands. The key is kept in a ``Secret``, which shows itself nowhere.
"""

import difflib
import hashlib
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit

import attrs

from crynux_async.errors import Problem, SettingsError

OFFICIAL_BRIDGE = "https://bridge.crynux.io"


class Secret:
    """A text that shows itself only through ``reveal()``: not in ``str``, ``repr``, ``format`` or a traceback.

    It cannot be pickled, because pickles are stored and sent.

    Args:
        text: The secret.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._text

    def mask(self, text: str) -> str:
        """Return ``text`` with every occurrence of the secret replaced by stars."""
        return text.replace(self._text, "***") if self._text else text

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: Any) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled; give another process the key as CRYNUX_API_KEY")


def _secret(value: Any) -> Any:
    return Secret(value.strip()) if isinstance(value, str) else value


def _number(value: Any) -> Any:
    """Turn the text of an environment variable into a number; leave everything else to the check."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return value
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value


def _integer(value: Any) -> Any:
    number = _number(value)
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _flag(value: Any) -> Any:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    return words.get(value.strip().lower(), value) if isinstance(value, str) else value


def _trimmed_url(value: Any) -> Any:
    return value.strip().rstrip("/") if isinstance(value, str) else value


def _shown_url(value: Any) -> str:
    """Return an address without the user and password that it may hold."""
    return re.sub(r"//[^/]*@", "//***@", repr(value))


_CONVERTERS = {
    "number": _number,
    "integer": _integer,
    "flag": _flag,
    "url": _trimmed_url,
    "proxy": _trimmed_url,
    "key": _secret,
}


def _setting(default: Any, kind: str, *, low: float = -math.inf, above: bool = False) -> Any:
    metadata = {"kind": kind, "low": low, "above": above}
    shown: Any = _shown_url if kind in ("url", "proxy") else True
    return attrs.field(default=default, converter=_CONVERTERS.get(kind), repr=shown, metadata=metadata)


@attrs.frozen(kw_only=True)
class Settings:
    """How the client behaves. Durations are seconds.

    Every setting can be given as an argument, as ``CRYNUX_<NAME>`` in the environment, or in the TOML file that
    ``CRYNUX_SETTINGS`` names (by default ``~/.config/crynux-async/settings.toml``, which need not exist).

    Attributes:
        api_key: The bridge's key, 44 characters; or None to follow and not to submit or download.
        base_url: Address of the bridge.
        rate_limit: Creates a minute that the key may make, or None to learn it (that costs one refusal).
        rate_burst: Creates that a rested key may make at once; None means ``rate_limit``.
        prime_key: Send one create that is bound to be refused before the first job of a key that was never used:
            without it, that first job could never be downloaded.
        max_creates: Creates in flight at once, >= 1.
        max_polls: Status requests in flight at once, >= 1.
        max_downloads: Downloads at once, >= 1.
        max_connections: Connections to the bridge for status and result together, >= 1.
        poll_delay: How late the end of a job may be noticed, in seconds of expected delay; more polls for less delay.
        min_poll_interval: Shortest time between two polls of one job; the bridge itself looks every 1 to 5 s.
        max_poll_rate: Status requests a second over all jobs, > 0.
        connect_timeout: To connect, TLS included.
        request_timeout: For a whole create or status request.
        unreachable_timeout: For how long a bridge that cannot be reached is tried again before a submit fails.
        read_timeout: Without a single byte of a download.
        close_timeout: For creates under way when a session is closed; then their outcome is unknown.
        verify_archives: Whether an archive must be a whole and sound LoRA before it gets its name; else only its length
            is checked.
        chunk_bytes: Size of the pieces in which a result is written, >= 4096.
        proxy: Address of an HTTP proxy, user and password included where it wants them, or None.
        ca_bundle: PEM file of the certificate authorities to trust in place of the system's, or None.
        trust_env: Whether HTTP_PROXY, HTTPS_PROXY and NO_PROXY count where ``proxy`` is not given.

    Raises:
        SettingsError: Something is out of bounds; lists all of it.
    """

    api_key: Secret | None = _setting(None, "key")
    base_url: str = _setting(OFFICIAL_BRIDGE, "url")
    rate_limit: float | None = _setting(None, "number", low=0, above=True)
    rate_burst: int | None = _setting(None, "integer", low=1)
    prime_key: bool = _setting(True, "flag")
    max_creates: int = _setting(8, "integer", low=1)
    max_polls: int = _setting(32, "integer", low=1)
    max_downloads: int = _setting(4, "integer", low=1)
    max_connections: int = _setting(48, "integer", low=1)
    poll_delay: float = _setting(2.0, "number", low=0, above=True)
    min_poll_interval: float = _setting(5.0, "number", low=0, above=True)
    max_poll_rate: float = _setting(200.0, "number", low=0, above=True)
    connect_timeout: float = _setting(15.0, "number", low=0, above=True)
    request_timeout: float = _setting(60.0, "number", low=0, above=True)
    unreachable_timeout: float = _setting(300.0, "number", low=0)
    read_timeout: float = _setting(60.0, "number", low=0, above=True)
    close_timeout: float = _setting(30.0, "number", low=0)
    verify_archives: bool = _setting(True, "flag")
    chunk_bytes: int = _setting(1 << 20, "integer", low=4096)
    proxy: str | None = _setting(None, "proxy")
    ca_bundle: str | None = _setting(None, "file")
    trust_env: bool = _setting(True, "flag")

    def __attrs_post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise SettingsError(problems)

    @property
    def key_id(self) -> str:
        """A fingerprint of the key (the beginning of its SHA-256), or "" where there is none."""
        return hashlib.sha256(self.api_key.reveal().encode()).hexdigest()[:16] if self.api_key else ""

    @classmethod
    def load(cls, *, environ: Mapping[str, str] | None = None, **arguments: Any) -> Self:
        """Return the settings from arguments, then the environment, then the settings file.

        Args:
            environ: The environment; ``os.environ`` when None.
            **arguments: Settings by name. None and blank text count as not given.

        Raises:
            SettingsError: Unknown names, values out of bounds, or a file that cannot be read.
        """
        environ = os.environ if environ is None else environ
        path, file = _read_file(environ)
        env = {name: environ.get(f"CRYNUX_{name.upper()}") for name in _names()}
        given = {**_given(file), **_given(env), **_given(arguments)}
        problems = [_unknown(name) for name in arguments if name not in _names()]
        problems += [_unknown(name, f" (in {path})") for name in file if name not in _names()]
        try:
            settings = cls(**{name: value for name, value in given.items() if name in _names()})
        except SettingsError as error:
            raise SettingsError([*problems, *error.problems]) from None
        if problems:
            raise SettingsError(problems)
        return settings


def _names() -> list[str]:
    return [field.name for field in attrs.fields(Settings)]


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    blank = ("", None)
    return {
        name: value
        for name, value in values.items()
        if (value.strip() if isinstance(value, str) else value) not in blank
    }


def _unknown(name: str, where: str = "") -> Problem:
    near = difflib.get_close_matches(name.lower(), _names(), 1)
    return Problem(field=name, message=f"is not a setting{where}" + (f"; did you mean {near[0]}?" if near else ""))


def _read_file(environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the path of the settings file and what it says; nothing where none is asked for and none is there."""
    asked = environ.get("CRYNUX_SETTINGS", "").strip()
    # Unlike those of pathlib, these two never raise: not without a home, not before a folder that is closed to us.
    path = os.path.expanduser(asked or "~/.config/crynux-async/settings.toml")
    if not asked and not os.path.isfile(path):
        return path, {}
    try:
        return path, tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError([Problem(field="CRYNUX_SETTINGS", message=f"{path} cannot be read: {error}")]) from error


def _problems(settings: Settings) -> Iterator[Problem]:
    for field in attrs.fields(Settings):
        value = getattr(settings, field.name)
        message = _field_problem(field, value)
        if message:
            yield Problem(field=field.name, message=message)


def _field_problem(field: "attrs.Attribute[Any]", value: Any) -> str | None:
    if value is None and field.default is None:
        return None
    check = _CHECKS.get(field.metadata["kind"])
    return check(value) if check else _number_problem(field, value)


def _file_problem(value: Any) -> str | None:
    return None if Path(str(value)).is_file() else f"must be a PEM file, and there is no file {value}"


def _flag_problem(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"must be true or false, not {value!r}"


def _number_problem(field: "attrs.Attribute[Any]", value: Any) -> str | None:
    whole = field.metadata["kind"] == "integer"
    if isinstance(value, bool) or not isinstance(value, int if whole else float):
        return f"must be {'a whole number' if whole else 'a number'}, not {value!r}"
    low, above = field.metadata["low"], field.metadata["above"]
    if value < math.inf and (value > low or (value == low and not above)):
        return None
    return f"must be {'above' if above else 'at least'} {low:g} and finite, not {value}"


def _url_problem(value: Any) -> str | None:
    problem = _address_problem(value)
    if problem or "@" not in urlsplit(value).netloc:
        return problem
    return "must not hold a user or password: they would take the place of the key"


def _address_problem(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"must be text, not {value!r}"
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not value.isprintable() or " " in value:
        return f"must be an http or https address such as {OFFICIAL_BRIDGE}, not {_shown_url(value)}"
    return "must end before any ? or #" if "?" in value or "#" in value else None


def _key_problem(value: Any) -> str | None:
    if not isinstance(value, Secret):
        return "must be text"
    text = value.reveal()
    if text.isascii() and text.isprintable() and " " not in text:
        return None if len(text) >= 8 else "is too short: a key has 44 characters"
    return "has characters that no key has; was something else pasted?"


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "url": _url_problem,
    "proxy": _address_problem,
    "key": _key_problem,
    "file": _file_problem,
    "flag": _flag_problem,
}
