"""Puts values into a settings file, and leaves everything else in it as it is."""

import json
import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from crynux_async.errors import UsageError
from crynux_async.files import replace_private
from crynux_async.user_files import user_path
from crynux_async.wording import unread

_TABLE = re.compile(r"\s*\[")


def default_settings_file() -> Path:
    """Return the file that settings are read from: that of ``CRYNUX_SETTINGS``, or the user's own."""
    asked = os.environ.get("CRYNUX_SETTINGS", "").strip()
    if asked:
        return Path(os.path.expanduser(asked))
    return user_path(".config/crynux-async/settings.toml", "CRYNUX_SETTINGS")


def settings_in(path: Path) -> dict[str, object]:
    """Return what a settings file says; nothing where there is none.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(unread(path, error)) from error


def put_settings(path: Path, values: Mapping[str, str | int | float]) -> None:
    """Put values into a settings file, which gets mode 0600 because a key is among them.

    Args:
        path: The file; it need not exist.
        values: Names and values at its top level.

    Raises:
        UsageError: It cannot be read or written.
    """
    _rewrite(path, lambda text: _changed(text, values))


def drop_settings(path: Path, names: Collection[str]) -> None:
    """Take values out of a settings file.

    Args:
        path: The file; it need not exist.
        names: Names at its top level.

    Raises:
        UsageError: It cannot be read or written.
    """
    _rewrite(path, lambda text: _without(text, names))


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    # Read first: a file that is no TOML is refused, and not made worse.
    settings_in(path)
    try:
        old = path.read_text(encoding="utf-8-sig") if path.exists() else ""
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_private(path, change(old))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _changed(text: str, values: Mapping[str, str | int | float]) -> str:
    """Return a TOML text with values changed where they stand, or added before its first table."""
    lines = text.splitlines()
    end = _top_level(lines)
    left = dict(values)
    for index, line in enumerate(lines[:end]):
        name = _name_in(line)
        if name in left:
            lines[index] = f"{name} = {_toml(left.pop(name))}"
    added = [f"{name} = {_toml(value)}" for name, value in left.items()]
    # Behind a table's heading a line would belong to the table.
    return "\n".join([*lines[:end], *added, *lines[end:]]) + "\n"


def _toml(value: str | int | float) -> str:
    # What JSON writes is TOML, too, but for the pairs of escapes by which it would spell out an emoji.
    return json.dumps(value, ensure_ascii=False)


def _without(text: str, names: Collection[str]) -> str:
    lines = text.splitlines()
    end = _top_level(lines)
    return "\n".join([line for line in lines[:end] if _name_in(line) not in names] + lines[end:]) + "\n"


def _top_level(lines: Sequence[str]) -> int:
    """Return how many lines stand before the first table."""
    return next((index for index, line in enumerate(lines) if _TABLE.match(line)), len(lines))


def _name_in(line: str) -> str | None:
    name, sign, _ = line.partition("=")
    return name.strip().strip("\"'") if sign else None
