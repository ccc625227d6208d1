"""The ``crynux-async`` command. Nothing below imports it.

``app`` names every command. A file ``*_commands`` says what commands can be given; it is loaded when one of them is
called, and what that does only then. A file is named after the noun that its commands are about: ``run``, ``jobs``,
``dataset``, ``archive``, ``check``, ``emulator``, ``bridge*``. What they share: ``exits`` (errors and exit codes),
``signals``, ``streams``, ``console`` (how texts from outside are printed), ``board`` (what is seen while jobs run),
``plain`` and ``listing``, ``job_names``, ``ledger_reading``, ``ledger_place``, ``changes``, ``units``, ``plot``.
"""

import signal
import sys

from crynux_async.cli.signals import end_on_sigterm, exit_code, leave_signals_alone
from crynux_async.cli.streams import prepare_streams


def main() -> None:
    """Run the command line, or say what is missing to run it."""
    end_on_sigterm()
    prepare_streams()
    try:
        _start()
    except KeyboardInterrupt:  # while the command itself was being loaded
        sys.exit(exit_code(signal.SIGINT))
    finally:
        leave_signals_alone()


def _start() -> None:
    try:
        from crynux_async.cli.app import start
    except ModuleNotFoundError as error:
        if error.name not in ("cyclopts", "rich"):
            raise
        sys.exit(f"the command line needs {error.name}: pip install 'crynux-async[cli]'")
    start()
