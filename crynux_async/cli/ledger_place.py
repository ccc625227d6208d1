"""Where the command line remembers jobs."""

import os
import shlex
from pathlib import Path
from typing import TypeAlias

from crynux_async.errors import UsageError
from crynux_async.ledgers import is_on_a_server
from crynux_async.user_files import user_path

LedgerPlace: TypeAlias = Path | str
"""A file, or the address of a database, which may hold a password: show it only by ``shown``."""


def ledger_place(asked: LedgerPlace | None, *, makes_folder: bool = False) -> LedgerPlace:
    """Return where the command line remembers jobs: ``--ledger``, ``CRYNUX_LEDGER``, or the user's data folder.

    Args:
        asked: What was given as ``--ledger``, or None.
        makes_folder: Whether the data folder is made; not for a command that only reads a ledger.

    Raises:
        SettingsError: The user has no home.
        UsageError: The data folder cannot be made, or what was asked for is the address of something else.
    """
    if asked is not None:
        return _place(os.fspath(asked))
    named = os.environ.get("CRYNUX_LEDGER", "").strip()
    if named:
        return _place(os.path.expanduser(named))
    data = os.environ.get("XDG_DATA_HOME", "").strip()
    folder = Path(os.path.expanduser(data)) if data else user_path(".local/share", "CRYNUX_LEDGER")
    path = folder / "crynux-async" / "jobs.db"
    if makes_folder:
        _make(path.parent)
    return path


def _make(folder: Path) -> None:
    try:
        # Made here: SQLite makes files and no folders.
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made ({error.strerror}); set CRYNUX_LEDGER", field="ledger") from error


def _place(text: str) -> LedgerPlace:
    if is_on_a_server(text):
        return text
    if "//" not in text and "=" not in text:  # no address of anything, and no words for a server
        return Path(text)
    # Imported late: it brings all that a ledger in a file needs.
    from crynux_async.ledgers.sqlite.file import sqlite_path

    return sqlite_path(text)


def existing_place(asked: LedgerPlace | None, *, made_by: str = "run") -> LedgerPlace:
    """Return where the command line remembers jobs already: a mistyped name must not make a new ledger.

    Args:
        asked: As for ``ledger_place``.
        made_by: The command that makes one.

    Raises:
        UsageError: There is no such file.
    """
    place = ledger_place(asked)
    if isinstance(place, Path) and not place.is_file():
        raise UsageError(f"there is no ledger at {place}; it is made by the first 'crynux-async {made_by}'")
    return place


def ledger_option(asked: LedgerPlace | None) -> str:
    """Return what a command that goes on with the same jobs must be given, with a space before it, or "".

    A password is not repeated; where an address had one, the next command needs it from elsewhere.

    Args:
        asked: What this command was given, or None.
    """
    return "" if asked is None else f" --ledger {shlex.quote(shown(ledger_place(asked)))}"


def shown(place: LedgerPlace) -> str:
    """Return a place as people may see it."""
    if isinstance(place, Path):
        return str(place)
    # Imported late: it needs psycopg, which comes with an extra.
    from crynux_async.ledgers.postgres.address import read_address

    return read_address(place).name
