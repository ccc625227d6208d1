"""Where the command line remembers jobs."""

import os
from pathlib import Path

from crynux_async.errors import UsageError
from crynux_async.settings import user_path


def ledger_path(asked: Path | None) -> Path:
    """Return where the command line remembers jobs: ``--ledger``, ``CRYNUX_LEDGER``, or the user's data folder.

    Raises:
        SettingsError: The user has no home.
        UsageError: The data folder cannot be made.
    """
    if asked is not None:
        return asked
    if os.environ.get("CRYNUX_LEDGER", "").strip():
        return Path(os.path.expanduser(os.environ["CRYNUX_LEDGER"].strip()))
    data = os.environ.get("XDG_DATA_HOME", "").strip()
    folder = Path(os.path.expanduser(data)) if data else user_path(".local/share", "CRYNUX_LEDGER")
    path = folder / "crynux-async" / "jobs.db"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{path.parent} cannot be made ({error.strerror}); set CRYNUX_LEDGER", field="ledger"
        ) from error
    return path
