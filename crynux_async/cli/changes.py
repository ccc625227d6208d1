"""``--set field=value``: what a command line changes in a config."""

import tomllib
from collections.abc import Sequence
from typing import Any

from crynux_async.errors import ConfigError, Problem


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Return what ``--set field=value`` asks for; values are TOML, and plain text where they are not.

    Raises:
        ConfigError: Something is not of that form.
    """
    problems = [Problem(field=change, message="must be field=value") for change in changes if "=" not in change]
    if problems:
        raise ConfigError(problems, what="--set cannot be understood")
    pairs = (change.partition("=") for change in changes)
    return {field.strip(): _value(text.strip()) for field, _, text in pairs}


def _value(text: str) -> Any:
    # TOML has no word for nothing.
    if text.lower() in ("none", "null"):
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    # Words that people type: "cosine" without quotes is no TOML, and is meant as text.
    except tomllib.TOMLDecodeError:
        return text
