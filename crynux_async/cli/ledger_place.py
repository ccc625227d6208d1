"""Where the command line remembers jobs."""

import os
from pathlib import Path


def ledger_path(asked: Path | None) -> Path:
    """Return where the command line remembers jobs: ``--ledger``, ``CRYNUX_LEDGER``, or the user's data folder."""
    if asked is not None:
        return asked
    if os.environ.get("CRYNUX_LEDGER", "").strip():
        return Path(os.environ["CRYNUX_LEDGER"].strip()).expanduser()
    data = os.environ.get("XDG_DATA_HOME", "").strip() or "~/.local/share"
    path = Path(data).expanduser() / "crynux-async" / "jobs.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
