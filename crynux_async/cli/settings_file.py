"""Puts values into a settings file, and leaves everything else in it as it is."""

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

from crynux_async.errors import UsageError

_TABLE = re.compile(r"\s*\[")


def default_settings_file() -> Path:
    """Return the file that settings are read from: that of ``CRYNUX_SETTINGS``, or the user's own."""
    asked = os.environ.get("CRYNUX_SETTINGS", "").strip()
    return Path(os.path.expanduser(asked or "~/.config/crynux-async/settings.toml"))


def settings_in(path: Path) -> dict[str, object]:
    """Return what a settings file says; nothing where there is none.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def put_settings(path: Path, values: Mapping[str, str | int | float]) -> None:
    """Put values into a settings file, which gets mode 0600 because a key is among them.

    Args:
        path: The file; it need not exist.
        values: Names and values at its top level.

    Raises:
        UsageError: It cannot be read or written.
    """
    settings_in(path)
    try:
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(handle, "w", encoding="utf-8") as file:
            file.write(_changed(old, values))
            file.flush()
            os.fsync(file.fileno())
        os.rename(name, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _changed(text: str, values: Mapping[str, str | int | float]) -> str:
    """Return a TOML text with values changed where they stand, or added before its first table."""
    lines = text.splitlines()
    end = next((index for index, line in enumerate(lines) if _TABLE.match(line)), len(lines))
    left = dict(values)
    for index, line in enumerate(lines[:end]):
        name = line.partition("=")[0].strip().strip("\"'")
        if "=" in line and name in left:
            lines[index] = f"{name} = {json.dumps(left.pop(name))}"
    added = [f"{name} = {json.dumps(value)}" for name, value in left.items()]
    return "\n".join([*lines[:end], *added, *lines[end:]]) + "\n"
