"""Where files of a user are that no setting names."""

import os
from pathlib import Path

from crynux_async.errors import Problem, SettingsError


def user_path(below_home: str, instead: str) -> Path:
    """Return a path in the home of the user.

    Args:
        below_home: Where in it.
        instead: The variable that could name another place.

    Raises:
        SettingsError: The user has no home.
    """
    # Where HOME is unset the system is asked; where it is blank, "~/x" would mean "/x".
    has_home = "HOME" not in os.environ or os.environ["HOME"].strip()
    path = os.path.expanduser(f"~/{below_home}") if has_home else ""
    if not os.path.isabs(path):
        message = f"is empty or unknown, so nobody knows where your files are; set it, or {instead} to a place of yours"
        raise SettingsError([Problem(field="HOME", message=message)])
    return Path(path)
