"""The ``crynux-async`` command."""

import sys


def main() -> None:
    """Run the command line, or say what is missing to run it."""
    try:
        from crynux_async.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("cyclopts", "rich"):
            raise
        sys.exit(f"the command line needs {error.name}: pip install 'crynux-async[cli]'")
    app()
