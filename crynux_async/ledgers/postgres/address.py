"""Where a ledger in PostgreSQL is: a URL, read so that its password stands nowhere else."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import attrs
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from crynux_async.errors import UsageError

DEFAULT_SCHEMA = "crynux_async"
"""Not "public": an application has tables of its own that are called jobs or events."""

_OURS = ("schema", "spill")
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")  # short enough for the names that are made of it
_PORTS = re.compile(r"[^:\[\]]*(:\d+)?|\[[0-9a-fA-F:.%]+\](:\d+)?")

_DEFAULTS: Mapping[str, Any] = {
    "application_name": "crynux_async",
    "client_encoding": "UTF8",
    "connect_timeout": 10,
    # A host that vanished sends no farewell: without these, the next write would wait for two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


@attrs.frozen(kw_only=True)
class Address:
    """Where a ledger is.

    Attributes:
        parameters: What libpq connects with, the password among it.
        schema: The namespace of its tables.
        spill: The file for what could not be stored, or None.
        name: What people see: nothing in it is secret.
    """

    parameters: Mapping[str, Any] = attrs.field(repr=False)
    schema: str
    spill: Path | None
    name: str


def read_address(where: str, *, schema: str | None = None, spill: Path | None = None) -> Address:
    """Read "postgresql://user:password@host:5432/database?schema=...&spill=...&sslmode=...".

    Args:
        where: The URL; what is no option of ours is libpq's.
        schema: Namespace of the tables, in place of the URL's.
        spill: File for what could not be stored, in place of the URL's.

    Raises:
        UsageError: It cannot be read. The message shows nothing of it.
    """
    parts = _split(where)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    chosen = schema or options.get("schema") or DEFAULT_SCHEMA
    if not _NAME.fullmatch(chosen):
        message = f"schema {chosen!r:.60} must be 1 to 40 of a-z, 0-9 and _, and begin with a letter"
        raise UsageError(message, field="ledger")
    file = spill or (Path(options["spill"]).expanduser() if options.get("spill") else None)
    query = urlencode({name: value for name, value in options.items() if name not in _OURS})
    plain = parts._replace(scheme="postgresql", query=query, fragment="").geturl()
    return Address(
        parameters={**_DEFAULTS, **_parameters(plain)},
        schema=chosen,
        spill=None if file is None else file.absolute(),
        name=_shown(parts, chosen),
    )


def _split(where: str) -> SplitResult:
    """Split a URL, and refuse one in which a password would be taken for something that is shown."""
    try:
        parts = urlsplit(where)
    except ValueError:
        raise _unreadable() from None
    _, _, hosts = parts.netloc.rpartition("@")
    is_plain = all(_PORTS.fullmatch(host) for host in hosts.split(","))
    if "@" in parts.path + parts.query + parts.fragment or not is_plain:
        raise _unreadable()
    return parts


def _parameters(url: str) -> dict[str, Any]:
    try:
        return conninfo_to_dict(url)
    except ProgrammingError:
        raise _unreadable() from None  # libpq's own message may show any part of it


def _unreadable() -> UsageError:
    message = (
        "the ledger's address cannot be read: give 'postgresql://user@host:5432/database?schema=...', with the special "
        "characters of a password as %40 (@), %2F (/), %3A (:), or leave the password to PGPASSFILE"
    )
    return UsageError(message, field="ledger")


def _shown(parts: SplitResult, schema: str) -> str:
    user, at, hosts = parts.netloc.rpartition("@")
    return f"postgresql://{user.partition(':')[0]}{at}{hosts}{parts.path}?schema={schema}"
