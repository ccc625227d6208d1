"""How the client behaves: ``Settings``, from arguments, then ``CRYNUX_*`` variables, then a TOML file.

A blank value counts as not given, wherever it stands. The key is kept in a ``Secret``, which shows itself nowhere.
"""

import hashlib
import ipaddress
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self, TypedDict, Unpack
from urllib.parse import urlsplit

import attrs

from crynux_async.errors import Problem, SettingsError, UsageError
from crynux_async.money import wei_of
from crynux_async.secret import Secret, mask_credentials, mask_login
from crynux_async.values import Value
from crynux_async.wording import unread

OFFICIAL_BRIDGE = "https://bridge.crynux.io"
RELAYS: Mapping[str, str] = MappingProxyType(
    {"mainnet": "https://relay.crynux.io", "staging": "https://staging.relay.crynux.io"}
)
"""The relay of each network; CNX is money on mainnet, and given away on staging."""


class SettingsArguments(TypedDict, total=False):
    """The settings as keyword arguments of ``Session`` and ``Settings.load``; None counts as not given.

    ``Settings`` says what they mean.
    """

    api_key: str | Secret | None
    admin_token: str | Secret | None
    base_url: str | None
    network: str | None
    fee: Decimal | float | str | None
    keys: str | os.PathLike[str] | None
    rate_limit: float | None
    rate_burst: int | None
    prime_key: bool | None
    max_creates: int | None
    max_polls: int | None
    max_downloads: int | None
    max_connections: int | None
    poll_delay: float | None
    min_poll_interval: float | None
    max_poll_rate: float | None
    connect_timeout: float | None
    request_timeout: float | None
    unreachable_timeout: float | None
    read_timeout: float | None
    close_timeout: float | None
    verify_archives: bool | None
    archives: str | os.PathLike[str] | None
    host: str | None
    max_events: int | None
    event_age: float | None
    chunk_bytes: int | None
    proxy: str | None
    ca_bundle: str | None
    trust_env: bool | None


def _secret(value: str | Secret | None) -> Secret | None:
    return Secret(value.strip()) if isinstance(value, str) else value


def _path_text(value: str | os.PathLike[str] | None) -> str | None:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _exact(value: Decimal | float | str) -> Any:
    """Turn a number of CNX into an exact one; leave everything else to the check."""
    try:
        # By its text: 0.1 is a tenth, and not the binary fraction next to it.
        return value if isinstance(value, bool) else Decimal(str(value).strip())
    except InvalidOperation:
        return value


def _as_it_is(value: Any) -> Any:
    return value


def _read_number(value: Any) -> Any:
    """Turn the text of an environment variable into a number; leave everything else to the check."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return value
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value


def _read_integer(value: Any) -> Any:
    number = _read_number(value)
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _read_flag(value: Any) -> Any:
    # Text of the environment is never a truth by itself: "false" and "0" would count as true.
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    return words.get(value.strip().lower(), value) if isinstance(value, str) else value


def _read_url(value: Any) -> Any:
    # The address is the bridge's name in the ledger: with and without the slash it would be two services.
    return value.strip().rstrip("/") if isinstance(value, str) else value


def _read_path(value: Any) -> Any:
    return os.path.expanduser(value) if isinstance(value, str) else value


def _read_folder(value: Any) -> Any:
    # At once: after a change of the working folder it would be another one.
    return os.path.abspath(os.path.expanduser(value)) if isinstance(value, str) and "\0" not in value else value


_QUOTES = ("'", '"')
_IN_QUOTES = "is in quotes: leave them out (docker's --env-file does not take them away)"


def _shown_url(value: str | None) -> str:
    return mask_credentials(repr(value))


def _number_problem(kind: type[int] | type[float], low: float, above: bool, value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, kind):
        return f"must be {'a whole number' if kind is int else 'a number'}, not {value!r}"
    if value < math.inf and (value > low or (value == low and not above)):
        return None
    return f"must be {'above' if above else 'at least'} {low:g} and finite, not {value}"


def _fee_problem(value: Any) -> str | None:
    # The relay takes a task without a fee from anybody, whatever its signature, and would make it a stranger's.
    try:
        if isinstance(value, Decimal) and wei_of(value, "fee") > 0:
            return None
    except UsageError:
        pass
    return f"must be a number of CNX above 0 and below 2**60, not {value!s:.40}"


def _flag_problem(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"must be true or false, not {value!r}"


def _path_problem(value: Any) -> str | None:
    return None if isinstance(value, str) and "\0" not in value else f"must be the path of a file, not {value!r}"


def _file_problem(value: Any) -> str | None:
    return None if Path(str(value)).is_file() else f"must be a PEM file, and there is no file {value}"


def _folder_problem(value: Any) -> str | None:
    # Never made here: below a mount point without its mount it would be another folder on each host.
    if isinstance(value, str) and "\0" not in value and os.path.isdir(value):
        return None
    return f"must be a folder that is there, and {value!r:.200} is none; is it mounted?"


def _host_problem(value: Any) -> str | None:
    if isinstance(value, str) and value.isprintable() and len(value) <= 253:
        return None
    return f"must be a name of at most 253 visible characters, not {value!r:.60}"


def _url_problem(value: Any, example: str = OFFICIAL_BRIDGE) -> str | None:
    problem = _address_problem(value, example)
    if problem:
        return problem
    parts = urlsplit(value)
    if "@" in parts.netloc:
        return "must not hold a user or password: they would take the place of the key"
    before, version, _ = f"{parts.path}/".partition("/v1/")
    if version:
        return f"must end before /v1, which is added to it: {parts.scheme}://{parts.netloc}{before}"
    return None


def _network_problem(value: Any) -> str | None:
    if value in RELAYS:
        return None
    known = "mainnet, staging or the address of a relay"
    if isinstance(value, str) and "://" not in value:
        return f"must be {known} such as {RELAYS['mainnet']}, not {mask_login(value)!r}"
    problem = _url_problem(value, RELAYS["mainnet"])
    return problem and f"must be {known}, and as an address it {problem}"


def proxy_problem(value: Any) -> str | None:
    """Return what is wrong with a proxy's address, without showing its password, or None."""
    scheme = value.partition("://")[0].lower() if isinstance(value, str) else ""
    if scheme.startswith("socks"):
        return f"names a {scheme} proxy, and only http and https proxies work"
    return _address_problem(value, "http://proxy.example:3128")


def _address_problem(value: Any, example: str = OFFICIAL_BRIDGE) -> str | None:
    if not isinstance(value, str):
        return f"must be text, not {value!r}"
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if value[:1] in _QUOTES:
        return _IN_QUOTES
    if not good or not value.isprintable() or " " in value:
        return f"must be an http or https address such as {example}, not {mask_login(value)!r}"
    return "must end before any ? or #" if "?" in value or "#" in value else None


def _key_problem(value: Any) -> str | None:
    if not isinstance(value, Secret):
        return "must be text"
    text = value.reveal()  # it goes into a header, where nothing but visible ASCII may stand
    if text[:1] in _QUOTES:
        return _IN_QUOTES
    if text.isascii() and text.isprintable() and " " not in text:
        return None if len(text) >= 8 else "is too short: a key has 44 characters"
    return "has characters that no key has; was something else pasted?"


def _token_problem(value: Any) -> str | None:
    return None if isinstance(value, Secret) and value.reveal().isprintable() else "must be text of visible characters"


def _exposure_problem(token: Secret | None, base_url: Any) -> str | None:
    """Return why a token that travels in addresses must not be sent to a bridge, or None."""
    if not token or not isinstance(base_url, str) or base_url.startswith("https:"):
        return None
    host = urlsplit(base_url).hostname or ""
    try:
        is_local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    return None if is_local else "would be sent in the open: use an https address, or a tunnel to this machine"


class _Kind(NamedTuple):
    """How settings of one kind are read, as text from the environment or as they are, and what may be wrong."""

    read: Callable[[Any], Any]
    problem: Callable[[Any], str | None]


def _number(*, low: float = 0, above: bool = False) -> dict[str, _Kind]:
    return {"kind": _Kind(_read_number, partial(_number_problem, float, low, above))}


def _integer(*, low: int) -> dict[str, _Kind]:
    return {"kind": _Kind(_read_integer, partial(_number_problem, int, low, False))}


_FLAG = {"kind": _Kind(_read_flag, _flag_problem)}
_URL = {"kind": _Kind(_read_url, _url_problem)}
_NETWORK = {"kind": _Kind(_read_url, _network_problem)}
_FEE = {"kind": _Kind(_as_it_is, _fee_problem)}
_PROXY = {"kind": _Kind(_read_url, proxy_problem)}
_FILE = {"kind": _Kind(_read_path, _file_problem)}
_FOLDER = {"kind": _Kind(_read_folder, _folder_problem)}
_HOST = {"kind": _Kind(_as_it_is, _host_problem)}
_PATH = {"kind": _Kind(_read_path, _path_problem)}
_KEY = {"kind": _Kind(_as_it_is, _key_problem)}
_TOKEN = {"kind": _Kind(_as_it_is, _token_problem)}


@attrs.frozen(kw_only=True)
class Settings(Value):
    """How the client behaves. Durations are seconds.

    Every setting can be given as an argument, as ``CRYNUX_<NAME>`` in the environment, or in the TOML file that
    ``CRYNUX_SETTINGS`` names (by default ``~/.config/crynux-async/settings.toml``, which need not exist).

    Attributes:
        api_key: The bridge's key, 44 characters; or None to follow and not to submit or download.
        admin_token: What opens the traces of your own bridge (``admin.auth_token`` of its config), so that it says why
            a job failed; or None. It travels in addresses, so over HTTPS or to this machine only.
        base_url: Address of the bridge.
        network: For ``backend="relay"``: "mainnet", "staging", or the address of a relay.
        fee: For ``backend="relay"``: CNX that each task pays, > 0. The more that is for a second of the config's
            timeout, the sooner a node takes the task; a bridge pays 15.
        keys: The file with the keys of your own bridge (``BridgeAdmin(keys=...)``), or None for the usual place: a
            model that was trained with a key which another one has replaced is fetched with that.
        rate_limit: Creates a minute that the key may make, or None to learn it (that costs one refusal).
        rate_burst: Creates that a rested key may make at once; None means ``rate_limit``.
        prime_key: Send one create that is bound to be refused before the first job of a key that was never used:
            without it, that first job could never be downloaded.
        max_creates: Creates in flight at once, >= 1.
        max_polls: Status requests in flight at once, >= 1.
        max_downloads: Downloads at once, >= 1.
        max_connections: Connections to the bridge for status and result together, >= 1.
        poll_delay: How late the end of a job may be noticed, in seconds of expected delay; more polls for less delay.
        min_poll_interval: Shortest time between two polls of one job; the bridge itself looks every 1 to 5 s. A backend
            that says when to look again may say less.
        max_poll_rate: Status requests a second over all jobs, > 0.
        connect_timeout: To connect, TLS included.
        request_timeout: For a whole create or status request.
        unreachable_timeout: For how long to keep trying a bridge that cannot be reached before a submit fails. It
            begins anew where another create with this key was answered meanwhile (not while a new key is made known
            to the bridge), for up to four times as long in all. One job is tried at a time, so that an outage fails
            few of many: the time of those behind it begins when it has failed.
        read_timeout: Without a single byte of a download.
        close_timeout: For creates under way when a session is closed, whose outcome is unknown after that, and for
            validation images.
        verify_archives: Whether an archive must be a whole and sound LoRA before it gets its name; else only its length
            is checked.
        archives: A folder that several hosts see, each maybe at a path of its own: each archive is left there under the
            name of its task, and taken from there by hosts that do not have it; or None. It must be there.
        host: What this host is called where a ledger says who has an archive, or None for the host name. For
            containers, whose host names are random.
        max_events: Events of each job that a ledger keeps, >= 1; older ones are removed.
        event_age: How long a ledger keeps the events of a job that has ended.
        chunk_bytes: Size of the pieces in which a result is written, >= 4096.
        proxy: Address of an HTTP proxy, user and password included where it wants them, or None.
        ca_bundle: PEM file of the certificate authorities to trust in place of the system's, or None.
        trust_env: Whether HTTP_PROXY, HTTPS_PROXY and NO_PROXY count where ``proxy`` is not given.

    Raises:
        SettingsError: Something is out of bounds; lists all of it.
    """

    api_key: Secret | None = attrs.field(default=None, converter=_secret, metadata=_KEY)
    admin_token: Secret | None = attrs.field(default=None, converter=_secret, metadata=_TOKEN)
    base_url: str = attrs.field(default=OFFICIAL_BRIDGE, repr=_shown_url, metadata=_URL)
    network: str = attrs.field(default="mainnet", repr=_shown_url, metadata=_NETWORK)
    fee: Decimal = attrs.field(default=Decimal(15), converter=_exact, metadata=_FEE)
    keys: str | None = attrs.field(default=None, converter=_path_text, metadata=_PATH)
    rate_limit: float | None = attrs.field(default=None, metadata=_number(above=True))
    rate_burst: int | None = attrs.field(default=None, metadata=_integer(low=1))
    prime_key: bool = attrs.field(default=True, metadata=_FLAG)
    max_creates: int = attrs.field(default=8, metadata=_integer(low=1))
    max_polls: int = attrs.field(default=32, metadata=_integer(low=1))
    max_downloads: int = attrs.field(default=4, metadata=_integer(low=1))
    max_connections: int = attrs.field(default=48, metadata=_integer(low=1))
    poll_delay: float = attrs.field(default=2.0, metadata=_number(above=True))
    min_poll_interval: float = attrs.field(default=5.0, metadata=_number(above=True))
    max_poll_rate: float = attrs.field(default=200.0, metadata=_number(above=True))
    connect_timeout: float = attrs.field(default=15.0, metadata=_number(above=True))
    request_timeout: float = attrs.field(default=60.0, metadata=_number(above=True))
    unreachable_timeout: float = attrs.field(default=300.0, metadata=_number())
    read_timeout: float = attrs.field(default=60.0, metadata=_number(above=True))
    close_timeout: float = attrs.field(default=30.0, metadata=_number())
    verify_archives: bool = attrs.field(default=True, metadata=_FLAG)
    archives: str | None = attrs.field(default=None, converter=_path_text, metadata=_FOLDER)
    host: str | None = attrs.field(default=None, metadata=_HOST)
    max_events: int = attrs.field(default=1000, metadata=_integer(low=1))
    # Thirty days.
    event_age: float = attrs.field(default=2_592_000.0, metadata=_number(above=True))
    # 1 MiB writes as fast as curl does; 64 kB, the usual size, half as fast.
    chunk_bytes: int = attrs.field(default=1 << 20, metadata=_integer(low=4096))
    proxy: str | None = attrs.field(default=None, repr=_shown_url, metadata=_PROXY)
    ca_bundle: str | None = attrs.field(default=None, metadata=_FILE)
    trust_env: bool = attrs.field(default=True, metadata=_FLAG)

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(Settings):
            object.__setattr__(self, field.name, field.metadata["kind"].read(getattr(self, field.name)))
        problems = list(_problems(self))
        if problems:
            raise SettingsError(problems)

    @property
    def host_name(self) -> str:
        """What this host is called where a ledger says who has an archive."""
        return self.host or socket.gethostname()

    @property
    def key_id(self) -> str:
        """A fingerprint of the key (the beginning of its SHA-256), or "" where there is none."""
        # Ledgers are copied and shared: 64 bits tell keys apart, and nothing leads back from them.
        return hashlib.sha256(self.api_key.reveal().encode()).hexdigest()[:16] if self.api_key else ""

    @classmethod
    def load(cls, *, environ: Mapping[str, str] | None = None, **arguments: Unpack[SettingsArguments]) -> Self:
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
        # What stands nearer to the call wins. Blank counts as not given: docker's --env-file makes empty variables.
        given = {**_given(file), **_given(env), **_given(arguments)}
        # Collected, because a user who mends one field at a time meets the next one after each start.
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
    import difflib

    near = difflib.get_close_matches(name.lower(), _names(), 1)
    return Problem(field=name, message=f"is not a setting{where}" + (f"; did you mean {near[0]}?" if near else ""))


def _read_file(environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the path of the settings file and what it says; nothing where none is asked for and none is there."""
    asked = environ.get("CRYNUX_SETTINGS", "").strip()
    # Unlike those of pathlib, these two never raise: not without a home, not before a folder that is closed to us.
    path = os.path.expanduser(asked or "~/.config/crynux-async/settings.toml")
    if not asked and not os.path.isfile(path):
        return path, {}
    import tomllib

    try:
        return path, tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        cure = "; name another one, or leave the variable out" if isinstance(error, FileNotFoundError) else ""
        raise SettingsError([Problem(field="CRYNUX_SETTINGS", message=unread(path, error) + cure)]) from error


def _problems(settings: Settings) -> Iterator[Problem]:
    for field in attrs.fields(Settings):
        value = getattr(settings, field.name)
        is_left_out = value is None and field.default is None
        message = None if is_left_out else field.metadata["kind"].problem(value)
        if message:
            yield Problem(field=field.name, message=message)
    exposure = _exposure_problem(settings.admin_token, settings.base_url)
    if exposure:
        yield Problem(field="admin_token", message=exposure)
